"""Guards: what keeps LAZY tensors as they are until they are copied.

The optimizer's pre-step hook is torch's own and global, so that it sees every optimizer, also the ones that
step inside the backward pass. Everything else that changes saved tensors says so first: ``AveragedModel``
through its ``update_parameters``, a user's own code through ``before_mutation()``.
"""

from __future__ import annotations

import functools
import threading
import weakref
from typing import Any, Generic, Protocol, TypeVar

from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook
from torch.optim.swa_utils import AveragedModel

T = TypeVar("T")


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


class _Weakly(Generic[T]):
    """Objects, each for as long as it lives, in the order in which they came.

    Every step goes through them, where they are: a ``WeakSet`` would make something of its own for that.
    """

    def __init__(self) -> None:
        self.refs: tuple[weakref.ref[T], ...] = ()
        """Replaced, never changed: who goes through them takes no lock."""
        self._lock = threading.Lock()

    def add(self, added: T) -> None:
        with self._lock:
            self.refs = (*self._others(added), weakref.ref(added))

    def discard(self, discarded: T) -> None:
        with self._lock:
            self.refs = tuple(self._others(discarded))

    def _others(self, one: T) -> list[weakref.ref[T]]:
        return [known for known in self.refs if known() not in (None, one)]


_guards = _Weakly[Guard]()
_followers = _Weakly[Follower]()
_lock = threading.Lock()
_installed = False


def watch(guard: Guard) -> None:
    """Have `guard` asked before every optimizer step and every model average, for as long as it lives."""
    _guards.add(guard)
    _install()


def unwatch(guard: Guard) -> None:
    """Ask `guard` no more."""
    _guards.discard(guard)


def follow(follower: Follower) -> None:
    """Have `follower` told of every optimizer step, for as long as it lives."""
    _followers.add(follower)
    _install()


def unfollow(follower: Follower) -> None:
    """Tell `follower` no more."""
    _followers.discard(follower)


def _install() -> None:
    global _installed  # noqa: PLW0603 -- torch's hook list is global too, and must hold ours once
    with _lock:
        if not _installed:
            register_optimizer_step_pre_hook(_before_step)
            _guard_averages()
            _installed = True


def is_guarded_average(module: object) -> bool:
    """Whether `module` is an ``AveragedModel`` that changes its parameters only where the guard sees it."""
    return isinstance(module, AveragedModel) and type(module).update_parameters is AveragedModel.update_parameters


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for known in _followers.refs:
        follower = known()
        if follower is not None:
            follower.stepping(optimizer)
    _ask_all()


def _ask_all() -> None:
    for known in _guards.refs:
        guard = known()
        if guard is not None:
            guard.guard()


def _guard_averages() -> None:
    """Wrap the method on the class: an attribute on the instance would follow deep copies to the wrong object."""
    plain = AveragedModel.update_parameters

    @functools.wraps(plain)
    def update_parameters(self: AveragedModel, model: Any) -> Any:
        _ask_all()
        return plain(self, model)

    setattr(AveragedModel, "update_parameters", update_parameters)  # noqa: B010 -- a plain assignment is a type error
