"""Edits: data that reads back to itself, and tensors changed exactly where the selection reaches."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from torch import Tensor

from tests.core.models import BRANCHES, Denoiser, start, tokens_of
from tests.core.test_select import indices
from wanlab.core import (
    KINDS,
    Bypass,
    CutFrames,
    Edit,
    EditError,
    Entry,
    Event,
    FreezeFrame,
    Identity,
    LowPassFrames,
    Mean,
    Noise,
    NotSerialisable,
    Patch,
    Plan,
    Probe,
    Record,
    RecordError,
    Replace,
    Resample,
    ReverseFrames,
    Scale,
    ShuffleFrames,
    Site,
    Steer,
    Tick,
    UnknownSite,
    Zero,
    clock,
    edit_from_dict,
    trace,
)
from wanlab.core.record import Key

SITE = Site("a.z", ("b", "f", "n", "c"))
HASH = "73c2f0cbeecb90576e4acee8f1fd1d0cb0d3024d20be6350673358b5c8113f3a"     # of {"at":"a","heads":2,"kind":"zero"}
X = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
SIMPLE = [
    Identity("a"), Zero("a"), Mean("a"), Mean("a", over="b"), Resample("a"), Noise("a", 0.5), Scale("a", 2),
    Steer("a", torch.arange(6.0), strength=0.5), Bypass("a"), FreezeFrame("a", 1), ShuffleFrames("a", seed=3),
    ReverseFrames("a"), LowPassFrames("a", window=5),
]


def event(x: Tensor = X, seeds: tuple[int, ...] | None = None, site: Site = SITE) -> Event:
    return Event(site, Tick(2, 0.5, "cond"), Plan(steps=4, seeds=seeds), torch.ones_like(x))


def through_yaml(data: dict) -> dict:
    text = io.StringIO()
    YAML(typ="safe").dump(data, text)
    return YAML(typ="safe").load(text.getvalue())


@pytest.mark.parametrize("edit", [*SIMPLE, CutFrames("a", block=2)], ids=str)
def test_yaml_in_and_out(edit: Edit) -> None:
    data = through_yaml(edit.to_dict())
    assert edit_from_dict(data) == edit and edit_from_dict(data).hash == edit.hash
    assert edit_from_dict(data).to_dict() == data


@given(st.sampled_from(SIMPLE), st.none() | indices, st.none() | indices, st.sampled_from([None, "cond", "uncond"]))
def test_limits_travel_with_any_kind(edit: Edit, frames: list, steps: list, branch: str) -> None:
    limits = {"frames": frames, "steps": steps, "branch": branch}
    data = edit.to_dict() | {key: value for key, value in limits.items() if value}
    read = edit_from_dict(data)
    assert edit_from_dict(through_yaml(read.to_dict())) == read
    assert (read.hash == edit.hash) == (read == edit)


def test_a_function_says_that_it_cannot_be_written_down() -> None:
    edit = Replace("a", torch.zeros_like)
    for write in (edit.to_dict, lambda: edit.hash):
        with pytest.raises(NotSerialisable, match="a Python function cannot be written down"):
            write()
    assert "zeros_like" in str(edit)


@pytest.mark.parametrize("edit", SIMPLE, ids=str)
def test_an_edit_shows_itself_as_one_would_type_it(edit: Edit) -> None:
    limited = edit_from_dict(edit.to_dict() | {"rows": [0, 2], "steps": "0:8", "mask": "01/10"})
    for one in (edit, limited):
        assert eval(repr(one)) == one and "None" not in repr(one)


def test_how_edits_read() -> None:
    edit = Zero("fusion.attn.z", heads=[2], steps="0:8", branch="cond")
    assert repr(edit) == "Zero('fusion.attn.z', heads=2, steps='0:8', branch='cond')"
    assert str(edit) == "zero(fusion.attn.z[heads=2]@steps=0:8,branch=cond)"
    assert repr(Scale("a", 2)) == "Scale('a', factor=2.0)" and str(Scale("a", 2)) == "scale(a, factor=2.0)"
    assert repr(Replace("a", torch.zeros_like, rows=1)) == "Replace('a', rows=1, function=zeros_like)"
    assert str(Steer("a", torch.zeros(64))) == "steer(a, direction=(0.0, 0.0, 0.0, ... 64 numbers))"
    record = Record()
    record.add(Key("a"), Entry(torch.zeros(2), ("c",)))
    assert repr(Patch("a", record)).startswith("Patch('a', record=<record ") and "in memory>" in repr(Patch("a", record))


def test_the_hash_is_stable_and_tells_edits_apart() -> None:
    assert Zero("a[heads=2]@steps=0:8").hash == Zero("a", heads=[2], steps="0:8").hash
    assert Zero("a", heads=2).hash == HASH
    assert len({edit.hash for edit in SIMPLE}) == len(SIMPLE)


def test_all_kinds_are_registered() -> None:
    assert {type(edit).kind for edit in SIMPLE} | {"cut_frames", "patch", "replace"} <= set(KINDS)


@pytest.mark.parametrize("edit", SIMPLE, ids=str)
def test_only_the_selection_changes_and_the_input_never(edit: Edit) -> None:
    before, limits = X.clone(), {"frames": [1, 3], "rows": "1:"}
    limited = edit_from_dict(edit.to_dict() | limits)
    y, whole = limited.apply(X, event()), edit.apply(X, event())
    assert torch.equal(X, before)
    region = torch.zeros(3, 4, dtype=torch.bool)
    region[1:, [1, 3]] = True
    assert torch.equal(y[~region], X[~region]) and torch.equal(y[region], whole[region])
    assert edit.kind == "identity" or not torch.equal(y, X)
    assert y.stride() == X.stride() and y.dtype == X.dtype


def test_what_each_kind_does() -> None:
    assert Identity("a").apply(X, event()) is X
    assert not Zero("a").apply(X, event()).any()
    assert torch.equal(Scale("a", 0.5).apply(X, event()), X * 0.5)
    assert torch.equal(Bypass("a").apply(X, event()), torch.ones_like(X))
    assert torch.equal(FreezeFrame("a", frame=-1).apply(X, event()), X[:, 3:].expand_as(X))
    assert torch.equal(ReverseFrames("a").apply(X, event()), X.flip(1))
    assert torch.allclose(Mean("a").apply(X, event()), X.mean((1, 2), keepdim=True).expand_as(X))
    assert torch.allclose(Mean("a", over="b f").apply(X, event()), X.mean((0, 1), keepdim=True).expand_as(X))
    steered = Steer("a", [0, 1, 0, 0, 0, 0], strength=-2).apply(X, event())
    assert torch.allclose(steered - X, torch.tensor([0.0, -2, 0, 0, 0, 0]).expand_as(X), atol=1e-6)
    shuffled = ShuffleFrames("a", seed=1).apply(X, event())
    assert not torch.equal(shuffled, X) and torch.equal(shuffled.sort(1)[0], X.sort(1)[0])
    low = LowPassFrames("a").apply(X, event())
    assert torch.allclose(low[:, 1], X[:, :3].mean(1), atol=1e-6)
    assert torch.allclose(low[:, 0], X[:, :2].mean(1), atol=1e-6)
    assert torch.equal(Replace("a", lambda x: x.zero_()).apply(X, event()), torch.zeros_like(X)) and X.any()


def test_resample_moves_every_row_and_needs_two() -> None:
    y = Resample("a", seed=5).apply(X, event())
    source = [[torch.equal(y[row], X[other]) for other in range(3)].index(True) for row in range(3)]
    assert sorted(source) == [0, 1, 2] and all(row != other for row, other in enumerate(source))
    with pytest.raises(EditError, match="needs other samples"):
        Resample("a").apply(X[:1], event(X[:1]))


def test_noise_is_relative_and_belongs_to_the_sample_not_the_batch() -> None:
    big = 100 * torch.randn(2, 400, 5, 6, generator=torch.Generator().manual_seed(1))
    added = Noise("a", std=0.5).apply(big, event(big)) - big
    assert torch.allclose(added.std((1, 2, 3)) / big.std((1, 2, 3)), torch.tensor(0.5), rtol=0.05)
    batch = Noise("a", seed=3).apply(X, event(seeds=(7, 8, 9)))
    alone = Noise("a", seed=3).apply(X[1:2], event(X[1:2], seeds=(8,)))
    assert torch.equal(batch[1:2], alone)
    assert not torch.equal(batch, Noise("a", seed=4).apply(X, event(seeds=(7, 8, 9))))


def test_cut_frames_leaves_blocks_that_sum_to_one() -> None:
    site, x = Site("t.pattern", ("b", "n", "k", "f", "j")), torch.rand(2, 3, 1, 4, 4).softmax(-1)
    y = CutFrames("t", block=2).apply(x, event(x, site=site))
    assert not y[..., :2, 2:].any() and not y[..., 2:, :2].any()
    assert torch.allclose(y.sum(-1), torch.ones(()))
    assert torch.allclose(y[..., 0, 0] / y[..., 0, 1], x[..., 0, 0] / x[..., 0, 1], rtol=1e-4)
    with pytest.raises(EditError, match="pattern ends in axes 'f j'"):
        CutFrames("t").check(Site("s.pattern", ("b", "f", "k", "n", "j")))


def test_patch_takes_the_same_moment_of_another_run(tmp_path: Path) -> None:
    model, site = Denoiser(), "blocks.0.out"
    with trace(model, capture=[site, "picture"]) as clean:
        model(start())
    with trace(model, Patch(site, clean.record), capture="picture") as patched:
        model(start() + 1)
    with trace(model, capture="picture") as other:
        model(start() + 1)
    assert not torch.equal(patched.record["picture"].tensor, other.record["picture"].tensor)
    unsaved = Patch(site, clean.record)
    with pytest.raises(RecordError, match="save it"):
        unsaved.to_dict()
    clean.record.save(tmp_path / "clean.safetensors")
    saved = Patch(site, tmp_path / "clean.safetensors")
    assert edit_from_dict(through_yaml(saved.to_dict())) == saved
    with trace(model, saved, capture="picture") as again:
        model(start() + 1)
    assert torch.equal(again.record["picture"].tensor, patched.record["picture"].tensor)


def test_many_patches_from_one_file_read_it_once_and_see_that_it_was_written_anew(tmp_path: Path) -> None:
    path, model = tmp_path / "clean.safetensors", Denoiser()
    for shift in (0, 1):
        with torch.no_grad(), trace(model, capture="picture") as t:
            model(start() + shift)
        t.record.save(path)
        some = [Patch("picture", path, frames=0), Patch("picture", path, frames=1)]
        sources = [edit.record for edit in (*some, edit_from_dict(some[0].to_dict()))]  # type: ignore[attr-defined]
        assert all(source.record is sources[0].record for source in sources), "one file is read several times"
        assert sources[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert torch.equal(sources[2].record["picture"].tensor, t.record["picture"].tensor)


def test_a_patch_of_another_geometry_or_an_unknown_site_raises() -> None:
    model = Denoiser()
    with trace(model, capture="blocks.0.out") as clean:
        model(start(2))
    with pytest.raises(RecordError, match=r"b=2 f=4 n=5 c=8, blocks.0.out b=3 f=4 n=5 c=8: b differ"), \
            trace(model, Patch("blocks.0.out", clean.record)):
        model(start(3))
    other = Record()
    other.add(Key("blocks.0.out"), Entry(torch.zeros(2, 4, 5, 9), ("b", "f", "n", "c")))
    with Probe(model) as probe:
        model(start(1), steps=1)
    with pytest.raises(RecordError, match="c differ"):      # before anything runs
        trace(model, Patch("blocks.0.out", other), sites=probe.sites)
    with pytest.raises(UnknownSite, match=r"'blocks.1.out' is not recorded; nearest: blocks.0.out"):
        trace(model, Patch("blocks.1.out", clean.record))


def test_what_cannot_be_done_in_this_run_is_refused_before_it() -> None:
    model = Denoiser()
    with Probe(model) as probe:
        model(start(1), steps=1)
    with trace(model, capture=["blocks.0.out@steps=0:2", "latent -> mean"]) as t:
        model(start(2))
    record, out = t.record, "blocks.0.out"
    for edit, message in (
        (Patch(out, record, steps="0:2"), r"b=2 .* b=3 .*: b differ"), (Patch(out, record, rows=0), "not for step 2, branch cond"),
        (Patch("blocks.1.out", record, out, steps="2:"), "blocks.0.out is recorded for step 0, branch cond; .* not for step 2"),
        (Resample(out, reference=record), "not for step 2"), (Resample("latent", reference=record), "holds no single samples"),
        (Mean(out, reference=record, steps=2, branch="uncond"), "not for step 2, branch uncond"),
        (Patch("picture", record, "latent"), "it cannot stand there"), (FreezeFrame(out, 4), r"has 4 frames \(0 to 3\)"),
        (FreezeFrame("picture", frame=-6), "has 4 frames"), (Bypass("latent"), "latent cannot be bypassed"),
        (Steer("latent", [1, 2]), "2 numbers, latent 8 channels"), (Zero(out, words="left"), "the tokens of blocks.0.out are not"),
        (Zero("text", words="rihgt"), "no word 'rihgt'"), (Zero("picture", mask="0/1;1/0"), "mask has 2 rows and the batch 3"),
    ):
        with pytest.raises((ValueError, LookupError), match=message), \
                clock.announce(steps=3, branches=BRANCHES, seeds=(10, 11, 12), tokens_of=tokens_of, text_sites="text"):
            trace(model, edit, sites=probe.sites)
    with pytest.raises(EditError, match="needs other samples"):
        trace(model, Resample(out), seeds=[1])
    trace(model, [Patch(out, record, steps="0:2"), Mean("latent", reference=record)], sites=probe.sites, steps=3,
          branches=BRANCHES, seeds=[0, 1])


def test_mean_and_resample_from_a_reference_do_not_depend_on_the_batch() -> None:
    model, site = Denoiser(), "blocks.1.temporal.z"
    with trace(model, capture=[f"{site} -> mean", "blocks.0.out"]) as reference:
        model(start(3))
    for edit in (Mean(site, reference=reference.record), Resample("blocks.0.out", reference=reference.record)):
        with trace(model, edit, capture="picture") as batch:
            model(start(3))
        with trace(model, edit, capture="picture") as alone:
            model(start(1))
        assert torch.allclose(batch.record["picture"].tensor[:1], alone.record["picture"].tensor, atol=1e-5)
    with trace(model, Mean(site, reference=reference.record), capture=site) as t:
        model(start(1))
    kept = t.record[site].tensor
    assert torch.equal(kept[0, 0, 0], kept[1, 1, 0])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Zero("a", head=2), "Zero has no 'head'; nearest: heads"),
    (lambda: Noise("a", sdt=2), "Noise has no 'sdt'; nearest: std"),
    (lambda: edit_from_dict({"kind": "zeros", "at": "a"}), "no kind of edit 'zeros'; nearest: zero"),
    (lambda: edit_from_dict({"kind": "noise", "at": "a", "sd": 1}), "kind 'noise' has no 'sd'; nearest: std"),
    (lambda: edit_from_dict({"kind": "zero"}), "names no site"),
    (lambda: edit_from_dict("zero"), "an edit is a mapping"),
    (lambda: edit_from_dict({"kind": "scale", "at": "a"}), r"without factor: say it, as in scale\[factor=0.5\]:SITE, or"),
    (lambda: Patch("a", SimpleNamespace(record=Record())), "its record is a part of it: record=out.record"),
    (lambda: Patch("a", torch.zeros(99, 99)), "(?s)^.{1,250}$"),
    (lambda: Noise("a", std=-1), "negative"), (lambda: Scale("a", float("nan")), "not a finite number"),
    (lambda: Mean("a", over="b", reference="r"), "not both"), (lambda: Patch("a"), "record= is missing"),
    (lambda: Patch("a", "nowhere.safetensors"), "no saved record at nowhere"), (lambda: Steer("a"), "a vector"),
    (lambda: LowPassFrames("a", window=2), "not an odd number"), (lambda: FreezeFrame("a", 1.5), "1.5 is not a whole number"),
    (lambda: Replace("a"), "not a function"),
    (lambda: Mean("a", over="b q").apply(X, event()), "mean over q at a.z"),
    (lambda: Steer("a", [1, 2]).apply(X, event()), "2 numbers, a.z 6 channels"),
    (lambda: FreezeFrame("a", 4).apply(X, event()), "has 4 frames"),
    (lambda: ReverseFrames("t").check(Site("t", ("b", "c"))), "needs an axis f, but t has axes 'b c'"),
    (lambda: Mean("t").check(Site("t", ("b", "c"))), "name axes with over="),
    (lambda: Replace("a", lambda x: x[:1]).apply(X, event()), r"gives \(1, 4, 5, 6\), but the site's shape"),
    (lambda: Bypass("a").apply(X, Event(SITE, Tick(), Plan())), "cannot be bypassed"),
    (lambda: Noise("a").apply(X, event(seeds=(1,))), "1 seeds are announced"),
])
def test_mistakes_are_one_clear_error(make, message: str) -> None:
    with pytest.raises((ValueError, TypeError, LookupError), match=message):
        make()


def test_a_kind_belongs_to_one_class() -> None:
    def defined(name: str) -> type[Edit]:
        return type(name, (Edit,), {"kind": "test_mine", "__qualname__": name})

    try:
        first = defined("Mine")
        assert KINDS["test_mine"] is first and defined("Mine") is KINDS["test_mine"] is not first     # a notebook's cell, run again
        with pytest.raises(EditError, match=r"^Other: the kind 'test_mine' is that of .*Mine; name yours otherwise"):
            defined("Other")
        with pytest.raises(EditError, match=r"kind 'zero' is that of wanlab\.core\.values\.Zero"):
            type("Bad", (Edit,), {"kind": "zero"})
        assert KINDS["zero"] is Zero
    finally:
        del KINDS["test_mine"]
    with pytest.raises(EditError, match="Nothing has no kind of its own"):
        type("Nothing", (Zero,), {})("a")


def test_a_kind_of_ones_own_is_a_few_lines_and_may_not_write_to_its_input() -> None:
    @dataclass(frozen=True)
    class Sign(Edit):
        kind = "test_sign"

        def change(self, x: Tensor, event: Event) -> Tensor:
            return x.sign()

    @dataclass(frozen=True)
    class Rude(Edit):
        kind = "test_rude"

        def change(self, x: Tensor, event: Event) -> Tensor:
            return x.mul_(2)

    try:
        assert torch.equal(edit_from_dict({"kind": "test_sign", "at": "a"}).apply(X, event()), X.sign())
        with pytest.raises(EditError, match="wrote to the tensor"):
            Rude("a").apply(X.clone(), event())
        with torch.inference_mode():
            x = X * 1
            assert torch.equal(Rude("a").apply(x, event()), 2 * X) and torch.equal(x, X)
    finally:
        del KINDS["test_sign"], KINDS["test_rude"]
