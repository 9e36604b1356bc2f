"""Features against captured values; what is drawn is the same in any batch, and what follows does not run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.pipelines.conftest import folder, pipe  # noqa: F401
from wanlab.analysis import cells, features
from wanlab.analysis.features import FeatureError
from wanlab.core import BudgetError, Zero

SITES = "{text.out,fusion.out,generator.mid.resid_post,generator.mid.temporal.attn.z,generator.down.0.grid}"
IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def asked(pipe: Any, *rows: int) -> Any:  # noqa: F811
    prompts = [f"a {('red', 'green', 'blue')[row]} circle moves left" for row in rows]
    return pipe.request(IMAGES[list(rows)], prompts, list(rows), steps=3)


@pytest.fixture(scope="module")
def record(pipe: Any) -> Any:  # noqa: F811
    """All values of one run of three rows."""
    return cells.generate(pipe, asked(pipe, 0, 1, 2), capture=[f"{site}@branch=cond" for site in SITES[1:-1].split(",")]).record


def whole(record: Any, site: str, step: int | None) -> torch.Tensor:
    """Captured values, rows first, features last."""
    entry = record[site, step, "cond"]
    order = [axis for axis in ("b", "f", "h", "w", "n", "j", "k", "c", "d") if axis in entry.axes]
    return entry.tensor.permute([entry.axes.index(axis) for axis in order])


def test_rows_stand_where_they_are_said_to_and_are_the_same_in_any_batch(pipe: Any, record: Any) -> None:  # noqa: F811
    blocks = features.gather(features.stream(pipe, [asked(pipe, 0, 1, 2)], SITES, rows=5, steps=[0, 2]))
    together = {block.key: block for block in blocks}
    apart = features.gather(features.stream(pipe, (asked(pipe, *rows) for rows in ([0], [1, 2])), SITES, rows=5, steps=[0, 2]))
    assert len(together) == 1 + 4 * 2 and [block.key for block in apart] == list(together)
    for block in apart:
        same = together[block.key]
        assert block.values.shape == (15, block.values.shape[1]) and torch.allclose(block.values, same.values, atol=1e-5)
        assert all(np.array_equal(block.places[name], same.places[name]) for name in features.COLUMNS)
        assert block.places["sample"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
        values = whole(record, block.site, block.step)
        axes = ("frame", "h", "w") if block.site.endswith("grid") else ("frame", "token", "head")
        names = [name for name in axes if (block.places[name] >= 0).all()]
        at = tuple(torch.from_numpy(block.places[name]) for name in ("sample", *names))
        assert torch.allclose(block.values, values[at], atol=1e-5)
    other = next(features.stream(pipe, [asked(pipe, 0, 1, 2)], SITES, rows=5, steps=[0], seed=1))
    assert not np.array_equal(other.places["token"], together[other.key].places["token"]), "another seed, other rows"


def test_tokens_know_their_place_on_the_grid(pipe: Any) -> None:  # noqa: F811
    block = next(features.stream(pipe, [asked(pipe, 0)], "generator.mid.resid_post", rows=1000, steps=[0]))
    grid, at = pipe.grid_of("generator.mid.resid_post"), block.places
    assert len(block) == 4 * (grid.size + 3), "fewer than asked for: all"
    stands = at["token"] < grid.size
    assert np.array_equal(at["h"][stands] * grid.width + at["w"][stands], at["token"][stands])
    assert (at["h"][~stands] == -1).all() and set(at["frame"]) == {0, 1, 2, 3}
    assert list(block.table.columns[:3]) == ["site", "step", "branch"] and len(block.table) == len(block)
    part = next(features.stream(pipe, [asked(pipe, 0)], "generator.mid.resid_post[tokens=-3:]", rows=1000))
    assert (part.places["h"] == -1).all() and len(part) == 4 * 3


def test_means_are_those_of_the_captured_values(pipe: Any, record: Any) -> None:  # noqa: F811
    site = "generator.mid.temporal.attn.z"                                                                  # b n k f d
    for frames in (False, True):
        [block] = features.gather(features.pooled(pipe, (asked(pipe, row) for row in range(3)), site, frames=frames, steps=[1]))
        dense = whole(record, site, 1).mean(2)                                                              # b f k d
        dense = (dense if frames else dense.mean(1, keepdim=True)).flatten(2).flatten(0, 1)
        assert torch.allclose(block.values, dense, atol=1e-5)
        assert block.places["frame"].tolist() == ([0, 1, 2, 3] * 3 if frames else [-1] * 3)


def test_what_is_removed_is_not_told(pipe: Any) -> None:  # noqa: F811
    """Edits act before the place, at it, and in the steps that run; what they do later or behind it does not matter."""
    one, other = (pipe.request(IMAGES[:1], f"a red circle moves {way}", 0, steps=3) for way in ("left", "right"))
    cut = [Zero("text.out"), Zero("generator.mid.resid_post@steps=1"), Zero("generator.mid.resid_mid@steps=2"), Zero("detail.gan")]
    at = "{fusion.out,generator.mid.resid_post}"
    plain, bare = (features.gather(features.pooled(pipe, [one, other], at, steps=":2", edits=edits)) for edits in ([], cut))
    for told, silent in zip(plain, bare, strict=True):
        assert not torch.allclose(told.values[0], told.values[1]) and torch.equal(silent.values[0], silent.values[1])
        assert bool(silent.values.any()) == (silent.key[:2] != ("generator.mid.resid_post", 1))


def test_what_follows_does_not_run(pipe: Any) -> None:  # noqa: F811
    ran: list[str] = []
    handles = [pipe.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
               for name in ("generator", "detail")]
    list(features.pooled(pipe, [asked(pipe, 0)], "generator.mid.resid_post", steps=[1]))
    for handle in handles:
        handle.remove()
    assert ran == ["generator"] * 4, "two steps of two branches, and no super-resolution"


def test_what_has_no_features_is_told(pipe: Any) -> None:  # noqa: F811
    with pytest.raises(FeatureError, match=r"text.mask has axes 'b j' and no features"):
        next(features.stream(pipe, [asked(pipe, 0)], "text.mask"))
    with pytest.raises(FeatureError, match=r"fusion.out has axes 'b n c' and no frames"):
        next(features.pooled(pipe, [asked(pipe, 0)], "fusion.out", frames=True))
    with pytest.raises(LookupError, match="nearest"):
        next(features.stream(pipe, [asked(pipe, 0)], "generator.mid.resid_pots"))
    site = next(site.name for site in pipe.sites("discriminator.**") if "c" in site.axes)
    with pytest.raises(FeatureError, match="does not run when small generates"):
        next(features.stream(pipe, [asked(pipe, 0)], site))
    with pytest.raises(BudgetError):
        next(features.stream(pipe, [asked(pipe, 0)], "generator.mid.resid_post", rows=100, budget=1000))


@pytest.mark.slow
def test_rows_and_means_of_wan_are_those_of_its_values() -> None:
    from wanlab.pipelines.wan_parts import random_pipeline
    from wanlab.pipelines.wan_presets import PRESETS

    wan = random_pipeline(PRESETS["wan-random-tiny-t2v"])
    site, request = "dit.blocks.1.resid_post", wan.request(None, ["a red circle", "a blue star"], [0, 1], steps=2)
    values = cells.generate(wan, request, capture=f"{site}@branch=cond").record[site, 0, "cond"].tensor
    [block] = features.gather(features.stream(wan, [request], site, rows=7, steps=[0]))
    at = tuple(torch.from_numpy(block.places[name]) for name in ("sample", "frame", "h", "w"))
    assert torch.allclose(block.values, values[at], atol=1e-5) and len(set(zip(*(one.tolist() for one in at), strict=True))) == 14
    for frames, over in ((False, (1, 2, 3)), (True, (2, 3))):
        [means] = features.gather(features.pooled(wan, [request], site, steps=[0], frames=frames))
        assert torch.allclose(means.values, values.mean(over).flatten(0, -2), atol=1e-5)
