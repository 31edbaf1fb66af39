"""Histograms: how the weights, and what an optimizer keeps beside them, are spread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asyncckpt.plots import theme
from asyncckpt.plots.extras import needed

_MOST = 24
_BINS = 80
_SAMPLE = 1_000_000
"""Values of one tensor that are counted; of a larger one, evenly spread ones."""


def weight_histograms(state: Mapping[str, Any], title: str = "Weights") -> bytes:
    """A picture of every tensor of floats in a `state`: a ``state_dict()``, or the one that ``asyncckpt.load`` gives.

    Of many the largest are shown. `title` stands above.
    """
    found = dict(tensors(state))
    return _histograms(found, title, sum(_size(value) for value in found.values()))


def optimizer_histograms(state: Mapping[str, Any], title: str = "Optimizer") -> bytes:
    """A picture of what an optimizer's ``state_dict()`` keeps, such as Adam's moments: for each kind, over all weights.

    That is `state`, and `title` stands above. A kind of numbers that cannot be negative, as second moments cannot, is
    shown by its powers of ten.
    """
    kinds: dict[str, list[Any]] = {}
    for kept in state.get("state", {}).values():
        for name, value in tensors(kept):
            if _size(value) > 1:
                kinds.setdefault(name, []).append(value)
    numpy = needed("numpy")
    joined = {name: numpy.concatenate([_sampled(value) for value in values]) for name, values in kinds.items()}
    return _histograms(joined, title, sum(_size(value) for values in kinds.values() for value in values))


def tensors(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every tensor or array of floats in a nested state, by its path."""
    if isinstance(state, Mapping):
        for name, value in state.items():
            yield from tensors(value, f"{path}.{name}" if path else str(name))
    elif isinstance(state, list | tuple):
        for number, value in enumerate(state):
            yield from tensors(value, f"{path}.{number}" if path else str(number))
    elif _is_of_floats(state):
        yield path, state


def _is_of_floats(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    if dtype is None or not _size(value):
        return False
    return bool(getattr(dtype, "is_floating_point", getattr(dtype, "kind", "") == "f"))


def _size(value: Any) -> int:
    shape = getattr(value, "shape", ())
    size = 1
    for length in shape:
        size *= int(length)
    return size


def array(value: Any) -> Any:
    """A tensor or an array as numpy's, in float64: numpy has no bfloat16 nor float8."""
    numpy = needed("numpy")
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return numpy.asarray(value, dtype=numpy.float64)


def _sampled(value: Any) -> Any:
    stride = -(-_size(value) // _SAMPLE)
    flat = value.reshape(-1)[::stride] if stride > 1 else value
    return array(flat).ravel()


def _histograms(found: Mapping[str, Any], title: str, total: int) -> bytes:
    largest = sorted(found, key=lambda name: -_size(found[name]))[:_MOST]
    shown = [name for name in found if name in largest]
    left = f", the {len(shown)} largest of {len(found)} tensors" if len(found) > len(shown) else ""
    columns = min(3, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    note = f"{total:,} values counted{left}"
    made = theme.figure(max(7.0, 4.6 * columns), 1.0 + 2.6 * rows, title, note)
    for axes, name in zip(theme.grid(made, max(1, len(shown)), columns), shown or [""], strict=True):
        if name:
            _histogram(axes, name, _sampled(found[name]), tuple(getattr(found[name], "shape", ())))
        else:
            theme.dressed(axes, "there are no tensors of floats")
    return theme.png(made)


def _histogram(axes: Any, name: str, values: Any, shape: Sequence[int]) -> None:
    numpy = needed("numpy")
    theme.dressed(axes, theme.shortened(name, 34))
    finite = values[numpy.isfinite(values)]
    is_positive = finite.size > 1 and finite.min() >= 0 and finite.max() > 0
    small = finite[finite > 0]
    is_logarithmic = bool(is_positive and small.max() > 1e3 * small.min())
    plotted = numpy.log10(small) if is_logarithmic else finite
    if plotted.size:
        bins = max(10, min(_BINS, 2 * math.isqrt(plotted.size)))
        axes.hist(plotted, bins=bins, color=theme.COLORS[0], alpha=0.85, linewidth=0)
        axes.axvline(float(plotted.mean()), color=theme.COLORS[1], linewidth=1.2)
    axes.set_title("×".join(f"{length:,}" for length in shape) or "scalar", color=theme.FAINT, fontsize=9, loc="right")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(_in_words(values, finite, is_logarithmic=is_logarithmic), color=theme.FAINT, fontsize=9)


def _in_words(values: Any, finite: Any, *, is_logarithmic: bool) -> str:
    words = ["powers of ten"] * is_logarithmic
    if finite.size:
        words += [f"mean {finite.mean():.3g}", f"std {finite.std():.3g}"]
    zeros = int((finite == 0).sum())
    words += [f"{zeros / values.size:.1%} zero"] * bool(zeros)
    words += [f"{values.size - finite.size:,} not finite"] * (values.size > finite.size)
    return ", ".join(words)
