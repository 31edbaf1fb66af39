"""Pending: a job that the worker process has, or will have, and has not answered yet."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from asyncckpt.worker.descriptors import Descriptor
from asyncckpt.worker.job import Layout
from asyncckpt.worker.process.wire import Message, job_json
from asyncckpt.worker.ticket import Ticket

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out


class Pending:
    """`ticket` on its way; `layout` is its layout's number.

    Trainer and worker agree without waiting for each other who has the job: it comes with a token, an eventfd that can
    be read once, and is whose who has read it.
    """

    def __init__(self, ticket: Ticket, layout: int) -> None:
        self.ticket = ticket
        self.layout = layout
        self.token = _token()
        self.is_given = False
        """Whether a worker has it, or had it."""
        self.is_repeated = False
        self.is_settled = False
        """Whether the worker that has it is told how its snapshot ended."""
        self.is_sealed = False
        """Whether that was said, and the snapshot is complete."""
        self._lock = threading.Lock()
        self._is_kept = False
        self._tells: list[Callable[[], None]] = []

    @property
    def id(self) -> str:
        """The job's id."""
        return self.ticket.job.id

    def land(self) -> None:
        """The local tier has it: whoever carries it on needs nothing of its memory, which is not kept any more."""
        self.ticket = self.ticket.without_memory()
        self.keep()

    @property
    def is_lost(self) -> bool:
        """Whether no other worker than the one that has it could carry it out: what was read of it is not there."""
        return self.is_given and self.ticket.watermark.is_windowed

    @property
    def said(self) -> Message:
        """The job as it is sent; made then, since that takes long for many values."""
        return job_json(self.ticket.job)

    @property
    def shape(self) -> Layout:
        """The job's layout."""
        return self.ticket.job.layout

    def take(self) -> bool:
        """Take the job back, unless it has been begun."""
        try:
            os.eventfd_read(self.token.fileno())
        except BlockingIOError:
            return False
        return True

    def renew(self) -> None:
        """The worker that had it is dead: the next one gets it anew, and is told that it is not the first."""
        self.token = _token()
        self.is_repeated, self.is_settled, self.is_sealed = self.is_given, False, False

    def when_kept(self, tell: Callable[[], None]) -> None:
        """Call `tell` once the snapshot can be committed without this process, or the job is over."""
        with self._lock:
            if not self._is_kept:
                self._tells.append(tell)
                return
        tell()

    def keep(self) -> None:
        """The worker has everything that it needs; from now on, for ever."""
        with self._lock:
            self._is_kept, tells = True, self._tells
            self._tells = []
        for tell in tells:
            tell()


def _token() -> Descriptor:
    return Descriptor(os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
