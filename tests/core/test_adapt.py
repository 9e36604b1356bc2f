"""Adapters: modules of other libraries get sites from a table, and are as they were after any exit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wanlab.core import Bypass, Identity, LedgerError, Mean, Place, Probe, Scale, UnknownSite, Zero, adapt, clock, trace

HEADS = {"reshape": "b n (k d) -> b k n d", "sizes": {"k": "n_heads"}}
T5 = {
    "embed": Place("encoder.embed_tokens", "b n c"),
    "blocks.{i}.resid": Place("encoder.block.{i}", "b n c", side="input", item="hidden_states"),
    **{f"blocks.{{i}}.attn.{one}": Place(f"encoder.block.{{i}}.layer.0.SelfAttention.{one}", **HEADS) for one in "qkv"},
    "blocks.{i}.attn.z": Place("encoder.block.{i}.layer.0.SelfAttention.o", side="input", **HEADS),
    "blocks.{i}.attn.out": Place("encoder.block.{i}.layer.0.SelfAttention", "b n c", item=0, identity="zeros"),
    "blocks.{i}.mlp": Place("encoder.block.{i}.layer.1.DenseReluDense", "b n c", identity="zeros"),
    "blocks.{i}.out": Place("encoder.block.{i}", "b n c", item=0),
    "out": Place("", "b n c", item="last_hidden_state"),
}
BLOCK = "{part}_blocks.{i}.attentions.{j}.transformer_blocks.0"
CROSS = {"reshape": "b n (k d) -> b k n d", "sizes": {"k": "heads"}}
UNET = {
    **{f"{{part}}.{{i}}.{{j}}.attn{{m}}.{one}": Place(f"{BLOCK}.attn{{m}}.to_{one}", **CROSS) for one in "qkv"},
    "{part}.{i}.{j}.attn{m}.z": Place(f"{BLOCK}.attn{{m}}.to_out.0", side="input", **CROSS),
    "{part}.{i}.resnet.{j}": Place("{part}_blocks.{i}.resnets.{j}", "b c h w"),
    "down.{i}.out": Place("down_blocks.{i}", "b c h w", item=0),
    "down.{i}.skip": Place("down_blocks.{i}", "b c h w", item=(1, 0)),
    "mid.context": Place("mid_block", "b j c", side="input", item="encoder_hidden_states"),
    "time": Place("time_embedding", "b c", identity=None),
    "prediction": Place("", "b c h w", item="sample"),
}


@pytest.fixture(scope="module")
def t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(vocab_size=40, d_model=32, d_kv=6, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0,
                      feed_forward_proj="gated-gelu")
    return _perturbed(T5EncoderModel(config))


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return _perturbed(UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        cross_attention_dim=12, attention_head_dim=(2, 4), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")))


def _perturbed(model: nn.Module) -> nn.Module:
    """Without the zeros and ones of a fresh model, which would hide what lies before them."""
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval().requires_grad_(False)


def words(rows: int = 3) -> Tensor:
    return torch.arange(rows * 7).reshape(rows, 7) % 37 + 1


def denoise(unet: nn.Module, rows: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    x, context = torch.randn(rows, 4, 8, 8, generator=draw), torch.randn(rows, 5, 12, generator=draw)
    return unet(x, torch.tensor(3), encoder_hidden_states=context).sample


def hooks(model: nn.Module) -> list[tuple[int, ...]]:
    kept = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
            "_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks")
    return [tuple(len(getattr(module, one)) for one in kept) for module in model.modules()]


def with_hook(module: nn.Module, change: Callable[[Tensor], Tensor], run: Callable[[], Tensor], before: bool = False) -> Tensor:
    """The reference: a plain forward hook of torch that changes the first input or the output."""
    handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:])) if before else \
        module.register_forward_hook(lambda _, args, out: change(out))
    try:
        return run()
    finally:
        handle.remove()


def without(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., start:stop] = 0
        return x
    return change


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
    from copy import deepcopy

    inner = deepcopy(t5).bfloat16()
    model, plain = adapt(inner, T5), inner(words()).last_hidden_state
    with trace(model, [Identity("**"), Scale("blocks.0.attn.v", 0.5, heads=1)], "blocks.0.attn.v"):
        out = model(words()).last_hidden_state
    assert out.dtype == plain.dtype == torch.bfloat16 and not torch.equal(out, plain)


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


# ------------------------------------------------------------------------------------------------ shapes of calls

class Shared(nn.Module):
    """One layer at two paths, run three times, and containers of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.a = self.b = nn.Linear(4, 4)
        self.wrap, self.qkv = Wrap(), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Any:
        for _ in range(2):
            x = self.a(x)
        return self.qkv(self.b(self.wrap(1.0, inner={"x": [x, None]})["kept"][0].value))


class Holder:
    def __init__(self, value: Tensor) -> None:
        self.value = value


class Wrap(nn.Module):
    def forward(self, factor: float, inner: dict[str, Any], more: Tensor | None = None) -> dict[str, Any]:
        return {"kept": [Holder(inner["x"][0] * factor)]}


SHARED = {
    "a": Place("a", "b c"), "b": Place("b", "b c"), "any": Place("{a,b}", "b c"),
    "given": Place("wrap", "b c", side="input", item=["inner", "x", 0]),
    "made": Place("wrap", "b c", item=("kept", 0, "value"), identity=None),
    "k": Place("qkv", reshape="b (k d) -> b k d", sizes={"k": 2}, part=(1, 3, -1)),
}


def test_a_module_that_runs_three_times_fires_three_times_and_a_shared_one_stands_once() -> None:
    inner, x = Shared(), torch.randn(2, 4)
    model = adapt(inner, SHARED)
    with trace(model, [Scale("a", 2.0)], ["a", "b", "any"]) as t:
        out = model(x)
    assert torch.allclose(out, inner.qkv(2 * inner.a(2 * inner.a(2 * inner.a(x)))))
    assert [sum(line.seen.values()) for line in t.ledger] == [3, 3, 3, 3] and len(t.record.firings) == 9
    assert torch.equal(t.record["a"].tensor[1], 2 * inner.a(2 * inner.a(x)))
    assert model.sites().names == ["a", "b", "any", "given", "made", "k"]


def test_containers_are_reached_into_and_never_written_to() -> None:
    inner, x = Shared(), torch.randn(2, 4)
    model, given = adapt(inner, SHARED), []
    handle = inner.wrap.register_forward_hook(lambda _, args, kwargs, out: given.append((kwargs, out)), with_kwargs=True)
    plain = inner(x)
    for site in ("given", "made"):
        with trace(model, Scale(site, 3.0)):
            assert torch.equal(model(x), inner.qkv(inner.b(3.0 * inner.a(inner.a(x)))))
    handle.remove()
    twice = inner.a(inner.a(x))
    assert torch.equal(given[1][0]["inner"]["x"][0], 3 * twice) and torch.equal(given[2][1]["kept"][0].value, twice)
    with trace(model, Zero("k", heads=1)):
        out = model(x)
    assert not out[:, 6:8].any() and torch.equal(out[:, :6], plain[:, :6]) and torch.equal(out[:, 8:], plain[:, 8:])


@pytest.mark.parametrize(("place", "message"), [
    (Place("wrap", "b c"), r"s: the output of wrap: it is dict of kept, where only a tensor can be seen; item= says which part"),
    (Place("wrap", "b c", item=("kept", 3)), r"item \['kept'\] is list of Holder, which has no 3"),
    (Place("wrap", "b c", side="input", item="more"), r"s: wrap is called without its input 'more'; it is given factor, inner"),
    (Place("wrap", "b c", side="input"), "s: the input of wrap: it is float"),
    (Place("qkv", reshape="b (k d) -> b k d", sizes={"k": 5}),
     r"s: 'b \(k d\) -> b k d' with k=5 does not fit a dimension of 12; the tensor at qkv has shape \(2, 12\)"),
    (Place("qkv", reshape="b n c -> n b c"), r"s: 'b n c -> n b c' is for 3 dimensions; the tensor at qkv has shape \(2, 12\)"),
    (Place("qkv", "b c", part=(0, 5, 1)), r"s: a tensor of shape \(2, 12\) has no 5 equal parts along dimension 1"),
])
def test_what_a_module_does_not_give_is_told_by_site_and_shape(place: Place, message: str) -> None:
    model = adapt(Shared(), {"s": place})
    with pytest.raises(ValueError, match=message), trace(model, Zero("s")):
        model(torch.randn(2, 4))
    assert hooks(model) == hooks(adapt(Shared(), {}))


# ------------------------------------------------------------------------------------------------ nothing is silent

@pytest.mark.parametrize(("table", "message"), [
    ({"s": Place("encoder.blok.0", "b n c")}, r"s: no module at 'encoder.blok.0' of T5EncoderModel; nearest: encoder.block.0, "),
    ({"s": Place("encoder.block.{i}", "b n c")}, r"'s' would stand at two modules, 'encoder.block.0' and 'encoder.block.1'"),
    ({"{j}.s": Place("encoder.block.{i}", "b n c")}, r"\{j\} is no capture of the path 'encoder.block.\{i\}'; nearest: i"),
    ({"s": Place("encoder.block", "b n c")}, "'encoder.block' is a ModuleList, which is never called"),
    ({"s": Place("encoder.block.0", "b n c", side="input", item="hiden_states")}, "no input 'hiden_states'|hiden_states"),
    ({"s": Place("encoder.final_layer_norm", "b n c", side="input", item="x")}, "has no input 'x'; nearest: hidden_states"),
    ({"s": Place("encoder.block.0.layer.0.SelfAttention.q", reshape="b n (k d) -> b k n d")}, "needs the size of k or d"),
    ({"s": Place("encoder.block.0.layer.0.SelfAttention.q", reshape="b n (k d) -> b k n d", sizes={"k": "heads"})},
     "s: neither 'encoder.block.0.layer.0.SelfAttention.q' nor any module around it has a number 'heads'; nearest: n_heads"),
    ({"s[0]": Place("encoder.final_layer_norm", "b n c")}, "is no name for a site"),
    ({"s": "encoder"}, "is no place"), ({"s": {"path": "encoder", "axis": "b"}}, "a place has no 'axis'; nearest: axes"),
])
def test_a_table_that_does_not_fit_raises_when_it_is_adapted(t5: nn.Module, table: dict[str, Any], message: str) -> None:
    if "hiden_states" in str(table):
        model = adapt(t5, table)                # its module takes any keyword, so only a call can tell
        with pytest.raises(ValueError, match=message), trace(model, Zero("s")):
            model(words())
        return
    with pytest.raises(ValueError, match=message):
        adapt(t5, table)


@pytest.mark.parametrize(("fields", "message"), [
    ({"side": "inputs"}, "side 'inputs'; nearest: input"), ({"axes": None}, "give axes="),
    ({"axes": None, "reshape": "b n c"}, "expected two sides"),
    ({"axes": None, "reshape": "b n -> b c"}, "same names on both sides"), ({"reshape": "b (n -> n b"}, r"cannot read '\(n'"),
    ({"axes": "b c n", "reshape": "b n c -> b n c"}, "not those of the"),
    ({"axes": None, "reshape": "b n c -> b (n c)"}, "has groups: name the site's axes"), ({"sizes": {"k": 2}}, "sizes of k"),
    ({"part": (3, 3, -1)}, "no part 3 of 3"),
])
def test_a_place_that_cannot_be_meant_raises_when_it_is_written(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Place(**{"path": "a", "axes": "b n c", **fields})


def test_sizes_for_the_whole_table_and_groups_on_the_right() -> None:
    inner, x = nn.Linear(5, 5), torch.randn(6, 4, 5)
    model = adapt(inner, {"frames": {"path": "", "axes": "b f n c", "reshape": "(b f) n c -> b f n c"},
                          "flat": Place("", "b n c", reshape="(b f) n c -> b (f n) c")}, sizes={"f": 3})
    sites = model.sites(run=lambda: model(x))
    assert sites["frames"].shape == (2, 3, 4, 5) and sites["flat"].shape == (2, 12, 5)
    with trace(model, Zero("frames", frames=1, rows=0)):
        out = model(x)
    expected = inner(x)
    expected[1] = 0
    assert torch.equal(out, expected)


def test_a_module_that_other_code_passes_by_is_in_the_ledger() -> None:
    inner = nn.Sequential(nn.Linear(4, 4))
    model = adapt(inner, {"out": Place("0", "b c")})
    with pytest.raises(LedgerError, match="the site never fired"), trace(model, Zero("out")):
        nn.functional.linear(torch.ones(2, 4), inner[0].weight)


# ------------------------------------------------------------------------------------------------ nothing stays behind

def test_exceptions_at_any_site_leave_no_hook_and_those_of_others_stand(t5: nn.Module) -> None:
    fired: list[int] = []
    handle = t5.encoder.block[0].register_forward_hook(lambda *_: fired.append(1))
    model, before = adapt(t5, T5), hooks(t5)
    plain = t5(words()).last_hidden_state

    def fail(x: Tensor) -> Tensor:
        raise error

    from wanlab.core import Replace
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
    import copy
    import pickle

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


def test_gradients_reach_the_kept_values_of_reshaped_sites(t5: nn.Module) -> None:
    model = adapt(t5, T5)
    embeds = torch.randn(2, 5, 32, requires_grad=True)
    with trace(model, Identity("{blocks.**,out}"), ["blocks.0.attn.z -> graph", "blocks.0.out -> graph"]) as t:
        loss = model(inputs_embeds=embeds).last_hidden_state.square().sum()
    z, out = (t.record[site].tensor for site in ("blocks.0.attn.z", "blocks.0.out"))
    found = torch.autograd.grad(loss, [z, out, embeds])
    assert found[0].shape == (2, 4, 5, 6) and all(one.abs().sum() > 0 for one in found)


def test_it_compiles_without_a_break_and_traces_afterwards() -> None:
    inner, x = nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.randn(2, 4)
    model = adapt(inner, {"mid": Place("0", "b c")})
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), inner(x), atol=1e-5)
    with trace(model, Zero("mid")):
        assert torch.equal(compiled(x), torch.zeros(2, 4))
    assert torch.allclose(compiled(x), inner(x), atol=1e-5)


def test_an_adapted_stage_has_its_sites_under_its_name() -> None:
    from tests.core.models import Denoiser, start

    model = Denoiser()
    model.ends["head"] = adapt(model.ends["head"], {"out": Place("", "b f n c")})
    with Probe(model) as probe:
        plain = model(start())
    assert probe.sites["ends.head.out"].shape == (3, 4, 5, 4)
    with trace(model, Scale("ends.head.out", 2)):
        assert torch.equal(model(start()), plain * 2)
