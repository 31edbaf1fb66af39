"""Stateful: anything with ``state_dict`` and ``load_state_dict``; and faster ways for modules and optimizers.

Calling ``state_dict()`` at every save costs 26 ms for 20,000 tensors. So a module and an optimizer are scanned
once, and at each save only asked whether their tensors are still the same objects, which takes a few C-level
passes. What has hooks or a ``state_dict`` of its own is not second-guessed: it is asked every time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from asyncckpt.errors import IncompatibleState
from asyncckpt.format.manifest import Path
from asyncckpt.format.sealed import Json
from asyncckpt.state.values import TensorSink, encode

State: TypeAlias = dict[str, Any]


@runtime_checkable
class Stateful(Protocol):
    """Torch's own convention for objects that can be saved."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state_dict: State) -> Any: ...


@dataclass(slots=True)
class Scan:
    """What a component holds that stays the same objects between saves."""

    tensors: dict[Path, Tensor] = field(default_factory=dict)
    tokens: list[object] = field(default_factory=list)
    """The objects whose identity says that nothing was added, removed or replaced."""
    skeleton: Json = None


class Component(Protocol):
    """One named part of a state."""

    path: Path

    def scan(self) -> Scan:
        """Look at everything anew."""
        ...

    def tokens(self) -> Iterator[object]:
        """What is there now, in the order of the last scan; compared by identity."""
        ...

    def values(self, skeleton: Json, sink: TensorSink) -> Json:
        """Everything that may have changed since the scan, as JSON; its tensors go to `sink`."""
        ...

    def state(self) -> State:
        """The live state as the component itself gives it, with the names used in checkpoints."""
        ...

    def load(self, state: State, *, strict: bool) -> None:
        """Put `state` back; raises `IncompatibleState`."""
        ...


def component(path: Path, target: object) -> Component:
    """The way to save and restore `target`; raises `TypeError` naming `path` for what has none."""
    bare = unwrap(target)
    if isinstance(bare, nn.Module):
        return ModuleComponent(path, bare) if _is_plain_module(bare) else HookedModuleComponent(path, bare)
    if isinstance(bare, Optimizer):
        return OptimizerComponent(path, bare) if _is_plain_optimizer(bare) else StatefulComponent(path, bare)
    if isinstance(bare, Stateful):
        return StatefulComponent(path, bare)
    raise TypeError(
        f"{'.'.join(path)} is a {type(bare).__name__}, which has no state_dict() and load_state_dict(): "
        "give it both, or leave it out"
    )


def unwrap(target: object) -> object:
    """`target` without DataParallel, DistributedDataParallel and torch.compile around it."""
    while True:
        if isinstance(target, nn.DataParallel | nn.parallel.DistributedDataParallel):
            target = target.module
        elif isinstance(target, nn.Module) and "_orig_mod" in target._modules:
            target = target._modules["_orig_mod"]
        else:
            return target


def clean(name: str) -> str:
    """A parameter's name without the trace of submodules that were compiled one by one."""
    return name.replace("_orig_mod.", "")


class StatefulComponent:
    """Asked for everything at every save."""

    def __init__(self, path: Path, target: Stateful) -> None:
        self.path = path
        self.target: Any = target

    def scan(self) -> Scan:
        """Nothing stays."""
        return Scan()

    def tokens(self) -> Iterator[object]:
        """Nothing stays."""
        return iter(())

    def values(self, skeleton: Json, sink: TensorSink) -> Json:
        """All of it."""
        return encode(self.state(), self.path, sink)

    def state(self) -> State:
        """What the object says its state is."""
        state: State = self.target.state_dict()
        return state

    def load(self, state: State, *, strict: bool) -> None:
        """Hand it back."""
        with explained(self.path):
            self.target.load_state_dict(state)


class HookedModuleComponent(StatefulComponent):
    """A module whose state is more than its parameters and buffers: hooks, extra state, code of its own."""

    def state(self) -> State:
        """What the module says its state is, names cleaned."""
        return {clean(name): value for name, value in self.target.state_dict().items()}

    def load(self, state: State, *, strict: bool) -> None:
        """Load by the names that this module uses now."""
        load_module(self.target, self.path, state, strict=strict)


class ModuleComponent(HookedModuleComponent):
    """A module whose state is exactly its parameters and persistent buffers."""

    def __init__(self, path: Path, target: nn.Module) -> None:
        super().__init__(path, target)
        self._dicts: list[dict[str, object]] = []

    def scan(self) -> Scan:
        """Every tensor by name; tied ones under each of their names."""
        self._dicts = [d for m in self.target.modules() for d in (m._modules, m._parameters, m._buffers)]
        tensors: dict[Path, Tensor] = {}
        live = {clean(n): t for n, t in self.target.state_dict(keep_vars=True).items()}
        skeleton = encode(live, self.path, tensors.__setitem__)
        return Scan(tensors, list(self.tokens()), skeleton)

    def tokens(self) -> Iterator[object]:
        """Every submodule, parameter and buffer."""
        return itertools.chain.from_iterable(map(dict.values, self._dicts))

    def values(self, skeleton: Json, sink: TensorSink) -> Json:
        """Nothing beside the tensors."""
        return skeleton


class OptimizerComponent(StatefulComponent):
    """An optimizer whose state is tensors and plain numbers per parameter."""

    def scan(self) -> Scan:
        """Every tensor of its per-parameter state, unless that holds containers (LBFGS): they change inside."""
        if not all(_is_flat(value) for state in self.target.state.values() for value in state.values()):
            return Scan(tokens=list(self.tokens()))
        tensors: dict[Path, Tensor] = {}
        packed = self.target.state_dict()["state"]
        return Scan(tensors, list(self.tokens()), encode(packed, (*self.path, "state"), tensors.__setitem__))

    def tokens(self) -> Iterator[object]:
        """Every parameter, and every value of its state."""
        groups = (group["params"] for group in self.target.param_groups)
        per_parameter = map(dict.values, self.target.state.values())
        return itertools.chain(
            itertools.chain.from_iterable(groups),
            self.target.state.keys(),
            itertools.chain.from_iterable(per_parameter),
        )

    def values(self, skeleton: Json, sink: TensorSink) -> Json:
        """The hyperparameters, which schedulers change, beside the state's skeleton."""
        if skeleton is None:
            return super().values(skeleton, sink)
        end = 0
        groups = []
        for group in self.target.param_groups:
            start, end = end, end + len(group["params"])
            hyper = {name: value for name, value in group.items() if name != "params"}
            groups.append({**hyper, "params": list(range(start, end))})
        encoded = encode(groups, (*self.path, "param_groups"), sink)
        return {"$dict": [["state", skeleton], ["param_groups", encoded]]}

    def load(self, state: State, *, strict: bool) -> None:
        """Load, then put back each tensor in the dtype it was saved in: torch casts it to its parameter's."""
        state = _owned(state)
        with explained(self.path):
            self.target.load_state_dict(state)
        parameters = [p for group in self.target.param_groups for p in group["params"]]
        for index, saved in state["state"].items():
            live = self.target.state[parameters[index]]
            for name, value in saved.items():
                if isinstance(value, Tensor) and live[name].dtype != value.dtype:
                    live[name] = value.to(live[name].device)


def _owned(value: Any) -> Any:
    """`value` with tensors in memory of their own: an optimizer keeps what it is given.

    Torch's allocator aligns to 64 bytes, a pack to the element's size, and sums over misaligned memory may round
    in another order: resumed that way, LBFGS differs in the last bit.
    """
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _owned(item) for key, item in value.items()}
    return [_owned(item) for item in value] if type(value) is list else value


def _is_plain_module(module: nn.Module) -> bool:
    return all(_is_plain(m) for m in module.modules()) and not any(
        nn.parameter.is_lazy(p) for p in module.parameters()
    )


def _is_plain(module: nn.Module) -> bool:
    kind = type(module)
    return (
        kind.state_dict is nn.Module.state_dict
        and kind._save_to_state_dict is nn.Module._save_to_state_dict
        and kind.get_extra_state is nn.Module.get_extra_state
        and not module._state_dict_hooks
        and not module._state_dict_pre_hooks
    )


def _is_plain_optimizer(optimizer: Optimizer) -> bool:
    kind = type(optimizer)
    hooks = ("_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks")
    return kind.state_dict is Optimizer.state_dict and not any(getattr(optimizer, name, None) for name in hooks)


def _is_flat(value: object) -> bool:
    # A container would change inside while staying the same object.
    return value is None or isinstance(value, Tensor | bool | int | float | str)


def load_module(module: nn.Module, path: Path, state: State, *, strict: bool) -> None:
    """Load `state` into `module` under the names it uses now; checks before it touches the first parameter."""
    live = module.state_dict(keep_vars=True)
    real = {clean(name): name for name in live}
    if strict:
        _check_fit(path, {clean(name): value for name, value in live.items()}, state)
    renamed = {real.get(name, name): value for name, value in state.items()}
    with explained(path):
        module.load_state_dict(renamed, strict=strict)


def _check_fit(path: Path, live: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    name = ".".join(path)
    for what, names in (("lacks", live.keys() - state.keys()), ("has in excess", state.keys() - live.keys())):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise IncompatibleState(
                f"the checkpoint of {name} {what} {shown}: use the same architecture, or strict=False"
            )
    for key, value in live.items():
        saved = state[key]
        if isinstance(value, Tensor) and isinstance(saved, Tensor) and value.shape != saved.shape:
            raise IncompatibleState(
                f"{name}.{key} has shape {tuple(value.shape)}, the checkpoint's {tuple(saved.shape)}"
            )


class explained:
    """Turns what a ``load_state_dict`` raises into `IncompatibleState` with the component's name in front."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError | ValueError | KeyError | TypeError):
            raise IncompatibleState(f"{'.'.join(self._path)} does not accept its saved state: {error}") from error


def forward_mutated(module: nn.Module) -> Iterator[Tensor]:
    """Parameters that a forward pass may change: an embedding that renormalises its rows."""
    for child in module.modules():
        if isinstance(child, nn.Embedding | nn.EmbeddingBag) and child.max_norm is not None:
            yield child.weight
