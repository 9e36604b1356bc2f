"""Reaching into what a module is given and gives: tuples, lists, mappings, dataclasses, objects, to any depth."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


class AdaptError(ValueError):
    """A table of sites that does not fit its module, or a module that does not give what its table says."""


def take(value: Any, keys: Sequence[Any]) -> Tensor:
    """The tensor that `keys` lead to. AdaptError says where they end."""
    for done, key in enumerate(keys):
        try:
            value = _step(value, key)
        except (LookupError, AttributeError, TypeError):
            where = "".join(f"[{one!r}]" for one in keys[:done])
            raise AdaptError(f"{'item ' + where if where else 'it'} is {_told(value)}, which has no {key!r}") from None
    if not isinstance(value, Tensor):
        raise AdaptError(f"it is {_told(value)}, where only a tensor can be seen; item= says which part")
    return value


def put(value: Any, keys: Sequence[Any], x: Tensor) -> Any:
    """A copy of `value` with `x` where `keys` lead; of what is on the way, nothing is written to."""
    if not keys:
        return x
    key, rest = keys[0], keys[1:]
    inner = put(_step(value, key), rest, x)
    if isinstance(value, tuple):
        items = (*value[:key], inner, *value[key:][1:])
        return type(value)(*items) if hasattr(value, "_fields") else items
    made = copy.copy(value)
    if isinstance(value, Mapping):
        made[_key(value, key)] = inner          # the output classes of transformers and diffusers set the attribute with it
    elif isinstance(value, list):
        made[key] = inner
    else:
        object.__setattr__(made, key, inner)    # a copy of a frozen dataclass is ours to fill
    return made


def _step(value: Any, key: Any) -> Any:
    if isinstance(value, Mapping):
        return value[_key(value, key)]
    return value[key] if isinstance(key, int) else getattr(value, key)


def _key(value: Mapping[Any, Any], key: Any) -> Any:
    return list(value)[key] if isinstance(key, int) and key not in value else key


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of {', '.join(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {', '.join(type(one).__name__ for one in value) or 'nothing'}"
    return type(value).__name__

