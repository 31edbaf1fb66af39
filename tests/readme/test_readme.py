"""The README is true: every Python block of it runs as pasted, in order, in an empty folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_every_python_block_runs_as_pasted(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    for number, block in enumerate(blocks):
        script = tmp_path / f"block{number}.py"
        script.write_text(block)
        subprocess.run([sys.executable, "-W", "error", script.name], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "runs/first/run.json").exists()


def test_every_file_and_folder_it_names_exists() -> None:
    text = README.read_text()
    named = set(re.findall(r"`((?:asyncckpt|tests|benchmarks)/[\w./]*)`", text))
    named |= {f"asyncckpt/{name}" for name in re.findall(r"`((?:[a-z]+/)?\w+\.py)`", text) if name[:10] != "asyncckpt/"}
    assert len(named) > 12
    assert [name for name in sorted(named) if not (README.parent / name).exists()] == []
