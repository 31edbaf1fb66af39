"""Tracked: the objects a checkpointer was given, named, checked, and divided into LAZY and EAGER."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from asyncckpt.distributed.coordinator import Place
from asyncckpt.errors import UnsupportedState
from asyncckpt.format.contents import Path
from asyncckpt.format.digest import digest
from asyncckpt.restores.restoring import SHARED, own_scope
from asyncckpt.staging.guards import Guarded, is_guarded_average
from asyncckpt.state.capture import Tree, components
from asyncckpt.state.rng import capture_rng, restore_rng
from asyncckpt.state.stateful import State, StatefulComponent, component, forward_mutated
from asyncckpt.state.values import is_text
from asyncckpt.state.wrappers import Names, unwrap

logger = logging.getLogger("asyncckpt")

RNG = "rng"
_REPLICATED = ("model", "optimizer", "scheduler", "scaler")
_SHARDING = (  # by name: to import them takes a second
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
    "torch.distributed.optim.zero_redundancy_optimizer.ZeroRedundancyOptimizer",
)


@dataclass(frozen=True, slots=True)
class Tracked:
    """What is saved: `trees` by scope, in the order of restoring, and what of it is LAZY.

    That are tensors by their ids, and whatever the components at the paths `guarded` hand out.
    """

    trees: Mapping[str, Mapping[str, Tree]]
    lazy: Callable[[], frozenset[int]]
    guarded: frozenset[Path]


def track(parts: Mapping[str, object], here: Place, exclude: Collection[str] = ()) -> Tracked:
    """Name and check what the user gave (None is left out); random state is there too, and comes last.

    Parts named in `exclude` are neither saved nor restored. Raises `TypeError` for what has no ``state_dict``, and
    `UnsupportedState` for sharded parameters.
    """
    given = {name: target for name, target in parts.items() if target is not None}
    for name, target in given.items():
        _refuse_sharded(name, target)
    lazy = partial(_lazy_now, dict(given))  # also what an optimizer steps that is not saved itself
    given = {n: t for n, t in (*given.items(), (RNG, _Rng())) if n not in exclude}
    shared = {n: t for n, t in given.items() if here.world == 1 or n in _REPLICATED}
    own = {n: t for n, t in given.items() if n not in shared}
    trees: dict[str, Mapping[str, Tree]] = {SHARED: _tree(shared, ())}
    promised = set(_promised((), shared))
    if own:
        scope = own_scope(here.rank)
        trees[scope] = _tree(own, (scope,))
        promised.update(_promised((scope,), own))
    return Tracked(trees, lazy, frozenset(promised))


def _lazy_now(given: Mapping[str, object]) -> frozenset[int]:
    return frozenset(map(id, _lazy(given)))


def roughly(parts: Mapping[str, object]) -> int:
    """About how many bytes of tensors a snapshot will hold; an optimizer that has no state yet is taken for an Adam."""
    sizes: dict[int, int] = {}
    for leaf in _leaves(list(parts.values())):
        target = unwrap(_bare(leaf))
        if isinstance(target, nn.Module):
            sizes |= {id(t): t.nbytes for t in (*target.parameters(), *target.buffers())}
        elif isinstance(target, Optimizer):
            sizes[id(target)] = _state_bytes(target)
    return sum(sizes.values())


def roughly_here(parts: Mapping[str, object], here: Place) -> int:
    """The same of what this rank writes."""
    return roughly({n: t for n, t in parts.items() if here.rank == 0 or n not in _REPLICATED})


def _state_bytes(optimizer: Optimizer) -> int:
    held = [v for state in optimizer.state.values() if isinstance(state, dict) for v in state.values()]
    if held:
        return sum(value.nbytes for value in held if isinstance(value, Tensor))
    parameters: list[Tensor] = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return 2 * sum(parameter.nbytes for parameter in parameters)


def shared_names(tracked: Tracked) -> list[str]:
    """The names of what all ranks share, which they must have been given alike."""
    return [".".join(component.path) for component in components(tracked.trees[SHARED])]


def fingerprint(tracked: Tracked) -> str:
    """A digest of `shared_names`."""
    return digest("\n".join(shared_names(tracked)).encode())


def saved_here(tracked: Tracked, here: Place) -> Mapping[str, Mapping[str, Tree]]:
    """The trees this rank writes: what all share is rank 0's to write."""
    return {scope: tree for scope, tree in tracked.trees.items() if here.rank == 0 or scope != SHARED}


def optimizers(trees: Mapping[str, Mapping[str, Tree]]) -> list[Optimizer]:
    """Every optimizer in `trees`."""
    found = [c.target for tree in trees.values() for c in components(tree) if isinstance(c, StatefulComponent)]
    return [target for target in found if isinstance(target, Optimizer)]


def _tree(given: Mapping[str, object], prefix: Path) -> Mapping[str, Tree]:
    return {name: _branch((*prefix, name), target) for name, target in given.items()}


def _branch(path: Path, target: object) -> Tree:
    target = _bare(target)
    if isinstance(target, Mapping):
        for name in target:
            if not isinstance(name, str):
                raise TypeError(f"{'.'.join(path)} has a name that is not a string: {name!r}")
            if not is_text(name):
                raise UnsupportedState(f"{'.'.join(path)} has a name with a lone surrogate, which is no text: {name!r}")
        return {name: _branch((*path, name), item) for name, item in target.items()}
    if isinstance(target, list | tuple):
        return [_branch((*path, str(index)), item) for index, item in enumerate(target)]
    _check_loader(path, target)
    return component(path, target)


def _promised(path: Path, target: object, *, is_guarded: bool = False) -> Iterator[Path]:
    """The paths of what is `guarded`, or lies in what is."""
    is_guarded = is_guarded or isinstance(target, Guarded)
    target = _bare(target)
    if isinstance(target, Mapping):
        items: Iterable[tuple[str, object]] = target.items()
    elif isinstance(target, list | tuple):
        items = ((str(index), item) for index, item in enumerate(target))
    else:
        items = ()
        if is_guarded:
            yield path
    for name, item in items:
        yield from _promised((*path, name), item, is_guarded=is_guarded)


def _check_loader(path: Path, target: object) -> None:
    if "dataloader" in path and not hasattr(target, "state_dict"):
        raise TypeError(
            f"{'.'.join(path)} is a {type(target).__name__} without state_dict(), so its position cannot be saved: "
            "use torchdata.stateful_dataloader.StatefulDataLoader, or leave it out"
        )


def _bare(target: object) -> object:
    return target.target if isinstance(target, Guarded) else target


def _leaves(target: object) -> Iterator[object]:
    """Every object given, guards still on."""
    inner = _bare(target)
    if isinstance(inner, Mapping):
        for item in inner.values():
            yield from _leaves(Guarded(item) if isinstance(target, Guarded) else item)
    elif isinstance(inner, list | tuple):
        for item in inner:
            yield from _leaves(Guarded(item) if isinstance(target, Guarded) else item)
    else:
        yield target


def _lazy(given: Mapping[str, object]) -> Iterator[Tensor]:
    """The tensors that change only where a guard sees it."""
    leaves = list(_leaves(list(given.values())))
    changed_by_forward = {
        id(t) for leaf in leaves if isinstance(m := unwrap(_bare(leaf)), nn.Module) for t in forward_mutated(m)
    }
    for leaf in leaves:
        yield from (t for t in _lazy_of(leaf) if id(t) not in changed_by_forward or isinstance(leaf, Guarded))


def _lazy_of(leaf: object) -> Iterator[Tensor]:
    target = unwrap(_bare(leaf))
    if isinstance(target, Optimizer):
        for group in target.param_groups:
            yield from group["params"]
        for state in target.state.values():
            if isinstance(state, dict):
                yield from (value for value in state.values() if isinstance(value, Tensor))
    elif isinstance(target, nn.Module) and isinstance(leaf, Guarded):
        yield from target.parameters()
        yield from target.buffers()
    elif isinstance(target, nn.Module) and is_guarded_average(target):
        yield from target.parameters()


def _refuse_sharded(name: str, target: object) -> None:
    for leaf in _leaves(target):
        for key in _sharded(unwrap(_bare(leaf))):
            raise UnsupportedState(
                f"{name}{key} is sharded over ranks (DTensor, FSDP, ZeRO), which this version does not save: use "
                "DistributedDataParallel, or have each rank save its own shards, as in docs/fsdp.md"
            )


def _sharded(target: object) -> Iterator[str]:
    """What in `target` no rank holds as a whole."""
    if isinstance(target, nn.Module):
        clean = Names(target).clean
        yield from (f".{clean(key)}" if key else "" for key, m in target.named_modules() if _is_of(m, _SHARDING))
        yield from (f".{clean(key)}" for key, p in target.named_parameters() if hasattr(p, "_local_tensor"))
    elif isinstance(target, Optimizer):
        parameters = (p for group in target.param_groups for p in group["params"])
        if _is_of(target, _SHARDING) or any(hasattr(p, "_local_tensor") for p in parameters):
            yield ""


def _is_of(target: object, kinds: Collection[str]) -> bool:
    return any(f"{kind.__module__}.{kind.__name__}" in kinds for kind in type(target).__mro__)


class _Rng:
    """Python's, numpy's, torch's and every device's random state."""

    def state_dict(self) -> State:
        return capture_rng()

    def load_state_dict(self, state: State) -> None:
        for note in restore_rng(state):
            logger.warning("%s", note)
