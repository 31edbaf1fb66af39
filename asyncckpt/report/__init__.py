"""Report: what a run was and what came of it, as one page, and many runs as one table. Reads only, without torch.

``gathering`` reads a run's root, ``checkpoints`` is a line for each of its checkpoints, ``document`` says what is on
the page and ``pictures`` draws for it; ``markdown`` and ``page`` (HTML) are how it looks. ``comparison`` is the table,
``runs`` finds the runs in a folder.
"""

from asyncckpt.report.comparison import Comparison, compare, compared
from asyncckpt.report.gathering import Gathered, Gathering, gather
from asyncckpt.report.markdown import markdown
from asyncckpt.report.page import html
from asyncckpt.report.runs import runs_in

__all__ = ["Comparison", "Gathered", "Gathering", "compare", "compared", "gather", "html", "markdown", "runs_in"]
