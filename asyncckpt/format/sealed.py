"""Sealed JSON: a canonical JSON object whose last field is the digest of all bytes before it.

Canonical: ASCII, keys sorted, no spaces, integers only. One value has one encoding, so that equal bytes mean
equal records, which is what the commit compares after a lost reply.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from functools import cached_property
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, NoReturn, TypeAlias

from asyncckpt.errors import CheckpointCorruptError, UnsupportedFormat
from asyncckpt.format import FORMAT
from asyncckpt.format.digest import digest

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | Fixed | None"
"""JSON without fractions: a float in a digest-compared document has too many spellings."""

_TAIL = len(',"digest":""}') + 32

_STAND_IN = secrets.token_hex(16)
"""That no string of any value is the same: nobody is told it."""


class Fixed:
    """A value that many documents have in common, encoded once: `canonical` puts it where it stands as it is.

    The form of an optimizer's state with 20,000 tensors is 1.4 MB of JSON. To encode it takes 25 ms, in which no other
    thread of the process runs a line of Python.
    """

    def __init__(self, value: Json) -> None:
        self._value = value

    @classmethod
    def encoded(cls, encoding: str) -> Fixed:
        """The value that has this canonical `encoding`, which is not looked at."""
        made = cls.__new__(cls)
        vars(made)["encoding"] = encoding
        return made

    @cached_property
    def encoding(self) -> str:
        """The value's canonical encoding, ASCII."""
        return canonical(self._value).decode("ascii")


def canonical(value: Json) -> bytes:
    """The one encoding of `value`."""
    fixed: list[str] = []

    def take(part: object) -> str:
        if not isinstance(part, Fixed):
            raise TypeError(f"a {type(part).__name__} is no JSON")
        fixed.append(part.encoding)
        return _STAND_IN

    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=take)
    if fixed:
        first, *others = text.split(f'"{_STAND_IN}"')
        text = first + "".join(part + other for part, other in zip(fixed, others, strict=True))
    return text.encode("ascii")


def canonical_object(fields: Mapping[str, Json | bytes]) -> bytes:
    """The one encoding of an object; bytes stand for what they are the canonical encoding of."""
    encoded = ((key, value if isinstance(value, bytes) else canonical(value)) for key, value in sorted(fields.items()))
    return b"{%s}" % b",".join(b"%s:%s" % (_quoted(key).encode("ascii"), value) for key, value in encoded)


def seal(fields: Mapping[str, Json | bytes], version: int = FORMAT) -> bytes:
    """Encode `fields` (which must not hold ``digest``) with the digest of the encoding at the end.

    Bytes stand for what they are the canonical encoding of.
    """
    body = canonical_object({**fields, "format": version})
    return b'%s,"digest":"%s"}' % (body[:-1], digest(body).encode("ascii"))


def sealed_digest(data: bytes | memoryview) -> str:
    """The digest that sealed `data` carries; only meaningful once `unseal` accepted it."""
    return bytes(data[-34:-2]).decode("ascii", "replace")


def is_sealed(data: bytes | memoryview, expected: str) -> bool:
    """Whether `data`, to the last byte, is what was sealed with the digest `expected`."""
    raw = bytes(data)
    return raw[-_TAIL:] == b',"digest":"%s"}' % expected.encode("ascii") and digest(raw[:-_TAIL] + b"}") == expected


def unseal(data: bytes | memoryview, what: str, *, also: int = 0) -> dict[str, Any]:
    """Decode sealed JSON, checking digest and format version; `what` names the object in errors.

    `also` is the highest version of this kind of object, where there is one above `FORMAT`. Raises
    `CheckpointCorruptError` if a byte is wrong and `UnsupportedFormat` if it is from a newer version.
    """
    raw = bytes(data)
    if len(raw) <= _TAIL or not raw.endswith(b'"}') or raw[-_TAIL:-34] != b',"digest":"':
        if isinstance(version := _unsealed_version(raw), int):
            _check_version(version, what, also)  # a newer one may be sealed in another way
        raise CheckpointCorruptError(f"{what} is damaged: it does not end as it should ({len(raw)} bytes)")
    body = raw[:-_TAIL] + b"}"
    if digest(body) != sealed_digest(raw):
        raise CheckpointCorruptError(f"{what} is damaged: its digest does not match its content")
    fields = _parse(body, what)
    _check_version(fields.get("format"), what, also)
    return fields


def _check_version(version: object, what: str, also: int) -> None:
    known = max(FORMAT, also)
    if not isinstance(version, int) or version > known:
        raise UnsupportedFormat(
            f"{what} has format version {version}; this asyncckpt reads up to {known}: upgrade asyncckpt"
        )


def _unsealed_version(raw: bytes) -> object:
    """What stands where a format version would, in JSON of any spelling; None in anything else."""
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return fields.get("format") if isinstance(fields, dict) else None


def _parse(body: bytes, what: str) -> dict[str, Any]:
    try:
        fields = _DECODER.decode(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise CheckpointCorruptError(f"{what} is not canonical JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointCorruptError(f"{what} is not a JSON object")
    return fields


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not an integer")


_DECODER = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse)
"""Made once: for a record of a thousand bytes the making takes as long as the decoding."""
