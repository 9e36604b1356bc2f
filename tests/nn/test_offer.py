"""Reads of attention at its sites: computed for those who listen, of a model whose tokens of all frames stand in one row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from wanlab.core import BudgetError, Grid, Hookable, Identity, LedgerError, Probe, Record, Scale, Zero, clock, trace
from wanlab.nn.attention import Attention
from wanlab.nn.offer import READS, split_keys

FRAMES, HEIGHT, WIDTH, WORDS, PATCHES = 3, 2, 4, 9, 5


class Row(Hookable):
    """Self-attention over all tokens of a video and a register, then cross-attention to text with image tokens behind it."""

    SITES = {"out": "b n c"}

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.cross = Attention(32, 2), Attention(32, 2, context_width=16)

    def forward(self, x: Tensor, text: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x + self.attn(x)
        return self.site("out", x + self.cross(x, text, bias))


def grid_of(site: str) -> Grid | None:
    """As a pipeline would announce it."""
    if site.startswith("cross.k"):
        return Grid(1, 1, PATCHES, start=WORDS, of="image")
    return Grid(FRAMES, HEIGHT, WIDTH)


@pytest.fixture
def model() -> Row:
    return Row().eval().requires_grad_(False)


@pytest.fixture
def given() -> tuple[Tensor, Tensor]:
    """Tokens with one that stands nowhere; text of two rows with 4 and 6 words, then padding of zeros."""
    x, text = torch.randn(2, FRAMES * HEIGHT * WIDTH + 1, 32), torch.randn(2, WORDS + PATCHES, 16)
    text[0, 4:WORDS], text[1, 6:WORDS] = 0, 0
    return x, text


def run(model: nn.Module, given: tuple[Tensor, Tensor], *, edits: tuple = (), capture: object = ()) -> tuple[Tensor, object]:
    announced = clock.announce(grid_of=grid_of, text_sites="cross.k", tokens_of=lambda word, row: [0, 2][: 1 + row],
                               words=[["left"], ["left"]], seeds=(0, 1))
    with announced, trace(model, edits, capture) as t:  # type: ignore[arg-type]
        return model(*given), t.record


def test_every_read_has_its_axes_and_leaves_the_bytes(model: Row, given: tuple[Tensor, Tensor]) -> None:
    plain = model(*given)
    out, record = run(model, given, capture="**")
    assert torch.equal(out, plain)
    for site in ("attn", "cross"):
        for read in READS:
            entry = record[f"{site}.{read}"]
            assert " ".join(entry.axes) == getattr(model, site).SITES[read] and torch.isfinite(entry.tensor).all()


def test_mass_is_the_sum_of_the_map_over_each_part(model: Row, given: tuple[Tensor, Tensor]) -> None:
    _, record = run(model, given, capture=["{attn,cross}.{pattern,mass}"])
    dense, mass = record["attn.pattern"].tensor, record["attn.mass"]
    frames = dense[..., :-1].unflatten(-1, (FRAMES, -1)).sum(-1)
    assert mass.labels["part"].values.tolist() == ["frame 0", "frame 1", "frame 2", "rest"]
    assert torch.allclose(mass.tensor, torch.cat([frames, dense[..., -1:]], -1), atol=1e-6)
    dense, mass = record["cross.pattern"].tensor, record["cross.mass"]
    assert mass.labels["part"].values.tolist() == ["text", "padding", "image"]
    for row, words in enumerate((4, 6)):
        wanted = [part.sum(-1) for part in dense[row].split([words, WORDS - words, PATCHES], -1)]
        assert torch.allclose(mass.tensor[row], torch.stack(wanted, -1), atol=1e-6)


def test_a_streamed_read_keeps_its_labels_in_files_and_merges(model: Row, given: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    parts = ["frame 0", "frame 1", "frame 2", "rest"]
    records = [run(model, given, capture="attn.mass -> mean(per=k|p)")[1] for _ in range(2)]
    assert records[0]["attn.mass"].labels["part"].values.tolist() == parts
    loaded = Record.load(records[0].save(tmp_path / "mass.safetensors"))
    loaded.update(records[1])
    assert loaded["attn.mass"].labels["part"].values.tolist() == parts
    assert list(loaded["attn.mass"].to_xarray().coords["part"].values) == parts


def test_hidden_keys_are_padding(model: Row, given: tuple[Tensor, Tensor]) -> None:
    bias = torch.zeros(2, 1, 1, WORDS + PATCHES)
    bias[..., 2:WORDS] = -1e9
    _, record = run(model, (*given, bias), capture="cross.{mass,pattern,bias}")
    assert torch.allclose(record["cross.mass"].tensor[..., 0], record["cross.pattern"].tensor[..., :2].sum(-1), atol=1e-6)
    assert record["cross.bias"].tensor.shape == (2, 1, 1, WORDS + PATCHES)


def test_a_bias_has_the_rows_of_the_batch_though_nothing_is_added(model: Row, given: tuple[Tensor, Tensor]) -> None:
    plain = model(*given)
    out, record = run(model, given, edits=(Identity("attn.bias", rows=[0, -2, 1]),), capture="*.bias[rows=1]")
    assert torch.equal(out, plain)
    for site in ("attn", "cross"):
        assert record[f"{site}.bias"].tensor.shape == (1, 1, 1, 1) and not record[f"{site}.bias"].tensor.any()


def test_moments_say_where_attention_goes(model: Row, given: tuple[Tensor, Tensor]) -> None:
    _, record = run(model, given, capture="attn.{pattern,moments}")
    dense, moments = record["attn.pattern"].tensor[..., :-1, :-1], record["attn.moments"]
    t = torch.tensor([-1 / 3, 0, 1 / 3]).repeat_interleave(HEIGHT * WIDTH)
    y = torch.tensor([-0.125, 0.125]).repeat_interleave(WIDTH).repeat(FRAMES)         # in widths of the frame
    x = torch.tensor([-0.375, -0.125, 0.125, 0.375]).repeat(FRAMES * HEIGHT)
    dt, dy, dx = (line - line[:, None] for line in (t, y, x))
    wanted = [torch.ones_like(dt), dt, dy, dx, dt**2, dy**2 + dx**2]
    assert moments.labels["moment"].values.tolist() == ["mass", "dt", "dy", "dx", "dt2", "dr2"]
    assert torch.allclose(moments.tensor[..., :-1, :], torch.stack([(dense * one).sum(-1) for one in wanted], -1), atol=1e-6)
    assert not moments.tensor[..., -1, :].any()                 # the register stands nowhere


def test_a_part_of_the_map_is_that_part_and_no_more_is_computed(model: Row, given: tuple[Tensor, Tensor],
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    _, record = run(model, given, capture="attn.pattern")
    whole = record["attn.pattern"].tensor
    monkeypatch.setattr("wanlab.nn.attention.attention_pattern", lambda *_: pytest.fail("the dense map was computed"))
    for limits, at in (("tokens=3|7", (..., [3, 7], slice(None))), ("heads=1,keys=0:4", (slice(None), [1], slice(None), slice(4))),
                       ("rows=1,tokens=-1", (slice(1, 2), slice(None), slice(-1, None)))):
        _, some = run(model, given, capture=f"attn.pattern[{limits}]")
        assert torch.allclose(some["attn.pattern"].tensor, whole[at], atol=1e-6), limits
    _, some = run(model, given, capture="attn.pattern[heads=0] -> mean(per=n)")
    assert torch.allclose(some["attn.pattern"].tensor, whole[:, :1].mean((0, 1, 3)), atol=1e-6)


def test_a_dry_run_reads_the_shapes_and_computes_nothing(model: Row, given: tuple[Tensor, Tensor],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("attention.attention_pattern", "reads.attend_lse"):
        monkeypatch.setattr(f"wanlab.nn.{place}", lambda *_: pytest.fail("computed"))
    with clock.announce(grid_of=grid_of, text_sites="cross.k"), Probe(model) as probe:
        model(*given)
    n = FRAMES * HEIGHT * WIDTH + 1
    assert probe.sites["attn.pattern"].shape == (2, 2, n, n) and probe.sites["attn.mass"].shape == (2, 2, n, 4)
    assert probe.sites["cross.mass"].shape == (2, 2, n, 3) and probe.sites["attn.mass"].derived


def test_a_map_over_the_budget_is_refused_before_it_is_computed(model: Row, given: tuple[Tensor, Tensor],
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanlab.nn.attention.attention_pattern", lambda *_: pytest.fail("computed"))
    with pytest.raises(BudgetError, match=r"attn.pattern needs .* GiB in memory.*'attn.pattern -> mean'"), \
            trace(model, capture="attn.pattern", budget=5000):
        model(*given)


def test_reads_follow_an_edited_map_and_the_log_sum_exp_says_that_it_does_not(model: Row, given: tuple[Tensor, Tensor]) -> None:
    _, record = run(model, given, edits=(Scale("attn.pattern", 0.5),), capture="attn.{pattern,mass,entropy,received,lse}")
    dense = record["attn.pattern"].tensor
    assert torch.allclose(record["attn.mass"].tensor.sum(-1), torch.full_like(dense[..., 0], 0.5), atol=1e-6)
    assert torch.allclose(record["attn.received"].tensor, dense.sum(-2), atol=1e-6)
    assert torch.allclose(record["attn.entropy"].tensor, -torch.xlogy(dense, dense).sum(-1), atol=1e-6)
    assert record["attn.lse"].tensor.isnan().all()
    _, record = run(model, given, edits=(Identity("attn.pattern"),), capture="attn.lse")
    assert torch.isfinite(record["attn.lse"].tensor).all()


def test_a_read_cannot_be_edited(model: Row, given: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(Exception, match=r"attn.mass"):
        run(model, given, edits=(Zero("attn.mass"),))


def test_a_glob_edits_what_can_be_edited(model: Row, given: tuple[Tensor, Tensor]) -> None:
    with trace(model, edits=Zero("cross.*")) as t:
        model(*given)
    assert {line.site for line in t.ledger} == {f"cross.{name}" for name in ("q", "k", "v", "pattern", "z", "out")}


def test_split_keys_are_opt_in_and_round_otherwise(model: Row, given: tuple[Tensor, Tensor]) -> None:
    plain, record = run(model, given, capture="attn.mass")
    with split_keys():
        untouched, _ = run(model, given, capture="attn.entropy")
        split, parts = run(model, given, capture="attn.mass")
    assert torch.equal(untouched, plain) and not torch.equal(split, plain) and torch.allclose(split, plain, atol=1e-5)
    assert torch.allclose(parts["attn.mass"].tensor, record["attn.mass"].tensor, atol=1e-6)


def test_reads_pass_no_gradient_and_take_none_away(model: Row, given: tuple[Tensor, Tensor]) -> None:
    x, text = given
    grads = []
    for capture in ((), "attn.{mass,entropy,pattern}"):
        leaf = x.clone().requires_grad_()
        out, _ = run(model, (leaf, text), capture=capture)
        out.square().sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


def test_a_grid_that_does_not_fit_says_both_numbers(model: Row, given: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"attn.k has 25 tokens, but their grid is said to be 9x9x9"), \
            clock.announce(grid_of=lambda site: Grid(9, 9, 9)), trace(model, capture="attn.mass", strict=False):
        model(*given)
    with pytest.raises(ValueError, match="at least one frame"):
        Grid(0, 1, 1)


def test_a_capture_of_a_read_that_never_comes_is_a_fault(model: Row) -> None:
    with pytest.raises(LedgerError, match=r"attn\.mass"), trace(model, capture="attn.mass"):
        torch.zeros(1)
