"""Costs computed on the meta device, against formulas and against what the published models are known to take."""

from __future__ import annotations

import pytest
import torch

from wanlab.core import GIB
from wanlab.pipelines.cost import bytes_of, costs, footprint, of_wan, sized, stage_costs, told
from wanlab.pipelines.load import load


@pytest.mark.slow
def test_the_smallest_published_model_takes_what_its_formulas_say() -> None:
    """283 TFLOP a forward at N = 32,760 (attention 4 N^2 d, products 2 m n k), 1.42 billion parameters, 5.68 of the text's."""
    pipe = of_wan("wan2.1-t2v-1.3b")
    found = {one.name: one for one in costs(pipe)}
    assert found["denoise"].flop == pytest.approx(283e12, rel=0.01)
    assert found["denoise"].weights == pytest.approx(2 * 1.419e9, rel=0.02)      # time and norms stay float32
    assert found["text"].weights == pytest.approx(2 * 5.68e9, rel=0.01)
    stream = 32_760 * 1536 * 2                          # bytes of the tokens of one place of the stream in bfloat16
    assert 5 * stream < found["denoise"].activations < 20 * stream
    assert max(one.total for one in found.values()) < 12 * GIB
    assert bytes_of([pipe]) + max(one.activations for one in found.values()) < 24e9


def test_a_chain_of_tensors_counts_those_that_live_at_once() -> None:
    pipe = load("wan-random-tiny-t2v", init="meta")
    video = 9 * 3 * 32 * 32 * 4
    found = {one.name: one for one in costs(pipe)}
    assert found["decode"].weights == bytes_of([pipe.vae]) and found["denoise"].weights == bytes_of([pipe.dit])
    assert 2 * video <= found["decode"].activations <= 20 * video
    most = max(one.activations for one in found.values())
    assert footprint("wan-random-tiny-t2v", dtype=torch.float32) == bytes_of([pipe]) + most
    assert "detail" in told(sized("tiny"))
    with pytest.raises(ValueError, match="meta device"):
        costs(load("wan-random-tiny-t2v"))


@pytest.mark.slow(seconds=40)
def test_every_published_model_fits_the_device_that_the_documentation_names() -> None:
    most = {name: max(one.total for one in costs(of_wan(name))) / GIB for name in (
        "wan2.1-t2v-14b", "wan2.1-i2v-14b-720p", "wan2.1-flf2v-14b-720p", "wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b")}
    assert max(most.values()) < 75, most
    assert torch.tensor(list(most.values())).min() > 10


@pytest.mark.slow
def test_stages_of_the_article_and_of_wan_are_counted_by_one_rule() -> None:
    article = {one.name: one for one in stage_costs(load("article", init="meta"))}
    assert article["generator"].flop == pytest.approx(1.293e12, rel=0.01) and article["generator"].runs == 60
    assert article["upsample.3"].flop == pytest.approx(394e9, rel=0.01) and article["upsample.3"].runs == 1
    assert article["discriminator"].runs == 0 and article["text"].parameters == 110_219_904
    wan = {one.name: one for one in stage_costs(of_wan("wan2.1-t2v-1.3b"))}
    assert wan["dit"].flop == pytest.approx(283e12, rel=0.01) and wan["dit"].runs == 100
    assert "upsample.3" in told(sized("article")) and "GFLOP a run" in told(sized("wan-random-tiny-t2v"))
