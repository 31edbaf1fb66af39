"""What is drawn: where lines and bars lie, and that a million points become as many as there are pixels."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncckpt.metrics_log.rows import Row, iso
from asyncckpt.report.checkpoints import Line
from asyncckpt.serve.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, chart, spark, thinned
from asyncckpt.serve.saves import timeline
from asyncckpt.serve.scales import Scale
from asyncckpt.serve.words import ago, place, query, span, when

FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(FLOATS, min_size=1, max_size=2000), st.booleans())
def test_whatever_was_logged_is_drawn_within_its_frame(values: list[float], is_log: bool) -> None:
    drawn = chart("loss", [Series("loss", range(len(values)), values)], is_log=is_log)
    [line] = drawn.lines
    assert "nan" not in line.path
    assert "inf" not in line.path
    for x, y in re.findall(r"[ML](\S+?) (-?[\d.]+)", line.path):
        assert LEFT - 1 <= float(x) <= WIDTH - RIGHT + 1
        assert TOP - 1 <= float(y) <= HEIGHT - BOTTOM + 1
    assert all(len(point) == 4 for point in json.loads(line.points))
    assert all(math.isfinite(tick.at) for tick in (*drawn.across, *drawn.up))
    spark(values)


def test_of_many_points_the_extremes_the_last_and_what_is_not_finite_stay() -> None:
    values = [math.sin(step / 1000) for step in range(100_000)]
    values[12_345], values[54_321], values[77_777] = 50.0, -50.0, math.nan
    found = dict(thinned(range(len(values)), values))
    assert len(found) < 700
    assert {12_345, 54_321, 77_777, 99_999} <= found.keys()
    assert list(found) == sorted(found)
    assert thinned(range(3), [1.0, 2.0, 3.0]) == [(0, 1.0), (1, 2.0), (2, 3.0)]


def test_a_line_is_broken_where_it_is_not_finite() -> None:
    [line] = chart("x", [Series("x", [0, 1, 2, 3], [1.0, math.inf, 2.0, 3.0])]).lines
    assert line.path.count("M") == 2
    assert len(line.odd) == 1


def test_of_one_line_the_newest_value_is_told() -> None:
    assert chart("x", [Series("x", [0, 1], [1.0, 2.0])]).last == 2
    assert chart("x", [Series("x", [], [])]).last is None
    assert chart("x", [Series("a", [0], [1.0]), Series("b", [0], [2.0])]).last is None


def test_of_many_saves_there_are_as_many_marks_as_pixels_and_what_failed_stays() -> None:
    made = [Line(f"{n:08d}", n, "durable", "", created=1e9 + n, size=n) for n in range(10_000)]
    made[1234] = Line("00001234", 1234, "damaged", "", created=1e9 + 1234, size=1)
    ended = [Line("", n, "superseded", "") for n in range(10_000, 20_000)]
    ended[5678] = Line("", 15_678, "failed", "the disk is full")
    events = tuple(Row(line.step, iso(1e9 + line.step - 10_000), {}, line.state) for line in ended)
    drawn = timeline(SimpleNamespace(events=events), [*made, *ended])
    assert drawn is not None
    assert len(drawn.bars) <= 501
    assert len(drawn.lost) <= 501
    assert [bar.id for bar in drawn.bars if bar.state == "damaged"] == ["00001234"]
    [failed] = [lost for lost in drawn.lost if lost.state == "failed"]
    assert re.fullmatch(r"step 15,678: failed, the disk is full; one of \d+ here", failed.text)
    assert drawn.said == "10,000 checkpoints and 10,000 saves that came to nothing, over time"


@pytest.mark.parametrize(
    ("scale", "texts"),
    [
        (Scale(0, 1000, 0, 100), ["0", "200", "400", "600", "800", "1k"]),
        (Scale(0.001, 10, 0, 100, is_log=True), ["0.001", "0.01", "0.1", "1", "10"]),
        (Scale(5, 5, 0, 100), ["5"]),
    ],
)
def test_ticks_are_round(scale: Scale, texts: list[str]) -> None:
    assert [tick.text for tick in scale.ticks(5)] == texts


def test_ticks_of_time_and_size_are_round() -> None:
    assert [tick.text for tick in Scale(1e9, 1e9 + 7200, 0, 100).times(4)] == [
        "02:00", "02:30", "03:00", "03:30",
    ]  # fmt: skip
    assert [tick.text for tick in Scale(0, 3 * 1024**2, 0, 100).bytes(3)] == ["0 B", "1.0 MiB", "2.0 MiB", "3.0 MiB"]
    assert len(Scale(0, 2e11, 0, 100).times(4)) <= 5


def test_words() -> None:
    assert [span(seconds) for seconds in (None, 0, 0.0123, 4.56, 45, 600, 7200, 864000)] == [
        "–", "0 s", "12 ms", "4.6 s", "45 s", "10 min", "2 h", "10 d",
    ]  # fmt: skip
    assert when(1e300) == when(None) == ago(None) == "–"
    assert ago(0).endswith(" d ago")
    assert place("run", "a/b?#") == "run/a%2Fb%3F%23"
    assert query({"a": "x&y", "b": "", "run": ["1", "2"]}) == "?a=x%26y&run=1&run=2"
