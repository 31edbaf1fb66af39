"""Torch file: what ``torch.save`` wrote, read without running anything of it, and what ``torch.load`` shall read."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from asyncckpt.convert.place import Place
from asyncckpt.errors import CheckpointCorruptError, StorageDenied, UnsupportedState

_NAMED = re.compile(r"GLOBAL ([\w.]+)|got <class '([\w.]+)'>")
_WHY = re.compile(r"WeightsUnpickler error: (.+)")


def read(path: Path) -> Any:
    """What is in the file; tensors stay on the disk until they are looked at, where that can be.

    Raises `UnsupportedState`, naming the class, for what takes code to read, `CheckpointCorruptError`, and
    `StorageDenied`.
    """
    try:
        return loaded(path, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise refusal(str(path), error) from None
    except OSError as error:
        raise StorageDenied(error.errno, f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises whatever its parser meets
        if "TorchScript" in str(error):
            raise UnsupportedState(
                f"{path} is a TorchScript program, which runs when it is read: torch.save its state_dict(), import that"
            ) from None
        raise CheckpointCorruptError(f"{path} is no sound file of torch.save: {_first_line(error)}") from error


def loaded(file: Path | IO[bytes], *, mmap: bool = False) -> Any:
    """What ``torch.load`` gives of data alone; it may raise anything, `UnpicklingError` for what is more than that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def refusal(what: str, error: Exception) -> UnsupportedState:
    """The error for a pickle in `what` that holds more than data."""
    found = _NAMED.search(str(error))
    held = f"a {found[1] or found[2]}" if found else f"what is no plain data ({_first_line(error)})"
    return UnsupportedState(
        f"{what} holds {held}, and to read that would run code from the file, which is never done here. Where you "
        "trust it: torch.load it with weights_only=False where that class is at home, torch.save its state_dicts and "
        "plain values, and import that"
    )


def _first_line(error: Exception) -> str:
    said = str(error).strip()
    found = _WHY.search(said)
    return (found[1] if found else said.partition("\n")[0]) or type(error).__name__


def write(state: Mapping[str, Any], place: Place) -> None:
    """Save `state`, all of it plain, in `place`, and see that ``torch.load(weights_only=True)`` takes it; raises
    `OSError`.
    """
    with place.file(place.hidden) as file:
        torch.save(dict(state), file)
    read(place.hidden)
