"""D22, D23, D24: what is in the pictures."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from asyncckpt.metrics_log import History, Row
from asyncckpt.metrics_log.history import history_of
from asyncckpt.metrics_log.rows import iso
from asyncckpt.plots import (
    checkpoint_timeline,
    comparison,
    learning_rate,
    metric,
    optimizer_histograms,
    theme,
    training_curves,
    wave_panels,
    wave_parts,
    weight_histograms,
)
from asyncckpt.plots.curves import smoothed

Figures = list[Any]

pytest.importorskip("matplotlib")


def history(steps: int = 20, **metrics: Any) -> History:
    return history_of(
        Row(step, iso(step), {name: value(step) for name, value in metrics.items()}) for step in range(1, steps + 1)
    )


def titles(figure: Any) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def curves(axes: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines if not line.get_label().startswith("_")}


def is_dark_picture(picture: bytes) -> bool:
    import io

    import matplotlib.image

    pixels = matplotlib.image.imread(io.BytesIO(picture))
    return picture.startswith(b"\x89PNG") and min(pixels.shape[:2]) > 100 and float(np.median(pixels[..., :3])) < 0.2


def test_D22_losses_rates_and_every_other_metric_have_their_panels(figures: Figures) -> None:
    found = history(
        **{"train/loss": lambda s: 1 / s, "val_loss": lambda s: 2 / s, "lr": lambda s: 0.1, "perplexity": float,
           "gloss": float, "lrap": float, "lr_scale_count": float},
    )  # fmt: skip
    assert is_dark_picture(training_curves(found, "Training"))
    assert titles(figures[0]) == ["loss", "learning rate", "perplexity", "gloss", "lrap"]
    assert curves(figures[0].axes[0]) == {
        "train/loss": [1 / s for s in range(1, 21)],
        "val_loss": [2 / s for s in range(1, 21)],
    }


def test_D22_the_learning_rate_and_any_metric_alone(figures: Figures) -> None:
    found = history(loss=float, learning_rate=lambda s: s / 10, wave_ratio=float)
    assert is_dark_picture(learning_rate(found))
    assert is_dark_picture(metric(found, "wave_ratio"))
    assert [titles(figure) for figure in figures] == [["learning_rate"], ["wave_ratio"]]


@pytest.mark.parametrize(
    "found",
    [
        History(),
        history(1, loss=float),
        history(loss=lambda _: math.nan),
        history(loss=lambda _: math.inf),
        history(loss=lambda s: 1e300 * s, lr=lambda _: 0.0),
        history(**{"a" * 300: float, "$x_1^{": float, "größe": float}),
    ],
    ids=["empty", "one", "NaN", "infinite", "huge", "names"],
)
def test_D22_no_history_is_too_odd_to_be_drawn(found: History, recwarn: pytest.WarningsRecorder) -> None:
    assert is_dark_picture(training_curves(found))
    assert is_dark_picture(comparison({"one": found, "two": history(loss=float)}))


def test_D22_noise_gets_a_trend_and_a_curve_does_not(figures: Figures) -> None:
    training_curves(history(200, loss=lambda s: 5 + (s % 2), lr=lambda s: math.cos(s / 50)))
    loss, rate = figures[0].axes
    assert (len(loss.lines), len(rate.lines)) == (2, 1)
    assert max(abs(value - 5.5) for value in loss.lines[1].get_ydata()[20:-20]) < 0.2
    assert list(rate.lines[0].get_ydata()) == [math.cos(s / 50) for s in range(1, 201)]


@pytest.mark.parametrize("odd", [0, 199])
def test_D22_a_value_at_either_end_moves_the_trend_little(odd: int) -> None:
    values = [5 + step % 2 for step in range(200)]
    usual = smoothed(values)[odd]
    values[odd] += 10
    assert abs(smoothed(values)[odd] - usual) < 3.5
    assert smoothed([5.0] * 200) == pytest.approx([5.0] * 200)


def test_D22_values_that_are_not_finite_are_marked_and_resumptions_too(figures: Figures) -> None:
    rows = [Row(step, iso(step), {"loss": math.nan if step == 3 else 1.0}) for step in range(1, 9)]
    rows += [Row(5, iso(9), {}, "resumed"), Row(6, iso(10), {"loss": 2.0})]
    training_curves(history_of(rows))
    drawn = {line.get_label(): list(line.get_xdata()) for line in figures[0].axes[0].lines}
    assert drawn["not finite"] == [3]
    assert drawn["loss"] == [1, 2, 3, 4, 5, 6]
    assert [5, 5] in drawn.values()


def test_D22_more_metrics_than_there_is_room_for_are_said(figures: Figures) -> None:
    training_curves(history(3, **{f"m{number}": float for number in range(30)}))
    assert len(titles(figures[0])) == 12
    assert any("and 18 more that are not shown" in text.get_text() for text in figures[0].texts)


def test_D22_a_large_range_of_losses_is_logarithmic(figures: Figures) -> None:
    training_curves(history(loss=lambda s: 10.0 ** (3 - s)))
    training_curves(history(loss=lambda s: 10.0 ** (3 - s) - 0.5))
    training_curves(history(loss=lambda s: max(0.0, 10.0 ** (3 - s) - 0.5)))
    training_curves(history(loss=lambda s: math.inf if s == 3 else 1.0 + s))
    training_curves(history(loss=lambda _: math.nan))
    assert [figure.axes[0].get_yscale() for figure in figures] == ["log", *["linear"] * 4]
    said = [[text.get_text() for text in figure.axes[0].texts] for figure in figures]
    assert said == [*[[]] * 4, ["no values"]]


ALONE = """
import sys
from asyncckpt.metrics_log import History
from asyncckpt.plots import training_curves
import matplotlib
before = dict(matplotlib.rcParams)
assert training_curves(History()).startswith(b"\\x89PNG")
assert dict(matplotlib.rcParams) == before
assert "matplotlib.pyplot" not in sys.modules
"""


def test_D22_it_needs_no_display_and_leaves_the_users_own_settings(tmp_path: Path) -> None:
    environment = {**os.environ, "MPLBACKEND": "TkAgg", "DISPLAY": "", "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", ALONE], env=environment, check=False, timeout=120)
    assert done.returncode == 0


class Waves(nn.Module):
    def __init__(self, tokens: int = 120, waves: int = 4, harmonics: int = 3) -> None:
        super().__init__()
        self.base_freqs = nn.Parameter(torch.rand(tokens, waves) + 0.5)
        self.register_buffer("phases", torch.randn(tokens, waves))
        self.harmonic_amps = torch.rand(tokens, waves, harmonics)


class WaveModel(nn.Module):
    def __init__(self, where: str = "embedding") -> None:
        super().__init__()
        setattr(self, where, Waves())
        self.head = nn.Linear(4, 2)


ALL = ["frequencies", "phases", "harmonics", "packets", "interference"]


@pytest.mark.parametrize("where", ["embedding", "wave_excitation"])
def test_D23_wave_panels_are_found_by_attribute_wherever_they_are(figures: Figures, where: str) -> None:
    parts = wave_parts(WaveModel(where))
    assert list(parts) == [where]
    panels = wave_panels(parts[where], "Waves")
    assert list(panels) == ALL
    assert all(is_dark_picture(picture) for picture in panels.values())
    assert titles(figures[3])[0].startswith("token 0, first wave at ")
    image = figures[4].axes[0].images[0].get_array()
    assert np.allclose(np.diag(image), 1)
    assert np.allclose(image, image.T)


def test_D23_a_wrapped_model_and_a_state_dict_have_the_same_panels() -> None:
    model = WaveModel()
    assert list(wave_parts(nn.DataParallel(model))) == ["module.embedding"]
    assert list(wave_parts(model.state_dict())["embedding"]) == ["base_freqs", "phases"]


@pytest.mark.parametrize(
    ("missing", "drawn"),
    [
        (("harmonic_amps",), ["frequencies", "phases"]),
        (("base_freqs", "phases"), ["harmonics"]),
        (("base_freqs",), ["phases", "harmonics"]),
    ],
)
def test_D23_what_a_part_lacks_is_not_drawn(missing: tuple[str, ...], drawn: list[str]) -> None:
    part = {name: value for name, value in wave_parts(WaveModel())["embedding"].items() if name not in missing}
    assert list(wave_panels(part)) == drawn


@pytest.mark.parametrize(
    "model",
    [nn.Linear(2, 2), nn.Sequential(), nn.Embedding(3, 2)],
    ids=["linear", "nothing", "an embedding without waves"],
)
def test_D23_a_model_without_waves_is_no_error(model: nn.Module) -> None:
    assert wave_parts(model) == {}
    assert is_dark_picture(weight_histograms(model.state_dict()))


def test_D23_attributes_of_those_names_that_are_no_waves_are_left_alone() -> None:
    model = nn.Module()
    model.phases = 3
    model.base_freqs = nn.Parameter(torch.ones(5))
    model.harmonic_amps = torch.ones(0, 2, 2)
    assert wave_parts(model) == {}


def test_D23_one_token_and_dead_waves_are_drawn() -> None:
    part = {"base_freqs": torch.ones(1, 1), "phases": torch.zeros(1, 1), "harmonic_amps": torch.zeros(1, 1, 1)}
    assert list(wave_panels(part)) == ALL


def test_D23_weights_of_any_kind_have_a_histogram(figures: Figures) -> None:
    state = {
        "half": torch.randn(50, 2).bfloat16(),
        "nested": {"eight": torch.ones(4).to(torch.float8_e4m3fn), "count": torch.arange(3), "name": "x"},
        "listed": [torch.full((3,), math.nan), np.linspace(0, 1, 5, dtype=np.float32)],
        "scalar": torch.tensor(0.5),
        "none": torch.zeros(0),
        "transposed": torch.rand(3, 4).t(),
        "wide": torch.cat([torch.tensor([math.inf]), torch.logspace(-12, 0, 50)]),
    }
    assert is_dark_picture(weight_histograms(state))
    assert titles(figures[0]) == ["half", "nested.eight", "listed.0", "listed.1", "scalar", "transposed", "wide"]
    labels = [axes.get_xlabel() for axes in figures[0].axes]
    assert labels[2] == "3 not finite"
    assert labels[6].startswith("powers of ten, ")
    assert labels[6].endswith("1 not finite")


def test_D23_the_largest_of_many_tensors_are_shown(figures: Figures) -> None:
    weight_histograms({f"layer{number}": torch.rand(number + 1) for number in range(40)})
    assert titles(figures[0]) == [f"layer{number}" for number in range(16, 40)]
    assert any("the 24 largest of 40 tensors" in text.get_text() for text in figures[0].texts)


def test_D23_the_optimizer_by_what_it_keeps(figures: Figures) -> None:
    model = nn.Linear(20, 20)
    optimizer = torch.optim.AdamW(model.parameters())
    assert is_dark_picture(optimizer_histograms(optimizer.state_dict()))
    model(torch.rand(3, 20)).sum().backward()
    optimizer.step()
    assert is_dark_picture(optimizer_histograms(optimizer.state_dict()))
    assert titles(figures[0]) == ["there are no tensors of floats"]
    assert titles(figures[1]) == ["exp_avg", "exp_avg_sq"]


def test_D24_runs_of_unequal_length_and_without_a_metric_stand_side_by_side(figures: Figures) -> None:
    runs = {
        "long": history(50, perplexity=float, lr=lambda s: 0.1, loss=lambda s: 1 / s),
        "short": history(5, loss=lambda s: 2 / s, lr=lambda s: 0.2),
        "other": history(5, accuracy=float),
        "empty": History(),
    }
    assert is_dark_picture(comparison(runs))
    (figure,) = figures
    assert titles(figure) == [
        "loss", "lr", "perplexity", "accuracy", "final values, as a part of the largest",
    ]  # fmt: skip
    assert {name: len(values) for name, values in curves(figure.axes[0]).items()} == {"long": 50, "short": 5}
    assert "not logged by other, empty" in [text.get_text() for text in figure.axes[0].texts]
    bars = figure.axes[-1]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["loss", "perplexity", "accuracy"]
    assert [text.get_text() for text in bars.texts] == ["0.02", "50", "0.4", "5"]
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == pytest.approx([0.05, 1.0, 1.0, 1.0])


def test_D24_the_metrics_that_are_asked_for_are_compared(figures: Figures) -> None:
    comparison({"a": history(loss=float), "b": history(loss=float)}, ["loss", "absent"])
    assert titles(figures[0])[:2] == ["loss", "absent"]


def test_D24_nothing_and_one_run_can_be_compared() -> None:
    assert is_dark_picture(comparison({}))
    assert is_dark_picture(comparison({"only": history(loss=float)}))


def test_the_timeline_shows_durations_sizes_and_lives(figures: Figures) -> None:
    def durable(step: int, seq: int, seconds: float, written: float) -> Row:
        return Row(
            step, iso(step * 60), {"seq": seq, "bytes": 4e9, "written": written, "seconds": seconds, "created": 0},
            "durable",
        )  # fmt: skip

    rows = [
        durable(1, 1, 0.5, 4e9), durable(2, 2, 0.7, 1e9), Row(3, iso(180), {"phase": "write"}, "failed"),
        Row(4, iso(240), {"by_step": 5}, "superseded"), Row(1, iso(260), {"seq": 1}, "pruned"),
        Row(2, iso(280), {"seq": 2}, "resumed"), durable(5, 3, 0.6, 4e9),
    ]  # fmt: skip
    assert is_dark_picture(checkpoint_timeline(rows))
    durations, sizes, lives = figures[0].axes
    assert curves(durations)["durable"] == [0.5, 0.7, 0.6]
    assert set(curves(durations)) == {"durable", "failed", "superseded"}
    assert [segment[1][1] for segment in sizes.collections[1].get_segments()] == [4.0, 1.0, 4.0]
    assert set(curves(lives)) == {"pruned", "kept", "resumed"}
    assert lives.get_xlabel() == "minutes since the first"
    assert any("3 durable, 2 kept, 1 pruned, 1 failed, 1 superseded" in text.get_text() for text in figures[0].texts)


def test_the_timeline_of_a_run_without_checkpoints_is_drawn() -> None:
    assert is_dark_picture(checkpoint_timeline([]))


def test_long_names_lose_their_middle() -> None:
    assert theme.shortened("wave_20260301_120000_a3f2b1c4", 13) == "wave_2…f2b1c4"
    assert theme.shortened("wave", 13) == "wave"
