"""Readme: what a run's folder says to somebody who opens it in a file browser and knows nothing of this package."""

from __future__ import annotations

from contextlib import suppress

from asyncckpt.errors import ObjectExists
from asyncckpt.storage.base import Storage

KEY = "readme.md"

TEXT = """# A training run

This folder was written by asyncckpt: text, pictures, and tensors as safetensors files, which many tools open. Nothing
is pickled. Look at it with

    asyncckpt report .        what was trained, on what, and what came of it; --output report.html for a page
    asyncckpt ls .            the checkpoints
    asyncckpt verify .        whether every byte of them is sound
    python -c "import asyncckpt; print(asyncckpt.load('.').state.keys())"

| here | is |
|---|---|
| identity.json | which run this is, by which code, and every start of it |
| config.json | its configuration, secrets masked; the model, the data, the machine |
| *.zst, *.enc | the same, compressed by zstd, and encrypted for asyncckpt.run.load_config |
| config.yml, config.toml | the configuration file, byte for byte; config-2, config-3: of later starts |
| hyperparameters.json, model_summary.txt | in short, and the model layer by layer |
| results.json | what came of it; not there before that |
| wandb_info.json | which W&B run it is |
| logs/ | what the console showed, one file for each start; metrics.jsonl, checkpoints.jsonl: one JSON object per line |
| plots/, events.out.tfevents.* | pictures of curves, named by what and when; what TensorBoard reads |
| history.json | the checkpoints there are, for other programs |
| data/ | a folder for each checkpoint, NUMBER-step-STEP-...: tensors (*.safetensors) and the rest (manifest.json) |
| commits/, run.json | which of those there are: a folder in data/ that is not recorded here is no checkpoint |
| user/ | pins, tags, and what was found damaged |
| latest, best, checkpoints/ | which are the latest and the best: hints and links for people |

Do not delete, move or change anything in data/ and commits/ by hand: `asyncckpt prune .` removes checkpoints. The
folder as a whole may be copied and moved.
"""


async def left(storage: Storage) -> None:
    """Leave it there once; one that is there already, the user's own maybe, stays. Raises `StorageError`."""
    with suppress(ObjectExists):
        await storage.put(KEY, [TEXT.encode()], mode="create")
