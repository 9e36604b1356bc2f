"""How the measures of single samples come by their networks and flows: builders that the catalogue names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wanlab.data.procedural import COLOURS, MOTIONS, SHAPES
from wanlab.measure.batch import Batch, Latest, Memory
from wanlab.measure.door import part
from wanlab.measure.kinds import Curve
from wanlab.measure.sets import Workshop

LPIPS_STRIDE = 2  # every second frame on the shipped trunk: half the cost, the same order of cells; the name says s2
REMEMBERED = 2**19  # pixels of a clip up to which the features of its reference are kept for the next cell


class Built(NamedTuple):
    """What a builder makes: the brackets of the name ("" for none), the score, and the curve where there is one."""

    brackets: str
    compute: Callable[[Batch], Tensor]
    curve: Callable[[Batch], Curve] | None = None


Builder = Callable[[Workshop, str], Built]


def _along(values: Tensor, first: int = 0, step: int = 1) -> Curve:
    return Curve(values, tuple(range(first, first + step * values.shape[1], step)))


def _mean_of(brackets: str, make: Callable[[Batch], Tensor]) -> Built:
    """A measure that is the mean of its curve `b n`, which is made once for both."""
    curve = Latest(make)
    return Built(brackets, lambda batch: curve(batch).mean(1), lambda batch: _along(curve(batch)))


def against(module: str, function: str, curve: str = "") -> Builder:
    """A function of video and reference."""

    def build(workshop: Workshop, choice: str) -> Built:
        def ask(name: str, batch: Batch) -> Tensor:
            return getattr(part(module), name)(batch.video.to(workshop.device), batch.reference.to(workshop.device))

        return Built("", partial(ask, function), (lambda batch: _along(ask(curve, batch))) if curve else None)

    return build


def along(module: str, curve: str) -> Builder:
    """The mean of a curve over the frames of video and reference, which is made once for both."""

    def build(workshop: Workshop, choice: str) -> Built:
        ask, device = getattr(part(module), curve), workshop.device
        return _mean_of("", lambda batch: ask(batch.video.to(device), batch.reference.to(device)))

    return build


def flicker(workshop: Workshop, choice: str) -> Built:
    """Mean change between neighbouring frames."""
    return _mean_of("", lambda b: part("temporal").flicker_curve(b.video.to(workshop.device)))


def motion_magnitude(workshop: Workshop, choice: str) -> Built:
    """Mean flow from frame to frame."""
    return _mean_of("farneback|64px", lambda b: part("temporal").motion_curves(b.video).mean)


def background_psnr(workshop: Workshop, choice: str) -> Built:
    """PSNR where the true clip shows its background."""
    masked, device = part("quality").masked_psnr, workshop.device
    return Built("", lambda b: masked(b.video.to(device), b.reference.to(device), b.masks[:, :, 0].to(device)))


# Perceptual distances: frames go through the trunk once for all of them.


class Perception:
    """The LPIPS curves of the present batch under one judge, computed once for all measures that read them."""

    def __init__(self, judge: Any, device: torch.device) -> None:
        self.judge, self.device = judge, device
        self.wanted: set[str] = set()
        self.of = Latest(self._of)

    def _of(self, batch: Batch) -> Any:
        """`metrics.perceptual.PerceptualCurves` with all that anybody wants of this batch."""
        give = {name: getattr(batch, name).to(self.device) for name in ("reference", "image") if name in self.wanted}
        video, steps = batch.video.to(self.device), "steps" in self.wanted
        return part("perceptual").perceptual_curves(video, **give, steps=steps, judge=self.judge)


def _judge(workshop: Workshop, choice: str) -> Any:
    lpips = part("lpips")
    if choice == "home-squeeze":
        return lpips.shipped(str(workshop.device))
    net = next(net for net, file in lpips.PUBLISHED.items() if file == choice)
    return workshop.once(("lpips", net), lambda: lpips.published(net, workshop.weights.get(choice), workshop.device))


def _perception(workshop: Workshop, choice: str, *wanted: str) -> Perception:
    judge = _judge(workshop, choice)
    shared: Perception = workshop.once(("perception", choice), lambda: Perception(judge, workshop.device))
    shared.wanted |= set(wanted)
    return shared


def lpips(workshop: Workshop, choice: str) -> Built:
    """LPIPS to the reference: every frame on a published trunk, every second one on the shipped one."""
    if choice == "home-squeeze":
        return _home_lpips(workshop)
    shared = _perception(workshop, choice, "reference")
    return _mean_of(shared.judge.name, lambda b: shared.of(b).reference)


def _home_lpips(workshop: Workshop) -> Built:
    module, memory, judge, device = part("lpips"), Memory(16), _judge(workshop, "home-squeeze"), workshop.device

    def first(batch: Batch) -> int:
        return (batch.video.shape[1] - 1) % LPIPS_STRIDE  # always with the last frame

    def make(batch: Batch) -> Tensor:
        every = slice(first(batch), None, LPIPS_STRIDE)
        video, reference = part("video").check_pair(batch.video[:, every], batch.reference[:, every])
        if video[0].numel() > REMEMBERED:
            return part("perceptual").perceptual_curves(video.to(device), reference.to(device), steps=False, judge=judge).reference
        known = memory.of(reference, lambda clip: module.frame_features(clip.to(device), judge))
        rows = (module.frame_features(row[None].to(device), judge) for row in video)
        return torch.cat([module.feature_distance(row, ref, judge) for row, ref in zip(rows, known, strict=True)])

    curve = Latest(make)
    brackets = judge.name.replace("|net:", f"|s{LPIPS_STRIDE}|net:")
    return Built(brackets, lambda b: curve(b).mean(1), lambda b: _along(curve(b), first(b), LPIPS_STRIDE))


def tlp(workshop: Workshop, choice: str) -> Built:
    """tLP over whole frames, from the same pass as LPIPS."""
    shared, tlp_of = _perception(workshop, choice, "reference", "steps"), part("perceptual").tlp_of

    def curve(batch: Batch) -> Curve:
        found = shared.of(batch)
        return _along(100 * (found.steps - found.reference_steps).abs())

    return Built(f"whole|{shared.judge.name}", lambda b: tlp_of(shared.of(b)), curve)


def adherence_lpips(workshop: Workshop, choice: str) -> Built:
    """LPIPS of the first frame to the conditioning image, from the same pass."""
    shared = _perception(workshop, choice, "image")
    return Built(shared.judge.name, lambda b: shared.of(b).image[:, 0], lambda b: _along(shared.of(b).image))


def adherence(function: str, decay: bool = False) -> Builder:
    """PSNR or SSIM to the conditioning image: of the first frame, or the change per frame from there."""

    def build(workshop: Workshop, choice: str) -> Built:
        ask = getattr(part("adherence"), function)
        found = Latest(lambda batch: ask(batch.video.to(workshop.device), batch.image.to(workshop.device)))
        return Built("", lambda b: found(b).slope if decay else found(b).first, lambda b: _along(found(b).curve))

    return build


def dists(workshop: Workshop, choice: str) -> Built:
    """DISTS on torchvision's VGG16."""
    module, device = part("dists"), workshop.device
    judge = module.published(workshop.weights.get("vgg16"), device)
    return _mean_of(judge.name, lambda b: module.dists_curve(b.video.to(device), b.reference.to(device), judge))


# Flow.


def _flow(workshop: Workshop, choice: str) -> tuple[str, Any]:
    methods = part("flow").METHODS
    if choice in methods:
        return choice, methods[choice]
    updates = 20 if choice == "raft_things" else 12
    given, load = workshop.weights.get(choice), part("raft").raft
    raft = workshop.once(("raft", choice), lambda: load(choice, given, updates, workshop.device))
    return raft.name, raft


def warp_reference(workshop: Workshop, choice: str) -> Built:
    """Warping error along the reference's flow, which is remembered for the next cell."""
    (name, flow), warp, memory = _flow(workshop, choice), part("warp"), Memory(96)

    def curve(batch: Batch) -> Tensor:
        video, reference = part("video").check_pair(batch.video, batch.reference, minimum_frames=2)
        if reference[0].numel() > 3 * REMEMBERED:
            found = warp.estimate_flow(reference.to(workshop.device), flow)
        else:
            fields = memory.of(reference, lambda clip: warp.estimate_flow(clip.to(workshop.device), flow))
            found = warp.FlowField(*(torch.cat(parts) for parts in zip(*fields, strict=True)))
        return warp.warp_error_curve(video.to(workshop.device), found)

    return _mean_of(f"{name}|reference", curve)


def warp_self(workshop: Workshop, choice: str) -> Built:
    """Warping error along the video's own flow."""
    (name, flow), warp = _flow(workshop, choice), part("warp")

    def curve(batch: Batch) -> Tensor:
        video = batch.video.to(workshop.device)
        return warp.warp_error_curve(video, warp.estimate_flow(video, flow))

    return _mean_of(f"{name}|self", curve)


def _truth(batch: Batch) -> Any:
    return part("warp").truth_field(batch.flow_pairs, batch.occlusion)


def warp_truth(workshop: Workshop, choice: str) -> Built:
    """Warping error along the world's true flow."""
    return _mean_of("truth", lambda b: part("warp").warp_error_curve(b.video.to(workshop.device), _truth(b)))


def tof(workshop: Workshop, choice: str) -> Built:
    """tOF in TecoGAN's middle box."""
    (name, flow), module, device = _flow(workshop, choice), part("tecogan"), workshop.device
    curve = Latest(lambda batch: module.tof_curve(batch.video.to(device), batch.reference.to(device), flow))
    return Built(f"tecogan|{name}", lambda b: module.inner(curve(b)), lambda b: _along(curve(b)))


def dynamic_degree(workshop: Workshop, choice: str) -> Built:
    """VBench's dynamic degree at each video's own rate (8 frames per second where none is known)."""
    (name, flow), vbench, device = _flow(workshop, choice), part("vbench"), workshop.device

    def compute(batch: Batch) -> Tensor:
        rates = batch.fps or [vbench.RATE] * len(batch.video)
        rows = zip(batch.video, rates, strict=True)
        return torch.cat([vbench.dynamic_degree(video[None].to(device), flow, rate) for video, rate in rows])

    return Built(name, compute)


def motion_smoothness(workshop: Workshop, choice: str) -> Built:
    """VBench's motion smoothness; NaN for stills."""
    smoothness, interpolator, name = part("smoothness"), None, choice
    if choice == "amt":
        given = workshop.weights.get("amt", "")
        _, digest = part("torchscript").pinned(given, "amt")
        interpolator, name = smoothness.compiled(given, workshop.device), f"amt:{digest[:8]}"
    return Built(name, lambda b: smoothness.motion_smoothness(b.video.to(workshop.device), interpolator).moving)


# How alike frames are; NaN for stills, which would win.


def _network(workshop: Workshop, choice: str, crop: bool = False) -> Any:
    if choice == "home-squeeze":
        return part("frames").home(str(workshop.device))
    if choice == "dino":
        given = workshop.weights.get("dino")
        return workshop.once(("dino", crop), lambda: part("dino").dino(given, crop, workshop.device))
    return workshop.once("clip", lambda: part("clip").clip(workshop.weights.get("clip"), workshop.device)).frames


def _moving(workshop: Workshop) -> Callable[[Tensor, Batch], Tensor]:
    """A score `b` with NaN for stills; the motion of a batch is estimated once for all measures."""
    guard = part("guard")
    motion = workshop.once("motion", lambda: Latest(lambda b: guard.guarded(b.video.new_zeros(len(b.video)), b.video)))
    return lambda score, batch: motion(batch)._replace(score=score.cpu()).moving


def _likeness(
    workshop: Workshop, choice: str, score: Callable[[Tensor], Tensor], curve: Callable[[Tensor], Tensor], first: int = 0
) -> Built:
    """A score `b` and a curve of the features `b f d` of the frames, which all measures on one network share."""
    network, moving, embed = _network(workshop, choice), _moving(workshop), part("frames").embed
    features = workshop.once(("frames", choice), lambda: Latest(lambda b: embed(b.video.to(workshop.device), network)))
    return Built(network.name, lambda b: moving(score(features(b)), b), lambda b: _along(curve(features(b)), first))


def consistency(workshop: Workshop, choice: str) -> Built:
    """VBench's consistency of subject or background, by network."""
    curve = part("likeness").consistency_curve
    return _likeness(workshop, choice, lambda features: curve(features).mean(1), curve, first=1)


def frame_consistency(workshop: Workshop, choice: str) -> Built:
    """Mean likeness of all pairs of frames; its curve is of each frame to the next."""
    likeness = part("likeness")
    built = _likeness(workshop, choice, likeness.all_pairs, likeness.neighbours)
    return built._replace(brackets=f"all|{built.brackets}")


def lag_drift(workshop: Workshop, choice: str) -> Built:
    """Slope of likeness over the time between frames; its curve is over lags."""
    return _likeness(workshop, choice, part("likeness").drift, part("likeness").lag_curve)


def i2v_subject(workshop: Workshop, choice: str) -> Built:
    """VBench-I2V's likeness of the subject to the conditioning image."""
    network, moving = _network(workshop, choice, crop=True), _moving(workshop)
    likeness, embed = part("likeness"), part("frames").embed

    def both(batch: Batch) -> tuple[Tensor, Tensor]:
        return embed(batch.video.to(workshop.device), network), embed(batch.image[:, None].to(workshop.device), network)

    features = Latest(both)
    return Built(
        network.name,
        lambda b: moving(likeness.i2v(*features(b)), b),
        lambda b: _along(likeness.image_curve(*features(b))),
    )


def temporal_flickering(workshop: Workshop, choice: str) -> Built:
    """VBench's temporal flickering."""
    return Built("", lambda b: part("vbench").temporal_flickering(b.video.to(workshop.device)).moving)


def clip_text(workshop: Workshop, choice: str) -> Built:
    """Mean cosine of frames and prompt."""
    judge, curve = _text_curve(workshop)
    return Built(f"cosine|{judge.name}", lambda b: curve(b).mean(1), lambda b: _along(curve(b)))


def clip_score(workshop: Workshop, choice: str) -> Built:
    """100 x that mean, at least 0: torchmetrics' CLIPScore."""
    judge, curve = _text_curve(workshop)
    return Built(f"clipscore|{judge.name}", lambda b: (100 * curve(b).mean(1)).clamp_min(0), lambda b: _along(100 * curve(b)))


def _text_curve(workshop: Workshop) -> tuple[Any, Latest[Tensor]]:
    module = part("clip")
    judge = workshop.once("clip", lambda: module.clip(workshop.weights.get("clip"), workshop.device))

    def make(batch: Batch) -> Tensor:
        curve = module.text_curve(batch.video.to(workshop.device), list(batch.prompts), judge)
        said = torch.tensor([bool(prompt.strip()) for prompt in batch.prompts], device=curve.device)
        return torch.where(said[:, None], curve, torch.nan)  # an empty prompt asks for nothing that could be shown

    return judge, workshop.once("text", lambda: Latest(make))


# Against the known truth of rendered videos: a few hundred numbers per sample, always on the CPU.


def motion_accuracy(workshop: Workshop, choice: str) -> Built:
    """Objects that do what the caption says."""
    return Built("tracker", lambda b: part("motion").motion_accuracy(b.video.cpu(), b.factors, COLOURS, MOTIONS))


def shape_accuracy(workshop: Workshop, choice: str) -> Built:
    """Objects whose shape is named right at the end."""
    shape, weights = part("shape"), part("weights")
    network = weights.load_into(shape.ShapeNet(len(SHAPES)), "shapejudge")
    brackets = f"shapejudge|net:{weights.short_hash('shapejudge')}"
    return Built(brackets, lambda b: shape.shape_accuracy(b.video.cpu(), b.factors, COLOURS, SHAPES, network))


def colour_accuracy(workshop: Workshop, choice: str) -> Built:
    """Objects that have their colour at the end, and no other colour beside them."""
    return Built("", lambda b: part("colour").colour_accuracy(b.video.cpu(), b.factors, COLOURS))


def ghost(workshop: Workshop, choice: str) -> Built:
    """Tint that objects leave where they started."""
    return Built("", lambda b: part("ghost").ghosting(b.video.cpu(), b.factors, COLOURS))


def trajectory_error(workshop: Workshop, choice: str) -> Built:
    """Distance of the objects to their known tracks."""
    ask = part("trajectory").trajectory_error
    return Built("tracker", lambda b: ask(b.video.cpu(), b.factors, b.tracks, COLOURS, b.masks))


def flow_error(workshop: Workshop, choice: str) -> Built:
    """End-point error to the known flow."""
    (name, flow), trajectory, warp = _flow(workshop, choice), part("trajectory"), part("warp")

    def curve(batch: Batch) -> Tensor:
        video = batch.video.to(workshop.device)
        return trajectory.flow_error_curve(video, _truth(batch), warp.estimate_flow(video, flow))

    held = Latest(curve)
    return Built(name, lambda b: held(b).nanmean(1), lambda b: _along(held(b)))
