"""Result: what has come of a search, as an object and as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from asyncckpt.errors import ConfigurationError
from asyncckpt.launch.config import ExperimentConfig, files
from asyncckpt.launch.execution import ExecutionMode, Outcome, written_in
from asyncckpt.launch.grids.naming import folder_of
from asyncckpt.launch.grids.search import Combination


@dataclass(frozen=True, slots=True)
class GridSearchResult:
    """What has come of each experiment of a search (`outcomes`, in their order), and how many `seconds` it took.

    It was `started` at that time, in `mode`; the folders are in `output_dir`.
    """

    mode: ExecutionMode
    output_dir: Path
    outcomes: Sequence[Outcome]
    seconds: float
    started: str

    @property
    def total(self) -> int:
        """How many experiments there were."""
        return len(self.outcomes)

    @property
    def submitted(self) -> int:
        """How many have become jobs, or were run to a good end."""
        return sum(each.state in ("submitted", "completed") for each in self.outcomes)

    @property
    def failed(self) -> Mapping[str, str]:
        """The reasons of those that failed, by name."""
        return {each.name: each.reason or "" for each in self.outcomes if each.state == "failed"}

    @property
    def job_ids(self) -> Mapping[str, str]:
        """The jobs, by name."""
        return {each.name: each.job_id for each in self.outcomes if each.job_id is not None}

    @property
    def success_rate(self) -> float:
        """The share that has not failed; 1 of none."""
        return 1 - len(self.failed) / self.total if self.total else 1.0

    def save(self) -> tuple[Path, Path]:
        """Write ``grid_search.json``, and ``grid_search.csv`` with a line for each experiment, into the output folder.

        Those of earlier searches stay: the next is ``grid_search-2.json``. Returns their paths. Raises `OSError`.
        """
        self.output_dir.mkdir(parents=True, exist_ok=True)
        path = self._new()
        files.write_text(path, json.dumps(self._plain(), indent=2) + "\n")
        table = path.with_suffix(".csv")
        files.write_text(table, self._table())
        return path, table

    def _new(self) -> Path:
        """A file that was not there; of two searches that end at once, each has its own."""
        for number in count(1):
            path = self.output_dir / f"grid_search{'' if number == 1 else f'-{number}'}.json"
            with suppress(FileExistsError):
                path.touch(exist_ok=False)
                return path
        raise AssertionError("numbers do not end")

    def _plain(self) -> dict[str, object]:
        return {
            "mode": self.mode.value,
            "started": self.started,
            "seconds": self.seconds,
            "total": self.total,
            "submitted": self.submitted,
            "failed": len(self.failed),
            "success_rate": self.success_rate,
            "experiments": [files.as_plain(each) for each in self.outcomes],
        }

    def _table(self) -> str:
        keys = list(dict.fromkeys(key for each in self.outcomes for key in each.parameters))
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["name", "grid", "state", "job_id", "seconds", "reason", *keys])
        for each in self.outcomes:
            values = [
                json.dumps(files.as_plain(each.parameters[key])) if key in each.parameters else "" for key in keys
            ]
            table.writerow([each.name, each.grid, each.state, each.job_id, each.seconds, each.reason, *values])
        return text.getvalue()


def earlier(output_dir: Path) -> Iterator[tuple[Combination, ExperimentConfig]]:
    """What earlier searches in a folder have made, as far as their files and those of the experiments can be read."""
    for path in sorted(output_dir.glob("grid_search*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            for each in json.loads(path.read_bytes())["experiments"]:
                combination = Combination(str(each["name"]), str(each["grid"]), dict(each["parameters"]))
                with suppress(OSError, ConfigurationError):
                    yield combination, written_in(output_dir / folder_of(combination.name) / "config.yaml")
