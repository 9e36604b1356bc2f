"""Layered motion: a moved layer is the frame moved, the flow is the one of the formula, what was never seen is said so."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wanlab.data.procedural import World
from wanlab.nn.layers import centres, compose, fill, positions

SIZE = 16


def frame(h: int = SIZE, w: int = SIZE) -> Tensor:
    """A frame of noise, so that no wrong pixel looks right."""
    return torch.rand(1, 3, h, w)


def square(side: int, left: int = 0, top: int = 0, h: int = SIZE, w: int = SIZE) -> Tensor:
    """Masks (1 2 h w) of the background and one square object."""
    masks = torch.zeros(1, 2, h, w)
    masks[:, 1, top : top + side, left : left + side] = 1
    masks[:, 0] = 1 - masks[:, 1]
    return masks


def motion(layers: int = 2, frames: int = 2, **last: float) -> Tensor:
    """No motion (1 f m 5) but for slot `layers - 1` of the last frame; objects lie in slot order, the last nearest."""
    out = torch.zeros(1, frames, layers, 5)
    out[..., 4] = torch.arange(layers)
    for name, value in last.items():
        out[:, -1, -1, ("dx", "dy", "log_scale", "angle", "depth").index(name)] = value
    return out


def test_no_motion_gives_the_frame_where_it_was_seen() -> None:
    image, masks = frame(), square(6, 4, 5)
    still = compose(image, masks, motion())
    assert torch.equal(still.aligned[:, 0], image) and bool((still.valid[:, 0] == 1).all())
    assert torch.allclose(still.aligned[:, 1] * still.valid[:, 1], image * still.valid[:, 1], atol=1e-4)
    assert still.valid[:, 1].mean() > 0.8
    assert torch.allclose(still.flow, torch.zeros(()), atol=1e-6)
    assert torch.allclose(still.owner[:, 1], masks, atol=1e-4)


def test_a_background_without_objects_needs_no_filling() -> None:
    image = frame()
    still = compose(image, torch.ones(1, 1, SIZE, SIZE), motion(1))
    assert torch.allclose(still.aligned[:, 1], image, atol=1e-4) and torch.allclose(still.valid, torch.ones(()), atol=1e-4)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (-2, 1), (0, -4)])
def test_whole_pixels_of_background_motion_are_a_roll(dx: int, dy: int) -> None:
    image = frame()
    moved = compose(image, torch.ones(1, 1, SIZE, SIZE), motion(1, dx=dx / SIZE, dy=dy / SIZE))
    rolled = torch.roll(image, (dy, dx), (-2, -1))
    inside = torch.zeros(SIZE, SIZE)
    inside[max(dy, 0) : SIZE + min(dy, 0), max(dx, 0) : SIZE + min(dx, 0)] = 1
    assert torch.allclose(moved.aligned[0, 1] * inside, rolled[0] * inside, atol=1e-4)
    assert torch.allclose(moved.valid[0, 1, 0], inside, atol=1e-4)
    assert torch.allclose(moved.flow[0, 1], torch.tensor([-dx, -dy])[:, None, None] / SIZE, atol=1e-5)


def test_whole_pixels_of_object_motion_carry_its_square_and_uncover_a_guess() -> None:
    image, masks = frame(), square(4, 3, 6)
    moved = compose(image, masks, motion(dx=6 / SIZE, dy=-2 / SIZE))
    assert torch.allclose(moved.aligned[0, 1, :, 4:8, 9:13], image[0, :, 6:10, 3:7], atol=1e-4)
    assert torch.allclose(moved.owner[0, 1, 1, 4:8, 9:13], torch.ones(()), atol=1e-4)
    assert moved.valid[0, 1, 0, 6:10, 3:7].max() < 1e-3


@pytest.mark.parametrize(("quarter", "turns"), [(1, -1), (-1, 1), (2, 2)])
def test_a_quarter_turn_is_rot90_and_positive_is_clockwise(quarter: int, turns: int) -> None:
    image, masks = frame(), square(8, 4, 4)
    moved = compose(image, masks, motion(angle=quarter * math.pi / 2))
    turned = torch.rot90(image[0, :, 4:12, 4:12], turns, (-2, -1))
    assert torch.allclose(moved.aligned[0, 1, :, 4:12, 4:12], turned, atol=1e-4)


def test_scale_and_turn_have_the_flow_of_the_formula() -> None:
    masks, (dx, dy), grow, angle = square(8, 2, 4), (0.2, 0.05), 0.2, 0.3
    moved = compose(frame(), masks, motion(dx=dx, dy=dy, log_scale=grow, angle=angle))
    centre = torch.tensor([6.0, 8.0]) / SIZE
    here = positions(SIZE, SIZE, torch.device("cpu"), torch.float32)
    away = here - centre - torch.tensor([dx, dy])
    back = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / math.exp(grow)
    flow = (centre + away @ back.T - here).permute(2, 0, 1)
    own = moved.owner[0, 1, 1] > 0.9999
    assert own.sum() > 50
    assert torch.allclose(moved.flow[0, 1][:, own], flow[:, own], atol=2e-4)


def test_an_object_of_twice_the_scale_covers_four_times_the_area() -> None:
    moved = compose(frame(), square(4, 6, 6), motion(log_scale=math.log(2)))
    assert moved.owner[0, 1, 1].sum() == pytest.approx(4 * 16, rel=0.02)


@pytest.mark.parametrize("near", [1, 2])
def test_the_nearer_object_covers_the_other(near: int) -> None:
    image = frame()
    masks = torch.zeros(1, 3, SIZE, SIZE)
    masks[:, 1, 6:10, 1:5], masks[:, 2, 6:10, 11:15] = 1, 1
    masks[:, 0] = 1 - masks[:, 1:].sum(1)
    path = motion(3)
    path[:, 1, 1, 0], path[:, 1, 2, 0] = 5 / SIZE, -5 / SIZE
    path[:, :, 1, 4], path[:, :, 2, 4] = (2, 1) if near == 1 else (1, 2)
    met = compose(image, masks, path)
    expected = image[0, :, 6:10, 1:5] if near == 1 else image[0, :, 6:10, 11:15]
    assert torch.allclose(met.aligned[0, 1, :, 6:10, 6:10], expected, atol=1e-4)
    assert torch.allclose(met.owner[0, 1, near, 6:10, 6:10], torch.ones(()), atol=1e-4)


def test_every_pixel_has_one_owner_in_all() -> None:
    masks = torch.softmax(torch.randn(2, 3, SIZE, SIZE), 1)
    made = compose(torch.rand(2, 3, SIZE, SIZE), masks, 0.3 * torch.randn(2, 4, 3, 5))
    assert torch.allclose(made.owner.sum(2), torch.ones(2, 4, SIZE, SIZE), atol=1e-5)
    assert made.owner.min() >= -1e-6 and made.valid.min() >= 0 and made.valid.max() <= 1 + 1e-5
    assert made.aligned.min() >= -1e-5 and made.aligned.max() <= 1 + 1e-5


def test_frames_may_be_wider_than_high() -> None:
    h, w = 12, 24
    image, masks = frame(h, w), square(4, 4, 4, h, w)
    moved = compose(image, masks, motion(dx=6 / w, dy=3 / w))
    assert torch.allclose(moved.aligned[0, 1, :, 7:11, 10:14], image[0, :, 4:8, 4:8], atol=1e-4)
    assert torch.allclose(centres(masks)[0, 1], torch.tensor([6 / w, 6 / w]), atol=1e-6)


def test_an_empty_layer_is_centred_in_the_middle() -> None:
    assert torch.allclose(centres(torch.zeros(1, 1, SIZE, SIZE))[0, 0], torch.tensor([0.5, 0.5]))


def test_filling_keeps_what_is_known_and_continues_it() -> None:
    image, known = frame(), torch.ones(1, 1, SIZE, SIZE)
    known[..., 5:11, 5:11] = 0
    assert torch.equal(fill(image, known) * known, image * known)
    plain = torch.full((1, 3, SIZE, SIZE), 0.25)
    assert torch.allclose(fill(plain * known, known), plain, atol=1e-5)


@pytest.mark.parametrize("index", range(4))
def test_the_worlds_own_motion_and_masks_draw_its_video(index: int) -> None:
    """A closed loop with the renderer: where the surface was seen in frame 0, its video comes back above 30 dB."""
    sample = World(size=128, max_objects=1)[index]
    made = compose(sample.video[None, 0], sample.masks[None, 0], sample.motion[None])
    seen = (made.valid[0] > 0.99).expand_as(sample.video)
    error = (made.aligned[0] - sample.video)[1:][seen[1:]].square().mean()
    assert -10 * math.log10(error) > 30
    assert seen.float().mean() > 0.6


def test_gradients_reach_motion_and_masks() -> None:
    masks, path = square(6, 5, 5).requires_grad_(), motion(dx=0.03).requires_grad_()
    compose(frame(), masks, path).aligned.square().sum().backward()
    assert torch.isfinite(path.grad).all() and path.grad[0, 1, 1, :4].abs().min() > 0  # type: ignore[index, union-attr]
    assert torch.isfinite(masks.grad).all()  # type: ignore[arg-type]


def test_what_does_not_fit_together_is_told() -> None:
    with pytest.raises(ValueError, match=r"frame is \(16, 16\) but masks are \(8, 16\)"):
        compose(frame(), torch.ones(1, 2, 8, 16), motion())
    with pytest.raises(ValueError, match="motion must be b f 2 5"):
        compose(frame(), square(4), motion(3))


def test_what_an_object_hid_is_inside_but_not_valid_and_beyond_the_border_is_neither() -> None:
    frame, masks = torch.rand(1, 3, 16, 16), torch.zeros(1, 2, 16, 16)
    masks[:, 1, 6:9, 6:9] = 1
    masks[:, 0] = 1 - masks[:, 1]
    motion = torch.zeros(1, 2, 2, 5)
    motion[:, 1, 0, 0] = 0.25                                                # the ground moves right by 4 pixels
    motion[:, 1, 1, 0] = 0.5                                                 # the object farther
    out = compose(frame, masks, motion)
    assert out.valid[0, 1, 0, 7, 11] == 0 and out.inside[0, 1, 0, 7, 11] == 1   # where the object stood, carried along
    assert out.valid[0, 1, 0, 2, 1] == 0 and out.inside[0, 1, 0, 2, 1] == 0     # what the ground's motion revealed
    assert (out.inside >= out.valid - 1e-6).all()
