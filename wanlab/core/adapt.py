"""Adapters: sites for a module of another library, from a table of site -> place. Nothing of the module is changed.

    unet = adapt(UNet2DConditionModel(...), {
        "{part}.{i}.{j}.attn.z": Place("{part}_blocks.{i}.attentions.{j}.transformer_blocks.0.attn1.to_out.0",
                                       reshape="b n (k d) -> b k n d", sizes={"k": "heads"}, side="input"),
    })
    with trace(unet, edits=[Zero("down.0.1.attn.z", heads=0)]):
        pipe(prompt)                # any code that runs the module, by whatever handle it has

While a trace is open, forward hooks stand at the modules of the sites that it wants, behind those of others; after it
there are none. A module that runs several times in a forward fires its sites each time: edits act in every call, a
record numbers the calls. A module that stands at several paths has its sites at the first.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from wanlab.core.adapted import Adapted, Port
from wanlab.core.item import AdaptError
from wanlab.core.nearest import suggestion
from wanlab.core.place import Place

_NAME = re.compile(r"[^\s.\[\]{}@*,|]+(\.[^\s.\[\]{}@*,|]+)*")


def adapt(module: nn.Module, table: Mapping[str, Place | Mapping[str, Any]],
          sizes: Mapping[str, int | str] | None = None) -> Adapted:
    """`module` with the sites of `table`: site name -> `Place` (or a mapping with its fields, as in YAML).

    A name repeats the captures of its place's path: "blocks.{i}.out" -> Place("encoder.block.{i}", "b n c").
    sizes: of names in any reshape, where the place does not give them: {"f": 16}, or an attribute's name.

    The result is called as the module is, has its attributes, and can be a stage of a pipeline; or it is kept aside as the
    handle to trace, while other code runs the module. State dicts have the module's keys under `inner.`.
    Raises AdaptError for a path that matches no module (with the nearest), a name that is not unique, a size that is nowhere.
    """
    modules = dict(module.named_modules(remove_duplicate=False))
    ports: dict[str, Port] = {}
    for name, told in table.items():
        place = Place.of(told)
        for port in _ports(name, place, modules, sizes or {}):
            if port.name in ports:
                raise AdaptError(f"the site {port.name!r} would stand at two modules, {ports[port.name].path!r} and {port.path!r}: "
                                 f"tell them apart by a capture, as in 'blocks.{{i}}' -> '{place.path}'")
            ports[port.name] = port
    return Adapted(module, _as_tree(ports))


def _ports(name: str, place: Place, modules: Mapping[str, nn.Module], sizes: Mapping[str, int | str]) -> list[Port]:
    found = place.find(modules)
    if not found:
        near = suggestion(re.sub(r"\{\w+\}", "0", place.path), [path for path in modules if path])
        raise AdaptError(f"{name}: no module at {place.path!r} of {type(modules['']).__name__}{near}")
    first: dict[int, Port] = {}                     # a shared module has its sites at its first path
    for path, captured in found:
        module, reshape = modules[path], place.pattern()
        if id(module) in first:
            continue
        full = _named(name, captured, place)
        known = {letter: _size(full, value, path, modules) for letter, value in {**sizes, **place.sizes}.items()
                 if letter in reshape.names}
        if missing := reshape.missing(known):
            raise AdaptError(f"{full}: {place.reshape!r} needs the size of {' or '.join(missing)}: sizes={{'{missing[0]}': ...}}")
        first[id(module)] = Port(full, place, path, module, reshape, known, _parameters(full, place, path, module))
    return list(first.values())


def _named(name: str, captured: Mapping[str, str], place: Place) -> str:
    for key in re.findall(r"\{(\w*)\}", name):
        if key not in captured:
            raise AdaptError(f"{name}: {{{key}}} is no capture of the path {place.path!r}{suggestion(key, captured)}")
    full = re.sub(r"\{(\w+)\}", lambda match: captured[match[1]], name)
    if not _NAME.fullmatch(full):
        raise AdaptError(f"{full!r} is no name for a site: expected dotted words without blanks and the marks of selections")
    return full


def _size(site: str, value: int | str, path: str, modules: Mapping[str, nn.Module]) -> int:
    """A number, or the attribute of that name of the module, else of the nearest module around it."""
    if not isinstance(value, str):
        return int(value)
    parts = path.split(".") if path else []
    for depth in range(len(parts), -1, -1):
        found: Any = modules[".".join(parts[:depth])]
        for attribute in value.split("."):
            found = getattr(found, attribute, None)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    around = modules[".".join(parts[:-1])]
    near = suggestion(value, [key for key, held in vars(around).items() if type(held) is int])
    raise AdaptError(f"{site}: neither {path!r} nor any module around it has a number {value!r}{near}")


def _parameters(site: str, place: Place, path: str, module: nn.Module) -> tuple[str, ...]:
    """The inputs of a module by position. A module that is never called, or has no such input, raises."""
    if type(module).forward is nn.Module.forward:
        raise AdaptError(f"{site}: {path!r} is a {type(module).__name__}, which is never called: name a module in it")
    parameters = inspect.signature(module.forward).parameters.values()
    names = tuple(one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD))
    others = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    asked = place.keys[0] if place.side == "input" else place.identity
    spread = any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters)
    known = asked in (None, "zeros", *names, *others) or (isinstance(asked, int) and asked < len(names))
    if not known and not spread:
        raise AdaptError(f"{site}: {path or 'the module'} has no input {asked!r}{suggestion(str(asked), [*names, *others])}")
    return names


def _as_tree(ports: Mapping[str, Port]) -> list[Port]:
    """The ports so that names with a common beginning stand together, in the order of first mention."""
    first: dict[tuple[str, ...], int] = {}
    starts = {name: [tuple(name.split(".")[:depth + 1]) for depth in range(name.count(".") + 1)] for name in ports}
    for some in starts.values():
        for start in some:
            first.setdefault(start, len(first))
    return sorted(ports.values(), key=lambda port: [first[start] for start in starts[port.name]])
