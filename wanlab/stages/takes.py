"""What a tensor of a published file becomes in a module: a parameter of another name, or several that stand in it side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor


class Take(NamedTuple):
    """Parameter `name` is part `part` of `of` equal ones along the first axis, once `ones` leading axes of length 1 are gone."""

    name: str
    part: int = 0
    of: int = 1
    ones: int = 0

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The parameter's shape; of a tensor that cannot be taken apart so, its own, which then fits nothing."""
        rest = list(shape[self.ones:])
        if list(shape[: self.ones]) != [1] * self.ones or (self.of > 1 and (not rest or rest[0] % self.of)):
            return tuple(shape)
        return (rest[0] // self.of, *rest[1:]) if rest else ()

    def of_tensor(self, value: Tensor) -> Tensor:
        """The parameter's values, a view."""
        value = value.reshape(value.shape[self.ones:])
        return value if self.of == 1 else value.chunk(self.of)[self.part]


Takes = Callable[[str], Sequence[Take]]         # name in a file -> parameters; none: nothing reads it; KeyError: unknown


def renamed(name: str, table: Mapping[str, str]) -> str | None:
    """A dotted name, its longest beginning that is in the table replaced; None where none is."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        start = ".".join(words[:count])
        if start in table:
            return ".".join([table[start], *words[count:]])
    return None
