"""Plots: pictures of a training, dark, drawn without a display and beside it.

``curves``, ``comparison``, ``histograms``, ``waves`` and ``timeline`` each draw one kind and give the bytes of a PNG;
``plotter`` has them drawn by a thread and put into a folder or a store. ``theme`` is how they look.
"""

from asyncckpt.plots.comparison import comparison
from asyncckpt.plots.curves import learning_rate, metric, training_curves
from asyncckpt.plots.extras import PlotsUnavailable
from asyncckpt.plots.histograms import optimizer_histograms, weight_histograms
from asyncckpt.plots.plotter import Plotter
from asyncckpt.plots.timeline import checkpoint_timeline
from asyncckpt.plots.waves import wave_panels, wave_parts

__all__ = [
    "PlotsUnavailable",
    "Plotter",
    "checkpoint_timeline",
    "comparison",
    "learning_rate",
    "metric",
    "optimizer_histograms",
    "training_curves",
    "wave_panels",
    "wave_parts",
    "weight_histograms",
]
