"""Configurations as content keys tell them: a field that came later is told only where it is not at its default.

So a stage can learn a new setting without a new key for the weights that were trained before there was one.
"""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass
from typing import Any

_LATER = "later"


def later(default: Any) -> Any:
    """A field of a configuration that weights already shipped without: `predicts: str = later("x0")`.

    Its default must be what those weights were trained as.
    """
    return field(default=default, metadata={_LATER: True})


def told(config: Any) -> str:
    """What a content key says of a configuration: its repr, without later fields at their defaults."""
    if not is_dataclass(config) or not any(one.metadata.get(_LATER) for one in fields(config)):
        return repr(config)
    shown = [f"{one.name}={getattr(config, one.name)!r}" for one in fields(config)
             if one.repr and not (one.metadata.get(_LATER) and getattr(config, one.name) == one.default)]
    return f"{type(config).__qualname__}({', '.join(shown)})"
