"""Adapters: models of other libraries get sites from a table, and are as they were after any exit."""

from __future__ import annotations

import copy
import pickle
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wanlab
from tests.core.foreign import (
    T5,
    UNET,
    denoise,
    hooks,
    perturbed,
    tiny_t5,
    tiny_unet,
    with_hook,
    without,
    words,
)
from tests.core.models import Denoiser, start
from wanlab.core import Bypass, Identity, Mean, Place, Probe, Replace, Scale, UnknownSite, Zero, adapt, clock, trace


def test_the_example_of_the_documents_runs_and_a_module_without_sites_is_told_of_adapt() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "swaps.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "wanlab.adapt(" in block)
    names: dict[str, Any] = {"wanlab": wanlab}
    exec(compile(code, "docs/swaps.md", "exec"), names)
    assert names["t"].record["out"].sizes == {"s": 4, "b": 1, "c": 8} and names["t"].ledger.ok
    with pytest.raises(UnknownSite, match=r"no site matches 'out', for the module has none: wanlab.adapt\(module, table\)"):
        trace(names["denoiser"], capture="out")


@pytest.fixture(scope="module")
def t5() -> nn.Module:
    return tiny_t5()


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return tiny_unet()


# ------------------------------------------------------------------------------------------------ the models of others

def test_a_t5_encoder_gets_sites_with_shapes(t5: nn.Module) -> None:
    model = adapt(t5, T5)
    sites = model.sites(run=lambda: model(words()))
    assert sites["blocks.1.attn.z"].axes == ("b", "k", "n", "d") and sites["blocks.1.attn.z"].shape == (3, 4, 7, 6)
    assert sites["blocks.0.resid"].shape == (3, 7, 32) and len(sites) == 2 + 2 * 8 and len(model.sites("blocks.*.attn.q")) == 2
    tree = str(sites.narrow("blocks.0.**")).splitlines()
    assert tree[:4] == ["8 sites", "  blocks  (8)", "    0  (8)", "      resid  b=3 n=7 c=32"]
    assert model.config is t5.config and set(model.state_dict()) == {f"inner.{key}" for key in t5.state_dict()}
    with pytest.raises(UnknownSite, match=r"nearest: blocks.0.attn.q"):
        trace(model, Zero("blocks.0.atn.q"))


@pytest.mark.parametrize("name", ["t5", "unet"])
def test_identity_edits_and_captures_at_every_site_are_bit_identical(name: str, request: pytest.FixtureRequest) -> None:
    inner = request.getfixturevalue(name)
    model = adapt(inner, {"t5": T5, "unet": UNET}[name])

    def run() -> Tensor:
        return inner(words()).last_hidden_state if name == "t5" else denoise(inner)

    plain, before = run(), hooks(inner)
    with trace(model, Identity("**"), ["**"]) as t:
        edited = run()
    assert torch.equal(plain, edited) and set(t.record) == set(model.sites().names) and t.ledger.ok
    assert hooks(inner) == before and "_taps" not in vars(model)


@pytest.mark.parametrize("part", ["q", "k", "v", "z"])
def test_one_head_of_a_t5_is_edited_as_a_plain_hook_would(t5: nn.Module, part: str) -> None:
    attention = t5.encoder.block[1].layer[0].SelfAttention
    module = attention.o if part == "z" else getattr(attention, part)
    model = adapt(t5, T5)
    expected = with_hook(module, without(12, 18), lambda: t5(words()).last_hidden_state, before=part == "z")
    with trace(model, Zero(f"blocks.1.attn.{part}", heads=2)):
        edited = model(words()).last_hidden_state
    assert torch.equal(edited, expected) and not torch.equal(edited, t5(words()).last_hidden_state)


def test_captured_heads_of_a_t5_satisfy_the_equation_of_attention(t5: nn.Module) -> None:
    model = adapt(t5, T5)
    with trace(model, capture=["blocks.0.attn.*"]) as t:
        model(words())
    q, k, v, z = (t.record[f"blocks.0.attn.{one}"].tensor for one in "qkvz")
    bias = t5.encoder.block[0].layer[0].SelfAttention.compute_bias(7, 7)
    assert torch.allclose(torch.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v, z, atol=1e-6)


@pytest.mark.parametrize(("site", "path", "before"), [
    ("down.0.0.attn1.q", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", False),
    ("down.0.0.attn2.k", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", False),
    ("up.1.1.attn2.v", "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_v", False),
    ("up.1.0.attn1.z", "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0", True),
])
def test_one_head_of_a_unet_is_edited_as_a_plain_hook_would(unet: nn.Module, site: str, path: str, before: bool) -> None:
    model = adapt(unet, UNET)
    heads, module = unet.get_submodule(path.split(".to_")[0]).heads, unet.get_submodule(path)
    width = 8 // heads
    expected = with_hook(module, without(width, 2 * width), lambda: denoise(unet), before)
    with trace(model, Zero(site, heads=1)):
        edited = denoise(unet)
    assert heads > 1 and torch.equal(edited, expected) and not torch.equal(edited, denoise(unet))


def test_tuples_and_dataclasses_of_a_unet_are_edited_in_place_of_their_parts(unet: nn.Module) -> None:
    model, plain = adapt(unet, UNET), denoise(unet)
    with trace(model, Scale("prediction", 2)):
        assert torch.equal(denoise(unet), plain * 2)
    scaled = with_hook(unet.down_blocks[0], lambda out: (out[0], (out[1][0] * 0, *out[1][1:])), lambda: denoise(unet))
    with trace(model, Zero("down.0.skip")):
        assert torch.equal(denoise(unet), scaled) and not torch.equal(scaled, plain)
    mask = torch.zeros(8, 8)
    mask[:4] = 1
    with trace(model, Zero("prediction", mask=mask, rows=1)):
        out = denoise(unet)
    assert torch.equal(out[0], plain[0]) and not out[1, :, :4].any() and torch.equal(out[1, :, 4:], plain[1, :, 4:])


def test_steps_and_branches_of_a_loop_of_ones_own(unet: nn.Module) -> None:
    model, plain = adapt(unet, UNET), denoise(unet)
    out = {}
    with trace(model, Zero("mid.context@steps=1,branch=cond")) as t, clock.announce(steps=2, branches=("cond", "uncond")):
        for step in range(2):
            for branch in ("cond", "uncond"):
                with clock.at(step=step, sigma=0.5, branch=branch):
                    out[step, branch] = denoise(unet)
    assert {key for key, value in out.items() if not torch.equal(value, plain)} == {(1, "cond")} and t.ledger.ok


def test_a_row_edited_in_a_batch_is_the_row_alone(t5: nn.Module) -> None:
    model, plain = adapt(t5, T5), t5(words()).last_hidden_state
    with trace(model, Mean("blocks.0.attn.out", rows=1)):
        batch = model(words()).last_hidden_state
    with trace(model, Mean("blocks.0.attn.out")):
        alone = model(words()[1:2]).last_hidden_state
    assert torch.allclose(batch[1:2], alone, atol=1e-5) and torch.equal(batch[[0, 2]], plain[[0, 2]])


def test_bfloat16_stays_bfloat16(t5: nn.Module) -> None:
    inner = copy.deepcopy(t5).bfloat16()
    model, plain = adapt(inner, T5), inner(words()).last_hidden_state
    with trace(model, [Identity("**"), Scale("blocks.0.attn.v", 0.5, heads=1)], "blocks.0.attn.v"):
        out = model(words()).last_hidden_state
    assert out.dtype == plain.dtype == torch.bfloat16 and not torch.equal(out, plain)


def test_a_video_autoencoder_is_seen_through_its_own_methods_chunk_by_chunk() -> None:
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    vae = perturbed(AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, attn_scales=[],
                                     temperal_downsample=[False, True, True]))
    middle = "{side}coder.mid_block.attentions.0"
    model, video = adapt(vae, {
        "{side}.attn.out": Place(middle, "b c f h w"), "latent": Place("quant_conv", "b c f h w", part=(0, 2, 1)),
        **{f"{{side}}.attn.{one}": Place(f"{middle}.to_qkv", "b c h w", part=(i, 3, 1)) for i, one in enumerate("qkv")},
    }), torch.randn(1, 3, 5, 16, 16)

    def run() -> Tensor:
        return model.decode(model.encode(video).latent_dist.mean).sample

    plain = run()
    with trace(model, Identity("**"), "en.attn.out") as t:
        assert torch.equal(run(), plain)
    assert t.record["en.attn.out"].axes[0] == "call" and len(t.record.firings) == 2       # the first frame, then four
    with trace(model, Zero("en.attn.v")):
        edited = run()
    values = vae.encoder.mid_block.attentions[0].to_qkv
    reference = with_hook(values, lambda x: torch.cat([x[:, :16], torch.zeros_like(x[:, 16:])], 1), run)
    assert torch.equal(edited, reference) and not torch.equal(edited, plain)


def test_two_threads_that_share_an_adapted_module_do_not_see_each_other(t5: nn.Module) -> None:
    model, plain, out = adapt(t5, T5), t5(words()).last_hidden_state, {}
    barrier = threading.Barrier(2)

    def work(factor: int) -> None:
        with trace(model, Scale("out", factor)):
            barrier.wait()
            out[factor] = model(words()).last_hidden_state
            barrier.wait()

    threads = [threading.Thread(target=work, args=(factor,)) for factor in (2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(out[factor], plain * factor) for factor in (2, 4)) and "_taps" not in vars(model)


# ------------------------------------------------------------------------------------------------ bypass

def test_a_bypassed_block_gives_what_it_was_given(t5: nn.Module) -> None:
    model = adapt(t5, T5)
    with trace(model, Bypass("blocks.0.out")):
        out = model(words()).last_hidden_state
    reference = with_hook(t5.encoder.block[0], lambda given: (t5.encoder.embed_tokens(words()), *given[1:]),
                          lambda: t5(words()).last_hidden_state)
    assert torch.equal(out, reference)
    with trace(model, Bypass("blocks.*.{attn.out,mlp}"), "blocks.1.out"):
        alone = model(words()).last_hidden_state
    assert torch.equal(alone, t5.encoder.final_layer_norm(t5.encoder.embed_tokens(words())))


class Overwriting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2) + 0


@pytest.mark.parametrize(("block", "message"), [
    (nn.Linear(4, 6), r"takes \(2, 4\) and gives \(2, 6\)"), (nn.ReLU(inplace=True), "writes over its input"),
    (Overwriting(), "writes over its input"),
])
def test_what_cannot_be_bypassed_says_so(block: nn.Module, message: str) -> None:
    model = adapt(nn.Sequential(nn.Linear(4, 4), block), {"out": Place("1", "b c")})
    with pytest.raises(ValueError, match=f"out cannot be bypassed: 1 {message}"), trace(model, Bypass("out")):
        model(torch.ones(2, 4).requires_grad_(False))
    none = adapt(model.inner, {"out": Place("1", "b c", identity=None), "in": Place("1", "b c", side="input")})
    for site in ("out", "in"):
        with pytest.raises(ValueError, match="cannot be bypassed"), trace(none, Bypass(site)):
            none(torch.ones(2, 4))


# ------------------------------------------------------------------------------------------------ nothing stays behind

def test_exceptions_at_any_site_leave_no_hook_and_those_of_others_stand(t5: nn.Module) -> None:
    fired: list[int] = []
    handle = t5.encoder.block[0].register_forward_hook(lambda *_: fired.append(1))
    model, before = adapt(t5, T5), hooks(t5)
    plain = t5(words()).last_hidden_state

    def fail(x: Tensor) -> Tensor:
        raise error

    for site in model.sites().names:
        for error in (ValueError(), KeyboardInterrupt(), GeneratorExit()):
            with pytest.raises(type(error)), trace(model, Zero("blocks.0.attn.q")), trace(model, Replace(site, fail), "**"):
                model(words())
            assert hooks(t5) == before
    with trace(model, capture="blocks.0.out", stop_after="blocks.0.out") as t:
        model(words())
    assert t.ledger.stopped and hooks(t5) == before and torch.equal(t5(words()).last_hidden_state, plain)
    handle.remove()
    assert fired


def test_only_the_modules_of_wanted_sites_carry_hooks_and_traces_nest(t5: nn.Module) -> None:
    model, plain = adapt(t5, T5), t5(words()).last_hidden_state
    other = adapt(t5, {"mine": Place("", "b n c", item="last_hidden_state")})
    idle = sum(map(sum, hooks(t5)))
    first, second = trace(model, Scale("out", 2)), trace(other, Scale("mine", 3))
    with first, second:
        assert 0 < sum(map(sum, hooks(t5))) - idle <= 8
        assert torch.equal(t5(words()).last_hidden_state, plain * 2 * 3)
    inner, outer = trace(model, Scale("out", 2)), trace(model, Zero("blocks.0.out"))
    inner.__enter__()
    outer.__enter__()
    outer.__exit__(None, ValueError(), None)
    assert torch.equal(t5(words()).last_hidden_state, plain * 2)
    inner.__exit__(None, None, None)
    assert sum(map(sum, hooks(t5))) == idle


def test_copies_and_pickles_taken_in_a_trace_have_no_hooks_and_sites_of_their_own(t5: nn.Module) -> None:
    model, plain = adapt(t5, T5), t5(words()).last_hidden_state
    idle = hooks(model)
    with trace(model, Zero("blocks.0.attn.out"), strict=False):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        shallow = copy.copy(model)
        assert hooks(model) != idle
    assert hooks(model) == idle
    for one in (*copies, shallow):
        assert hooks(one) == idle and torch.equal(one(words()).last_hidden_state, plain)
        with trace(one, Scale("out", 2)):
            assert torch.equal(one(words()).last_hidden_state, plain * 2)
            assert (one is shallow) is not torch.equal(t5(words()).last_hidden_state, plain)


@pytest.mark.parametrize("differentiated", [True, False])
def test_gradients_of_reshaped_sites_are_those_of_the_modules_tensors(t5: nn.Module, differentiated: bool) -> None:
    model, embeds = adapt(t5, T5), torch.randn(2, 5, 32, requires_grad=differentiated)
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x if x.requires_grad else x.requires_grad_())
        return x

    plain = with_hook(t5.encoder.block[1].layer[0].SelfAttention.o, keep, lambda: t5(inputs_embeds=embeds).last_hidden_state,
                      before=True)
    [expected] = torch.autograd.grad(plain.square().sum(), kept)
    with trace(model, Identity("{blocks.**,out}"), ["blocks.1.attn.z -> grad", "blocks.1.attn.z -> graph"]) as t:
        out = model(inputs_embeds=embeds).last_hidden_state
        out.square().sum().backward()
    found = t.record["blocks.1.attn.z -> grad"].tensor
    assert found.shape == (2, 4, 5, 6) and torch.equal(out, plain)
    assert torch.allclose(found.transpose(1, 2).flatten(2), expected, atol=1e-6) and expected.abs().sum() > 0


def test_it_compiles_without_a_break_and_traces_afterwards() -> None:
    inner, x = nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.randn(2, 4)
    model = adapt(inner, {"mid": Place("0", "b c")})
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), inner(x), atol=1e-5)
    with trace(model, Zero("mid")):
        assert torch.equal(compiled(x), torch.zeros(2, 4))
    assert torch.allclose(compiled(x), inner(x), atol=1e-5)


def test_an_adapted_stage_has_its_sites_under_its_name() -> None:
    model = Denoiser()
    model.ends["head"] = adapt(model.ends["head"], {"out": Place("", "b f n c")})
    with Probe(model) as probe:
        plain = model(start())
    assert probe.sites["ends.head.out"].shape == (3, 4, 5, 4)
    with trace(model, Scale("ends.head.out", 2)):
        assert torch.equal(model(start()), plain * 2)


def test_a_place_without_an_identity_is_known_before_a_run() -> None:
    adapted = adapt(nn.Sequential(nn.Linear(3, 5)), {"out": Place("0", "b c", identity=None)})
    sites = adapted.sites(run=lambda: adapted(torch.zeros(1, 3)))
    assert sites["out"].bypass is False
    with pytest.raises(ValueError, match="states no identity"), trace(adapted, Bypass("out"), sites=sites):
        adapted(torch.zeros(1, 3))
