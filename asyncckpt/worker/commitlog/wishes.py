"""Wishes: what people ask of a run that a writer holds; it looks right before each of its records.

Pins and tags say what must stay, requests what may go, findings what is damaged. Whoever made a mark or a request sees
in the record whether it was heard.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from asyncckpt.errors import AsyncCkptError, ObjectNotFound
from asyncckpt.events import Leftover, Listeners
from asyncckpt.format import findings, marks
from asyncckpt.format.findings import Finding
from asyncckpt.format.marks import Mark
from asyncckpt.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Wishes:
    """Marks by sequence number, who asked for which removals, the requests' keys, and what was found damaged."""

    marks: Mapping[int, tuple[Mark, ...]] = field(default_factory=dict)
    drops: Mapping[int, str] = field(default_factory=dict)
    requests: tuple[str, ...] = ()
    damaged: frozenset[Finding] = frozenset()
    given_up: frozenset[int] = frozenset()
    """Of those that are to go, what was known to be damaged."""

    @property
    def spared(self) -> dict[int, list[str]]:
        """The marks, as retention tells them."""
        return {seq: [str(mark) for mark in found] for seq, found in self.marks.items()}

    def acknowledged(self, listed: Container[int]) -> tuple[int, ...]:
        """The sequence numbers of the listed checkpoints whose marks were seen."""
        return tuple(sorted(seq for seq in self.marks if seq in listed))

    @property
    def unwanted(self) -> dict[int, str]:
        """What was asked to go, and by whom."""
        return {seq: f"asked for by {author}" for seq, author in self.drops.items()}


async def read_wishes(storage: Storage, listeners: Listeners) -> Wishes:
    """Everything that people ask for now. Raises `StorageError` if they cannot be heard."""
    keys = [found.key async for found in storage.list(marks.USER)]
    drops: dict[int, str] = {}
    given_up: set[int] = set()
    requests = []
    for key in filter(marks.is_drop, keys):
        try:
            drop = marks.decode_drop(await storage.get(key), f"{storage.url}/{key}")
        except ObjectNotFound:
            continue
        except AsyncCkptError as error:
            listeners.emit(Leftover(f"the request {key}", error))
            continue
        drops |= dict.fromkeys(drop.seqs, drop.author)
        given_up |= drop.damaged
        requests.append(key)
    return Wishes(marks.by_seq(keys), drops, tuple(requests), findings.among(keys), frozenset(given_up))
