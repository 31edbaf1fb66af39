"""The page in a real browser, asked over a real socket: drawn, quiet, inert, in both themes, and without JavaScript."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from asyncckpt.testing.servers import dying_with_parent

from .conftest import EVIL, EVIL_NAME, train

if sys.platform != "linux":
    pytest.skip("the browser of these tests runs on Linux", allow_module_level=True)

from asyncckpt.testing.browser import Browser, Page, program

EVIL_RUN = f"run/{quote(EVIL_NAME)}"
LUMINANCE = """
(() => { const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
         return 0.2126 * r + 0.7152 * g + 0.0722 * b })()
"""


@contextmanager
def site(root: Path) -> Iterator[str]:
    """The URL of ``asyncckpt serve``, a process of its own."""
    command = dying_with_parent(sys.executable, "-m", "asyncckpt", "serve", str(root), "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield line.split(" is shown at ")[1].split()[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def url(runs: Path) -> Iterator[str]:
    with site(runs) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if program() is None:
        reason = "there is no Chromium here: make test gets it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with Browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


def assert_quiet(page: Page, url: str) -> None:
    """Nothing went wrong, nobody else was asked for anything, and nothing of a run was run."""
    assert page.errors == []
    assert [asked for asked in page.requests if not asked.startswith(url)] == []
    assert page.value("window.bad") is None
    assert page.value("document.querySelectorAll('img, main script, [style], [onerror], [onmouseover]').length") == 0


PATHS = ["", "run/plain", "run/plain/00000002", EVIL_RUN, "diff?a=plain@best&b=plain@latest", "compare?run=plain&run="]


@pytest.mark.parametrize("path", PATHS)
def test_every_page_is_quiet_and_asks_nobody_else(browser: Browser, url: str, path: str) -> None:
    page = browser.open(url + (path + quote(EVIL_NAME) if path.endswith("=") else path))
    assert_quiet(page, url)
    for width in (1280, 390):  # a telephone's
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        assert page.value("[document.documentElement.scrollWidth, innerWidth]") == [width, width]


def test_what_is_in_a_run_is_shown_and_does_nothing(browser: Browser, url: str) -> None:
    page = browser.open(url + EVIL_RUN)
    text = page.value("document.querySelector('main').textContent")
    assert EVIL_NAME in text
    assert EVIL in text
    page.follow("document.querySelector('td.id a').click()")
    assert EVIL in page.value("document.querySelector('main').textContent")
    assert_quiet(page, url)


def test_curves_and_saves_are_drawn_and_tell_their_values(browser: Browser, url: str) -> None:
    page = browser.open(f"{url}run/plain")
    assert page.value("document.querySelectorAll('.chart path.line').length") == 3
    assert page.value("Math.min(...[...document.querySelectorAll('path.line')].map(e => e.getTotalLength()))") > 100
    assert page.value("document.querySelectorAll('line.bar').length") == 4
    for kind, said in (("chart", "step 400\n0.8"), ("saves", "00000004")):
        x, y = page.value(
            f"(() => {{ const svg = document.querySelector('svg[data-hover={kind}]'); svg.scrollIntoView();"
            "const box = svg.getBoundingClientRect(); return [box.right - 8, box.top + 50] })()"
        )
        page.point(x, y)
        page.until(f"document.querySelector('.tip').textContent.includes({json.dumps(said)})")
        assert page.value(
            "(() => { const [tip, figure] = [document.querySelector('.tip'), document.querySelector('.tip').parentNode]"
            ".map((each) => each.getBoundingClientRect()); return tip.left >= figure.left && tip.right <= figure.right"
            " && tip.top >= figure.top && tip.top <= figure.bottom })()"
        )


def test_two_checkpoints_are_chosen_and_their_difference_is_shown(browser: Browser, url: str) -> None:
    page = browser.open(f"{url}run/plain")
    page.value("document.querySelector('input[name=a][value=\"plain@00000002\"]').click()")
    page.value("document.querySelector('input[name=b][value=\"plain@00000004\"]').click()")
    page.follow("document.querySelector('form[action$=diff] button').click()")
    assert "changedmodel.0.weight" in page.value("document.querySelector('main').textContent")
    assert_quiet(page, url)


def test_it_is_dark_or_light_as_the_system_is_and_as_somebody_chooses(browser: Browser, url: str) -> None:
    light, dark = browser.open(url), browser.open(url, dark=True)
    assert dark.value(LUMINANCE) < 60
    assert light.value(LUMINANCE) > 200
    for _ in range(2):  # to light, then to dark
        light.value("document.getElementById('theme').click()")
    light.go(f"{url}run/plain")
    assert light.value(LUMINANCE) < 60
    light.value("localStorage.clear()")


def test_it_is_readable_without_javascript(browser: Browser, url: str) -> None:
    page = browser.open(f"{url}run/plain", scripts=False)
    text = page.value("document.querySelector('main').textContent")
    assert "kept: best" in text
    assert page.value("document.querySelectorAll('.chart path.line').length") == 3
    assert page.value("document.getElementById('theme').hidden")


def test_an_open_page_follows_its_run(browser: Browser, runs: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(runs / "plain", tmp_path / "plain", symlinks=True))
    with site(root) as url:
        page = browser.open(f"{url}run/plain")
        page.value("document.querySelector('details').open = true")
        train(root, {500: 0.05}, config={"lr": 1e-3})
        page.until("document.querySelector('main').textContent.includes('00000005')")
        assert page.value("document.querySelector('details').open")
        assert page.value("document.getElementById('live').textContent") == "up to date"
        assert_quiet(page, url)


def test_a_page_whose_server_has_gone_says_so(browser: Browser, runs: Path) -> None:
    with site(runs) as url:
        page = browser.open(f"{url}run/plain")
    page.value("renew()")
    assert "not up to date" in page.value("document.getElementById('live').textContent")
    assert "kept: best" in page.value("document.querySelector('main').textContent")
