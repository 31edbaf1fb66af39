"""Page-locking that CUDA refuses: the reason is raised, and no later launch of the thread hears of it again."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from asyncckpt.staging import pinning


class Runtime:
    """Keeps the last error of each thread until it is asked for it, as CUDA's does."""

    def __init__(self) -> None:
        self.refuses = True
        self.kept: dict[int, int] = {}

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        if self.refuses:
            self.kept[threading.get_ident()] = 2
        return 2 if self.refuses else 0

    cudaHostUnregister = lambda self, address: self.cudaHostRegister(address, 0, 0)  # noqa: E731

    def cudaGetErrorString(self, code: int) -> str:
        return "out of memory"

    def cudaGetLastError(self) -> int:
        return self.kept.pop(threading.get_ident(), 0)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    found = Runtime()
    loaded = {"/somewhere/libcudart.so.13": SimpleNamespace(cudaGetLastError=found.cudaGetLastError)}
    monkeypatch.setattr(torch.cuda, "cudart", lambda: found)
    monkeypatch.setattr(pinning, "_runtime_library", lambda: "/somewhere/libcudart.so.13")
    monkeypatch.setattr(pinning.ctypes, "CDLL", loaded.__getitem__)
    return found


@pytest.mark.parametrize("call", ["register", "unregister"])
def test_an_error_is_raised_here_and_kept_for_no_launch(runtime: Runtime, call: str) -> None:
    runtime.kept[0] = 1  # another thread's
    with pytest.raises(RuntimeError, match="error 2, out of memory"):
        pinning._cuda_register(4096, 4096) if call == "register" else pinning._cuda_unregister(4096)
    assert runtime.kept == {0: 1}


def test_where_nothing_fails_nothing_is_cleared(runtime: Runtime) -> None:
    runtime.refuses = False
    runtime.kept[threading.get_ident()] = 700  # somebody else's to hear
    pinning._cuda_register(4096, 4096)
    assert runtime.kept[threading.get_ident()] == 700


def test_a_runtime_that_cannot_forget_is_said(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pinning.ctypes, "CDLL", lambda path: SimpleNamespace())
    with pytest.raises(RuntimeError, match="out of memory"):
        pinning._cuda_register(4096, 4096)
    assert "next launch may raise it" in caplog.text


@pytest.mark.parametrize("name", ["libcudart.so.12", "libcudart-d0da41ae.so.11.0", "libamdhip64.so"])
def test_the_library_is_the_one_that_is_loaded(name: str, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        f"7f00-7f01 r-xp 00000000 fe:01 12 /lib/libc.so.6\n7f02-7f03 r-xp 0 fe:01 13   /a b/{name}\n7f04 rw 0 0\n"
    )
    assert pinning._runtime_library(maps) == f"/a b/{name}"
    maps.write_text("7f00-7f01 r-xp 00000000 fe:01 12 /lib/libc.so.6\n")
    assert pinning._runtime_library(maps) is None
    assert pinning._runtime_library(tmp_path / "none") is None
