"""Masking: what in a configuration is a secret, by its name or its form, wherever a configuration is written or sent.

One rule for files, trackers and reports. What is masked for no reason costs a look at the user's own file; what is not
masked is in a bucket, in a log and with a service.
"""

from __future__ import annotations

import functools
import re
from typing import Any

MASK = "***"

_NO_NUMBERS = r"secrets?|passwords?|passwd|passphrase"
_SECRET = re.compile(rf"(^|[_\-. ])(key|token|credentials?|{_NO_NUMBERS})$|api_?keys?$", re.IGNORECASE)
_NEVER_A_NUMBER = re.compile(rf"(^|[_\-. ])({_NO_NUMBERS})$", re.IGNORECASE)
"""A number under these is a secret that YAML took for one; one under ``token`` or ``key`` is a token's or a row's."""
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NO_SECRET = re.compile(r"(^|[_\-. ])(pad|eos|bos|unk|sep|cls|mask|sort|primary|foreign|group|image|text)_(token|key)$")
"""Words of language models and of tables that end like secrets."""
_IN_URL = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]+(?=@)")


def is_secret(name: str, value: Any) -> bool:
    """Whether `value` under `name` is one that nobody should read: a text, or a list with any; empty ones are not."""
    is_named_so, is_never_a_number = _judged(name)
    if not is_named_so:
        return False
    if isinstance(value, list | tuple | set | frozenset):
        return any(isinstance(item, str | bytes) for item in value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return is_never_a_number
    return isinstance(value, str | bytes) and bool(value)


@functools.lru_cache(4096)
def _judged(name: str) -> tuple[bool, bool]:
    """Whether the name is a secret's, and whether a number under it is one too; large files have few names."""
    word = _CAMEL.sub("_", name)
    is_named_so = _SECRET.search(word) is not None and _NO_SECRET.search(word.lower()) is None
    return is_named_so, _NEVER_A_NUMBER.search(word) is not None


def without_logins(text: str) -> str:
    """`text` with ``***`` for name and password of every URL in it that has both."""
    return _IN_URL.sub(MASK, text)
