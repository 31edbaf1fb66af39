"""Browser: a real one without a window, told what to do through a pipe, by Chrome's DevTools protocol.

It is Debian's headless shell of Chromium, which ``.ci/chromium`` unpacks into the virtual environment; another is taken
from the PATH. No port is opened: it ends with the pipe, and with the process that has it.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

assert sys.platform == "linux"  # so that type checkers for other systems leave this module out

PATIENCE = 60.0
"""Seconds that one thing may take."""

_PROGRAMS = ("chromium-headless-shell", "chrome-headless-shell", "chromium", "google-chrome")
_BEGIN = """
import ctypes, fcntl, os, sys
ctypes.CDLL(None).prctl(1, 9)
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
_FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{fonts}</dir><cachedir>{cache}</cachedir>
<alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias><family>system-ui</family><prefer><family>DejaVu Sans</family></prefer></alias>
<alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""


def program() -> Path | None:
    """Where it is, or None."""
    own = _unpacked() / "usr/lib/chromium/chromium-headless-shell"
    found = str(own) if own.exists() else next(filter(None, map(shutil.which, _PROGRAMS)), None)
    return None if found is None else Path(found)


def _unpacked() -> Path:
    return Path(sys.prefix) / "chromium"


class Browser:
    """One that keeps what it has to keep in `folder`; also a context manager, which ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._rest = b""
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Self:
        chosen = program()
        assert chosen is not None, "there is no Chromium here: make test gets it"
        theirs, self._commands = os.pipe()
        self._reports, back = os.pipe()
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-c", _BEGIN, str(theirs), str(back), str(chosen), "--no-sandbox", "--headless",
                    "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                    "--hide-scrollbars", "--disable-dev-shm-usage", f"--user-data-dir={self._folder / 'profile'}",
                ],
                pass_fds=(theirs, back), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(),
            )  # fmt: skip
        os.close(theirs)
        os.close(back)
        return self

    def _environment(self) -> dict[str, str]:
        libraries = _unpacked() / "usr/lib" / f"{os.uname().machine}-linux-gnu"
        fonts = self._folder / "fonts.conf"
        fonts.write_text(_FONTS.format(fonts=_unpacked() / "usr/share/fonts", cache=self._folder / "fonts"))
        return {
            **os.environ,
            "LD_LIBRARY_PATH": f"{libraries}:{libraries / 'pulseaudio'}",
            "FONTCONFIG_FILE": str(fonts),
            "HOME": str(self._folder),
        }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._commands)
        os.close(self._reports)

    def open(self, url: str, *, dark: bool = False, scripts: bool = True, width: int = 1280, height: int = 900) -> Page:
        """A page at `url`, once all of it is loaded."""
        target = self.call("Target.createTarget", url="about:blank", width=width, height=height)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.call("Page.setLifecycleEventsEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        page.go(url)
        return page

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """What it answers; raises `AssertionError` for what it cannot do."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (found := self.report()).get("id") != number:
            pass
        assert "error" not in found, f"{method}: {found['error']}"
        result: dict[str, Any] = found["result"]
        return result

    def report(self) -> dict[str, Any]:
        """The next thing that it says; events are told to their pages."""
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reports], [], [], max(0.0, until - time.monotonic()))
            data = os.read(self._reports, 1 << 16) if ready else b""
            assert data, f"the browser says nothing: {(self._folder / 'log').read_text()[-2000:]}"
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        if "method" in found and (page := self._pages.get(found.get("sessionId", ""))) is not None:
            page.told(found["method"], found["params"])
        return found


class Page:
    """One page: the URLs that it asked for, and everything that its console calls an error."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._browser = browser
        self._session = session
        self._loaded: set[str] = set()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers."""
        return self._browser.call(method, self._session, **parameters)

    def told(self, method: str, parameters: dict[str, Any]) -> None:
        """Take note of an event."""
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning"):
                self.errors.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(parameters["entry"]["text"])
            case "Page.lifecycleEvent" if parameters["name"] == "load":
                self._loaded.add(parameters["loaderId"])

    def go(self, url: str) -> None:
        """Go there, until all of it is loaded."""
        found = self.call("Page.navigate", url=url)
        while found["loaderId"] not in self._loaded:  # the empty page before it may be told of late
            self._browser.report()

    def follow(self, script: str) -> None:
        """Do what leads to another page, until all of that is loaded."""
        known = set(self._loaded)
        self.value(script)
        while self._loaded == known:
            self._browser.report()

    def value(self, script: str) -> Any:
        """What that expression of JavaScript is, once it is settled."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until that expression is true; fails where nothing is heard of it within `PATIENCE`."""
        look = f"const look = () => {{ try {{ if ({condition}) return done(true) }} catch {{}} setTimeout(look, 20) }}"
        assert self.value(f"new Promise((done) => {{ {look}; look() }})")

    def point(self, x: float, y: float) -> None:
        """Move the pointer there."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path) -> None:
        """Write a PNG of all of it."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))
