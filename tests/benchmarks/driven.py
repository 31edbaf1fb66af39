"""A process that drives one system of the benchmarks as they do, and reads back by that system's own means.

A process of its own for each: some of them start process groups, or leave threads behind.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.subjects import Optimized, parameters, state_of, tensors_of
from benchmarks.systems import make


def live(subject: Optimized) -> dict[str, Tensor]:
    return tensors_of(state_of(subject))


def differing(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    return [name for name, tensor in found.items() if name in expected and not torch.equal(tensor, expected[name])]


def main(name: str, folder: str) -> None:
    torch.manual_seed(0)
    subject = Optimized(parameters(6, 1000))
    system = make(name, subject, Path(folder) / "saves")
    for step in (1, 2):
        subject.step()
        system.after_step(step)
        saved = {path: tensor.clone() for path, tensor in live(subject).items()}
        assert len(saved) == 6 + 3 * 6
        system.save(step)
        subject.step()  # while it is under way
        assert len(differing(live(subject), saved)) == len(saved)
        system.wait()
        system.prune()
    loaded = {path: tensor for path, tensor in system.load().items() if path in saved}
    assert loaded.keys() >= {path for path in saved if path.startswith("model.")}
    assert differing(loaded, saved) == []
    assert all(tensor.data_ptr() != live(subject)[path].data_ptr() for path, tensor in loaded.items())
    system.restore()
    brought = {path for path, tensor in live(subject).items() if torch.equal(tensor, saved[path])}
    assert brought >= {path for path in saved if path.startswith("model.")}
    # What is read back in neither way nobody can say was saved.
    assert sorted(saved.keys() - brought - loaded.keys()) == []
    system.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
