"""The world with known truth: what a user of World, Sample and Clips would observe."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.data.clip import Clips
from wanlab.data.draw import DRIFT, SPEEDS
from wanlab.data.procedural import COLOURS, MOTIONS, SHAPES, SPLITS, Sample, World
from wanlab.data.scene import SLOTS, Scene, factors, held_out


def scenes(world: World, count: int) -> list[Scene]:
    return [world.scene(index)[0] for index in range(count)]


def grid(size: int) -> Tensor:
    """`h w 2`: pixel centres (x, y), fractions of the width."""
    line = (torch.arange(size) + 0.5) / size
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)


def warped(images: Tensor, flow: Tensor) -> Tensor:
    """`b c h w` read at pixel + flow `b 2 h w` (fractions of the width)."""
    places = grid(images.shape[-1]) + flow.permute(0, 2, 3, 1)
    return F.grid_sample(images, places * 2 - 1, mode="bicubic", align_corners=False)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean()))


def unhidden(sample: Sample) -> list[int]:
    """Slots whose object is wholly visible in the last frame."""
    return [slot for slot, thing in enumerate(sample.factors["objects"], 1) if thing["visible_last"] > 0.999]


def test_same_arguments_same_clip_and_any_other_argument_another() -> None:
    a, b = World(size=32, seed=3)[7], World(size=32, seed=3)[7]
    assert torch.equal(a.video, b.video)
    assert (a.caption, a.factors) == (b.caption, b.factors)
    others = [World(size=32, seed=4)[7], World(size=32, seed=3)[8], World(size=32, seed=3, split="val")[7]]
    assert all(not torch.equal(a.video, other.video) for other in others)


def test_order_and_company_do_not_matter() -> None:
    world = World(size=32)
    alone = world[5].video
    assert torch.equal(world.batch([9, 5]).video[1], alone)


@pytest.mark.parametrize(("size", "frames"), [(8, 1), (33, 3), (64, 8), (128, 17)])
def test_any_size_and_length(size: int, frames: int) -> None:
    sample = World(size=size, frames=frames)[0]
    assert sample.video.shape == (frames, 3, size, size)
    assert sample.video.dtype == torch.float32
    assert 0 <= sample.video.min() < sample.video.max() <= 1
    assert sample.masks.shape == (frames, SLOTS, size, size)
    assert sample.tracks.shape == (frames, SLOTS, 2)
    assert sample.motion.shape == (frames, SLOTS, 5)
    assert sample.flow.shape == (frames, 2, size, size)
    assert sample.flow_pairs.shape == (frames - 1, 2, size, size)
    assert sample.occlusion.shape == (frames - 1, size, size)
    assert sample.occlusion.dtype == torch.bool


def test_size_changes_only_the_resolution() -> None:
    for index in range(6):
        small, large = World(size=32, seed=1)[index], World(size=128, seed=1)[index]
        assert small.caption == large.caption
        assert small.factors == large.factors
        assert torch.equal(small.motion, large.motion)
        assert psnr(F.avg_pool2d(large.video, 4), small.video) > 32


def test_frame_count_changes_only_how_finely_a_motion_is_seen() -> None:
    few, many = World(size=32, frames=8, seed=2)[4], World(size=32, frames=15, seed=2)[4]
    torch.testing.assert_close(few.video, many.video[::2], atol=1e-4, rtol=0)


def test_background_is_averaged_over_pixels_exactly() -> None:
    """Where no object is, a small picture is the mean of a large one to rounding, the finest grain included."""
    small, large = World(size=32)[0], World(size=256)[0]
    empty = (F.avg_pool2d(large.masks[:, :1], 8) == 1) & (small.masks[:, :1] == 1)
    clipped = F.max_pool2d(((large.video <= 0) | (large.video >= 1)).float(), 8) > 0
    gap = (F.avg_pool2d(large.video, 8) - small.video).abs()[empty & ~clipped]
    assert len(gap) > 1000
    assert float(gap.max()) < 1e-5


def test_masks_sum_to_one_and_empty_slots_are_empty() -> None:
    for index in range(8):
        sample = World(size=48)[index]
        torch.testing.assert_close(sample.masks.sum(1), torch.ones_like(sample.masks[:, 0]))
        assert sample.masks.min() >= 0
        for slot in range(len(sample.factors["objects"]) + 1, SLOTS):
            assert not sample.masks[:, slot].any()
            assert not sample.motion[:, slot].any()


def test_tracks_are_the_centres_of_the_masks() -> None:
    checked = 0
    for index in range(30):
        sample = World(size=96, split="test")[index]
        for slot in unhidden(sample):
            mask = sample.masks[-1, slot]
            centre = (grid(96) * mask[..., None]).sum((0, 1)) / mask.sum()
            assert float((centre - sample.tracks[-1, slot]).abs().max()) < 0.05 / 96
            checked += 1
    assert checked > 15


def test_motion_is_relative_to_the_first_frame() -> None:
    clips = World(size=16).batch(range(20))
    assert clips.motion is not None
    assert clips.tracks is not None
    assert not clips.motion[:, 0, :, :4].any()
    torch.testing.assert_close(clips.tracks - clips.tracks[:, :1], clips.motion[..., :2])


def test_objects_are_whole_and_apart_at_the_start() -> None:
    world = World(split="test")
    for scene in scenes(world, 300):
        for index in range(len(scene.things)):
            assert scene.visible(index, scene.motion(2)[0]) > 0.93


def test_objects_leave_the_frame_by_about_a_third_at_most() -> None:
    lone = [scene for scene in scenes(World(seed=5), 600) if len(scene.things) == 1]
    shares = [min(scene.visible(0, motion) for motion in scene.motion(8)) for scene in lone]
    assert min(shares) > 0.6


def test_flow_carries_each_frame_onto_the_next() -> None:
    for index in range(12):
        sample = World(size=128, split="val")[index]
        there, seen = warped(sample.video[1:], sample.flow_pairs), ~sample.occlusion[:, None].expand(-1, 3, -1, -1)
        assert psnr(there[seen], sample.video[:-1][seen]) > 28
        # Pixels that one surface fills in both frames: only the resampling of the finest grain is left.
        inner = (warped(sample.masks[1:].amax(1, keepdim=True), sample.flow_pairs) > 0.99) & seen
        inner &= sample.masks[:-1].amax(1, keepdim=True) > 0.99
        assert psnr(there[inner], sample.video[:-1][inner]) > 31


def test_flow_to_the_first_frame_agrees_with_the_motion() -> None:
    sample = World(size=64, split="val", max_objects=1)[3]
    torch.testing.assert_close(sample.flow[0], torch.zeros_like(sample.flow[0]), atol=1e-6, rtol=0)
    empty = sample.masks[-1, 0] > 0.999
    drift = -sample.motion[-1, 0, :2]
    expected = drift[:, None].expand(-1, int(empty.sum()))
    torch.testing.assert_close(sample.flow[-1][:, empty], expected, atol=1e-6, rtol=0)


def test_occlusion_is_where_surfaces_vanish() -> None:
    """A pixel of one layer that the next frame does not show at the place where the flow puts it; nowhere else."""
    sample = World(size=96, split="test")[2]  # a triangle passes behind a circle
    moved = warped(sample.masks[1:], sample.flow_pairs)
    owners = sample.masks[:-1] > 0.999
    lost = ((moved * owners).sum(1) < 0.01) & owners.any(1)
    kept = ((moved * owners).sum(1) > 0.99) & owners.any(1)
    inside = ((grid(96) + sample.flow_pairs.permute(0, 2, 3, 1)) - 0.5).abs().amax(-1) < 0.48
    assert lost[inside].sum() > 20
    assert sample.occlusion[lost & inside].all()
    assert not sample.occlusion[kept & inside].any()


def test_nearer_objects_cover_farther_ones() -> None:
    for index in range(60):
        sample = World(size=48, split="test")[index]
        assert sample.depth[0] == 0
        if len(sample.factors["objects"]) == 2:
            near = int(sample.depth.argmax())
            scene, motion = sample.scene, sample.scene.motion(8)[-1]
            outside = any(not 0.2 < value < 0.8 for value in sample.tracks[-1, near].tolist())
            assert outside or scene.visible(near - 1, motion) > 0.6
            return
    pytest.fail("no clip with two objects in 60")


def test_occluded_last_follows_what_is_visible() -> None:
    things = [thing for scene in scenes(World(seed=9), 200) for thing in factors(scene)["objects"]]
    assert {thing["occluded_last"] for thing in things} == {True, False}
    assert all(thing["occluded_last"] == (thing["visible_last"] < 0.9) for thing in things)


def test_visible_share_agrees_with_the_mask() -> None:
    for index in range(20):
        sample = World(size=128, split="test", max_objects=1)[index]
        thing = sample.factors["objects"][0]
        whole = sample.masks[0, 1].sum() * torch.exp(2 * sample.motion[-1, 1, 2])
        assert float(sample.masks[-1, 1].sum() / whole) == pytest.approx(thing["visible_last"], abs=0.05)


def test_training_never_shows_a_held_out_combination_but_shows_every_pair() -> None:
    keys = list(itertools.product(SHAPES, COLOURS, MOTIONS))
    shown = {key for key in keys if not held_out(*key)}
    for first, second in itertools.combinations(range(3), 2):
        assert {(key[first], key[second]) for key in shown} == {(key[first], key[second]) for key in keys}
    for split in ("train", "val"):
        things = [thing for scene in scenes(World(split=split), 400) for thing in scene.things]
        assert not any(held_out(thing.shape, thing.colour, thing.motion) for thing in things)
    tested = [factors(scene)["held_out"] for scene in scenes(World(split="test"), 400)]
    assert 0.05 < np.mean(tested) < 0.25


def test_splits_and_seeds_share_no_clip() -> None:
    starts = [scene.things[0].start for split in SPLITS for scene in scenes(World(split=split), 50)]
    starts += [scene.things[0].start for scene in scenes(World(seed=1), 50)]
    assert len(set(starts)) == len(starts)


def test_start_size_and_speed_do_not_betray_the_motion() -> None:
    """A linear fit of the motion to what frame 0 shows (and to the speed) scores as with shuffled labels."""
    things, labels = [], []
    for scene in scenes(World(seed=11), 2500):
        for thing in scene.things:
            x, y = np.asarray(thing.start) - 0.5
            shown = [1, x, y, x * x, y * y, x * y, thing.radius, thing.tilt, thing.depth, len(scene.things)]
            things.append([*shown, scene.speed])
            labels.append(MOTIONS.index(thing.motion))
    features, targets = np.asarray(things), np.eye(len(MOTIONS))[labels]

    def fit(wanted: np.ndarray) -> float:
        solution, *_ = np.linalg.lstsq(features, wanted, rcond=None)
        return float(((features @ solution).argmax(1) == wanted.argmax(1)).mean())

    rng = np.random.default_rng(0)
    shuffled = [fit(targets[rng.permutation(len(targets))]) for _ in range(20)]
    assert fit(targets) < max(shuffled) + 0.01


def test_latents_fill_their_ranges() -> None:
    drawn = scenes(World(seed=13), 600)
    speeds, drifts = np.array([s.speed for s in drawn]), np.array([s.drift for s in drawn])
    assert SPEEDS[0] <= speeds.min() < 0.75
    assert 1.35 < speeds.max() <= SPEEDS[1]
    lengths = np.linalg.norm(drifts, axis=1)
    assert 0.93 * DRIFT < lengths.max() <= DRIFT
    assert np.abs(drifts.mean(0)).max() < 0.03
    pairs = np.mean([len(s.things) == 2 for s in drawn])
    assert 0.24 < pairs < 0.36
    assert all(s.things[0].colour != s.things[-1].colour for s in drawn if len(s.things) == 2)


def test_the_first_frame_shows_where_the_wind_blows() -> None:
    clips = World(size=32, seed=13).batch(range(96))
    warmth = (clips.first[:, 0] - clips.first[:, 2]).numpy()
    bare = clips.first_masks[:, 0].numpy() > 0.99
    y, x = np.mgrid[-0.5:0.5:32j, -0.5:0.5:32j]
    plane = np.stack([np.ones_like(x), x, y], -1)
    slopes = np.stack([np.linalg.lstsq(plane[b], w[b], rcond=None)[0][1:] for w, b in zip(warmth, bare, strict=True)])
    drifts = np.array([row["drift"] for row in clips.factors])
    scale = (slopes * drifts).sum() / (slopes**2).sum()
    assert ((scale * slopes - drifts) ** 2).sum() < 0.01 * (drifts**2).sum()


def test_every_object_moves() -> None:
    for scene in scenes(World(seed=15), 200):
        motion = scene.motion(8)
        for slot in range(1, len(scene.things) + 1):
            assert np.abs(motion[:, slot, :4]).max() > 0.1


def test_one_object_when_asked() -> None:
    assert all(len(scene.things) == 1 for scene in scenes(World(max_objects=1), 60))


@pytest.mark.parametrize(
    "arguments", [{"size": 4}, {"frames": 0}, {"seed": -1}, {"split": "dev"}, {"max_objects": 3}], ids=str
)
def test_impossible_worlds_say_why(arguments: dict[str, object]) -> None:
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}.*{value}"):
        World(**arguments)  # type: ignore[arg-type]


def test_no_negative_index() -> None:
    with pytest.raises(IndexError, match="start at 0"):
        World()[-1]


def test_batch_stacks_and_truth_is_asked_for() -> None:
    world = World(size=16)
    clips = world.batch([0, 3])
    assert isinstance(clips, Clips)
    assert clips.flow is None
    assert clips.captions == [world[0].caption, world[3].caption]
    full = world.batch([0, 3], truth=True)
    assert full.flow_pairs is not None
    assert torch.equal(full.flow_pairs[1], world[3].flow_pairs)
    with pytest.raises(ValueError, match="no indices"):
        world.batch([])
