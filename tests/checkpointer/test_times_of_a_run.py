"""What metrics say of a checkpointer as a whole: when it began and ended, and whether the run is still its own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, MetricsConfig
from asyncckpt.errors import SaveFailed

from .scraping import scrape, value
from .trainings import Toy, elsewhere

START, END, FENCED = "asyncckpt_start_timestamp_seconds", "asyncckpt_end_timestamp_seconds", "asyncckpt_fenced"


def test_it_is_known_when_it_was_made_and_when_it_was_closed(tmp_path: Path) -> None:
    registry, before = CollectorRegistry(), time.time()
    with AsyncCheckpointer(tmp_path, model=Toy(), metrics=MetricsConfig(port=None, registry=registry)):
        made = time.time()
        assert before <= value(scrape(registry), START) <= made
        assert value(scrape(registry), END) == 0
    assert made <= value(scrape(registry), END) <= time.time()


def test_a_training_whose_run_was_taken_says_so_from_its_next_save_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AsyncCheckpointer(tmp_path, model=Toy(), metrics=0) as ckpt:
        ckpt.save(1).wait()
        elsewhere(monkeypatch)
        with AsyncCheckpointer(tmp_path, model=Toy(), metrics=0) as other:
            other.resume()
            assert value(scrape(ckpt.metrics_port), FENCED) == 0
            with pytest.raises(SaveFailed):
                ckpt.save(2).wait()
            assert value(scrape(ckpt.metrics_port), FENCED) == 1
            other.save(2).wait()
            assert value(scrape(other.metrics_port), FENCED) == 0
