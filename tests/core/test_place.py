"""Places: tables that do not fit, containers of all kinds, modules that run several times or stand at two paths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.core.foreign import hooks, tiny_t5, words
from wanlab.core import LedgerError, Place, Scale, Zero, adapt, trace


@pytest.fixture(scope="module")
def t5() -> nn.Module:
    return tiny_t5()


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
