"""Gradient descent with an average, a log and checkpoints that continue bit for bit where they stopped.

descent = Descent(module, steps=1000, rate=2e-3, path=out / "level0.pt")
for step in descent:                        # from the checkpoint on, if there is one
    descent.down(loss_of(step), ids=rows)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.training import checkpoint, machine, watch
from wanlab.training.checkpoint import Spent
from wanlab.training.diffusion import schedule, set_rate
from wanlab.training.settings import differences


class Diverged(FloatingPointError):
    """A loss, or a gradient, that is not finite."""


class Descent:
    """AdamW with cosine rate on the parameters of `module` that want gradients.

    steps       how many; rate: of the start, after `warmup` steps
    pace        step, steps -> share of the rate, where the usual one (`diffusion.schedule`) will not do
    path        of the checkpoint, written every `save_every` steps and at the end; a checkpoint from another recipe
                raises ValueError
    recipe      plain data that must be equal when a checkpoint is continued (`settings.stated`)
    beside      what else the checkpoint carries (an opponent, its optimiser): anything with state_dict and
                load_state_dict
    optim       an optimiser over those parameters, where the usual one will not do
    decay       of the averaged weights; clip: the greatest norm of the gradient
    name        of a row (`ids`), where people are told of it

    It runs on the present machine (`wanlab.training.machine`): the module is moved there, gradients of several processes are
    averaged, and one of them writes.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        steps: int,
        rate: float,
        path: Path,
        recipe: dict[str, Any] | None = None,
        beside: Mapping[str, Any] | None = None,
        decay: float = 0.998,
        clip: float = 1.0,
        warmup: int = 30,
        save_every: int = 100,
        optim: torch.optim.Optimizer | None = None,
        pace: Callable[[int, int], float] | None = None,
        name: Callable[[int], str] = str,
    ) -> None:
        self.module, self.steps, self.rate, self.path, self.save_every = module, steps, rate, path, save_every
        self.pace = pace or partial(schedule, warmup=warmup)
        self.here, self.clip, self.name = machine.present(), clip, name
        module.to(self.here.device)
        self.beside = dict(beside or {})
        self.recipe = json.loads(json.dumps(recipe or {}))
        wanted = [p for p in module.parameters() if p.requires_grad]
        self.wanted = wanted
        self.optim = optim or torch.optim.AdamW(wanted, lr=rate, betas=(0.9, 0.99), weight_decay=1e-4)
        self.average = checkpoint.Average(module, decay)
        self.step, self.spent = 0, Spent()
        self.saved: int | None = None
        self.loss = float("nan")
        if path.exists():
            self._resume(checkpoint.load(path))

    def __iter__(self) -> Iterator[int]:
        """The steps still to do; every one must be answered by `down`.

        Whoever watches is told. Raises KeyboardInterrupt, after a checkpoint, where they ask for an end.
        """
        watcher = watch.present()
        watcher.begin(f"{self.path.parent.name}/{self.path.stem}", self.step, self.steps, None if self.saved is None else self.path)
        while self.step < self.steps:
            began, shown = time.process_time(), time.monotonic()
            step = self.step
            yield step
            if self.step == step:
                raise RuntimeError(f"step {step} of {self.path.name} ended without `down`")
            self.spent += Spent(time.process_time() - began, time.monotonic() - shown)
            stopping = self.here.any(watcher.stopping)
            if self.step % self.save_every == 0 or self.step == self.steps or stopping:
                self.save()
            watcher.step(self.step, self.loss)
            if stopping:
                raise KeyboardInterrupt
        watcher.end()

    def down(self, loss: Tensor, ids: Sequence[int] = (), **terms: float) -> None:
        """One clipped step down `loss`; `terms` go to the log. Raises Diverged where the loss or its gradient is not finite, before
        any weight has changed."""
        self.demand_finite(loss, ids)
        set_rate(self.optim, self.rate * self.pace(self.step, self.steps))
        self.optim.zero_grad(set_to_none=True)
        loss.backward()
        self.here.agree(self.wanted)
        norm = nn.utils.clip_grad_norm_(self.wanted, self.clip)
        self.demand_finite(norm, ids, "gradient")
        self.optim.step()
        self.average.update(self.module)
        self.loss = loss.item()
        if self.step % 25 == 0 or self.step == self.steps - 1:
            self.log(loss=self.loss, grad=norm.item(), **terms)
        self.step += 1

    def demand_finite(self, value: Tensor, ids: Sequence[int] = (), what: str = "loss") -> None:
        """Raise Diverged, with the step, the clips and the last good checkpoint, where what is named is not finite."""
        if not torch.isfinite(value):
            good = "no checkpoint was saved before it"
            if self.saved is not None:
                good = f"the last good checkpoint is {self.path} at step {self.saved}"
            where = f"at step {self.step}" + (f" on clips [{', '.join(map(self.name, ids))}]" if ids else "")
            raise Diverged(f"the {what} of {self.path.stem} is {value.item()} {where}; {good}")

    def log(self, **row: float) -> None:
        """One line in the log beside the checkpoint, and on the board."""
        if not self.here.main:
            return
        if self.here.board is not None:
            for name, value in row.items():
                self.here.board.add_scalar(f"{self.path.parent.name}/{self.path.stem}/{name}", value, self.step)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"step": self.step, "seconds": round(self.spent.processor, 1), **{k: round(v, 5) for k, v in row.items()}}
        with self.path.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write the checkpoint."""
        if self.here.main:
            checkpoint.save(
                self.path,
                model=self.module.state_dict(),
                average=self.average.module.state_dict(),
                average_step=self.average.step,
                optim=self.optim.state_dict(),
                step=self.step,
                seconds=self.spent.processor,
                wall=self.spent.wall,
                recipe=self.recipe,
                beside={name: thing.state_dict() for name, thing in self.beside.items()},
            )
        self.here.wait()
        self.saved = self.step

    def _resume(self, state: dict[str, Any]) -> None:
        if other := differences(self.recipe, state["recipe"]):
            raise ValueError(f"{self.path} was trained with another recipe: {', '.join(other)}")
        try:
            self.module.load_state_dict(state["model"])
            self.average.module.load_state_dict(state["average"])
            self.optim.load_state_dict(state["optim"])
            for name, thing in self.beside.items():
                thing.load_state_dict(state["beside"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{self.path} is the checkpoint of another module: {' '.join(str(error).split())}") from error
        self.average.step = state["average_step"]
        self.step = self.saved = state["step"]
        self.spent = Spent(state["seconds"], state.get("wall", state["seconds"]))       # the first checkpoints had no clock
