"""The base's training: a short grounding of text and image, then diffusion; and the variants trained without a part."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanlab.core import trace
from wanlab.data.procedural import MOTIONS
from wanlab.stages.prompt import CutWarning
from wanlab.stages.text import UNKNOWN
from wanlab.training import machine, watch
from wanlab.training.bank import Bank, drawn, filmed
from wanlab.training.checkpoint import Spent
from wanlab.training.descent import Descent
from wanlab.training.diffusion import (
    Base,
    Recipe,
    draw,
    dropped,
    ground_step,
    losses,
    optimiser,
)
from wanlab.training.distil import distil_losses
from wanlab.training.naming import entry_made
from wanlab.training.settings import origins, stated
from wanlab.training.shipping import ship
from wanlab.training.sources import called, of_what, reel
from wanlab.training.start import kinds_of, take_over

QUIET = Recipe(drop_text=0.0, drop_image=0.0)


def train_base(recipe: Recipe, out: Path) -> Base:
    """Train what `recipe` asks for into `out`; checkpoints there are continued. Returns the averaged stages."""
    torch.manual_seed(recipe.seed)
    base = Base(recipe)
    if recipe.start:
        take_over(base, Path(recipe.start), recipe.train)
    spent = Spent()
    data, held = (_clips(base, recipe, split, n) for split, n in (("train", recipe.clips), ("val", recipe.held)))
    if not recipe.start and not recipe.videos:
        first = _ground(base, data, recipe, out)
        base.load_state_dict(first.average.module.state_dict())
        spent = first.spent
    base.learn(recipe.train)
    spent += _distil(base, data, recipe, out)
    descent = _descent(base, data, recipe, out / "diffusion.pt", recipe.steps)
    for step in descent:
        generator = _generator(recipe, 1, step)
        with trace(base, edits=dropped(base, recipe, generator)), machine.present().autocast():
            batch = draw(data, recipe.batch, recipe, generator)
            terms, _, _ = losses(base, batch, recipe, generator)
        loss = sum((recipe.weights.get(name, 1.0) * term for name, term in terms.items()), torch.zeros(()))
        descent.down(loss, batch.rows.tolist(), **{k: v.item() for k, v in terms.items()})
        if descent.step % recipe.validate_every == 0:
            descent.log(**validate(descent.average.module, held, recipe))  # type: ignore[arg-type]
    average: Base = descent.average.module  # type: ignore[assignment]
    facts = {"spent": spent + descent.spent, "metrics": validate(average, held, recipe), "judged": of_what(held.source)}
    _ship(average, recipe, out, facts)
    return average


def _clips(base: Base, recipe: Recipe, split: str, n: int) -> Bank:
    """Clips to learn from ("train") or to be judged by ("val"), read by the text stage."""
    if recipe.videos:
        windows = reel(recipe.videos, n, base.picture, base.frames, recipe.seed, split)
        data = filmed(windows, base.size, base["fusion"].config.slots)
    else:
        data = drawn(split, n, base.size, base.frames, base.picture)
    with warnings.catch_warnings(record=True, action="always", category=CutWarning) as heard:
        data = data.read(base["text"].ids)
    for one in heard:
        if not issubclass(one.category, CutWarning):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if split == "train":
        _tell(base["text"], data, [str(one.message) for one in heard if issubclass(one.category, CutWarning)])
    return data


def _tell(stage: Any, data: Bank, cut: Sequence[str]) -> None:
    """Say which words of the captions mean nothing to the text stage, and how many captions are too long for it, `cut` of them."""
    words = sorted({word for caption in set(data.captions) for word in stage.unknown(caption)})
    if words:
        some = ", ".join(words[:8]) + (" ..." if len(words) > 8 else "")
        watch.present().note(f"{len(words)} words of the captions are {UNKNOWN} to the text stage's vocabulary: {some}")
    if cut:
        watch.present().note(f"the text stage sees the beginning of {len(cut)} of {len(data.captions)} captions alone: {cut[0]}")


def _ground(base: Base, data: Bank, recipe: Recipe, out: Path) -> Descent:
    descent = _descent(base, data, recipe, out / "grounding.pt", recipe.grounding_steps)
    for step in descent:
        generator = _generator(recipe, 0, step)
        batch = draw(data, recipe.grounding_batch, QUIET, generator)
        with machine.present().autocast():
            loss = ground_step(base, batch, generator)
        descent.down(loss, batch.rows.tolist())
    return descent


def _distil(base: Base, data: Bank, recipe: Recipe, out: Path) -> Spent:
    """The phase before, for stages of another kind: they learn to stand in for those that they replace. What it took."""
    if not recipe.distil_steps or recipe.start is None:
        return Spent()
    start = Path(recipe.start)
    teacher = Base(Recipe(preset=recipe.preset, published=recipe.published, init=recipe.init, **kinds_of(start)))
    take_over(teacher, start, ("classify",))               # whole, but for what it does not teach
    teacher.to(machine.present().device)
    descent = _descent(base, data, recipe, out / "distil.pt", recipe.distil_steps)
    for step in descent:
        generator = _generator(recipe, 0, step)
        batch = draw(data, recipe.distil_batch, recipe, generator)
        with machine.present().autocast():
            terms = distil_losses(base, teacher, batch, recipe, generator)
        descent.down(sum(terms.values(), torch.zeros(())), batch.rows.tolist(), **{k: v.item() for k, v in terms.items()})
    base.load_state_dict(descent.average.module.state_dict())
    return descent.spent


def _descent(base: Base, data: Bank, recipe: Recipe, path: Path, steps: int) -> Descent:
    return Descent(base, steps=steps, rate=recipe.rate, path=path, recipe=stated(recipe), warmup=recipe.warmup,
                   save_every=250, optim=optimiser(base, recipe.rate), decay=recipe.decay, clip=recipe.clip,
                   name=called(data.source))


def _generator(recipe: Recipe, phase: int, step: int) -> torch.Generator:
    """What a step draws depends on the recipe's seed and the step alone, so a resumed training draws the same."""
    return torch.Generator().manual_seed((2 * recipe.seed + phase) * 2**32 + step)


@torch.no_grad()
def validate(base: Base, held: Bank, recipe: Recipe) -> dict[str, float]:
    """Errors at high and low noise on held-out clips, with and without the text; motion class read from the slots."""
    out: dict[str, float] = {}
    for name, mute in (("", False), ("_no_text", True)):
        batch = draw(held, min(64, len(held.video)), QUIET, torch.Generator().manual_seed(1))
        batch = batch._replace(ids=torch.zeros_like(batch.ids)) if mute else batch
        with machine.on(machine.present().whole()), machine.present().autocast():
            terms, prediction, sigma = losses(base, batch, recipe, torch.Generator().manual_seed(2))
        error, sigma = (prediction.video.cpu() - (2 * batch.video - 1)).square().mean((1, 2, 3, 4)), sigma.cpu()
        out |= {"high" + name: error[sigma > 0.75].mean().item(), "low" + name: error[sigma <= 0.75].mean().item()}
        if recipe.videos:
            continue
        out["motion" + name] = terms["motion"].item()
        if not mute:
            out["slot_motion"] = _slot_accuracy(base, prediction.condition.slots, batch.labels)
    return out


def _slot_accuracy(base: Base, slots: Tensor, labels: Tensor) -> float:
    """How often the motion's name can be read from a slot."""
    motions = labels[..., 2].to(slots.device)
    named = base["classify"](slots)[..., -len(MOTIONS):].argmax(-1)
    return (named == motions)[motions >= 0].float().mean().item()


def _ship(base: Base, recipe: Recipe, out: Path, known: dict[str, Any]) -> None:
    """Write the trained stages, each under the variant's name that the recipe gives it."""
    for stage, variant in recipe.ships.items():
        facts = {"steps": recipe.steps, "origins": origins(recipe), **known}
        facts |= {"published": recipe.published.get(stage), "apart": base.apart.get(stage, ())}
        ship(base[stage], stage, variant, out, seed=recipe.seed, recipe=asdict(recipe), entry=entry_made(recipe, stage), **facts)
