"""Records: named axes, moments, parts, words, files, budgets."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from tests.core.models import Denoiser, start
from wanlab.core import (
    Capture,
    Entry,
    Mean,
    Patch,
    PositionError,
    Probe,
    Record,
    RecordError,
    Select,
    SelectionError,
    UnknownSite,
    clock,
    trace,
)
from wanlab.core.firing import Key

SITE = "blocks.0.temporal.z"


def record(*capture: str | Select, rows: int = 3, **kwargs: object) -> Record:
    with trace(model := Denoiser(), capture=capture, **kwargs) as t:
        model(start(rows))
    return t.record


def positions_of(size: int) -> st.SearchStrategy[Any]:
    """What a user may ask for along an axis of that length."""
    single = st.integers(-size, size - 1)
    return st.none() | single | st.lists(single, min_size=1, max_size=3) | st.sampled_from(["last", ":", "1:", "::2", "-2:"])


@pytest.fixture(scope="module")
def whole() -> Record:
    """Every firing of one site."""
    return record(SITE)


def test_steps_and_branches_stack_as_leading_axes() -> None:
    kept = record(SITE, "latent", "picture", "text")
    assert kept[SITE].axes == ("s", "branch", "b", "n", "k", "f", "d")
    assert kept[SITE].tensor.shape == (3, 2, 3, 5, 2, 4, 4)
    assert kept[SITE].coords == {"s": (0, 1, 2), "branch": ("cond", "uncond")}
    assert kept["latent"].axes == ("s", "b", "f", "n", "c") and kept["picture"].axes == ("b", "f", "c", "h", "w")
    assert kept["text"].axes == ("branch", "b", "j")
    one = kept[SITE, 1, "uncond"]
    assert one.axes == ("b", "n", "k", "f", "d") and one.coords == {"s": 1, "branch": "uncond"}
    assert torch.equal(one.tensor, kept[SITE].tensor[1, 1])
    assert sorted(kept) == sorted(["text", SITE, "latent", "picture"]) and len(kept) == 4
    assert SITE in kept and "blocks.9" not in kept and (SITE, 7) not in kept


def test_a_limited_capture_keeps_the_part_with_its_positions() -> None:
    kept = record(f"{SITE}[heads=1,frames=2:]@steps=0|last,branch=cond")[SITE]
    whole = record(SITE)[SITE]
    assert torch.equal(kept.tensor, whole.tensor[[0, 2]][:, 0, :, :, 1:, 2:])
    assert kept.coords == {"s": (0, 2), "branch": "cond", "k": (1,), "f": (2, 3)}


def test_labelled_arrays_and_slices() -> None:
    kept = record(SITE)[SITE]
    array = kept.to_xarray()
    assert array.dims == kept.axes and float(array.sel(s=2, branch="cond").isel(b=0, n=1, k=1, f=0, d=3)) == float(
        kept.tensor[2, 0, 0, 1, 1, 0, 3])
    assert array.sigma.values.tolist() == [1, 1 - 1 / 3, 1 - 2 / 3]
    part = kept.take(heads=1, steps="1:", rows=[0, 2])
    assert torch.equal(part.tensor, kept.tensor[1:, :, [0, 2], :, 1:]) and part.coords["b"] == (0, 2)
    assert torch.equal(kept.take(branch="uncond", steps="last").tensor, kept.tensor[2:, 1])
    with pytest.raises(RecordError, match="no 'head' to take; nearest: heads"):
        kept.take(head=1)
    with pytest.raises(RecordError, match="not held for branch 'cnd'; it has cond, uncond"):
        kept.take(branch="cnd")


def test_an_entry_is_taken_for_an_array() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    entry = Entry(x, ("b", "c"), "a")
    assert entry.shape == (2, 3) and np.asarray(entry).shape == (2, 3) and np.asarray(entry, np.float16).dtype == np.float16
    assert np.allclose(np.add(entry, 1), x.numpy() + 1) and np.array(entry).base is None
    assert np.asarray(Entry(x.bfloat16(), ("b", "c"))).dtype == np.float32
    assert torch.equal(torch.as_tensor(entry), x)


def test_a_part_is_asked_for_by_the_numbers_of_the_model() -> None:
    whole, kept = record(SITE)[SITE], record(f"{SITE}[heads=1,frames=1|3]@steps=1:")[SITE]
    assert torch.equal(kept.take(frames=3, heads=-1).tensor, whole.tensor[1:][..., 1:, 3:, :])
    assert torch.equal(kept.take(steps="last", frames=":2").tensor, whole.tensor[2:][..., 1:, 1:2, :])
    for limits, told in (({"frames": 2}, "frames=2 is not held; there are 1, 3"), ({"steps": 0}, "steps=0 is not held"),
                         ({"heads": 0}, "heads=0 is not held; there are 1")):
        with pytest.raises(RecordError, match=told):
            kept.take(**limits)
    with pytest.raises(PositionError, match="frames=4 is outside"):
        kept.take(frames=4)


def test_records_are_read_by_the_grammar_of_selections() -> None:
    kept = record(SITE, "text", "latent")
    whole = kept[SITE].tensor
    assert torch.equal(kept[f"{SITE}[heads=1,frames=2:]@steps=0|last,branch=cond"].tensor, whole[[0, 2], 0][..., 1:, 2:, :])
    assert torch.equal(kept["latent@sigma=:0.7"].tensor, kept["latent"].tensor[1:])
    assert torch.equal(kept[Select("latent", frames=1, steps=2)].tensor, kept["latent"].tensor[2:, :, 1:2])
    assert f"{SITE}@steps=1" in kept and f"{SITE}@steps=7" not in kept and f"{SITE}@branch=c" not in kept
    with pytest.raises(RecordError, match="latent@steps=0:2 is not recorded; there are step 2"):
        record("latent@steps=2")["latent@steps=0:2"]
    with pytest.raises(SelectionError, match="latent fires outside any branch"):
        kept["latent@branch=cond"]
    with pytest.raises(RecordError, match="a mask cuts no rectangle"):
        kept[Select("latent", mask=[[1, 0]])]


@settings(deadline=None, max_examples=40)
@given(heads=positions_of(2), frames=positions_of(4), tokens=positions_of(5), rows=positions_of(3), steps=positions_of(3),
       branch=st.sampled_from([None, "cond", "uncond", ("cond", "uncond")]))
def test_a_part_of_the_record_is_the_record_of_the_part(whole: Record, **limits: Any) -> None:
    select = Select(SITE, **limits)
    part, kept = whole[select], record(select)[SITE]
    assert torch.equal(part.tensor, kept.tensor) and part.axes == kept.axes
    assert {**part.coords, **kept.coords} == dict(part.coords) and part.full | kept.full == part.full


def test_words_mean_all_their_tokens() -> None:
    kept = record("text")
    array = kept["text"].to_xarray()
    assert array.word.dims == ("branch", "b", "j")
    assert array.word.sel(branch="cond").values.tolist() == [["", "left", "left", "", ""], *[["", "left", "", "", ""]] * 2]
    assert not any(array.word.sel(branch="uncond").values.flatten())
    first = kept["text[words=left,rows=0]"]
    assert first.coords["j"] == (1, 2) and first.axes == ("b", "j") and first.coords["branch"] == "cond"
    assert first == kept["text"].take(words="Left", rows=0)
    assert kept["text"].take(words="left", rows=[1, 2]).coords["j"] == (1,)
    with pytest.raises(RecordError, match=r"different numbers of tokens \(2 in row 0, 1 in row 1, 1 in row 2\): take one row"):
        kept["text"].take(words="left")
    with pytest.raises(RecordError, match="no word 'lfet' in row 0; nearest: left; held: left"):
        kept["text[words=lfet]"]
    with pytest.raises(RecordError, match="holds no prompt's tokens"):
        record("latent")["latent"].take(words="left")


def test_words_at_other_tokens_in_each_row_stand_side_by_side() -> None:
    places = {"red": ([0], [3]), "circle": ([1, 2], [0, 1])}
    model, x = Denoiser(), torch.arange(10.0).reshape(2, 5)
    with trace(model, capture="text") as t, clock.announce(
            tokens_of=lambda word, row: places[word][row], words=[list(places)] * 2, text_sites="text"):
        model.site("text", x)
    part = t.record["text[words=circle|red]"]
    assert part.tensor.tolist() == [[0, 1, 2], [5, 6, 8]] and "j" not in part.coords
    array = part.to_xarray()
    assert array.word.values.tolist() == [["red", "circle", "circle"], ["circle", "circle", "red"]]
    assert array.token.values.tolist() == [[0, 1, 2], [0, 1, 3]]


def test_a_capture_of_words_keeps_their_positions_and_other_limits() -> None:
    model = Denoiser()
    kept = record("text[words=left,rows=0]@branch=cond")["text"]
    assert kept.coords["j"] == (1, 2) and kept.to_xarray().word.values.tolist() == ["left", "left"]
    with trace(model, capture="text[keys=2:4,words=left,rows=0]") as t:
        model(start())
    assert t.record["text"].coords["j"] == (2,)
    with pytest.raises(SelectionError, match="the limits of axis j have no position in common"), \
            trace(model, capture="text[keys=3:,words=left,rows=0]"):
        model(start())


def test_captures_of_one_site_stay_apart_or_join() -> None:
    whole = record("latent")["latent"]
    apart = record("latent[frames=0]", "latent[frames=1]")
    assert list(apart) == ["latent[frames=0]", "latent[frames=1]"]
    assert torch.equal(apart["latent[frames=1]"].tensor, whole.tensor[:, :, 1:2])
    with pytest.raises(RecordError, match=r"latent is recorded as latent\[frames=0\], latent\[frames=1\]: name one"):
        apart["latent"]
    joined = record("latent@steps=0", "lat*@steps=0:2", "latent@steps=2")
    assert list(joined) == ["latent"] and len(joined.firings) == 3 and joined["latent"] == whole
    ways = record("latent", "latent -> disk")
    assert list(ways) == ["latent -> cpu", "latent -> disk"] and ways["latent -> disk"] == ways["latent -> cpu"]


def test_a_part_of_a_site_stands_at_its_own_positions_and_nowhere_else() -> None:
    model, other = Denoiser(), start() + 1
    with torch.no_grad(), trace(model, capture=f"{SITE}[frames=1|3,heads=1]") as t:
        model(other)
    with torch.no_grad(), trace(model, capture=SITE) as all_of_it:
        model(other)
    values, plain = all_of_it.record[SITE].tensor[0], record(SITE)[SITE].tensor[0]
    edits = {"[frames=3,heads=1]": [3], "[frames=1:4:2,heads=1]": [1, 3]}
    for limits, frames in edits.items():
        with torch.no_grad(), trace(model, Patch(f"{SITE}{limits}", record=t.record), SITE) as patched:
            model(start())
        expected = plain.clone()
        expected[..., 1, frames, :] = values[..., 1, frames, :]
        assert torch.equal(patched.record[SITE].tensor[0, 0], expected[0])
    with Probe(model) as probe:
        model(start(), steps=1)
    for known in ({}, {"sites": probe.sites}):
        with pytest.raises(RecordError, match=r"holds frames 1, 3 alone, not 0, 2: limit the edit to frames=\[1, 3\]"), \
                trace(model, Patch(f"{SITE}[heads=1]", record=t.record), **known):
            model(start())
        with pytest.raises(RecordError, match="holds heads 1 alone, not 0"), \
                trace(model, Mean(f"{SITE}[frames=1]", reference=t.record), **known):
            model(start())


def test_a_record_is_a_mapping_that_shows_itself() -> None:
    kept = record(SITE, "latent -> mean", "text -> disk")
    assert set(kept.keys()) == {SITE, "latent -> mean", "text"} and len(dict(kept.items())) == 3
    assert kept.get("nothing") is None and kept.get(SITE) == kept[SITE] and kept.get("latent") is not None
    assert "latent" in kept and None not in kept and 3 not in kept and (SITE, 1, "cond") in kept
    told, html = repr(kept), kept._repr_html_()
    for text in ("b=3 n=5 k=2 f=4 d=4", "mean of 9", "disk", "3 sites, 9 firings"):
        assert text in told and text in html
    assert html.count("<tr>") == 4 and "latent -&gt; mean" in html
    assert "frames" not in (shown := kept[SITE]._repr_html_()) and "<td>branch</td><td>2</td><td>cond, uncond</td>" in shown
    assert repr(kept[SITE]).startswith("Entry(blocks.0.temporal.z: s=3 branch=2 b=3 n=5 k=2 f=4 d=4, float32; s 0, 1, 2;")
    with pytest.raises(RecordError, match=r"'cond' is no step: .* \('text', 0, 'cond'\)"):
        kept["text", "cond"]
    with pytest.raises(RecordError, match=r"asked for a name, .* not for 3"):
        kept[3]


def test_what_is_not_there_is_named() -> None:
    kept = record(f"{SITE}@steps=0", "latent")
    with pytest.raises(UnknownSite, match="'lantent' is not recorded; nearest: latent"):
        kept["lantent"]
    with pytest.raises(RecordError, match=r"step 2, branch cond\) is not recorded; there are step 0, branch cond"):
        kept[SITE, 2, "cond"]


def test_the_kept_value_is_not_the_models_tensor() -> None:
    class InPlace(Denoiser):
        def forward(self, x, steps=1):  # type: ignore[no-untyped-def]
            return self.site("latent", x).zero_()

    model, x = InPlace(), start()
    with trace(model, capture=["latent", "latent -> mean"]) as t:
        model(x.clone())
    assert torch.equal(t.record["latent"].tensor, x)


def test_graph_keeps_gradients_and_the_rest_does_not() -> None:
    model, x = Denoiser(), start().requires_grad_()
    with trace(model, capture=["latent -> graph", "picture"]) as t:
        model(x)
    t.record["latent", 2].tensor.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert not t.record["picture"].tensor.requires_grad


def test_saved_and_loaded_and_on_disk_are_the_same(tmp_path: Path) -> None:
    kept = record(f"{SITE}[heads=1]", "latent -> mean")
    read = Record.load(kept.save(tmp_path / "r.safetensors"))
    disk = record(f"{SITE}[heads=1] -> disk", "latent -> mean")
    for other in (read, disk):
        assert other.firings == kept.firings and other.digest() == kept.digest()
        assert other[SITE].axes == kept[SITE].axes and other[SITE].coords == kept[SITE].coords
        assert torch.equal(other[SITE].tensor, kept[SITE].tensor)
    assert list(tmp_path.iterdir()) == [tmp_path / "r.safetensors"]
    folder = disk._folder
    assert folder is not None and folder.is_dir() and disk.bytes < kept.bytes
    del disk, other
    assert not folder.exists()


def test_a_record_that_was_saved_is_equal_and_read_by_others(tmp_path: Path) -> None:
    kept = record(f"{SITE}[heads=1]@steps=1:", "text", "latent -> topk(k=3)", "picture -> quantiles", "blocks.0.out -> covariance")
    path = kept.save(tmp_path / "r.safetensors")
    read = Record.load(path)
    assert read == kept and read.digest() == kept.digest() and read[SITE] == kept[SITE] and read["text"] == kept["text"]
    assert read.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert read.save(path).read_bytes() == (tmp_path / "again.safetensors").read_bytes() and read == kept
    assert copy.deepcopy(read) == kept == pickle.loads(pickle.dumps(read))
    other = record(f"{SITE}[heads=1]@steps=1:", "text")
    assert read != other and read[SITE] != replace(kept[SITE], coords={}) and kept != 3
    with safe_open(path, "np") as file:
        assert np.array_equal(file.get_tensor("0"), kept["text", None, "cond"].to_numpy())


def test_values_of_every_type_survive_a_file(tmp_path: Path) -> None:
    kept = Record()
    for i, dtype in enumerate((torch.bool, torch.float64, torch.uint8, torch.bfloat16, torch.int64, torch.float16)):
        kept.add(Key(f"a{i}"), Entry((torch.arange(5) % 2).to(dtype), ("n",)))
    kept.add(Key("nan"), Entry(torch.tensor([float("nan"), -0.0]), ("n",)))
    kept.add(Key("none"), Entry(torch.zeros(0, 3), ("n", "c")))
    read = Record.load(kept.save(tmp_path / "r.safetensors"))
    assert read == kept and [read[name].to_numpy().tolist() for name in ("a0", "a3")] == [[0, 1, 0, 1, 0]] * 2
    kept.add(Key("z"), Entry(torch.zeros(2, dtype=torch.complex64), ("n",)))
    with pytest.raises(RecordError, match=r"of type torch.complex64 cannot be written"):
        kept.save(tmp_path / "z.safetensors")


def test_a_loaded_record_is_mapped_not_read(tmp_path: Path) -> None:
    kept = Record()
    for step in range(8):
        kept.add(Key("a", step), Entry(torch.full((2**20,), float(step)), ("n",)))
    read = Record.load(kept.save(tmp_path / "r.safetensors"))
    del kept
    statm = Path("/proc/self/statm")
    before = int(statm.read_text().split()[1]) if statm.exists() else 0
    one = read["a", 3]
    assert read.bytes == 0 and one.tensor[5] == 3
    assert not statm.exists() or (int(statm.read_text().split()[1]) - before) * 4096 < 2**21


def test_files_that_are_no_records_say_so(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is a folder; a saved record is one file"):
        Record.load(tmp_path)
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(RecordError, match="is a safetensors file, but not a saved record"):
        Record.load(tmp_path / "other.safetensors")
    whole = record("latent").save(tmp_path / "r.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-10])
    with pytest.raises(RecordError, match=r"cut.safetensors cannot be read as safetensors"):
        Record.load(tmp_path / "cut.safetensors")


def test_parts_of_a_run_join() -> None:
    a, b = record("latent"), record("picture")
    a.update(b)
    assert set(a) == {"latent", "picture"}
    with pytest.raises(RecordError, match="is in both records"):
        a.update(b)


def test_what_was_kept_of_different_parts_is_not_stacked() -> None:
    first, second = record("latent[frames=0]@steps=0"), record("latent[frames=1]@steps=2,1")
    first.update(second)
    assert first["latent", 2].coords == {"s": 2, "f": (1,)} and first["latent@steps=1:"].coords["s"] == (1, 2)
    with pytest.raises(RecordError, match="held at different positions"):
        first["latent"]


def test_a_site_that_fires_twice_at_one_moment_gets_an_axis_call() -> None:
    kept = Record()
    for i in range(2):
        kept.add(Key("a", 0, "cond"), Entry(torch.full((2,), float(i)), ("b",), "a"))
    assert kept["a"].axes == ("s", "call", "b") and kept["a"].tensor.tolist() == [[[0, 0], [1, 1]]]


def test_captures_read_from_strings_and_data() -> None:
    one = Capture("a[heads=2]@steps=0 -> mean")
    assert Capture.of(one.to_dict()) == one == Capture.of("a[heads=2]@steps=0->mean") and one.streams
    assert str(Capture("a")) == "a" and Capture.of({"at": "a"}) == Capture("a")
    with pytest.raises(SelectionError, match="cannot keep 'men'; nearest: mean"):
        Capture("a -> men")
