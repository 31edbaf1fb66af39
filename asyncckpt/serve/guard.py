"""Guard: what every request has to be before anything of it is looked at, and what every answer says to the browser.

A page that another site shows must not read this one: a name that resolves to this machine for a moment (DNS
rebinding) is refused, and nothing here may be framed, run, or fetched from elsewhere.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_READING = ("GET", "HEAD")


class Guard:
    """Lets through what reads, and is addressed to an IP address, to localhost, or to one of `names`."""

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if scope["method"] not in _READING:
            return PlainTextResponse("this page only reads: use GET or HEAD\n", 405, {"allow": ", ".join(_READING)})
        if not self._is_addressed(Headers(scope=scope).get("host", "")):
            said = "this page is asked for by its address or as localhost; serve it with --host-name for another name\n"
            return PlainTextResponse(said, 421)
        return None

    def _is_addressed(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        # No name leads elsewhere that is none.
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name in self._names
