"""Build: makes the C++ extension, once for each version of PyTorch, Python and these sources.

It lies in ``~/.cache/asyncckpt/simacc``, or where ``ASYNCCKPT_SIMACC_CACHE`` says. A build takes about half a minute.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

_SOURCES = Path(__file__).parent / "csrc"
_FLAGS = ("-std=c++20", "-O1", "-g0", "-fPIC", "-fvisibility=hidden")
_LIBRARIES = ("c10", "torch", "torch_cpu", "torch_python")
_WRITTEN_FOR = "2.13"
_COMPILERS = ("c++", "g++", "clang++")


class BuildFailed(RuntimeError):
    """simacc could not be built; the message says what is missing."""


def load(name: str) -> ModuleType:
    """The extension as module `name`, built first where it has to be.

    Processes that come here at once wait for the one that builds. Raises `BuildFailed`.
    """
    if platform.system() != "Linux":
        raise BuildFailed(f"simacc runs on Linux; this is {platform.system()}")
    library = _folder() / "_C.so"
    if not library.exists():
        with _alone(library.parent):
            if not library.exists():
                _build(library)
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _folder() -> Path:
    given = os.environ.get("ASYNCCKPT_SIMACC_CACHE")
    cache = Path(given) if given else Path.home() / ".cache" / "asyncckpt" / "simacc"
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return cache / f"torch-{torch.__version__}-{python}-{_fingerprint()}"


def _fingerprint() -> str:
    """Of all that decides what the compiler makes, but for the compiler."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. The kernel lets it go with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        if sys.platform != "win32":  # where nobody comes
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(library: Path) -> None:
    for left in library.parent.glob("building-*"):  # by a build that was killed, whose compiler may still be there
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as name:
        place = Path(name)
        # One unit of all files: reading PyTorch's headers takes most of the time, and is done once.
        sources = sorted(path.name for path in _SOURCES.glob("*.cpp"))
        (place / "all.cpp").write_text("".join(f'#include "{source}"\n' for source in sources))
        includes = [f"-I{path}" for path in (_SOURCES, *_includes())]
        libraries = [f"-L{Path(torch.__file__).parent / 'lib'}", *(f"-l{name}" for name in _LIBRARIES)]
        command = [_compiler(), *_FLAGS, "-shared", *includes, "all.cpp", *libraries, "-o", "_C.so"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildFailed(
                f"simacc could not be built. It is written for torch {_WRITTEN_FOR}; this is {torch.__version__}.\n"
                f"{' '.join(command)}\n{done.stderr}"
            )
        (place / "_C.so").replace(library)  # whole or not at all


def _compiler() -> str:
    given = os.environ.get("CXX")
    for name in [given] if given else _COMPILERS:
        if found := shutil.which(name):
            return found
    raise BuildFailed(
        f"simacc is built on first use and finds no C++ compiler ({given or ', '.join(_COMPILERS)}): "
        "install one that knows C++20, such as g++ 11 (apt install g++), or name it in CXX"
    )


def _includes() -> list[Path]:
    python = Path(sysconfig.get_paths()["include"])
    if not (python / "Python.h").exists():
        raise BuildFailed(f"simacc is built on first use and finds no {python / 'Python.h'}: apt install python3-dev")
    own = Path(torch.__file__).parent / "include"
    return [own, own / "torch" / "csrc" / "api" / "include", python]
