"""Selections: one string or keywords, data in and out, and what they reach in a tensor."""

from __future__ import annotations

import io
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from wanlab.core import PositionError, Select, SelectionError, Site
from wanlab.core.clock import Plan, Tick
from wanlab.core.index import holds, index, positions
from wanlab.core.region import check, narrow, region
from wanlab.core.select import AXIS_OF, PARTS, TIMES, Limits

TEMPORAL = Site("a.z", ("b", "n", "k", "f", "d"))

ends = st.none() | st.integers(-9, 9)
slices = st.tuples(ends, ends).map(lambda parts: ":".join("" if part is None else str(part) for part in parts))
indices = st.lists(st.integers(-9, 9) | slices, min_size=1, max_size=3, unique=True)
text = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=5)
words = st.lists(text, min_size=1, max_size=3, unique=True)
pictures = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=1, max_size=4))
masks = pictures | pictures.map(lambda one: [one, one[::-1]])
selections = st.builds(
    Select, st.sampled_from(["a", "a.**.z", "a.*.{q,k}", "**"]),
    **{key: st.none() | indices for key in (*AXIS_OF, "steps")}, words=st.none() | words, branch=st.none() | words,
    mask=st.none() | masks,
    sigma=st.none() | st.tuples(st.none() | st.floats(0, 0.5), st.none() | st.floats(0.5, 1)))


@given(selections)
def test_string_and_data_read_back_to_an_equal_selection(select: Select) -> None:
    assert Select(str(select)) == select and hash(Select(str(select))) == hash(select)
    assert str(Select(str(select))) == str(select) and eval(repr(select)) == select
    text, dumper = io.StringIO(), YAML(typ="safe", pure=True)
    dumper.default_flow_style = False           # as run folders are written; in flow style ruamel cannot read its own "?0"
    dumper.dump(select.to_dict(), text)
    read = YAML(typ="safe").load(text.getvalue())
    assert Select.of(read) == select and Select.of(read).to_dict() == select.to_dict()


def test_the_one_string_form_means_the_keywords() -> None:
    told = Select("generator.**.attn.z[heads=[0,2],frames=-3:,words=left|\"a, b\"]@steps=0:8,last,branch=cond")
    assert told == Select("generator.**.attn.z", heads=[0, 2], frames=slice(-3, None), words=["left", "a, b"],
                          steps=["0:8", "last"], branch="cond")
    assert Select("a[heads=0|2]@steps=0,8") == Select("a", heads=(0, 2), steps=[0, 8])
    assert Select("a@sigma=0.5:") == Select("a", sigma=(0.5, None)) == Select("a", steps="0.5:") == Select("a@steps=0.5:")
    assert Select("a", steps=(0.3, 0.8)) == Select("a@steps=0.3:0.8") == Select("a", steps=[0.3, 0.8])
    assert Select("a[mask=0110*2/0000]") == Select("a", mask=[[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("text", [
    "generator.**.attn.z[heads=2]@steps=0:8,branch=cond", "a.{b,c}.z[heads=0|2,rows=-1]@branch=cond|uncond", "**",
    "a[words=red|\"two words\"]@sigma=0.3:0.8", "v[mask=0110*2/0000]@steps=0|-1", "v[mask=01;10]", "a[frames=4:,keys=::2]",
])
def test_printing_a_selection_gives_back_the_string(text: str) -> None:
    assert str(Select(text)) == text


def test_a_selection_shows_itself_as_one_would_type_it() -> None:
    assert repr(Select("a[heads=2]@steps=0:8,last,sigma=:0.5")) == "Select('a', heads=2, steps=['0:8', -1], sigma=':0.5')"


@pytest.mark.parametrize(("text", "message"), [
    ("a[head=2]", "no 'head' in .*nearest: heads"), ("a[steps=2]", "belongs after @"),
    ("a@heads=2", r"belongs in \[ \]"), ("a@steps=0.5", "expected an int"),
    ("a[heads=2", "cannot read the selection"), ("a[heads=]", "cannot read"), ("a[2]", "cannot read"),
    ("a[heads=2,heads=3]", "given twice"), ("a[heads=x]", "heads='x': expected an int"),
    ("a[mask=01/1]", "different lengths"), ("a[mask=nowhere.png]", "no mask at 'nowhere.png'"),
    ("a[mask=01,mask=10]", "given twice"), ("a[mask=01|10]", "given twice"), ("", "empty pattern"),
    ("a@sigma=low:high", r"sigma='low:high': expected two ends"), ("a@steps=0.5:0.3", "low is above high"),
    ("a@steps=0.1:0.2,sigma=0:1", "sigma is given twice"), ("a@steps=0.5", "range of noise levels such as '0.3:0.8'"),
])
def test_strings_that_cannot_be_read_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Select(text)


def test_wrong_values_raise() -> None:
    for bad in ({"heads": []}, {"heads": True}, {"heads": 1.5}, {"mask": [[0, 2]]}, {"mask": [[0], [0, 1]]},
                {"sigma": (1, 0)}, {"sigma": (0, 1, 2)}, {"branch": []}, {"branch": 3}, {"frames": "0:4:0"},
                {"mask": [[0.5]]}, {"mask": [0, 1]}, {"mask": [[]]}, {"mask": 3}, {"mask": [["a"]]}):
        with pytest.raises(ValueError):
            Select("a", **bad)
    with pytest.raises(SelectionError, match="given twice"):
        Select("a[heads=1]", heads=2)
    with pytest.raises(SelectionError, match="nearest: heads"):
        Select.of({"at": "a", "head": 2})
    with pytest.raises(TypeError, match="Select has no 'head'; nearest: heads"):
        Select("a", head=2)
    with pytest.raises(SelectionError, match="a mapping with at"):
        Select.of({"heads": 2})
    assert list(Select("a").limits) == [] and {one.name for one in fields(Limits)} == {"at", *PARTS, *TIMES}


@given(indices, st.integers(1, 10))
def test_positions_are_pythons(idx: list[int | str], size: int) -> None:
    line, wanted, bad = list(range(size)), set(), False
    for one in idx:
        if isinstance(one, int):
            bad |= not -size <= one < size
            wanted.update([one % size])
        else:
            wanted.update(line[slice(*(int(part) if part else None for part in one.split(":")))])
    if bad or not wanted:
        with pytest.raises(PositionError):
            positions(index(idx, "heads"), size, "heads")
    else:
        assert positions(index(idx, "heads"), size, "heads") == sorted(wanted)
        assert [at for at in line if holds(index(idx, "heads"), at, size, "heads")] == sorted(wanted)


def test_without_the_number_of_steps_only_counting_from_the_end_raises() -> None:
    assert [step for step in range(9) if holds(index(["2:8:3", 7], "steps"), step, None, "steps")] == [2, 5, 7]
    with pytest.raises(PositionError, match="counts from the end"):
        holds(index("last", "steps"), 0, None, "steps")


def test_when_it_acts() -> None:
    plan = Plan(steps=4)
    late = Select("a@steps=-2:,branch=cond")
    assert [late.acts(Tick(step, 0.5, branch), plan, "a") for step in (1, 2) for branch in ("cond", "uncond")] == [
        False, False, True, False]
    middle = Select("a@sigma=0.4:0.6")
    assert [middle.acts(Tick(0, sigma), plan, "a") for sigma in (0.3, 0.4, 0.7)] == [False, True, False]
    with pytest.raises(SelectionError, match="a fires outside any step"):
        late.acts(Tick(None, None, "cond"), plan, "a")
    with pytest.raises(SelectionError, match="a fires outside any branch"):
        late.acts(Tick(3), plan, "a")


def test_a_region_is_the_product_of_its_limits() -> None:
    x = torch.zeros(2, 6, 3, 4, 5)
    part = region(Select("a.z", heads=[0, 2], frames="1:3", rows=-1), TEMPORAL, x, Plan()).expand_as(x)
    wanted = torch.zeros_like(x, dtype=torch.bool)
    wanted[1, :, [0, 2], 1:3] = True
    assert torch.equal(part, wanted)
    assert region(Select("a.z"), TEMPORAL, x, Plan()) is None
    with pytest.raises(PositionError, match=r"a.z: heads=3 is outside: there are 3"):
        region(Select("a.z", heads=3), TEMPORAL, x, Plan())
    with pytest.raises(SelectionError, match=r"axes 'b n k f d' and no axis c, so channels= cannot .* heads, frames"):
        region(Select("a.z", channels=3), TEMPORAL, x, Plan())


def test_words_reach_their_tokens_in_each_row() -> None:
    site, x = Site("t", ("b", "k", "n", "j")), torch.zeros(2, 1, 3, 5)
    plan = Plan(tokens_of=lambda word, row: [[1], [2, 3]][row], text_sites="{t,u}")
    part = region(Select("t", words="left"), site, x, plan).expand_as(x)
    assert part[0, 0].any(0).tolist() == [False, True, False, False, False]
    assert part[1, 0].any(0).tolist() == [False, False, True, True, False]
    with pytest.raises(SelectionError, match="different tokens"):
        narrow(Select("t", words="left"), site, x, plan)
    with pytest.raises(SelectionError, match="nothing knows the prompt's words"):
        region(Select("t", words="left"), site, x, Plan())
    with pytest.raises(SelectionError, match=r"the tokens of v are not the prompt's.*\{t,u\}"):
        region(Select("v", words="left"), Site("v", site.axes), x, plan)


def test_words_are_looked_up_in_the_selected_rows_alone_and_before_anything_runs() -> None:
    def tokens_of(word: str, row: int) -> list[int]:
        if row == 0:
            raise LookupError("the prompt has no word 'left'")
        return [3]

    site, x = Site("t", ("b", "n"), (1, 5)), torch.zeros(2, 5)
    plan = Plan(tokens_of=tokens_of, text_sites="t", seeds=(0, 1))
    one = Select("t", words="left", rows=1)
    check(one, site, plan)
    assert region(one, site, x, plan).expand_as(x).nonzero().tolist() == [[1, 3]]
    assert narrow(one, site, x, plan).shape == (1, 1)
    with pytest.raises(LookupError, match="no word"):
        check(Select("t", words="left"), site, plan)
    with pytest.raises(SelectionError, match=r"stand at tokens \[3\], but the site has only 2"):
        check(one, Site("t", ("b", "n"), (1, 2)), plan)


def test_a_mask_of_any_resolution_meets_the_site() -> None:
    site, x = Site("v", ("b", "f", "c", "h", "w")), torch.zeros(2, 3, 1, 4, 4)
    mask = torch.zeros(8, 8)
    mask[:4, :2] = 1
    part = region(Select("v", mask=mask), site, x, Plan()).expand_as(x)
    assert part[0, 0, 0].int().tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]
    rows = torch.stack([mask, 1 - mask])
    part = region(Select("v", mask=rows), site, x, Plan()).expand_as(x)
    assert torch.equal(part[0], ~part[1])
    lone = torch.zeros(64, 64)
    lone[0, 0] = 1
    with pytest.raises(SelectionError, match="v: nothing is left of the mask at 4x4"):
        region(Select("v", mask=lone), site, x, Plan())
    with pytest.raises(SelectionError, match="the mask has 2 rows and the batch 1"):
        region(Select("v", mask=rows), site, x[:1], Plan())


@pytest.mark.parametrize("branch", [[[]], [None], [["cond"]], [], ""])
def test_a_branch_that_is_no_name_is_refused_in_words(branch: object) -> None:
    with pytest.raises(SelectionError, match="expected a name or a list of names"):
        Select("a.b", branch=branch)
