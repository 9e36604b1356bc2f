"""Training of the networks that judge, and of the content network.

Four small networks, each from its own seed and its own clips: `vgg` (L_content and discriminator; lives in
`wanlab/weights`), `frametrunk` (LPIPS), `shapejudge` (names the shape in a crop) and `motionnet` (features of the
video Frechet distance); the last three live in `metrics/weights`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wanlab import measure
from wanlab.core import suggestion
from wanlab.core.quote import quoted
from wanlab.data.procedural import COLOURS, MOTIONS, SHAPES, World
from wanlab.nn.vgg import Vgg
from wanlab.training import judge_data, watch
from wanlab.training.descent import Descent
from wanlab.training.settings import number

VALIDATION = 512  # held-out clips behind every figure


def pace(step: int, steps: int) -> float:
    """Linear warm-up over 50 steps, times half a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)


def fit(
    network: nn.Module, batches: judge_data.Batches, loss: Callable[[nn.Module, Any], Tensor], path: Path, recipe: Mapping[str, Any]
) -> dict[str, float]:
    """AdamW with warm-up and cosine decay, gradients clipped to 1. Leaves the averaged weights; returns its minutes.

    It goes on from the checkpoint `path`, if there is one. `recipe` has steps and rate.

    Raises:
        Diverged: the loss or its gradient became NaN or infinite; the message names the step.
        KeyboardInterrupt: the watcher asks for an end; the checkpoint is of the step in hand.
        ValueError: a checkpoint of another recipe, or none of a training.
    """
    optim = torch.optim.AdamW(network.parameters(), lr=recipe["rate"], betas=(0.9, 0.99), weight_decay=0.01)
    descent = Descent(
        network, steps=recipe["steps"], rate=recipe["rate"], path=path, recipe=dict(recipe), beside={"batches": batches},
        decay=0.995, optim=optim, pace=pace,
    )  # fmt: skip
    for _ in descent:
        network.train()
        descent.down(loss(network, next(batches)))
    network.load_state_dict(descent.average.module.state_dict())
    network.eval()
    return descent.spent.minutes


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
    """On held-out crops: accuracy of colours and of shapes (shown or not), of the best shape of one, error of harm."""
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


def train_frames(network: FrameHeads, path: Path, recipe: dict[str, Any]) -> dict[str, float]:
    """Fits a frame network to crops; returns minutes and held-out figures."""
    world, cuts = World(size=128, frames=recipe["frames"], seed=recipe["seed"], split="train"), recipe["cuts"]
    batches = judge_data.Stream(judge_data.crops, world, recipe["batch"] // cuts, recipe["seed"], cuts=cuts)
    return {**fit(network, batches, frame_loss, path, recipe), **frame_figures(network, recipe["seed"])}


def train_vgg(recipe: dict[str, Any], path: Path) -> tuple[nn.Module, dict[str, float]]:
    """The content network."""
    network = FrameHeads(Vgg(), 64)
    return network.trunk, train_frames(network, path, recipe)


class Scaled(nn.Module):
    """The trunk of an `lpips.LPIPS` behind its own scaling of [0, 1] frames."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.scaling, self.net = model.scaling_layer, model.net.requires_grad_(True)

    def forward(self, frames: Tensor) -> Any:
        return self.net(self.scaling(2 * frames - 1))


def train_frametrunk(recipe: dict[str, Any], path: Path) -> tuple[nn.Module, dict[str, float]]:
    """The trunk of LPIPS, SqueezeNet 1.1 layout."""
    trunk = Scaled(measure.part("lpips").blank())
    figures = train_frames(FrameHeads(trunk, 512), path, recipe)
    return trunk.net, figures


def train_shapejudge(recipe: dict[str, Any], path: Path) -> tuple[nn.Module, dict[str, float]]:
    """The shape classifier, on crops of true last frames."""
    shape = measure.part("shape")
    network = shape.ShapeNet(len(SHAPES))
    crops, labels = shape_bank("train", recipe["clips"], recipe["seed"])
    batches = judge_data.ShapeBatches(crops, labels, recipe["batch"], recipe["seed"])

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(module(batch[0]), batch[1], label_smoothing=0.05)

    minutes = fit(network, batches, loss, path, recipe)
    held, answers = shape_bank("test", 2 * VALIDATION, recipe["seed"])
    with torch.no_grad():
        accuracy = float((network(held).argmax(1) == answers).float().mean())
    return network, {**minutes, "test_accuracy": round(accuracy, 4), "test_crops": len(held)}


def shape_bank(split: str, clips: int, seed: int) -> tuple[Tensor, Tensor]:
    """Crops `n 3 40 40` of unoccluded objects in true last frames, found as the metric finds them; labels `n`."""
    world, cut = World(size=128, frames=2, seed=seed, split=split), measure.part("shape").object_crops
    crops, labels = [], []
    for index in range(clips):
        watch.present().busy(f"cutting crops ({split})", index, clips)
        sample = world[index]
        things = [thing for thing in sample.factors["objects"] if not thing["occluded_last"]]
        found = cut(sample.video[-1:], [[thing["colour"] for thing in things]], COLOURS)[0]
        for thing, crop in zip(things, found, strict=True):
            if crop is not None:
                crops.append(crop)
                labels.append(SHAPES.index(thing["shape"]))
    return torch.stack(crops), torch.tensor(labels)


def clip_loss(network: nn.Module, batch: judge_data.Clip) -> Tensor:
    """Cross-entropies of what is shown, and of the shape and motion of what is shown."""
    shown, shape, motion = network(batch.videos)
    there = batch.colour > 0.5
    return (
        functional.binary_cross_entropy_with_logits(shown, batch.colour)
        + functional.cross_entropy(shape[there], batch.shape[there])
        + functional.cross_entropy(motion[there], batch.motion[there])
    )


def train_motionnet(recipe: dict[str, Any], path: Path) -> tuple[nn.Module, dict[str, float]]:
    """The network behind `fvd[motionnet]`."""
    module = measure.part("motionnet")
    network = module.MotionNet(len(COLOURS), len(SHAPES), len(MOTIONS))
    world = World(size=96, frames=module.FRAMES, seed=recipe["seed"], split="train")
    batches = judge_data.Stream(judge_data.clips, world, recipe["batch"], recipe["seed"], size=module.SIZE)
    minutes = fit(network, batches, clip_loss, path, recipe)
    unseen = World(size=96, frames=module.FRAMES, seed=recipe["seed"], split="val")
    held = judge_data.clips(unseen, 0, VALIDATION, recipe["seed"], module.SIZE)
    with torch.no_grad():
        shown, shape, motion = network(held.videos)
    there = held.colour > 0.5
    figures = {
        "val_shown": ((shown > 0) == there).float(),
        "val_shape": (shape.argmax(-1) == held.shape)[there].float(),
        "val_motion": (motion.argmax(-1) == held.motion)[there].float(),
    }
    return network, {**minutes, **{key: round(float(value.mean()), 4) for key, value in figures.items()}}


TRAINERS: dict[str, Callable[..., tuple[nn.Module, dict[str, float]]]] = {
    "vgg": train_vgg,
    "shapejudge": train_shapejudge,
    "motionnet": train_motionnet,
    "frametrunk": train_frametrunk,
}
SETTINGS = {name: {"seed", "steps", "batch", "rate"} for name in TRAINERS}
SETTINGS["vgg"] |= {"frames", "cuts"}
SETTINGS["frametrunk"] |= {"frames", "cuts"}
SETTINGS["shapejudge"] |= {"clips"}


def train(config: dict[str, Any], out: Path) -> dict[str, dict[str, Any]]:
    """Trains the networks that a study file asks for.

    Args:
        config: `{"networks": {name: {"seed", "steps", "batch", "rate", ...}}}`, names and settings as in SETTINGS.
        out: a folder; gets `name.safetensors` (float16) and an entry in `weights.json` for each, and while one is
            trained its checkpoint `name.pt`. A network that is there already under the same recipe is kept, so an
            interrupted training goes on where it was.

    Returns:
        name -> recipe and figures.

    Raises:
        ValueError: as `demand`, and for the checkpoint of another recipe.
    """
    demand(config)
    networks: Mapping[str, Any] = config["networks"]
    weights, watcher = measure.part("weights"), watch.present()
    results = {}
    for place, (name, recipe) in enumerate(networks.items(), 1):
        known = weights.finished(out, name)
        kept = known is not None and known["recipe"] == recipe
        watcher.part(name, place, len(networks), kept)
        if kept:
            results[name] = known
            continue
        torch.manual_seed(recipe["seed"])
        path = out / f"{name}.pt"
        network, figures = TRAINERS[name](recipe, path)
        results[name] = {"recipe": recipe, "device": "cpu", "figures": figures}
        watcher.note(f"{name}: {figures}  -> {weights.save(network, name, results[name], out)}")
        path.unlink(missing_ok=True)  # the weights are what counts now: under another recipe they are trained anew
    return results


def demand(config: Mapping[str, Any]) -> None:
    """Raise ValueError for networks that there are not, settings that they have not or lack, with the nearest names, values out of
    range, and a machine: judges are trained on the CPU, in float32."""
    networks = config.get("networks")
    if not isinstance(networks, Mapping) or not networks:
        raise ValueError("a training of judges has networks: {name: {seed, steps, batch, rate, ...}}")
    for key in config:
        if key not in ("kind", "networks"):
            raise ValueError(f"a training of judges has kind and networks, and no {quoted(key)}: it runs on the CPU, in float32")
    for name, recipe in networks.items():
        if name not in TRAINERS:
            raise ValueError(f"unknown network {quoted(name)}{suggestion(str(name), TRAINERS)}")
        known = SETTINGS[name]
        if not isinstance(recipe, Mapping):
            raise ValueError(f"{name}: its settings are a mapping of {', '.join(sorted(known))}, not {quoted(recipe)}")
        for key, value in recipe.items():
            if key not in known:
                raise ValueError(f"{name}: unknown setting {quoted(key)}{suggestion(str(key), sorted(known))}")
            number(f"{name}.{key}" if key != "seed" else key, value, 1e-3 if key == "rate" else 1)
        if missing := sorted(known - set(recipe)):
            raise ValueError(f"{name}: settings are missing: {', '.join(missing)}")
        if recipe.get("cuts", 1) > recipe["batch"]:
            raise ValueError(f"{name}: a clip gives {recipe['cuts']} crops, and a batch has {recipe['batch']}")
