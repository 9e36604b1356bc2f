"""Layered motion: one still frame, cut into layers, moved and composited into every frame (Wang & Adelson 1994).

A layer (slot `m`) is a mask over frame 0 and, per frame, five numbers `(dx, dy, log_scale, angle, depth)`: displacement of the
layer's centre in units of the frame width (x right, y down), log of the scale ratio, rotation in radians (clockwise on screen)
and depth (nearer is larger). Slot 0 is the background; it lies behind all others.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

MOTION = ("dx", "dy", "log_scale", "angle", "depth")


class Composite(NamedTuple):
    """What `compose` returns; every field has the frames of `motion` and the size of `frame`."""

    aligned: Tensor  # b f c h w   frame 0 carried into every frame
    valid: Tensor    # b f 1 h w   1 where the surface was seen in frame 0, 0 where it was filled in
    inside: Tensor   # b f 1 h w   1 where it lies within frame 0, seen or behind an object there; 0 beyond the border
    flow: Tensor     # b f 2 h w   backward flow: position in frame 0 minus position here, in frame widths
    owner: Tensor    # b f m h w   which layer is seen, sums to 1 over m


class Scene(NamedTuple):
    """What `view` needs of a whole frame and its motion, however small the part that it shows."""

    frame: Tensor    # b c h w
    masks: Tensor    # b m h w
    ground: Tensor   # b c h w       the background, filled in where objects hide it
    known: Tensor    # b 2 h w       of the background: seen, inside the frame
    affine: Tensor   # b f m 2 3     from a place in a frame to the place in frame 0 that it came from
    depth: Tensor    # b f m


class Window(NamedTuple):
    """A part of a video: frames, rows and columns from a start up to, and without, a stop; all of it where nothing is said."""

    frames: slice = slice(None)
    rows: slice = slice(None)
    columns: slice = slice(None)


WHOLE = Window()


def compose(frame: Tensor, masks: Tensor, motion: Tensor) -> Composite:
    """Carry `frame` (b c h w) into every frame of `motion` (b f m 5); `masks` (b m h w) sum to 1 over the slots.

    Raises ValueError where the three do not fit together.
    """
    return view(scene(frame, masks, motion), WHOLE)


def scene(frame: Tensor, masks: Tensor, motion: Tensor) -> Scene:
    """What `compose` works out of the whole frame. Raises ValueError where the three do not fit together."""
    if _rounding(frame):
        with torch.autocast(frame.device.type, enabled=False):
            return scene(frame.float(), masks.float(), motion.float())
    _check(frame, masks, motion)
    affine = _affine(masks, motion)
    hole = _dilate(masks[:, 1:].sum(1, keepdim=True))                   # b 1 h w
    ground = fill(frame, 1 - hole)
    known = torch.cat([1 - hole, torch.ones_like(hole)], 1)             # b 2 h w: seen, inside
    return Scene(frame, masks, ground, known, affine, motion[..., 4])


def view(of: Scene, window: Window) -> Composite:
    """The part of a composite that lies in `window`; the same values, at the cost of that part."""
    if _rounding(of.frame):
        with torch.autocast(of.frame.device.type, enabled=False):
            return view(Scene(*(x.float() for x in of)), window)
    frames, rows, columns = window
    h, w = of.frame.shape[-2:]
    here = positions(h, w, of.frame.device, of.frame.dtype)[rows, columns]
    source = _sources(of.affine[:, frames], here)                       # b f m h w 2
    behind, known = _ground(of.ground, of.known, source[:, :, 0])       # b f c h w, b f 2 h w
    colour, alpha = _objects(of.frame, of.masks[:, 1:], source[:, :, 1:])   # b f m c h w, b f m h w
    owner = _visible(alpha, of.depth[:, frames, 1:])                    # b f m h w, background first

    aligned = owner[:, :, :1] * behind + (owner[:, :, 1:, None] * colour).sum(2)
    known = owner[:, :, :1] * known + owner[:, :, 1:].sum(2, keepdim=True)
    flow = torch.einsum("bfmhw,bfmhwt->bfhwt", owner, source) - here
    if not frames.start:                                                # frame 0 is given, and wholly seen
        aligned = torch.cat([of.frame[:, None, :, rows, columns], aligned[:, 1:]], 1)
        known = torch.cat([torch.ones_like(known[:, :1]), known[:, 1:]], 1)
    valid, inside = known.split(1, 2)
    return Composite(aligned, valid, inside, rearrange(flow, "b f h w two -> b f two h w"), owner)


def _rounding(x: Tensor) -> bool:
    """Whether autocast would round what is worked out beside x: eight bits are too few for a position."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def positions(h: int, w: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Pixel centres (h w 2) as (x, y) in units of the frame width."""
    y = (torch.arange(h, device=device, dtype=dtype) + 0.5) / w
    x = (torch.arange(w, device=device, dtype=dtype) + 0.5) / w
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([xx, yy], -1)


def centres(masks: Tensor) -> Tensor:
    """Centroid (b m 2) of each mask (b m h w) in frame widths; an empty mask has its centre in the middle."""
    here = positions(masks.shape[-2], masks.shape[-1], masks.device, masks.dtype)
    weight = masks.sum((-1, -2))[..., None]
    middle = here.mean((0, 1))
    return torch.where(weight > 1e-3, torch.einsum("bmhw,hwt->bmt", masks, here) / weight.clamp(min=1e-3), middle)


def fill(image: Tensor, known: Tensor) -> Tensor:
    """Fill the unknown part of `image` (b c h w) from the known (b 1 h w in [0, 1]) by pull-push pyramids (Gortler 1996)."""
    h, w = image.shape[-2:]
    if min(h, w) <= 2:
        mean = (image * known).sum((-1, -2), keepdim=True) / known.sum((-1, -2), keepdim=True).clamp(min=1e-4)
        return known * image + (1 - known) * mean
    weight = F.avg_pool2d(known, 2, ceil_mode=True, count_include_pad=False)
    coarse = F.avg_pool2d(image * known, 2, ceil_mode=True, count_include_pad=False) / weight.clamp(min=1e-4)
    coarse = fill(coarse, (weight * 4).clamp(max=1))
    return known * image + (1 - known) * F.interpolate(coarse, (h, w), mode="bilinear", align_corners=False)


def _affine(masks: Tensor, motion: Tensor) -> Tensor:
    centre = rearrange(centres(masks), "b m t -> b 1 m t")
    shift, log_scale, angle = motion[..., :2], motion[..., 2], motion[..., 3]
    cos, sin = torch.exp(-log_scale) * torch.cos(angle), torch.exp(-log_scale) * torch.sin(angle)
    turn = torch.stack([cos, sin, -sin, cos], -1).unflatten(-1, (2, 2))         # the inverse rotation and scale
    offset = centre - torch.einsum("bfmij,bfmj->bfmi", turn, centre + shift)
    return torch.cat([turn, offset[..., None]], -1)


def _sources(affine: Tensor, here: Tensor) -> Tensor:
    """Where each place (h w 2) of each frame came from in frame 0, per layer: b f m h w 2. One matrix product."""
    places = here.flatten(0, 1)
    source = torch.cat([places, torch.ones_like(places[:, :1])], -1) @ affine.flatten(0, 2).mT
    return source.unflatten(0, affine.shape[:3]).unflatten(3, here.shape[:2])


def _ground(ground: Tensor, known: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    colour, seen = _sample(ground, source, "border"), _sample(known, source, "zeros")
    return rearrange(colour, "b c f h w -> b f c h w"), rearrange(seen, "b c f h w -> b f c h w")


def _objects(frame: Tensor, masks: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    m = masks.shape[1]
    layers = torch.cat([repeat(frame, "b c h w -> b m c h w", m=m), masks[:, :, None]], 2)
    moved = _sample(rearrange(layers, "b m c h w -> (b m) c h w"), rearrange(source, "b f m h w t -> (b m) f h w t"), "zeros")
    moved = rearrange(moved, "(b m) c f h w -> b f m c h w", b=len(frame), m=m)
    return moved[:, :, :, :-1], moved[:, :, :, -1]


def _visible(alpha: Tensor, depth: Tensor) -> Tensor:
    """What each layer shows after those nearer than it: background first, then the objects in slot order."""
    nearest = depth.argsort(dim=2, descending=True, stable=True)          # b f m
    index = nearest[..., None, None].expand_as(alpha)
    ordered = alpha.gather(2, index)
    through = torch.cumprod(F.pad(1 - ordered, (0, 0, 0, 0, 1, 0), value=1.0), 2)       # what the layers before leave over
    shown = ordered * through[:, :, :-1]
    return torch.cat([through[:, :, -1:], torch.zeros_like(alpha).scatter(2, index, shown)], 2)


def _sample(image: Tensor, source: Tensor, padding: str) -> Tensor:
    """Bilinear look-up in b c h w at positions (b f h w 2) in frame widths: b c f h w. The frames lie one below the other."""
    h, w = image.shape[-2:]
    scale = torch.tensor([2.0, 2.0 * w / h], device=image.device, dtype=image.dtype)
    grid = torch.addcmul(-torch.ones_like(scale), source, scale)        # -1 to 1 over the frame
    found = F.grid_sample(image, grid.flatten(1, 2), mode="bilinear", padding_mode=padding, align_corners=False)
    return found.unflatten(2, source.shape[1:3])


def _dilate(mask: Tensor) -> Tensor:
    """Harden a mask and grow it by a 25th of the frame, so that soft object edges leave no ghost in the filled background."""
    kernel = 2 * max(1, round(mask.shape[-1] / 25)) + 1
    return F.max_pool2d((4 * mask).clamp(0, 1), kernel, stride=1, padding=kernel // 2)


def _check(frame: Tensor, masks: Tensor, motion: Tensor) -> None:
    if frame.shape[-2:] != masks.shape[-2:]:
        raise ValueError(f"frame is {tuple(frame.shape[-2:])} but masks are {tuple(masks.shape[-2:])}")
    if motion.shape[-1] != len(MOTION) or motion.shape[2] != masks.shape[1]:
        raise ValueError(f"motion must be b f {masks.shape[1]} {len(MOTION)} {MOTION}, got {tuple(motion.shape)}")
