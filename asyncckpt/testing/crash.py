"""Crash points: every state that a disk can be in after a crash.

A disk keeps only what was synced: the bytes of a file after `Files.sync` of that file, a name in a folder after
`Files.sync_folder` of that folder, whatever changed it (create, link, rename, unlink, mkdir, rmdir, symlink).
All else may be there after a power loss or not, each change on its own; a rename is there whole or not at all.
A killed process is the case in which nothing is lost.

::

    files = RecordingFiles(tmp_path)
    asyncio.run(LocalStorage(tmp_path / "run", files=files).put("a", [b"content"]))
    files.mark("returned")
    for number, state in enumerate(crash_states(files)):
        materialise(state, after := tmp_path / "after" / str(number))
        assert recovers(after / "run"), state.story
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from asyncckpt.testing.recording import (
    DataEffect,
    Effect,
    Mark,
    NameEffect,
    Node,
    RecordingFiles,
    SymbolicLink,
    SyncEffect,
)

__all__ = ["CrashState", "RecordingFiles", "SymbolicLink", "crash_states", "materialise"]


@dataclass(frozen=True, slots=True)
class CrashState:
    """What a crash left: each path's bytes, symlink or (None) folder; which marks were reached; how it came."""

    tree: Mapping[str, bytes | SymbolicLink | None]
    reached: tuple[str, ...]
    story: str


def crash_states(recording: RecordingFiles, *, few: int = 6) -> Iterator[CrashState]:
    """Every distinct state after every prefix of what was recorded.

    Up to `few` unsynced things (a change of names, a file's bytes) are lost in every combination, more of them
    none, all, each one alone, and all but each one. Unsynced bytes may be there, be as before, be zeros of the
    right length, or end half-way. States are distinct by content and by the marks reached.
    """
    seen = set()
    for count in range(len(recording.effects) + 1):
        for state in _Prefix(recording, recording.effects[:count]).states(few):
            identity = frozenset(state.tree.items()), state.reached
            if identity not in seen:
                seen.add(identity)
                yield state


def materialise(state: CrashState, directory: str | os.PathLike[str]) -> None:
    """Write the state into `directory`, which is made and must not be there yet."""
    os.makedirs(directory)
    for short, node in sorted(state.tree.items()):
        path = os.path.join(directory, short)
        if node is None:
            os.mkdir(path)
        elif isinstance(node, SymbolicLink):
            os.symlink(node.target, path)
        else:
            with open(path, "wb") as file:
                file.write(node)


@dataclass(frozen=True, slots=True)
class _Unsynced:
    """A change of names (`which`: the effect's place) or a file's bytes (its number), and what may become of it.

    The first outcome is that it is kept, the second that it is lost; others are in between.
    """

    text: str
    which: int
    outcomes: tuple[bool | bytes, ...]


class _Prefix:
    """The first effects of a recording, up to a crash."""

    def __init__(self, recording: RecordingFiles, effects: Sequence[Effect]) -> None:
        self._recording = recording
        self._effects = effects
        self._reached = tuple(effect.text for effect in effects if isinstance(effect, Mark))
        self._synced = {effect.what: at for at, effect in enumerate(effects) if isinstance(effect, SyncEffect)}
        self._whole = self._contents(lambda at, effect: True)
        self._safe = self._contents(lambda at, effect: at < self._synced.get(effect.file, -1))
        # Names up to the first unsynced change are the same in all states: there are many states.
        unsynced = [each.which for each in self._names()]
        self._settled, self._unsettled = self._split(min(unsynced, default=len(effects)))

    def states(self, few: int) -> Iterator[CrashState]:
        unsynced = [*self._names(), *self._bytes()]
        for outcomes in _combinations([each.outcomes for each in unsynced], few):
            yield self._state(list(zip(unsynced, outcomes, strict=True)))

    def _contents(self, counts: Callable[[int, DataEffect], bool]) -> dict[int, bytes]:
        contents = {number: bytearray(data) for number, data in self._recording.contents.items()}
        for at, effect in enumerate(self._effects):
            if isinstance(effect, DataEffect) and counts(at, effect):
                _apply(effect, contents.setdefault(effect.file, bytearray()))
        return {number: bytes(data) for number, data in contents.items()}

    def _split(self, end: int) -> tuple[dict[str, Node], list[tuple[int, NameEffect]]]:
        names = dict(self._recording.names)
        rest = []
        for at, effect in enumerate(self._effects):
            if isinstance(effect, NameEffect):
                if at < end:
                    _rename(effect, names)
                else:
                    rest.append((at, effect))
        return names, rest

    def _names(self) -> Iterator[_Unsynced]:
        for at, effect in enumerate(self._effects):
            if isinstance(effect, NameEffect) and at > self._synced.get(effect.folder, -1):
                yield _Unsynced(effect.text, at, (True, False))

    def _bytes(self) -> Iterator[_Unsynced]:
        for number, whole in self._whole.items():
            safe = self._safe.get(number, b"")
            if safe != whole:
                between = {bytes(len(whole)), whole[: len(whole) // 2]} - {safe, whole}
                yield _Unsynced(f"bytes of file {number}", number, (whole, safe, *sorted(between)))

    def _state(self, outcomes: Sequence[tuple[_Unsynced, bool | bytes]]) -> CrashState:
        lost = {each.which for each, outcome in outcomes if outcome is False}
        changed = {each.which: outcome for each, outcome in outcomes if isinstance(outcome, bytes)}
        last = self._effects[-1].text if self._effects else "nothing"
        gone = [each.text for each, outcome in outcomes if outcome != each.outcomes[0]]
        story = f"after {len(self._effects)} effects (last: {last}), not kept: {', '.join(gone) or 'nothing'}"
        return CrashState(self._tree(lost, self._whole | changed), self._reached, story)

    def _tree(self, lost: set[int], contents: Mapping[int, bytes]) -> dict[str, bytes | SymbolicLink | None]:
        names = dict(self._settled)
        for at, effect in self._unsettled:
            if at not in lost:
                _rename(effect, names)
        tree: dict[str, bytes | SymbolicLink | None] = {}
        for path, node in sorted(names.items()):
            above = path.rpartition("/")[0]
            if not above or tree.get(above, b"") is None:  # a folder that was lost takes along what is in it
                tree[path] = contents.get(node, b"") if isinstance(node, int) else node
        return tree


def _apply(effect: DataEffect, content: bytearray) -> None:
    end = effect.offset + len(effect.data or b"")
    content.extend(bytes(max(0, end - len(content))))
    if effect.data is None:
        del content[effect.offset :]
    else:
        content[effect.offset : end] = effect.data


def _rename(effect: NameEffect, names: dict[str, Node]) -> None:
    if effect.gone is not None:
        names.pop(effect.gone, None)
    if effect.came is not None:
        path, node = effect.came
        names[path] = node


def _combinations(choices: Sequence[tuple[bool | bytes, ...]], few: int) -> Iterator[tuple[bool | bytes, ...]]:
    if len(choices) <= few:
        yield from product(*choices)
        return
    for base in (tuple(options[0] for options in choices), tuple(options[1] for options in choices)):
        yield base
        for at, options in enumerate(choices):
            for option in options:
                yield (*base[:at], option, *base[at + 1 :])
