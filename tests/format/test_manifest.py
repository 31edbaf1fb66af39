"""Manifests: lossless, a function of the reports, and refusing whatever points elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format.contents import Alias, Box, Contents, Extent, Pack, TensorEntry, merge
from asyncckpt.format.document import EncodedTensors, Form, encode_tensors
from asyncckpt.format.manifest import Manifest, decode
from asyncckpt.format.report import Report
from asyncckpt.format.report import decode as decode_report
from asyncckpt.format.sealed import seal, unseal

PACK = Pack("data/d/p0", 4096 + 24, 4096, "c" * 32)
WEIGHT = TensorEntry("float32", (2, 3), (Box((0, 0), (2, 3), (Extent(0, 4096, 24, "d" * 32),)),), (1, 2))
EMPTY = TensorEntry("float32", (0, 3), (Box((0, 0), (0, 3), ()),))
TIED = Alias(("model", "w"), "float32", (2, 3), (3, 1), 0)
CONTENTS = Contents(
    (PACK,), {("model", "w"): WEIGHT, ("model", "e"): EMPTY}, {("model", "t"): TIED}, {"state": {"a": [1, None, "x"]}}
)
MANIFEST = Manifest("run", 42, 1000, 3, "5f2c9a01", 1, CONTENTS, "12345678")


def test_a_manifest_comes_back() -> None:
    assert decode(MANIFEST.encode(), "it") == MANIFEST


def test_what_is_written_out_field_by_field_is_canonical() -> None:
    hard = TensorEntry(
        'a"\\\u2028\u00e9', (), (Box((), (), (Extent(0, 1, 2, "d"), Extent(3, 4, 5, "e"))), Box((7,), (8,), ()))
    )
    tensors = {("z", 'q"\n\u65e5'): hard, **CONTENTS.tensors}
    encoded = replace(MANIFEST, contents=replace(CONTENTS, tensors=tensors)).encode()
    assert seal(unseal(encoded, "it")) == encoded
    assert b'"tensors":' + encode_tensors(tensors) + b"," in encoded
    assert replace(MANIFEST, contents=replace(CONTENTS, tensors=EncodedTensors(tensors))).encode() == encoded


def test_a_form_that_is_filled_in_is_what_would_be_written_out() -> None:
    def made(digests: str) -> dict[tuple[str, ...], TensorEntry]:
        one, two = (Extent(0, at, 2, digest) for at, digest in enumerate(digests))
        many = TensorEntry("\0", (9,), (Box((0,), (4,), (one, two)), Box((4,), (5,), ())), (1,))
        return {("z", "\0\\u0000"): many, ("a",): TensorEntry("F", (), (Box((), (), (two,)),)), **CONTENTS.tensors}

    form = Form(made("12"))
    for digests in ("12", "ab", 'q"'):
        found = form.encoded(made(digests))
        assert found == made(digests)
        assert found.encoding == encode_tensors(made(digests))
    assert Form({}).encoded({}).encoding == encode_tensors({}) == b"[]"


def test_a_report_comes_back_and_says_which_attempt_it_belongs_to() -> None:
    report = Report("w" * 32, 42, "5f2c9a01", 1000, 3, 8, "f" * 32, CONTENTS)
    assert decode_report(report.encode(), "it") == report
    for change in ({"writer": "v"}, {"seq": 43}, {"nonce": "x"}, {"step": 1}, {"world": 4}):
        assert replace(report, **change).attempt != report.attempt
    assert replace(report, rank=4).attempt == report.attempt


def test_merging_renumbers_packs_and_keeps_every_part() -> None:
    other = Contents((replace(PACK, key="data/d/p1", rank=1),), {("rank-1", "w"): WEIGHT}, {}, {"rank-1": {}})
    merged = merge([CONTENTS, other])
    assert [p.key for p in merged.packs] == ["data/d/p0", "data/d/p1"]
    assert merged.tensors["rank-1", "w"].boxes[0].extents[0].pack == 1
    assert merged.tensors["model", "w"] == WEIGHT
    assert merged.aliases == CONTENTS.aliases
    assert merged.values.keys() == {"state", "rank-1"}


def test_two_ranks_may_not_hold_one_path() -> None:
    with pytest.raises(ValueError, match="two ranks hold"):
        merge([CONTENTS, CONTENTS])


def _with(**changes: object) -> Manifest:
    return replace(MANIFEST, contents=replace(CONTENTS, **changes))


def _weight(*extents: Extent, shape: tuple[int, ...] = (2, 3)) -> dict:
    return {("model", "w"): TensorEntry("float32", shape, (Box((0, 0), (2, 3), extents),))}


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (_with(tensors=_weight(Extent(1, 4096, 24, ""))), "lies outside of its pack|are no counts"),
        (_with(tensors=_weight(Extent(-1, 4096, 24, ""))), "lies outside of its pack|are no counts"),
        (_with(tensors=_weight(Extent(0, 4097, 24, ""))), "lies outside of its pack|are no counts"),
        (_with(tensors=_weight(Extent(0, -8, 24, ""))), "lies outside of its pack|are no counts"),
        (_with(tensors=_weight(Extent(0, 4096, 1 << 40, ""))), "lies outside of its pack|are no counts"),
        (_with(tensors=_weight(Extent(0, 4096, 24, ""), shape=(2, 4))), "do not cover it"),
        (_with(aliases={("x",): replace(TIED, of=("nothing",))}), "alias of nothing"),
        (_with(aliases={("model", "w"): TIED}), "a path stands twice"),
    ],
)
def test_what_points_elsewhere_is_damage(manifest: Manifest, reason: str) -> None:
    with pytest.raises(CheckpointCorruptError, match=reason):
        decode(manifest.encode(), "it")


def test_an_unknown_codec_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedFormat, match="codec 'lz4'"):
        decode(_with(packs=(replace(PACK, codec="lz4"),)).encode(), "it")
