"""Set distances as torchmetrics classes: features are taken once, and every distance comes from what was kept of them.

    metric = FrechetVideoDistance(network, name="fvd[motionnet|8f]")
    metric.update(video, real=True, ids=names)          # b f c h w, any number of times, on any number of processes
    metric.compute()

Streamed moments serve the Frechet distance and JEDi's in constant memory. KVD and the manifold metrics, and every interval,
need the features themselves: keep=True holds them in memory, a pair of banks on disk.
What is kept, and how, is ours; each distance names its paper.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.wrappers import BootStrapper

from .bank import FeatureBank
from .frechet import frechet_bias_from_moments, frechet_distance, frechet_from_moments
from .infinity import frechet_infinity
from .kernel import KernelDistance, jedi_from_moments, kernel_distance
from .manifold import NEIGHBOURS, Manifold, manifold_metrics
from .moments import Moments, merged
from .rows import SAMPLES_PER_FEATURE, check_rows, numbered, warn_small

SIDES = ("real", "fake")
Ids = Sequence[str | int] | Tensor


class SetDistances(Metric):
    """Two sets of samples, real and generated, and every distance between them.

    Args:
        features: maps a video `b f c h w` in [0, 1] to features (b, d); None when features are given directly.
        name: what the number is called, with its protocol.
        ddof: divisor n - ddof of the covariances behind the Frechet distance.
        keep: the features too: False, True (in memory), or two banks (real, generated) on disk. A sample that its bank
            holds is not extracted again.
        reset_real_features: whether `reset` forgets the real set too.
        kwargs: of torchmetrics.Metric.

    The moments are float64 and no `half`, `to(dtype)` or `set_dtype` reaches them; they are merged exactly across processes
    and by `merge_state`. Give `ids` to `update` wherever a sample may come twice (the padding of a distributed sampler): it
    counts once. With ids across processes that needs kept features; without those a repeated id is an error.
    """

    is_differentiable = False
    full_state_update = False
    real: Tensor
    fake: Tensor
    real_ids: list[Tensor]
    fake_ids: list[Tensor]

    def __init__(
        self, features: Callable[[Tensor], Tensor] | None = None, *, name: str = "sets", ddof: int = 1,
        keep: bool | tuple[FeatureBank, FeatureBank] = False, reset_real_features: bool = True, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.features, self.name, self.ddof, self.keep = features, name, ddof, keep
        self.reset_real_features = reset_real_features
        for side in SIDES:
            self.add_state(side, Moments().flat, dist_reduce_fx=None)
            self.add_state(f"{side}_ids", [], dist_reduce_fx=dim_zero_cat)
            if keep:
                self.add_state(f"{side}_rows", [], dist_reduce_fx=dim_zero_cat)

    def update(self, video: Tensor, real: bool, ids: Ids | None = None) -> None:
        """Adds videos `b f c h w` (or features (b, d) without a network) to the real or the generated set.

        Raises:
            ValueError: features that are no matrix, of another width, or NaN; ids for some updates and not for others.
        """
        side = "real" if real else "fake"
        if ids is not None:
            video, ids = self._unseen(side, video, ids)
        elif self._banks or len(self._ids(side)):
            raise ValueError("give ids with every update of a set or with none; a bank needs them")
        if len(video) == 0:
            return
        rows = self._rows_of(side, video, ids)
        setattr(self, side, self.moments(side).add(rows).flat)
        if ids is not None:
            getattr(self, f"{side}_ids").append(numbered(ids).to(self.device))
        if self.keep and not self._banks:
            getattr(self, f"{side}_rows").append(rows if rows.dtype == torch.float64 else rows.float())

    def forward(self, video: Tensor, real: bool, ids: Ids | None = None) -> None:
        """The same as `update`: one batch of one set has no distance."""
        self.update(video, real, ids)

    def compute(self) -> Any:
        """Every distance that can be had, as a dict of float64 scalars.

        fvd, fvd_bias, jedi; where features are kept also kvd, kvd_std, precision, recall, density, coverage (the last four
        from 6 samples of each set on, with a warning below).
        """
        found = {"fvd": self.frechet(), "fvd_bias": self.bias(), "jedi": self.jedi()}
        if self.keep:
            kernel, n = self.kernel(), min(self.moments(side).n for side in SIDES)
            found |= {"kvd": kernel.mean, "kvd_std": kernel.std}
            if n > NEIGHBOURS:
                return found | self.manifold()._asdict()
            warn_small(f"{self.name}: {NEIGHBOURS} neighbours need {NEIGHBOURS + 1} samples, n = {n}: no precision, no coverage")
        return found

    def frechet(self) -> Tensor:
        """The Frechet distance of what this process holds, float64; warns below 2.5 samples per feature."""
        n, width = min(self.moments(side).n for side in SIDES), self.width
        if 2 <= n < SAMPLES_PER_FEATURE * width:
            warn_small(
                f"{self.name} over n = {n} samples of {width} features is far above the distance of the populations "
                f"(by about {float(self.bias()):.4g}): compare it at equal n only, or give n >= {SAMPLES_PER_FEATURE * width:g}"
            )
        if self.keep and 2 <= n <= width:
            return frechet_distance(self.rows("fake"), self.rows("real"), self.ddof)
        return frechet_from_moments(self.moments("fake"), self.moments("real"), self.ddof)

    def bias(self) -> Tensor:
        """How far `frechet` lies above the distance of the populations, to first order."""
        return frechet_bias_from_moments(self.moments("fake"), self.moments("real"))

    def infinity(self) -> Tensor:
        """What `frechet` tends to at infinite n; ValueError below 2.5 samples per feature."""
        return frechet_infinity(self.rows("fake"), self.rows("real"), self.ddof)

    def jedi(self, unbiased: bool = False) -> Tensor:
        """JEDi's polynomial distance of what this process holds."""
        return jedi_from_moments(self.moments("fake"), self.moments("real"), unbiased)

    def kernel(self, **options: Any) -> KernelDistance:
        """KVD of what this process holds; options of `kernel_distance`."""
        return kernel_distance(self.rows("fake"), self.rows("real"), **options)

    def manifold(self, neighbours: int = NEIGHBOURS) -> Manifold:
        """Precision, recall, density and coverage of what this process holds."""
        return manifold_metrics(self.rows("real"), self.rows("fake"), neighbours)

    @property
    def width(self) -> int:
        """d; 0 before the first update."""
        return max(self.moments(side).width for side in SIDES)

    def moments(self, side: str) -> Moments:
        """The streamed moments of the real or the fake set."""
        return Moments(getattr(self, side))

    def rows(self, side: str) -> Tensor:
        """The kept features (n, d) of the real or the fake set, in the order in which they came.

        Raises:
            ValueError: features are not kept.
        """
        if not self.keep:
            raise ValueError(f"{self.name} keeps no features, and this needs them: keep=True, or keep=(bank, bank)")
        held = [rows for rows in getattr(self, f"{side}_rows") if len(rows)]
        known = sum(map(len, held))
        if bank := self._banks.get(side):
            held += [bank.rows_of(self._ids(side)[known:]).to(self.device)]
        return torch.cat(held) if held else torch.zeros(0, self.width, device=self.device)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Adds the samples of another metric of this kind; a sample that both hold counts once.

        Raises:
            ValueError: not such a metric, or samples in both without kept features.
        """
        if not isinstance(incoming_state, SetDistances):
            raise ValueError(f"expected a {type(self).__name__}, got {type(incoming_state).__name__}")
        for side in SIDES:
            self._take(side, [self._part(side), incoming_state._part(side)])
        self._computed = None
        self._update_count += incoming_state._update_count

    def reset(self) -> None:
        """Forgets the generated set, and the real one unless it was to be kept."""
        held = {name: getattr(self, name) for name in self._defaults if name.startswith("real")}
        real = {name: list(value) if isinstance(value, list) else value for name, value in held.items()}
        super().reset()
        if not self.reset_real_features:
            for name, value in real.items():
                setattr(self, name, value)

    def set_dtype(self, dst_type: str | torch.dtype) -> SetDistances:
        """Leaves the float64 state as it is: in float32 the covariance of a shifted set has no correct digit."""
        return self

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = ()) -> Any:
        """Moves the state between devices; dtypes concern the network alone."""
        this = super()._apply(fn, exclude_state=(*exclude_state, *self._defaults))
        for name in self._defaults:
            value = getattr(this, name)
            setattr(this, name, [part.to(this.device) for part in value] if isinstance(value, list) else value.to(this.device))
        return this

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled and copied.

        Raises:
            ValueError: a bootstrap is copying.
        """
        frame: FrameType | None = sys._getframe()
        while frame is not None and (frame := frame.f_back):
            if isinstance(frame.f_locals.get("self"), BootStrapper):
                raise ValueError(
                    f"a bootstrap of {self.name} is wrong: drawing with replacement adds the bias of a smaller set, and the "
                    "interval excludes the estimate itself. Use jackknife_interval on kept features"
                )
        return super().__getstate__()

    @property
    def _banks(self) -> dict[str, FeatureBank]:
        return {} if isinstance(self.keep, bool) else dict(zip(SIDES, self.keep, strict=True))

    def _ids(self, side: str) -> Tensor:
        return dim_zero_cat([torch.zeros(0, dtype=torch.int64, device=self.device), *getattr(self, f"{side}_ids")])

    def _unseen(self, side: str, video: Tensor, ids: Ids) -> tuple[Tensor, Sequence[str | int]]:
        """The samples of a batch that this set does not hold yet."""
        if len(ids) != len(video):
            raise ValueError(f"{len(video)} samples but {len(ids)} ids")
        if len(self._ids(side)) != self.moments(side).n:
            raise ValueError("give ids with every update of a set or with none")
        names, numbers = (ids.tolist() if isinstance(ids, Tensor) else ids), numbered(ids)
        known = torch.isin(numbers, self._ids(side).cpu()).tolist()
        first = {number: row for row, number in reversed(list(enumerate(numbers.tolist())))}
        fresh = [row for row in sorted(first.values()) if not known[row]]
        return (video if len(fresh) == len(video) else video[fresh]), [names[row] for row in fresh]

    def _rows_of(self, side: str, video: Tensor, ids: Sequence[str | int] | None) -> Tensor:
        """The features (b, d) of videos, through the bank where there is one."""
        bank = self._banks.get(side)
        if bank is None or ids is None:
            rows = video if self.features is None else self.features(video)
            return check_rows(rows, f"{self.name}: the {side} batch", minimum=0).detach().to(self.device)
        lacking = [row for row, sample in enumerate(ids) if sample not in bank]
        if lacking:
            rest = video[lacking]
            rows = rest if self.features is None else self.features(rest)
            bank.append([ids[row] for row in lacking], rows)
        return bank.rows_of(ids).to(self.device)

    def _part(self, side: str) -> tuple[Tensor, Tensor, Tensor]:
        """Moments, ids and kept features of this process, as one tensor each."""
        rows = self.rows(side).double() if self.keep else torch.zeros(0, 0, dtype=torch.float64, device=self.device)
        return getattr(self, side), self._ids(side), rows

    def _take(self, side: str, parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        """The union of parts becomes the state; a sample that several hold counts once."""
        total = merged([Moments(flat) for flat, _, _ in parts])
        ids = torch.cat([numbers for _, numbers, _ in parts])
        rows = torch.cat([rows for _, _, rows in parts if len(rows)] or [parts[0][2]])
        first = {number: row for row, number in reversed(list(enumerate(ids.tolist())))}
        if len(ids) and len(ids) != total.n:
            raise ValueError(f"{self.name}: only {len(ids)} of {total.n} {side} samples came with ids: give them on all processes")
        if len(first) < len(ids):
            if not self.keep:
                raise ValueError(
                    f"{self.name}: {len(ids) - len(first)} {side} samples came in on more than one process (a sampler's padding?), "
                    "and sums cannot be taken apart: keep=True counts them once"
                )
            chosen = sorted(first.values())
            ids, rows = ids[chosen], rows[chosen]
            total = Moments.of(rows)
        setattr(self, side, total.flat)
        setattr(self, f"{side}_ids", [ids])
        if self.keep:
            setattr(self, f"{side}_rows", [rows])

    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None) -> None:
        """Every process takes the union of all; one that saw no sample takes part with empty tensors."""
        gather = partial(dist_sync_fn, group=process_group or self.process_group)
        for side in SIDES:
            flat, ids, rows = self._part(side)
            flats, numbers = gather(flat), gather(ids)
            self._take(side, list(zip(flats, numbers, gather(rows) if self.keep else [rows] * len(flats), strict=True)))


class FrechetVideoDistance(SetDistances):
    """The Frechet distance between the features of real and generated videos (FVD, Unterthiner et al. 2018); arguments of
    `SetDistances`.

    A float64 scalar, 0 for identical sets, never negative, biased upwards by about `bias()`.
    """

    higher_is_better = False

    def __init__(self, features: Callable[[Tensor], Tensor] | None = None, *, name: str = "fvd", **options: Any) -> None:
        super().__init__(features, name=name, **options)

    def compute(self) -> Tensor:
        """The distance.

        Raises:
            ValueError: fewer than two samples of a set.
        """
        return self.frechet()


class JediDistance(SetDistances):
    """JEDi's polynomial distance (Luo et al. 2024) from the same streamed moments; arguments of `SetDistances`.

    Args:
        unbiased: the U-statistic, which may be negative, instead of the published V-statistic.
    """

    higher_is_better = False

    def __init__(
        self, features: Callable[[Tensor], Tensor] | None = None, *, name: str = "jedi", unbiased: bool = False, **options: Any
    ) -> None:
        super().__init__(features, name=name, **options)
        self.unbiased = unbiased

    def compute(self) -> Tensor:
        """The distance, a float64 scalar."""
        return self.jedi(self.unbiased)


class KernelVideoDistance(SetDistances):
    """KVD (Unterthiner et al. 2018): unbiased polynomial MMD^2, mean and deviation over subsets; arguments of `SetDistances`.

    Args:
        kernel_options: of `kernel_distance`: subsets, subset_size, seed, degree, gamma, coef.
    """

    higher_is_better = False

    def __init__(
        self, features: Callable[[Tensor], Tensor] | None = None, *, name: str = "kvd",
        keep: bool | tuple[FeatureBank, FeatureBank] = True, kernel_options: dict[str, Any] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(features, name=name, keep=keep, **options)
        self.kernel_options = kernel_options or {}

    def compute(self) -> KernelDistance:
        """Mean and standard deviation over subsets."""
        return self.kernel(**self.kernel_options)


class ManifoldMetrics(SetDistances):
    """Precision, recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020); arguments of `SetDistances`.

    Args:
        neighbours: k, which sets the balls.
    """

    higher_is_better = True

    def __init__(
        self, features: Callable[[Tensor], Tensor] | None = None, *, name: str = "manifold",
        keep: bool | tuple[FeatureBank, FeatureBank] = True, neighbours: int = NEIGHBOURS, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(features, name=name, keep=keep, **options)
        self.neighbours = neighbours

    def compute(self) -> dict[str, Tensor]:
        """The four by name."""
        return self.manifold(self.neighbours)._asdict()
