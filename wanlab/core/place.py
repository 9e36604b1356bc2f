"""Places: where in another library's module a site stands, as plain data.

    Place("encoder.block.{i}.layer.0.SelfAttention.q", reshape="b n (k d) -> b k n d", sizes={"k": "n_heads"})
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from wanlab.core.item import AdaptError
from wanlab.core.nearest import suggestion
from wanlab.core.pattern import alternatives, compiled
from wanlab.core.reshape import Reshape

SIDES = ("input", "output")
_CAPTURE = re.compile(r"\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True)
class Place:
    """One entry of a table.

    path      the module: a dotted path with globs (`*`, `**`, `{a,b}`) and captures (`{i}`: one whole segment or a part of
              one) that the site's name repeats; "" is the adapted module itself
    axes      the tensor's axes, one letter for each dimension; with `reshape`, those of its right side where it has groups
    reshape   a pattern as of einops, from the module's dimensions to the site's: "b n (k d) -> b k n d"
    sizes     of the names of `reshape`: a number, or an attribute of the module or of the nearest module around it that has it
              ("heads", "config.num_heads")
    side      "output", or "input": before the module, which is where a head's result stands that its last layer mixes
    item      which of the inputs (number or name; the first), or which part of the output (of a tuple by number, of a mapping or
              dataclass by name; all of it, a tensor); a sequence reaches deeper: (0, "hidden")
    part      (i, n, dimension): the i-th of n equal parts along a dimension, as of a fused q k v
    identity  what a bypass puts there: an input, by number or name (the first), "zeros", or None: cannot be bypassed
    """

    path: str
    axes: str | None = None
    reshape: str | None = None
    sizes: Mapping[str, int | str] = field(default_factory=dict)
    side: str = "output"
    item: Any = None
    part: tuple[int, int, int] | None = None
    identity: int | str | None = 0

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise AdaptError(f"{self.path}: side {self.side!r}{suggestion(str(self.side), SIDES)}")
        if self.axes is None and self.reshape is None:
            raise AdaptError(f"{self.path}: give axes='b n c', or reshape='b n (k d) -> b k n d'")
        if self.part is not None:
            i, n, _ = self.part
            if not 0 <= i < n:
                raise AdaptError(f"{self.path}: part={self.part}: there is no part {i} of {n} (the first is 0)")
        strange = set(self.sizes) - set(self.pattern().names if self.reshape else ())
        if strange:
            raise AdaptError(f"{self.path}: sizes of {', '.join(sorted(strange))}, which the reshape "
                             f"{self.reshape!r} does not name")
        self.letters()

    @classmethod
    def of(cls, value: Place | Mapping[str, Any]) -> Place:
        """A place from a place, or from a mapping (as in YAML). AdaptError for anything else."""
        if isinstance(value, Place):
            return value
        if not isinstance(value, Mapping) or "path" not in value:
            raise AdaptError(f"{value!r} is no place: write Place('path.of.module', 'b n c'), or a mapping with path and axes")
        known = [one.name for one in fields(cls)]
        for key in value:
            if key not in known:
                raise AdaptError(f"a place has no {key!r}{suggestion(str(key), known)}")
        return cls(**value)

    def pattern(self) -> Reshape:
        """The reshape; without one, the axes as they are."""
        return Reshape.read(self.reshape or f"{self.axes} -> {self.axes}")

    def letters(self) -> tuple[str, ...]:
        """The axes of the site. AdaptError where reshape does not say them, or says others."""
        pattern = self.pattern()
        axes = pattern.axes if self.axes is None else tuple(self.axes.split())
        if axes is None:
            raise AdaptError(f"{self.path}: the right side of {self.reshape!r} has groups: name the site's axes with axes=")
        if len(axes) != len(pattern.right) or (pattern.axes or axes) != axes:
            raise AdaptError(f"{self.path}: axes {self.axes!r} are not those of the reshape {self.reshape!r}")
        return axes

    def find(self, paths: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
        """The module paths that `path` names, with what its captures hold there."""
        if not self.path:
            return [("", {})]
        captured = list(dict.fromkeys(_CAPTURE.findall(self.path)))
        marks = {name: chr(0xE000 + i) for i, name in enumerate(captured)}      # private characters stand in for captures
        globs = alternatives(_CAPTURE.sub(lambda match: marks[match[1]], self.path))
        expressions = [re.compile(_captures(compiled(glob).pattern, marks)) for glob in globs]
        tried = ((path, expression.fullmatch(path)) for path in paths if path for expression in expressions)
        return list({path: (path, match.groupdict()) for path, match in tried if match}.values())

    @property
    def keys(self) -> tuple[Any, ...]:
        """`item` as a sequence of steps into a value; of an input, the first says which."""
        if self.item is None:
            return (0,) if self.side == "input" else ()
        return tuple(self.item) if isinstance(self.item, Sequence) and not isinstance(self.item, str) else (self.item,)


def _captures(expression: str, marks: Mapping[str, str]) -> str:
    """The expression with a group for the first of each mark, and the same text again for every other."""
    for name, mark in marks.items():
        expression = expression.replace(mark, f"(?P<{name}>[^.]+)", 1).replace(mark, f"(?P={name})")
    return expression
