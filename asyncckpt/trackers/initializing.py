"""Initializing W&B for a script that uses it by itself: whether that worked, and never an exception or a wait."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping
from typing import Any

from asyncckpt.configuration.plain import masked
from asyncckpt.tallies import TALLIES
from asyncckpt.trackers.base import needed
from asyncckpt.trackers.credentials import check_login, unless_in_environment, wandb_id
from asyncckpt.trackers.telling import tell
from asyncckpt.trackers.wandb import PROJECT

logger = logging.getLogger("asyncckpt")

TIMEOUT = 60.0

_lock = threading.Lock()


def initialize_wandb(
    run_name: str,
    run_artifact_dir: str | os.PathLike[str],
    project_name: str = PROJECT,
    *,
    config: Mapping[str, Any] | None = None,
    timeout: float = TIMEOUT,
) -> bool:
    """Begin or resume the W&B run `run_name`; whether it is active now. Repeating that does nothing more.

    Its id is `run_name`, in letters that W&B takes, its project is `project_name`, and its files lie in
    `run_artifact_dir`. What the environment says comes first. Either is said, at INFO or as a
    warning, on stderr where no logging is configured. Whatever goes wrong is one line in the log and False: no package,
    no API key (nobody is asked for one), no answer within `timeout` seconds, or another run that is active in this
    process.
    """
    with _lock:
        attempt = _Attempt(run_name, os.fspath(run_artifact_dir), project_name, config)
        attempt.start()
        return attempt.outcome(timeout)


async def initialize_wandb_async(
    run_name: str,
    run_artifact_dir: str | os.PathLike[str],
    project_name: str = PROJECT,
    *,
    config: Mapping[str, Any] | None = None,
) -> bool:
    """`initialize_wandb` of `run_name`, `run_artifact_dir`, `project_name` and `config`, on an event loop that goes on
    meanwhile.
    """
    return await asyncio.to_thread(initialize_wandb, run_name, run_artifact_dir, project_name, config=config)


class _Attempt:
    def __init__(self, run_name: str, folder: str, project: str, config: Mapping[str, Any] | None) -> None:
        self._run_name = run_name
        self._folder = folder
        self._project = project
        self._config = config
        self._thread = threading.Thread(target=self._run, name="asyncckpt-wandb-init", daemon=True)
        self._lock = threading.Lock()
        self._is_given_up = False
        self._problem: str | None = None
        self._is_over = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def outcome(self, timeout: float) -> bool:
        self._is_over.wait(timeout)
        with self._lock:
            if not self._is_over.is_set():
                self._is_given_up = True
                self._problem = f"no answer within {timeout:g} s"
        TALLIES.add("tracker_taken" if self._problem is None else "tracker_failed", "wandb")
        if self._problem is not None:
            logger.warning("W&B is not used for %s: %s; training goes on", self._run_name, self._problem)
            return False
        tell("W&B is used for %s", self._run_name)
        return True

    def _run(self) -> None:
        run = None
        try:
            run = self._begin()
        except BaseException as error:  # W&B has been seen to raise anything, a SystemExit too
            text = str(error).strip().splitlines()
            self._problem = text[0] if text else type(error).__name__
        with self._lock:
            self._is_over.set()
            is_late = self._is_given_up
        if is_late and run is not None:
            run.finish()  # it was said that there is none

    def _begin(self) -> Any:
        """The run that was begun here, or None where it is active already."""
        wandb = needed("wandb", "wandb", "W&B")
        wanted = unless_in_environment(
            {
                "id": wandb_id(self._run_name),
                "name": self._run_name,
                "project": self._project,
                "dir": self._folder,
                "resume": "allow",
                "config": None if self._config is None else masked(self._config),
            }
        )
        if wandb.run is not None:
            expected = wanted.get("id", wandb.run.id)
            if wandb.run.id != expected and not wandb.run.sweep_id:
                raise RuntimeError(f"the run {wandb.run.id} is active in this process: finish it first")
            return None
        check_login(wandb)
        return wandb.init(**wanted)
