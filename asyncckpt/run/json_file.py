"""JSON file: a configuration in a file of its own, outside of any run; compressed or encrypted if its name says so.

Neither writing nor reading one takes more memory than its largest part: what is written goes out piece by piece, and
`iterate_config_in_json` reads one item of a long list at a time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar, overload

from asyncckpt.configuration.plain import Plain, is_object
from asyncckpt.configuration.reading import Source, configuration
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError
from asyncckpt.extras import imported
from asyncckpt.format.codec import Codec
from asyncckpt.format.coded_file import SUFFIXES, codec_for, opened, stored
from asyncckpt.run.typed import fitted
from asyncckpt.tallies import TALLIES

logger = logging.getLogger("asyncckpt")

_C = TypeVar("_C")


class _Cancelled(Exception):
    """Nobody wants the file any more."""


def save_config_to_json(config: Source, path: str | os.PathLike[str], *, compress_above: int | None = None) -> bool:
    """Write `config`, secrets masked, to the JSON file at `path`, whole or not at all; folders are made.

    A `path` that ends with ``.zst`` is compressed (extra ``zstd``); one that ends with ``.enc`` is encrypted (extra
    ``crypto``, and a key: `asyncckpt.keys`), and holds secrets as they are. A plain one of more than `compress_above`
    bytes becomes ``path.zst``, which is read under either name. What goes wrong is a warning and False: no training
    stops for that, and a file that was there stays as it was.
    """
    return _save(config, Path(path), compress_above, threading.Event())


async def save_config_to_json_async(
    config: Source, path: str | os.PathLike[str], *, compress_above: int | None = None
) -> bool:
    """`save_config_to_json`, `compress_above` too, on an event loop that goes on meanwhile.

    Cancelled, it leaves nothing behind.
    """
    cancelled = threading.Event()
    saving = asyncio.ensure_future(asyncio.to_thread(_save, config, Path(path), compress_above, cancelled))
    try:
        return await asyncio.shield(saving)
    except asyncio.CancelledError:
        cancelled.set()
        await asyncio.wait([saving])
        raise


@overload
def load_config_from_json(path: str | os.PathLike[str]) -> Any: ...


@overload
def load_config_from_json(path: str | os.PathLike[str], into: type[_C]) -> _C: ...


def load_config_from_json(path: str | os.PathLike[str], into: type[Any] | None = None) -> Any:
    """What the JSON file at `path` says, or the one beside it with ``.zst`` or ``.enc`` behind its name.

    With `into`, a dataclass, one of those: see `asyncckpt.run.typed`, which raises `ConfigurationInvalid`, naming every
    field that is unknown, missing or of another type. Raises `FileNotFoundError`, `OSError`, `KeyUnavailable`, and
    `CheckpointCorruptError` for what is no JSON, was cut or was changed.
    """
    return _load(Path(path), into)


@overload
async def load_config_from_json_async(path: str | os.PathLike[str]) -> Any: ...


@overload
async def load_config_from_json_async(path: str | os.PathLike[str], into: type[_C]) -> _C: ...


async def load_config_from_json_async(path: str | os.PathLike[str], into: type[Any] | None = None) -> Any:
    """`load_config_from_json` of `path` and `into`, on an event loop that goes on meanwhile."""
    return await asyncio.to_thread(_load, Path(path), into)


def iterate_config_in_json(path: str | os.PathLike[str], where: str) -> Generator[Any, None, None]:
    """The items of the list at the dotted `where` in the JSON file at `path`, one at a time (extra ``json``).

    An empty `where` is the whole file. Raises as `load_config_from_json` does.
    """
    ijson = imported("ijson", "json", "reading JSON item by item needs ijson", AsyncCkptError)
    with _reading(_found(Path(path)), ijson.JSONError) as file:
        yield from ijson.items(file, f"{where}.item" if where else "item", use_float=True)


async def iterate_config_in_json_async(path: str | os.PathLike[str], where: str) -> AsyncIterator[Any]:
    """`iterate_config_in_json` of `path` and `where`, on an event loop that goes on meanwhile."""
    items, end = iterate_config_in_json(path, where), object()
    try:
        while (item := await asyncio.to_thread(next, items, end)) is not end:
            yield item
    finally:
        await asyncio.to_thread(items.close)


@contextmanager
def _timed(operation: str) -> Iterator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        TALLIES.add("json_files", operation)
        TALLIES.add("json_seconds", operation, time.perf_counter() - began)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (OSError, AsyncCkptError) as error:
        TALLIES.error(error)
        raise


# -- writing -----------------------------------------------------------------------------------------------


def _save(config: Source, target: Path, compress_above: int | None, cancelled: threading.Event) -> bool:
    try:
        with _draft(target) as draft, _timed("write"):
            codec = codec_for(target)
            size = _write(draft, stored(_text(config, codec, cancelled), codec))
            TALLIES.add("json_bytes", "write", size)
            if compress_above is None or not codec.is_plain:
                draft.replace(target)
            else:
                _publish_smaller(draft, target, is_large=size > compress_above)
        return True
    except _Cancelled:
        return False
    # The last two for a path that no system call takes, and for a configuration that is nested too deeply.
    except (OSError, AsyncCkptError, ValueError, RecursionError) as error:
        TALLIES.error(error)
        logger.warning("the configuration could not be written to %s: %s", target, error)
        return False


def _text(config: Source, codec: Codec, cancelled: threading.Event) -> Iterator[bytes]:
    """The file in pieces; what is wrong with it is said at the end."""
    plain = Plain(masked=codec.key is None)
    if isinstance(config, str | os.PathLike):
        found = configuration(config)
        complaints: Iterable[str] = found.complaints
        pieces = plain.text(found.whole)
    else:
        complaints = ()
        pieces = plain.text(config if is_object(config) else {"value": config})
    waiting: list[str] = []
    for piece in chain(pieces, ["\n"]):
        waiting.append(piece)
        if len(waiting) == 1024:
            if cancelled.is_set():
                raise _Cancelled
            yield "".join(waiting).encode()
            waiting.clear()
    if cancelled.is_set():
        raise _Cancelled
    yield "".join(waiting).encode()
    for complaint in (*complaints, *plain.complaints):
        logger.warning("%s", complaint)


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """Where to write first; it is gone in any case."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.draft")
    try:
        yield draft
    finally:
        with suppress(OSError):  # its folder is a file
            draft.unlink(missing_ok=True)


def _write(draft: Path, parts: Iterable[bytes]) -> int:
    with draft.open("xb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _publish_smaller(draft: Path, target: Path, *, is_large: bool) -> None:
    """Put it in its place, compressed if it is large; and away what an earlier one of another size has left."""
    packed = target.with_name(f"{target.name}.zst")
    if not is_large:
        draft.replace(target)
        packed.unlink(missing_ok=True)
        return
    with _draft(packed) as smaller, draft.open("rb") as whole:
        _write(smaller, stored(iter(lambda: whole.read(1 << 20), b""), Codec(compresses=True)))
        draft.replace(target)  # which is what is read where both are there: whoever is killed now has left no old one
        smaller.replace(packed)
    target.unlink(missing_ok=True)


# -- reading -----------------------------------------------------------------------------------------------


def _load(path: Path, into: type[Any] | None) -> Any:
    found = _found(path)
    with _timed("read"), _told(), _reading(found) as file:
        values = json.load(file)
        TALLIES.add("json_bytes", "read", found.stat().st_size)
    return values if into is None else fitted(values, into, str(found))


def _found(path: Path) -> Path:
    for suffix in SUFFIXES:
        if (there := path.with_name(path.name + suffix)).is_file():
            return there
    return path


@contextmanager
def _reading(path: Path, *errors: type[Exception]) -> Iterator[IO[bytes]]:
    damage: tuple[type[Exception], ...] = (ValueError, RecursionError, *errors)
    with opened(path.open("rb"), str(path)) as file:
        try:
            yield file
        except damage as error:
            raise CheckpointCorruptError(f"{path} is damaged ({error}): put a copy back") from error
