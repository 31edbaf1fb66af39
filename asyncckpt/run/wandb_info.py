"""W&B info: ``wandb_info.json``, which W&B run goes with this run, so that one is found from the other."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from typing import Any

from asyncckpt.errors import AsyncCkptError
from asyncckpt.run.files import Files
from asyncckpt.run.identity import encoded
from asyncckpt.trackers.under_way import owner_of

logger = logging.getLogger("asyncckpt")

KEY = "wandb_info.json"

_FIELDS = {"run_id": "id", "run_name": "name", "run_url": "url", "project": "project", "entity": "entity"}


def save_wandb_info(files: Files, own: str, source: object = None, said: set[str] | None = None) -> bool:
    """Write down the W&B run that `source` is or holds, by default the one under way; True if there was one.

    `own` is the id of the run that it is written down for: what a tracker has begun for another is not its.
    `source` may be a run of W&B, an Accelerator, or one of its trackers. Earlier runs that were written down are kept
    under ``earlier``. What fails is a warning, but for one that was `said` before: a run asks several times. Without
    W&B nothing happens.
    """
    said = set() if said is None else said
    try:
        run = _run_of(source, own)
        if run is None:
            return False
        info = {name: _field(run, attribute, said) for name, attribute in _FIELDS.items()}
        if info["run_id"] is None:
            return False
        _write(files, info)
    except (AsyncCkptError, RuntimeError) as error:
        _warn(f"{KEY} could not be written: {error}", said)
        return False
    except Exception as error:  # whatever a tracker's attributes do is no reason to stop a training
        _warn(f"what W&B run this is could not be found out: {error!r}", said)
        return False
    return True


def _run_of(source: object, own: str) -> Any:
    """The W&B run in `source`; only what the user has imported is looked at."""
    if source is None:
        active = getattr(sys.modules.get("wandb"), "run", None)
        return active if owner_of(active) in (None, own) else None
    for tracker in getattr(source, "trackers", None) or ():
        if getattr(tracker, "name", None) == "wandb":
            return getattr(tracker, "tracker", None) or getattr(tracker, "run", None)
    if hasattr(source, "trackers"):
        return None
    return getattr(source, "tracker", None) or source


def _field(run: object, attribute: str, said: set[str]) -> str | None:
    """None for what the run does not have (offline it has no address), and for what it fails to say."""
    try:
        value = getattr(run, attribute, None)
    except Exception as error:
        _warn(f"W&B does not say the {attribute} of its run: {error!r}", said)
        return None
    return value if isinstance(value, str) and value else None


def _warn(message: str, said: set[str]) -> None:
    if message not in said:
        said.add(message)
        logger.warning("%s", message)


def _write(files: Files, info: dict[str, str | None]) -> None:
    former = _read(files)
    earlier = former.pop("earlier", [])
    if former.get("run_id") not in (None, info["run_id"]):
        earlier = [*earlier, former]
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    written: dict[str, Any] = {**info, "timestamp": now}
    files.put(KEY, encoded({**written, "earlier": earlier} if earlier else written))


def _read(files: Files) -> dict[str, Any]:
    try:
        found = json.loads(files.get(KEY) or b"{}")
    except ValueError:
        logger.warning("%s was damaged, and is written anew", KEY)
        return {}
    return found if isinstance(found, dict) else {}
