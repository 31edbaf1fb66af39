"""Configurations in files of their own: round trip, compressed, encrypted, streamed, and on an event loop."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import pytest
import torch

from asyncckpt import keys
from asyncckpt.errors import CheckpointCorruptError, KeyUnavailable
from asyncckpt.run import (
    ConfigurationInvalid,
    iterate_config_in_json,
    iterate_config_in_json_async,
    json_file,
    load_config_from_json,
    load_config_from_json_async,
    save_config_to_json,
    save_config_to_json_async,
)
from asyncckpt.testing.slow import PATIENCE

SUFFIXES = [".json", ".json.zst", ".json.enc", ".json.zst.enc"]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    keys.forget()
    yield keys.register(keys.generate())
    keys.forget()


class Kind(Enum):
    ADAM = "adam"
    SGD = "sgd"


@dataclass
class Layer:
    width: int
    dropout: float = 0.0


@dataclass
class Settings:
    name: str
    kind: Kind
    layers: list[Layer] = field(default_factory=list)
    sizes: tuple[int, ...] = ()
    data: Path | None = None
    limits: dict[str, float] = field(default_factory=dict)


SETTINGS = Settings(
    "first", Kind.SGD, [Layer(8), Layer(16, 0.5)], (1, 2), Path("/data"), {"top": float("inf"), "low": 1e-8}
)


# -- round trip --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a4_a_dataclass_comes_back_equal(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"config{suffix}"
    assert save_config_to_json(SETTINGS, path)
    assert load_config_from_json(path, Settings) == SETTINGS
    assert load_config_from_json(path)["layers"] == [asdict(layer) for layer in SETTINGS.layers]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


class Level(Enum):
    LOW = 1
    HIGH = 2


class Range(NamedTuple):
    low: float
    high: float


class Source(TypedDict):
    path: Path
    weight: NotRequired[float]


@dataclass
class Everything:
    """What configurations have in them that JSON has not."""

    rates: dict[int, float]
    kinds: dict[Kind, bool]
    levels: dict[Level, str]
    switches: dict[bool, Path]
    scales: dict[float, list[Kind]]
    mode: Literal["train", "eval", 3, None]
    kind: Literal[Kind.ADAM]
    dtype: torch.dtype
    device: torch.device
    at: datetime
    on: date
    daily: time
    every: timedelta
    salt: bytes
    factor: complex
    bounds: Range
    source: Source
    names: frozenset[str]
    pair: tuple[int, Layer]
    either: int | str | None
    anything: object
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = len(self.rates) + len(self.names)


def everything(**changed: Any) -> Everything:
    given: dict[str, Any] = {
        "rates": {0: 0.1, -5: 0.01}, "kinds": {Kind.SGD: True}, "levels": {Level.HIGH: "x"},
        "switches": {True: Path("/a"), False: Path("b")}, "scales": {1e-8: [Kind.ADAM], 2.0: []},
        "mode": "eval", "kind": Kind.ADAM, "dtype": torch.bfloat16,
        "device": torch.device("cuda", 1), "at": datetime(2026, 11, 29, 10, 15, tzinfo=UTC), "on": date(2026, 11, 29),
        "daily": time(23, 59), "every": timedelta(minutes=1, microseconds=5), "salt": b"\x00\xff", "factor": 1 - 2j,
        "bounds": Range(0.0, 1.0), "source": {"path": Path("/data")}, "names": frozenset({"a", "b"}),
        "pair": (3, Layer(8)), "either": None, "anything": True,
    }  # fmt: skip
    return Everything(**{**given, **changed})


def test_a4_what_json_has_no_word_for_comes_back_equal_too(tmp_path: Path) -> None:
    """Keys that are numbers, which JSON makes texts of; fields that the dataclass computes; types of torch."""
    path = tmp_path / "config.json"
    for each in (
        everything(),
        everything(mode=3, either="text", source={"path": Path("x"), "weight": 0.5}, every=timedelta(days=2)),
        everything(mode=None, either=7, anything=None, rates={}, device=torch.device("cpu")),
    ):
        assert save_config_to_json(each, path)
        found = load_config_from_json(path, Everything)
        assert found == each
        assert [type(key) for key in found.switches] == [bool, bool]
        assert [type(key) for key in found.rates] == [int] * len(each.rates)
    by_hand = {"kinds": {"sgd": False, "Kind.ADAM": True}, "levels": {"2": "two"}}
    assert save_config_to_json({**load_config_from_json(path), **by_hand}, path)
    found = load_config_from_json(path, Everything)
    assert (found.kinds, found.levels) == ({Kind.SGD: False, Kind.ADAM: True}, {Level.HIGH: "two"})


def test_a4_what_stands_in_the_place_of_such_a_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert save_config_to_json(everything(), path)
    wrong = {
        "rates": {"one": 0.1}, "kinds": {"adagrad": True}, "switches": {"yes": "/a"}, "mode": "test", "kind": "sgd",
        "dtype": "torch.nn", "device": "toaster", "at": "noon", "every": 1e300, "salt": "xy",
        "bounds": [1.0], "source": {"weight": True, "extra": 1}, "either": 1.5,
    }  # fmt: skip
    save_config_to_json({**load_config_from_json(path), **wrong}, path)
    with pytest.raises(ConfigurationInvalid) as told:
        load_config_from_json(path, Everything)
    assert sorted(told.value.problems) == [
        "at is 'noon', not of type datetime",
        "bounds is [1.0], not a list of 2",
        "device is 'toaster', not of type device",
        "dtype is 'torch.nn', not of type dtype",
        "either is 1.5, not of type int",
        "every is 1e+300, not of type timedelta",
        "kind is 'sgd', not one of ['adam']",
        "kinds.adagrad is 'adagrad', not one of ['adam', 'sgd']",
        "mode is 'test', not one of ['train', 'eval', 3, None]",
        "rates.one is 'one', not of type int",
        "salt is 'xy', not of type bytes",
        "source.extra is no field of Source",
        "source.path is missing",
        "source.weight is True, not of type float",
        "switches.yes is 'yes', not of type bool",
    ]


def test_a4_what_is_missing_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save_config_to_json({"name": "n", "kind": "adam"}, path)
    assert load_config_from_json(path, Settings) == Settings("n", Kind.ADAM)


def test_a4_a17_everything_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    values = {
        "kind": "adagrad",
        "layers": [{"width": "8"}, {"dropout": 1}],
        "sizes": [1, 2.5, True],
        "lerning_rate": 1,
        "data": 3,
        "limits": [],
    }
    save_config_to_json(values, path)
    with pytest.raises(ConfigurationInvalid, match=r"config\.json") as told:
        load_config_from_json(path, Settings)
    assert sorted(told.value.problems) == [
        "data is 3, not of type Path",
        "kind is 'adagrad', not one of ['adam', 'sgd']",
        "layers[0].width is '8', not of type int",
        "layers[1].width is missing",
        "lerning_rate is no field of Settings",
        "limits is [], not an object",
        "name is missing",
        "sizes[1] is 2.5, not of type int",
        "sizes[2] is True, not of type int",
    ]


@dataclass
class Checked:
    lr: float

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr} has to be above 0")


@dataclass
class Both:
    first: Checked
    second: Checked


def test_a4_a17_what_the_dataclass_itself_refuses_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save_config_to_json({"first": {"lr": 0.1}, "second": {"lr": -1}}, path)
    with pytest.raises(ConfigurationInvalid, match=r"config\.json: second: lr=-1\.0 has to be above 0") as told:
        load_config_from_json(path, Both)
    assert told.value.problems == ("second: lr=-1.0 has to be above 0",)
    save_config_to_json({"lr": 0}, path)
    with pytest.raises(ConfigurationInvalid, match=r"Checked: lr=0\.0 has to be"):
        load_config_from_json(path, Checked)


def test_a4_what_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1')
    with pytest.raises(CheckpointCorruptError, match=r"config\.json is damaged"):
        load_config_from_json(path)
    with pytest.raises(FileNotFoundError):
        load_config_from_json(tmp_path / "absent.json")


def test_a3_what_cannot_be_written_at_all_is_a_warning_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not save_config_to_json({"a": 1}, tmp_path / "no\0name.json")
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert not save_config_to_json({"deep": deep}, tmp_path / "deep.json")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no umask")
def test_a3_files_have_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for suffix in SUFFIXES:
            assert save_config_to_json({"a": 1}, tmp_path / f"config{suffix}")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o640] * len(SUFFIXES)


def test_a4_what_is_nested_too_deeply_to_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("[" * 200_000 + "]" * 200_000)
    with pytest.raises(CheckpointCorruptError, match=r"config\.json is damaged"):
        load_config_from_json(path)


# -- compressed --------------------------------------------------------------------------------------------


def test_a19_what_is_large_is_compressed_where_that_is_asked_and_read_under_either_name(tmp_path: Path) -> None:
    path, large = tmp_path / "config.json", {"words": ["the same"] * 10_000}
    assert save_config_to_json({"a": 1}, path, compress_above=1000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
    assert save_config_to_json(large, path, compress_above=1000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json.zst"]
    assert (tmp_path / "config.json.zst").stat().st_size < 1000
    assert load_config_from_json(path) == load_config_from_json(tmp_path / "config.json.zst") == large
    assert save_config_to_json({"a": 2}, path, compress_above=1000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
    assert load_config_from_json(path) == {"a": 2}
    assert save_config_to_json(large, path)
    size = path.stat().st_size
    assert size > 100_000, "nobody asked"
    for above, name in ((size, "config.json"), (size - 1, "config.json.zst")):
        assert save_config_to_json(large, path, compress_above=above)
        assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a19_the_tool_that_everybody_has_opens_it(tmp_path: Path) -> None:
    import zstandard

    path = tmp_path / "config.json.zst"
    save_config_to_json({"lr": 1}, path)
    with path.open("rb") as file:
        assert json.loads(zstandard.ZstdDecompressor().stream_reader(file).read()) == {"lr": 1}


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a19_who_is_killed_between_two_names_has_left_no_old_text_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    """What grows beyond the limit changes its name, and the one without ``.zst`` is looked for first."""
    path, large = tmp_path / "config.json", {"words": ["the same"] * 10_000}
    assert save_config_to_json({"old": 1}, path, compress_above=1000)
    real, calls = Path.replace, itertools.count(1)

    class Killed(BaseException):
        pass

    def kill(draft: Path, target: Path) -> Path:
        real(draft, target)
        if next(calls) == killed_after:
            raise Killed
        return target

    monkeypatch.setattr(Path, "replace", kill)
    with pytest.raises(Killed):
        save_config_to_json(large, path, compress_above=1000)
    assert load_config_from_json(path) == large


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a19_a20_what_was_cut_or_changed_is_damage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"config{suffix}"
    save_config_to_json({"numbers": [number * 7919 % 104729 for number in range(50_000)]}, path)
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointCorruptError, match=path.name):
            load_config_from_json(path)
    if suffix == ".json.zst":
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(CheckpointCorruptError, match=rf"{path.name} cannot be decompressed"):
            load_config_from_json(path)
    if suffix.endswith(".enc"):
        for place in (len(whole) - 1, len(whole) // 2, whole.index(b"\n") + 5, 40):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises((CheckpointCorruptError, KeyUnavailable), match=path.name):
                load_config_from_json(path)


def test_a20_frames_of_a_file_are_neither_moved_nor_left_out(tmp_path: Path) -> None:
    path = tmp_path / "config.json.enc"
    save_config_to_json({"text": "x" * 200_000}, path)
    head, _, rest = path.read_bytes().partition(b"\n")
    size = 4 + 65536 + 16
    frames = [rest[at : at + size] for at in range(0, len(rest), size)]
    assert len(frames) == 4
    for order in ([1, 0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 0, 1, 2, 3]):
        path.write_bytes(head + b"\n" + b"".join(frames[number] for number in order))
        with pytest.raises(CheckpointCorruptError, match="changed, or is in another's place"):
            load_config_from_json(path)


# -- encrypted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json.enc", ".json.zst.enc"])
def test_a20_no_word_of_it_is_ever_on_disk_and_only_its_key_reads_it(
    tmp_path: Path, suffix: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / f"config{suffix}", []
    real = Path.replace

    def look(draft: Path, target: Path) -> Path:
        seen.extend(entry.read_bytes() for entry in tmp_path.iterdir())
        return real(draft, target)

    monkeypatch.setattr(Path, "replace", look)
    assert save_config_to_json({"api_key": "s3cr3t", "customer": "Northwind"}, path)
    seen.append(path.read_bytes())
    assert len(seen) == 2
    assert not [word for word in (b"s3cr3t", b"Northwind", b"customer", b"api_key") if word in b"".join(seen)]
    assert load_config_from_json(path) == {"api_key": "s3cr3t", "customer": "Northwind"}, "secrets are what it is for"
    for wrong in ((), (keys.generate(),)):
        keys.forget()
        others = [keys.register(text) for text in wrong]
        with pytest.raises(KeyUnavailable, match=key) as told:
            load_config_from_json(path)
        assert all(other in str(told.value) for other in others)


def test_a20_without_a_key_nothing_is_written_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys.forget()
    assert not save_config_to_json({"a": 1}, tmp_path / "config.json.enc")
    assert "ASYNCCKPT_KEY" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a20_two_files_of_one_text_have_nothing_in_common(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.json.enc" for number in range(2)]
    for path in paths:
        save_config_to_json({"a": 1}, path)
    first, second = (path.read_bytes().partition(b"\n") for path in paths)
    assert first[0] != second[0]
    assert first[2] != second[2]


# -- streamed ----------------------------------------------------------------------------------------------

MANY = 5_000
"""Items of some 4,100 bytes: 20 MB of JSON. In small ones, that much takes minutes to be counted."""


def items(count: int = MANY) -> Iterator[dict[str, Any]]:
    for number in range(count):
        note = f"{number:08d}" * 500
        yield {"id": number, "note": note, "weight": number / 3, "tags": ["a", "b"], "path": Path("/d")}


@pytest.mark.parametrize("suffix", [".json", ".json.zst.enc"])
def test_a22_a_large_one_is_written_and_read_in_little_memory(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"config{suffix}"
    tracemalloc.start()
    try:
        assert save_config_to_json({"seed": 1, "data": {"samples": items()}}, path)
        _, written = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        found = sum(item["id"] for item in iterate_config_in_json(path, "data.samples"))
        _, read = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == MANY * (MANY - 1) // 2
    assert written < 4 << 20, f"{written} bytes to write it"
    assert read < 4 << 20, f"{read} bytes to read it"


def test_a22_one_that_is_large_enough_to_be_compressed_takes_no_more_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        assert save_config_to_json({"samples": items(2_000)}, tmp_path / "config.json", compress_above=1 << 20)
        _, written = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json.zst"]
    assert written < 4 << 20, f"{written} bytes to write 8 MB"


def test_a22_the_pieces_are_what_json_makes_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    odd = {
        "none": None,
        "e": [],
        "o": {},
        "ü": "\u2028\ud800",
        "deep": [[1, [2, {"a": (3, {4})}]]],
        "nan": float("nan"),
    }
    save_config_to_json({"odd": odd, "list": list(items(3)), 5: Kind.ADAM, "password": "x", "settings": SETTINGS}, path)
    text = path.read_text("utf-8")
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"
    assert "x" not in json.loads(text)["password"]
    assert json.loads(text)["settings"]["limits"] == {"top": "Infinity", "low": 1e-8}


def test_a22_items_that_are_damaged_are_named_when_they_are_met(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save_config_to_json({"samples": items(10)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    found = iterate_config_in_json(path, "samples")
    assert next(found)["id"] == 0
    with pytest.raises(CheckpointCorruptError, match=r"config\.json is damaged"):
        list(found)


# -- on an event loop --------------------------------------------------------------------------------------


def test_a21_saving_and_loading_leave_the_loop_free(tmp_path: Path) -> None:
    path, gate, turns = tmp_path / "config.json", threading.Event(), 0

    def slow() -> Iterator[int]:
        yield 1
        gate.wait()
        yield 2

    async def act() -> tuple[Any, list[Any]]:
        nonlocal turns
        saving = asyncio.ensure_future(save_config_to_json_async({"items": slow()}, path))
        for _ in range(100):
            await asyncio.sleep(0)
            turns += 1
        assert not saving.done()
        gate.set()
        assert await saving
        return await load_config_from_json_async(path), [n async for n in iterate_config_in_json_async(path, "items")]

    assert asyncio.run(act()) == ({"items": [1, 2]}, [1, 2])
    assert turns == 100


def test_a21_reading_leaves_the_loop_free_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, gates = tmp_path / "config.json", [threading.Event(), threading.Event()]
    assert save_config_to_json(SETTINGS, path)
    real, iterate = json.load, json_file.iterate_config_in_json

    def slow(file: Any) -> Any:
        assert gates[0].wait(PATIENCE), "the event loop stood still"
        return real(file)

    def slowly(*given: Any) -> Iterator[Any]:
        assert gates[1].wait(PATIENCE), "the event loop stood still"
        yield from iterate(*given)

    monkeypatch.setattr(json, "load", slow)
    monkeypatch.setattr(json_file, "iterate_config_in_json", slowly)

    async def listed() -> list[Any]:
        return [item async for item in iterate_config_in_json_async(path, "layers")]

    async def act() -> list[Any]:
        reading = [asyncio.ensure_future(load_config_from_json_async(path, Settings)), asyncio.ensure_future(listed())]
        for _ in range(10):
            await asyncio.sleep(0)
        assert not [task for task in reading if task.done()]
        for gate in gates:
            gate.set()
        return [await task for task in reading]

    assert asyncio.run(act()) == [SETTINGS, [asdict(layer) for layer in SETTINGS.layers]]


@pytest.mark.parametrize("is_there", [False, True])
def test_a21_who_is_cancelled_leaves_no_part_of_a_file(tmp_path: Path, is_there: bool) -> None:
    path, begun, gate = tmp_path / "config.json", threading.Event(), threading.Event()
    if is_there:
        save_config_to_json({"old": 1}, path)

    def endless() -> Iterator[int]:
        for number in itertools.count():
            if number == 10_000:
                begun.set()
                assert gate.wait(PATIENCE)
            yield number

    async def act() -> None:
        saving = asyncio.ensure_future(save_config_to_json_async({"items": endless()}, path))
        await asyncio.to_thread(begun.wait)
        assert [name for name in os.listdir(tmp_path) if name.endswith(".draft")]
        saving.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not saving.done(), "whoever waits for it hears once nothing is left"
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await saving
        assert os.listdir(tmp_path) == (["config.json"] if is_there else [])

    asyncio.run(act())
    if is_there:
        assert load_config_from_json(path) == {"old": 1}


def test_a19_a20_a22_the_libraries_are_imported_when_they_are_needed(tmp_path: Path) -> None:
    program = f"""
import sys
from asyncckpt.run.json_file import save_config_to_json, load_config_from_json, iterate_config_in_json
assert save_config_to_json({{"a": 1}}, {str(tmp_path / "c.json")!r})
assert load_config_from_json({str(tmp_path / "c.json")!r}) == {{"a": 1}}
assert not {{"zstandard", "cryptography", "ijson"}} & set(sys.modules)
for name in ("zstandard", "ijson"):
    sys.modules[name] = None
assert not save_config_to_json({{"a": 1}}, {str(tmp_path / "c.json.zst")!r})
try:
    list(iterate_config_in_json({str(tmp_path / "c.json")!r}, "a"))
except Exception as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "asyncckpt[json]" in ended.stdout
    assert "asyncckpt[zstd]" in ended.stderr
