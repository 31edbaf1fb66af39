"""Run: all that says what a checkpoint is worth: which experiment, with which settings, by which code, on what.

::

    runs/first/
        readme.md               what all of this is, for whoever opens the folder
        identity.json           id, name, code version, every start
        config.yml              the configuration file, byte for byte; config-2.yml, ... where a start had another
        config.json             what it says, secrets masked; model, data, hardware, code version
        hyperparameters.json    the few numbers that people ask for first
        model_summary.txt       the model and its parameters
        logs/training_20261129_101500.log    what the console showed; training_resume_1_... of the next start
        results.json            what came of it, see `Run.save_results`
        wandb_info.json         which W&B run it is, if any
        run.json commits/ data/ user/        the checkpoints: see ``asyncckpt.format``
"""

from __future__ import annotations

from asyncckpt.folders import ensure_directories_exist, ensure_directories_exist_async
from asyncckpt.revision import CodeVersion, code_version
from asyncckpt.run.foreign import find_latest_checkpoint, find_latest_checkpoint_async
from asyncckpt.run.json_file import (
    iterate_config_in_json,
    iterate_config_in_json_async,
    load_config_from_json,
    load_config_from_json_async,
    save_config_to_json,
    save_config_to_json_async,
)
from asyncckpt.run.results import load_config, load_results
from asyncckpt.run.run import Run
from asyncckpt.run.seeding import set_seed
from asyncckpt.run.typed import ConfigurationInvalid

__all__ = [
    "CodeVersion",
    "ConfigurationInvalid",
    "Run",
    "code_version",
    "ensure_directories_exist",
    "ensure_directories_exist_async",
    "find_latest_checkpoint",
    "find_latest_checkpoint_async",
    "iterate_config_in_json",
    "iterate_config_in_json_async",
    "load_config",
    "load_config_from_json",
    "load_config_from_json_async",
    "load_results",
    "save_config_to_json",
    "save_config_to_json_async",
    "set_seed",
]
