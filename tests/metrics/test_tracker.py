"""Tracker, motions and ghosts: known drawings, the procedural world, and what must not be mistaken for motion."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from metrics import ghosting, motion_accuracy
from metrics.motion import STILL, TEMPLATES, UNSEEN, name_motion
from metrics.tracker import Track, colour_masks, track
from wanlab.data.procedural import COLOURS, MOTIONS, World

PALETTE = {"red": (0.9, 0.1, 0.1), "blue": (0.1, 0.2, 0.9)}


def striped_disc(centres: Tensor, radii: Tensor, angles: Tensor, size: int = 96) -> Tensor:
    """`1 f c h w`: a striped red disc on grey, at centres `f 2`, of radii `f` (widths), turned by `f`."""
    y, x = torch.meshgrid((torch.arange(size) + 0.5) / size, (torch.arange(size) + 0.5) / size, indexing="ij")
    frames = []
    for centre, radius, angle in zip(centres, radii, angles, strict=True):
        dx, dy = x - centre[0], y - centre[1]
        along = (dx * math.cos(float(angle)) + dy * math.sin(float(angle))) / radius
        tone = 0.7 + 0.3 * torch.sin(7 * along)
        inside = ((radius - (dx.square() + dy.square()).sqrt()) * size).clamp(0, 1)
        red = torch.tensor(PALETTE["red"])[:, None, None] * tone
        frames.append(0.5 * (1 - inside) + red * inside)
    return torch.stack(frames)[None]


def still_track(frames: int = 8) -> Track:
    nothing = torch.zeros(frames)
    return Track(torch.full((frames, 2), 0.5), nothing, nothing.clone(), torch.ones(frames, dtype=torch.bool))


def test_place_size_and_angle_of_a_known_drawing() -> None:
    t = torch.linspace(0, 1, 8)
    centres = torch.stack([0.3 + 0.4 * t, 0.6 - 0.2 * t], 1)
    radii, angles = 0.12 * 1.5**t, 1.6 * t
    found = track(striped_disc(centres, radii, angles), [["red"]], PALETTE)[0]["red"]
    assert found.seen.all()
    torch.testing.assert_close(found.centre, centres, rtol=0, atol=0.006)
    torch.testing.assert_close(found.log_radius - found.log_radius[0], (radii / radii[0]).log(), rtol=0, atol=0.05)
    torch.testing.assert_close(found.angle, angles, rtol=0, atol=0.2)


def test_masks_follow_hue_whatever_the_brightness() -> None:
    video = torch.full((1, 1, 3, 64, 64), 0.5)
    video[0, 0, :, :32] = torch.tensor(PALETTE["blue"])[:, None, None] * torch.linspace(0.4, 1, 64)
    masks = colour_masks(video, PALETTE)[0, 0]
    assert float(masks[1, 2:30].mean()) > 0.99 and float(masks[1, 34:].max()) == 0 and float(masks[0].max()) == 0


def test_every_motion_of_the_world_is_read() -> None:
    world = World(size=96, split="test", seed=11)
    clips = world.batch(range(48))
    accuracy = motion_accuracy(clips.video, clips.factors, COLOURS, MOTIONS)
    assert float(accuracy.mean()) >= 0.98
    named = {thing["motion"] for row in clips.factors for thing in row["objects"]}
    assert named == set(MOTIONS)


def clips_of(motion: str, count: int) -> tuple[Tensor, list[dict[str, Any]]]:
    world, kept = World(size=96, split="val", seed=5, max_objects=1), []
    index = 0
    while len(kept) < count:
        scene, _ = world.scene(index)
        if scene.things[0].motion == motion:
            kept.append(world[index])
        index += 1
    return torch.stack([sample.video for sample in kept]), [sample.factors for sample in kept]


@pytest.mark.parametrize("motion", ["left", "rotates", "circles", "grows"])
def test_a_frozen_clip_does_nothing(motion: str) -> None:
    video, factors = clips_of(motion, 4)
    still = video[:, :1].expand_as(video)
    assert motion_accuracy(still, factors, COLOURS, MOTIONS).tolist() == [0, 0, 0, 0]
    noisy = (still + 0.03 * torch.randn(still.shape)).clamp(0, 1)
    assert motion_accuracy(noisy, factors, COLOURS, MOTIONS).tolist() == [0, 0, 0, 0]


def test_a_copy_left_behind_is_not_an_orbit() -> None:
    """An object that jumps between two places (its old one not cleared) does not circle, and does not bounce."""
    video, factors = clips_of("circles", 4)
    flip = torch.tensor([0, 4, 0, 4, 0, 4, 0, 4])
    assert float(motion_accuracy(video[:, flip], factors, COLOURS, MOTIONS).sum()) == 0


def test_shuffled_frames_of_a_true_motion_are_none() -> None:
    order = torch.tensor([4, 1, 6, 3, 0, 7, 2, 5])
    for motion in ("left", "up", "grows", "rotates"):
        video, factors = clips_of(motion, 3)
        assert motion_accuracy(video[:, order], factors, COLOURS, MOTIONS).tolist() == [0, 0, 0]


def test_reversed_clips_turn_left_into_right_and_growing_into_shrinking() -> None:
    for motion, other in (("left", "right"), ("grows", "shrinks"), ("up", "down")):
        video, factors = clips_of(motion, 3)
        swapped = [{"objects": [{**row["objects"][0], "motion": other}]} for row in factors]
        assert motion_accuracy(video.flip(1), swapped, COLOURS, MOTIONS).tolist() == [1, 1, 1]


def test_a_wrong_colour_is_unseen_and_no_objects_is_nan() -> None:
    video, factors = clips_of("left", 1)
    shown = factors[0]["objects"][0]["colour"]
    other = next(name for name in COLOURS if name != shown)
    expected = [{"objects": [{"colour": other, "motion": "left"}]}]
    assert motion_accuracy(video, expected, COLOURS, MOTIONS).tolist() == [0]
    assert motion_accuracy(video, [{"objects": []}], COLOURS, MOTIONS).isnan().all()


def test_templates_on_exact_tracks() -> None:
    t = torch.linspace(0, 1, 8)
    assert name_motion(still_track(), MOTIONS) == STILL
    gone = still_track()._replace(seen=torch.arange(8) < 3)
    assert name_motion(gone, MOTIONS) == UNSEEN
    hop = still_track()
    hop.centre[:, 1] -= 0.18 * (math.pi * 1.6 * t).sin().abs()
    assert name_motion(hop, MOTIONS) == "bounces"
    orbit = still_track()
    orbit.centre.add_(0.12 * torch.stack([(5 * t).cos(), -(5 * t).sin()], 1))
    assert name_motion(orbit, MOTIONS) == "circles"
    assert name_motion(still_track()._replace(angle=-1.5 * t), MOTIONS) == "rotates"
    slow = still_track()
    slow.centre[:, 0] += 0.03 * t
    assert name_motion(slow, MOTIONS) == STILL


def moved_from(video: Tensor) -> Tensor:
    """`b 1 h w`: where the first frame shows its object and the last one does not."""
    masks = torch.nn.functional.interpolate(
        colour_masks(video[:, [0, -1]], COLOURS).sum(2), video.shape[-2:], mode="nearest"
    )
    return ((masks[:, 0] > 0.5) & (masks[:, 1] < 0.01))[:, None]


def test_a_ghost_shows_with_its_opacity_and_a_true_clip_has_none() -> None:
    video, factors = clips_of("left", 6)
    clean = ghosting(video, factors, COLOURS)
    assert float(clean.abs().max()) < 0.08
    weights = torch.linspace(0.1, 0.3, 3)
    added = []
    for weight in weights:
        haunted = video.clone()
        pale = weight * video[:, 0] + (1 - weight) * video[:, -1]
        haunted[:, -1] = torch.where(moved_from(video), pale, video[:, -1])
        added.append(float((ghosting(haunted, factors, COLOURS) - clean).mean()))
    assert added == pytest.approx(weights.tolist(), abs=0.08)
    still = video[:, :1].expand_as(video)
    assert ghosting(still, factors, COLOURS).isnan().all()  # it has left no ground
    assert ghosting(video[:1], [{"objects": []}], COLOURS).isnan().all()


def test_bad_palettes_colours_and_motions_are_named() -> None:
    video, _ = clips_of("left", 1)
    with pytest.raises(ValueError, match="too grey"):
        colour_masks(video, {"grey": (0.5, 0.5, 0.5)})
    with pytest.raises(ValueError, match="empty"):
        colour_masks(video, {})
    with pytest.raises(ValueError, match="unknown colour"):
        track(video, [["teal"]], PALETTE)
    with pytest.raises(ValueError, match="1 videos but 2 lists"):
        track(video, [[], []], PALETTE)
    with pytest.raises(ValueError, match=r"no template for motion.*teleports.*left"):
        name_motion(still_track(), ["teleports"])
    assert set(TEMPLATES) == set(MOTIONS)
