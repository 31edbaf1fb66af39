"""Capture: what stays the same between saves is encoded once, and what does not is never taken for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from asyncckpt.format import sealed
from asyncckpt.format.sealed import canonical
from asyncckpt.state.capture import Capture
from asyncckpt.state.stateful import component


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many characters each call of the JSON encoder gave."""
    found: list[int] = []
    dumps: Callable[..., str] = json.dumps

    def counted(*arguments: Any, **options: Any) -> str:
        text = dumps(*arguments, **options)
        found.append(len(text))
        return text

    monkeypatch.setattr(sealed.json, "dumps", counted)
    return found


def test_the_form_of_the_state_is_encoded_once_and_hyperparameters_at_every_save(lengths: list[int]) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(50)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)

    def train() -> None:
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()

    train()
    parts = {"model": component(("model",), model), "optimizer": component(("optimizer",), optimizer)}
    capture = Capture({"shared": parts}, lambda: ())
    first = canonical(dict(capture.read().values))
    lengths.clear()
    train()
    assert canonical(dict(capture.read().values)) == first
    assert 0 < sum(lengths) < len(first) / 10

    optimizer.param_groups[0]["lr"] = 0.25
    changed = canonical(dict(capture.read().values))
    assert changed.replace(b'"0.25"', b'"0.5"') == first != changed

    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.5})
    optimizer.param_groups[1]["params"][0].grad = torch.ones(1)
    train()
    grown = canonical(dict(capture.read().values))
    assert grown.count(b'["exp_avg_sq",') == changed.count(b'["exp_avg_sq",') + 1


def test_a_scan_that_was_cut_short_is_made_anew() -> None:
    model, presses = torch.nn.Sequential(torch.nn.Linear(1, 1)), list[BaseException]()

    def lazy() -> tuple[int, ...]:
        if presses:
            raise presses.pop()
        return ()

    capture = Capture({"shared": {"model": component(("model",), model)}}, lazy)
    capture.read()
    model.append(torch.nn.Linear(1, 1))
    presses.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        capture.read()
    assert [source.path for source in capture.read().sources] == [("model", name) for name in model.state_dict()]
