"""Signed: URLs that name an object and say who asks. One serves for every range of it: a range is not signed.

To have one made takes as long as asking for a range with it, or longer.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

LIFETIME = timedelta(minutes=10)

_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Url:
    """`url`, made with the credentials of `client`, to be used `until` then, by the monotonic clock."""

    url: str
    client: Any
    until: float


class Signed:
    """Those of the objects that were read last; all on one event loop. `sign` is given a client and a name."""

    def __init__(self, sign: Callable[[Any, str], Awaitable[str]]) -> None:
        self._sign = sign
        self._known: OrderedDict[str, _Url] = OrderedDict()

    async def url(self, client: Any, name: str) -> str:
        """One of the object `name`, by the credentials of `client`."""
        known = self._known.get(name)
        if known is not None and known.client is client and time.monotonic() < known.until:
            return known.url
        # Half as long: the credentials may be half as old by now, and a read takes a while.
        until = time.monotonic() + LIFETIME.total_seconds() / 2
        url = await self._sign(client, name)
        self._known[name] = _Url(url, client, until)
        self._known.move_to_end(name)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return url

    def forget(self) -> None:
        """The store does not take one of them: so it will be with the others, by the same credentials."""
        self._known.clear()
