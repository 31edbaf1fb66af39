"""A training on a store of known bandwidth, which is told to leave; run as a program: a root, a rate, a grace."""

from __future__ import annotations

import logging
import sys

import torch

from asyncckpt import AsyncCheckpointer, Preemption
from asyncckpt.storage import from_url
from asyncckpt.testing.limited import LimitedStorage

WIDTH = 512
LAYERS = 4
"""4 MB of weights, and 8 MB that the optimizer holds."""


def main() -> None:
    root, rate, grace, executor = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), "thread"
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    optimizer = torch.optim.Adam(model.parameters())
    store = LimitedStorage(from_url(root), rate)
    told = Preemption(deadline=grace)
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, preemption=told, executor=executor) as ckpt:
        state = ckpt.resume()
        step = state.step if state else 0
        while True:
            step += 1
            model(torch.ones(1, WIDTH)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 1:
                ckpt.save(step).wait()
                print("saved", flush=True)
            ckpt.step(step)


if __name__ == "__main__":
    main()
