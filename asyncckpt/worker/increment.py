"""Increment: which tensors a save writes, and which stay in the packs that hold them. Pure: entries in, choice out.

A tensor is unchanged if its form and its digests are those of the base; whoever froze it need not say so. What
did not change stays where it is, unless its pack would be mostly dead space by now: then it moves to a pack of
its own kind, apart from what changes, or it would have to move again with every save.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace

from asyncckpt.format.codec import Codec
from asyncckpt.format.contents import Contents, Pack, Path, TensorEntry

MOSTLY = 7 / 8
"""A save of which more than this part changes is written whole, straight from the arena: copying the rest together
first would cost more than writing it."""

MAX_OLD_PACKS = 64
"""Most older packs that one checkpoint names, so that its record stays small; the least used ones are given up."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a save may share: contents that this incarnation wrote, or read and verified, and that are listed.

    `turnovers` are the parts of the bytes that had changed at the last two saves, as far as that is known.
    """

    contents: Contents
    turnovers: tuple[float, ...] = ()

    @property
    def is_mostly_changing(self) -> bool:
        """Whether the next save is expected to change almost everything: the last two did.

        One is not enough: an average that moves with every second save would be written with every save.
        """
        return len(self.turnovers) == 2 and min(self.turnovers) > MOSTLY

    def followed_by(self, contents: Contents, turnover: float) -> Base:
        """The base after a save of `contents`, of which `turnover` had changed."""
        return Base(contents, (*self.turnovers[-1:], turnover))


def shareable(base: Base | None, codec: Codec) -> Base | None:
    """`base`, if all of it is stored with `codec`: what is encrypted shares nothing with what is not, or is otherwise.

    A change of codec or of key makes the next save a full one.
    """
    if base is None or any(pack.codec != codec.word for pack in base.contents.packs):
        return None
    return base


def next_base(base: Base | None, contents: Contents, turnover: float | None) -> Base:
    """What the save after one of `contents` may share, which had `base` and of which `turnover` had changed."""
    return Base(contents) if base is None or turnover is None else base.followed_by(contents, turnover)


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of each tensor."""

    kept: Mapping[Path, TensorEntry]
    """Unchanged ones, as the base has them."""
    changed: frozenset[Path]
    moved: frozenset[Path]
    """Unchanged ones that are written again all the same."""
    turnover: float


def choose(tensors: Mapping[Path, TensorEntry], base: Base) -> Choice:
    """Compare `tensors`, as one save holds them, with `base`."""
    known = base.contents.tensors
    unchanged = {path for path, entry in tensors.items() if _is_same(entry, known.get(path))}
    moved = frozenset(_worn({path: known[path] for path in unchanged}, base.contents.packs))
    changed = frozenset(tensors.keys() - unchanged)
    kept = unchanged - moved  # once: for each of 20,000 it would take ten seconds
    kept_entries = {path: known[path] for path in tensors if path in kept}
    return Choice(kept_entries, changed, moved, _part(tensors, changed))


def turnover(tensors: Mapping[Path, TensorEntry], base: Base) -> float:
    """The part of the bytes of `tensors` that `base` does not have, for a save that is written whole."""
    known = base.contents.tensors
    return _part(tensors, {path for path, entry in tensors.items() if not _is_same(entry, known.get(path))})


def _part(tensors: Mapping[Path, TensorEntry], changed: Set[Path]) -> float:
    total = part = 0
    for path, entry in tensors.items():
        nbytes = entry.nbytes
        total += nbytes
        if path in changed:
            part += nbytes
    return part / total if total else 0.0


def _is_same(entry: TensorEntry, other: TensorEntry | None) -> bool:
    if other is None or len(entry.boxes) != 1 or len(other.boxes) != 1:
        return False
    mine, theirs = entry.boxes[0].extents, other.boxes[0].extents
    if len(mine) != len(theirs):
        return False
    for one, another in zip(mine, theirs, strict=True):  # first of all: mostly it is they that differ
        if one.digest != another.digest or one.length != another.length:
            return False
    return (entry.dtype, entry.shape, entry.stride) == (other.dtype, other.shape, other.stride)


def _worn(unchanged: Mapping[Path, TensorEntry], packs: tuple[Pack, ...]) -> Iterable[Path]:
    """The tensors whose packs are given up: those less than half alive, and the least used of too many."""
    live: Counter[int] = Counter()
    for entry in unchanged.values():
        for extent in entry.boxes[0].extents:
            live[extent.pack] += extent.length
    good = [number for number, size in live.items() if 2 * size >= packs[number].length - packs[number].header]
    kept = set(sorted(good, key=lambda number: (-live[number], number))[:MAX_OLD_PACKS])
    return (path for path, entry in unchanged.items() if not kept.issuperset(_packs(entry)))


def _packs(entry: TensorEntry) -> Iterable[int]:
    return (extent.pack for box in entry.boxes for extent in box.extents)


def placed(entry: TensorEntry, pack: int, offset: int) -> TensorEntry:
    """`entry` as it lies at `offset` of pack number `pack`: one box, its extents side by side as they were."""
    (box,) = entry.boxes
    first = box.extents[0].offset if box.extents else 0
    extents = tuple(replace(e, pack=pack, offset=offset + e.offset - first) for e in box.extents)
    return replace(entry, boxes=(replace(box, extents=extents),))


def join(own: Contents, kept: Mapping[Path, TensorEntry], packs: tuple[Pack, ...]) -> Contents:
    """`own` contents and what they share: `kept` entries of a base that has `packs`; only used packs are named."""
    used = sorted({number for entry in kept.values() for number in _packs(entry)})
    place = {number: len(own.packs) + at for at, number in enumerate(used)}
    shared = {path: _renumbered(entry, place) for path, entry in kept.items()}
    old = tuple(packs[number] for number in used)
    return replace(own, packs=own.packs + old, tensors={**own.tensors, **shared})


def _renumbered(entry: TensorEntry, place: Mapping[int, int]) -> TensorEntry:
    boxes = tuple(
        replace(box, extents=tuple(replace(extent, pack=place[extent.pack]) for extent in box.extents))
        for box in entry.boxes
    )
    return replace(entry, boxes=boxes)
