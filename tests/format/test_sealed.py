"""Sealed JSON: one encoding per value, and no damaged or foreign byte is accepted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format import FORMAT
from asyncckpt.format.digest import digest
from asyncckpt.format.sealed import Fixed, canonical, seal, sealed_digest, unseal

SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"))
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
FIELDS = st.dictionaries(st.text().filter(lambda k: k not in ("format", "digest")), JSON)


@given(FIELDS)
def test_what_is_sealed_comes_back(fields: dict) -> None:
    assert unseal(seal(fields), "it") == {**fields, "format": FORMAT}


@given(FIELDS)
def test_equal_values_have_equal_bytes(fields: dict) -> None:
    assert seal(dict(reversed(fields.items()))) == seal(fields)


@given(st.lists(JSON, max_size=4), JSON)
def test_what_is_fixed_has_the_encoding_of_what_it_stands_for(parts: list, beside: object) -> None:
    plain = {"parts": parts, "beside": beside, "within": [[part, {"it": part}] for part in parts]}
    fixed = {"parts": [*map(Fixed, parts)], "beside": beside, "within": [[Fixed(p), {"it": Fixed(p)}] for p in parts]}
    assert canonical(fixed) == canonical(Fixed(fixed)) == canonical(plain)
    assert canonical([Fixed.encoded(canonical(part).decode()) for part in parts]) == canonical(parts)
    assert seal(fixed) == seal(plain)


def test_what_is_fixed_is_encoded_once() -> None:
    value = [1]
    fixed = Fixed(value)
    assert canonical([fixed]) == b"[[1]]"
    value.append(2)  # as nobody may: it shows who encodes anew
    assert canonical({"a": fixed}) == b'{"a":[1]}'


def test_what_is_no_JSON_is_refused_beside_what_is_fixed() -> None:
    with pytest.raises(TypeError, match="a set is no JSON"):
        canonical([Fixed(1), {2}])


def test_the_encoding_is_canonical_and_the_digest_comes_last() -> None:
    data = seal({"b": [1, 2], "a": "é\ud800"})
    body = b'{"a":"\\u00e9\\ud800","b":[1,2],"format":%d}' % FORMAT
    assert data == body[:-1] + b',"digest":"' + digest(body).encode() + b'"}'
    assert json.loads(data)["digest"] == sealed_digest(data) == digest(body)


def test_every_flipped_bit_is_noticed() -> None:
    data = seal({"step": 1000, "live": [[1, 17]]})
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(CheckpointCorruptError, match="the record"):
                unseal(bytes(damaged), "the record")


def test_every_truncation_is_noticed() -> None:
    data = seal({"step": 1000})
    for length in range(len(data)):
        with pytest.raises(CheckpointCorruptError):
            unseal(data[:length], "it")


def test_a_newer_format_is_refused_naming_both_versions() -> None:
    body = canonical({"format": FORMAT + 1})
    data = b'%s,"digest":"%s"}' % (body[:-1], digest(body).encode())
    with pytest.raises(UnsupportedFormat, match=f"version {FORMAT + 1}.* up to {FORMAT}"):
        unseal(data, "it")
    assert unseal(data, "it", also=FORMAT + 1) == {"format": FORMAT + 1}
    with pytest.raises(UnsupportedFormat, match=f"version {FORMAT + 1}.* up to {FORMAT}"):
        unseal(data, "it", also=FORMAT - 1)


@pytest.mark.parametrize("body", [b'{"a":1.5,"format":1}', b'{"a":NaN,"format":1}', b"[1,2]   ", b'{"format":1,"a":'])
def test_what_is_not_canonical_is_refused_even_with_a_right_digest(body: bytes) -> None:
    data = b'%s,"digest":"%s"}' % (body[:-1], digest(body[:-1] + b"}").encode())
    with pytest.raises(CheckpointCorruptError):
        unseal(data, "it")


def test_floats_are_refused_in_what_is_compared_by_bytes() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        canonical({"a": float("nan")})
