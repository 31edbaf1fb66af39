"""Trainers killed, and writers overtaken, at every single request to a real server, before and after it is served."""

from __future__ import annotations

import multiprocessing
import re
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import pytest
import torch

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.errors import Fenced, SaveFailed
from asyncckpt.testing.proxy import Proxy
from asyncckpt.testing.s3server import S3Server

from ..checkpointer.trainings import elsewhere, steps

SIDE = 1280
"""A weight of 6.25 MiB: an upload of two parts."""

TUNING = {"part_size": 5 << 20, "read_timeout": 120, "deadline": 300}
"""Whoever is held up is patient: nobody tries again beside the request that is held."""

CHANGING = (
    "PUT .*/commits/",
    "POST .*uploads",
    "PUT .*partNumber",
    "POST .*uploadId",
    "DELETE|POST .*delete",
)


CHANGES = "^(PUT|POST|DELETE)"


class Big(torch.nn.Module):
    """A model whose every weight is the same number, so that one that is torn shows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(SIDE, SIDE))

    def fill(self, value: int) -> None:
        """Train, as it were."""
        self.weight.data.fill_(value)

    @property
    def value(self) -> int:
        """The one number; raises if the weights are not all the same."""
        low, high = self.weight.min().item(), self.weight.max().item()
        assert low == high
        return int(low)


def checkpointer(model: Big, url: str, options: dict[str, Any]) -> AsyncCheckpointer:
    return AsyncCheckpointer(url, model=model, storage_options=options, executor="thread", keep=RetentionPolicy(last=2))


def train(url: str, options: dict[str, Any], parent: Connection) -> None:
    """A process: go on from what is there, save once, and, when it is told to, once more."""
    model = Big()
    with checkpointer(model, url, options) as ckpt:
        state = ckpt.resume()
        step = 0 if state is None else state.step
        assert model.value == step
        for word in ("ready", "saved"):
            step += 1
            model.fill(step)
            ckpt.save(step).wait()
            parent.send(("durable", step))
            ckpt.wait()
            parent.send((word, step))
            if word == "ready":
                parent.recv()


class Trainer:
    """A process that trains, and what it has told: steps, by word."""

    def __init__(self, url: str, options: dict[str, Any], proxy: Proxy) -> None:
        context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        context.set_forkserver_preload(["torch._dynamo", "asyncckpt.checkpointer", "s3fs"])
        self._child, theirs = context.Pipe()
        self.process = context.Process(target=train, args=(url, options, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.said = dict[str, int]()
        self._watch = threading.Thread(target=self._end, args=[proxy])
        self._watch.start()

    def _end(self, proxy: Proxy) -> None:
        wait([self.process.sentinel])
        proxy.look()

    def has_ended(self) -> bool:
        """Whether it has, by itself."""
        return bool(wait([self.process.sentinel], 0))

    def hear(self, until: str) -> None:
        """Hear what it says, up to that word, or to its end."""
        with suppress(EOFError, ConnectionError):
            while until not in self.said:
                word, step = self._child.recv()
                self.said[word] = step

    def go(self) -> None:
        """Have it save once more."""
        self._child.send(None)

    def kill(self) -> None:
        """By SIGKILL, unless it has ended; and hear what it had said."""
        self.process.kill()
        self._watch.join()
        self.process.join()
        self.hear("nothing")
        self._child.close()


@pytest.mark.kills
@pytest.mark.timeout(600)
@pytest.mark.parametrize("library", ["obstore", "fsspec"])
@pytest.mark.parametrize(("fault", "pattern"), [("hang", ""), ("linger", CHANGES)])
def test_P8_a_trainer_killed_at_any_request_of_a_save_is_gone_on_from_as_it_was_before_or_after_it(
    s3: S3Server, url: str, fault: Literal["hang", "linger"], pattern: str, library: str
) -> None:
    held, may_be = list[str](), {0}
    for number in range(100):
        with Proxy(s3.port) as proxy:  # a new one: those that hang in it are nobody's any more
            trainer = Trainer(url, s3.options(proxy.endpoint, asyncckpt=TUNING, backend=library), proxy)
            trainer.hear("ready")
            assert trainer.said["ready"] - 1 in may_be, f"after the kill at {held[-1:]}"
            proxy.add(fault, pattern, times=1, skip=number, seconds=600)
            trainer.go()
            is_held = proxy.wait_until_held(unless=trainer.has_ended)
            trainer.kill()
        ready, durable = trainer.said["ready"], trainer.said["durable"]
        may_be = {ready, ready + 1} if durable == ready else {durable}
        if "saved" in trainer.said:  # all of the save's requests are through
            break
        assert is_held
        held += proxy.held
    missing = [request for request in CHANGING if not re.search(request, "\n".join(held))]
    assert missing == []
    model = Big()
    with checkpointer(model, url, s3.options()) as ckpt:
        ckpt.resume()
        assert {model.value} == may_be
    objects, uploads = s3.stored(url)
    assert uploads == []
    assert len({key.split("/")[1] for key in objects if key.startswith("data/")}) == 2


def overtaken(s3: S3Server, root: str, number: int, library: str, patch: pytest.MonkeyPatch) -> tuple[bool, int]:
    """Whether a save of step 2 becomes durable that is held at a request while another writer goes on; and from what.

    `number` counts its requests that change something; where it is -1, none is held, and what comes of it is their
    count.
    """
    model, other = Big(), Big()
    with Proxy(s3.port) as proxy:
        first = checkpointer(model, root, s3.options(proxy.endpoint, asyncckpt=TUNING, backend=library))
        model.fill(1)
        first.save(1).wait()
        first.wait()
        before = proxy.count(CHANGES)
        if number >= 0:
            proxy.add("hang", CHANGES, times=1, skip=number)
        model.fill(2)
        handle = first.save(2)
        if number < 0:
            first.wait()
            count = proxy.count(CHANGES) - before
            first.close()
            return True, count
        proxy.wait_until_held()
        elsewhere(patch)
        with checkpointer(other, root, s3.options()) as second:
            state = second.resume()
            assert state is not None
            assert other.value == state.step
            other.fill(9)
            second.save(9).wait()
            proxy.release()
            with suppress(SaveFailed):
                handle.wait()
            if handle.status == "failed":  # found out at the commit, or by an upload that the other start has swept
                assert isinstance(handle.error, Fenced) or "a newer start of this run" in str(handle.error)
            with suppress(SaveFailed):
                first.close()
            assert steps(second) == [state.step, 9]
    return handle.status == "durable", state.step


@pytest.mark.parametrize("library", ["obstore", "fsspec"])
def test_P8_whoever_is_overtaken_at_any_request_of_a_save_commits_nothing_after_it(
    s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    _, count = overtaken(s3, url, -1, library, monkeypatch)
    found = [overtaken(s3, f"{url}-{number}", number, library, monkeypatch) for number in range(count)]
    assert all(from_step == (2 if is_durable else 1) for is_durable, from_step in found), found
    assert {is_durable for is_durable, _ in found} == {True, False}
