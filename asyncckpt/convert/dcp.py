"""DCP: folders of ``torch.distributed.checkpoint``, written for its `load`, and read without running what is in them.

Its metadata are a pickle, and so is every value that is no tensor: here only classes are found in them that are of DCP
itself and hold data.
"""

from __future__ import annotations

import inspect
import io
import os
import pickle
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import distributed
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from asyncckpt.convert.place import Place
from asyncckpt.convert.torch_file import loaded, refusal
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError, StorageDenied, UnsupportedState

_DATA = {
    *((metadata.__name__, name) for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )),
    (filesystem.__name__, "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")),
}  # fmt: skip
"""What a `.metadata` may be made of, beside dtypes."""


_ALONE: dict[str, Any] = {"no_dist": True} if "no_dist" in inspect.signature(save).parameters else {}
"""What says that there are no other ranks; torch 2.6 takes that from whether there is a process group."""


def write(state: Mapping[str, Any], place: Place) -> None:
    """Save `state`, nested dicts of tensors and plain values, into the folder that `place` is; raises `OSError`, and
    `UnsupportedState` for two keys that DCP gives one name.
    """
    writer = filesystem.FileSystemWriter(place.hidden)
    writer.fs = _Files(place)
    try:
        with _alone():
            save(dict(state), storage_writer=writer, **_ALONE)
    except CheckpointException as wrapped:  # no Exception, so that nobody else catches it
        error = _inside(wrapped)
        if isinstance(error, ValueError) and "duplicated" in str(error):
            said = f"in DCP two values would have one name ({error}): leave one out with --only"
            raise UnsupportedState(said) from error
        raise error from None


def read(folder: Path) -> dict[str, Any]:
    """The nested state in a folder, put together from the parts of all ranks.

    Raises `UnsupportedState`, naming the class, for what takes code to read, `CheckpointCorruptError`, and
    `StorageDenied`.
    """
    reader = _Reader(folder)
    try:
        said = reader.read_metadata()
        flat = _room(said, str(folder))
        with _alone():
            load(flat, storage_reader=reader, planner=_Planner(str(folder)), **_ALONE)
        return _nested(flat, said.planner_data or {})
    except AsyncCkptError:
        raise
    except (Exception, CheckpointException) as error:
        raise _cause(error, folder) from error


@contextmanager
def _alone() -> Iterator[None]:
    """DCP warns whoever uses it in one process, which is what is meant here."""
    if not _ALONE and distributed.is_available() and distributed.is_initialized():
        raise UnsupportedState(
            f"torch {torch.__version__} writes and reads folders of DCP with all ranks of a process group: do it in a "
            "process without one, or with a newer torch"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is (disabled|unavailable)", UserWarning)
        yield


def _inside(error: BaseException) -> BaseException:
    """What DCP has wrapped, on the one rank that there is."""
    if isinstance(error, CheckpointException) and error.failures:
        return next(iter(error.failures.values()))[0]
    return error


def _cause(error: BaseException, folder: Path) -> AsyncCkptError:
    """What went wrong in a load, out of what DCP wraps it in: a refusal of ours or of torch's, or damage."""
    error = _inside(error)
    match error:
        case AsyncCkptError():
            return error
        case pickle.UnpicklingError():
            return refusal(str(folder), error)
        case FileNotFoundError():
            return CheckpointCorruptError(f"{error.filename or folder} is missing", "missing")
        case OSError():
            return StorageDenied(error.errno, f"{folder} cannot be read: {error.strerror or error}")
    said = str(error).partition("\n")[0]
    return CheckpointCorruptError(f"{folder} is no sound checkpoint of DCP: {type(error).__name__}: {said}")


class _Files(filesystem.FileSystem):
    """Writes the files of a place."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        """A new file."""
        with self._place.file(Path(path)) as file:
            yield file


class _Unpickler(pickle.Unpickler):
    """Finds the classes of a `.metadata`, and no others."""

    def __init__(self, file: IO[bytes], what: str) -> None:
        super().__init__(file)
        self._what = what

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _DATA or (module == "torch" and isinstance(vars(torch).get(name), torch.dtype)):
            return super().find_class(module, name)
        raise refusal(self._what, pickle.UnpicklingError(f"GLOBAL {module}.{name}"))


class _Reader(filesystem.FileSystemReader):
    """Reads data alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        path = self._folder / ".metadata"
        with path.open("rb") as file:
            try:
                found = _Unpickler(file, str(path)).load()
            except (AsyncCkptError, OSError):
                raise
            except Exception as error:  # a pickle that is damaged may raise anything
                raise CheckpointCorruptError(f"{path} is damaged: {type(error).__name__}: {error}") from error
        if not isinstance(found, metadata.Metadata):
            raise CheckpointCorruptError(f"{path} holds a {type(found).__name__}, and no metadata of DCP")
        self._check_inside(found)
        found.storage_meta = found.storage_meta or metadata.StorageMeta()
        return found

    def _check_inside(self, found: metadata.Metadata) -> None:
        for info in (found.storage_data or {}).values():
            if os.path.basename(info.relative_path) != info.relative_path:
                raise CheckpointCorruptError(f"{self._folder / '.metadata'} names {info.relative_path}, outside of it")


class _Planner(DefaultLoadPlanner):
    """Puts everything under the flat names that it was saved by."""

    def __init__(self, what: str) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._what = what

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        try:
            self.state_dict[name] = loaded(value)
        except pickle.UnpicklingError as error:
            raise refusal(f"{self._what} ({name})", error) from None


def _room(said: metadata.Metadata, what: str) -> dict[str, Any]:
    """Memory for all that is there; values that are no tensors have nothing yet."""
    made: dict[str, Any] = {}
    for name, entry in said.state_dict_metadata.items():
        match entry:
            case metadata.TensorStorageMetadata():
                made[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
            case metadata.BytesStorageMetadata():
                made[name] = io.BytesIO()
            case _:
                raise CheckpointCorruptError(f"{what}: {name} is neither a tensor nor a value")
    return made


class _Level(dict[str | int, Any]):
    """A container on the way to a value, which no value is."""


def _nested(flat: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]]) -> dict[str, Any]:
    """`flat` as it was nested: numbers in a path are places in a list."""
    root = _Level()
    for name, value in flat.items():
        *above, last = paths.get(name, (name,))
        at = root
        for part in above:
            at = at.setdefault(part, _Level())
        at[last] = value
    return {str(name): _closed(value) for name, value in root.items()}


def _closed(value: Any) -> Any:
    if not isinstance(value, _Level):
        return value
    if all(isinstance(name, int) for name in value):
        return [_closed(value[number]) for number in sorted(value)]
    return {name: _closed(item) for name, item in value.items()}
