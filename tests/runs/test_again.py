"""A sample of a study can be made again by hand, as docs/studies.md says."""

from __future__ import annotations

import pytest
import torch

from tests.runs.toy import Toy, bench
from wanlab.runs.plan import Task, noise_seed


@pytest.mark.parametrize(("batch", "within"), [(1, 0.0), (2, 1e-5)])
def test_a_sample_is_made_again_by_its_seed(pipe: Toy, batch: int, within: float) -> None:
    work = bench(f"batch={batch}", pipe=pipe)
    (chunk,) = [one for one in work.plan.chunks if one.seed == 1 and 3 in one.indices]
    for cell, edits in (("baseline", []), ("text", pipe.ablate("text"))):
        made = work.generate(Task(cell, chunk.number))
        sampler = work.plan.cells[cell].sampler
        images, prompts = work.source.clips(chunk.indices).first, work.source.prompts(chunk.indices)
        row = chunk.indices.index(3)
        again = pipe.generate(images[row], prompts[row], seed=noise_seed(1, 3), steps=sampler.steps, edits=edits).video[0]
        torch.testing.assert_close(again, made[row], rtol=0, atol=within)
        seeds = [noise_seed(1, index) for index in chunk.indices]
        whole = pipe.generate(images, prompts, seed=seeds, steps=sampler.steps, edits=edits)
        assert torch.equal(whole.video, made)


def test_every_row_has_noise_of_its_own() -> None:
    seeds = [seed for chunk in bench().plan.chunks for seed in chunk.noise_seeds]
    assert sorted(seeds) == sorted(1_000_000 * seed + index for seed in (0, 1) for index in range(5))
