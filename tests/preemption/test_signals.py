"""Handlers: they note and chain, leave everything as it was, and are nobody else's business."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import pytest

from asyncckpt import AsyncCheckpointer, Preempted, Preemption
from asyncckpt.preemption.signals import Handler, Signals
from asyncckpt.storage import MemoryStorage

from ..checkpointer.trainings import Toy
from .conftest import Make


class Note:
    """A handler that somebody else has installed."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.calls.append(number)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_E25_a_handler_that_was_there_before_is_called_too_and_put_back(make: Make) -> None:
    before = Note()
    signal.signal(signal.SIGUSR1, before)
    ckpt = make(model=Toy())
    send(signal.SIGUSR1)
    assert before.calls == [signal.SIGUSR1]
    with pytest.raises(Preempted) as raised:
        ckpt.step(1)
    assert raised.value.code == 128 + signal.SIGUSR1
    ckpt.close()
    assert signal.getsignal(signal.SIGUSR1) is before
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_one_that_was_installed_later_stays_and_calls_through_to_the_one_before(make: Make) -> None:
    before, calls = Note(), []
    signal.signal(signal.SIGUSR1, before)
    ckpt = make(model=Toy())
    ours = signal.getsignal(signal.SIGUSR1)
    assert callable(ours)

    def later(number: int, frame: FrameType | None) -> None:
        calls.append(number)
        ours(number, frame)

    signal.signal(signal.SIGUSR1, later)
    ckpt.close()
    assert signal.getsignal(signal.SIGUSR1) is later
    send(signal.SIGUSR1)
    assert (calls, before.calls) == ([signal.SIGUSR1], [signal.SIGUSR1])
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def test_two_checkpointers_of_one_process_both_hear_and_may_be_closed_in_any_order(make: Make) -> None:
    one, two = make(MemoryStorage("memory-1"), model=Toy()), make(MemoryStorage("memory-2"), model=Toy())
    send(signal.SIGTERM)
    for ckpt in (one, two):
        with pytest.raises(Preempted):
            ckpt.step(1)
    one.close()
    two.close()


def test_E25_in_whichever_order_they_are_closed_nobody_elses_handler_is_taken(make: Make) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for order in ((0, 1, 2), (2, 1, 0)):
        made = [make(MemoryStorage(f"memory-{order}-{number}"), model=Toy()) for number in range(3)]
        first, *others = (made[number] for number in order)
        first.close()
        send(signal.SIGTERM)
        for ckpt in others:
            with pytest.raises(Preempted):
                ckpt.step(1)
            ckpt.close()
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as in a terminal: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_E25_once_it_is_closed_a_signal_does_at_once_what_it_did_before(make: Make) -> None:
    before = signal.getsignal(signal.SIGINT)
    for is_closed in (False, True):
        ckpt = make(model=Toy(), preemption=Preemption(signals=("SIGINT",)))
        ours = signal.getsignal(signal.SIGINT)
        assert callable(ours)
        signal.signal(signal.SIGINT, partial(_and_calls, ours))
        if is_closed:
            ckpt.close()
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGINT)
        else:
            send(signal.SIGINT)  # that is notice
            with pytest.raises(Preempted):
                ckpt.step(1)
            ckpt.close()
        signal.signal(signal.SIGINT, before)


def _and_calls(handler: Handler, number: int, frame: FrameType | None) -> None:
    """A handler that somebody installs later, and that calls the one before."""
    handler(number, frame)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_changes_nothing_and_a_second_ctrl_c_means_it(make: Make) -> None:
    ckpt = make(model=Toy(), preemption=Preemption(signals=("SIGTERM", signal.SIGINT)))
    for _ in range(3):
        send(signal.SIGTERM)
    send(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    with pytest.raises(Preempted) as raised:
        ckpt.step(1)
    assert (raised.value.source, raised.value.code) == ("SIGTERM", 143)
    ckpt.close()


def test_another_thread_can_handle_no_signals_and_is_told_what_to_do(tmp_path: Path) -> None:
    raised: list[BaseException] = []
    before = set(threading.enumerate())

    def construct() -> None:
        try:
            AsyncCheckpointer(tmp_path / "run", model=Toy(), preemption=Preemption())
        except RuntimeError as error:
            raised.append(error)
        AsyncCheckpointer(tmp_path / "run", model=Toy(), preemption=Preemption(signals=())).close()

    thread = threading.Thread(target=construct)
    thread.start()
    thread.join()
    assert len(raised) == 1
    assert "in the main thread only" in str(raised[0])
    assert "signals=()" in str(raised[0])
    assert set(threading.enumerate()) <= before


def test_closing_in_another_thread_leaves_a_handler_that_does_what_was_done_before(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "asyncckpt")
    before = Note()
    signal.signal(signal.SIGUSR1, before)
    ckpt = make(model=Toy())
    thread = threading.Thread(target=ckpt.close)
    thread.start()
    thread.join()
    assert "SIGUSR1 stays handled, as it was before" in caplog.text
    send(signal.SIGUSR1)
    assert before.calls == [signal.SIGUSR1]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)


def _status(child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(7)
    return os.waitpid(pid, 0)[1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_was_forked_dies_of_it_as_ever() -> None:
    heard: list[int] = []
    signals = Signals((signal.SIGTERM,), heard.append)
    signals.install()
    try:
        assert _status(lambda: send(signal.SIGTERM)) == signal.SIGTERM
    finally:
        signals.restore()
    assert heard == []


def test_E25_what_is_handled_outside_of_python_gives_no_notice_and_stays() -> None:
    program = """
import logging, signal
from asyncckpt.preemption.signals import Signals
logging.basicConfig()
signals = Signals((signal.SIGBUS, signal.SIGUSR1), print)
signals.install()
assert signal.getsignal(signal.SIGBUS) is None
assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
signals.restore()
assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
"""
    command = [sys.executable, "-X", "faulthandler", "-c", program]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert "SIGBUS is handled outside of Python and gives no notice" in done.stderr


def test_a_handler_is_held_back_until_it_is_passed_on() -> None:
    before = Note()
    signal.signal(signal.SIGUSR2, before)
    signals = Signals((signal.SIGUSR2,), lambda number: None, lambda handler: handler is before)
    signals.install()
    send(signal.SIGUSR2)
    assert (before.calls, signals.holds_back) == ([], True)
    signals.pass_on()
    signals.pass_on()
    assert (before.calls, signals.holds_back) == ([signal.SIGUSR2], False)
    signals.restore()
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"signals": ("SIGTREM",)}, "signals='SIGTREM'"),
        ({"signals": (signal.SIGKILL,)}, "SIGKILL"),
        ({"signals": ("SIGSTOP",)}, "SIGSTOP"),
        ({"signals": (4000,)}, "signals=4000"),
        ({"deadline": 0}, "deadline=0"),
        ({"deadline": float("inf")}, "deadline=inf"),
        ({"exit": "return"}, "use raise or flag"),
        ({"watch": ("/run/stop",)}, r"pathlib.Path\('/run/stop'\)"),
        ({"requeue": "sbatch"}, "requeue='sbatch'"),
        ({"max_preemptions": -1}, "max_preemptions=-1"),
        ({"exit_code": 256}, "exit_code=256"),
    ],
)
def test_what_cannot_be_is_refused_at_once(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Preemption(**options)


def test_the_ends_of_each_range_are_in_it_and_a_signal_that_is_named_twice_is_one() -> None:
    for code in (0, 255):
        assert Preemption(exit_code=code, max_preemptions=0).exit_code == code
    assert Preemption(signals=("SIGUSR1", signal.SIGUSR1, int(signal.SIGTERM))).numbers() == (
        signal.SIGUSR1,
        signal.SIGTERM,
    )


def test_what_is_no_preemption_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"preemption=True: give Preemption\(...\)"):
        AsyncCheckpointer(tmp_path / "run", model=Toy(), preemption=True)
