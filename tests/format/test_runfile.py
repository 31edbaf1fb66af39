"""The run file: what it fixes is refused where this version does not know it."""

from __future__ import annotations

import pytest

from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format.runfile import RunFile, decode
from asyncckpt.format.sealed import seal


def test_a_run_file_comes_back() -> None:
    run = RunFile("id", "whole", 5)
    assert decode(run.encode(), "it") == run


@pytest.mark.parametrize("change", [{"mode": "fenced"}, {"publish": "other"}])
def test_other_ways_of_committing_are_refused(change: dict) -> None:
    with pytest.raises(UnsupportedFormat, match="upgrade asyncckpt"):
        decode(seal({"id": "x", "mode": "exclusive", "publish": "whole", "created": 5, **change}), "it")


def test_a_lacking_field_is_damage() -> None:
    with pytest.raises(CheckpointCorruptError):
        decode(seal({"mode": "exclusive", "publish": "whole"}), "it")
