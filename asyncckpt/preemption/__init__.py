"""Preemption: how a training learns that its process is going to be killed, and what there is time for then.

::

    settings            `Preemption`: what is asked for
    notice              that somebody has given notice, and when the process is gone
    signals             handlers that note a signal and do nothing else
    watching, sources   a thread that asks clouds, Slurm, a file, the other ranks
    speed               what recent saves measured
    plan                pure: what there is time for, and why
    requeue, tally      how the job comes back, and how often it has

Nothing here saves: `asyncckpt.lifecycle.stopping` does, between two steps.
"""

from asyncckpt.preemption.settings import Preemption

__all__ = ["Preemption"]
