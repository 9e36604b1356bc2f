"""Training of the networks that judge, and of the content network.

Four small networks, each from its own seed and its own clips: `vgg` (L_content and discriminator; lives in
`wanlab/weights`), `frametrunk` (LPIPS), `shapejudge` (names the shape in a crop) and `motionnet` (features of the
video Frechet distance); the last three live in `metrics/weights`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wanlab import measure
from wanlab.data.procedural import COLOURS, MOTIONS, SHAPES, World
from wanlab.nn.vgg import Vgg
from wanlab.training import judge_data

VALIDATION = 512  # held-out clips behind every figure


def fit(
    network: nn.Module, batches: Iterator[Any], loss: Callable[[nn.Module, Any], Tensor], *, steps: int, rate: float,
    say: Callable[[str], None] = print,
) -> tuple[nn.Module, dict[str, float]]:  # fmt: skip
    """AdamW with warm-up and cosine decay, gradients clipped to 1; returns the network, its weights averaged, and times.

    Raises:
        FloatingPointError: the loss became NaN or infinite; the message names the step.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    average = {key: value.detach().clone() for key, value in network.state_dict().items()}
    started, busy = time.monotonic(), time.process_time()
    running = math.nan
    for step in range(steps):
        pace = min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
        for group in optimiser.param_groups:
            group["lr"] = rate * pace
        network.train()
        value = loss(network, next(batches))
        if not torch.isfinite(value):
            raise FloatingPointError(f"loss {float(value)} at step {step}")
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        keep = min(0.995, (1 + step) / (10 + step))
        for key, part in network.state_dict().items():
            average[key] = average[key].lerp(part.detach(), 1 - keep) if part.is_floating_point() else part.clone()
        seen = float(value.detach())
        running = seen if math.isnan(running) else 0.95 * running + 0.05 * seen
        if step % 100 == 99 or step == steps - 1:
            say(f"step {step + 1}/{steps}  loss {running:.4f}  {time.monotonic() - started:.0f} s")
    network.load_state_dict(average)
    minutes = {"minutes": (time.monotonic() - started) / 60, "cpu_minutes": (time.process_time() - busy) / 60}
    return network.eval(), minutes


class FrameHeads(nn.Module):
    """A frame network under training: its last features, pooled by mean and maximum, name colours, shapes and harm."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(2 * width, len(COLOURS) + len(SHAPES) + 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """`b c h w` in [0, 1] -> logits of colours and shapes `b 11`, harm `b 2`."""
        last = self.trunk(images)[-1]
        out = self.head(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1))
        return out[:, :-2], out[:, -2:]


def frame_loss(network: nn.Module, batch: judge_data.Crops) -> Tensor:
    """Cross-entropies of colour and shape where they are known, plus the squared error of the harm."""
    logits, harm = network(batch.images)
    total = 2 * functional.mse_loss(harm, batch.harm)
    for found, target in zip(logits.split([len(COLOURS), len(SHAPES)], 1), (batch.colour, batch.shape), strict=True):
        known = ~target.isnan()
        total = total + functional.binary_cross_entropy_with_logits(found[known], target[known])
    return total


@torch.no_grad()
def frame_figures(network: nn.Module, seed: int) -> dict[str, float]:
    """On held-out crops: accuracy of colours' and shapes' presence, of the best shape where there is one, error of harm."""
    world = World(size=128, frames=4, seed=seed, split="val")
    right: dict[str, list[Tensor]] = {"colour": [], "shape": [], "best_shape": [], "harm_error": []}
    for first in range(0, VALIDATION, 64):
        batch = judge_data.crops(world, first, 64, seed + 1)
        logits, harm = network(batch.images)
        colour, shape = logits.split([len(COLOURS), len(SHAPES)], 1)
        for key, found, target in (("colour", colour, batch.colour), ("shape", shape, batch.shape)):
            right[key].append(((found > 0) == (target > 0.5))[~target.isnan()].float())
        single = batch.shape.sum(1) == 1  # NaN where one is cut off: those are left out
        right["best_shape"].append((shape.argmax(1) == batch.shape.nan_to_num().argmax(1))[single].float())
        right["harm_error"].append((harm - batch.harm).abs().flatten())
    return {f"val_{key}": round(float(torch.cat(values).mean()), 4) for key, values in right.items()}


def train_vgg(config: dict[str, Any], say: Callable[[str], None]) -> tuple[nn.Module, dict[str, Any]]:
    """The content network."""
    torch.manual_seed(config["seed"])
    network = FrameHeads(Vgg(), 64)
    return _train_frames(network, config, say)


def _train_frames(network: FrameHeads, config: dict[str, Any], say: Callable[[str], None]) -> Any:
    world = World(size=128, frames=4, seed=config["seed"], split="train")
    batches = judge_data.stream(judge_data.crops, world, config["batch"], config["seed"])
    fitted, times = fit(network, batches, frame_loss, steps=config["steps"], rate=config["rate"], say=say)
    return network.trunk, {**times, **frame_figures(fitted, config["seed"])}
