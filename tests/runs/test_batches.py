"""Edits and the batches that samples stand in: what goes by rows, by words, and what is taken from other samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import wanlab
from tests.contracts.engine_contract import content
from tests.runs.flow import Flow
from tests.runs.test_sharing import videos
from tests.runs.toy import STUDY, Toy, bench
from wanlab.runs.cell import Workbench, open_workbench
from wanlab.runs.document import StudyError
from wanlab.runs.plan import Task
from wanlab.runs.reading import parse_study

HEAD = STUDY[:STUDY.index("  text:")] + "  edited: {edits: [EDIT]}\nmetrics: [psnr]\nreport: {videos: 0}\n"
ZERO = "{kind: zero, at: generator.out, rows: [1]}"
RESAMPLE = "{kind: resample, at: generator.out}"
MASK = "{kind: zero, at: generator.out, mask: '11/00;00/11;11/11;00/01;01/01'}"


@pytest.fixture
def pipe() -> Toy:
    """Of this file: the one whose loop can pause."""
    return Flow()


def opened(edit: str, *sets: str) -> Workbench:
    """A study of 5 samples under two seeds in batches of 2."""
    return bench(*sets, text=HEAD.replace("EDIT", edit), pipe=Flow())


def refused(edit: str, *sets: str) -> str:
    with pytest.raises(StudyError) as caught:
        opened(edit, *sets)
    return str(caught.value)


@pytest.fixture
def record(tmp_path: Path) -> str:
    """A patch from a saved record of five samples."""
    out = Flow().generate(torch.rand(5, 3, 16, 16), [*"abcde"], [*range(5)], capture=["text.out"])
    return f"{{kind: patch, at: text.out, record: {out.record.save(tmp_path / 'five.safetensors')}}}"


# ---------------------------------------------------------------------------------------------------- rows

@pytest.mark.parametrize(("edit", "said"), [
    (ZERO, "rows=1 are places in a batch"), (ZERO.replace("[1]", "-1"), "rows=-1 are places"),
    (MASK, "the mask has 5 pictures, one for each row of a batch"),
])  # fmt: skip
def test_rows_are_samples_where_a_batch_holds_all_and_are_refused_elsewhere(edit: str, said: str) -> None:
    told = refused(edit)
    assert ":9:20: cells.edited.edits.0: " in told and said in told
    assert "hangs on batch, which is 2 of 5: with batch: 5 row r is sample r" in told
    assert "which is 4 of 5" in refused(edit, "batch=4")
    keys = [opened(edit, f"batch={batch}").plan.cells["edited"].key for batch in (5, 8)]
    assert keys[0] == keys[1]


def test_a_row_is_the_sample_of_that_number_under_every_seed() -> None:
    made = opened(ZERO, "batch=5")
    found = videos(made)
    for chunk in range(2):
        same = [torch.equal(*rows) for rows in zip(found[Task("baseline", chunk)], found[Task("edited", chunk)], strict=True)]
        assert same == [True, False, True, True, True]


def test_a_row_beyond_the_samples_is_told() -> None:
    assert "rows=5 is outside: there are 5" in refused(ZERO.replace("[1]", "5"), "batch=5")


def test_a_record_of_several_samples_is_for_the_samples_of_one_batch_under_one_seed(record: str) -> None:
    for sets, batches in (((), 6), (("batch=5",), 2), (("seeds=[1]", "batch=3"), 2)):
        assert f"nobody knows which of them is meant in which of {batches} batches" in refused(record, *sets)
    assert "b differ" in refused(record, "seeds=[0]", "batch=8", "data.n=3")
    assert videos(opened(record, "seeds=[0]", "batch=5"))


# ---------------------------------------------------------------------------------------------------- other samples of the batch

def test_samples_of_a_batch_are_taken_from_each_other_and_the_plan_says_so() -> None:
    made = opened(RESAMPLE, "data.n=4")
    assert made.notes == ["edited: a sample takes from the others of its batch, so these numbers hang on batch, which is 2"]
    assert opened(RESAMPLE, "data.n=4", "batch=4").notes == [] and opened("{kind: zero, at: generator.out}").notes == []


def test_a_last_batch_of_one_has_no_other_samples() -> None:
    told = refused(RESAMPLE)
    assert ":9:11: cells.edited: in the last batch, of 1 where the others have 2: resample needs other samples" in told
    assert "in the last batch" not in refused(RESAMPLE, "batch=1")


@pytest.mark.parametrize("pack", [1, 3])
def test_a_run_that_goes_on_takes_from_the_samples_of_the_same_batches(
        pack: int, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text, sets = HEAD.replace("EDIT", RESAMPLE), ("data.n=6", f"share.pack={pack}")
    whole, _ = run("whole", *sets, text=text)
    part, calls = Workbench.part, []

    def interrupted(self: Workbench, task: Task) -> Any:
        calls.append(task)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return part(self, task)

    monkeypatch.setattr(Workbench, "part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", *sets, text=text)
    monkeypatch.setattr(Workbench, "part", part)
    assert content(run("stopped", *sets, text=text)[0]) == content(whole)


# ---------------------------------------------------------------------------------------------------- words

WORDS = """
name: words
pipeline: tiny
data: {kind: image, path: PICTURE, prompts: [a red circle moves left, the red square moves up, the red circle hops]}
sampler: {steps: 1, guidance: 1.5}
batch: 2
cells:
  baseline:
  word: {edits: [{kind: zero, at: fusion.attn.k, words: [WORD]}]}
metrics: [psnr]
"""


@pytest.fixture(scope="module")
def of_words(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workbench]:
    """The study of a word, on the shipped cascade."""
    from PIL import Image

    tiny, picture = wanlab.load("tiny"), tmp_path_factory.mktemp("words") / "red.png"
    Image.new("RGB", (128, 128), "red").save(picture)

    def opened(word: str) -> Workbench:
        study, document = parse_study(WORDS.replace("PICTURE", str(picture)).replace("WORD", word))
        return open_workbench(study, document, load=lambda name, init: tiny)

    return opened


def test_words_are_those_of_each_samples_prompt(of_words: Callable[[str], Workbench]) -> None:
    made = of_words("red")
    video = made.generate(Task("word", 1))
    assert video.shape[0] == 1 and not torch.equal(video, made.generate(Task("baseline", 1)))


def test_a_prompt_without_the_word_is_named_before_anything_runs(of_words: Callable[[str], Workbench]) -> None:
    """Though it stands in the last batch, or not first in one."""
    for word, sample, prompt in (("moves", 2, "the red circle hops"), ("circle", 1, "the red square moves up")):
        with pytest.raises(StudyError) as caught:
            of_words(word)
        told = f"cells.word.edits.0: sample {sample} (red.png-{sample}, {prompt!r}): the prompt has no word {word!r}"
        assert told in str(caught.value) and ":9:" in str(caught.value)
