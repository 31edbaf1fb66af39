"""Alone: a thread whose torch operations use no threads but itself.

Torch divides a big operation on the CPU, as a copy is, among threads that OpenMP starts for each thread that asks for
one. Where there are more of them than processors, those of libgomp no longer wait actively for what comes next but fall
asleep after each operation, and they do so all over the process: from its first save to its end the steps of a training
on two cores took 15 ms instead of 9.
"""

from __future__ import annotations

import threading

import torch


def be_alone() -> None:
    """Have this thread's operations use no others from now on; everybody else's use as many as they did.

    Raises `RuntimeError` where no thread is to be had, which it takes for a moment; then nothing has changed.
    """
    if not torch.backends.openmp.is_available():
        return
    many, alone = torch.get_num_threads(), threading.Event()

    def keep() -> None:
        """What torch is told holds for the thread that says it, and for those that begin after it, by whomever."""
        alone.wait()
        torch.set_num_threads(many)

    keeper = threading.Thread(target=keep, name="asyncckpt-alone", daemon=True)
    keeper.start()
    try:
        torch.set_num_threads(1)
    finally:
        alone.set()
        keeper.join()
