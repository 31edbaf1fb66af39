"""The demo's model and data, its comparison with the twin, and what it shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from prometheus_client import generate_latest

from asyncckpt.cli.demo import newest_save
from asyncckpt.cli.demo_metrics import headlines, scrape
from asyncckpt.cli.demo_model import GPT, SIZES, Size, Windows, draws, fingerprint, standard_library
from asyncckpt.cli.demo_process import TrainerProcess
from asyncckpt.cli.demo_report import Kill, Story, differences, rows
from asyncckpt.cli.demo_screen import PlainScreen, RichScreen
from asyncckpt.events import Durable, Stalled
from asyncckpt.metrics import Exporter, MetricsConfig
from asyncckpt.testing.servers import HeldPorts

QUICK = SIZES["quick"]


# -- model and data ------------------------------------------------------------------------------


def test_no_position_sees_a_later_byte() -> None:
    model = GPT(QUICK).eval()
    text = torch.randint(256, (1, QUICK.block))
    changed = text.clone()
    changed[0, 20:] = 0
    assert torch.equal(model(text)[0, :20], model(changed)[0, :20])
    assert not torch.equal(model(text)[0, 20:], model(changed)[0, 20:])


def test_output_and_embedding_are_one_parameter() -> None:
    model = GPT(QUICK)
    assert model.head.weight is model.tokens.weight


def test_dropout_draws_from_the_random_generator() -> None:
    model = GPT(QUICK)
    text = torch.randint(256, (1, QUICK.block))
    torch.manual_seed(1)
    first = model(text)
    assert not torch.equal(first, model(text))
    torch.manual_seed(1)
    assert torch.equal(first, model(text))


def test_the_text_is_the_same_each_time_and_bounded() -> None:
    text = standard_library(300_000)
    assert len(text) == 300_000
    assert torch.equal(text, standard_library(300_000))
    assert b"import " in bytes(text.tolist())


def windows(seed: int = 0) -> Windows:
    """Five windows: an epoch ends after two batches of two."""
    return Windows(torch.arange(49, dtype=torch.uint8) + 1, Size(1, 1, 8, block=8, batch=2), seed=seed)


def seed(value: int) -> None:
    import numpy as np

    random.seed(value)
    torch.manual_seed(value)
    np.random.seed(value)


def batches(data: Windows, count: int) -> list[torch.Tensor]:
    return [torch.cat([inputs, targets]) for inputs, targets in (next(data) for _ in range(count))]


def test_targets_are_the_next_bytes_and_one_input_is_blank() -> None:
    inputs, targets = next(windows())
    assert inputs.shape == targets.shape == (2, 8)
    for row, following in zip(inputs, targets, strict=True):
        assert (row == 0).sum() == 1
        assert ((row == following - 1) | (row == 0)).all()


def test_an_epoch_shows_each_window_once_and_the_next_in_another_order() -> None:
    data = Windows(torch.zeros(8 * 65 + 1, dtype=torch.uint8), Size(1, 1, 8, block=8, batch=64))
    first = data._order.tolist()
    next(data)
    next(data)
    assert sorted(first) == sorted(data._order.tolist()) == list(range(64))
    assert first != data._order.tolist()


@pytest.mark.parametrize("before", [0, 1, 2, 3, 5])
def test_windows_go_on_where_their_state_was_taken(before: int) -> None:
    original = windows()
    batches(original, before)
    state = original.state_dict()
    resumed = windows(seed=99)
    seed(3)
    expected = batches(original, 5)
    resumed.load_state_dict(state)
    seed(3)
    assert all(map(torch.equal, expected, batches(resumed, 5)))


def test_draws_tell_every_generator() -> None:
    import numpy as np

    disturbances: list[Callable[[], object]] = [
        lambda: None,
        random.random,
        lambda: torch.rand(1),
        np.random.random,
    ]
    seen = set()
    for disturb in disturbances:
        seed(5)
        disturb()
        seen.add(tuple(draws()))
    assert len(seen) == len(disturbances)


# -- fingerprints --------------------------------------------------------------------------------


def test_equal_states_have_equal_fingerprints() -> None:
    torch.manual_seed(0)
    first = GPT(QUICK).state_dict()
    torch.manual_seed(0)
    assert fingerprint(first) == fingerprint(GPT(QUICK).state_dict())
    strided = torch.arange(6.0).reshape(2, 3)
    assert fingerprint(strided.T) == fingerprint(strided.T.contiguous())


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([-0.0]), "b": [1, 2]},
        {"a": torch.tensor([0.0], dtype=torch.float64), "b": [1, 2]},
        {"a": torch.tensor([[0.0]]), "b": [1, 2]},
        {"a": torch.tensor([0.0]), "b": [1, 2.0]},
        {"a": torch.tensor([0.0]), "b": (1, 2)},
        {"a": torch.tensor([0.0]), "b": [[1], 2]},
        {"a": torch.tensor([0.0]), "c": [1, 2]},
    ],
)
def test_any_difference_changes_the_fingerprint(other: dict[str, Any]) -> None:
    assert fingerprint(other) != fingerprint({"a": torch.tensor([0.0]), "b": [1, 2]})


# -- comparison and table ------------------------------------------------------------------------


def step(number: int, loss: float | None = None) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": float(number if loss is None else loss).hex()}


def done(**digests: str) -> dict[str, Any]:
    digests = {"parameters": "p", "optimizer": "o", **digests}
    return {"event": "done", "digests": digests, "listed": 3, "sound": 3}


def story() -> Story:
    """Four steps, killed after the third in the save of that step, resumed from the second."""
    saves = [
        {"event": "stalled", "step": 2, "seconds": 0.001, "where": "call"},
        {"event": "stalled", "step": 3, "seconds": 0.003, "where": "call"},
        {"event": "durable", "step": 2, "bytes": 2_000_000},
    ]
    start, resumed = ({"event": "resumed", "step": number} for number in (0, 2))
    return Story(
        steps=4,
        every=1,
        twin=[*map(step, range(1, 5)), done()],
        trainers=[[start, *map(step, range(1, 4)), *saves], [resumed, step(3), step(4), done()]],
        kills=[Kill(step=3, saving=3, inside=True)],
        seconds=61.7,
    )


def test_a_run_equal_to_its_twin_succeeds() -> None:
    assert differences(story()) == []
    assert story().succeeded


def test_a_loss_that_differs_in_either_training_of_a_step_is_told() -> None:
    good = story()
    first, second = good.trainers
    before = replace(good, trainers=[[*first, step(3, 3.5)], second])
    after = replace(good, trainers=[first, [*second, step(4, 4.5)]])
    assert differences(before) == ["the losses of 1 steps, first of step 3"]
    assert differences(after) == ["the losses of 1 steps, first of step 4"]
    assert not before.succeeded


def test_a_step_that_was_never_trained_is_told() -> None:
    good = story()
    first, second = good.trainers
    skipped = replace(good, trainers=[first, [line for line in second if line.get("step") != 4]])
    assert differences(skipped) == ["the losses of 1 steps, first of step 4"]
    short_twin = replace(good, twin=good.twin[1:])
    assert differences(short_twin) == ["the losses of 1 steps, first of step 1"]


def test_a_state_that_differs_is_named() -> None:
    good = story()
    first, second = good.trainers
    assert differences(replace(good, trainers=[first, [*second, done(optimizer="x")]])) == ["optimizer"]
    assert differences(replace(good, twin=[*good.twin[:-1], done(schedule="s")])) == ["schedule"]


def test_a_run_that_did_not_end_is_not_equal() -> None:
    good = story()
    unfinished = replace(good, trainers=[good.trainers[0], good.trainers[1][:-1]])
    assert differences(unfinished) == ["the state at the end, which was not reached"]
    assert dict(rows(unfinished))["equal to the twin"].startswith("NO: ")


@pytest.mark.parametrize(
    "line", [{**done(), "sound": 2}, {"event": "failed", "step": 2, "phase": "write", "error": "no space"}]
)
def test_a_damaged_checkpoint_or_a_failed_save_is_no_success(line: dict[str, Any]) -> None:
    good = story()
    assert not replace(good, trainers=[*good.trainers, [line]]).succeeded


def test_the_table_tells_the_story() -> None:
    assert dict(rows(story())) == {
        "state size": "2.0 MB",
        "steps": "4, a save every 1",
        "saves": "1 durable, 0 superseded, 0 failed",
        "stall of a save call": "mean 2.00 ms, max 3.00 ms",
        "stall at the optimizer": "none",
        "killed at step": "3, in the middle of the save of step 3",
        "resumed from step": "2",
        "lost steps": "1",
        "equal to the twin": "yes, bit for bit: 5 losses, parameters, optimizer",
        "checkpoints": "3 listed, 3 verified",
        "time": "62 s",
    }


def test_every_kill_is_told() -> None:
    good = story()
    start, *others = good.trainers
    missed = replace(good, trainers=[start, *others], kills=[Kill(step=3, saving=3, inside=False)])
    assert ("killed at step", "3, just after the save of step 3") in list(rows(missed))
    twice = replace(good, trainers=[start, *others, others[0]], kills=[*missed.kills, Kill(4, 4, True)])
    assert [value for name, value in rows(twice) if name == "lost steps"] == ["1", "2"]


def test_the_plain_table_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainScreen(10) as screen:
        screen.progress(trainer=1, twin=1)
        screen.progress(trainer=4, twin=5)
        screen.progress(trainer=5, twin=5)
        screen.table("title", iter([("a", "1"), ("long name", "2")]))
    assert capsys.readouterr().out == "  step 4 of 10 (twin 5)\n\ntitle\n  a          1\n  long name  2\n"


def test_the_drawn_table_shows_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    with RichScreen(10) as screen:
        screen.say("[not markup]")
        screen.progress(trainer=1, twin=2)
        screen.table("title", rows(story()))
    out = capsys.readouterr().out
    assert "[not markup]" in out
    assert all(name in out for name, _ in rows(story()))


# -- metrics, folders, processes -----------------------------------------------------------------


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    """An exporter that serves on a free port and has seen three saves."""
    exporter = Exporter(MetricsConfig())
    exporter.serve()
    for seconds in (0.002, 0.004, 0.09):
        exporter.on_event(Stalled(step=1, seconds=seconds, where="call"))
    exporter.on_event(Stalled(step=1, seconds=0.2, where="guard"))
    exporter.on_event(Durable(step=7, seq=1, bytes=1000, seconds=0.2, created=0.0, written=1000))
    yield exporter
    exporter.close(0.0)


def test_headlines_of_a_metrics_page(exporter: Exporter) -> None:
    assert list(headlines(generate_latest(exporter.registry).decode())) == [
        'asyncckpt_saves_total{outcome="durable"} 1',
        'asyncckpt_saves_total{outcome="failed"} 0',
        'asyncckpt_saves_total{outcome="skipped"} 0',
        'asyncckpt_saves_total{outcome="superseded"} 0',
        'asyncckpt_stall_seconds{where="call"}: 3 times, mean 32.00 ms, half of them within 5 ms',
        'asyncckpt_stall_seconds{where="guard"}: 1 times, mean 200.00 ms, half of them within 250 ms',
        "asyncckpt_save_duration_seconds: 1 times, mean 200.00 ms, half of them within 250 ms",
        "asyncckpt_durable_step 7",
        'asyncckpt_bytes_total{direction="staged"} 0',
        'asyncckpt_bytes_total{direction="written"} 1000',
        'asyncckpt_bytes_total{direction="read"} 0',
        'asyncckpt_bytes_total{direction="pruned"} 0',
    ]


def test_a_scrape_goes_straight_to_loopback(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert exporter.port is not None
    with HeldPorts(1) as nobodys:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{nobodys.numbers[0]}")
        assert "asyncckpt_durable_step 7.0" in scrape(exporter.port)


def test_a_scrape_of_nothing_says_so() -> None:
    with HeldPorts(1) as nobodys, pytest.raises(click.ClickException, match="do not answer"):
        scrape(*nobodys.numbers)


def test_the_newest_save_is_the_last_of_the_newest_incarnation(tmp_path: Path) -> None:
    assert newest_save(tmp_path) is None
    (tmp_path / "data").mkdir()
    assert newest_save(tmp_path) is None
    for name in ("09-step-40-i1", "10-step-36-i2", "11-step-44-i1", "02-step-8-i1"):
        (tmp_path / "data" / f"000000{name}-5f2c9a01").mkdir()
    newest = newest_save(tmp_path)
    assert newest is not None
    assert (newest.step, newest.complete) == (36, False)
    newest.manifest.write_text("{}")
    assert newest.complete


def test_a_process_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with TrainerProcess(tmp_path / "trainer.jsonl", ["--no-such-option"]) as process:
        process.wait()
        with pytest.raises(click.ClickException, match=r"ended with status (?s:.*)(Error|error)"):
            process.running()


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    with TrainerProcess(tmp_path / "trainer.jsonl", ["--no-such-option"]) as process:
        process.wait()
        process.log.write_bytes(b'{"event": "step", "step": 7, "loss": "0x1p+0"}\n{"event": "st')
        process._read = 0
        process._follow()
        assert process.step == 7
        with process.log.open("ab") as log:
            log.write(b'ep", "step": 8, "loss": "0x1p+0"}\n')
        process._follow()
        assert process.step == 8
