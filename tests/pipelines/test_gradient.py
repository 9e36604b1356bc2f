"""Gradients through a whole pipeline: `generate(grad=...)`, captured by a trace around it; checkpoints; what may be asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from wanlab.core import GradientError, LedgerError, PositionError, Replace, Scale, SelectionError, Steer, trace
from wanlab.pipelines.cascade import Cascade

IMAGE = torch.linspace(0.2, 0.8, 64).expand(3, 64, 64)      # smooth: a moved texture has kinks at every pixel
SITE, STEPS = "generator.mid.resid_post", 3


@pytest.fixture
def pipe(pipe: Cascade) -> Iterator[Cascade]:
    """The pipeline with frozen weights, as for any question about activations."""
    asked = [parameter.requires_grad for parameter in pipe.parameters()]
    yield pipe.requires_grad_(False)
    for parameter, was in zip(pipe.parameters(), asked, strict=True):
        parameter.requires_grad_(was)


def run(pipe: Cascade, **kwargs: Any) -> Any:
    return pipe.generate(IMAGE, "a red circle moves left", steps=STEPS, guidance=2.0, **kwargs)


def brightness(video: Tensor) -> Tensor:
    return video[:, -1, :, 16:48, 16:48].mean()


def gradient(pipe: Cascade, capture: Any, **kwargs: Any) -> Any:
    with trace(pipe, capture=capture) as t:
        out = run(pipe, **kwargs)
        brightness(out.video).backward()
    return t.record


def test_a_run_that_is_differentiated_gives_the_same_bytes(pipe: Cascade) -> None:
    plain = run(pipe).video
    inside = "{generator,fusion,align,upsample,detail}.**.{q,k,z,pattern,scale,resid_post,out,branch,skip}"
    for capture, kwargs in ((f"{inside} -> grad", {"grad": True}),
                            (f"{SITE}@steps=1 -> grad", {"grad": "**@steps=1:", "checkpoint": True})):
        with trace(pipe, capture=capture, strict=False):
            out = run(pipe, **kwargs)
        assert torch.equal(out.video, plain) and out.video.requires_grad
    assert not run(pipe).video.requires_grad


@pytest.mark.parametrize("step", [0, 2])
def test_the_gradient_of_a_step_is_what_finite_differences_say(pipe: Cascade, step: int) -> None:
    at = f"{SITE}@steps={step},branch=cond"
    [found] = gradient(pipe, f"{at} -> grad", grad=f"**@steps={step}:")[f"{SITE} -> grad"].tensor
    size = float(found.norm())
    by = 0.01 * found / size            # along the gradient, the brightness rises by its length
    up, down = (float(brightness(run(pipe, edits=Replace(at, lambda x, by=by: x + by)).video)) for by in (by, -by))
    assert (up - down) / 0.02 == pytest.approx(size, rel=0.01)


def test_checkpoints_give_the_same_gradients_under_edits_and_count_nothing_twice(pipe: Cascade) -> None:
    edits = [Scale("generator.**.temporal.attn.z@steps=1:", 0.5), Steer("fusion.pooled@branch=cond", [0.1] * 64)]
    ways = [f"{SITE}@steps=1: -> grad", "upsample.0.out -> grad", "generator.mid.temporal.attn.pattern@steps=2 -> grad -> mean"]
    plain, again = (gradient(pipe, ways, grad="**@steps=1:", checkpoint=way, edits=edits) for way in (False, True))
    assert plain.firings == again.firings and len(plain.firings) == 4 + 1 + 1
    for key in plain.firings:
        assert torch.allclose(plain.entry(key).tensor, again.entry(key).tensor, rtol=1e-4, atol=1e-9), key


def test_the_dry_run_that_finds_the_shapes_is_seen_by_no_trace(pipe: Cascade) -> None:
    fresh = pipe.swap("align", "none", init="random")
    with trace(fresh, capture=["image.tokens", f"{SITE}@steps=2"]) as t:
        run(fresh)
    assert [key.call for key in t.record.firings] == [0, 0, 0]


def test_one_node_alone_and_one_step_alone(pipe: Cascade) -> None:
    record = gradient(pipe, "detail.content -> grad", grad="detail")
    assert record["detail.content -> grad"].tensor.any()
    site, at = "sampler.video.x0", "sampler.video.x0@steps=1,branch=cond"
    with trace(pipe, capture=f"{SITE}@steps=1,branch=cond -> grad") as outer:
        with trace(pipe, capture=f"{at} -> graph", stop_after=at) as inner:
            run(pipe, grad="denoise@steps=1")
        inner.record[site].tensor.square().sum().backward()
    assert outer.record[f"{SITE} -> grad"].tensor.any() and inner.ledger.stopped is not None


def test_a_step_that_later_steps_cut_off_is_an_error_that_names_the_site(pipe: Cascade) -> None:
    with pytest.raises(LedgerError, match=f"{SITE}: no gradient came back at step 0"), \
            trace(pipe, capture=[f"{SITE}@steps=0 -> grad", "detail.out -> grad"]):
        brightness(run(pipe, grad="{detail,denoise}@steps=0").video).backward()
    with pytest.raises(GradientError, match=rf"come back to {SITE}: it fires under torch.no_grad \(step 0, branch cond\)"), \
            trace(pipe, capture=f"{SITE} -> grad"):
        run(pipe, grad="**@steps=1:")


@pytest.mark.parametrize(("grad", "error", "message"), [
    ("denoize", SelectionError, "no node 'denoize'; nearest: denoise"), ("detail@steps=1", SelectionError, "outside any step"),
    ("**@steps=7", PositionError, "steps=7 is outside"), ("**@branch=cond", SelectionError, "branch= cannot limit"),
    ("**[heads=1]", SelectionError, "heads= cannot limit"),
])
def test_mistakes_raise_before_anything_runs(pipe: Cascade, grad: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        run(pipe, grad=grad, progress=lambda *_: pytest.fail("it ran"))


def test_gradients_are_captured_around_the_run(pipe: Cascade) -> None:
    with pytest.raises(GradientError, match="open the trace around it and the backward pass"):
        run(pipe, capture=f"{SITE} -> grad", grad=True, progress=lambda *_: pytest.fail("it ran"))
    with pytest.raises(GradientError, match=r"no gradient comes back to align.flow, nothing is computed from it"):
        trace(pipe, capture="align.{out,flow} -> grad")
    with torch.inference_mode(), pytest.raises(GradientError, match="inference_mode"):
        run(pipe, grad=True)


def test_an_edit_that_did_not_act_raises_with_what_was_generated(pipe: Cascade) -> None:
    edit = Scale(f"{SITE}@sigma=5:6", 2.0)
    with pytest.raises(LedgerError, match="never due") as caught:
        run(pipe, edits=edit)
    assert caught.value.result.video.shape[1] == pipe.config["frames"] and not caught.value.ledger.ok
