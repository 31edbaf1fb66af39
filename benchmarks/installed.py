"""Installed: what has to be there for a system to be measured."""

from __future__ import annotations

from importlib.util import find_spec

_MODULES = {
    "safetensors": ("safetensors",),
    "torch_checkpointing": ("torch_checkpointing",),
    "lightning": ("pytorch_lightning",),
    "torchsnapshot": ("torchsnapshot",),
    "asyncckpt.s3fs": ("s3fs",),
    "obstore": ("obstore",),
    "obstore.unsigned": ("obstore",),
    "s3torchconnector": ("s3torchconnector",),
    "boto3": ("boto3",),
    "s3fs": ("s3fs",),
    "dcp.fsspec": ("s3fs",),
    "torch.s3fs": ("s3fs",),
}


def is_installed(name: str) -> bool:
    """Whether all that system `name` needs is there."""
    return all(find_spec(module) is not None for module in _MODULES.get(name, ()))
