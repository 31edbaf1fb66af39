"""Functions that are called with every checkpoint (features C25, C34)."""

from __future__ import annotations

import functools
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy, TrainingState
from asyncckpt.errors import SaveFailed, StorageDenied
from asyncckpt.events import Failed, Pruned
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.training import Callbacks

from .runs import opened, saved, steps

EXAMPLES = Path(__file__).parents[2] / "examples"


class Told:
    """Takes notes under a name."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, int, str]] = []

    def by(self, name: str, state: TrainingState, checkpoint: str) -> None:
        self.notes.append((name, state.step, checkpoint))

    def method(self, state: TrainingState, checkpoint: str) -> None:
        self.by("method", state, checkpoint)


def test_c25_callbacks_are_called_in_order_once_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    first = functools.partial(told.by, "first")  # has no name, which the original could not bear
    callbacks = Callbacks(first)
    callbacks.register(told.method)
    callbacks.register(lambda state, checkpoint: told.by("lambda", state, checkpoint))
    callbacks.register(told.method)  # a bound method is a new object each time, and the same function all the same
    callbacks.register(first)
    assert caplog.text.count("is registered already, and will be called once") == 2
    assert "Told.method" in caplog.text
    with opened(tmp_path / "run", listeners=[callbacks]) as ckpt:
        saved(ckpt, [None, None])
    assert told.notes == [(name, step, f"{step:08d}") for step in (1, 2) for name in ("first", "method", "lambda")]


def test_c25_they_can_be_listed_taken_away_and_cleared(tmp_path: Path) -> None:
    told = Told()
    callbacks = Callbacks(functools.partial(functools.partial(told.by, "a"), checkpoint="x"), told.method, print)
    callbacks.register(notify := Notify())
    assert callbacks.names() == ["Told.by", "Told.method", "print", "Notify"]
    assert callbacks.unregister(told.method) is True
    assert callbacks.unregister(told.method) is False
    assert callbacks.unregister(len) is False
    assert callbacks.names() == ["Told.by", "print", "Notify"]
    callbacks.names().clear()
    assert callbacks.clear() == 3
    assert callbacks.clear() == 0
    assert callbacks.names() == []
    with pytest.raises(TypeError, match="'notify' cannot be called"):
        callbacks.register("notify")  # type-checkers see it too
    with opened(tmp_path / "run", listeners=[callbacks]) as ckpt:
        saved(ckpt, [None])
    assert told.notes == []
    assert notify.count == 0


class Notify:
    """A callback that is an object."""

    count = 0

    def __call__(self, state: TrainingState, checkpoint: str) -> None:
        self.count += 1


def test_c25_one_that_fails_harms_neither_the_others_nor_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()

    def fails(state: TrainingState, checkpoint: str) -> None:
        for given in (state.metrics, state.loss_history, state.config):  # what it is given is its own
            given.clear()
        raise RuntimeError("no network")

    about = TrainingState(loss_history=[0.75], config={"lr": 0.1})
    seen: list[dict[str, float]] = []
    callbacks = Callbacks(fails, told.method, lambda state, checkpoint: seen.append(state.metrics), about=about)
    with opened(tmp_path / "run", listeners=[callbacks]) as ckpt:
        assert ckpt.save(1, metrics={"loss": 0.5}).wait().metrics == {"loss": 0.5}
    assert told.notes == [("method", 1, "00000001")]
    assert (seen, about.loss_history, about.config) == ([{"loss": 0.5}], [0.75], {"lr": 0.1})
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert "fails failed on the checkpoint of step 1" in record.getMessage()
    assert "no network" in caplog.text


def test_c25_they_are_called_after_the_commit_and_not_at_all_where_there_is_none() -> None:
    store = GatedStorage(MemoryStorage("c25"))
    told = Told()
    found: list[list[int]] = []
    threads: set[bool] = set()

    def looks(state: TrainingState, checkpoint: str) -> None:
        threads.add(threading.current_thread() is threading.main_thread())
        import asyncio

        from asyncckpt.checkpoints.catalog import Catalog

        with_loop = threading.Thread(
            target=lambda: found.append([c.step for c in asyncio.run(Catalog(store).listing()).checkpoints])
        )
        with_loop.start()
        with_loop.join()

    callbacks = Callbacks(told.method, looks)
    with AsyncCheckpointer(store, model=torch.nn.Linear(2, 2), listeners=[callbacks], executor="thread") as ckpt:
        with store.hold("put", "commits/*") as gate:
            handle = ckpt.save(1)
            gate.wait_reached()
            assert told.notes == []
        handle.wait()
        assert told.notes == [("method", 1, "00000001")]  # done before the handle ends
        assert found == [[1]]
        store.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"))
        with pytest.raises(SaveFailed):
            ckpt.save(2).wait()
        store.heal()
        ckpt.save(3).wait()
    assert [step for _, step, _ in told.notes] == [1, 3]
    assert threads == {False}


def test_c25_each_moment_has_callbacks_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Staged, durable, failed and pruned; who asks for one hears nothing of the others."""
    store = GatedStorage(MemoryStorage("moments"))
    heard: list[tuple[str, int]] = []
    reasons: list[str] = []
    callbacks = Callbacks(lambda state, checkpoint: heard.append(("durable", state.step)))
    callbacks.register(lambda event: heard.append(("staged", event.step)), "staged")

    def failed(event: Failed) -> None:
        heard.append(("failed", event.step))
        reasons.append(f"{event.phase}: {event.error}")
        raise RuntimeError("no network")

    def pruned(event: Pruned) -> None:
        heard.append(("pruned", event.step))
        reasons.append(event.rule)

    callbacks.register(failed, "failed")
    callbacks.register(pruned, on="pruned")
    keep = RetentionPolicy(last=1)
    model = torch.nn.Linear(2, 2)
    with AsyncCheckpointer(store, model=model, keep=keep, listeners=[callbacks], executor="thread") as ckpt:
        ckpt.save(1).wait()
        ckpt.save(2).wait()
        store.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"))
        with pytest.raises(SaveFailed):
            ckpt.save(3).wait()
        store.heal()
    assert {(moment, step) for moment, step in heard if moment == "staged"} >= {("staged", 1), ("staged", 2)}
    others = [told for told in heard if told[0] != "staged"]
    assert others == [("durable", 1), ("durable", 2), ("pruned", 1), ("failed", 3)]
    assert reasons[0] == "policy"
    assert "No space left on device" in reasons[1]
    assert "failed failed on the checkpoint of step 3" in caplog.text


def test_c25_the_mirrors_own_pruning_is_not_the_trainings() -> None:
    heard: list[Pruned] = []
    callbacks = Callbacks()
    callbacks.register(heard.append, "pruned")
    callbacks.on_event(Pruned(1, 1, "more than 1 newer", "policy", "mirror"))
    assert heard == []
    callbacks.on_event(Pruned(1, 1, "more than 1 newer", "policy"))
    assert [event.step for event in heard] == [1]


def test_c25_moments_are_listed_taken_away_and_cleared_apart() -> None:
    told = Told()
    callbacks = Callbacks(told.method)
    callbacks.register(print, "failed")
    callbacks.register(print, "staged")
    callbacks.register(len, "pruned")
    assert callbacks.names() == ["Told.method", "print", "print", "len"]
    assert [callbacks.names(moment) for moment in ("staged", "durable", "failed", "pruned")] == [
        ["print"], ["Told.method"], ["print"], ["len"],
    ]  # fmt: skip
    assert callbacks.unregister(print, "durable") is False
    assert callbacks.unregister(print, "failed") is True
    assert callbacks.names() == ["Told.method", "print", "len"]
    assert callbacks.clear("pruned") == 1
    callbacks.register(print, "failed")
    assert callbacks.unregister(print) is True
    assert callbacks.names() == ["Told.method"]
    with pytest.raises(ValueError, match="on='written': use one of staged, durable, failed, pruned"):
        callbacks.register(print, "written")
    with pytest.raises(TypeError, match=r"give a function of \(event\), a Failed"):
        callbacks.register("notify", "failed")


def test_c25_the_state_says_where_the_training_stood_and_what_its_user_says(tmp_path: Path) -> None:
    states: list[TrainingState] = []
    about = TrainingState(model_name="MyModel", experiment_name="experiment_001")
    callbacks = Callbacks(lambda state, checkpoint: states.append(state), about=about)
    with opened(tmp_path / "run", listeners=[callbacks], extra={"about": about}) as ckpt:
        info = ckpt.save(7, epoch=2, metrics={"loss": 0.5, "lr": 0.1, "val_loss": 0.25}).wait()
        resumed = ckpt.restore()
    (state,) = states
    assert (state.step, state.epoch, state.id, state.loss, state.learning_rate) == (7, 2, info.id, 0.5, 0.1)
    assert state.metrics == {"loss": 0.5, "lr": 0.1, "val_loss": 0.25}
    assert abs(state.timestamp - info.created) < 0.01
    assert (state.model_name, state.experiment_name) == ("MyModel", "experiment_001")
    assert (resumed.model_name, resumed.experiment_name) == ("MyModel", "experiment_001")


def test_c25_a_callback_may_take_itself_away(tmp_path: Path) -> None:
    callbacks = Callbacks()
    calls: list[int] = []

    def once(state: TrainingState, checkpoint: str) -> None:
        calls.append(state.step)
        callbacks.unregister(once)

    callbacks.register(once)
    callbacks.register(lambda state, checkpoint: calls.append(-state.step))
    with opened(tmp_path / "run", listeners=[callbacks]) as ckpt:
        saved(ckpt, [None, None])
        assert steps(ckpt.checkpoints()) == [1, 2]
    assert calls == [1, -1, -2]


# -- C34 -----------------------------------------------------------------------------------------------------


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that takes what a chat service's webhook takes, and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", told
    server.shutdown()
    thread.join()
    server.server_close()


def test_c34_the_example_tells_a_chat_and_wandb_of_good_checkpoints(
    tmp_path: Path, webhook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, told = webhook
    (tmp_path / "wandb.py").write_text(
        "import json\nrun = type('Run', (), {'id': 'r1'})()\ndef log(values):\n    print('wandb', json.dumps(values))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "notify.py"), str(tmp_path / "run"), url],
        check=True, capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": f"{tmp_path}:{EXAMPLES.parent}", "HOME": str(tmp_path)},
    )  # fmt: skip
    logged = [json.loads(line.removeprefix("wandb ")) for line in done.stdout.splitlines() if line.startswith("wandb ")]
    assert [(each["checkpoint_epoch"], each["checkpoint_step"], each["checkpoint_id"]) for each in logged] == [
        (1, 10, "00000001"),
        (2, 20, "00000002"),
        (3, 30, "00000003"),
    ]
    assert len(told) == 1
    assert told[0]["text"].startswith("Great checkpoint 00000003: Epoch: 3 | Step: 30")
