"""MIGRATING.md is true: every block runs as pasted, in order: how it was, the command, and how it goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

PAGE = (Path(__file__).parents[2] / "MIGRATING.md").read_text()

NEEDED = {"Lightning": "pytorch_lightning", "the Hugging Face Trainer": "transformers", "Accelerate": "accelerate"}
"""What has to be installed for a section."""

# All in one process: to import torch and the others takes longer than the blocks.
ONE_AFTER_THE_OTHER = """
import runpy, shlex, sys
from asyncckpt.cli.app import app
for block in sys.argv[1:]:
    print("---", block, flush=True)
    if block.endswith(".py"):
        runpy.run_path(block, run_name="__main__")
    else:
        for line in open(block):
            name, *arguments = shlex.split(line)
            assert name == "asyncckpt", line
            assert not app(arguments, standalone_mode=False), line
"""


def sections() -> dict[str, list[tuple[str, str]]]:
    """The blocks of each, and what they are written in."""
    parts = re.split(r"^### From (.*)$", PAGE, flags=re.MULTILINE)[1:]
    found = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return {name: found.findall(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def test_every_system_has_a_before_a_command_and_an_after() -> None:
    assert list(sections()) == ["torch.save", "DCP", *NEEDED]
    for blocks in sections().values():
        assert [language for language, _ in blocks][:3] == ["python", "sh", "python"]
    assert sum(map(len, sections().values())) == len(re.findall(r"^```\w", PAGE, re.MULTILINE))


def test_every_block_runs_as_pasted_in_order(tmp_path: Path) -> None:
    names = []
    for name, blocks in sections().items():
        if name in NEEDED and find_spec(NEEDED[name]) is None:
            continue
        for number, (language, block) in enumerate(blocks):
            ending = "py" if language == "python" else language
            names.append(f"{name.split()[-1].lower()}{number}.{ending}")
            (tmp_path / names[-1]).write_text(block)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, *names]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=280)
    assert len(list((tmp_path / "runs").iterdir())) == len(names) // 3
