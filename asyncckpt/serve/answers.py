"""Answers: the same as JSON, in the schema that the command line prints, where it prints it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from asyncckpt.configuration.masking import without_logins
from asyncckpt.errors import AsyncCkptError
from asyncckpt.inspection.found import json_of
from asyncckpt.report import compared
from asyncckpt.report.outline import json_of as outline
from asyncckpt.report.words import strict
from asyncckpt.serve import asked
from asyncckpt.serve.asked import BadRequest
from asyncckpt.serve.contrast import contrast
from asyncckpt.serve.curves import thinned
from asyncckpt.serve.fresh import sentence
from asyncckpt.serve.holding import found_in, holding
from asyncckpt.serve.shelf import Shelf
from asyncckpt.serve.view import View

POINTS = 2_000
"""Of a metric that are given unasked."""


class Answers:
    """The answers of a `shelf`, each one JSON object."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def _view(self, request: Request) -> View:
        return self._shelf.volume(request.path_params["name"]).fresh.now().value

    def runs(self, request: Request) -> dict[str, Any]:
        """Every run of the root in short; what cannot be read says why."""
        return {
            "root": without_logins(self._shelf.root),
            "runs": [self._run(name) for name in self._shelf.runs().value],
        }

    def _run(self, name: str) -> dict[str, Any]:
        try:
            view = self._shelf.volume(name).fresh.now().value
        except AsyncCkptError as error:
            return {"name": name, "error": sentence(error)}
        run = view.run
        return {
            "name": name,
            "run": run.name,
            "status": run.status,
            "step": run.latest_step,
            "checkpoints": len(run.listing.checkpoints),
            "latest": view.latest,
            "held": view.is_held,
            "problems": list(run.problems),
        }

    def run(self, request: Request) -> dict[str, Any]:
        """As ``asyncckpt report --json``."""
        run = self._view(request).run
        return {"root": without_logins(run.url), **outline(run)}

    def checkpoints(self, request: Request) -> dict[str, Any]:
        """As ``asyncckpt ls --json``."""
        view = self._view(request)
        run = view.run
        return {
            "root": without_logins(run.url),
            "checkpoints": [summary.json() for summary in view.summaries.values()],
            "lost": [{"slot": slot, "reason": str(error)} for slot, error in run.listing.lost.items()],
        }

    def checkpoint(self, request: Request) -> dict[str, Any]:
        """As ``asyncckpt show --json``, with all tensors or those that match ``tensors``; secrets masked."""
        view = self._view(request)
        checkpoint = found_in(view, request.path_params["id"])
        manifest = self._shelf.volume(view.name).manifest(checkpoint)
        held = holding(view, checkpoint, manifest, request.query_params.get("tensors", ""))
        values = [value.json() for value in held.values]
        return {**json_of(held.found, list(held.tensors)), "values": values}

    def metrics(self, request: Request) -> dict[str, Any]:
        """Every metric, of many points those that show its course; ``points=0`` gives all."""
        history = self._view(request).run.history
        most = asked.whole(request.query_params, "points", POINTS)
        found = {}
        for name in history.names:
            steps, values = history.series(name)
            points = thinned(steps, values, most // 2) if most else list(zip(steps, values, strict=True))
            found[name] = {"steps": [step for step, _ in points], "values": [strict(value) for _, value in points]}
        return {"metrics": found, "resumed": list(history.resumed)}

    def diff(self, request: Request) -> dict[str, Any]:
        """As ``asyncckpt diff --json``."""
        query = request.query_params
        return contrast(self._shelf, query.get("a", ""), query.get("b", "")).diff.json()

    def compare(self, request: Request) -> dict[str, Any]:
        """As ``asyncckpt compare --json``."""
        names = dict.fromkeys(request.query_params.getlist("run")) or self._shelf.runs().value
        runs = [self._shelf.volume(name).fresh.now().value.run for name in names]
        try:
            return compared(runs, metrics=request.query_params.getlist("metric")).json()
        except ValueError as error:
            raise BadRequest(str(error)) from error
