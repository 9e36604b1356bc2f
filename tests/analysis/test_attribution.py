"""Attribution where it is exact (linear), where integrating the gradient makes it so, on the shipped cascade, and on Wan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wanlab
from tests.analysis.linear import HEADS, Linear
from wanlab.analysis import attribution, cells, readouts
from wanlab.analysis.cells import MetricError, Seen
from wanlab.analysis.contrast import Contrast
from wanlab.core import Scale, Zero

CLEAN, OTHER = "a red circle left", "a red circle right"
SITES = ["net.left", "net.right", "text.out"]


@pytest.fixture(scope="module")
def pipe() -> Linear:
    return Linear()


def light(seen: Seen) -> torch.Tensor:
    return seen.video.sum((1, 2, 3, 4))


def power(seen: Seen) -> torch.Tensor:
    return seen.video.square().sum((1, 2, 3, 4))


@pytest.mark.parametrize("towards", ["zero", "other"])
def test_in_a_linear_model_an_estimate_is_the_true_change_of_every_gate(pipe: Linear, towards: str) -> None:
    contrast = Contrast(pipe, pipe.request(None, CLEAN, [0, 1]), pipe.request(None, OTHER, [0, 1]))
    record = contrast.record("corrupted", SITES) if towards == "other" else None
    found = attribution.attribute(pipe, contrast.clean, SITES, light, per="k f j", towards=record)
    assert found.effects.dims == ("site", "step", "branch", "row", "head", "frame", "key")
    check = found.check(10_000)
    assert len(check.table) == 2 * (2 * 2 * HEADS * 3 + 4) and check.spearman > 0.999
    assert np.allclose(check.table.true, check.table.estimate, atol=2e-5)


@pytest.mark.parametrize(("at", "per", "name"), [("net.out", "c", "channel"), ("net.left", "k d", "unit")])
def test_channels_and_units_have_gates_of_their_own(pipe: Linear, at: str, per: str, name: str) -> None:
    found = attribution.attribute(pipe, pipe.request(None, CLEAN, [0, 1]), at, light, per=per)
    assert name in found.effects.dims
    check = found.check(10_000)
    assert check.table.true.nunique() > 4 and np.allclose(check.table.true, check.table.estimate, atol=2e-5)
    figure = found.figure(check)
    assert figure.axes[0].images[0].get_array().shape == (HEADS if name == "unit" else 1, 2)
    assert found.figure(check, across=name).axes[0].get_xlabel() == name


def test_a_limited_site_has_the_gates_that_the_limit_leaves(pipe: Linear) -> None:
    found = attribution.attribute(pipe, pipe.request(None, CLEAN, 0), "net.left[heads=1,frames=1:]", light)
    assert found.effects["head"].values.tolist() == [1] and found.effects.frame.values.tolist() == [1, 2]
    check = found.check()
    assert np.allclose(check.table.true, check.table.estimate, atol=2e-5)


@pytest.mark.parametrize(("per", "message"), [("h w", "per='h w': no gates along 'h'.*there are k .head., f .frame."),
                                              ("head", "no gates along 'head'; nearest: head")])
def test_axes_along_which_nothing_can_be_replaced_are_told_before_anything_runs(pipe: Linear, per: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attribution.attribute(pipe, pipe.request(None, CLEAN, 0), "net.left", lambda seen: pytest.fail("it ran"), per=per)


def test_integrated_gradients_of_a_site_add_up_to_replacing_all_of_it(pipe: Linear) -> None:
    request = pipe.request(None, CLEAN, 0)
    plain, whole = (attribution.attribute(pipe, request, ["net.left", "net.middle"], power, points=points) for points in (1, 2))
    asked = [cells.Cell("base"), *(cells.Cell(f"net.{name}", (Zero(f"net.{name}"),)) for name in ("left", "middle"))]
    made = cells.run(pipe, request, asked, {"power": power}).set_index("cell").value
    for name in ("net.left", "net.middle"):
        true = made[name] - made["base"]
        assert float(whole.effects.sel(site=name).sum()) == pytest.approx(true, rel=1e-2)
        assert float(plain.effects.sel(site=name).sum()) != pytest.approx(true, rel=0.1)


def test_a_window_and_edits_are_respected(pipe: Linear) -> None:
    request = pipe.request(None, CLEAN, 0)
    some = attribution.attribute(pipe, request, "net.left", light, steps="1:", per="f", edits=[Scale("net.middle", 0.0)])
    assert some.effects.step.values.tolist() == [1] and some.effects.dims == ("site", "step", "branch", "row", "frame")
    assert np.allclose(some.check().table.true, some.check().table.estimate, atol=1e-5)
    figure = some.figure(across="frame")
    assert any("Spearman 1.00 with 3 true replacements" in text.get_text() for text in figure.texts)


def test_metrics_without_a_gradient_raise(pipe: Linear) -> None:
    request = pipe.request(None, CLEAN, 0)
    for metric, message in ((lambda seen: light(seen).detach(), "not differentiable"),
                            (lambda seen: light(seen).item(), "not differentiable"),
                            (lambda seen: light(seen) / 0, "the metric is -?inf for row 0")):
        with pytest.raises(MetricError, match=message):
            attribution.attribute(pipe, request, "net.left", metric)
    for points in (0, -1, 1.5):
        with pytest.raises(ValueError, match=rf"points={points}: .*1 or more"):
            attribution.attribute(pipe, request, "net.left", lambda seen: pytest.fail("it ran"), points=points)
    check = attribution.attribute(pipe, request, "net.left", light, steps=1).check(2)
    with pytest.raises(MetricError, match="three gates"):
        _ = check.spearman


@pytest.mark.parametrize("points", [1, 2])
def test_a_gradient_that_is_no_number_raises_with_its_site_and_step(pipe: Linear, points: int) -> None:
    """The root of what is 0 has a value, and no gradient."""
    def root(seen: Seen) -> torch.Tensor:
        return light(seen) + (0 * seen.video).square().sum((1, 2, 3, 4)).sqrt()

    with pytest.raises(MetricError, match=r"at net.left, step [01], branch cond, is not finite"):
        attribution.attribute(pipe, pipe.request(None, CLEAN, 0), "net.left", root, points=points)


@pytest.mark.slow
def test_on_the_shipped_cascade_estimates_rank_true_ablations() -> None:
    from wanlab.data.procedural import World

    tiny = wanlab.load("tiny").requires_grad_(False)
    request = tiny.request(World(128, 8, split="test", max_objects=1)[10].video[0], "a red circle moves left", 0, steps=4)
    found = attribution.attribute(tiny, request, "generator.up.*.*.attn.z", readouts.displacement("red", "left"), steps=3)
    assert found.effects.sizes == {"site": 6, "step": 1, "branch": 2, "row": 1, "head": 4, "frame": 8}
    assert found.check(24).spearman > 0.7


def test_wan_is_attributed_through_the_same_face() -> None:
    from wanlab.pipelines.wan_parts import random_pipeline
    from wanlab.pipelines.wan_presets import PRESETS

    wan = random_pipeline(PRESETS["wan-random-tiny-t2v"]).requires_grad_(False)
    request = wan.request(None, "a red circle moves left", 0, steps=2)
    found = attribution.attribute(wan, request, "dit.blocks.*.self_attn.z", light, steps=1)
    check = found.check(8)
    assert check.spearman > 0.9 and np.isfinite(check.table.estimate).all()
