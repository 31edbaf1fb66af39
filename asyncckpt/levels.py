"""Levels: how full a checkpointer's queue and staging memory are at one moment; looked at, never told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """Staging memory in bytes: `used` by snapshots, `free` for the next, and how much may be used at once."""

    used: int = 0
    free: int = 0
    capacity: int = 0


@dataclass(frozen=True, slots=True)
class Levels:
    """Saves whose writing has not begun, saves that are being written, and the memory that holds them."""

    queued: int = 0
    writing: int = 0
    memory: Memory = Memory()
    heard: float = 0.0
    """When the worker process gave its last sign of life, Unix time; 0 without one."""
