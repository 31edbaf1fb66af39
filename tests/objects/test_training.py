"""Trainings whose root is a bucket: saved, killed, resumed elsewhere, and told apart from an empty one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy, load
from asyncckpt.errors import Fenced, RestoreError, SaveFailed, StorageDenied, StorageError, TransientError
from asyncckpt.events import Damaged, Event, Fallback, Restoring, Retried
from asyncckpt.fetching import arriving, progress
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.s3server import SECRET, STRANGER, STRANGERS_SECRET, IgnoringServer, S3Server

from ..checkpointer.scraping import scrape, total
from ..checkpointer.trainings import Recorder, Training, elsewhere, steps
from .conftest import HASTY, Backend

Executor = Literal["thread", "process"]

GO_ON = """
import sys, torch
from asyncckpt import AsyncCheckpointer
from tests.checkpointer.trainings import Training
training = Training()
with AsyncCheckpointer(sys.argv[1], model=training.model, optimizer=training.optimizer, executor="thread") as ckpt:
    state = ckpt.resume()
    for step in range(state.step + 1, 9):
        training.step()
    ckpt.save(8).wait()
torch.save(training.model.state_dict(), sys.argv[2])
"""


@pytest.fixture(autouse=True)
def _runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))


def checkpointer(training: Training, url: str, options: dict[str, Any], **more: Any) -> AsyncCheckpointer:
    made: dict[str, Any] = {"model": training.model, "optimizer": training.optimizer, "executor": "thread"}
    return AsyncCheckpointer(url, storage_options=options, **(made | more))


@pytest.mark.parametrize(("executor", "backend"), [("thread", "fsspec"), ("process", "fsspec"), ("process", "auto")])
def test_a_training_goes_on_in_a_fresh_process_that_knows_only_the_url(
    s3: S3Server, url: str, executor: Executor, backend: str, tmp_path: Path
) -> None:
    training, twin = Training(), Training()
    options = s3.options(backend=backend)
    with checkpointer(training, url, options, executor=executor, keep=RetentionPolicy(last=2)) as ckpt:
        assert ckpt.resume() is None
        for step in range(1, 6):
            training.step()
            ckpt.save(step).wait()
        assert steps(ckpt) == [4, 5]
        ckpt.wait()
    packs = [key for key in s3.stored(url)[0] if key.endswith(".safetensors")]
    assert [key.split("-step-")[1][0] for key in packs] == ["4", "5"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", GO_ON, url, str(tmp_path / "weights")],
        env=os.environ | s3.variables(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for _ in range(8):
        twin.step()
    resumed = torch.load(tmp_path / "weights")
    assert all(torch.equal(value, resumed[name]) for name, value in twin.model.state_dict().items())
    loaded = load(url, storage_options=s3.options())
    assert loaded.info.step == 8
    assert torch.equal(loaded.state["model"]["weight"], twin.model.weight)
    assert s3.stored(url)[1] == []


def test_the_command_line_reads_a_bucket(s3: S3Server, url: str) -> None:
    training = Training()
    with checkpointer(training, url, s3.options()) as ckpt:
        ckpt.save(1).wait()
    for command in (["ls", url], ["show", f"{url}@latest"], ["verify", url]):
        done = subprocess.run(
            [sys.executable, "-m", "asyncckpt", *command, "--json"],
            env=os.environ | s3.variables(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "00000001" in json.dumps(json.loads(done.stdout))


def commands_of_this_process_and_its_children() -> list[bytes]:
    """Not of all: tests beside this one give secrets to programs of their own. Some may end meanwhile."""
    ours, commands = ["self"], []
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            ours += children.read_text().split()
    for number in ours:
        with suppress(FileNotFoundError, ProcessLookupError):
            commands.append(Path(f"/proc/{number}/cmdline").read_bytes())
    return commands


def test_secrets_are_nowhere_to_be_seen(
    s3: S3Server, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "asyncckpt")
    training, recorder = Training(), Recorder()
    with checkpointer(training, url, s3.options(), executor="process", listeners=[recorder]) as ckpt:
        ckpt.save(1).wait()
        commands = commands_of_this_process_and_its_children()
        assert any(b"asyncckpt.worker" in command for command in commands)
        logs = b"".join(log.read_bytes() for log in (tmp_path / "runtime").iterdir())
    seen = [*commands, logs, repr(recorder.events).encode(), caplog.text.encode(), repr(ckpt.__dict__).encode()]
    assert not any(SECRET.encode() in each for each in seen)


def test_options_that_no_other_process_can_be_told_keep_saves_in_this_one(s3: S3Server, url: str) -> None:
    session = pytest.importorskip("aiobotocore.session")
    training, recorder = Training(), Recorder()
    options = s3.options(session=session.AioSession())
    with checkpointer(training, url, options, executor="process", listeners=[recorder]) as ckpt:
        ckpt.save(1).wait()
    told = {event.feature: event.reason for event in recorder.of(Fallback)}
    assert "no other process can have the storage" in told.pop("executor")
    assert "obstore cannot be told storage_options['session']" in told.pop("obstore")
    assert not told


# -- not an empty root -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "options", "said"),
    [
        ("s3://not-there/run", {}, "there is no bucket of that name"),
        ("s3://tests/run", {"key": STRANGER, "secret": STRANGERS_SECRET}, "access denied"),
        ("s3://tests/run", {"secret": "not it"}, "secret key"),
    ],
)
def test_a_wrong_root_is_an_error_and_never_a_fresh_start(
    s3: S3Server, root: str, options: dict[str, str], said: str, backend: Backend
) -> None:
    training = Training()
    given = s3.options(**options, backend=backend)
    with pytest.raises(StorageDenied, match=said):
        load(root, storage_options=given)
    with checkpointer(training, root, given) as ckpt:
        with pytest.raises(StorageDenied, match=said):
            ckpt.resume()
        with pytest.raises(SaveFailed, match=said):
            ckpt.save(1).wait()


def test_a_store_that_cannot_be_reached_is_an_error_and_never_a_fresh_start(
    s3: S3Server, url: str, backend: Backend
) -> None:
    training = Training()
    with Proxy(s3.port) as proxy:
        proxy.refuse()
        options = s3.options(proxy.endpoint, asyncckpt=HASTY, backend=backend)
        with checkpointer(training, url, options) as ckpt, pytest.raises(TransientError, match="check the network"):
            ckpt.resume()


@pytest.mark.parametrize("url", ["s3://", "s3:///run", "s3://me:secret@bucket/run", "nothing://x/y", "s3://a/b?c=d"])
def test_what_names_no_root_is_refused_at_once(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        AsyncCheckpointer(url, model=Training().model)
    assert "secret" not in str(caught.value) or "storage_options" in str(caught.value)
    assert "me:secret" not in str(caught.value)


# -- faults ----------------------------------------------------------------------------------------------------


def _down(server: S3Server, proxy: Proxy) -> None:
    server.kill()


def _frozen(server: S3Server, proxy: Proxy) -> None:
    server.freeze()


def _refusing(server: S3Server, proxy: Proxy) -> None:
    proxy.refuse()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that tests may stop."""
    with S3Server(tmp_path_factory.mktemp("own")) as server:
        server.make_bucket("tests")
        yield server


@pytest.mark.parametrize(
    ("goes", "backend"),
    [(goes, backend) for goes in (_refusing, _frozen, _down) for backend in ("fsspec", "obstore")],
)
def test_training_goes_on_while_the_store_is_gone_and_the_next_start_finds_all_in_order(
    own: S3Server, url: str, goes: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncckpt.worker.commitlog.commit.ATTEMPTS", 1)
    training = Training()
    training.model = torch.nn.Linear(2048, 2048)  # 16 MiB: an upload of four parts
    first = training.model.weight.detach().clone()
    with Proxy(own.port) as proxy:
        options = own.options(proxy.endpoint, asyncckpt={**HASTY, "read_timeout": 3, "deadline": 4}, backend=backend)
        with checkpointer(training, url, options, optimizer=None, close_timeout=60) as ckpt:
            ckpt.save(1).wait()
            with torch.no_grad():
                training.model.weight.add_(1)
            proxy.add("hang", "POST .*uploadId")
            handle = ckpt.save(2)
            proxy.wait_for("POST .*uploadId", 2)
            requests = ckpt._storage._client.requests
            requests.tuning = replace(requests.tuning, attempts=1)  # now it is known how that ends
            goes(own, proxy)
            proxy.release()
            with torch.no_grad():
                training.model.weight.add_(1)
            with pytest.raises(SaveFailed):
                handle.wait(200)  # what is tried again, settled and swept up waits for 4 s each time
            with pytest.raises(SaveFailed):
                ckpt.save(3).wait(200)
        own.thaw()
        if goes is _down:
            own.start()
    elsewhere(monkeypatch)
    other = Training()
    other.model = torch.nn.Linear(2048, 2048)
    with checkpointer(other, url, own.options(), optimizer=None) as ckpt:
        assert steps(ckpt) == [1]
        state = ckpt.resume()
        assert state is not None
        assert state.step == 1
        assert torch.equal(other.model.weight, first)
        ckpt.save(4).wait()
        assert steps(ckpt) == [1, 4]
    objects, uploads = own.stored(url)
    assert uploads == []
    assert len({key.split("/")[1] for key in objects if key.startswith("data/")}) == 2


def test_a_slow_store_holds_up_no_step_and_costs_no_save(
    s3: S3Server, proxy: Proxy, url: str, backend: Backend
) -> None:
    training = Training()
    with checkpointer(training, url, s3.options(proxy.endpoint, asyncckpt=HASTY, backend=backend)) as ckpt:
        ckpt.resume()
        ckpt.save(1).wait()
        proxy.add("linger", "PUT .*safetensors", seconds=60)
        training.step()
        handle = ckpt.save(2)
        proxy.wait_for("PUT .*safetensors", 2)
        for _ in range(3):
            training.step()
        assert not handle.done()
        proxy.release()
        assert handle.wait().step == 2
        assert steps(ckpt) == [1, 2]


def test_half_of_all_requests_refused_for_too_much_costs_no_save(
    s3: S3Server, proxy: Proxy, url: str, backend: Backend
) -> None:
    training, recorder = Training(), Recorder()
    proxy.add("answer", every=2)
    options = s3.options(proxy.endpoint, asyncckpt={**HASTY, "attempts": 12}, backend=backend)
    with checkpointer(training, url, options, listeners=[recorder], metrics=0, executor="process") as ckpt:
        ckpt.resume()
        for step in (1, 2, 3):
            training.step()
            ckpt.save(step).wait()
        assert steps(ckpt) == [1, 2, 3]
        told = sum(event.count for event in recorder.of(Retried) if event.reason == "slow_down")
        assert told > 10
        assert total(scrape(ckpt.metrics_port), "asyncckpt_storage_retries_total", reason="slow_down") >= told


def test_a_wrong_byte_on_the_way_back_is_never_taken_in(s3: S3Server, proxy: Proxy, url: str, backend: Backend) -> None:
    training, other = Training(), Training()
    with checkpointer(training, url, s3.options()) as ckpt:
        for step in (1, 2):
            training.step()
            ckpt.save(step).wait()
    proxy.add("corrupt", "GET .*00000002-.*safetensors")
    with checkpointer(other, url, s3.options(proxy.endpoint, asyncckpt=HASTY, backend=backend)) as ckpt:
        state = ckpt.resume()
        assert state is not None
        assert state.step == 1


def _forbids(proxy: Proxy) -> None:
    proxy.add("answer", "GET .*safetensors", status=403, body=b"<Error><Code>AccessDenied</Code></Error>")


def _goes(proxy: Proxy) -> None:
    proxy.refuse()


@pytest.mark.parametrize(
    ("turns", "raised"), [(_forbids, "access denied"), (_goes, "check the network|connection broke")]
)
def test_a_store_that_cannot_be_read_from_the_middle_of_a_resume_on_never_makes_it_step_back(
    s3: S3Server,
    proxy: Proxy,
    url: str,
    turns: Callable[[Proxy], None],
    raised: str,
    backend: Backend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arriving, "PIECE", 1 << 20)
    monkeypatch.setattr(progress, "EVERY", 0)
    training, recorder = Training(), Recorder()
    training.model = torch.nn.Linear(2048, 2048)  # 16 MiB: twice as many requests as are under way at once
    with checkpointer(training, url, s3.options(), optimizer=None) as ckpt:
        for step in (1, 2):
            with torch.no_grad():
                training.model.weight.fill_(step)
            ckpt.save(step).wait()

    class Amid:
        def on_event(self, event: Event) -> None:
            if isinstance(event, Restoring) and event.done < event.total:
                turns(proxy)

    other = Training()
    other.model = torch.nn.Linear(2048, 2048)
    options = s3.options(proxy.endpoint, asyncckpt=HASTY, backend=backend)
    with checkpointer(other, url, options, optimizer=None, listeners=[recorder, Amid()], overwrite=True) as ckpt:
        with pytest.raises(StorageError, match=f"the store cannot be read: .*({raised})"):
            ckpt.resume()
        assert recorder.of(Restoring)
        assert recorder.of(Damaged) == []
        with pytest.raises(RestoreError, match="step 2 ended halfway"):
            ckpt.save(3)
        ckpt._returning._listeners._listeners = (recorder,)
        proxy.heal()
        proxy.accept()
        state = ckpt.resume()
        assert state is not None
        assert state.step == 2
        assert other.model.weight.eq(2).all()


# -- a server that ignores conditions --------------------------------------------------------------------------


def test_a_server_that_ignores_conditions_keeps_writers_apart_all_the_same(
    ignoring: IgnoringServer, url: str, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, recorder = Training(), Recorder()
    options = ignoring.options(backend=backend)
    ckpt = checkpointer(first, url, options, listeners=[recorder], keep=RetentionPolicy(last=2))
    assert ckpt.resume() is None
    for step in (1, 2, 3):
        first.step()
        ckpt.save(step).wait()
    assert [event.feature for event in recorder.of(Fallback)] == ["conditional_writes"]
    elsewhere(monkeypatch)
    second = Training()
    with checkpointer(second, url, options) as other:
        state = other.resume()
        assert state is not None
        assert state.step == 3
        assert torch.equal(second.model.weight, first.model.weight)
        second.step()
        other.save(4).wait()
        for step in (5, 6):
            with pytest.raises(SaveFailed) as caught:
                ckpt.save(step).wait()
            assert isinstance(caught.value.failures[step], Fenced)
            assert "was taken by incarnation 2" in str(caught.value.failures[step])
        assert steps(other) == [2, 3, 4]
    ckpt.close()
    assert load(url, storage_options=options).info.step == 4
