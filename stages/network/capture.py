"""Looks into one forward pass: module hooks for modules, a function mode for ReLUs that are only called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import StageError, did_you_mean
from .functional import ReluCall, recognise

FUNCTIONAL = "functional_relu"
#: Modules whose forward is one ReLU function; that call is the module's output, not a layer of its own.
RELU_MODULES = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Threshold)


@dataclass(frozen=True)
class Place:
    """One value of a forward pass.

    Parameters
    ----------
    module
        Dotted name of the module; ``""`` for the model itself.
    role
        Whether it is the module's output, its input, or a ReLU called as a function inside it.
    call
        Which one, counted from 0, of those within one forward pass.
    """

    module: str
    role: Literal["output", "input", "relu"]
    call: int = 0

    def name(self, several: bool) -> str:
        """The layer's name; with ``#call`` when there are `several`."""
        call = f"#{self.call}" if several else ""
        if self.role == "relu":
            return f"{self.module}.{FUNCTIONAL}{call}".lstrip(".")
        return f"{self.module}{call}" + (".input" if self.role == "input" else "")


@dataclass(frozen=True)
class Seen:
    """What a visitor is shown while the forward runs.

    Parameters
    ----------
    place
        Where the value arises.
    value
        The value itself, not a copy: whatever comes next may overwrite it.
    source
        The module, or the call of a function.
    aliased
        Whether the model may hold the same memory under another name.
    """

    place: Place
    value: Tensor
    source: nn.Module | ReluCall
    aliased: bool


#: Returns what the model shall go on with; None leaves it as it is.
Visit = Callable[[Seen], Tensor | None]


def locate(name: str, modules: Collection[str]) -> Place:
    """Find where a layer's value arises.

    Parameters
    ----------
    name
        Name of the layer.
    modules
        Name of every module of the model.

    Raises
    ------
    StageError
        When the model has no such module.
    """
    stem, call = _split_call(name)
    if stem in modules:
        return Place(stem, "output", call)
    owner, _, last = stem.rpartition(".")
    if last == FUNCTIONAL and owner in modules:
        return Place(owner, "relu", call)
    owner, call = _split_call(name.removesuffix(".input"))
    if name.endswith(".input") and owner in modules:
        return Place(owner, "input", call)
    raise StageError(f"layer {name!r}: the model has no module of that name{did_you_mean(name, modules)}")


def _split_call(name: str) -> tuple[str, int]:
    stem, mark, call = name.rpartition("#")
    return (stem, int(call)) if mark and call.isdigit() else (name, 0)


def children(module: nn.Module) -> list[nn.Module]:
    """The modules that a module is made of; a parametrisation of its weights is none."""
    return [child for name, child in module.named_children() if name != "parametrizations"]


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its first dotted name, without those that only parametrise weights."""
    return {name: module for name, module in model.named_modules() if "parametrizations" not in name.split(".")}


@contextmanager
def watch(
    model: nn.Module,
    visit: Visit,
    wanted: Collection[Place] | None = None,
    replaced: Collection[Place] = (),
) -> Iterator[Counter[tuple[str, str]]]:
    """Show values of the forward passes inside the context to a visitor; afterwards no hook is left.

    Parameters
    ----------
    model
        Nothing is written on it.
    visit
        Called with each wanted value in the order of the forward pass.
    wanted
        What to show; None for everything there is.
    replaced
        Places for which `visit` may return another tensor.

    Yields
    ------
    Counter
        How often each (module, role) that was watched has been passed.
    """
    watcher = _Watcher(visit, wanted, frozenset(replaced))
    try:
        watcher.attach(named_modules(model))
        with watcher.mode or nullcontext():
            yield watcher.count
    finally:
        watcher.detach()


class _Watcher:
    def __init__(self, visit: Visit, wanted: Collection[Place] | None, replaced: frozenset[Place]) -> None:
        self.visit = visit
        self.wanted = None if wanted is None else frozenset(wanted)
        self.replaced = replaced
        self.count: Counter[tuple[str, str]] = Counter()
        self.inside: list[tuple[str, nn.Module]] = []
        self.handles: list[Any] = []
        self.busy = False
        self.mode = _FunctionMode(self) if self._any("relu") else None

    def _any(self, role: str) -> bool:
        return self.wanted is None or any(place.role == role for place in self.wanted)

    def attach(self, modules: dict[str, nn.Module]) -> None:
        outputs, inputs = (self._watched(modules, role) for role in ("output", "input"))
        for name, module in modules.items():
            if self.mode is not None:
                self.handles.append(module.register_forward_pre_hook(self._entering(name)))
                # Also when the module raises: the model may catch the error and go on.
                self.handles.append(module.register_forward_hook(self._leaving(), always_call=True))
            if name in inputs and (self.wanted is not None or isinstance(module, nn.Linear)):
                self.handles.append(module.register_forward_pre_hook(self._input_hook(name), with_kwargs=True))
            if name in outputs:
                self.handles.append(module.register_forward_hook(self._output_hook(name)))

    def _watched(self, modules: dict[str, nn.Module], role: str) -> set[str]:
        if self.wanted is None:
            return set(modules) - {""}
        return {place.module for place in self.wanted if place.role == role}

    def detach(self) -> None:
        while self.handles:
            self.handles.pop().remove()

    def place(self, module: str, role: Literal["output", "input", "relu"]) -> Place | None:
        """Count one passage and say where it is; None where nobody wants it."""
        place = Place(module, role, self.count[module, role])
        self.count[module, role] += 1
        return place if self.wanted is None or place in self.wanted else None

    def show(self, seen: Seen) -> Tensor | None:
        # What a visitor computes must not be taken for a part of the model.
        self.busy = True
        try:
            return self.visit(seen)
        finally:
            self.busy = False

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any) -> None:
            self.inside.append((name, module))

        return hook

    def _leaving(self) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, _output: Any) -> None:
            self.inside.pop()

        return hook

    def _output_hook(self, name: str) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
            place = self.place(name, "output")
            if place is None or not isinstance(output, Tensor):
                return None
            other = self.show(Seen(place, output, module, output._is_view() or _shared(output, args)))
            inplace = getattr(module, "inplace", False) and any(output is value for value in args)
            if other is not None and inplace and not torch.is_grad_enabled():
                # The model may ignore what an in-place module returns; a graph, though, forbids to write here.
                return output.copy_(other)
            return other

        return hook

    def _input_hook(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            place = self.place(name, "input")
            value = args[0] if args else kwargs.get("input")
            if place is None or not isinstance(value, Tensor):
                return None
            other = self.show(Seen(place, value, module, aliased=True))
            if other is None:
                return None
            return ((other, *args[1:]), kwargs) if args else (args, kwargs | {"input": other})

        return hook

    def called(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], relu: ReluCall) -> Any:
        """Make a call that is a ReLU, and show what comes of it."""
        place = self.place(self.inside[-1][0], "relu") if self.inside else None
        if place is None:
            return func(*args, **kwargs)
        if relu.inplace and place in self.replaced:
            return self._called_apart(
                func, args, kwargs, Seen(place, args[0] if args else kwargs["input"], relu, False)
            )
        output = func(*args, **kwargs)
        other = self.show(Seen(place, output, relu, aliased=relu.inplace))
        return output if other is None else other

    def _called_apart(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], at: Seen
    ) -> Tensor:
        # The model may ignore what an in-place call returns, so that what it goes on with must stand in its input.
        target, apart = at.value, at.value.clone()
        output = func(apart, *args[1:], **kwargs) if args else func(**(kwargs | {"input": apart}))
        other = self.show(Seen(at.place, output, at.source, aliased=False))
        return target.copy_(output if other is None else other)


class _FunctionMode(TorchFunctionMode):
    def __init__(self, watcher: _Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        watcher = self.watcher
        relu = None if watcher.busy else recognise(func, args, kwargs)
        if relu is None or (watcher.inside and isinstance(watcher.inside[-1][1], RELU_MODULES)):
            return func(*args, **kwargs)
        return watcher.called(func, args, kwargs, relu)


def _shared(output: Tensor, args: tuple[Any, ...]) -> bool:
    memory = output.untyped_storage().data_ptr()
    return any(isinstance(value, Tensor) and value.untyped_storage().data_ptr() == memory for value in args)
