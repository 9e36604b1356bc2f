"""The two phases of the base's training, with checkpoints that resume where they stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanlab.core import trace
from wanlab.data.procedural import World
from wanlab.training import checkpoint
from wanlab.training.diffusion import (
    Bank, Base, Recipe, bank, draw, dropped, ground_step, losses, optimiser, schedule, set_rate, update,
)


def train_base(recipe: Recipe, out: Path, log_every: int = 50, save_every: int = 250) -> Base:
    """Train the base stages into `out`/base.pt; a checkpoint that is there is continued. Returns the averaged stages."""
    torch.manual_seed(recipe.seed)
    base = Base(recipe)
    data, held = _banks(recipe, base)
    path = out / "base.pt"
    state: dict[str, Any] = {"phase": "grounding", "step": 0}
    if not path.exists() and recipe.start:
        _take_over(base, checkpoint.load(Path(recipe.start)))
        state = {"phase": "diffusion", "step": 0}
    average = checkpoint.Average(base)
    optim = optimiser(base, recipe.rate)
    if path.exists():
        state = checkpoint.load(path)
        base.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        average.step = state["average_step"]
        optim.load_state_dict(state["optim"])
    while state["phase"] != "done":
        phase, steps = state["phase"], recipe.grounding_steps if state["phase"] == "grounding" else recipe.steps
        for step in range(state["step"], steps):
            generator = torch.Generator().manual_seed((2 * recipe.seed + (phase == "diffusion")) * 2**32 + step)
            set_rate(optim, recipe.rate * schedule(step, steps, recipe.warmup))
            began = time.perf_counter()
            terms = _step(base, data, recipe, optim, phase, step, generator)
            average.update(base)
            if step % log_every == 0 or step == steps - 1:
                _log(out, {"phase": phase, "step": step, "seconds": round(time.perf_counter() - began, 3),
                           **{k: round(float(v), 5) for k, v in terms.items()}})
            if (step + 1) % save_every == 0 or step == steps - 1:
                _save(path, base, average, optim, phase, step + 1)
                _log(out, {"phase": phase, "step": step, **validate(average.module, held, recipe)})  # type: ignore[arg-type]
        if phase == "grounding":
            optim = optimiser(base, recipe.rate)
        state = {"phase": "diffusion" if phase == "grounding" else "done", "step": 0}
    return average.module  # type: ignore[return-value]


def _step(base: Base, data: Bank, recipe: Recipe, optim: torch.optim.Optimizer, phase: str, step: int,
          generator: torch.Generator) -> dict[str, Tensor]:
    if phase == "grounding":
        quiet = Recipe(drop_text=0.0, drop_image=0.0)
        loss = ground_step(base, draw(data, recipe.grounding_batch, quiet, generator), generator)
        update(base, optim, loss, step)
        return {"loss": loss.detach()}
    with trace(base, edits=dropped(base, recipe, generator)):
        terms, _, _ = losses(base, draw(data, recipe.batch, recipe, generator), recipe, generator)
        loss = sum((recipe.weights.get(name, 1.0) * term for name, term in terms.items()), torch.zeros(()))
    update(base, optim, loss, step)
    return {"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}}


@torch.no_grad()
def validate(base: Base, held: Bank, recipe: Recipe, n: int = 64) -> dict[str, float]:
    """Losses at high noise on held-out clips, with and without the text; slot accuracy of the fused tokens."""
    out: dict[str, float] = {}
    quiet = Recipe(drop_text=0.0, drop_image=0.0, weights=recipe.weights)
    for name, drop in (("", False), ("_no_text", True)):
        batch = draw(held, n, quiet, torch.Generator().manual_seed(1))
        batch = batch._replace(ids=torch.zeros_like(batch.ids)) if drop else batch
        terms, prediction, sigma = losses(base, batch, recipe, torch.Generator().manual_seed(2))
        high = sigma > 0.75
        clean = 2 * batch.video - 1
        out["high" + name] = float((prediction.video - clean).square().mean((1, 2, 3, 4))[high].mean())
        out["low" + name] = float((prediction.video - clean).square().mean((1, 2, 3, 4))[~high].mean())
        out["motion" + name] = float(terms["motion"])
        if not drop:
            logits = base["classify"](prediction.condition.slots)
            shown = batch.labels[..., 2] >= 0
            out["slot_motion"] = float((logits[..., -9:].argmax(-1) == batch.labels[..., 2])[shown].float().mean())
            two = shown[:, 2:].expand(-1, 3) & shown
            out["slot_motion_two"] = float((logits[..., -9:].argmax(-1) == batch.labels[..., 2])[two].float().mean())
            if "masks" in terms:
                out["masks"] = float(terms["masks"])
    return {k: round(v, 4) for k, v in out.items()}


def _banks(recipe: Recipe, base: Base) -> tuple[Bank, Bank]:
    tokenizer = base["text"].tokenizer
    return (bank(World(size=64, split="train"), recipe.clips, 32, tokenizer), bank(World(size=64, split="val"), 256, 32, tokenizer))


def _take_over(base: Base, state: dict[str, Any]) -> None:
    """Start from another training's averaged weights, for every parameter of the same name and shape."""
    own = base.state_dict()
    fitting = {k: v for k, v in state["average"].items() if k in own and own[k].shape == v.shape}
    base.load_state_dict(own | fitting)


def _save(path: Path, base: Base, average: checkpoint.Average, optim: torch.optim.Optimizer, phase: str, step: int) -> None:
    checkpoint.save(path, model=base.state_dict(), average=average.module.state_dict(), average_step=average.step,
                    optim=optim.state_dict(), phase=phase, step=step)


def _log(out: Path, row: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
