"""Findings: one key for each, and a note that says who found what, when."""

from __future__ import annotations

import pytest

from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.format.findings import Damage, Finding, among, decode, finding_of
from asyncckpt.format.marks import is_drop, mark_of
from asyncckpt.format.sealed import seal

DIGEST = "0123456789abcdef" * 2


def test_a_key_says_which_checkpoint_it_is() -> None:
    for finding in (Finding(42, DIGEST), Finding(123_456_789, DIGEST)):
        assert finding_of(finding.key) == finding
        assert mark_of(finding.key) is None
        assert not is_drop(finding.key)
    assert Finding(42, DIGEST).key == f"user/00000042-damaged-{DIGEST}.json"


@pytest.mark.parametrize(
    "key",
    [
        f"user/42-damaged-{DIGEST}.json",
        f"user/000000042-damaged-{DIGEST}.json",
        f"user/00000042-damaged-{DIGEST.upper()}.json",
        f"user/00000042-damaged-{DIGEST[1:]}.json",
        f"user/00000042-damaged-{DIGEST}.json.bak",
        "user/00000042-damaged-.json",
        "user/00000042-pin.json",
    ],
)
def test_another_spelling_is_none(key: str) -> None:
    assert finding_of(key) is None
    assert among([key, Finding(1, DIGEST).key]) == {Finding(1, DIGEST)}


def test_a_note_comes_back_and_a_damaged_one_says_so() -> None:
    damage = Damage("missing", "a pack in data/ü is missing", "me@here", 1_700_000_000_000_000)
    assert decode(damage.encode(), "it") == damage
    for data in (damage.encode()[:-3], b"", seal({"kind": "content"}), seal({**vars_of(damage), "found": "never"})):
        with pytest.raises(CheckpointCorruptError, match=r"^it "):
            decode(data, "it")


def vars_of(damage: Damage) -> dict[str, str]:
    return {"kind": damage.kind, "reason": damage.reason, "author": damage.author}
