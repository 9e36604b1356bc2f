"""What an object does, named from its track by the nearest of nine simple motions, without weights.

Each motion is a template with free parameters (speed, radius, phase), fitted to place, size and angle by least squares
with capped residuals (a frame in which the object is half hidden may be wrong). A template counts only if its
amplitude is at least about half that of a slow true motion and it explains at least half of the variance of what it
moves (shuffled frames of a true motion do not); if none does, the object is still. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .tracker import Palette, Track, track

STILL, UNSEEN = "still", "unseen"


@dataclass(frozen=True)
class Rules:
    """Scales and least amplitudes of the templates.

    place, size, angle: one standard residual of each channel (widths, log, radians); cap: largest squared standard
    residual of a frame; travel, orbit, hop (widths), growth (log), turn (radians): least amplitudes over the clip;
    explained: least share of the variance that a template explains; turns, hops: how often a circling object goes round
    and a bouncing one hops, at least and at most.
    """

    place: float = 0.015
    size: float = 0.08
    angle: float = 0.25
    cap: float = 16.0
    travel: float = 0.10
    orbit: float = 0.06
    hop: float = 0.09
    growth: float = 0.14
    turn: float = 0.60
    explained: float = 0.5
    turns: tuple[float, float] = (0.55, 1.35)
    hops: tuple[float, float] = (1.0, 2.4)


class Fit:
    """A track prepared for fitting: channels x, y, log radius, angle `f 4` in units of their standard residual."""

    def __init__(self, found: Track, rules: Rules) -> None:
        self.rules = rules
        frames = len(found.seen)
        self.time = torch.linspace(0, 1, frames, dtype=torch.float64)
        self.scale = torch.tensor([rules.place, rules.place, rules.size, rules.angle], dtype=torch.float64)
        channels = torch.cat([found.centre, found.log_radius[:, None], found.angle[:, None]], 1)
        self.values = channels.double() / self.scale
        self.seen = found.seen

    def cost(self, predicted: Tensor) -> Tensor:
        """Mean capped squared residual over seen frames of fits `... f 4`, the channel offsets refitted as medians."""
        rest = (self.values - predicted)[..., self.seen, :]
        rest = rest - rest.median(-2, keepdim=True).values
        return rest.square().clamp_max(self.rules.cap).sum(-1).mean(-1)

    def explained(self, predicted: Tensor) -> Tensor:
        """Share of the variance that fits `... f 4` explain over seen frames, in the channels that they move: `...`."""
        moved = (predicted.abs().amax(-2, keepdim=True) > 0).to(self.values)
        rest, total = ((part * moved)[..., self.seen, :] for part in (self.values - predicted, self.values))
        rest, total = (part - part.mean(-2, keepdim=True) for part in (rest, total))
        return 1 - rest.square().sum((-2, -1)) / total.square().sum((-2, -1)).clamp_min(1e-9)

    def along(self, channel: int, shapes: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitudes `g` (own units) of shapes `g f` on one channel, and the fits: least squares, outliers left out."""
        target = self.values[:, channel]
        weight = self.seen.double().expand(shapes.shape)
        for _ in range(2):
            total = weight.sum(-1, keepdim=True)
            s = shapes - (weight * shapes).sum(-1, keepdim=True) / total
            v = target - (weight * target).sum(-1, keepdim=True) / total
            amplitude = (weight * s * v).sum(-1) / (weight * s.square()).sum(-1).clamp_min(1e-9)
            rest = target - amplitude[..., None] * shapes
            rest = (rest - rest[..., self.seen].median(-1, keepdim=True).values).abs()
            limit = 3 * rest[..., self.seen].median(-1, keepdim=True).values + 1
            weight = self.seen.double() * (rest <= limit)
        predicted = self.values.new_zeros(*shapes.shape, 4)
        predicted[..., channel] = amplitude[..., None] * shapes
        return amplitude * float(self.scale[channel]), predicted


Candidate = Callable[[Fit], float]  # cost, infinite when the amplitude is too small


def cheapest(fit: Fit, predicted: Tensor, large_enough: Tensor) -> float:
    """The least cost among the fits `g f 4` of sufficient amplitude that explain enough; infinite if there is none."""
    counts = large_enough & (fit.explained(predicted) >= fit.rules.explained)
    return float(torch.where(counts, fit.cost(predicted), math.inf).min())


def straight(channel: int, sign: int, least: str) -> Candidate:
    """Steady change of one channel in one direction."""

    def cost(fit: Fit) -> float:
        amplitude, predicted = fit.along(channel, fit.time[None])
        return cheapest(fit, predicted, sign * amplitude >= getattr(fit.rules, least))

    return cost


def rotates(fit: Fit) -> float:
    """Steady turning in either sense."""
    amplitude, predicted = fit.along(3, fit.time[None])
    return cheapest(fit, predicted, amplitude.abs() >= fit.rules.turn)


def bounces(fit: Fit) -> float:
    """Hops: y = -A |sin(pi H t)|, H on a grid."""
    hops = torch.linspace(*fit.rules.hops, 29, dtype=torch.float64)[:, None]
    amplitude, predicted = fit.along(1, -(math.pi * hops * fit.time).sin().abs())
    return cheapest(fit, predicted, amplitude >= fit.rules.hop)


def circles(fit: Fit) -> float:
    """An orbit of free centre, radius and phase, its pace and sense on a grid."""
    pace = torch.linspace(*fit.rules.turns, 33, dtype=torch.float64)
    turned = 2 * math.pi * torch.cat([pace, -pace])[:, None] * fit.time  # g f
    cos, sin = turned.cos(), turned.sin()
    design = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # g f (x y) 2
    seen, place = design[:, fit.seen], fit.values[fit.seen, :2]
    a = (seen - seen.mean(1, keepdim=True)).flatten(1, 2)
    b = (place - place.mean(0)).flatten()
    weights = torch.linalg.solve(a.mT @ a + 1e-9 * torch.eye(2, dtype=a.dtype), (a.mT @ b)[..., None])  # g 2 1
    predicted = fit.values.new_zeros(*turned.shape, 4)
    predicted[..., :2] = (design @ weights[:, None])[..., 0]
    return cheapest(fit, predicted, weights.norm(dim=(1, 2)) * fit.rules.place >= fit.rules.orbit)


TEMPLATES: Mapping[str, Candidate] = {
    "left": straight(0, -1, "travel"),
    "right": straight(0, 1, "travel"),
    "up": straight(1, -1, "travel"),
    "down": straight(1, 1, "travel"),
    "grows": straight(2, 1, "growth"),
    "shrinks": straight(2, -1, "growth"),
    "rotates": rotates,
    "circles": circles,
    "bounces": bounces,
}


def name_motion(found: Track, motions: Sequence[str], rules: Rules | None = None) -> str:
    """The motion of a track: one of `motions`, or "still", or "unseen" (visible in fewer than 5 of 8 frames).

    Raises:
        ValueError: a motion that has no template; the message lists those that have.
    """
    unknown = [name for name in motions if name not in TEMPLATES]
    if unknown:
        raise ValueError(f"no template for motion(s) {', '.join(unknown)}; there are {', '.join(TEMPLATES)}")
    if float(found.seen.float().mean()) < 0.6 or int(found.seen.sum()) < 3:
        return UNSEEN
    fit = Fit(found, rules or Rules())
    costs = {name: TEMPLATES[name](fit) for name in motions}
    best = min(costs, key=lambda name: costs[name])
    return best if math.isfinite(costs[best]) else STILL


def named_motions(
    video: Tensor,
    colours: Sequence[Sequence[str]],
    palette: Palette,
    motions: Sequence[str],
    rules: Rules | None = None,
) -> list[dict[str, str]]:
    """For each sample, colour -> the motion seen. `video` is `b f c h w` in [0, 1]; see `track` for the rest."""
    return [
        {name: name_motion(found, motions, rules) for name, found in row.items()}
        for row in track(video, colours, palette)
    ]


def motion_accuracy(
    video: Tensor,
    factors: Sequence[Mapping[str, Any]],
    palette: Palette,
    motions: Sequence[str],
    rules: Rules | None = None,
) -> Tensor:
    """Share of each sample's objects that do what they should: `b` in [0, 1]; chance is about 1 / len(motions).

    Args:
        video: `b f c h w` in [0, 1].
        factors: per sample `{"objects": [{"colour": ..., "motion": ...}, ...]}`; no objects give NaN.
        palette: name -> (r, g, b) of all colours of the world.
        motions: all names of motions that may be answered.
        rules: scales of the templates; None = `Rules()`.
    """
    colours = [[str(thing["colour"]) for thing in row["objects"]] for row in factors]
    found = named_motions(video, colours, palette, motions, rules)
    values = []
    for row, seen in zip(factors, found, strict=True):
        right = [float(seen[str(thing["colour"])] == thing["motion"]) for thing in row["objects"]]
        values.append(sum(right) / len(right) if right else math.nan)
    return torch.tensor(values)
