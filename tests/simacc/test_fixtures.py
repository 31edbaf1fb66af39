"""The fixture: it hides the device from other tests, and fails those that leave something behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncckpt.testing.simacc import _C

pytest_plugins = ["pytester"]

HEAD = """
import torch
from asyncckpt.testing import simacc
from asyncckpt.testing.simacc.fixtures import simulated
"""


@pytest.fixture(autouse=True)
def _the_build_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytester has a home of its own."""
    monkeypatch.setenv("ASYNCCKPT_SIMACC_CACHE", str(Path(_C.__file__).parents[1]))


def outcomes(pytester: pytest.Pytester, body: str) -> tuple[dict[str, int], str]:
    pytester.makepyfile(HEAD + body)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    return result.parseoutcomes(), result.stdout.str()


def test_a_test_that_leaves_nothing_passes(pytester: pytest.Pytester) -> None:
    body = """
def test_without():
    assert not torch.accelerator.is_available()

def test_with(simulated):
    assert torch.accelerator.is_available()
    simacc.configure(kernel_latency=0.5)

def test_again(simulated):
    simacc.configure(available=False)
    simacc.reset_knobs()
    assert simacc._C.knobs()["kernel_latency"] == 0
    assert simacc.stats().get("tasks", 0) == 0

def test_after():
    assert not torch.accelerator.is_available()
"""
    assert outcomes(pytester, body)[0] == {"passed": 4}


def test_a_race_fails_the_test(pytester: pytest.Pytester) -> None:
    body = """
def test_race(simulated):
    x = torch.ones(4, device="sim")
    with torch.Stream(device="sim"):
        x.add_(1)
"""
    counts, output = outcomes(pytester, body)
    assert counts == {"passed": 1, "errors": 1}
    assert "races with earlier write by stream 0 (fill_)" in output


def test_a_stream_that_is_still_held_fails_the_test_and_no_other(pytester: pytest.Pytester) -> None:
    body = """
def test_held(simulated):
    simacc.hold(torch.accelerator.current_stream())
    torch.ones(4, device="sim")

def test_next(simulated):
    torch.ones(4, device="sim").cpu()
"""
    counts, output = outcomes(pytester, body)
    assert counts == {"passed": 2, "errors": 1}
    assert "1 streams were still held at the end of the test" in output


def test_an_error_of_a_task_fails_the_test(pytester: pytest.Pytester) -> None:
    body = """
def test_error(simulated):
    torch.ones(4, device="sim")[torch.tensor([9]).to("sim")]
"""
    counts, output = outcomes(pytester, body)
    assert counts == {"passed": 1, "errors": 1}
    assert "index 9 is out of bounds" in output


def test_it_is_found_by_its_name() -> None:
    from asyncckpt.testing.simacc import fixtures

    assert fixtures.__all__ == ["simulated"]
    assert fixtures.__file__ is not None
    assert (Path(fixtures.__file__).parent / "README.md").exists()
