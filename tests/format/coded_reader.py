"""What docs/format.md says of codecs, on top of the plain reader: one library for each, and the standard one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.format.plain_reader import Reader


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


class CodedReader(Reader):
    """Of a run whose packs are compressed or encrypted, with these keys."""

    def __init__(self, root: Path, keys: Collection[bytes]) -> None:
        super().__init__(root)
        self.keys = {hashlib.sha256(b"asyncckpt key id\0" + key).hexdigest()[:16]: key for key in keys}

    def opened(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if "hidden" not in manifest:
            return super().opened(manifest)
        hidden, clear = manifest["hidden"], {n: v for n, v in manifest.items() if n not in ("hidden", "digest")}
        assert clear["run"] == self.run["id"]
        assert clear["format"] in (1, 2)
        beside = canonical(clear)
        if clear["format"] == 1:
            told = [str(clear[name]) for name in ("run", "seq", "step", "inc", "nonce", "world")]
            beside = " ".join([*told, canonical(clear["packs"])])
        bound, length, data = f"{hidden['length']} {beside}", hidden["length"], base64.b64decode(hidden["data"])
        inner = self.frame(0, data, hidden["codec"], hidden["salt"], "manifest", bound, length)
        return {**clear, **json.loads(inner)}

    def pack(self, pack: dict[str, Any]) -> bytes:
        if pack["codec"] == "none":
            return super().pack(pack)
        key, length, frames, codec = pack["key"], pack["length"], pack["frames"], pack["codec"]
        stored, plain = self.get(key), b""
        for number, (size, _) in enumerate(frames["stored"]):
            bound = f"{key} {number} {frames['size']} {length}"
            part, left = stored[:size], min(frames["size"], length - len(plain))
            plain += self.frame(number, part, codec, frames["salt"], f"pack {key}", bound, left)
            stored = stored[size:]
        return plain

    def frame(self, number: int, data: bytes, codec: str, salt: str, about: str, bound: str, length: int) -> bytes:
        compression, _, key_id = codec.rpartition("aes256gcm:")
        if key_id and key_id in self.keys:
            extracted = hmac.digest(bytes.fromhex(salt), self.keys[key_id], "sha256")
            key = hmac.digest(extracted, f"asyncckpt {about}\1".encode(), "sha256")
            data = AESGCM(key).decrypt(number.to_bytes(12, "big"), data, bound.encode())
        if len(data) < length:
            assert (compression or codec).startswith("zstd")
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=length)
        assert len(data) == length
        return data
