"""Calls: what a trainer asks the service in its worker process to do, by name, and is answered with JSON."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from asyncckpt.errors import AsyncCkptError
from asyncckpt.format.record import Record
from asyncckpt.worker import failures
from asyncckpt.worker.process import wire
from asyncckpt.worker.process.roles import Outliving
from asyncckpt.worker.process.wire import Message


async def answer(service: Outliving, message: Message) -> Message:
    """What `message` asks for, or why it cannot be had."""
    try:
        said = {"result": await _CALLS[message["name"]](service, message)}
    except Exception as error:
        said = {"error": failures.encode(error)}
    return {"kind": "answer", "call": message["call"], **said}


def text(record: Record) -> str:
    """A record, as it is sent."""
    return record.encode().decode("ascii")


async def _resume(service: Outliving, message: Message) -> str:
    listing = await service.resume()
    if listing.head is None:
        raise AsyncCkptError("a run that was taken has no head")
    return text(listing.head)


async def _go_on(service: Outliving, message: Message) -> None:
    verified = None if message["verified"] is None else wire.contents_from(message["verified"])
    await service.go_on(message["seq"], message["damaged"], named=message["named"], verified=verified)


async def _damaged(service: Outliving, message: Message) -> None:
    await service.damaged(message["tier"], *wire.found_of(message["found"]))


async def _prune(service: Outliving, message: Message) -> Message:
    return wire.plan_json(await service.prune(dry_run=message["dry_run"]))


async def _record(service: Outliving, message: Message) -> None:
    await service.record(message["step"], message["metrics"])


async def _settled(service: Outliving, message: Message) -> None:
    await service.settled()


_CALLS: dict[str, Callable[[Outliving, Message], Coroutine[Any, Any, Any]]] = {
    "resume": _resume,
    "go_on": _go_on,
    "damaged": _damaged,
    "prune": _prune,
    "record": _record,
    "settled": _settled,
}
