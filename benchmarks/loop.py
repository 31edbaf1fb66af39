"""The training loop under measurement: a GPT of GPT-2's size and AdamW, 1.5 GB of state, about 0.6 s a step here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of the model, and of the one sequence per step."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 50304
    tokens: int = 96


SMALL = Shape(width=128, layers=2, heads=4, vocabulary=2048)


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.attend(self.before(x)).split(width, 2)
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        widened: Tensor = self.narrow(F.gelu(self.widen(self.after(x))))
        return x + widened


class _Model(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.places = nn.Embedding(shape.tokens, shape.width)
        self.blocks = nn.Sequential(*(_Block(shape) for _ in range(shape.layers)))
        self.norm = nn.LayerNorm(shape.width)
        for table in (self.words, self.places):
            # GPT-2's own. At nn.Embedding's standard deviation of 1 the logits are so far apart that most probabilities
            # and thus gradients are denormal numbers: a step takes up to ten times as long, ever longer.
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        logits: Tensor = self.norm(self.blocks(x)) @ self.words.weight.t()
        return logits


class Training:
    """A `Subject`: a model, its optimizer, and one step of training at a time."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(0)
        self.shape = shape
        self.model = _Model(shape)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.extra: Mapping[str, nn.Module] = {}

    def before_update(self, call: Callable[[], None]) -> None:
        self.optimizer.register_step_pre_hook(lambda *_: call())

    @property
    def nbytes(self) -> int:
        """Bytes of parameters and optimizer state."""
        state = [t for s in self.optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        return sum(t.nbytes for t in [*self.model.parameters(), *state])

    def step(self) -> None:
        """Forward, backward, optimizer."""
        tokens = torch.randint(0, self.shape.vocabulary, (1, self.shape.tokens + 1))
        logits = self.model(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
