"""The Wan transformer against diffusers', on random weights whose every vector is perturbed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel

from wanlab.core import Bypass, Scale, ShuffleFrames, Zero, sites_of, trace
from wanlab.stages.dit import Config, Dit
from wanlab.stages.dit_keys import dit_takes, from_diffusers, to_diffusers

TEXT = 512          # diffusers reads image tokens as what stands before the last 512: other lengths drop them in silence
TINY = Config(heads=2, head_width=12, depth=2, hidden=32, text_width=32)
KINDS = {
    "t2v": TINY,
    "uneven head": replace(TINY, head_width=16),
    "i2v": replace(TINY, inputs=36, image_width=16),
    "flf": replace(TINY, inputs=36, image_width=16, image_places=34),
    "two experts i2v": replace(TINY, inputs=36),
}


def theirs_of(config: Config) -> WanTransformer3DModel:
    """diffusers' transformer of the same sizes, all vectors perturbed, so that no two norms or tables can be exchanged unseen."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=config.patch, num_attention_heads=config.heads, attention_head_dim=config.head_width, in_channels=config.inputs,
        out_channels=config.outputs, text_dim=config.text_width, freq_dim=config.frequencies, ffn_dim=config.hidden,
        num_layers=config.depth, image_dim=config.image_width, added_kv_proj_dim=config.width if config.image_width else None,
        rope_max_seq_len=32, pos_embed_seq_len=config.image_places).eval()
    with torch.no_grad():
        for value in model.parameters():
            if sum(side > 1 for side in value.shape) <= 1 or value.shape[0] == 1:
                value.add_(0.2 * torch.randn_like(value))
    return model


def ours_of(theirs: WanTransformer3DModel, config: Config) -> Dit:
    """Ours with the same weights, loaded strictly."""
    ours = Dit(config).eval()
    ours.load_state_dict(from_diffusers(theirs.state_dict()), strict=True)
    return ours


def inputs_of(config: Config, b: int = 2, f: int = 3, h: int = 4, w: int = 6,
              per_token: bool = False) -> dict[str, torch.Tensor | None]:
    """A latent, a time, and text, with image tokens where there is a branch for them."""
    torch.manual_seed(1)
    n = f * h * w // 4
    return {
        "latent": torch.randn(b, f, config.inputs, h, w),
        "time": torch.rand(b, n).mul(1000).round() if per_token else torch.tensor([900.0, 31.0])[:b],
        "text": torch.randn(b, TEXT, config.text_width),
        "image": torch.randn(b, config.image_places or 17, config.image_width) if config.image_width else None,
    }


def run_theirs(model: WanTransformer3DModel, latent, time, text, image) -> torch.Tensor:
    if model.config.pos_embed_seq_len:                      # two images, one after the other in the batch
        image = image.unflatten(1, (2, -1)).flatten(0, 1)
    with torch.no_grad():
        return model(latent.transpose(1, 2), time, text, image, return_dict=False)[0].transpose(1, 2)


@pytest.mark.parametrize("per_token", [False, True], ids=["one time", "time per token"])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_diffusers(kind: str, per_token: bool) -> None:
    theirs = theirs_of(KINDS[kind])
    given = inputs_of(KINDS[kind], per_token=per_token)
    with torch.no_grad():
        ours = ours_of(theirs, KINDS[kind])(**given)
    expected = run_theirs(theirs, **given)
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("image_width", [None, 16])
def test_equals_diffusers_at_heads_of_128(image_width: int | None) -> None:
    config = Config(heads=4, depth=4, hidden=512, text_width=32, inputs=36 if image_width else 16, image_width=image_width)
    theirs = theirs_of(config)
    given = inputs_of(config, b=1)
    with torch.no_grad():
        ours = ours_of(theirs, config)(**given)
    assert (ours - run_theirs(theirs, **given)).abs().max() <= 1e-5


def test_bf16_keeps_float32_where_the_published_code_has_it() -> None:
    config = replace(KINDS["i2v"], head_width=16)
    theirs, given = theirs_of(config), inputs_of(config)
    exact = run_theirs(theirs, **given)
    ours = ours_of(theirs, config).cast(torch.bfloat16)
    assert ours.blocks[0].modulation.dtype == ours.blocks[0].norm3.weight.dtype == ours.head.head.weight.dtype == torch.float32
    assert ours.blocks[0].self_attn.q.weight.dtype == ours.patch_embedding.weight.dtype == torch.bfloat16
    with torch.no_grad():
        rough = ours(**given)
    assert (rough - exact).square().mean().sqrt() / exact.square().mean().sqrt() <= 1e-2


def test_names_go_round() -> None:
    theirs = theirs_of(KINDS["flf"])
    state = theirs.state_dict()
    ours = from_diffusers(state)
    for names in (list(state), list(ours)):
        assert [take.name for name in names for take in dit_takes(names)(name)] == list(ours)
    assert set(ours) == set(Dit(KINDS["flf"]).state_dict())
    again = to_diffusers(ours)
    assert set(again) == set(state) and all(torch.equal(again[name], value) for name, value in state.items())
    theirs.load_state_dict(to_diffusers(ours), strict=True)
    with pytest.raises(KeyError, match=r"blocks\.0\.attn3\.to_q\.weight"):
        from_diffusers({"blocks.0.attn3.to_q.weight": torch.zeros(1)})
    assert from_diffusers({"blocks.0.attn2.norm_added_q.weight": torch.zeros(1)}) == {}


def test_every_site_fires_and_an_identity_leaves_the_bytes() -> None:
    config = KINDS["i2v"]
    dit, given = ours_of(theirs_of(config), config), inputs_of(config)
    with torch.no_grad():
        plain = dit(**given)
        with trace(dit, capture="**") as t:
            seen = dit(**given)
        with trace(dit, edits=Scale("blocks.**", factor=1.0)):
            same = dit(**given)
    assert torch.equal(seen, plain)
    assert torch.equal(same, plain)
    assert {entry.split("@")[0] for entry in map(str, t.record)} == {site.name for site in sites_of(dit)}
    assert t.record["blocks.1.self_attn.z"].to_numpy().shape[-5:] == (2, 3, 2, 3, 12)


def test_bypassing_a_block_skips_it() -> None:
    dit, given = ours_of(theirs_of(TINY), TINY), inputs_of(TINY)
    shorter = Dit(replace(TINY, depth=1)).eval()
    shorter.load_state_dict({name.replace("blocks.1", "blocks.0"): value for name, value in dit.state_dict().items()
                             if "blocks.0" not in name})
    with torch.no_grad(), trace(dit, edits=Bypass("blocks.0.resid_post")):
        assert torch.equal(dit(**given), shorter(**given))


def test_without_image_tokens_the_image_branch_adds_nothing() -> None:
    config = KINDS["i2v"]
    dit, given = ours_of(theirs_of(config), config), inputs_of(config)
    with torch.no_grad():
        plain = dit(**given)
        cut = dit(**{**given, "image": None})
        with trace(dit, edits=Bypass("blocks.*.cross_attn.img.z")):
            bypassed = dit(**given)
    assert torch.equal(cut, bypassed) and not torch.equal(cut, plain)


def test_the_image_is_read_by_a_softmax_of_its_own() -> None:
    config = KINDS["i2v"]
    dit, given = ours_of(theirs_of(config), config), inputs_of(config)
    with torch.no_grad():
        plain = dit(**given)
        with trace(dit, capture=["blocks.0.cross_attn.{q,z}", "blocks.0.cross_attn.img.{q,k,v,pattern,entropy,z}"]) as t:
            assert torch.equal(dit(**given), plain)
    read = {}
    for name in ("q", "z", *(f"img.{one}" for one in ("q", "k", "v", "pattern", "entropy", "z"))):
        entry = t.record[f"blocks.0.cross_attn.{name}"]
        read[name] = entry.tensor.flatten(2, 4) if "f" in entry.axes else entry.tensor          # b k n …
    assert torch.equal(read["q"], read["img.q"])
    dense = torch.softmax(read["q"].double() @ read["img.k"].double().mT * read["q"].shape[-1] ** -0.5, -1)
    assert torch.allclose(read["img.pattern"].double(), dense, atol=1e-6)
    assert torch.allclose(read["img.z"].double(), dense @ read["img.v"].double(), atol=1e-5)
    assert torch.allclose(read["img.entropy"].double(), -(dense * dense.log()).sum(-1), atol=1e-5)
    blind = Scale("blocks.0.cross_attn.img.q", 0.0)
    with torch.no_grad(), trace(dit, edits=blind, capture="blocks.0.cross_attn.{pattern,img.pattern}") as t:
        dit(**given)
    even = t.record["blocks.0.cross_attn.img.pattern"].tensor
    assert torch.allclose(even, torch.full_like(even, 1 / even.shape[-1]))
    assert t.record["blocks.0.cross_attn.pattern"].tensor.std() > 0


def test_rotary_angles_are_all_that_knows_the_order_of_frames() -> None:
    dit, given = ours_of(theirs_of(TINY), TINY), inputs_of(TINY)
    with torch.no_grad(), trace(dit, edits=ShuffleFrames("rotary.time", seed=3)):
        scrambled = dit(**given)
    from wanlab.core.frames import frame_order
    order = frame_order(3, 3)
    with torch.no_grad():
        back = torch.argsort(torch.tensor(order))
        moved = dit(**{**given, "latent": given["latent"][:, back]})
    assert torch.allclose(scrambled[:, back], moved, atol=1e-6)


def test_zeroing_a_gate_takes_the_part_out() -> None:
    dit, given = ours_of(theirs_of(TINY), TINY), inputs_of(TINY)
    with torch.no_grad():
        with trace(dit, edits=Zero("blocks.*.mlp_gate")):
            gated = dit(**given)
        with trace(dit, edits=Bypass("blocks.*.mlp_out")):
            cut = dit(**given)
    assert torch.allclose(gated, cut, atol=1e-6)


def test_wrong_latents_are_refused_with_their_numbers() -> None:
    dit = Dit(TINY)
    with pytest.raises(ValueError, match=r"5 channels.*takes in 16"):
        dit(torch.zeros(1, 3, 5, 4, 4), torch.zeros(1), torch.zeros(1, 4, 32))
    with pytest.raises(ValueError, match=r"\(3, 5, 4\)"):
        dit(torch.zeros(1, 3, 16, 5, 4), torch.zeros(1), torch.zeros(1, 4, 32))
