"""Signed: URLs that name an object and say who asks. One serves for every range of it: a range is not signed.

To have one made takes obstore's own threads and a turn of this loop, which is as much again as asking with it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass

from asyncckpt.storage.obstore.connection import LIFETIME, Stores

_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Url:
    """`url`, made with the credentials of `stores`, to be used `until` then, by the monotonic clock."""

    url: str
    stores: Stores
    until: float


class Signed:
    """Those of the objects that were read last; all on one event loop."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Url] = OrderedDict()

    async def url(self, stores: Stores, name: str) -> str:
        """One of the object `name`, by the credentials of `stores`."""
        known = self._known.get(name)
        if known is not None and known.stores is stores and time.monotonic() < known.until:
            return known.url
        # Half as long: the credentials may be half as old by now, and a read takes a while.
        until = time.monotonic() + LIFETIME.total_seconds() / 2
        url: str = await stores.obstore.sign_async(stores.asking, "GET", name, LIFETIME)
        self._known[name] = _Url(url, stores, until)
        self._known.move_to_end(name)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return url

    def forget(self, name: str) -> None:
        """The store does not take it."""
        self._known.pop(name, None)
