"""A training that is told to leave; run as a program: a root, a grace, whether it saves before that, and a library.

Where a bucket is, it knows from its environment.
"""

from __future__ import annotations

import atexit
import gc
import logging
import sys

import torch

from asyncckpt import AsyncCheckpointer, Preemption

WIDTH = 512
LAYERS = 4
"""4 MB of weights, and 8 MB that the optimizer holds."""


def main(root: str, grace: str, saves: str, library: str) -> None:
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    atexit.register(lambda: gc.get_freeze_count() and print("no garbage is looked for", file=sys.stderr))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    optimizer = torch.optim.Adam(model.parameters())
    told = Preemption(deadline=float(grace))
    options = {"backend": library} if library else None
    with AsyncCheckpointer(
        root, model=model, optimizer=optimizer, preemption=told, storage_options=options, executor="thread"
    ) as ckpt:
        state = ckpt.resume()
        step = state.step if state else 0
        while True:
            step += 1
            model(torch.ones(1, WIDTH)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 1 and saves == "saves":
                ckpt.save(step).wait()
            ckpt.step(step)
            if step == 1:
                print("ready", flush=True)  # whenever it is told now, there is a later step to be saved


if __name__ == "__main__":
    main(*sys.argv[1:])
