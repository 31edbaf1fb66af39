"""Guard: what a root holds already, looked at before anything is made there.

A start that was not told to go on must find nothing of a run. Files of other kinds (a job's output, a note) are none
of its business and stay as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import CheckpointDirectoryExistsError
from asyncckpt.format import names
from asyncckpt.run import identity
from asyncckpt.run.files import got
from asyncckpt.run.identity import Identity
from asyncckpt.storage.base import Storage

OWN = re.compile(
    r"identity\.json|history\.json|config(-\d+)?\.(yml|toml|txt|json|original\.json)(\.zst)?(\.enc)?"
    r"|hyperparameters\.json|model_summary\.txt|results\.json|wandb_info\.json|(logs/)?(metrics|checkpoints)[a-z0-9._-]*\.jsonl|logs/training_[a-z0-9._-]+"
)
"""The keys of what this package writes beside checkpoints."""

_TOPS = ("checkpoints.", "config", "history", "hyper", "logs/", "metrics", "model_summary", "results", "wandb_info")


@dataclass(frozen=True, slots=True)
class Held:
    """What a root holds of a run: its identity, whether there ever was a checkpoint, and files beside those."""

    identity: Identity | None
    has_begun: bool
    files: tuple[str, ...]

    @property
    def is_nothing(self) -> bool:
        """Whether a new run may begin here."""
        return self.identity is None and not self.has_begun and not self.files


async def look(storage: Storage) -> Held:
    """What is there; reads only. Raises `StorageError` for a root that cannot be read, which is not an empty one."""
    data = await got(storage, identity.KEY)
    found = None if data is None else identity.decode(data, f"{storage.url}/{identity.KEY}")
    files = [info.key for top in _TOPS async for info in storage.list(top) if OWN.fullmatch(info.key)]
    return Held(found, await _has_begun(storage), tuple(files))


async def _has_begun(storage: Storage) -> bool:
    if await Catalog(storage).run() is not None:
        return True
    async for info in storage.list(names.DATA):
        if names.directory_of(info.key) is not None:
            return True
    return False


def refusal(url: str, held: Held) -> CheckpointDirectoryExistsError:
    """The error for a new run where there is one."""
    if held.identity is not None:
        what = f"the run {held.identity.id}"
    else:
        what = "checkpoints" if held.has_begun else f"what a run has left ({', '.join(held.files[:3])})"
    return CheckpointDirectoryExistsError(
        f"{url} holds {what}, and nothing was changed. Either (1) give this run another root, (2) go on with it: "
        'mode="resume", or checkpoint.resume in the configuration ("auto" goes on where there is one), or (3) delete '
        'it, or have mode="overwrite" replace it.'
    )
