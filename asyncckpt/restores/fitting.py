"""Fitting: which part of a loaded state belongs to which object, whether it fits, and putting it there.

Nothing is changed before all of it is known to fit, as far as that can be known. Objects are put back in the order they
were given, random state last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import IncompatibleState
from asyncckpt.fetching.arriving import Arrivals
from asyncckpt.format.contents import Path
from asyncckpt.format.parts import around, below, plain
from asyncckpt.restores.restoring import Loaded
from asyncckpt.restores.unloading import unloading, use_here
from asyncckpt.state.apply import Missing, only_parts
from asyncckpt.state.capture import Tree, components
from asyncckpt.state.stateful import Component


@dataclass(frozen=True, slots=True)
class Fitted:
    """A loaded state that is known to fit, as far as that can be known."""

    loaded: Loaded
    parts: list[tuple[Component, Any, bool]]
    """Components, their parts of the state, and whether each has to be whole."""


def fit(
    loaded: Loaded,
    trees: Mapping[str, Mapping[str, Tree]],
    *,
    strict: bool,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> Fitted:
    """What of a loaded state belongs to which component of `trees`; nothing is changed. Raises `IncompatibleState`.

    What the checkpoint lacks is an error with `strict`, and left as it is without.
    """
    _check_parts([*(only or ()), *exclude], trees)
    found: list[tuple[Component, Any, bool]] = []
    for scope, tree in trees.items():
        state = loaded.scopes.get(scope, {})
        for component in components(tree):
            if _asked(component, only, exclude):
                part = _part(state, component, strict=strict)
                if not isinstance(part, Missing):
                    found.append((component, part, strict and _whole(component, only, exclude)))
    for name in only or ():
        if strict and not only_parts(loaded.state, [name]):
            raise IncompatibleState(f"the checkpoint of step {loaded.checkpoint.step} holds nothing named {name!r}")
    for component, part, whole in found:
        component.check(part, strict=whole)
    return Fitted(loaded, found)


def apply(fitted: Fitted, wait: Callable[[Callable[[Catalog], Coroutine[Any, Any, None]]], None]) -> None:
    """Put a loaded state back into the components it fits; what is still to be fetched, `wait` fetches.

    Raises `IncompatibleState` where one refuses its part, and as `read` does for what is found only now; what comes
    before is changed then.
    """
    loaded = fitted.loaded
    if loaded.late is not None:
        use_here(loaded.late.fresh)
    for component, part, whole in fitted.parts:
        # Not before its turn: what another's load_state_dict finds here is what it found without this.
        if loaded.places is not None:
            loaded.places.fill(component.path)
        if loaded.late is not None:
            with unloading(loaded.late.devices):
                wait(partial(_arrive, loaded.late.arrivals, component.path))
        component.load(part, strict=whole)
    if loaded.places is not None:
        loaded.places.close()


async def _arrive(arrivals: Arrivals, part: Path, _: Catalog) -> None:
    await arrivals.fill(part)


def _absence(state: Mapping[str, Any], path: Path) -> str:
    """That the component at `path` is not there, and whether one was saved where several are given."""
    first, held = path[0], ", ".join(map(str, state)) or "nothing"
    one = state.get(first)
    if len(path) > 1 and isinstance(one, dict) and "param_groups" in one:
        held = f"it holds one {first}, by itself"
    else:
        held = f"it holds {held}"
    return (
        f"the checkpoint holds no {'.'.join(path)} ({held}): give the same objects as when it was saved, or "
        "restore(..., strict=False)"
    )


def _check_parts(parts: Collection[str], trees: Mapping[str, Mapping[str, Tree]]) -> None:
    """Refuse a part that is nowhere: restoring nothing for a slip of the pen would go unnoticed."""
    names = [plain(component.path) for tree in trees.values() for component in components(tree)]
    for part in parts:
        if not any(below(name, [part]) or around(name, [part]) for name in names):
            raise IncompatibleState(f"there is no part {part!r}: the parts are {', '.join(map('.'.join, names))}")


def unclaimed(loaded: Loaded, trees: Mapping[str, Mapping[str, Tree]]) -> list[str]:
    """The parts of a loaded state that no component of `trees` takes, by name."""
    found: list[str] = []
    for scope, state in loaded.scopes.items():
        claimed = [plain(component.path) for component in components(trees.get(scope, {}))]
        found += [".".join(path) for path in _parts_of(state, claimed)]
    return found


def _parts_of(state: Any, claimed: Collection[Path], path: Path = ()) -> Iterator[Path]:
    """The topmost parts of `state` that are not in `claimed`."""
    if path in claimed:
        return
    if any(name[: len(path)] == path for name in claimed):
        items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
        for name, item in items:
            yield from _parts_of(item, claimed, (*path, str(name)))
    elif path and state not in ({}, []):  # as of no extras
        yield path


def _asked(component: Component, only: Collection[str] | None, exclude: Collection[str]) -> bool:
    """Whether the component, or something in it, was asked for."""
    name = plain(component.path)
    inside = only is None or below(name, only) or around(name, only)
    return inside and not below(name, exclude)


def _whole(component: Component, only: Collection[str] | None, exclude: Collection[str]) -> bool:
    """Whether everything of the component was asked for."""
    name = plain(component.path)
    inside = only is None or below(name, only)
    return inside and not around(name, exclude)


def _part(state: Any, component: Component, *, strict: bool) -> Any:
    """The component's part of a scope's state, or `Missing` where it is not there and need not be."""
    path = plain(component.path)
    part: Any = state
    for name in path:
        if isinstance(part, list) and name.isdecimal() and int(name) < len(part):
            part = part[int(name)]
        elif isinstance(part, dict) and name in part:
            part = part[name]
        elif strict:
            raise IncompatibleState(_absence(state, path))
        else:
            return Missing()
    return part
