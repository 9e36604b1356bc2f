"""What sharing saves: stage runs and denoising steps, each cell by itself and together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from wanlab.graph import Piece, Recipe


@dataclass(frozen=True)
class StageRuns:
    """Per stage: runs and denoising steps if each cell ran by itself (`alone`), the same as it is (`shared`), and the rows that the
    latter compute, in units of a whole stage: half of the steps for 8 rows count as 4."""

    alone: Counter[str] = field(default_factory=Counter)
    shared: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    steps_alone: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)

    def count_alone(self, recipes: Sequence[Recipe]) -> None:
        """One cell on one batch, by itself."""
        for recipe in recipes:
            self.alone[recipe.node.name] += 1
            self.steps_alone[recipe.node.name] += recipe.steps

    def count(self, pieces: Sequence[Piece], rows: int) -> None:
        """One stage run: pieces of `rows` rows each that run together."""
        first = pieces[0]
        self.shared[first.node] += 1
        self.steps[first.node] += first.stop - first.start
        self.rows[first.node] += len(pieces) * rows * first.part    # type: ignore[assignment]  # some steps of a loop count in part

    def __str__(self) -> str:
        steps = (sum(self.steps_alone.values()), sum(self.steps.values()))
        loops = f" (denoising steps: {steps[0]}, {steps[1]})" if steps[0] else ""
        return f"would have been {sum(self.alone.values())} stage runs, is {sum(self.shared.values())}{loops}"
