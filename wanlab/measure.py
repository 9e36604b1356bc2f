"""The only door to `metrics`: named measures over batches of samples.

    for measure in resolve(["psnr", "fvd"], device="cpu"):
        if measure.kind == "sample":
            rows = measure.score(batch)                       # b, NaN where it does not apply
        else:
            x, y = measure.features(batch), measure.features(batch, "reference")
            measure.distance(x, y), measure.interval(x, y)

A name in brackets is the protocol: `fvd[motionnet|8f|net:sha8]`. Short names (`fvd`) choose the shipped one.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from wanlab.core import suggestion
from wanlab.data.procedural import COLOURS, MOTIONS, SHAPES

LPIPS_STRIDE = 2  # every second frame: half the cost, the same order of cells; the name says s2


class UnknownMetric(LookupError):
    """A name that no measure has; the message gives the nearest ones."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MetricInfo(NamedTuple):
    """What is known of a measure before it is built."""

    name: str
    higher_is_better: bool | None
    kind: Literal["sample", "set"]
    needs: frozenset[str]
    summary: str


@dataclass
class Batch:
    """Samples of one cell, and what they are judged against. All videos `b f c h w` float32 in [0, 1].

    reference: the true clips, or the baseline's where there is no truth; image `b c h w`: what the samples were
    conditioned on; factors: per sample the truth as plain data; masks `b f m h w`, tracks `b f m 2`: of the true clip;
    flow_pairs `b f-1 2 h w` and occlusion `b f-1 h w`: its true motion; ids: what errors call the samples.
    """

    video: Tensor
    reference: Tensor | None = None
    image: Tensor | None = None
    factors: list[dict[str, Any]] | None = None
    masks: Tensor | None = None
    tracks: Tensor | None = None
    flow_pairs: Tensor | None = None
    occlusion: Tensor | None = None
    ids: Sequence[str] | None = None

    def get(self, name: str, measure: str) -> Any:
        """A field that a measure needs.

        Raises:
            ValueError: it is absent, or holds another number of samples than the video.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{measure} needs the batch's {name}, and this batch has none")
        if len(value) != len(self.video):
            raise ValueError(f"{measure}: {len(self.video)} videos but {len(value)} in {name}")
        return value


def package() -> ModuleType:
    """The `metrics` package of this installation.

    Raises:
        ImportError: another module of that name is found first; the message names its file.
    """
    metrics = import_module("metrics")
    ours = Path(__file__).resolve().parent.parent / "metrics"
    found = Path(getattr(metrics, "__file__", None) or "a namespace package without a file")
    if found.resolve().parent != ours:
        raise ImportError(
            f"the package 'metrics' of wanlab ({ours}) is shadowed by {found}: "
            "rename that file or take its folder off sys.path"
        )
    return metrics


def part(name: str) -> ModuleType:
    """One module of `metrics`, by name, after checking that it is ours."""
    return import_module(f"{package().__name__}.{name}")


class Memory:
    """Per-sample results about reference clips, so that nine cells do not compute them nine times.

    Keyed by the bytes of the clip; the least recently used go first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: OrderedDict[str, Any] = OrderedDict()

    def of(self, clips: Tensor, make: Callable[[Tensor], Any]) -> list[Any]:
        """`make(clip 1 f c h w)` for every clip of `b f c h w`, from memory where it was made before."""
        return [self._one(clip[None], make) for clip in clips]

    def _one(self, clip: Tensor, make: Callable[[Tensor], Any]) -> Any:
        key = f"{tuple(clip.shape)}{hashlib.blake2b(clip.cpu().contiguous().numpy(), digest_size=16).hexdigest()}"
        if key not in self._held:
            self._held[key] = make(clip)
        self._held.move_to_end(key)
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)
        return self._held[key]


@dataclass
class SampleMeasure:
    """A measure with one value per sample."""

    key: str
    name: str
    higher_is_better: bool | None
    needs: frozenset[str]
    compute: Callable[[Batch], Tensor] = field(repr=False)
    kind: Literal["sample"] = "sample"

    def score(self, batch: Batch) -> Tensor:
        """`b` float32 on the CPU; NaN where the measure does not apply to a sample.

        Raises:
            ValueError: the batch lacks what the measure needs, or a video is not one; the message names the measure.
        """
        for name in self.needs:
            batch.get(name, self.key)
        try:
            return self.compute(batch).detach().float().cpu()
        except ValueError as error:
            names = f" (samples {', '.join(map(str, batch.ids))})" if batch.ids is not None else ""
            raise ValueError(f"{self.key}: {error}{names}") from error


@dataclass
class SetMeasure:
    """A distance between two sets of samples, through features."""

    key: str
    name: str
    higher_is_better: bool | None
    needs: frozenset[str]
    extract: Callable[[Tensor], Tensor] = field(repr=False)
    memory: Memory = field(repr=False, default_factory=lambda: Memory(4096))
    kind: Literal["set"] = "set"

    def features(self, batch: Batch, which: Literal["video", "reference"] = "video") -> Tensor:
        """`b d` float32 on the CPU, of the samples or of what they are judged against."""
        clips = batch.get(which, self.key)
        if which == "reference":
            return torch.cat(self.memory.of(clips, self.extract))
        return self.extract(clips)

    def distance(self, x: Tensor, y: Tensor) -> float:
        """Between the sets behind features `n d` and `m d`; never negative, biased upwards by about `bias`."""
        return float(part("frechet").frechet_distance(x, y))

    def bias(self, x: Tensor, y: Tensor) -> float:
        """Analytic first-order bias of `distance` at these n and m."""
        return float(part("frechet").frechet_bias(x, y))

    def interval(
        self, x: Tensor, y: Tensor, confidence: float = 0.95, units: Tensor | None = None
    ) -> tuple[float, float]:
        """Block-jackknife interval of E[distance] at this n; rows are paired when n equals m, and rows of one unit
        (`units`: a number per row) leave together."""
        distance = part("frechet").frechet_distance
        return part("jackknife").jackknife_interval(x, y, distance, confidence=confidence, units=units)

    def difference(
        self, a: Tensor, b: Tensor, ref: Tensor, confidence: float = 0.95, units: Tensor | None = None
    ) -> tuple[float, float, float, float]:
        """(delta, low, high, p) of distance(a, ref) - distance(b, ref), row i of a and b the same sample."""
        distance = part("frechet").frechet_distance
        return tuple(part("jackknife").jackknife_difference(a, b, ref, distance, confidence=confidence, units=units))


Measure = SampleMeasure | SetMeasure


@dataclass(frozen=True)
class Entry:
    """A row of the catalogue: everything but the networks."""

    info: MetricInfo
    protocol: Callable[[], str]
    build: Callable[[torch.device], Callable[[Any], Tensor]]


def _sample(
    key: str, better: bool | None, needs: str, summary: str, build: Callable, protocol: Callable[[], str] = str
) -> Entry:
    info = MetricInfo(key, better, "sample", frozenset(needs.split()), summary)
    return Entry(info, lambda: key.removesuffix("_self").removesuffix("_truth") + protocol(), build)


def _net(name: str) -> str:
    return f"net:{part('weights').short_hash(name)}"


def _against_reference(module: str, function: str) -> Callable:
    def build(device: torch.device) -> Callable[[Batch], Tensor]:
        compute = getattr(part(module), function)
        return lambda batch: compute(batch.video.to(device), batch.reference.to(device))

    return build


def _alone(module: str, function: str) -> Callable:
    def build(device: torch.device) -> Callable[[Batch], Tensor]:
        compute = getattr(part(module), function)
        return lambda batch: compute(batch.video.to(device))

    return build


def _adherence(device: torch.device) -> Callable[[Batch], Tensor]:
    return lambda batch: part("quality").adherence_psnr(batch.video.to(device), batch.image.to(device))


def _background(device: torch.device) -> Callable[[Batch], Tensor]:
    def compute(batch: Batch) -> Tensor:
        return part("quality").masked_psnr(
            batch.video.to(device), batch.reference.to(device), batch.masks[:, :, 0].to(device)
        )

    return compute


def _lpips(device: torch.device) -> Callable[[Batch], Tensor]:
    lpips, memory = part("lpips"), Memory(16)
    model = lpips.shipped(str(device))

    def compute(batch: Batch) -> Tensor:
        every = slice((batch.video.shape[1] - 1) % LPIPS_STRIDE, None, LPIPS_STRIDE)  # always with the last frame
        video, reference = part("video").check_pair(batch.video[:, every], batch.reference[:, every])
        known = memory.of(reference, lambda clip: lpips.frame_features(clip.to(device), model))
        rows = [
            lpips.feature_distance(lpips.frame_features(row[None].to(device), model), ref).mean(1)
            for row, ref in zip(video, known, strict=True)
        ]
        return torch.cat(rows)

    return compute


def _warp_reference(device: torch.device) -> Callable[[Batch], Tensor]:
    warp, memory = part("warp"), Memory(96)

    def compute(batch: Batch) -> Tensor:
        video, reference = part("video").check_pair(batch.video, batch.reference, minimum_frames=2)
        fields = memory.of(reference, warp.estimate_flow)
        field = warp.FlowField(*(torch.cat(parts) for parts in zip(*fields, strict=True)))
        return warp.warp_error(video.to(device), field)

    return compute


def _warp_self(device: torch.device) -> Callable[[Batch], Tensor]:
    warp = part("warp")
    return lambda batch: warp.warp_error(batch.video.to(device), warp.estimate_flow(batch.video))


def _warp_truth(device: torch.device) -> Callable[[Batch], Tensor]:
    warp = part("warp")
    return lambda batch: warp.warp_error(
        batch.video.to(device), warp.truth_field(batch.flow_pairs, batch.occlusion)
    )


def _motion_accuracy(device: torch.device) -> Callable[[Batch], Tensor]:
    del device  # a few hundred numbers per sample: always on the CPU
    return lambda batch: part("motion").motion_accuracy(batch.video.cpu(), batch.factors, COLOURS, MOTIONS)


def _shape_accuracy(device: torch.device) -> Callable[[Batch], Tensor]:
    shape = part("shape")
    network = part("weights").load_into(shape.ShapeNet(len(SHAPES)), "shapejudge")
    del device
    return lambda batch: shape.shape_accuracy(batch.video.cpu(), batch.factors, COLOURS, SHAPES, network)


def _ghost(device: torch.device) -> Callable[[Batch], Tensor]:
    del device
    return lambda batch: part("ghost").ghosting(batch.video.cpu(), batch.factors, COLOURS)


def _fvd(device: torch.device) -> Callable[[Tensor], Tensor]:
    motionnet = part("motionnet")
    network = motionnet.MotionNet(len(COLOURS), len(SHAPES), len(MOTIONS))
    network = part("weights").load_into(network, "motionnet").to(device)
    return lambda clips: network.features(clips.to(device)).float().cpu()


_FVD = Entry(
    MetricInfo("fvd", False, "set", frozenset({"reference"}), "Frechet distance of motion features to the reference"),
    lambda: f"fvd[motionnet|8f|{_net('motionnet')}]",
    _fvd,
)

CATALOGUE: dict[str, Entry] = {entry.info.name: entry for entry in (
    _FVD,
    _sample("lpips", False, "reference", "perceptual distance to the reference, home-trained trunk", _lpips,
            lambda: f"[home-squeeze|uniform|s{LPIPS_STRIDE}|{_net('frametrunk')}]"),
    _sample("psnr", True, "reference", "signal-to-noise ratio to the reference, dB",
            _against_reference("quality", "psnr")),
    _sample("ssim", True, "reference", "structural similarity to the reference", _against_reference("quality", "ssim")),
    _sample("warp_error", False, "reference", "change along the reference's flow that its motion does not explain",
            _warp_reference, lambda: "[farneback|reference]"),
    _sample("warp_error_self", False, "", "the same along the video's own flow (explains jitter away)",
            _warp_self, lambda: "[farneback|self]"),
    _sample("warp_error_truth", False, "flow_pairs occlusion", "the same along the world's true flow",
            _warp_truth, lambda: "[truth]"),
    _sample("flicker", False, "", "mean change between neighbouring frames (a still has none)",
            _alone("temporal", "flicker")),
    _sample("motion_magnitude", None, "", "mean flow, widths per frame: read it beside every consistency score",
            _alone("temporal", "motion_magnitude"), lambda: "[farneback|64px]"),
    _sample("motion_accuracy", True, "factors", "objects that do what the caption says, by a tracker without weights",
            _motion_accuracy, lambda: "[tracker]"),
    _sample("shape_accuracy", True, "factors", "uncovered objects whose shape is named right in the last frame",
            _shape_accuracy, lambda: f"[shapejudge|{_net('shapejudge')}]"),
    _sample("adherence_psnr", True, "image", "first frame against the conditioning image, dB", _adherence),
    _sample("sharpness", None, "reference", "gradient energy over the reference's: 1 is as sharp as it",
            _against_reference("quality", "sharpness")),
    _sample("background_psnr", True, "reference masks", "signal-to-noise ratio outside the true clip's objects, dB",
            _background),
    _sample("ghost", False, "factors", "tint that the objects leave where they started, as opacity", _ghost),
)}  # fmt: skip


def available() -> dict[str, MetricInfo]:
    """Every measure by its short name."""
    return {key: entry.info for key, entry in CATALOGUE.items()}


def _find(name: str) -> str:
    """The key of a short name, or of a full one with its protocol."""
    if name in CATALOGUE:
        return name
    full = {entry.protocol(): key for key, entry in CATALOGUE.items() if entry.protocol() == name}
    if name in full:
        return full[name]
    raise UnknownMetric(f"unknown metric {name!r}{suggestion(name, CATALOGUE)}")


def resolve(names: Sequence[str], device: str | torch.device = "cpu") -> list[Measure]:
    """The measures of these names, their networks loaded onto a device, in the order given.

    Raises:
        UnknownMetric: a name that nothing has; the message gives the nearest.
    """
    return [_build(key, torch.device(device)) for key in [_find(name) for name in names]]


def _build(key: str, device: torch.device) -> Measure:
    entry = CATALOGUE[key]
    make = partial(SetMeasure if entry.info.kind == "set" else SampleMeasure, key, entry.protocol())
    return make(entry.info.higher_is_better, entry.info.needs, entry.build(device))
