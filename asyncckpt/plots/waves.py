"""Waves: what a model that is made of waves has learned, found by the names of its attributes.

A part of such a model has some of ``base_freqs`` (tokens, waves), ``phases`` (tokens, waves) and ``harmonic_amps``
(tokens, waves, harmonics). A model without them has no such pictures, which is no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from asyncckpt.plots import theme
from asyncckpt.plots.extras import needed
from asyncckpt.plots.histograms import array

FREQUENCIES, PHASES, AMPLITUDES = "base_freqs", "phases", "harmonic_amps"
_DIMENSIONS = {FREQUENCIES: 2, PHASES: 2, AMPLITUDES: 3}
_TOKENS = 100
_POSITIONS = 50.0


def wave_parts(model: Any) -> dict[str, dict[str, Any]]:
    """The attributes of waves in a `model`, or in a ``state_dict()``, by the path of the part that has them."""
    parts: dict[str, dict[str, Any]] = {}
    for path, name, value in _attributes(model):
        if getattr(value, "ndim", None) == _DIMENSIONS[name] and 0 not in value.shape:
            parts.setdefault(path, {})[name] = value
    return parts


def _attributes(model: Any) -> Iterator[tuple[str, str, Any]]:
    if isinstance(model, Mapping):
        for key, value in model.items():
            path, _, name = str(key).rpartition(".")
            if name in _DIMENSIONS:
                yield path, name, value
    else:
        for path, module in model.named_modules():
            yield from ((path, name, getattr(module, name)) for name in _DIMENSIONS if hasattr(module, name))


def wave_panels(part: Mapping[str, Any], title: str = "Waves") -> dict[str, bytes]:
    """Pictures of one `part` of `wave_parts`: frequencies, phases, harmonics, packets and interference.

    `title` stands above each. Each is there where the attributes are that it takes.
    """
    values = {name: array(value) for name, value in part.items()}
    drawn = {}
    if FREQUENCIES in values:
        drawn["frequencies"] = _frequencies(values[FREQUENCIES], title)
    if PHASES in values:
        drawn["phases"] = _phases(values[PHASES], title)
    if AMPLITUDES in values:
        drawn["harmonics"] = _harmonics(values[AMPLITUDES], title)
    if len(values) == len(_DIMENSIONS):
        waves = _superposed(values)
        drawn["packets"] = _packets(waves, values[FREQUENCIES], title)
        drawn["interference"] = _interference(waves, title)
    return drawn


def _image(made: Any, axes: Any, values: Any, name: str, x: str, y: str, label: str, **options: Any) -> None:
    theme.dressed(axes, name, x, y, grid=False)
    image = axes.imshow(values, aspect="auto", origin="lower", interpolation="nearest", **options)
    theme.colorbar(made, image, axes, label)


def _frequencies(values: Any, title: str) -> bytes:
    made = theme.figure(13, 5, title, f"base frequencies of {values.shape[0]:,} tokens, {values.shape[1]:,} waves each")
    heat, spread = theme.grid(made, 2, 2)
    _image(made, heat, values[:_TOKENS].T, "frequency by token", "token", "wave", "frequency", cmap=theme.SEQUENTIAL)
    theme.dressed(spread, "distribution", "frequency", "count")
    spread.hist(values.ravel(), bins=60, color=theme.COLORS[0], alpha=0.85)
    return theme.png(made)


def _phases(values: Any, title: str) -> bytes:
    numpy = needed("numpy")
    made = theme.figure(13, 5.4, title, f"phases of {values.shape[0]:,} tokens, {values.shape[1]:,} waves each")
    heat = made.add_subplot(1, 2, 1)
    turned = numpy.mod(values, 2 * numpy.pi)
    _image(
        made, heat, turned[:_TOKENS].T, "phase by token", "token", "wave", "radians", cmap=theme.CYCLIC,
        vmin=0, vmax=2 * numpy.pi,
    )  # fmt: skip
    round_ = theme.dressed(made.add_subplot(1, 2, 2, projection="polar"), "how many, by direction")
    counts, edges = numpy.histogram(turned, bins=48, range=(0, 2 * numpy.pi))
    round_.bar(edges[:-1], counts, width=edges[1] - edges[0], align="edge", color=theme.COLORS[2], alpha=0.8)
    mean = numpy.exp(1j * turned).mean()
    round_.annotate(
        "", (float(numpy.angle(mean)), abs(mean) * counts.max()), (0, 0),
        arrowprops={"color": theme.COLORS[1], "arrowstyle": "-|>", "linewidth": 2},
    )  # fmt: skip
    round_.set_xlabel(f"arrow: the mean, {abs(mean):.2f} of all in step", color=theme.FAINT, fontsize=9)
    round_.set_yticklabels([])
    return theme.png(made)


def _harmonics(values: Any, title: str) -> bytes:
    tokens, waves, harmonics = values.shape
    made = theme.figure(
        13, 5, title, f"amplitudes of {harmonics} harmonics, {tokens:,} tokens with {waves:,} waves each"
    )
    mean, spread = theme.grid(made, 2, 2)
    _image(made, mean, values.mean(axis=0), "mean amplitude", "harmonic", "wave", "amplitude", cmap=theme.SEQUENTIAL)
    mean.set_xticks(range(harmonics), [f"{number + 1}f" for number in range(harmonics)])
    theme.dressed(spread, "distribution by harmonic", "", "amplitude")
    drawn = spread.violinplot(
        [values[:, :, number].ravel() for number in range(harmonics)], showextrema=False, widths=0.85
    )
    for body in drawn["bodies"]:
        body.set(facecolor=theme.COLORS[0], edgecolor=theme.COLORS[0], alpha=0.55)
    middle = values.mean(axis=(0, 1))
    spread.plot(range(1, harmonics + 1), middle, "o-", color=theme.COLORS[1], markersize=4, label="mean")
    spread.set_xticks(range(1, harmonics + 1), [f"{number + 1}f" for number in range(harmonics)])
    theme.legend(spread)
    return theme.png(made)


def _superposed(values: Mapping[str, Any]) -> Any:
    """The sum of all waves and harmonics of each of the first tokens, over some positions: (tokens, positions)."""
    numpy = needed("numpy")
    frequencies, phases, amplitudes = (values[name][:_TOKENS] for name in (FREQUENCIES, PHASES, AMPLITUDES))
    positions = numpy.linspace(0, _POSITIONS, 400)
    total = numpy.zeros((frequencies.shape[0], positions.size))
    for harmonic in range(amplitudes.shape[2]):
        for wave in range(frequencies.shape[1]):
            turn = (harmonic + 1) * frequencies[:, wave, None] * positions / _POSITIONS * 2 * numpy.pi
            total += amplitudes[:, wave, harmonic, None] * numpy.sin(turn + phases[:, wave, None])
    return total


def _packets(waves: Any, frequencies: Any, title: str) -> bytes:
    numpy = needed("numpy")
    count = min(6, waves.shape[0])
    chosen = sorted({round(place) for place in numpy.linspace(0, waves.shape[0] - 1, count)})
    made = theme.figure(13, 1 + 2.7 * -(-len(chosen) // 3), title, "all waves of a token and their harmonics, added up")
    positions = numpy.linspace(0, _POSITIONS, waves.shape[1])
    for axes, token in zip(theme.grid(made, len(chosen), 3), chosen, strict=True):
        theme.dressed(axes, f"token {token}, first wave at {frequencies[token, 0]:.2f}", "position")
        axes.axhline(0, color=theme.FAINT, linewidth=0.6)
        axes.fill_between(positions, waves[token], color=theme.COLORS[0], alpha=0.18, linewidth=0)
        axes.plot(positions, waves[token], color=theme.COLORS[0], linewidth=1.5)
    return theme.png(made)


def _interference(waves: Any, title: str) -> bytes:
    numpy = needed("numpy")
    norms = numpy.linalg.norm(waves, axis=1, keepdims=True)
    unit = waves / numpy.where(norms > 0, norms, 1)
    together = unit @ unit.T
    made = theme.figure(13, 5.4, title, "tokens whose waves strengthen (1) and cancel (-1) each other")
    heat, sums = theme.grid(made, 2, 2)
    _image(
        made, heat, together, "interference of two tokens", "token", "token", "likeness of their waves",
        cmap="RdBu_r", vmin=-1, vmax=1,
    )  # fmt: skip
    theme.dressed(sums, "token 0, with the two it meets the strongest", "position")
    positions = numpy.linspace(0, _POSITIONS, waves.shape[1])
    others = together[0].copy()
    others[0] = 0
    pairs = (
        ("strengthened by", int(others.argmax()), theme.COLORS[3]),
        ("cancelled by", int(others.argmin()), theme.BAD),
    )
    sums.plot(positions, waves[0], color=theme.FAINT, linewidth=1, label="token 0 alone")
    for how, other, color in pairs:
        sums.plot(positions, waves[0] + waves[other], color=color, linewidth=1.6, label=f"{how} token {other}")
    theme.legend(sums, loc="upper right")
    return theme.png(made)
