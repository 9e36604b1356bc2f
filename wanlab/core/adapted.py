"""What `adapt` makes: another library's module with sites, and the forward hooks that serve them while a trace is open."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core.edit import EditError
from wanlab.core.item import AdaptError, put, take
from wanlab.core.place import Place
from wanlab.core.reshape import Reshape, ReshapeError
from wanlab.core.site import Hookable, Sites, sites_of
from wanlab.core.tap import Probe


@dataclass(frozen=True)
class Port:
    """A site in its module: the place with everything looked up."""

    name: str
    place: Place
    path: str
    module: nn.Module
    reshape: Reshape
    sizes: Mapping[str, int]
    parameters: tuple[str, ...]         # of the module's forward, by position

    def argument(self, key: int | str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Where in (args, kwargs) the input of that number or name stands, however the caller gave it."""
        name = self.parameters[key] if isinstance(key, int) and key < len(self.parameters) else key
        at = self.parameters.index(name) if name in self.parameters else key
        if isinstance(at, int) and at < len(args):
            return 0, at
        if name in kwargs:
            return 1, name
        given = [*self.parameters[:len(args)], *kwargs]
        raise AdaptError(f"{self.name}: {self.path or 'the module'} is called without its input {name!r}; it is given "
                         f"{', '.join(given) or 'nothing'}")

    def cut(self, x: Tensor) -> Tensor:
        """The part of `x` that the site shows."""
        if self.place.part is None:
            return x
        i, n, at = self.place.part
        if not -x.ndim <= at < x.ndim or x.shape[at] % n:
            raise AdaptError(f"{self.name}: a tensor of shape {tuple(x.shape)} has no {n} equal parts along dimension {at}")
        return x.chunk(n, at)[i]

    def paste(self, x: Tensor, y: Tensor) -> Tensor:
        """`x` with the site's part replaced by `y`."""
        if self.place.part is None:
            return y
        i, n, at = self.place.part
        parts = list(x.chunk(n, at))
        parts[i] = y
        return torch.cat(parts, at)

    def shown(self, x: Tensor) -> tuple[Tensor, dict[str, int]]:
        """`x` in the site's axes, and the sizes that lead back."""
        try:
            return self.reshape.there(self.cut(x), self.sizes)
        except ReshapeError as error:
            raise AdaptError(f"{self.name}: {error}; the tensor at {self.path or 'the module'} has shape "
                             f"{tuple(x.shape)}") from None


class Adapted(Hookable):
    """A module of another library with sites; called, and asked for its attributes, it is that module."""

    def __init__(self, inner: nn.Module, ports: Sequence[Port]) -> None:
        super().__init__()
        self.inner = inner
        self.SITES = {port.name: " ".join(port.place.letters()) for port in ports}
        self._ports: dict[tuple[int, str], list[Port]] = {}     # by module and side
        for port in ports:
            self._ports.setdefault((id(port.module), port.place.side), []).append(port)
        self._wanted: frozenset[str] = frozenset()
        self._handles: dict[tuple[int, str], list[Any]] = {}
        self._versions: dict[tuple[int, int], int] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module does."""
        return self.inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner" or name.startswith("__"):
                raise
            return getattr(self.inner, name)

    def sites(self, pattern: str = "**", run: Callable[[], Any] | None = None) -> Sites:
        """The sites that match; with their shapes where `run`, a function that runs the module once, is given."""
        if run is None:
            return sites_of(self).find(pattern)
        with torch.no_grad(), Probe(self) as probe:
            run()
        return probe.sites.find(pattern)

    # ------------------------------------------------------------------------------------------------ hooks while tapped

    def _tapped(self) -> None:
        """Hooks stand at the modules of wanted sites, one for each module and side, and nowhere else."""
        taps = self._taps or ()
        self._wanted = frozenset(name for name in self.SITES if any(tap.wants(self, name) for tap in taps))
        needed = {key for key, ports in self._ports.items() if any(port.name in self._wanted for port in ports)}
        for key in [key for key in self._handles if key not in needed]:
            for handle in self._handles.pop(key):
                handle.remove()
        for key in self._ports:
            if key in needed and key not in self._handles:
                self._handles[key] = self._hook(self._ports[key])
        self._versions.clear()

    def _hook(self, ports: list[Port]) -> list[Any]:
        module = ports[0].module
        if ports[0].place.side == "input":
            return [module.register_forward_pre_hook(_Hook(partial(self._before, ports)), with_kwargs=True)]
        return [module.register_forward_pre_hook(_Hook(self._note), with_kwargs=True),
                module.register_forward_hook(_Hook(partial(self._after, ports)), with_kwargs=True)]

    def _before(self, ports: list[Port], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args, kwargs
        for port in ports:
            if port.name in self._wanted:
                first, *rest = port.place.keys
                given = self._through(port, given, (*port.argument(first, *given), *rest), None)
        return None if given[0] is args and given[1] is kwargs else given

    def _after(self, ports: list[Port], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any],
               output: Any) -> Any:
        given = output
        for port in ports:
            if port.name in self._wanted:
                where = port.place.identity
                stands = None if where is None else partial(self._identity, port, where, args, kwargs)
                given = self._through(port, given, port.place.keys, stands)
        for x in _tensors(args, kwargs):
            self._versions.pop((threading.get_ident(), id(x)), None)
        return None if given is output else given

    def _through(self, port: Port, value: Any, keys: Sequence[Any], identity: Callable[[Tensor], Tensor] | None) -> Any:
        """Pass what `keys` lead to through the site; `value` itself where that changed nothing."""
        try:
            x = take(value, keys)
        except AdaptError as error:
            raise AdaptError(f"{port.name}: the {port.place.side} of {port.path or 'the module'}: {error}") from None
        y, sizes = port.shown(x)
        z = self.site(port.name, y, None if identity is None else partial(identity, x))
        if z is x or (z is y and not (x.requires_grad and torch.is_grad_enabled())):
            return value
        return put(value, keys, port.paste(x, port.reshape.back(z, sizes)))     # gradients pass where a tap looked

    def _identity(self, port: Port, where: int | str, args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Tensor:
        """What a bypass puts at an output: the input that the place names (`where`), in the site's axes."""
        told = f"{port.name} cannot be bypassed: {port.path or 'the module'}"
        if where == "zeros":
            return torch.zeros_like(port.shown(x)[0])
        given = take((args, kwargs), port.argument(where, args, kwargs))
        if given.shape != x.shape:
            raise EditError(f"{told} takes {tuple(given.shape)} and gives {tuple(x.shape)}; name another input with identity=")
        if self._overwritten(given, x):
            raise EditError(f"{told} writes over its input, or gives it back as it is: what it was given cannot be told")
        return port.shown(given)[0]

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember which writes the inputs have seen before the module runs."""
        for x in _tensors(args, kwargs):
            if not x.is_inference():                            # inference tensors do not count writes
                self._versions[threading.get_ident(), id(x)] = x._version

    def _overwritten(self, given: Tensor, x: Tensor) -> bool:
        before = self._versions.get((threading.get_ident(), id(given)))
        wrote = before is not None and before != given._version
        return wrote or given.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()

    # ------------------------------------------------------------------------------------------------ copies

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are taken without taps and hooks."""
        return super().__getstate__() | {"_wanted": frozenset(), "_handles": {}, "_versions": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        ports = [port for at in self._ports.values() for port in at]
        self._ports = {}
        for port in ports:
            self._ports.setdefault((id(port.module), port.place.side), []).append(port)
            _without_inert(port.module)


class _Hook:
    """A hook of ours. What is copied or pickled while it stands gets one that does nothing."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *given: Any) -> Any:
        return self.call(*given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Inert, ()


class _Inert:
    def __call__(self, *_: Any) -> None:
        return None


def _without_inert(module: nn.Module) -> None:
    for hooks, flags in ((module._forward_hooks, module._forward_hooks_with_kwargs),
                         (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)):
        for key in [key for key, hook in hooks.items() if isinstance(hook, _Inert)]:
            del hooks[key]
            flags.pop(key, None)


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    return [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
