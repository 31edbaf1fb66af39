"""A folder that is exported for Hugging Face is one to ``transformers``, and what it saves can be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

# In a process of its own: to import transformers warns of what it likes.
THERE_AND_BACK = """
import sys, torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.cli.app import app

def run(*arguments):
    app(arguments, standalone_mode=False)

torch.manual_seed(0)
config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=8)
model = GPT2LMHeadModel(config)
assert model.lm_head.weight is model.transformer.wte.weight
with AsyncCheckpointer("run", model=model, executor="thread") as ckpt:
    ckpt.save(5).wait()
config.architectures = ["GPT2LMHeadModel"]
config.to_json_file("config.json")
run("export", "run", "hf", "--to", "hf", "--config", "config.json", "--max-shard-size", "4kB")
other, said = AutoModelForCausalLM.from_pretrained("hf", output_loading_info=True)
assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), said
mine = model.state_dict()
for name, tensor in other.state_dict().items():
    assert torch.equal(tensor, mine[name]), name
assert other.lm_head.weight is other.transformer.wte.weight
model.save_pretrained("theirs")
run("import", "theirs", "again")
found = asyncckpt.load("again").state["model"]
assert found and all(torch.equal(found[name], mine[name]) for name in found)
assert set(mine) - set(found) <= {"lm_head.weight"}
"""


def test_transformers_loads_what_was_exported_and_what_it_saves_is_imported(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", THERE_AND_BACK], cwd=tmp_path, check=True, env=environment)
