"""Exporting state: a whole checkpoint, tensors and values, as torch itself would have saved it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal

from torch import Tensor

from asyncckpt.checkpoints.listing import CheckpointInfo, Which
from asyncckpt.convert import dcp, torch_file
from asyncckpt.convert.exporting import Exported
from asyncckpt.convert.place import Place
from asyncckpt.convert.plain import Plain
from asyncckpt.restores.loading import load

_SHOWN = 5


def export_state(
    root: str, which: Which, into: Place, form: Literal["torch", "dcp"], only: Collection[str] | None
) -> tuple[CheckpointInfo, Exported]:
    """Write checkpoint `which` of `root`, or the parts `only` of it, to `into`: a file, or a folder that is there.

    Beside the parts stand ``step``, ``epoch`` and ``metrics``. Raises as `asyncckpt.load` does, `UnsupportedState` for
    what the form cannot hold, as `Place.do` does, and `OSError`.
    """
    loaded = load(root, which, only=only)
    made = Plain()
    state: dict[str, Any] = {name: made.value(part, name) for name, part in loaded.state.items()}
    info = loaded.info
    state |= {"step": info.step, "epoch": info.epoch, "metrics": dict(info.metrics)}
    writer = dcp if form == "dcp" else torch_file
    into.do("writing it", lambda: writer.write(state, into))
    return info, Exported({}, sum(1 for _ in _tensors(state)), tuple(_notes(made.changed)))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _tensors(item)


def _notes(changed: dict[str, str]) -> Iterator[str]:
    shown = [f"{path} ({kind})" for path, kind in changed.items()]
    if shown:
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        yield f"of plain types now, as torch.load(weights_only=True) asks for: {', '.join(shown[:_SHOWN])}{more}"
