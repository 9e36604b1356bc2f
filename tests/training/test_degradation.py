"""Degraded examples: what they hold, that they fit together, and that they depend on the generator alone."""

from __future__ import annotations

import pytest
import torch

from wanlab.data.clip import Clips
from wanlab.data.procedural import World
from wanlab.training.adversarial import bank
from wanlab.training.degradation import Truth, carried, clean, crop, degrade, reduce, shake, through_base, window


@pytest.fixture(scope="module")
def truth() -> Truth:
    return window(World(size=128).batch(range(4)), 0, 4)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


def test_a_clean_example_is_the_truth_at_both_sizes(truth) -> None:
    example = clean(truth, 128)
    assert example.video.shape == (4, 4, 3, 64, 64) and example.reference.shape == (4, 4, 3, 128, 128)
    assert torch.allclose(example.target, 2 * truth.video - 1)
    assert torch.allclose(example.video, reduce(example.target, 64), atol=1e-6)
    assert torch.allclose(example.reference[:, 0], example.target[:, 0], atol=1e-6)  # frame 0 is given
    assert example.valid[:, 0].min() == 1 and 0 <= example.valid.min() <= example.valid.max() <= 1.0001


def test_the_reference_comes_close_to_later_frames(truth) -> None:
    example = clean(truth, 128)
    still = example.target[:, :1].expand_as(example.target)
    seen = example.valid > 0.99
    error = ((example.reference - example.target).abs() * seen).mean()
    assert error < 0.6 * ((still - example.target).abs() * seen).mean()


def test_a_window_of_later_frames_has_its_own_motion() -> None:
    clips = World(size=64).batch(range(2))
    late = window(clips, 3, 2)
    everything, _ = carried(window(clips, 0, 8), late.masks, clips.motion, 64)
    part, _ = carried(late, late.masks, late.motion, 64)
    assert torch.allclose(part, everything[:, 3:5], atol=1e-6)


def test_the_same_generator_gives_the_same_example(truth) -> None:
    one, other, third = (degrade(truth, 64, seeded(seed)) for seed in (1, 1, 2))
    for name in ("video", "reference", "valid", "target"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(one.video, third.video)


def test_dropped_references_are_grey_and_nowhere_valid(truth) -> None:
    for seed in range(12):
        example = degrade(truth, 64, seeded(seed))
        dropped = example.valid.amax((2, 3, 4)) == 0
        assert (example.reference.abs().amax((2, 3, 4))[dropped] == 0).all()
        if dropped.any():
            return
    raise AssertionError("no reference was dropped in 12 batches")


def test_the_level_below_makes_the_input(truth) -> None:
    def grey(video, reference, valid):
        return torch.zeros_like(reference)

    assert degrade(truth, 128, seeded(), [grey]).video.abs().max() == 0
    assert degrade(truth, 128, seeded()).video.abs().max() > 0


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_level_enlarges_what_the_one_below_it_made(count: int) -> None:
    """Of any number: each is given twice the size of the one before, and its own reference."""
    clips, seen = World(size=64).batch(range(2)), []

    def level(number: int):
        def enlarge(video, reference, valid):
            seen.append((number, tuple(video.shape[-2:]), tuple(reference.shape[-2:])))
            return video.repeat_interleave(2, -1).repeat_interleave(2, -2) + 1

        return enlarge

    base = 64 >> count
    data = bank(Pool(clips), [level(number) for number in range(count)], seed=3)
    assert seen == [(n, (base << n,) * 2, (2 * base << n,) * 2) for n in range(count)]
    assert data.video.shape == (2, 8, 3, 64, 64) and data.reference.shape == data.video.shape
    below = degrade(window(clips, 0, 8, base), 64, seeded(), [level(n) for n in range(count - 1)])
    assert below.video.shape[-1] == 32 and below.target.shape[-1] == 64


class Pool:
    """Clips as a source of them."""

    def __init__(self, clips: Clips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, indices: list[int]) -> Clips:
        return self.clips


def test_errors_of_motion_spare_frame_0(truth) -> None:
    shaken = shake(truth.motion, True, seeded())
    assert torch.equal(shaken[:, 0], truth.motion[:, 0])
    assert not torch.equal(shaken[:, 1], truth.motion[:, 1])
    assert torch.equal(shaken[..., 4], truth.motion[..., 4])


def test_masks_through_the_base_still_sum_to_one(truth) -> None:
    masks = through_base(truth.masks, 64, power=0.7)
    assert masks.shape[-1] == 64 and torch.allclose(masks.sum(1), torch.ones(4, 64, 64), atol=1e-5)


def test_a_crop_cuts_the_same_place_out_of_all(truth) -> None:
    cut = crop(clean(truth, 128), 20, seeded())
    assert cut.video.shape[-1] == 20 and cut.valid.shape[-1] == cut.target.shape[-1] == 40
    assert torch.allclose(reduce(cut.target, 20), cut.video, atol=1e-6)


def test_clips_whose_motion_nobody_knows_carry_their_first_frame_nowhere() -> None:
    clips = World(size=64).batch([0])
    clips.motion = None
    opening, later = (clean(window(clips, start, 4), 64) for start in (0, 2))
    assert opening.valid[:, 0].eq(1).all() and torch.allclose(opening.reference[:, 0], opening.target[:, 0], atol=1e-6)
    assert not opening.valid[:, 1:].any() and not later.valid.any()
    assert not opening.reference[:, 1:].any() and not later.reference.any()      # mid grey: as without an image
