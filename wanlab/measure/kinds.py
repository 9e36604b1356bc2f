"""The two kinds of measures: one value per sample (and often a curve over its frames), and a distance between two sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wanlab.measure.batch import Batch, Latest, Memory
from wanlab.measure.door import part

Which = Literal["video", "reference"]


class MetricInfo(NamedTuple):
    """What is known of a measure before it is built.

    choices: networks or flows that can stand in its brackets, the first by default; weights: whether that default needs files
    of the user; still: whether a still would win it, so that motion is always reported beside it.
    """

    name: str
    higher_is_better: bool | None
    kind: Literal["sample", "set"]
    needs: frozenset[str]
    summary: str
    choices: tuple[str, ...] = ()
    weights: bool = False
    still: bool = False


class Curve(NamedTuple):
    """Values along each sample, `b n`, and the frame that each belongs to (of a step: the earlier one)."""

    values: Tensor
    frames: tuple[int, ...]


@dataclass
class SampleMeasure:
    """A measure with one value per sample."""

    key: str
    name: str
    higher_is_better: bool | None
    needs: frozenset[str]
    compute: Callable[[Batch], Tensor] = field(repr=False)
    trace: Callable[[Batch], Curve] | None = field(default=None, repr=False)
    still: bool = False
    kind: Literal["sample"] = "sample"

    def score(self, batch: Batch) -> Tensor:
        """`b` float32 on the CPU; NaN where the measure does not apply to a sample.

        Raises:
            ValueError: the batch lacks what the measure needs, or a video is not one; the message names the measure.
        """
        return self._asked(self.compute, batch).detach().float().cpu()

    def curve(self, batch: Batch) -> Curve | None:
        """The measure along each sample's frames, `b n` float32 on the CPU; None where it has none. Raises as `score`."""
        if self.trace is None:
            return None
        found: Curve = self._asked(self.trace, batch)
        return Curve(found.values.detach().float().cpu(), found.frames)

    def _asked(self, question: Callable[[Batch], Any], batch: Batch) -> Any:
        for name in self.needs:
            batch.get(name, self.key)
        try:
            return question(batch)
        except ValueError as error:
            names = f" (samples {', '.join(map(str, batch.ids))})" if batch.ids is not None else ""
            raise ValueError(f"{self.key}: {error}{names}") from error


class Features:
    """An extractor that is shared by all distances over it: each batch goes through the network once.

    extractor: of `metrics.networks`, or any function of videos `b f c h w` that gives (b, d).
    """

    def __init__(self, extractor: Any) -> None:
        self.extractor = extractor
        self.memory = Memory(4096)
        self._of = {"video": Latest(self._of_video), "reference": Latest(self._of_reference)}

    def of(self, batch: Batch, which: Which) -> Tensor:
        """`b d` float32 on the CPU; those of references are remembered clip by clip."""
        return self._of[which](batch).clone()

    def _of_video(self, batch: Batch) -> Tensor:
        return self.extractor(batch.video, batch.ids) if hasattr(self.extractor, "cut") else self.extractor(batch.video)

    def _of_reference(self, batch: Batch) -> Tensor:
        clips: Any = batch.reference
        if hasattr(self.extractor, "cut"):
            clips = self.extractor.cut(clips, batch.ids, "real")
        return torch.cat(self.memory.of(clips, self.extractor))


@dataclass
class SetMeasure:
    """A distance between two sets of samples, through features.

    extract    videos -> features (b, d): a function, or `Features` that several distances share
    function   of the samples' features (n, d) and the reference's (m, d), a scalar; None: the Frechet distance
    bounds     that its values cannot leave
    fewest     samples of each set that a value needs
    """

    key: str
    name: str
    higher_is_better: bool | None
    needs: frozenset[str]
    extract: Any = field(repr=False)
    function: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)
    bounds: tuple[float, float] = (0.0, float("inf"))
    fewest: int = 2
    kind: Literal["set"] = "set"

    def __post_init__(self) -> None:
        self.source = self.extract if isinstance(self.extract, Features) else Features(self.extract)
        self._of = self.function or part("frechet").frechet_distance

    @property
    def stem(self) -> str:
        """The distance without its protocol: fvd, kvd, jedi, precision, recall, density, coverage."""
        return self.name.partition("[")[0]

    @property
    def fewest_units(self) -> int:
        """Units that an interval needs: four, and of those that are left without one of them a value."""
        return max(4, self.fewest + 1)

    def features(self, batch: Batch, which: Which = "video") -> Tensor:
        """`b d` float32 on the CPU, of the samples or of what they are judged against.

        Raises:
            ValueError: a video that is too short for the clip, or is none; the message names the measure.
        """
        batch.get(which, self.key)
        try:
            return self.source.of(batch, which)
        except ValueError as error:
            raise ValueError(f"{self.key}: {error}") from error

    def distance(self, x: Tensor, y: Tensor) -> float:
        """Between the sets behind features `n d` (the samples) and `m d` (the reference)."""
        return float(self._of(x, y))

    def bias(self, x: Tensor, y: Tensor) -> float:
        """Analytic first-order bias of a Frechet distance at these n and m; NaN for other distances."""
        frechet = self.function is None or self.stem == "fvd"
        return float(part("frechet").frechet_bias(x, y)) if frechet else float("nan")

    def interval(
        self, x: Tensor, y: Tensor, confidence: float = 0.95, units: Tensor | None = None, paired: bool | None = None
    ) -> tuple[float, float]:
        """Block-jackknife interval of E[distance] at this n, NaN where no block left out changes it; rows are paired when n
        equals m unless `paired` says otherwise, and rows of one unit (`units`: a number per row) leave together."""
        _, high = part("jackknife").jackknife_interval(x, y, self._of, paired, confidence=confidence, units=units)
        low = 2 * self.distance(x, y) - high  # the interval is symmetric, and only some distances end at 0
        return max(low, self.bounds[0]), min(high, self.bounds[1])

    def difference(
        self, a: Tensor, b: Tensor, ref: Tensor, confidence: float = 0.95, units: Tensor | None = None
    ) -> tuple[float, float, float, float]:
        """(delta, low, high, p) of distance(a, ref) - distance(b, ref), row i of a and b the same sample; low and high are NaN
        where no block left out changes the difference."""
        return tuple(part("jackknife").jackknife_difference(a, b, ref, self._of, confidence=confidence, units=units))


Measure = SampleMeasure | SetMeasure


def absent(*_: Any) -> Tensor:
    """In place of a network that would give `b` numbers or `b d` features, where what it gave is kept. Raises ValueError."""
    raise ValueError("it was taken from what is stored, without its network: resolve it to measure")
