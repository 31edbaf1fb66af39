"""Tensors: what the clients that save a training have in common."""

from __future__ import annotations

import zlib

import torch

from benchmarks.subjects import Bare

_COUNT = 64


class Tensors:
    """Base of them: a training of `nbytes` in 64 tensors."""

    def __init__(self, nbytes: int) -> None:
        self.subject = Bare(_COUNT, nbytes // _COUNT // 4)

    def clear(self) -> None:
        with torch.no_grad():
            for parameter in self.subject.model:
                parameter.zero_()

    def checksum(self) -> int:
        found = 0
        for parameter in self.subject.model:
            found = zlib.crc32(parameter.detach().numpy(), found)
        return found
