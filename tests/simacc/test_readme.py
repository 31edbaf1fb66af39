"""simacc's README is true: its example prints what it says, and it names all there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from asyncckpt.testing import simacc
from asyncckpt.testing.simacc import _C
from asyncckpt.testing.simacc.knobs import Knobs

FOLDER = Path(simacc.__file__).parent
README = (FOLDER / "README.md").read_text()


def test_the_example_prints_what_it_says() -> None:
    example = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[0]
    printed = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, check=True)
    assert f"# {printed.stdout}" in example


def test_it_names_all_that_is_public() -> None:
    assert [name for name in simacc.__all__ if name[0].islower() and f"`{name}(" not in README] == []


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 8
    assert [link for link in links if not (FOLDER / link).exists()] == []


def test_every_knob_has_a_type() -> None:
    assert set(Knobs.__annotations__) == set(_C.knobs())
