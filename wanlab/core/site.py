"""Sites: the named places of a model where a tensor can be seen or changed.

A module declares them once and passes its tensors through them:

    class Block(Hookable):
        SITES = {"resid": "b f n c", "out": "b f n c"}
        def forward(self, x):
            x = self.site("resid", x)
            return x + self.site("out", self.mlp(x), identity=lambda: torch.zeros_like(x))

The full name of a site is the module's path in the traced root, a dot, and the local name. With nobody listening a
site is one look-up and a comparison; it is no module, has no state, and torch.compile removes it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from wanlab.core.lazy import Lazy
from wanlab.core.nearest import suggestion
from wanlab.core.pattern import matches


class UnknownSite(LookupError):
    """A name or pattern that no site has."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Tap(Protocol):
    """What a trace hangs on a module; `site` calls it for every tensor that passes."""

    def fire(self, module: Hookable, name: str, x: Tensor | Lazy, identity: Any) -> Tensor | Lazy:
        """What goes on in the place of x; `identity` as `Hookable.site` was given it."""

    def listens(self, module: Hookable, name: str) -> bool:
        """Whether it acts at a site at the present moment of the clock."""

    def wants(self, module: Hookable, name: str) -> bool:
        """Whether it may act at a site at any time while it hangs."""


class Hookable(nn.Module):
    """An nn.Module with sites. `SITES` maps local names to axes, one letter for each dimension: {"z": "b k n d"}.

    `DERIVED` names those from which nothing is computed: they can be recorded, and an edit there raises.
    `ALIKE` maps a site that not every run passes to one of equal shape that fires at the same moments: a dry run tells of both.
    """

    SITES: Mapping[str, str] = {}
    DERIVED: Sequence[str] = ()
    ALIKE: Mapping[str, str] = {}
    _taps: tuple[Tap, ...] | None = None        # an attribute of the instance only while a trace is open

    def site(self, name: str, x: Any, identity: Tensor | Callable[[], Tensor] | None = None) -> Any:
        """Pass `x` through the site `name`; `identity` (or what it returns) stands here when the block is bypassed.

        A `Lazy` is computed for those who want it, and comes back as it is where nobody changed it, else as a tensor.
        """
        if self._taps is None:
            return x
        return self._tap(name, x, identity)

    def listening(self, *names: str) -> bool:
        """Whether anybody wants one of these sites now: guard values that cost something to compute."""
        if self._taps is None:
            return False
        return any(tap.listens(self, name) for tap in self._taps for name in names)

    def _tapped(self) -> None:
        """Called when a tap was hung on this module or taken off; a module whose sites lie elsewhere acts on it."""

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles of a module are taken without its taps."""
        return {key: value for key, value in self.__dict__.items() if key != "_taps"}

    def _tap(self, name: str, x: Any, identity: Any) -> Any:
        dynamo = sys.modules.get("torch._dynamo")       # there only where something was compiled, or might be
        if dynamo is None:
            return _pass(self, name, x, identity)
        if "run" not in _UNCOMPILED:
            _UNCOMPILED["run"] = dynamo.disable(_pass)          # a compiler would bake the clock into its graph
        return _UNCOMPILED["run"](self, name, x, identity)


_UNCOMPILED: dict[str, Callable[..., Any]] = {}


def _pass(module: Hookable, name: str, x: Any, identity: Any) -> Any:
    _check(module, name, x)
    for tap in module._taps or ():
        x = tap.fire(module, name, x, identity)
    return x


def _check(module: Hookable, name: str, x: Any) -> None:
    axes = module.SITES.get(name)
    kind = type(module).__name__
    if axes is None:
        near = suggestion(name, module.SITES)
        raise UnknownSite(f"{kind} fires the site {name!r} but does not declare it in SITES{near}")
    if not isinstance(x, (Tensor, Lazy)):
        raise TypeError(f"{kind} passes a {type(x).__name__} through the site {name!r}, where only tensors may flow")
    if x.ndim != len(axes.split()):
        raise ValueError(f"{kind}.{name} is declared with axes '{axes}' but fires with shape {tuple(x.shape)}")


@dataclass(frozen=True)
class Site:
    """One site: full name, axes, and what a dry run may add: the shape, which parts of the clock it fires under, and whether
    its module states what stands there when it is bypassed."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    clock: frozenset[str] | None = None         # of {"step", "branch"}; None: not known before a run
    bypass: bool | None = None                  # None: not known before a run
    derived: bool = False                       # nothing is computed from it

    def size(self, axis: str) -> int | None:
        """Length of an axis, where the shape is known."""
        return None if self.shape is None else self.shape[self.axes.index(axis)]

    def __str__(self) -> str:
        sizes = self.shape or ("?",) * len(self.axes)
        return f"{self.name}  {' '.join(f'{a}={n}' if n != '?' else a for a, n in zip(self.axes, sizes))}"


class Sites(Sequence[Site]):
    """A value: the sites of a model in order of its modules. Has a length, iterates, narrows, prints as a tree.

    ValueError for two of one name.
    """

    def __init__(self, sites: Sequence[Site] = ()) -> None:
        self._sites = {site.name: site for site in sites}
        if len(self._sites) < len(sites):
            names = [site.name for site in sites]
            raise ValueError(f"two sites have one name: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites.values())

    def __contains__(self, site: object) -> bool:
        return (site.name if isinstance(site, Site) else site) in self._sites

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sites) and self._sites == other._sites

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __getitem__(self, key: Any) -> Any:
        """A site by position or full name; a slice gives Sites."""
        if isinstance(key, str):
            if key not in self._sites:
                raise UnknownSite(f"no site {key!r}{suggestion(key, self._sites)}")
            return self._sites[key]
        found = list(self)[key]
        return Sites(found) if isinstance(key, slice) else found

    @property
    def names(self) -> list[str]:
        """Full names, in order."""
        return list(self._sites)

    def narrow(self, pattern: str) -> Sites:
        """The sites whose names match a glob; may be empty."""
        return Sites([site for site in self if matches(pattern, site.name)])

    def find(self, pattern: str) -> Sites:
        """As narrow, but a pattern that matches nothing raises UnknownSite with the three nearest names."""
        found = self.narrow(pattern)
        if not self._sites:
            raise UnknownSite(f"no site matches {pattern!r}, for the module has none: wanlab.adapt(module, table) gives sites to "
                              "those of other libraries, and what it returns is what to trace")
        if not found:
            raise UnknownSite(f"no site matches {pattern!r} (of {len(self)}){suggestion(pattern, self._sites)}")
        return found

    def __repr__(self) -> str:
        return tree(self)

    def _repr_html_(self) -> str:
        return f"<pre>{tree(self).replace('&', '&amp;').replace('<', '&lt;')}</pre>"


def tree(sites: Sites) -> str:
    """The sites as an indented tree: the number of sites under each inner name, axes with sizes at the leaves."""
    counts: dict[tuple[str, ...], int] = {}
    for site in sites:
        parts = tuple(site.name.split("."))
        for depth in range(1, len(parts)):
            counts[parts[:depth]] = counts.get(parts[:depth], 0) + 1
    lines, shown = [f"{len(sites)} sites"], set()
    for site in sites:
        parts = tuple(site.name.split("."))
        for depth in range(1, len(parts)):
            if parts[:depth] not in shown:
                shown.add(parts[:depth])
                lines.append(f"{'  ' * depth}{parts[depth - 1]}  ({counts[parts[:depth]]})")
        lines.append(f"{'  ' * len(parts)}{parts[-1]}  {str(site).split('  ', 1)[1]}")
    return "\n".join(lines)


def hookables(root: nn.Module) -> dict[str, Hookable]:
    """Every Hookable under `root` (itself too, as "") by its path; a shared module appears once, at its first path.

    What `torch.compile` puts around a module is no part of the path.
    """
    return {".".join(part for part in path.split(".") if part != "_orig_mod"): module
            for path, module in root.named_modules() if isinstance(module, Hookable)}


def sites_of(root: nn.Module) -> Sites:
    """All sites under `root`, without shapes (those need a run: see `wanlab.core.trace.probe`)."""
    return Sites([
        Site(f"{path}.{name}" if path else name, tuple(axes.split()), derived=name in module.DERIVED)
        for path, module in hookables(root).items() for name, axes in module.SITES.items()
    ])
