"""The run file: what it fixes is refused where this version does not know it."""

from __future__ import annotations

import pytest

from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format.runfile import RunFile, decode, is_torn
from asyncckpt.format.sealed import seal


def test_a_run_file_comes_back() -> None:
    run = RunFile("id", "whole", 5)
    assert decode(run.encode(), "it") == run


@pytest.mark.parametrize("change", [{"mode": "other"}, {"publish": "other"}])
def test_other_ways_of_committing_are_refused(change: dict) -> None:
    with pytest.raises(UnsupportedFormat, match="upgrade asyncckpt"):
        decode(seal({"id": "x", "mode": "exclusive", "publish": "whole", "created": 5, **change}), "it")


def test_a_lacking_field_is_damage() -> None:
    with pytest.raises(CheckpointCorruptError):
        decode(seal({"mode": "exclusive", "publish": "whole"}), "it")


@pytest.mark.parametrize("data", [b'{"format": 99}', b'{"format":2,"id":"x","digest":"0"}'])
def test_a_newer_format_is_named_however_it_is_sealed(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match="upgrade asyncckpt"):
        decode(data, "it")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"hello", b'{"format": 1}', b"99", b'["format"]', b"\xff" * 99, b"[" * 99999]
)
def test_anything_else_is_damage(data: bytes) -> None:
    with pytest.raises(CheckpointCorruptError, match=rf"it is damaged: .*\({len(data)} bytes\)"):
        decode(data, "it")


def test_a_crash_leaves_a_beginning_of_a_run_file_and_nothing_else() -> None:
    whole = RunFile("0123456789abcdef", "torn", 1_790_000_000_123_456).encode()
    assert all(is_torn(whole[:length]) for length in range(len(whole)))
    for other in (whole, whole + b" ", whole[1:], b'{"lr": 0.1}', b"hello", b'{"created": 1', bytes(9), b"x" * 100_000):
        assert not is_torn(other)
    assert not is_torn(RunFile("0123456789abcdef", "whole", 1_790_000_000_123_456).encode()[:-40])
