"""Trainer: a training loop that can be told to leave in any of its phases, and goes on in another process to the bit.

It uses nothing of this package that a loop of your own could not, and is meant to be read::

    trainer        `GenericTrainer`: what connects the loop to the runtime
    phases         `TrainerPhase`: what a training can be doing, and what may follow
    resume_state   `ResumeState`: where a training stands, as plain data
    batches        the batches of a loader, and how to come back to the middle of them
    generators     random states of a loader's own
    modes          which modules are in training
    gradients      those of all parameters, and what is done with all of them at once
    amounts        sums over batches, without waiting for a device
    among          means over the batches of all ranks
    callbacks      `TrainingCallback`: what is called as a training goes on
    config         `GenericTrainerConfig`: what can be said
"""

from __future__ import annotations

from asyncckpt.errors import TrainerError
from asyncckpt.trainer.callbacks import TrainingCallback
from asyncckpt.trainer.config import GenericTrainerConfig
from asyncckpt.trainer.phases import TrainerPhase
from asyncckpt.trainer.resume_state import ResumeState, RNGState, TrainMicroState, ValMicroState
from asyncckpt.trainer.trainer import GenericTrainer

__all__ = [
    "GenericTrainer",
    "GenericTrainerConfig",
    "RNGState",
    "ResumeState",
    "TrainMicroState",
    "TrainerError",
    "TrainerPhase",
    "TrainingCallback",
    "ValMicroState",
]
