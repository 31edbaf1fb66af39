"""Resuming: one training that is killed and started again, its state on an S3 server, by one library or another.

Each module has ``Resuming(training, url, options)``; importing it imports all that it needs.
"""

from __future__ import annotations

from typing import Protocol


class Resumes(Protocol):
    """How one training gets its state back."""

    def save(self) -> None:
        """Store its state; returns once the store has it."""
        ...

    def read(self) -> None:
        """Have the training's model and optimizer in the state that was stored."""
        ...


MODULES = {
    "asyncckpt": "own",
    "obstore": "obstore_raw",
    "s3torchconnector": "s3torchconnector_checkpoint",
    "boto3": "boto3_transfer",
    "torch.s3fs": "torch_load",
    "dcp.fsspec": "dcp_fsspec",
}
