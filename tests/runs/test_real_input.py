"""Studies on what nobody rendered: a folder of clips, a photograph, and the word about what they cannot tell."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from metrics.sampling import Sampling
from tests.runs.toy import STUDY, Toy, bench
from wanlab.data.folder import write_video
from wanlab.data.video import read_video
from wanlab.measure import SetMeasure
from wanlab.runs.document import StudyError
from wanlab.runs.plan import Task
from wanlab.runs.source import SourceError
from wanlab.runs.store import RunFolder

Run = Callable[..., Any]


def test_a_folder_of_clips_as_data_and_as_reference(run: Run, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for i in range(3):
        write_video(clips / f"{i}.mp4", torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(i)), fps=8)
    (clips / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "captions.csv").write_text("file,prompt\n1,a <b>bold</b> cat\n")
    data = f"{{kind: folder, path: {clips}, captions: {tmp_path / 'captions.csv'}}}"
    text = STUDY.replace("{kind: procedural, split: test, n: 5, seed: 0}", data)
    said = io.StringIO()
    root, outcome = run("folder", text=text, said=said, report=True)
    assert not outcome.failed and "broken.mp4 is left out" in said.getvalue().replace("\n", "")
    table = RunFolder(root).cells()["baseline"].samples()
    assert set(zip(table["unit"], table["prompt"])) == {("0.mp4", ""), ("1.mp4", "a <b>bold</b> cat"), ("2.mp4", "")}
    page = (root / "report" / "report.html").read_text()
    assert "a &lt;b&gt;bold&lt;/b&gt; cat" in page and "<b>bold</b>" not in page
    with pytest.raises(StudyError, match=r"data.path: .*holds 3 clips of 8 frames, the study asks for 4.*broken.mp4"):
        bench(text=text.replace("kind: folder,", "kind: folder, n: 4,"))
    with pytest.raises(StudyError, match=r"reference: .*none can be left out \(broken.mp4: "):
        bench(f"reference={clips}")
    (clips / "broken.mp4").unlink()
    with pytest.raises(StudyError, match=r"reference: .*has 5 samples"):
        bench(f"reference={clips}")
    (tmp_path / "captions.csv").write_text("file,prompt\n3.mp4,x\n")
    with pytest.raises(StudyError, match=r"data.captions: .*captions.csv:2: no clip '3.mp4'; nearest: "):
        bench(text=text)
    (tmp_path / "captions.csv").write_text("file,caption\n1.mp4,x\n")
    with pytest.raises(StudyError, match=r"data.captions: .*captions.csv:1: captions have the columns file, prompt; this one has"):
        bench(text=text)


def stills(folder: Path, names: str, seed: int) -> Path:
    """Clips by name, each of one colour that the name decides; "!" is none."""
    folder.mkdir()
    for name in names:
        level = (ord(name) * 7 + seed) % 200 / 255
        write_video(folder / f"{name}.mp4", torch.full((9, 3, 16, 16), level), fps=8, lossless=True)
    return folder


def test_a_sample_is_judged_against_the_clip_of_its_name(tmp_path: Path) -> None:
    """What is left out of either folder moves no other sample to its neighbour's clip."""
    data, reference = stills(tmp_path / "data", "abcd", 0), stills(tmp_path / "reference", "abcde", 100)
    (data / "b.mp4").write_bytes(b"broken")
    (reference / "e.mp4").write_bytes(b"broken")
    text = STUDY.replace("{kind: procedural, split: test, n: 5, seed: 0}", f"{{kind: folder, path: {data}}}")
    work = bench(f"reference={reference}", "metrics=[psnr]", text=text)
    assert work.source.units(range(3)) == ["a.mp4", "c.mp4", "d.mp4"] and work.judges is not None
    seen = work.judges.clips(range(3)).video.mean((1, 2, 3, 4)) * 255
    assert seen.round().int().tolist() == [(ord(name) * 7 + 100) % 200 for name in "acd"]
    assert [note for note in work.notes if "e.mp4 is left out" in note and str(reference) in note]
    (reference / "c.mp4").write_bytes(b"broken")
    with pytest.raises(StudyError, match=r"no clip, or no single one, for c.mp4; c.mp4 is left out: "):
        bench(f"reference={reference}", "metrics=[psnr]", text=text)
    other = stills(tmp_path / "other", "wxyz", 100)             # no names agree: by order, and then nothing may be left out
    with pytest.raises(StudyError, match=rf"{data}: .* none can be left out \(b.mp4: "):
        bench(f"reference={other}", "metrics=[psnr]", text=text)


def test_the_true_clips_that_are_shown_are_those_of_the_data(run: Run, tmp_path: Path) -> None:
    data = stills(tmp_path / "data", "abc", 0)
    text = STUDY.replace("{kind: procedural, split: test, n: 5, seed: 0}", f"{{kind: folder, path: {data}}}")

    def shown(*sets: str) -> dict[str, float]:
        root, _ = run("out", "metrics=[psnr]", "cells={baseline: {}}", *sets, text=text)
        files = sorted((root / "reference").glob("*.mp4"))
        return {file.stem: round(float(read_video(file).mean()) * 255 / 10) for file in files}

    def level(name: str, seed: int) -> int:
        return round((ord(name) * 7 + seed) % 200 / 10)

    assert shown("report.videos=3") == {f"{i:04d}": level(name, 0) for i, name in enumerate("abc")}
    assert len(shown("report.videos=2")) == 3, "of finished cells the third is shown on"
    shutil.rmtree(data)
    stills(data, "abc", 100)
    assert shown("report.videos=2") == {f"{i:04d}": level(name, 100) for i, name in enumerate("ab")}


class Begins:
    """An extractor that says where the clip of each video begins."""

    def __init__(self) -> None:
        self.sampling = Sampling(2, offset="seeded")

    def cut(self, videos: torch.Tensor, names: Any, side: str = "fake") -> torch.Tensor:
        names = names or [""] * len(videos)
        return torch.tensor([[float(self.sampling.indices(len(one), name)[0])] for one, name in zip(videos, names, strict=True)])

    def __call__(self, videos: torch.Tensor, names: Any = None, side: str = "fake") -> torch.Tensor:
        return videos if videos.ndim == 2 else self.cut(videos, names, side)


def test_seeded_clips_of_a_study_begin_where_the_name_of_each_sample_says() -> None:
    made = bench("metrics=[colour_distance]", "data.n=8", "batch=8")
    made.measures = [SetMeasure("begins", "begins[toy]", False, frozenset({"reference"}), Begins())]
    one, other = (made.part(Task("baseline", chunk)).features for chunk in (0, 1))
    expected = [[float(Sampling(2, offset="seeded").indices(8, f"test-0-{index}")[0])] for index in range(8)]
    assert len({start for start, in expected}) > 2
    assert all(found.tolist() == expected for found in (*one.values(), *other.values()))


def test_a_photograph_is_judged_against_the_baseline(run: Run, tmp_path: Path) -> None:
    import numpy as np

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 4), dtype=np.uint8), "RGBA").save(tmp_path / "p.png")
    text = STUDY.replace(
        "{kind: procedural, split: test, n: 5, seed: 0}",
        f"{{kind: image, path: {tmp_path / 'p.png'}, prompts: [a cat, '<script>alert(1)</script>']}}",
    )
    said = io.StringIO()
    root, outcome = run("photo", text=text, said=said, report=True)
    assert not outcome.failed and "p.png" in said.getvalue()
    assert not (root / "reference").exists()
    page = (root / "report" / "report.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_what_real_pictures_cannot_tell_is_left_out_with_a_word(run: Run, pipe: Toy, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "p.png")
    text = STUDY.replace(
        "{kind: procedural, split: test, n: 5, seed: 0}",
        f"{{kind: image, path: {tmp_path / 'p.png'}, prompts: [{'a ' * 24}, xyzzy, ' ']}}",
    ).replace("[psnr, flicker", "[motion_accuracy, background_psnr, psnr, flicker")
    said = io.StringIO()
    root, outcome = run("photo", text=text, said=said, report=True)
    words = " ".join(said.getvalue().split())
    assert not outcome.failed
    assert "left out: motion_accuracy, background_psnr; they need the truth of rendered videos (factors, masks)" in words
    assert "1 of 3 samples have an empty prompt" in words and "does not know: xyzzy" in words and "takes in 23 words" in words
    results = (root / "results.csv").read_text()
    assert "motion_accuracy" not in results and "background_psnr" not in results
    assert "baseline,psnr,100" in results
    page = (root / "report" / "report.html").read_text()
    assert "Left out, because real pictures" in page and "The reference is the clip of baseline" in page
    assert "No value for colour_distance: n = 3, and such a set distance needs n = 4." in page  # two seeds of a prompt are one unit
    assert (root / "report" / "figures" / "forest.png").exists()
    with pytest.raises(SourceError, match="no metric of this study can be computed: left out: motion_accuracy"):
        bench(text=text.replace("[motion_accuracy, background_psnr, psnr, flicker, colour_distance]", "[motion_accuracy]"))


def test_data_that_cannot_be_read_is_told_with_the_other_mistakes(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"broken")
    text = STUDY.replace("{kind: procedural, split: test, n: 5, seed: 0}", f"{{kind: folder, path: {tmp_path / 'clips'}}}")
    for data in (text, text.replace("clips}", "clipz}")):
        with pytest.raises(StudyError) as caught:
            bench("cells.text.ablate=[txt]", "metrics.0=psnrr", "cells.both.edits=[{kind: zero, at: detail.outt}]", text=data)
        told = str(caught.value)
        assert "(text):4:28: data.path: " in told and "psnrr" in told and "txt" in told and "detail.outt" in told, told


def test_a_plan_advises_what_the_data_allows(tmp_path: Path) -> None:
    from wanlab.runs.forecast import forecast

    Image.new("RGB", (16, 16)).save(tmp_path / "p.png")
    photograph = f"{{kind: image, path: {tmp_path / 'p.png'}, prompts: [a cat, a dog]}}"
    for data, advice in (("{kind: procedural, n: 3}", "--set data.n=3"), (photograph, """--set 'data.prompts=["a cat"]'""")):
        text, said = STUDY.replace("{kind: procedural, split: test, n: 5, seed: 0}", data), io.StringIO()
        forecast(bench("metrics=[flicker]", text=text), RunFolder(tmp_path / "none")).show(Console(file=said, width=300))
        assert f"run it with {advice} --out FOLDER" in " ".join(said.getvalue().split())
