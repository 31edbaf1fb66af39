"""Guards: what keeps LAZY tensors as they are until they are copied.

The optimizer's pre-step hook is torch's own and global, so that it sees every optimizer, also the ones that
step inside the backward pass. Everything else that changes saved tensors says so first: ``AveragedModel``
through its ``update_parameters``, a user's own code through ``before_mutation()``.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.optim.swa_utils import AveragedModel

T = TypeVar("T")
_W = TypeVar("_W")


class Guard(Protocol):
    """Something that may be copying."""

    def guard(self) -> None:
        """Return once no LAZY tensor is being copied any more."""
        ...


class Follower(Protocol):
    """Something that wants to know of steps."""

    def stepping(self, optimizer: Optimizer) -> None:
        """`optimizer` is about to make a step, in whatever thread that is."""
        ...


class Guarded(Generic[T]):
    """Marks an object whose tensors change only after ``before_mutation()``; see `guarded`."""

    def __init__(self, target: T) -> None:
        self.target = target


def guarded(target: T) -> Guarded[T]:
    """Promise that the tensors of `target` change only after ``before_mutation()``, so they are copied LAZY.

    Use it for a model average that is updated by hand, or for frozen weights: ``extra={"ema": guarded(ema)}``. `target`
    may be anything that can be saved, or a list or mapping of it. Of what is no module the promise is for the tensors
    that its ``state_dict()`` returns: they are kept until they are copied, also where it makes them anew each time.
    """
    return Guarded(target)


class _Watching(Generic[_W]):
    """Those who are asked, for as long as they live.

    A step of one training goes through them while another thread makes or closes a checkpointer: they are replaced as a
    whole, since a `weakref.WeakSet` that is changed meanwhile raises in the midst of that step.
    """

    def __init__(self) -> None:
        self._refs: tuple[weakref.ref[_W], ...] = ()

    def __iter__(self) -> Iterator[_W]:
        return (one for ref in self._refs if (one := ref()) is not None)

    def add(self, new: _W) -> None:
        self._refs = (*map(weakref.ref, self._others(new)), weakref.ref(new))

    def discard(self, gone: _W) -> None:
        self._refs = tuple(map(weakref.ref, self._others(gone)))

    def _others(self, but: _W) -> list[_W]:
        return [one for one in self if one is not but]


_lock = threading.Lock()
_guards = _Watching[Guard]()
_followers = _Watching[Follower]()
_installed = False


def watch(guard: Guard) -> None:
    """Have `guard` asked before every optimizer step and every model average, for as long as it lives."""
    with _lock:
        _guards.add(guard)
        _install()


def unwatch(guard: Guard) -> None:
    """Ask `guard` no more."""
    with _lock:
        _guards.discard(guard)


def follow(follower: Follower) -> None:
    """Have `follower` told of every optimizer step, for as long as it lives."""
    with _lock:
        _followers.add(follower)
        _install()


def unfollow(follower: Follower) -> None:
    """Tell `follower` no more."""
    with _lock:
        _followers.discard(follower)


def _install() -> None:
    global _installed  # noqa: PLW0603 -- torch's hook list is global too, and must hold ours once
    if not _installed:
        register_optimizer_step_pre_hook(_before_step)
        _guard_averages()
        _installed = True


def is_guarded_average(module: object) -> bool:
    """Whether `module` is an ``AveragedModel`` that changes its parameters only where the guard sees it."""
    return isinstance(module, AveragedModel) and type(module).update_parameters is AveragedModel.update_parameters


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for follower in _followers:
        follower.stepping(optimizer)
    _ask_all()


def _ask_all() -> None:
    for guard in _guards:
        guard.guard()


def _guard_averages() -> None:
    """Wrap the method on the class: an attribute on the instance would follow deep copies to the wrong object."""
    plain = AveragedModel.update_parameters

    @functools.wraps(plain)
    def update_parameters(self: AveragedModel, model: Any) -> Any:
        _ask_all()
        return plain(self, model)

    setattr(AveragedModel, "update_parameters", update_parameters)  # noqa: B010 -- a plain assignment is a type error
