"""Distillation (Hinton et al. 2015): before anything is diffused, a stage of another kind learns to give what the one that it
replaces gives for the same inputs, so that the stages after it, which stay as they are, can use it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.nn.layers import compose
from wanlab.pipelines.denoise import motion_std, predict
from wanlab.stages.align import Aligned
from wanlab.stages.deformable import TAPS, Sampling
from wanlab.stages.fusion import Condition
from wanlab.training import machine
from wanlab.training.diffusion import Base, Batch, Recipe, noised, scaled, slot_loss

SLOTS_WEIGHT = 0.05  # of the classifier that reads the slots, beside the error to the teacher


def distil_losses(base: Base, teacher: Base, batch: Batch, recipe: Recipe, generator: torch.Generator) -> dict[str, Tensor]:
    """The terms of one batch, by stage: image and fusion to the teacher's numbers, deformable alignment to its flow."""
    here = machine.present()
    noisy, noisy_motion, sigma = here.share(noised(*scaled(batch), generator))
    batch = here.share(batch)
    with torch.no_grad():
        words, still = teacher["text"](batch.ids), teacher["image"](batch.first, batch.present)
    terms: dict[str, Tensor] = {}
    for stage in recipe.train:
        if stage == "image":
            terms[stage] = relative(base["image"](batch.first, batch.present).tokens, still.tokens)
        elif stage == "fusion":
            with torch.no_grad():
                wanted = teacher["fusion"](words, still, sigma)
            terms |= _fused(base, base["fusion"](words, still, sigma), wanted, batch)
        elif stage == "align":
            with torch.no_grad():
                out = predict(teacher, noisy, noisy_motion, words, still, sigma)
                flow, owner = _moved(still.frame, out.aligned, out.motion)
            terms |= _aligned(base["align"].sample(still, out.draft), out.aligned, flow, owner, batch.present)
    return terms


def relative(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error in units of the variance of what is wanted."""
    return (given - wanted).square().mean() / wanted.var()


def _fused(base: Base, given: Condition, wanted: Condition, batch: Batch) -> dict[str, Tensor]:
    terms = {name: relative(getattr(given, name), getattr(wanted, name)) for name in ("grounded", "slots", "pooled")}
    named = (batch.ids[:, 0] != 0) & (batch.present > 0)
    if named.any():
        terms["named"] = SLOTS_WEIGHT * slot_loss(base, given.slots[named], batch.labels[named])
    return terms


def _moved(frame: Tensor, aligned: Aligned, motion: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's backward flow (b f 2 h w, in pixels) and where it shows an object (b f 1 h w)."""
    composite = compose(frame, aligned.masks, motion * motion_std(motion))
    return composite.flow * frame.shape[-1], composite.owner[:, :, 1:].sum(2, keepdim=True)


def _aligned(sampling: Sampling, aligned: Aligned, flow: Tensor, owner: Tensor, present: Tensor) -> dict[str, Tensor]:
    """Objects are few pixels and all that moves by itself, so they count more."""
    weight = (1 + 4 * owner) * present[:, None, None, None, None]
    wanted = flow.flip(2).repeat(1, 1, TAPS, 1, 1)                                  # dy, dx of every tap
    error = F.smooth_l1_loss(sampling.offset, wanted, reduction="none")
    trust = present[:, None, None, None, None] * (sampling.trust - aligned.valid).square()
    return {"flow": 0.3 * (weight * error).mean(), "trust": trust.mean()}
