"""Training of the cascade's base: text, image, fusion, generator and alignment, by rectified flow on the procedural world."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from wanlab.core import Bypass, Edit
from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.data.procedural import COLOURS, MOTIONS, SHAPES
from wanlab.diffusion import targets
from wanlab.pipelines.denoise import Prediction, motion_std, predict
from wanlab.pipelines.published import USUAL, fill_published, folder_of
from wanlab.stages import fusion, image
from wanlab.training import machine
from wanlab.training.bank import Bank
from wanlab.training.presets import class_of, configured, entry_of, fresh, preset_of, settings_of
from wanlab.training.settings import among, demand, number

STAGES = ("text", "image", "fusion", "generator", "align")     # that are trained together; beside them `classify` reads the slots
WEIGHTS = {"motion": 0.15, "paint": 0.3, "masks": 0.1, "slots": 0.02}     # of the terms of the loss; that of `video` is 1
WEIGHTINGS = ("clamped", "plain", "min_snr")
CLAMP = 0.3                              # of sigma, in the weight of the picture's error


@dataclass(frozen=True)
class Recipe:
    """What `wanlab train` reads for the base; loss weights and drop rates as in the study file."""

    CHOSEN: ClassVar = ("image", "fusion", "align")      # the stages that a recipe may build otherwise than its preset

    steps: int = 6000
    batch: int = 16
    rate: float = 1.5e-3
    clips: int = 16000
    seed: int = 0
    warmup: int = 100
    grounding_steps: int = 1500
    grounding_batch: int = 32
    drop_text: float = 0.10
    drop_image: float = 0.08
    drop_temporal: float = 0.10
    drop_align: float = 0.10
    image: str | None = None             # of these three stages, the variant or the class, as pipeline.json names it; the preset's
    fusion: str = "cross_attention"
    align: str = "flow_warp"
    temporal: bool = True
    start: str | None = None             # a checkpoint whose weights are taken over, as far as they fit; no grounding then
    train: tuple[str, ...] = ()          # the stages that learn; all of them where empty
    distil_steps: int = 0                # of a first phase, in which they learn to give what those of `start` give
    distil_batch: int = 32
    ships: dict[str, str] = field(default_factory=dict)     # stage -> the variant's name under which it is written
    held: int = 256
    validate_every: int = 250
    weights: dict[str, float] = field(default_factory=WEIGHTS.copy)     # those that differ from WEIGHTS are enough
    preset: str = "tiny"                 # whose sizes the stages have
    predicts: str = "x0"                 # what the UNet predicts of the video: x0, epsilon, v or flow
    target: str = "flow"                 # of which of them the picture's squared error is
    weighting: str = "clamped"           # of that error by noise level: clamped, plain or min_snr
    gamma: float = 5.0                   # of min_snr
    decay: float = 0.998                 # of the averaged weights
    clip: float = 1.0                    # the gradient's greatest norm
    videos: dict[str, Any] = field(default_factory=dict)    # real ones to learn from (`data.reel.Videos`): no truth, no grounding
    published: dict[str, str] = field(default_factory=dict)     # stage -> folder or hub id of what others published; it is frozen
    init: str | None = None              # random: what others published and `published` does not name learns from noise

    def __post_init__(self) -> None:
        demand(self)
        for target in (self.predicts, self.target):
            targets.demand(target)
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"no weighting {self.weighting!r}{suggestion(self.weighting, WEIGHTINGS)}")
        among("train", self.train, (*STAGES, "classify"))
        among("ships", self.ships, STAGES)
        among("weights", self.weights, ("video", *WEIGHTS))
        for name, weight in self.weights.items():
            number(f"weights.{name}", weight, 1.0)
        object.__setattr__(self, "weights", {**WEIGHTS, **self.weights})
        if self.distil_steps:
            self._demand_teacher()
        preset = preset_of(self.preset)
        object.__setattr__(self, "image", self.image or class_of(preset, "image"))
        kinds = {stage: configured(preset, stage, getattr(self, stage, None))[0] for stage in ("text", "image", "fusion", "align")}
        self._demand_published([stage for stage, kind in kinds.items() if getattr(kind, "PUBLISHED", ())])

    def _demand_published(self, holds: list[str]) -> None:
        """Raise ValueError where it is left open what the stages of `holds`, that have parts which others published, stand on."""
        if self.init not in (None, "random"):
            raise ValueError(f"init is random, or left out, not {quoted(self.init)}")
        among(f"published: of the stages of {self.preset} that others published", self.published, holds)
        for stage, source in self.published.items():
            if not isinstance(source, str):
                raise ValueError(f"published: {stage} is a folder or an id of the hub, not {quoted(source)}")
        if (unsaid := [stage for stage in holds if stage not in self.published]) and self.init is None:
            usual = ", ".join(f"{stage}: {USUAL[stage]}" for stage in unsaid)
            raise ValueError(f"{' and '.join(unsaid)} of {self.preset} stand on what others published: say where it is, published: "
                             f"{{{usual}}} (folders, or ids of the hub), or init: random, and they learn from noise with the rest")

    @property
    def unet(self) -> dict[str, Any]:
        """What the generator's configuration has from the recipe."""
        return {"temporal": self.temporal, "predicts": self.predicts}

    def entry(self, stage: str) -> dict[str, Any]:
        """Class and configuration of a stage as the recipe builds it, as pipeline.json has them."""
        kind = getattr(self, stage) if stage in self.CHOSEN else None
        return entry_of(preset_of(self.preset), stage, kind, **(self.unet if stage == "generator" else {}))

    @property
    def built(self) -> dict[str, Any]:
        """All that is built from the preset's settings, and the length of its videos."""
        return {"frames": preset_of(self.preset)["frames"]} | {stage: self.entry(stage) for stage in STAGES}

    @property
    def batches(self) -> dict[str, int]:
        """Rows of a batch in each phase that there is, by setting."""
        phases = {"grounding_batch": self.grounding_steps and not self.start and not self.videos, "distil_batch": self.distil_steps}
        return {"batch": self.batch, **{key: getattr(self, key) for key, there in phases.items() if there}}

    def _demand_teacher(self) -> None:
        """Raise ValueError where a stage is to be distilled and there is nothing to learn from."""
        if self.start is None:
            raise ValueError(f"distil_steps {self.distil_steps}: without start there is nothing to learn from")
        taught = ("image", "fusion", *["align"] * (self.align == "deformable"))
        if not set(self.train) & set(taught) or (alone := set(self.train) - {*taught, "classify"}):
            named = ", ".join(sorted(alone)) if self.train and set(self.train) & set(taught) else ", ".join(self.train) or "(all)"
            raise ValueError(f"distil_steps: train {named} has no teacher; image, fusion and deformable alignment have")


class Base(nn.ModuleDict):
    """The stages that are trained together, and the slot classifier that only training uses.

    What the recipe has others to have published stands in them and does not learn; it has a place of its own, and state dicts
    leave it out. Raises WeightsError where it is not there, damaged, or of other sizes.
    """

    def __init__(self, recipe: Recipe) -> None:
        preset = preset_of(recipe.preset)
        published = {stage: folder_of(stage, source) for stage, source in recipe.published.items()}     # before anything is built
        size, picture = settings_of(preset, "generator")["size"], configured(preset, "image", recipe.image)[1].picture
        stages: dict[str, nn.Module] = {
            "text": fresh(preset, "text"),
            "image": fresh(preset, "image", recipe.image, output=picture),  # the larger reference is for later stages
            "fusion": fresh(preset, "fusion", recipe.fusion),
            "generator": fresh(preset, "generator", **recipe.unet),
            "align": fresh(preset, "align", recipe.align),
        }
        stages["classify"] = nn.Linear(stages["fusion"].config.width, len(COLOURS) + len(SHAPES) + len(MOTIONS))
        super().__init__(stages)
        self.size, self.picture, self.frames = size, picture, preset["frames"]
        for stage, folder in published.items():
            fill_published(stage, stages[stage], folder)
        self.apart = {stage: tuple(stages[stage].PUBLISHED) for stage in published}
        self._kept = tuple(f"{stage}.{part}." for stage, parts in self.apart.items() for part in parts)
        self.learn()

    def learn(self, stages: Collection[str] = ()) -> None:
        """Let these stages learn, all of them where none is named, and nothing of what others published."""
        for name, parameter in self.named_parameters():
            asked = not stages or name.partition(".")[0] in stages
            parameter.requires_grad_(asked and not name.startswith(self._kept))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Name -> value, without what others published."""
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if not name.startswith(self._kept)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take what `state_dict` gave, here or elsewhere."""
        own = {name: value for name, value in super().state_dict().items() if name.startswith(self._kept)}
        return super().load_state_dict({**state_dict, **own}, strict, assign)


def slot_loss(base: Base, slots: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of colour, shape and motion, read from the fused slot tokens."""
    logits = base["classify"](slots).split([len(COLOURS), len(SHAPES), len(MOTIONS)], -1)
    return sum(F.cross_entropy(rearrange(x, "b m c -> (b m) c"), truth[..., i].flatten(), ignore_index=-1)
               for i, x in enumerate(logits))  # type: ignore[return-value]


def mask_loss(base: Base, still: image.Image, condition: fusion.Condition, masks: Tensor) -> Tensor:
    """Cross-entropy of the layers of the first frame; objects weigh more than their few pixels."""
    log = F.log_softmax(base["align"].segment(still, condition), 1)
    weight = 1 + 3 * masks[:, 1:].sum(1)
    return -((log * masks).sum(1) * weight).mean()


class Batch(NamedTuple):
    """Rows of a `Bank` as numbers in [0, 1], and which (`rows` b); `ids` without text are 0, `present` (b) is 0 without image: of
    such rows the stages make their trained null conditions."""

    video: Tensor
    first: Tensor
    masks: Tensor
    motion: Tensor
    ids: Tensor
    labels: Tensor
    present: Tensor
    rows: Tensor


def draw(data: Bank, size: int, recipe: Recipe, generator: torch.Generator) -> Batch:
    """A random batch with text and image dropped at the recipe's rates."""
    rows = torch.randint(len(data.video), (size,), generator=generator)
    chance = torch.rand(2, size, generator=generator)
    ids = torch.where((chance[0] < recipe.drop_text)[:, None], 0, data.ids[rows])
    present = (chance[1] >= recipe.drop_image).float()
    video, first, masks = (value[rows].float() / 255 for value in (data.video, data.first, data.masks))
    return Batch(video, first, masks, data.motion[rows], ids, data.labels[rows], present, rows)


def noise_level(b: int, generator: torch.Generator) -> Tensor:
    """sigma (b): logit-normal leaning to high noise (Esser et al. 2024), where the layout of the clip is decided."""
    high = torch.sigmoid(1.1 + 1.3 * torch.randn(b, generator=generator))
    return high.clamp(0.02, 1)


def scaled(batch: Batch) -> tuple[Tensor, Tensor]:
    """The batch as the generator diffuses it: video in [-1, 1], motion in standard deviations."""
    return 2 * batch.video - 1, batch.motion / motion_std(batch.motion)


def noised(clean: Tensor, motion: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Video and motion, noised, and the noise level sigma (b) of both; every eighth row is noise alone."""
    sigma = noise_level(len(clean), generator)
    sigma = torch.where(torch.rand(len(clean), generator=generator) < 0.12, torch.ones(()), sigma)
    s = sigma[:, None, None, None, None]
    noisy = (1 - s) * clean + s * torch.randn(clean.shape, generator=generator)
    return noisy, (1 - s[..., 0]) * motion + s[..., 0] * torch.randn(motion.shape, generator=generator), sigma


def importance(recipe: Recipe, sigma: Tensor) -> Tensor:
    """What the squared error of the clean picture weighs at noise level sigma (b), on the straight path alpha = 1 - sigma.

    clamped   the squared error of the recipe's target, sigma taken as at least CLAMP in the weight: what is nearly clean would
              outweigh all else
    plain     the squared error of the target
    min_snr   min(SNR, gamma), whatever the target (Hang et al. 2023): 0 where there is nothing but noise
    """
    if recipe.weighting == "min_snr":
        return targets.min_snr(1 - sigma, sigma, recipe.gamma)
    level = sigma.clamp(min=CLAMP) if recipe.weighting == "clamped" else sigma
    return targets.weight(recipe.target, 1 - level, level)


def losses(base: Base, batch: Batch, recipe: Recipe, generator: torch.Generator) -> tuple[dict[str, Tensor], Prediction, Tensor]:
    """All terms of the objective for one batch, the prediction, and sigma."""
    here = machine.present()
    noisy, noisy_motion, sigma = here.share(noised(*scaled(batch), generator))
    batch = here.share(batch)
    clean, motion = scaled(batch)
    words, still = base["text"](batch.ids), base["image"](batch.first, batch.present)
    # The picture's error teaches the motion only at low noise; above, it would pull it off the conditional mean.
    out = predict(base, noisy, noisy_motion, words, still, sigma, taught=sigma <= 0.5)

    weight = importance(recipe, sigma)
    given = (batch.labels[..., 0] >= 0).float()
    given[:, 0] = 1
    slot_weight = repeat(0.1 + 0.9 * given, "b m -> b 1 m 1")
    terms = {
        "video": (weight * (out.video - clean).square().mean((1, 2, 3, 4))).mean(),
        "paint": (weight * (out.draft.paint - clean).square().mean((1, 2, 3, 4))).mean(),
        "motion": (weight * (slot_weight * (out.motion - motion).square()).mean((1, 2, 3))).mean(),
    }
    if recipe.videos:                       # nobody knows what moves there: the picture's error alone teaches layers and motion
        del terms["motion"]
        return terms, out, sigma
    named = (batch.ids[:, 0] != 0) & (batch.present > 0)
    if named.any() and hasattr(base["align"], "segment"):
        terms["masks"] = mask_loss(base, _rows(still, named), _rows(out.condition, named), batch.masks[named])
        terms["slots"] = slot_loss(base, out.condition.slots[named], batch.labels[named])
    return terms, out, sigma


def _rows(values: Any, keep: Tensor) -> Any:
    return type(values)(*(v[keep] for v in values))


def ground_step(base: Base, batch: Batch, generator: torch.Generator) -> Tensor:
    """Loss of the first phase: text, image and fusion learn what each slot does, and where it is, without any diffusion."""
    here = machine.present()
    sigma, batch = here.share(noise_level(len(batch.ids), generator)), here.share(batch)
    words, still = base["text"](batch.ids), base["image"](batch.first, batch.present)
    condition = base["fusion"](words, still, sigma)
    what = slot_loss(base, condition.slots, batch.labels)
    return what + mask_loss(base, still, condition, batch.masks) if hasattr(base["align"], "segment") else what


def optimiser(base: Base, rate: float) -> torch.optim.Optimizer:
    """AdamW; decay on matrices alone; the T5's position bias learns five times faster."""
    learning = [(n, p) for n, p in base.named_parameters() if p.requires_grad]
    fast = [p for n, p in learning if "distance" in n]
    matrices = [p for n, p in learning if p.ndim > 1 and "distance" not in n]
    vectors = [p for n, p in learning if p.ndim <= 1 and "distance" not in n]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors}, {"params": fast, "scale": 5.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, 0.99), weight_decay=0.0)


def schedule(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def set_rate(optim: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its learning rate."""
    for group in optim.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def dropped(base: Base, recipe: Recipe, generator: torch.Generator) -> list[Edit]:
    """Module dropout: the edits of this step, the same that remove a component at inference."""
    chance = torch.rand(2, generator=generator)
    edits: list[Edit] = []
    if recipe.temporal and chance[0] < recipe.drop_temporal:
        edits.append(Bypass("generator.**.temporal.out"))
    alone = recipe.train == ("align",)                  # dropped, it would leave a step from which nothing learns
    if recipe.align != "none" and not alone and chance[1] < recipe.drop_align:
        edits.append(Bypass("align.{out,valid,scope}"))
    return edits
