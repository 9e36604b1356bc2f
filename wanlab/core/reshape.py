"""Reading a tensor of another library in the house's axes, and writing it back: the part of einops that adapters need.

    shape = Reshape.read("b n (k d) -> b k n d")
    y, sizes = shape.there(x, {"k": 8})
    x = shape.back(y, sizes)

Left and right of the arrow hold the same names, each once; names in parentheses lie in one dimension, the first outermost.
Both ways only view, permute and view again, so that the values are the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

Groups = tuple[tuple[str, ...], ...]
_SIDE = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*)|\((?P<group>[\w\s]+)\))(?=[\s(]|\Z)")


class ReshapeError(ValueError):
    """A pattern that cannot be read, or a tensor that it does not fit."""


@dataclass(frozen=True)
class Reshape:
    """A pattern, read once: the names of each dimension on both sides of the arrow."""

    pattern: str
    left: Groups
    right: Groups

    @classmethod
    def read(cls, pattern: str) -> Reshape:
        """The reshape that a pattern such as "b (f n) c -> b f n c" describes."""
        left, arrow, right = pattern.partition("->")
        if not arrow:
            raise ReshapeError(f"cannot read the reshape {pattern!r}: expected two sides, as in 'b n (k d) -> b k n d'")
        made = cls(pattern, _groups(left, pattern), _groups(right, pattern))
        names = _flat(made.left)
        if len(set(names)) < len(names) or sorted(names) != sorted(_flat(made.right)):
            raise ReshapeError(f"the reshape {pattern!r} must have the same names on both sides, each once")
        return made

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of the left side."""
        return _flat(self.left)

    @property
    def axes(self) -> tuple[str, ...] | None:
        """The axes of the right side, where each is one name."""
        return _flat(self.right) if all(len(group) == 1 for group in self.right) else None

    def missing(self, known: Iterable[str]) -> list[str]:
        """Names without whose sizes a dimension cannot be taken apart: all of a group but one must be known."""
        free = [[name for name in group if name not in set(known)] for group in self.left]
        return [name for group in free if len(group) > 1 for name in group]

    def sizes(self, shape: tuple[int, ...], known: Mapping[str, int]) -> dict[str, int]:
        """The size of every name for a tensor of that shape; nothing may be `missing`. ReshapeError where it does not fit."""
        if len(shape) != len(self.left):
            raise ReshapeError(f"{self.pattern!r} is for {len(self.left)} dimensions")
        sizes: dict[str, int] = {}
        for group, size in zip(self.left, shape):
            free = [name for name in group if name not in known]
            given = prod(known[name] for name in group if name in known)
            if given < 1 or (size % given if free else size != given):
                told = ", ".join(f"{name}={known[name]}" for name in group if name in known)
                raise ReshapeError(f"{self.pattern!r} with {told} does not fit a dimension of {size}")
            sizes |= {name: known[name] if name in known else size // given for name in group}
        return sizes

    def there(self, x: Tensor, known: Mapping[str, int]) -> tuple[Tensor, dict[str, int]]:
        """`x` in the axes of the right side (itself, or a view where possible), and the sizes that lead back."""
        sizes, names = self.sizes(tuple(x.shape), known), self.names
        if self.left == self.right:
            return x, sizes
        y = x.reshape([sizes[name] for name in names]).permute([names.index(name) for name in _flat(self.right)])
        return y.reshape(_lengths(self.right, sizes)), sizes

    def back(self, y: Tensor, sizes: Mapping[str, int]) -> Tensor:
        """A tensor in the axes of the right side, as the left side had it."""
        if self.left == self.right:
            return y
        names = _flat(self.right)
        x = y.reshape([sizes[name] for name in names]).permute([names.index(name) for name in self.names])
        return x.reshape(_lengths(self.left, sizes))


def _groups(side: str, pattern: str) -> Groups:
    groups, at, side = [], 0, side.rstrip()
    while at < len(side):
        match = _SIDE.match(side, at)
        if match is None:
            raise ReshapeError(f"cannot read {side[at:].strip()!r} in the reshape {pattern!r}: expected names and "
                               "(names in parentheses)")
        groups.append((match["name"],) if match["name"] else tuple(match["group"].split()))
        at = match.end()
    return tuple(groups)


def _flat(groups: Groups) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group)


def _lengths(groups: Groups, sizes: Mapping[str, int]) -> list[int]:
    return [prod(sizes[name] for name in group) for group in groups]
