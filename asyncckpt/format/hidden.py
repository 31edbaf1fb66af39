"""Hidden: the part of a manifest or report that says what the state is, encrypted with the packs that it describes.

Names of tensors, their shapes, the digests of their plain bytes and all values of the state are in it. What stays
readable is what listing, checking, copying and removing take: sequence numbers, packs and their frames.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from asyncckpt.errors import UnsupportedFormat
from asyncckpt.format.cipher import Cipher, new_salt
from asyncckpt.format.codec import Codec, Compressor, codec_of, stretched
from asyncckpt.format.sealed import Json

_ABOUT = "manifest"


def hide(data: bytes, codec: Codec, beside: bytes) -> Json:
    """`data` as a JSON object that says nothing of it; bound to `beside`."""
    if codec.key is None:
        raise ValueError("nothing hides without a key")
    salt, length = new_salt(), len(data)
    small = bytes(Compressor("a manifest").squeeze(data)) if codec.compresses else data
    locked = Cipher(codec.key, salt, _ABOUT, "a manifest").lock(0, small, _bound(beside, length))
    return {"codec": codec.word, "length": length, "salt": salt, "data": base64.b64encode(locked).decode("ascii")}


def reveal(fields: Mapping[str, Any], beside: bytes, what: str) -> bytes:
    """The inverse of `hide`; raises `KeyUnavailable`, `CheckpointCorruptError`, `UnsupportedFormat`, and KeyError,
    TypeError or ValueError for what is no such object.
    """
    word, length, salt = fields["codec"], fields["length"], fields["salt"]
    try:
        codec = codec_of(word)
    except ValueError:
        raise UnsupportedFormat(f"{what} uses codec {word!r}: upgrade asyncckpt") from None
    if codec.key is None or type(length) is not int:
        raise ValueError(f"hidden with {word!r}, {length!r} bytes")
    try:
        locked = base64.b64decode(fields["data"], validate=True)
    except binascii.Error as error:
        raise ValueError(f"what is hidden is no base64: {error}") from error
    return stretched(Cipher(codec.key, salt, _ABOUT, what).unlock(0, locked, _bound(beside, length)), length, what)


def _bound(beside: bytes, length: int) -> bytes:
    return b"%d %s" % (length, beside)
