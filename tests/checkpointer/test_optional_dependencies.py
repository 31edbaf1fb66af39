"""P13: importing costs nothing, and what is missing is named when it is needed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from .trainings import outcome, start

IMPORT = """
import sys
seen = []
sys.addaudithook(lambda event, arguments: seen.append(event))
import threading
threads = threading.active_count()
import asyncckpt
heavy = {"torch", "numpy", "prometheus_client", "aiofiles", "xxhash", "click", "rich", "fsspec"} & set(sys.modules)
assert not heavy, heavy
assert threading.active_count() == threads
dir(asyncckpt)
import asyncckpt.errors
assert "torch" not in sys.modules
assert not {"socket.bind", "socket.connect", "subprocess.Popen", "_thread.start_new_thread", "os.fork"} & set(seen)
"""


def test_P13_importing_loads_nothing_heavy_and_starts_nothing() -> None:
    status, _, errors = outcome(start(IMPORT, options=("-W", "error")))
    assert status == 0, errors


ALL = """
from asyncckpt import *
import asyncckpt, threading
for name in asyncckpt.__all__:
    assert globals()[name] is getattr(asyncckpt, name), name
assert threading.active_count() == 1, threading.enumerate()
"""


def test_P13_every_public_name_can_be_imported_and_starts_nothing() -> None:
    status, _, errors = outcome(start(ALL, options=("-W", "error")))
    assert status == 0, errors


WITHOUT = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
import torch
from asyncckpt import AsyncCheckpointer, load
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.Adam(model.parameters())
with AsyncCheckpointer(sys.argv[1], model=model, optimizer=optimizer, metrics=0) as ckpt:
    ckpt.save(1, metrics={{"loss": 0.5}}).wait()
with AsyncCheckpointer(sys.argv[1], model=model, optimizer=optimizer) as ckpt:
    assert ckpt.resume().step == 1
    ckpt.save(2).wait()
assert load(sys.argv[1]).info.step == 2
"""


def test_P13_saving_and_resuming_work_without_anything_optional(tmp_path: Path) -> None:
    script = WITHOUT.format(missing=["numpy", "click", "rich", "safetensors", "fsspec", "pytest"])
    status, _, errors = outcome(start(script, tmp_path / "run"))
    assert status == 0, errors


def test_P13_every_dependency_that_is_imported_at_run_time_is_declared() -> None:
    requires = importlib.metadata.requires("asyncckpt") or []
    names = {line.split(">")[0].strip() for line in requires if "extra ==" not in line}
    assert names == {"torch", "aiofiles", "prometheus-client", "xxhash"}


def test_P13_the_command_line_without_its_extra_says_how_to_get_it() -> None:
    script = "import sys; sys.modules['click'] = None\nfrom asyncckpt.cli import main\nmain()"
    status, _, errors = outcome(start(script))
    assert status == 2
    assert "pip install 'asyncckpt[cli]'" in errors
    assert "Traceback" not in errors
