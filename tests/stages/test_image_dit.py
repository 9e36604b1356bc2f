"""The published DiT: against diffusers' on the same weights, and the names of its parameters both ways."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel

from wanlab.core import Bypass, trace
from wanlab.stages.image_dit import ImageDit, Sizes
from wanlab.stages.image_dit_keys import from_diffusers, to_diffusers

SMALL = Sizes(side=8, width=48, heads=4, depth=3, classes=10)


def theirs(sizes: Sizes = SMALL) -> Any:
    """diffusers' model with random weights, vectors too, and one embedding for all blocks as in the published files."""
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=sizes.heads, attention_head_dim=sizes.width // sizes.heads, in_channels=sizes.channels,
        out_channels=sizes.outputs, num_layers=sizes.depth, sample_size=sizes.side, patch_size=sizes.patch,
        num_embeds_ada_norm=sizes.classes, norm_eps=sizes.mlp_eps).eval()
    for value in model.parameters():
        value.data += 0.05 * torch.randn_like(value)
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return model


def ours(model: Any, sizes: Sizes = SMALL) -> ImageDit:
    dit = ImageDit(sizes).eval()
    dit.load_state_dict(from_diffusers(model.state_dict()), strict=True)
    return dit


@pytest.mark.parametrize("mlp_eps", [1e-5, 1e-3])
def test_it_predicts_what_diffusers_predicts(mlp_eps: float) -> None:
    sizes = replace(SMALL, mlp_eps=mlp_eps)
    model = theirs(sizes)
    latent, time, label = torch.randn(3, 4, 8, 8), torch.tensor([0, 50, 999]), torch.tensor([0, 7, 10])
    with torch.no_grad():
        expected = model(latent, time, label).sample
        found = ours(model, sizes)(latent, time, label)
    assert (found.prediction - expected).abs().max() <= 1e-5 and expected.abs().max() > 0.1
    assert len(found.features) == 3


def test_no_class_is_the_last_label_and_time_is_a_site() -> None:
    dit, latent, time = ours(theirs()), torch.randn(1, 4, 8, 8), torch.tensor([50])
    assert torch.equal(dit(latent, time).prediction, dit(latent, time, torch.tensor([10])).prediction)
    with trace(dit, edits=[Bypass("time")]) as t:
        without = dit(latent, time).prediction
        assert torch.equal(without, dit(latent, torch.tensor([900])).prediction)
    assert t.ledger.ok and not torch.equal(without, dit(latent, time).prediction)


def test_patches_lie_in_raster_order() -> None:
    dit, latent = ours(theirs()), torch.randn(1, 4, 8, 8)
    other = latent.clone()
    other[..., 2:4, 6:8] = 0                                # row 1, column 3 of 4 x 4 patches
    with trace(dit, capture=["patches"]) as t:
        dit(torch.cat([latent, other]), torch.tensor([50, 50]))
    a, b = t.record["patches"].tensor
    assert (a != b).any(-1).nonzero().flatten().tolist() == [7]


def test_names_map_both_ways_and_completely() -> None:
    model = theirs()
    state = model.state_dict()
    again = to_diffusers(from_diffusers(state))
    assert again.keys() == state.keys() and all(torch.equal(again[name], value) for name, value in state.items())
    with torch.device("meta"):
        whole = ImageDit(Sizes())
        published = DiTTransformer2DModel(num_attention_heads=16, attention_head_dim=72, out_channels=8, num_layers=28)
    states = to_diffusers(whole.state_dict()), published.state_dict()
    one, other = ({name: value.shape for name, value in state.items()} for state in states)
    assert one == other
    assert sum(value.numel() for value in (*whole.parameters(), whole.place)) == 675_129_632        # 675 M in the paper's table 1


def test_what_is_no_dit_is_named() -> None:
    state = theirs().state_dict()
    with pytest.raises(KeyError, match=r"transformer_blocks\.0\.attn2\.to_q"):
        from_diffusers({"transformer_blocks.0.attn2.to_q.weight": torch.zeros(1)})
    with pytest.raises(KeyError, match="strange"):
        to_diffusers({"blocks.0.up.weight": torch.zeros(1), "strange.weight": torch.zeros(1)})
    name = "transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"
    with pytest.raises(ValueError, match=r"copies of label\.weight differ"):
        from_diffusers(state | {name: state[name] + 1})
    with pytest.raises(ValueError, match=r"must be b 4 8 8, got \(1, 4, 16, 16\)"):
        ours(theirs())(torch.zeros(1, 4, 16, 16), torch.tensor([0]))
    with pytest.raises(ValueError, match="patches of 3 divide, got 8"):
        ImageDit(replace(SMALL, patch=3))
