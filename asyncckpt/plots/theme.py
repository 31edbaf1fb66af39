"""Theme: dark figures, drawn without a display, and without touching matplotlib's settings, which are the user's.

Figures are made by themselves and not through pyplot, which keeps every figure and belongs to the main thread.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from asyncckpt.plots.extras import needed

GROUND, PANEL, GRID, FAINT, TEXT = "#0d1117", "#131a24", "#232d3b", "#8b98a9", "#e6edf3"
COLORS = ("#58c4dd", "#f2b866", "#a78bfa", "#7ee0a1", "#ff7b91", "#79a7ff", "#e3e08c", "#f29ad8")
"""Told apart on a dark ground, also by those who see few colors: light and hue change together."""
BAD = "#ff7b91"
SEQUENTIAL, CYCLIC = "magma", "twilight_shifted"


def figure(width: float, height: float, title: str = "", note: str = "") -> Any:
    """A figure of `width` by `height` inches, with a title and, smaller, a note beside it."""
    module = needed("matplotlib.figure")
    needed("matplotlib.backends.backend_agg")
    made = module.Figure(figsize=(width, height), facecolor=GROUND, layout="constrained")
    needed("matplotlib.backends.backend_agg").FigureCanvasAgg(made)
    made.get_layout_engine().set(w_pad=0.12, h_pad=0.12, wspace=0.03, hspace=0.05)
    if title:
        lines = f"{title}\n" if note else title
        made.suptitle(lines, color=TEXT, fontsize=15, fontweight="bold", x=0.012, ha="left", linespacing=1.5)
    if note:
        made.text(0.012, 1 - 0.55 / height, note, color=FAINT, fontsize=9.5, ha="left", va="top")
    return made


def dressed(axes: Any, title: str, x: str = "", y: str = "", *, grid: bool = True) -> Any:
    """The axes in our colors, with a title and names of what is along them."""
    axes.set_facecolor(PANEL)
    for side, spine in axes.spines.items():
        spine.set_color(GRID)
        spine.set_visible(side not in ("top", "right"))
    axes.set_title(shortened(title, 48), color=TEXT, fontsize=11, loc="left", pad=8)
    axes.set_xlabel(x, color=FAINT, fontsize=9)
    axes.set_ylabel(y, color=FAINT, fontsize=9)
    axes.tick_params(colors=FAINT, labelsize=8.5, length=3, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set_color(FAINT)
    if grid:
        axes.grid(True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return axes


def legend(axes: Any, **options: Any) -> None:
    """A legend in our colors, where there is something to tell apart."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            facecolor=PANEL, edgecolor=GRID, labelcolor=TEXT, fontsize=8.5, framealpha=0.85, **options
        )  # fmt: skip


def colorbar(made: Any, image: Any, axes: Any, label: str) -> None:
    """The scale of an image."""
    bar = made.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(label, color=FAINT, fontsize=9)
    bar.ax.tick_params(colors=FAINT, labelsize=8.5, length=3)
    bar.outline.set_edgecolor(GRID)


def shortened(text: str, longest: int) -> str:
    """`text` with its middle left out where it is too long; what differs is mostly at either end."""
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def grid(made: Any, count: int, columns: int) -> list[Any]:
    """`count` axes in as few rows as there have to be; what is left of the last row stays empty."""
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    return [made.add_subplot(rows, columns, number + 1) for number in range(count)]


def png(made: Any, dpi: int = 120) -> bytes:
    """The figure as a picture."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=dpi, facecolor=GROUND)
    return buffer.getvalue()


def colors(count: int) -> Sequence[str]:
    """`count` colors, which begin anew where there are not enough."""
    return [COLORS[number % len(COLORS)] for number in range(count)]
