"""Project: the folder that a person works in, found and looked at."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from asyncckpt.errors import ConfigurationError
from asyncckpt.folders import ensure_directories_exist

MARKERS = (".git", "pyproject.toml", "setup.py")
"""What lies in the root of a project."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What is wrong with the folders of a project; true where nothing is."""

    issues: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.issues


def get_project_root(start: str | os.PathLike[str] | None = None, markers: Collection[str] = MARKERS) -> Path:
    """The nearest folder from `start`, by default where we are, upwards that holds one of `markers`.

    Raises `ConfigurationError` where none does.
    """
    begin = Path(start) if start is not None else Path.cwd()
    for folder in (begin.resolve(), *begin.resolve().parents):
        if any((folder / marker).exists() for marker in markers):
            return folder
    raise ConfigurationError(f"no folder from {begin} upwards holds {' or '.join(markers)}: it is in no project")


def validate_project_structure(root: str | os.PathLike[str], config_dir: str = "configs") -> Structure:
    """Whether trainings can be launched from `root`; `Structure.issues` says what is in the way. Changes nothing."""
    folder = Path(root)
    if not folder.is_dir():
        return Structure((f"{folder} is no folder" if folder.exists() else f"{folder} is not there",))
    issues = []
    if not os.access(folder, os.W_OK):
        issues.append(f"{folder} cannot be written to, and outputs go there")
    if not (folder / config_dir).is_dir():
        issues.append(f"{folder / config_dir} is not there, and configurations are looked for there")
    return Structure(tuple(issues))


def ensure_directory_exists(path: str | os.PathLike[str]) -> Path:
    """The folder at `path`, made with those above it where it is not there; errors are `ensure_directories_exist`'s."""
    ensure_directories_exist(path)
    return Path(path)
