"""Codecs: their words, frames that cannot be moved, and nonces that are never used twice."""

from __future__ import annotations

import json
import random
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncckpt import keys
from asyncckpt.errors import CheckpointCorruptError, KeyUnavailable, UnsupportedFormat
from asyncckpt.format import FORMAT, HIDDEN
from asyncckpt.format.cipher import OVERHEAD, Cipher, new_salt
from asyncckpt.format.codec import PLAIN, Codec, codec_of, wanted
from asyncckpt.format.contents import Contents
from asyncckpt.format.digest import digest
from asyncckpt.format.frames import Framer, Frames, frames_json, frames_of, most_stored
from asyncckpt.format.manifest import Manifest, decode, decode_shown
from asyncckpt.format.report import Report
from asyncckpt.format.report import decode as decode_report
from asyncckpt.format.sealed import seal, unseal
from tests.format.test_manifest import CONTENTS, MANIFEST, PACK

SALT = "00" * 16


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    keys.forget()
    yield keys.register(bytes(range(32)))
    keys.forget()


def test_every_codec_has_a_word_and_a_suffix(key: str) -> None:
    for codec, word, suffix in (
        (PLAIN, "none", ""),
        (Codec(True), "zstd", ".zst"),
        (Codec(False, key), f"aes256gcm:{key}", ".enc"),
        (Codec(True, key), f"zstd+aes256gcm:{key}", ".zst.enc"),
    ):
        assert (codec.word, codec.suffix, codec_of(word)) == (word, suffix, codec)
    assert wanted("zstd+aes256gcm") == Codec(True, key)


@pytest.mark.parametrize("word", ["", "gzip", "zstd+", "+zstd", "none+zstd", "aes256gcm", "aes256gcm:", "zstd+zstd"])
def test_a_word_that_is_not_known_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="unknown codec"):
        codec_of(word)


def test_the_key_of_an_id_is_that_of_every_version(key: str) -> None:
    assert key == "d8ca18248a4b1ab7", "what is encrypted names it"


def framed(codec: Codec, plain: bytes, size: int = 64, name: str = "data/a/p0") -> tuple[list[bytes], Framer]:
    framer = Framer(codec, name, len(plain), SALT, name, size)
    view = memoryview(plain)
    return [bytes(framer.make(n, view[at : at + size])) for n, at in enumerate(range(0, len(plain), size))], framer


@given(st.binary(min_size=1, max_size=300), st.booleans(), st.booleans())
def test_a19_a20_frames_come_back_and_none_is_longer_than_it_was(
    plain: bytes, compresses: bool, encrypts: bool
) -> None:
    keys.register(bytes(range(32)))
    codec = Codec(compresses, keys.primary().id if encrypts else None)
    frames, framer = framed(codec, plain)
    assert b"".join(framer.open(n, memoryview(frame), digest(frame)) for n, frame in enumerate(frames)) == plain
    lengths = [min(64, len(plain) - at) for at in range(0, len(plain), 64)]
    assert all(len(f) <= n + (OVERHEAD if encrypts else 0) for f, n in zip(frames, lengths, strict=True))


def test_a20_keys_of_both_variables_are_known_and_the_first_one_is_written_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys.forget()
    texts = [keys.generate() for _ in range(4)]
    ids = [keys.Key(b64decode(text)).id for text in texts]
    (tmp_path / "keys").write_text(f"{texts[2]}\n\n{texts[3]}\n")
    monkeypatch.setenv(keys.VARIABLE, f"{texts[0]}, {texts[1]}")
    monkeypatch.setenv(keys.FILE_VARIABLE, str(tmp_path / "keys"))
    assert [key.id for key in keys.known()] == ids
    assert keys.primary().id == ids[0]
    assert [keys.find(each, "it").id for each in ids] == ids
    registered = [keys.register(keys.generate()) for _ in range(2)]
    assert [key.id for key in keys.known()] == [*reversed(registered), *ids], "the one that was registered last"
    monkeypatch.setenv(keys.VARIABLE, f"{texts[0]},s3cr3t")
    with pytest.raises(KeyUnavailable, match=f"{keys.VARIABLE} holds what is no key") as told:
        keys.known()
    assert "s3cr3t" not in str(told.value)


def test_a20_a_frame_opens_in_its_place_and_nowhere_else(key: str) -> None:
    """Whoever can write the store can write digests too: it is the cipher that has to see it."""
    frames, framer = framed(Codec(False, key), bytes(range(200)))
    elsewhere = framed(Codec(False, key), bytes(range(200)), name="data/b/p0")[1]
    shorter = Framer(Codec(False, key), "data/a/p0", 192, SALT, "it", 64)
    changed = bytes([frames[0][0] ^ 1]) + frames[0][1:]
    for opener, number, frame in (
        (framer, 1, frames[0]),
        (elsewhere, 0, frames[0]),
        (shorter, 0, frames[0]),
        (framer, 0, changed),
        (framer, 0, frames[0][:-1]),
        (framer, 0, b""),
    ):
        with pytest.raises(CheckpointCorruptError, match="was changed, or is in another's place"):
            opener.open(number, memoryview(frame), digest(frame))


def test_a20_no_nonce_is_used_twice_with_one_key(key: str) -> None:
    """One text twice: two salts make two keys, and two numbers two nonces, so that nothing is the same."""
    ciphers = [Cipher(key, new_salt(), "pack a", "it") for _ in range(2)]
    same = [cipher.lock(number, b"text", b"") for cipher in ciphers for number in range(2)]
    assert len(set(same)) == 4
    assert Cipher(key, SALT, "pack a", "it").lock(0, b"text", b"") != Cipher(key, SALT, "pack b", "it").lock(
        0, b"text", b""
    )


def test_a19_what_was_compressed_says_nothing_of_its_length(key: str) -> None:
    """A frame that would become longer than it is, is not opened beyond that."""
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    framer = Framer(Codec(True), "data/a/p0", 100, "", "it", 64)
    with pytest.raises(CheckpointCorruptError):
        framer.open(0, memoryview(bomb), digest(bomb))
    # One that says that it is 4 EiB: nobody makes room for that before it is looked at.
    claims = b"\x28\xb5\x2f\xfd\xe0" + (1 << 62).to_bytes(8, "little") + b"\x09\x00\x00x"
    assert zstandard.frame_content_size(claims) == 1 << 62
    with pytest.raises(CheckpointCorruptError, match="holds another number of bytes than 64"):
        framer.open(0, memoryview(claims), digest(claims))
    with pytest.raises(ValueError, match="frame 1 of it has 64 bytes, not 36"):
        framer.make(1, memoryview(bytes(64)))


FRAMES = Frames(4096, "", ((100, "a" * 32), (20, "b" * 32)))
IN_FRAMES = replace(PACK, key="data/d/p0.zst", codec="zstd", frames=FRAMES)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": "4096"},
        {"salt": "x"},
        {"salt": None},
        {"stored": [[100, "a"]]},
        {"stored": [[100, "a"], [0, "b"]]},
        {"stored": [[100, "a"], [20, 5]]},
        {"stored": 7},
    ],
)
def test_frames_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    fields = json.loads(json.dumps(frames_json(FRAMES)))
    assert frames_of(fields, PACK.length) == FRAMES
    with pytest.raises((ValueError, TypeError)):
        frames_of({**fields, **change}, PACK.length)


def test_a_manifest_says_how_packs_are_stored() -> None:
    manifest = replace(MANIFEST, contents=replace(CONTENTS, packs=(IN_FRAMES,)))
    assert decode(manifest.encode(), "it") == manifest
    assert IN_FRAMES.stored == 120
    assert PACK.stored == PACK.length
    for pack in (replace(IN_FRAMES, codec="none"), replace(PACK, codec="zstd")):
        wrong = replace(MANIFEST, contents=replace(CONTENTS, packs=(pack,)))
        with pytest.raises(CheckpointCorruptError, match="frames belie"):
            decode(wrong.encode(), "it")


def hidden(word: str, **changes: Any) -> Manifest:
    pack = replace(IN_FRAMES, codec=word, frames=replace(FRAMES, salt=SALT))
    return replace(MANIFEST, contents=replace(CONTENTS, packs=(pack,), hidden=word), **changes)


@pytest.mark.parametrize("word", ["aes256gcm", "zstd+aes256gcm"])
def test_a20_what_is_hidden_comes_back_and_says_nothing(word: str, key: str) -> None:
    manifest = hidden(f"{word}:{key}")
    data = manifest.encode()
    assert decode(data, "it") == manifest
    assert not [name for name in (b"float32", b'"model"', b'"w"', b"d" * 32) if name in data]
    assert data != manifest.encode(), "another salt"
    report = Report("w" * 32, 42, "5f2c9a01", 1000, 3, 8, "f" * 32, manifest.contents)
    assert decode_report(report.encode(), "it") == report
    reported = report.encode()
    assert b'"model"' not in reported
    keys.forget()
    (pack,) = manifest.contents.packs
    assert decode_shown(data, "it") == replace(
        manifest, contents=Contents((replace(pack, digest=""),), {}, {}, hidden=manifest.contents.hidden)
    )
    for read in (lambda: decode(data, "it"), lambda: decode_report(reported, "it")):
        with pytest.raises(KeyUnavailable, match=f"it is encrypted with key {key}, and there is none here"):
            read()


def test_a20_what_is_hidden_belongs_to_one_manifest_and_its_packs(key: str) -> None:
    fields = unseal(hidden(f"aes256gcm:{key}").encode(), "it", also=HIDDEN)
    other = unseal(hidden(f"aes256gcm:{key}", seq=43).encode(), "it", also=HIDDEN)
    packs = [{**fields["packs"][0], "key": "data/e/p0"}]
    for change in (
        {"hidden": other["hidden"]},
        {"packs": packs},
        {"packs": []},
        {"run": "another"},
        {"step": 7},
        {"world": 2},
        {"code_version": "87654321"},
        {"partial": ["optimizer"]},
        {"hidden": {**fields["hidden"], "length": 9}},
    ):
        forged = {name: value for name, value in {**fields, **change}.items() if name != "format"}
        for version in (HIDDEN, FORMAT):  # nor does it help to say that it is from before all of that was bound
            with pytest.raises(CheckpointCorruptError, match="was changed, or is in another's place"):
                decode(seal(forged, version), "it")
    unknown = {**fields, "hidden": {**fields["hidden"], "codec": "rot13"}}
    del unknown["format"]
    with pytest.raises(UnsupportedFormat, match="codec 'rot13': upgrade asyncckpt"):
        decode(seal(unknown, HIDDEN), "it")


def test_a_plain_manifest_is_shown_whole() -> None:
    assert decode_shown(MANIFEST.encode(), "it") == MANIFEST
    with pytest.raises(CheckpointCorruptError, match="it is damaged"):
        decode_shown(MANIFEST.encode()[:-1], "it")


@pytest.mark.parametrize("compresses", [False, True])
def test_a_pack_is_never_stored_in_more_than_was_said(compresses: bool, key: str) -> None:
    noise = random.Random(0).randbytes(1000)
    for length in (0, 1, 63, 64, 65, 1000):
        frames, _ = framed(Codec(compresses, key), noise[:length])
        assert sum(map(len, frames)) <= most_stored(length, 64) <= length + 16 * 16
