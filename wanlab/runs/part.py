"""Parts of a study file: mappings whose keys and types are known, and what stands below a key of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A mapping of a study file: unknown keys are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def inner(cls, key: str) -> Any:
        """The type of the value under a key, None where there is no such key; `below` goes on from it."""
        field = cls.model_fields.get(key)
        return None if field is None else field.annotation


def below(kind: Any, step: str | int) -> Any:
    """The type that stands under one step (a key or an index) of a type: of a Part, a mapping, a list, or a choice of them."""
    if get_origin(kind) is Annotated:
        return below(get_args(kind)[0], step)
    if isinstance(kind, type) and issubclass(kind, Part):
        return kind.inner(str(step))
    if get_origin(kind) in (dict, Mapping):
        return get_args(kind)[1]
    if get_origin(kind) is list:
        return get_args(kind)[0] if isinstance(step, int) else None
    return next((found for one in get_args(kind) if (found := below(one, step)) is not None), None)


def part_of(kind: Any) -> type[Part] | None:
    """The Part in a type: itself, or the first of a choice."""
    if isinstance(kind, type):
        return kind if issubclass(kind, Part) else None
    return next((found for one in get_args(kind) if (found := part_of(one)) is not None), None)
