"""Placing: a check changes nothing, and filling checks every byte it brings, whether or not a check came before."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.errors import CheckpointCorruptError, TransientError
from asyncckpt.fetching.placing import Place, Places
from asyncckpt.format.contents import Extent, Pack
from asyncckpt.format.digest import digest
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.files import Files
from asyncckpt.testing.files import Counting, FailingFiles

MIB = 1 << 20
SIZES = {"m.one": (5 * MIB + 3, 7), "m.two": (2 * MIB,), "n.three": (100, 3 * MIB)}
"""Bytes in each pack that a tensor lies in; every second byte of a pack belongs to nobody."""


class Stored:
    """Tensors in two packs, odd bytes before each, and memory of zeros where they belong."""

    def __init__(self, root: Path, files: Files | None = None) -> None:
        self.storage = LocalStorage(root, files=files)
        self.files = [root / "p0", root / "p1"]
        bodies = [bytearray(), bytearray()]
        self.places: dict[tuple[str, ...], Place] = {}
        self.data: dict[tuple[str, ...], bytes] = {}
        for name, sizes in SIZES.items():
            extents = []
            path = tuple(name.split("."))
            self.data[path] = b""
            for pack, size in enumerate(sizes):
                content = os.urandom(size)
                bodies[pack] += b"odd"
                extents.append(Extent(pack, len(bodies[pack]), size, digest(content)))
                bodies[pack] += content
                self.data[path] += content
            self.places[path] = Place(memoryview(bytearray(sum(sizes))), tuple(extents), None)
        root.mkdir()
        for file, body in zip(self.files, bodies, strict=True):
            file.write_bytes(body)
        self.packs = [Pack(f"p{number}", len(body), 0, "") for number, body in enumerate(bodies)]

    def made(self) -> Places:
        return Places(self.storage, self.storage.url, self.packs, self.places)

    @property
    def filled(self) -> list[str]:
        """The tensors that are in place."""
        return [".".join(path) for path, place in self.places.items() if place.memory == self.data[path]]

    @property
    def untouched(self) -> bool:
        return not any(any(place.memory) for place in self.places.values())


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path / "run")


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_check_changes_nothing_and_then_each_part_is_filled_by_itself(stored: Stored) -> None:
    places = stored.made()
    assert places.paths == set(stored.places)
    places.open()
    places.check()
    assert stored.untouched
    places.fill(("m",))
    assert stored.filled == ["m.one", "m.two"]
    assert not any(stored.places["n", "three"].memory)
    places.fill(("n",))
    places.fill(("other",))
    assert stored.filled == list(SIZES)
    places.close()
    places.close()


DAMAGES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "flip": (flip, "content", "p1: n.three does not match its digest at byte"),
    "truncate": (lambda path: os.truncate(path, 3 * MIB), "unreadable", "p1 cannot be read"),
    "remove": (Path.unlink, "missing", "p1 is missing"),
}


def opened_and_checked(stored: Stored) -> None:
    places = stored.made()
    places.open()
    places.check()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_by_the_check_and_nothing_is_changed(stored: Stored, damage: str) -> None:
    act, kind, message = DAMAGES[damage]
    act(stored.files[1])
    with pytest.raises(CheckpointCorruptError, match=message) as caught:
        opened_and_checked(stored)
    assert caught.value.kind == kind
    assert stored.untouched


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damage_is_found_while_its_part_is_filled(stored: Stored, damage: str, checked: bool) -> None:
    places = stored.made()
    places.open()
    if checked:
        places.check()
    act, kind, message = DAMAGES[damage]
    act(stored.files[1])
    places.fill(("m",))
    assert stored.filled == ["m.one", "m.two"]
    with pytest.raises(CheckpointCorruptError, match=message) as caught:
        places.fill(("n",))
    assert caught.value.kind == kind


def test_a_removal_after_the_opening_does_no_harm(stored: Stored) -> None:
    places = stored.made()
    places.open()
    for file in stored.files:
        file.unlink()
    places.fill(())
    assert stored.filled == list(SIZES)


@pytest.mark.parametrize("during", ["check", "fill"])
def test_a_failure_of_the_moment_is_no_damage(tmp_path: Path, during: str) -> None:
    # By the MiB, 6 + 1 + 2 + 1 + 3 reads are the check.
    stored = Stored(tmp_path / "run", FailingFiles("read", errno.EAGAIN, nth=13 if during == "check" else 14))
    places = stored.made()
    places.open()
    if during == "check":
        with pytest.raises(TransientError):
            places.check()
        assert stored.untouched
    else:
        places.check()
        with pytest.raises(TransientError, match="Resource temporarily"):
            places.fill(())


@pytest.mark.parametrize("how", ["closed", "dropped"])
@pytest.mark.parametrize("opened", [True, False])
def test_files_are_open_until_nobody_needs_them(tmp_path: Path, how: str, opened: bool) -> None:
    files = Counting()
    stored = Stored(tmp_path / "run", files)
    places = stored.made()
    assert files.opened == 0
    if opened:
        places.open()
        places.fill(("m",))
        assert files.opened == 2
    else:
        stored.files[1].unlink()
        with pytest.raises(CheckpointCorruptError):
            places.open()
    if how == "closed":
        places.close()
    else:
        del places
    assert files.opened == 0


def test_what_would_need_too_many_open_files_is_left_to_others(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    packs = [Pack(f"p{number}", 1, 0, "") for number in range(100)]
    for number in range(100):
        (tmp_path / f"p{number}").write_bytes(b"x")
    places = {
        (str(number),): Place(memoryview(bytearray(1)), (Extent(number % 100, 0, 1, digest(b"x")),), None)
        for number in range(200)
    }
    made = Places(storage, storage.url, packs, places)
    assert made.paths == {(str(number),) for number in (*range(64), *range(100, 164))}
    made.open()
    made.check()
    made.fill(())
    assert {path for path, place in places.items() if place.memory == b"x"} == made.paths
    made.close()
