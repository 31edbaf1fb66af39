"""Stateful: anything with ``state_dict`` and ``load_state_dict``; and faster ways for modules and optimizers.

Calling ``state_dict()`` at every save costs 26 ms for 20,000 tensors. So a module and an optimizer are scanned
once, and at each save only asked whether their tensors are still the same objects, which takes a few C-level
passes. What has hooks or a ``state_dict`` of its own is not second-guessed: it is asked every time.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.optimizer import Optimizer

from asyncckpt.errors import IncompatibleState
from asyncckpt.format.contents import Path
from asyncckpt.format.sealed import Fixed, Json
from asyncckpt.state.landing import landing, loads_plainly, only_copies, runs
from asyncckpt.state.refusing import check_fit, check_kind, check_single, explained
from asyncckpt.state.values import TensorSink, encode
from asyncckpt.state.wrappers import Names, unwrap

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
    skeleton: Fixed | None = None


class Component(Protocol):
    """One named part of a state."""

    path: Path

    def scan(self) -> Scan:
        """Look at everything anew."""
        ...

    def tokens(self) -> Iterator[object]:
        """What is there now, in the order of the last scan; compared by identity."""
        ...

    def values(self, skeleton: Fixed | None, sink: TensorSink) -> Json:
        """Everything that may have changed since the scan, as JSON; its tensors go to `sink`."""
        ...

    def state(self) -> State:
        """The live state as the component itself gives it, with the names used in checkpoints."""
        ...

    def landing(self) -> Mapping[Path, Tensor]:
        """Live tensors, by their paths in a checkpoint, that `load` would only copy into; it may be given them."""
        ...

    def homes(self) -> Mapping[Path, torch.device]:
        """Devices on which it will keep what is stored right below a path, where that is not host memory."""
        ...

    def check(self, state: State, *, strict: bool) -> None:
        """Raise `IncompatibleState` for a `state` that is known not to fit; changes nothing.

        Looks at names and shapes only: the bytes of its tensors need not be there yet.
        """
        ...

    def load(self, state: State, *, strict: bool) -> None:
        """Put `state` back; raises `IncompatibleState`."""
        ...


def component(path: Path, target: object) -> Component:
    """The way to save and restore `target`; raises `TypeError` naming `path` for what has none."""
    bare = unwrap(target)
    if isinstance(bare, type):
        raise TypeError(f"{'.'.join(path)} is the class {bare.__name__} itself: give the object that is trained")
    if isinstance(bare, nn.Module):
        return ModuleComponent(path, bare)
    if isinstance(bare, Optimizer):
        return OptimizerComponent(path, bare) if _is_plain_optimizer(bare) else StatefulComponent(path, bare)
    if isinstance(bare, Stateful):
        return ScalerComponent(path, bare) if _is_plain_scaler(bare) else StatefulComponent(path, bare)
    raise TypeError(
        f"{'.'.join(path)} is a {type(bare).__name__}, which has no state_dict() and load_state_dict(): "
        "give it both, or leave it out"
    )


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

    def values(self, skeleton: Fixed | None, sink: TensorSink) -> Json:
        """All of it."""
        return encode(self.state(), self.path, sink)

    def state(self) -> State:
        """What the object says its state is."""
        state: State = self.target.state_dict()
        return state

    def landing(self) -> Mapping[Path, Tensor]:
        """None: what the object does with what it is given is its own affair."""
        return {}

    def homes(self) -> Mapping[Path, torch.device]:
        """Host memory, as far as anybody knows."""
        return {}

    def check(self, state: State, *, strict: bool) -> None:
        """Only the object itself can tell."""

    def load(self, state: State, *, strict: bool) -> None:
        """Hand it back."""
        with explained(self.path):
            self.target.load_state_dict(state)


class ModuleComponent(StatefulComponent):
    """A module; nearly always its state is exactly its parameters and persistent buffers, and they stay."""

    def __init__(self, path: Path, target: nn.Module) -> None:
        super().__init__(path, target)
        self._parts: list[nn.Module] = []
        self._dicts: list[dict[Any, Any]] = []

    def scan(self) -> Scan:
        """Every tensor by name, tied ones under each; nothing where hooks or code of its own have a say."""
        # What TorchScript has compiled shows no dicts: it is not plain, and asked every time.
        self._parts = [m for m in self.target.modules() if not isinstance(m, torch.jit.ScriptModule)]
        self._dicts = [
            d
            for m in self._parts
            for d in (m._modules, m._parameters, m._buffers, m._state_dict_hooks, m._state_dict_pre_hooks)
        ]
        if not _is_plain_module(self.target):
            return Scan(tokens=list(self.tokens()))
        tensors: dict[Path, Tensor] = {}
        live = Names(self.target).cleaned(self.target.state_dict(keep_vars=True))
        return Scan(tensors, list(self.tokens()), Fixed(encode(live, self.path, tensors.__setitem__)))

    def tokens(self) -> Iterator[object]:
        """Every submodule, parameter, buffer and hook, what they are called, and what the modules are."""
        return itertools.chain(
            itertools.chain.from_iterable(map(dict.values, self._dicts)),
            itertools.chain.from_iterable(self._dicts),
            map(type, self._parts),
            (vars(self.target).get("state_dict"),),
        )

    def values(self, skeleton: Fixed | None, sink: TensorSink) -> Json:
        """Nothing beside the tensors, where they are all there is."""
        return super().values(skeleton, sink) if skeleton is None else skeleton

    def state(self) -> State:
        """What the module says its state is, names cleaned."""
        return Names(self.target).cleaned(self.target.state_dict())

    def _live(self) -> State:
        """The same with the parameters themselves, and the names that they have now."""
        live: State = (
            self.target.state_dict(keep_vars=True)
            if runs(self.target, "state_dict", nn.Module.state_dict)
            else self.target.state_dict()  # one of the module's own may not know the word
        )
        return live

    def landing(self) -> Mapping[Path, Tensor]:
        """Parameters and buffers; none where hooks or code of its own have a say."""
        if not (_is_plain_module(self.target) and only_copies(self.target)):
            return {}
        names, live = Names(self.target), self.target.state_dict(keep_vars=True)
        return {(*self.path, names.clean(name)): tensor for name, tensor in landing(live).items()}

    def check(self, state: State, *, strict: bool) -> None:
        """Names, and shapes of what is in both; nothing is known where hooks or code of its own load it."""
        if not loads_plainly(self.target):
            return
        with explained(self.path):
            names = Names(self.target)
            live = names.cleaned(self._live())
            check_fit(self.path, live, _current(state, live, names), strict=strict)

    def load(self, state: State, *, strict: bool) -> None:
        """Load by the names that this module uses now."""
        names, live = Names(self.target), self._live()
        real = {names.clean(name): name for name in live}
        current = _current(state, real, names)
        # What is in excess may be called as something else is that a wrapper holds.
        taken = (name for name in current if name in real or name not in live)
        renamed = OrderedDict((real.get(name, name), current[name]) for name in taken)
        versions = getattr(current, "_metadata", {})
        clean = {name: names.clean(name) for name in getattr(live, "_metadata", ())}
        vars(renamed)["_metadata"] = {name: versions[held] for name, held in clean.items() if held in versions}
        with explained(self.path):
            # A load_state_dict of the module's own may not know the word.
            self.target.load_state_dict(renamed, **({} if strict else {"strict": False}))


def _current(state: State, live: Collection[str], names: Names) -> State:
    """`state` under clean names, also if it was saved when wrappers within a module still left theirs."""
    cleaned = names.cleaned(state)
    return cleaned if len(cleaned) == len(state) and cleaned.keys() == set(live) else state


class OptimizerComponent(StatefulComponent):
    """An optimizer whose state is tensors and plain numbers per parameter."""

    def scan(self) -> Scan:
        """Every tensor of its per-parameter state, unless that holds containers (LBFGS): they change inside.

        Nothing where hooks or code of its own have a say by now.
        """
        if not (_is_plain_optimizer(self.target) and all(map(_is_flat_state, self.target.state.values()))):
            return Scan(tokens=list(self.tokens()))
        tensors: dict[Path, Tensor] = {}
        packed = self.target.state_dict()["state"]
        return Scan(tensors, list(self.tokens()), Fixed(encode(packed, (*self.path, "state"), tensors.__setitem__)))

    def tokens(self) -> Iterator[object]:
        """Every parameter, every value of its state, and who has a say in what its state is."""
        groups = (group["params"] for group in self.target.param_groups)
        per_parameter = (s.values() if isinstance(s, dict) else (s,) for s in self.target.state.values())
        return itertools.chain(
            itertools.chain.from_iterable(groups),
            self.target.state.keys(),
            itertools.chain.from_iterable(per_parameter),
            itertools.chain.from_iterable(map(dict.values, _hooks(self.target))),
            (vars(self.target).get("state_dict"),),
        )

    def values(self, skeleton: Fixed | None, sink: TensorSink) -> Json:
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

    def homes(self) -> Mapping[Path, torch.device]:
        """Where each parameter is: torch puts there what belongs to it."""
        parameters = (p for group in self.target.param_groups for p in group["params"])
        return {
            (*self.path, "state", str(number)): p.device
            for number, p in enumerate(parameters)
            if p.device.type != "cpu"
        }

    def check(self, state: State, *, strict: bool) -> None:
        """One optimizer, of this kind, with as many parameters in each group."""
        check_single(self.path, state)
        with explained(self.path):
            live, saved = map(_group_sizes, (self.target.param_groups, state["param_groups"]))
        if live != saved:
            raise IncompatibleState(
                f"{'.'.join(self.path)} has groups of {live} parameters, the checkpoint's has {saved}"
            )
        check_kind(self.path, self.target, state)

    def load(self, state: State, *, strict: bool) -> None:
        """Load, then put back everything in the dtype it was saved in: torch casts it to its parameter's."""
        with explained(self.path):
            self.target.load_state_dict(state)
        parameters = [p for group in self.target.param_groups for p in group["params"]]
        for key, saved in state["state"].items():
            # Torch casts what belongs to a parameter; anything else stands under the optimizer's own key, as it was.
            if key in range(len(parameters)) and isinstance(saved, dict):
                live = self.target.state[parameters[key]]
                live.update({name: _uncast(saved[name], live[name]) for name in live if name in saved})


class ScalerComponent(StatefulComponent):
    """A gradient scaler, whose own ``state_dict()`` has the host wait for the device to read two numbers from it."""

    def values(self, skeleton: Fixed | None, sink: TensorSink) -> Json:
        """What its ``state_dict()`` holds; the two as tensors, once it has any."""
        scaler = self.target
        if not scaler.is_enabled() or scaler._scale is None or scaler._growth_tracker is None:
            return super().values(skeleton, sink)  # nothing, or what it was made with: on the host
        numbers = {
            "scale": scaler._scale,
            "growth_factor": scaler.get_growth_factor(),
            "backoff_factor": scaler.get_backoff_factor(),
            "growth_interval": scaler.get_growth_interval(),
            "_growth_tracker": scaler._growth_tracker,
        }
        return encode(numbers, self.path, sink)

    def load(self, state: State, *, strict: bool) -> None:
        """Hand it back as its ``state_dict()`` would have given it, which is how earlier versions saved it."""
        numbers = {name: value.item() if isinstance(value, Tensor) else value for name, value in state.items()}
        super().load(numbers, strict=strict)


def _is_plain_scaler(target: object) -> bool:
    asked = ("state_dict", "get_scale", "_get_scale_async", "_get_growth_tracker")
    kind = type(target)
    return isinstance(target, GradScaler) and all(getattr(kind, n) is getattr(GradScaler, n) for n in asked)


def _group_sizes(groups: list[dict[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _uncast(saved: Any, live: Any) -> Any:
    """`saved` on the device where torch has put it."""
    if isinstance(saved, Tensor):
        return saved.to(live.device)
    if isinstance(saved, dict):
        return {key: _uncast(item, live[key]) for key, item in saved.items()}
    if type(saved) in (list, tuple):
        return type(saved)(map(_uncast, saved, live))
    return saved


def _is_plain_module(module: nn.Module) -> bool:
    return all(_is_plain(m) for m in module.modules()) and not any(nn.parameter.is_lazy(p) for p in module.parameters())


def _is_plain(module: nn.Module) -> bool:
    return (
        runs(module, "state_dict", nn.Module.state_dict)
        and runs(module, "_save_to_state_dict", nn.Module._save_to_state_dict)
        and runs(module, "get_extra_state", nn.Module.get_extra_state)
        and not module._state_dict_hooks
        and not module._state_dict_pre_hooks
    )


def _is_plain_optimizer(optimizer: Optimizer) -> bool:
    return runs(optimizer, "state_dict", Optimizer.state_dict) and not any(_hooks(optimizer))


def _hooks(optimizer: Optimizer) -> list[dict[Any, Any]]:
    names = ("_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks")
    return [getattr(optimizer, name, {}) for name in names]


def _is_flat_state(state: object) -> bool:
    return isinstance(state, dict) and all(map(_is_flat, state.values()))


def _is_flat(value: object) -> bool:
    # A container would change inside while staying the same object.
    return value is None or isinstance(value, Tensor | bool | int | float | str)


def forward_mutated(module: nn.Module) -> Iterator[Tensor]:
    """Parameters that a forward pass may change: an embedding that renormalises its rows."""
    for child in module.modules():
        if isinstance(child, nn.Embedding | nn.EmbeddingBag) and child.max_norm is not None:
            yield child.weight
