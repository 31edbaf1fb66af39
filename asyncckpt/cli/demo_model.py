"""What the demo trains: a small byte-level GPT on the source text of the Python standard library.

Everything that a checkpoint must bring back is here on purpose: tied weights, dropout (torch's generator),
jittered windows (python's), blanked bytes (numpy's, where installed) and a shuffled order with a place in it.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY = 256  # bytes


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of the model and of one batch."""

    layers: int
    heads: int
    width: int
    block: int
    batch: int
    dropout: float = 0.1


SIZES = {
    "full": Size(layers=6, heads=6, width=288, block=64, batch=4),
    "quick": Size(layers=2, heads=2, width=64, block=32, batch=4),
}


class Attention(nn.Module):
    """Causal self-attention over all heads at once."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads, self.dropout = size.heads, size.dropout
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.out = nn.Linear(size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(width, 2))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(size.width), Attention(size)
        self.norm2 = nn.LayerNorm(size.width)
        self.mlp = nn.Sequential(
            nn.Linear(size.width, 4 * size.width), nn.GELU(), nn.Linear(4 * size.width, size.width)
        )
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        out: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return out


class GPT(nn.Module):
    """A decoder-only transformer; the output projection is the token embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, size.width)
        self.positions = nn.Embedding(size.block, size.width)
        self.dropout = nn.Dropout(size.dropout)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, VOCABULARY, bias=False)
        self.apply(_initialise)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next byte at every position of `x` (batch, length)."""
        places = torch.arange(x.shape[1], device=x.device)
        hidden = self.dropout(self.tokens(x) + self.positions(places))
        logits: Tensor = self.head(self.norm(self.blocks(hidden)))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def standard_library(limit: int = 2_000_000) -> Tensor:
    """The first `limit` bytes of this Python's own modules, in the order of their names."""
    text = bytearray()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text += path.read_bytes()
        if len(text) >= limit:
            break
    return torch.frombuffer(text[:limit], dtype=torch.uint8)


class Windows:
    """Batches of `text` windows and their next bytes, shuffled anew each epoch, without end."""

    def __init__(self, text: Tensor, size: Size, *, seed: int = 0) -> None:
        self._text, self._block, self._batch = text, size.block, size.batch
        self._generator = torch.Generator().manual_seed(seed)
        self._shuffle()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self._place + self._batch > len(self._order):
            self._shuffle()
        windows = self._order[self._place : self._place + self._batch].tolist()
        self._place += self._batch
        # A window starts up to one block later than its place, so that no two epochs show the same bytes.
        starts = [window * self._block + random.randrange(self._block) for window in windows]  # noqa: S311
        rows = torch.stack([self._text[start : start + self._block + 1] for start in starts]).long()
        return _blanked(rows[:, :-1]), rows[:, 1:]

    def _shuffle(self) -> None:
        self._before_shuffle = self._generator.get_state()
        count = (len(self._text) - 1) // self._block - 1
        self._order = torch.randperm(count, generator=self._generator)
        self._place = 0

    def state_dict(self) -> dict[str, Any]:
        """The place, and the generator as it was before this epoch's shuffle: the order follows from it."""
        return {"before_shuffle": self._before_shuffle, "place": self._place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to the batch that came next when `state_dict` was taken."""
        self._generator.set_state(state_dict["before_shuffle"])
        self._shuffle()
        self._place = state_dict["place"]


def _blanked(rows: Tensor) -> Tensor:
    """`rows` with one byte in each blanked by numpy's generator; the rows themselves where numpy is absent."""
    if find_spec("numpy") is None:
        return rows
    from numpy import random as numpy_random  # numpy is an extra

    rows = rows.clone()
    for row in rows:
        row[int(numpy_random.randint(len(row)))] = 0
    return rows


def draws() -> list[str]:
    """Three draws of every generator that the process has; equal draws mean equal states."""
    drawn = [random.random() for _ in range(3)]  # noqa: S311
    drawn += torch.rand(3, dtype=torch.float64).tolist()
    if find_spec("numpy") is not None:
        from numpy import random as numpy_random

        drawn += numpy_random.random(3).tolist()
    return [value.hex() for value in drawn]


def fingerprint(state: Any) -> str:
    """A digest of a nested state: its keys, its values and every bit of its tensors."""
    digest = hashlib.sha256()
    for piece in _pieces(state):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(state: Any) -> Iterator[bytes]:
    if isinstance(state, Tensor):
        tensor = state.detach().cpu().contiguous()
        yield f"{tensor.dtype}{tuple(tensor.shape)}".encode()
        yield ctypes.string_at(tensor.data_ptr(), tensor.nbytes)  # numpy() would need numpy
    elif isinstance(state, dict):
        yield f"dict of {len(state)}".encode()
        for key, value in state.items():
            yield from _pieces(key)
            yield from _pieces(value)
    elif isinstance(state, list | tuple):
        yield f"{type(state).__name__} of {len(state)}".encode()
        for value in state:
            yield from _pieces(value)
    else:
        yield f"{type(state).__name__} {state!r}".encode()
