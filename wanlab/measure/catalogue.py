"""The catalogue: every measure of single samples as a row of data. Distances between sets stand in `sets`."""

from __future__ import annotations

from dataclasses import dataclass

from wanlab.measure import adversarial, samples
from wanlab.measure.kinds import MetricInfo
from wanlab.measure.samples import Builder, adherence, against, along

TRUNKS = ("home-squeeze", "alexnet", "vgg16", "squeezenet1_1")
FLOWS = ("farneback", "dis", "raft_large", "raft_small")
ALIASES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


@dataclass(frozen=True)
class Row:
    """One measure.

    key       its short name
    better    whether higher is better; None: neither
    needs     of the batch
    build     makes it, given the choice
    summary   what it is, in a line
    choices   what can stand in its brackets, the default first
    stem      its name before the brackets, where several rows share one; tag tells them apart there
    weights   the default needs files of the user
    still     a still would win it
    """

    key: str
    better: bool | None
    needs: str
    build: Builder
    summary: str
    choices: tuple[str, ...] = ()
    stem: str = ""
    tag: str = ""
    weights: bool = False
    still: bool = False

    @property
    def info(self) -> MetricInfo:
        """What is known before it is built."""
        needs = frozenset(self.needs.split())
        return MetricInfo(self.key, self.better, "sample", needs, self.summary, self.choices, self.weights, self.still)


ROWS: dict[str, Row] = {row.key: row for row in (
    # frames against the reference
    Row("lpips", False, "reference", samples.lpips, "perceptual distance to the reference", TRUNKS),
    Row("psnr", True, "reference", against("quality", "psnr", "psnr_curve"), "signal-to-noise ratio to the reference, dB"),
    Row("ssim", True, "reference", along("quality", "ssim_curve"), "structural similarity to the reference"),
    Row("ms_ssim", True, "reference", along("quality", "ms_ssim_curve"),
        "structural similarity over five scales (frames from 176 pixels)"),
    Row("dists", False, "reference", samples.dists, "distance of structure and texture to the reference", ("vgg16",), weights=True),
    Row("sharpness", None, "reference", against("quality", "sharpness"),
        "gradient energy over the reference's: 1 is as sharp as it"),
    Row("background_psnr", True, "reference masks", samples.background_psnr,
        "signal-to-noise ratio outside the true clip's objects, dB"),
    Row("l_content", False, "reference", adversarial.l_content, "distance to the reference in the content network: training's loss",
        ("vgg",)),
    Row("l_gan", False, "", adversarial.l_gan, "-E[log D] of the discriminator's patches: a training's loss", ("tiny",)),
    Row("realness", True, "", adversarial.realness, "the discriminator's logit, mean over its patches: what L_GAN learns from",
        ("tiny",)),
    # time
    Row("warp_error", False, "reference", samples.warp_reference,
        "change along the reference's flow that its motion does not explain", FLOWS, tag="reference"),
    Row("warp_error_self", False, "", samples.warp_self, "the same along the video's own flow (explains jitter away)", FLOWS,
        "warp_error", "self", still=True),
    Row("warp_error_truth", False, "flow_pairs occlusion", samples.warp_truth, "the same along the world's true flow",
        stem="warp_error", tag="truth"),
    Row("tof", False, "reference", samples.tof, "difference of flow to the reference's, pixels (TecoGAN)", FLOWS),
    Row("tlp", False, "reference", samples.tlp, "difference of perceptual change to the reference's, x 100", TRUNKS),
    Row("flicker", False, "", samples.flicker,
        "mean change between neighbouring frames (a still has none)", still=True),
    Row("temporal_flickering", True, "", samples.temporal_flickering, "VBench's: 1 - mean change, 8 bit", still=True),
    Row("subject_consistency", True, "", samples.consistency, "VBench's likeness of frames to the one before and the first",
        ("home-squeeze", "dino"), still=True),
    Row("background_consistency", True, "", samples.consistency, "the same by the scene", ("clip",), weights=True, still=True),
    Row("frame_consistency", True, "", samples.frame_consistency, "mean likeness of all pairs of frames",
        ("home-squeeze", "clip"), still=True),
    Row("motion_smoothness", True, "", samples.motion_smoothness, "VBench's: how well frames are foretold by their neighbours",
        ("farneback-halfway", "amt"), still=True),
    Row("lag_drift", True, "", samples.lag_drift, "slope of likeness over the time between frames (nearer 0 drifts less)",
        ("home-squeeze", "clip", "dino"), still=True),
    Row("motion_magnitude", None, "", samples.motion_magnitude,
        "mean flow, widths per frame: read it beside every consistency score"),
    Row("dynamic_degree", None, "", samples.dynamic_degree, "VBench's: whether a video moves", (*FLOWS, "raft_things")),
    # the conditioning image and the prompt
    Row("adherence_psnr", True, "image", adherence("image_psnr"), "first frame against the conditioning image, dB"),
    Row("adherence_ssim", True, "image", adherence("image_ssim"), "the same by structural similarity"),
    Row("adherence_lpips", False, "image", samples.adherence_lpips, "the same by perceptual distance", TRUNKS),
    Row("adherence_decay", None, "image", adherence("image_psnr", decay=True),
        "change of the signal-to-noise ratio to the image per frame, dB: read it beside true clips"),
    Row("i2v_subject", True, "image", samples.i2v_subject, "VBench-I2V's likeness to the conditioning image",
        ("home-squeeze", "dino"), still=True),
    Row("clip_text", True, "prompts", samples.clip_text, "mean cosine of frames and prompt", ("clip",), tag="cosine", weights=True),
    Row("clip_score", True, "prompts", samples.clip_score, "100 x that mean, at least 0 (torchmetrics' CLIPScore)", ("clip",),
        "clip_text", "clipscore", weights=True),
    # the known truth of rendered videos
    Row("motion_accuracy", True, "factors", samples.motion_accuracy,
        "objects that do what the caption says, by a tracker without weights"),
    Row("shape_accuracy", True, "factors", samples.shape_accuracy,
        "uncovered objects whose shape is named right in the last frame"),
    Row("colour_accuracy", True, "factors", samples.colour_accuracy,
        "uncovered objects that have their colour, and no other, at the end"),
    Row("trajectory_error", False, "factors tracks", samples.trajectory_error, "distance to the known track, widths"),
    Row("flow_error", False, "flow_pairs occlusion", samples.flow_error, "distance to the known flow, widths per frame", FLOWS),
    Row("ghost", False, "factors", samples.ghost, "tint that the objects leave where they started, as opacity"),
)}  # fmt: skip
