"""Pages: what stands on each page; how it looks is for the templates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from asyncckpt.configuration.masking import without_logins
from asyncckpt.errors import AsyncCkptError
from asyncckpt.report import Gathered, compared
from asyncckpt.report.checkpoints import Line
from asyncckpt.report.document import about, results
from asyncckpt.serve import asked
from asyncckpt.serve.asked import BadRequest
from asyncckpt.serve.contrast import Contrast, contrast
from asyncckpt.serve.curves import Chart, Series, chart
from asyncckpt.serve.fresh import Known, sentence
from asyncckpt.serve.holding import Holding, found_in, holding
from asyncckpt.serve.paging import Page, paged
from asyncckpt.serve.shelf import Shelf
from asyncckpt.serve.view import CHARTS, GROUPS, View
from asyncckpt.serve.words import place
from asyncckpt.serve.words import query as query_of

RUNS, SAVES, TENSORS = 100, 50, 200
"""Lines on a page."""
OFTEN = 5.0
"""Seconds after which an open page asks whether anything has changed, at the earliest."""
PATIENCE = 5.0
"""Seconds in which the runs of a folder are waited for, all together."""

Shown = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Row:
    """A run in the list of runs; without a view it is not read yet, or cannot be: `trouble` says why."""

    name: str
    view: View | None
    trouble: str


class Pages:
    """The pages over a `shelf`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def _frame(self, title: str, *known: Known[View], json: str = "") -> dict[str, Any]:
        """What every page needs: its title, how old what is on it is, and where the same is as JSON."""
        return {
            "title": title,
            "json": json,
            "root": without_logins(self._shelf.root),
            "pause": max([OFTEN, *(self._shelf.volume(each.value.name).pause for each in known)]),
            "troubles": [(each.value.name, each) for each in known if each.trouble],
            "now": time.time(),
        }

    # -- runs --------------------------------------------------------------------------------------------------

    def index(self, request: Request) -> Shown | str:
        """The runs of the root, those that were saved last first; of a root that is a run its own page."""
        runs = self._shelf.runs()
        names = sorted(runs.value)
        if self._shelf.is_one:
            return place("run", names[0])
        page = paged(names, asked.whole(request.query_params, "page", 1), RUNS)
        rows = sorted(self._rows(page.items), key=_recent, reverse=True)
        frame = self._frame("Runs", json="api/runs") | {"troubles": [("the root", runs)] if runs.trouble else []}
        return "index.html", {**frame, "rows": rows, "page": page, "asked": {}}

    def _rows(self, names: Sequence[str]) -> list[Row]:
        for name in names:
            self._shelf.volume(name).fresh.ahead()
        until = time.monotonic() + PATIENCE
        return [self._row(name, max(0.0, until - time.monotonic())) for name in names]

    def _row(self, name: str, patience: float) -> Row:
        try:
            known = self._shelf.volume(name).fresh.now(patience)
        except AsyncCkptError as error:
            return Row(name, None, sentence(error))
        view = known.value
        return Row(name, view, known.trouble)

    # -- one run -----------------------------------------------------------------------------------------------

    def run(self, request: Request) -> Shown:
        """Everything about one run."""
        query = request.query_params
        known = self._shelf.volume(request.path_params["name"]).fresh.now()
        view = known.value
        group = asked.one_of(query, "state", GROUPS)
        is_log = asked.one_of(query, "scale", {"log": None}) == "log"
        late = view.late(time.time())
        lines = view.lines if not group else [line for line in view.lines if line.state in GROUPS[group]]
        return "run.html", {
            **self._frame(f"late: {view.name}" if late else view.name, known, json=place("api", "run", view.name)),
            "view": view,
            "name": view.name,
            "there": GROUPS["kept"],
            "late": late,
            "charts": view.charts(is_log=is_log),
            "left": len(view.names[CHARTS:]),
            "page": _page_of(lines, query.get("step", ""), asked.whole(query, "page", 1)),
            "groups": view.counts,
            "about": [each for each in (results(view.run), *about(view.run)) if each.blocks],
            "asked": {"state": group, "scale": "log" if is_log else "", "step": query.get("step", "")},
        }

    def checkpoint(self, request: Request) -> Shown:
        """What one checkpoint holds."""
        volume = self._shelf.volume(request.path_params["name"])
        known = volume.fresh.now()
        name = known.value.name
        found = found_in(known.value, request.path_params["id"])
        glob = request.query_params.get("tensors", "")
        held, trouble = _held(lambda: holding(known.value, found, volume.manifest(found), glob))
        tensors = paged(held.tensors if held else (), asked.whole(request.query_params, "page", 1), TENSORS)
        line = next(line for line in known.value.lines if line.id == f"{found.seq:08d}")
        return "checkpoint.html", {
            **self._frame(f"{line.id} of {name}", known, json=place("api", "run", name, "checkpoints", line.id)),
            "name": name,
            "checkpoint": found,
            "since": "best" if found.parent is None else f"{found.parent:08d}",
            "line": line,
            "held": held,
            "trouble": trouble,
            "page": tensors,
            "asked": {"tensors": glob},
        }

    # -- two or more -------------------------------------------------------------------------------------------

    def diff(self, request: Request) -> Shown:
        """What has changed between two checkpoints; without both a form that asks for them."""
        query = request.query_params
        named = query.get("a", ""), query.get("b", "")
        said = {"a": named[0], "b": named[1]}
        context = self._frame("Diff", json="api/diff" + query_of(said) if all(named) else "")
        context["asked"] = {**said, "name": query.get("name", "")}
        if not all(named):
            return "diff.html", {**context, "found": None, "page": paged([], 1, TENSORS)}
        found: Contrast = contrast(self._shelf, *named, part=query.get("name", ""))
        page = paged(found.changes, asked.whole(query, "page", 1), TENSORS)
        return "diff.html", {**context, "found": found, "page": page}

    def compare(self, request: Request) -> Shown:
        """Runs side by side: what differs in how they were started, and their metrics in one picture each."""
        names = request.query_params.getlist("run")
        if not names:
            raise BadRequest("name the runs to compare: choose them in the list of runs")
        known = [self._shelf.volume(name).fresh.now() for name in dict.fromkeys(names)]
        runs: list[Gathered] = [each.value.run for each in known]
        found = compared(runs)
        headings, rows = found.table()
        is_log = asked.one_of(request.query_params, "scale", {"log": None}) == "log"
        return "compare.html", {
            **self._frame("Compare", *known, json="api/compare" + query_of({"run": names})),
            "headings": headings,
            "rows": [(each.value.name, row) for each, row in zip(known, rows, strict=True)],
            "right": {"Step", *found.metrics},
            "charts": _overlaid([each.value for each in known], is_log=is_log),
            "left": found.left,
            "asked": {"run": names, "scale": "log" if is_log else ""},
        }


def _recent(row: Row) -> float:
    return (row.view.latest or 0.0) if row.view is not None else 0.0


def _overlaid(views: Sequence[View], *, is_log: bool) -> list[Chart]:
    names = list(dict.fromkeys(name for view in views for name in view.names))[:CHARTS]
    return [
        chart(name, [Series(view.name, *view.run.history.series(name)) for view in views], is_log=is_log)
        for name in names
    ]


def _page_of(lines: Sequence[Line], step: str, number: int) -> Page[Line]:
    """The page of that number, or the one that has the first save at or below a step that is looked for."""
    if step:
        wanted = asked.whole({"step": step}, "step", 0)
        at = next((index for index, line in enumerate(lines) if line.step <= wanted), len(lines) - 1)
        number = at // SAVES + 1
    return paged(lines, number, SAVES)


def _held(read: Any) -> tuple[Holding | None, str]:
    """What a checkpoint holds, or why that cannot be read: the rest of its page is worth showing all the same."""
    try:
        return read(), ""
    except AsyncCkptError as error:
        return None, sentence(error)
