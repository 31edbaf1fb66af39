"""Credentials: how W&B is begun so that the environment decides, nobody is asked, and two runs are never one."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

from asyncckpt.trackers.base import TrackerUnavailable

_REFUSED = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST = 100

_VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "id": "WANDB_RUN_ID",
    "name": "WANDB_NAME",
    "dir": "WANDB_DIR",
    "group": "WANDB_RUN_GROUP",
    "resume": "WANDB_RESUME",
    "tags": "WANDB_TAGS",
}


def wandb_id(name: str) -> str:
    """`name` as a W&B run id. One that W&B would refuse gets a few letters of its digest, so that no two are one."""
    plain = _REFUSED.sub("-", name).strip("-.")[:_LONGEST]
    if plain and plain == name:
        return plain
    return "-".join([*filter(None, [plain]), hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]])


def unless_in_environment(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` of ``wandb.init`` without those that are not given, or that the environment has an own idea of."""
    return {
        name: value
        for name, value in arguments.items()
        if value is not None and not os.environ.get(_VARIABLES.get(name, ""), "")
    }


def check_login(wandb: Any) -> None:
    """Raise `TrackerUnavailable` where ``wandb.init`` would ask a person for an API key."""
    settings = wandb.setup().settings
    if settings.mode in ("offline", "dryrun", "disabled"):
        return
    if not wandb.login(prompt=False, verify=False):
        raise TrackerUnavailable(
            "W&B has no API key: set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline and sync later"
        )
