"""Sources: what lies at a path that is to be imported, told by its names and its first bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from asyncckpt.convert.huggingface import CONFIG, INDEX
from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat

Kind: TypeAlias = Literal["torch", "safetensors", "dcp", "hf", "lightning"]

METADATA = ".metadata"
"""What makes a folder one of ``torch.distributed.checkpoint``."""

STATE = "trainer_state.json"
"""What Hugging Face's trainer writes last: the step, and what it has logged."""

DOCUMENTS = (CONFIG, "generation_config.json", STATE)
"""What is JSON, and kept beside the weights."""

PICKLED = ("optimizer.pt", "scheduler.pt", "scaler.pt")
"""What lies beside the weights of a training."""

ACCELERATE = "random_states_*.pkl"
"""What each process of Accelerate's leaves, and tells its folder from others."""

ACCELERATED = ("optimizer.bin", "scheduler.bin", "scaler.pt")
"""What `PICKLED` are called by Accelerate; elsewhere ``optimizer.bin`` is of FSDP, by the parameters' names."""

LEFT = ("rng_state*.pth", "training_args.bin", "optimizer*.bin", "scheduler_*.bin", "sampler*.bin", ACCELERATE)
"""What is not taken over."""

_BIN = "pytorch_model.bin"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of Hugging Face's: its files of weights by name, of JSON documents what they say, and others."""

    weights: Mapping[str, Path]
    is_pickled: bool = False
    """Whether the weights are files of ``torch.save``."""
    documents: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Path] = field(default_factory=dict)
    """By part of the state: ``optimizer``."""
    left: tuple[str, ...] = ()
    """Files that are not taken over."""


def kind_of(path: Path) -> Kind:
    """What lies at `path`; raises `UnsupportedFormat` for what is none of these."""
    if path.is_dir():
        if (path / METADATA).is_file():
            return "dcp"
        if any(path.glob("*.safetensors")) or any(path.glob(f"{_BIN}*")):
            return "hf"
        raise UnsupportedFormat(
            f"{path} holds neither {METADATA} (torch.distributed.checkpoint) nor model.safetensors or {_BIN} (Hugging "
            "Face): name the file or the folder that does"
        )
    with path.open("rb") as file:
        first = file.read(9)
    if first[8:9] == b"{" and not first.startswith((b"PK", b"\x80")):
        return "safetensors"
    if path.suffix == ".safetensors":
        return "safetensors"
    if first.startswith((b"PK", b"\x80")):
        return "torch"
    raise UnsupportedFormat(
        f"{path} is neither a file of torch.save nor one of safetensors: if it is compressed or encrypted, unpack it "
        "before"
    )


def folder(path: Path) -> Folder:
    """What of Hugging Face's lies in the folder at `path`.

    Raises `CheckpointCorruptError` for an index that is none or names what is not there, and `UnsupportedFormat` where
    there are no weights.
    """
    weights, is_pickled = _weights(path)
    documents = {
        name: _json(path / name) for name in (CONFIG, "generation_config.json", STATE) if (path / name).exists()
    }
    names = ACCELERATED if any(path.glob(ACCELERATE)) else PICKLED
    parts = {Path(name).stem: path / name for name in names if (path / name).exists()}
    left = [found.name for pattern in LEFT for found in sorted(path.glob(pattern)) if found not in parts.values()]
    return Folder(weights, is_pickled, documents, parts, tuple(left))


def _weights(path: Path) -> tuple[dict[str, Path], bool]:
    for single, index, is_pickled in (("model.safetensors", INDEX, False), (_BIN, f"{_BIN}.index.json", True)):
        if (path / index).exists():
            return _indexed(path, index), is_pickled
        if (path / single).exists():
            return {f"{path / single}": path / single}, is_pickled
    others = sorted(path.glob("*.safetensors"))
    if len(others) != 1:
        raise UnsupportedFormat(f"{path} has no {INDEX} that says which of its files belong together: name one file")
    return {f"{others[0]}": others[0]}, False


def _indexed(path: Path, index: str) -> dict[str, Path]:
    where = _json(path / index).get("weight_map")
    names = sorted(set(where.values())) if isinstance(where, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise CheckpointCorruptError(f"{path / index} has no weight_map that names files beside it")
    for name in names:
        if not (path / name).is_file():
            raise CheckpointCorruptError(f"{path / name} is missing, which {index} names", "missing")
    return {f"{path / name}": path / name for name in names}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointCorruptError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointCorruptError(f"{path} is no JSON object")
    return found
