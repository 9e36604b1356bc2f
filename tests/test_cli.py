"""The command line as a user meets it: exit codes, messages, files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.pipelines import published
from tests.pipelines.wan import made, small
from tests.runs.toy import STUDY, Toy
from wanlab import cli
from wanlab.data.folder import read_video
from wanlab.pipelines import load as loading
from wanlab.pipelines import wan_presets
from wanlab.runs import cell

ROOT = Path(__file__).resolve().parents[1]
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run `wanlab ARGUMENTS` in an empty folder; gives the exit code and everything that was said."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wanlab", *arguments])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), " ".join((said.out + said.err).split())

    return go


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """`wanlab ... -p toy` loads the toy pipeline of the runner's tests."""
    pipe, load = Toy(), loading.load
    monkeypatch.setattr(loading, "load", lambda name, **how: pipe if name == "toy" else load(name, **how))
    return pipe


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file over the toy pipeline with shipped metrics."""
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace(", colour_distance", "").replace("n: 5", "n: 2"))
    return file


def test_help_is_quick_and_names_every_command() -> None:
    code = (
        "import sys; sys.argv = ['wanlab', '--help']\n"
        "from wanlab.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    for command in "generate run plan report sites train metrics schema doctor".split():
        assert f" {command} " in answer.stdout


def test_generate_writes_a_video_and_warns_about_words(call: Call, toy: Toy, tmp_path: Path) -> None:
    from wanlab.data.folder import read_video

    code, said = call("generate", "-p", "toy", "--prompt", "a red xyzzy", "--seed", "3", "--out", "deep/out.mp4", "--device", "cpu")
    assert code == 0 and "does not know: xyzzy" in said and "8 frames of 16 x 16, seed 3, 3 steps" in said
    assert read_video(tmp_path / "deep" / "out.mp4").shape == (8, 3, 16, 16)
    assert "the prompt is empty" in call("generate", "-p", "toy", "--prompt", " ")[1]
    assert "does not know: xyzzy" in call("generate", "-p", "toy", "--prompt", "a", "--negative", "xyzzy xyzzy")[1]
    assert "the toy takes in 23 words" in call("generate", "-p", "toy", "--prompt", "a " * 24)[1]


def test_a_negative_prompt_that_guidance_of_1_leaves_without_effect_is_told(call: Call, toy: Toy) -> None:
    def said(*more: str) -> str:
        code, text = call("generate", "-p", "toy", "--prompt", "a", *more)
        assert code == 0, text
        return text

    warned = "the negative prompt has no effect"
    assert warned in said("--negative", "a", "--guidance", "1")
    assert not any(warned in said(*more) for more in (("--negative", "a", "--guidance", "2"), ("--guidance", "1")))


@pytest.mark.parametrize(("mode", "name", "note"), [
    ("I;16", "a.png", "16-bit grey"),
    ("RGBA", "a.png", "transparent parts were laid on white"),
    ("CMYK", "a.jpg", "converted from CMYK"),
])  # fmt: skip
def test_generate_takes_a_photograph_and_says_what_becomes_of_it(call: Call, toy: Toy, mode: str, name: str, note: str) -> None:
    Image.new(mode, (40, 30)).save(name)
    code, said = call("generate", "-p", "toy", "--prompt", "a red circle", "--image", name)
    assert code == 0 and f"{name}: {note}" in said
    assert "of its 40 x 30 pixels the centre square is used, at 16 x 16; the shipped model knows rendered shapes alone" in said
    Image.new("RGB", (16, 16)).save("frame.png")
    assert "note" not in call("generate", "-p", "toy", "--prompt", "a red circle", "--image", "frame.png")[1]


def test_generate_keeps_what_an_edit_that_did_not_act_made(call: Call, toy: Toy, tmp_path: Path) -> None:
    code, said = call("generate", "-p", "toy", "--prompt", "a red circle", "--edit", "zero:generator.out@sigma=5:6")
    assert code == 2 and "never due" in said and (tmp_path / "out.mp4").exists()
    assert '"fault": "never due' in (tmp_path / "out.ledger.json").read_text()


def test_a_ledger_of_an_earlier_video_does_not_stay(call: Call, toy: Toy, tmp_path: Path) -> None:
    for more, beside in ((["--edit", "zero:generator.out"], True), ([], False)):
        code, said = call("generate", "-p", "toy", "--prompt", "a red circle", *more)
        assert code == 0 and (tmp_path / "out.ledger.json").exists() is beside, said


def test_generate_takes_edits_ablations_and_swaps(call: Call, toy: Toy) -> None:
    def video(*more: str) -> torch.Tensor:
        from wanlab.data.folder import read_video

        code, said = call("generate", "-p", "toy", "--prompt", "a red circle", "--lossless", *more)
        assert code == 0, said
        return read_video("out.mp4")

    plain = video()
    assert torch.equal(plain, video("--edit", "identity:generator.out@steps=0:2"))
    for more in (["--edit", "zero:generator.out@steps=2"], ["--edit", "scale[factor=0.5]:upsample.0.skip"],
                 ["--ablate", "residual"], ["--swap", "detail=sharp"], ["--seed", "1"], ["--steps", "1"]):  # fmt: skip
        assert not torch.equal(plain, video(*more)), more


@pytest.mark.parametrize(("arguments", "expected"), [
    (["generate", "-p", "toy", "--prompt", "a", "--image", "nothing.png"], "nothing.png: no such file"),
    (["generate", "-p", "toy", "--prompt", "a", "--image", "broken.png"], "broken.png: not an image"),
    (["generate", "-p", "toy", "--prompt", "a", "--ablate", "txet"], "no component 'txet'; nearest: text"),
    (["generate", "-p", "toy", "--prompt", "a", "--swap", "detail"], "expected STAGE=VARIANT"),
    (["generate", "-p", "toy", "--prompt", "a", "--swap", "detail=dull"], "no variant 'dull'"),
    (["generate", "-p", "toy", "--prompt", "a", "--edit", "zero"], "expected KIND:SITE"),
    (["generate", "-p", "toy", "--prompt", "a", "--edit", "zro:text.out"], "no kind of edit 'zro'; nearest: zero"),
    (["generate", "-p", "toy", "--prompt", "a", "--edit", "zero:text.ouut"], "text.out"),
    (["generate", "-p", "toy", "--prompt", "a", "--edit", "scale(by=.5):text.out"], "for example scale[factor=0.5]:fusion.attn.z"),
    (["generate", "-p", "toy", "--prompt", "a", "--edit", "scale:text.out"], "changes nothing without factor"),
    (["generate", "-p", "toy", "--prompt", "a", "--device", "tpu"], "--device tpu"),
    (["generate", "-p", "tyni", "--prompt", "a"], "'tyni'; nearest: tiny"),
    (["generate", "-p", "toy", "--prompt", "a", "--out", "empty"], "--out empty: a folder; say the name of a file"),
    (["generate", "-p", "toy", "--prompt", "a", "--out", "x.gif"], "x.gif: videos are written as MP4; call it x.mp4"),
    (["generate", "-p", "toy", "--prompt", "a", "--out", "noext"], "call it noext.mp4"),
    (["generate", "-p", "toy", "--prompt", "a", "--out", "study.yaml/o.mp4"], "the folder study.yaml cannot be made"),
    (["generate", "-p", "toy", "--prompt", "a", "--image", "cut.jpg"], "cut.jpg: truncated or corrupt"),
    (["run", "empty"], "empty: a folder, where a YAML file is wanted"),
    (["run", "cut.jpg"], "cut.jpg: not a text file (UTF-8)"),
    (["plan", "study.yaml", "--set", "reference=nowhere"], "reference=nowhere: reference: nowhere: no such file"),
    (["train", "study.yaml"], "a training file says kind: cascade or judges; without it, is this a study for wanlab run?"),
    (["generate", "-p", "toy", "--init", "rndom"], "--init rndom: the one way to go without trained weights is --init random"),
    (["generate", "-p", "toy", "--tile", "64"], "--tile 64: toy has no super-resolution"),
    (["generate", "-p", "article"], "has no weights in"),
    (["generate", "-p", "article-random-tiny", "--init", "random", "--swap", "image=convolutions"], "no variant 'convolutions'"),
    (["run", "no.yaml"], "no.yaml: no such file"),
    (["run", "study.yaml", "--engine", "inlin"], "no engine 'inlin' (did you mean 'inline'?)"),
    (["run", "study.yaml", "--set", "data.m=3"], "--set data.m=3: data.m: unknown key"),
    (["plan", "study.yaml", "--set", "metrics.0=fvdd"], "metrics.0: unknown metric 'fvdd'; nearest: fvd"),
    (["plan", "study.yaml", "--set", "metrics=[fvd,'fvd[motionnet]']"], "metrics.1: 'fvd[motionnet]' is another name of 'fvd'"),
    (["report", "empty"], "is not a run folder"),
    (["sites", "toy", "--match", "generator.outt"], "generator.out"),
    (["doctor", "tyni"], "no preset and no folder 'tyni'; nearest: tiny"),
    (["doctor", "toy", "--device", "tpu"], "--device tpu"),
    (["doctor", "toy", "--seed", "1"], "--seed is for the search for NaN: add --nan"),
    (["doctor", "toy", "--nan", "--image", "nothing.png"], "nothing.png: no such file"),
    (["metrics", "--metric", "fvd"], "needs both --real and --fake"),
    (["metrics", "--real", "empty", "--fake", "empty", "--metric", "psnr", "--preset", "nope"], "no preset 'nope'"),
    (["metrics", "--real", "empty", "--fake", "empty", "--weights", "i3dd=x"], "no weights 'i3dd' are known; nearest: i3d"),
    (["metrics", "--real", "empty"], "needs both --real and --fake"),
    (["metrics", "--real", "empty", "--fake", "empty", "--metric", "psnr"], "no videos and no folders of frames"),
    (["metrics", "--real", "empty", "--fake", "empty", "--size", "16x24"], "--size 16x24: expected one number or H,W"),
    (["metrics", "--real", "empty", "--fake", "empty", "--size", "8"], "from 16 pixels"),
    (["metrics", "--real", "empty", "--fake", "empty", "--metric", "clip_text"], "needs a prompt for each video: give --prompts"),
    (["metrics", "--real", "empty", "--fake", "empty", "--weights", "i3d"], "--weights i3d: expected NAME=PATH"),
    (["metrics", "--real", "empty", "--fake", "empty", "--metric", "motion_accuracy"], "need the truth of rendered videos"),
    (["generate", "-p", "toy", "--prompt", "a", "--fps", "inf"], "Invalid value for '--fps'"),
    (["generate", "-p", "toy", "--prompt", "a", "--fps", "nan"], "Invalid value for '--fps'"),
    (["plan", "study.yaml", "--workers", "1000000000"], "Invalid value for '--workers'"),
    (["run", "study.yaml", "--threads", "100000"], "Invalid value for '--threads'"),
    (["train", "no.yaml"], "no.yaml: no such file"),
    (["frobnicate"], "No such command 'frobnicate'"),
])  # fmt: skip
def test_mistakes_end_with_one_message_and_code_2(call: Call, toy: Toy, study: Path, arguments: list[str], expected: str) -> None:
    (study.parent / "empty").mkdir()
    (study.parent / "broken.png").write_bytes(b"\x89PNG nothing")
    Image.new("RGB", (64, 64)).save(study.parent / "whole.jpg")
    (study.parent / "cut.jpg").write_bytes((study.parent / "whole.jpg").read_bytes()[:-40])
    code, said = call(*arguments)
    assert code == 2 and expected in said.replace("│ ", "").replace(" │", ""), said
    assert "Traceback" not in said


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["wanlab", "run", str(tmp_path / "no.yaml"), "--debug"])
    with pytest.raises(ValueError, match="no such file"):
        cli.main()


def test_plan_run_report(call: Call, toy: Toy, study: Path) -> None:
    code, said = call("plan", "study.yaml")
    assert code == 0 and "would have been 50 stage runs, is 28" in said and "time unknown" in said
    assert toy.runs == []
    code, said = call("run", "study.yaml", "--device", "cpu")
    assert code == 0 and "runs/toy/report/report.html" in said
    code, said = call("plan", "study.yaml")
    assert code == 0 and "(5 done)" in said and "(0 left)" in said and "time unknown" not in said
    code, said = call("report", "runs/toy")
    assert code == 0 and said.endswith("report.html")
    code, said = call("run", "study.yaml", "--set", "data.n=3")
    assert code == 2 and "belongs to another study" in said and "data.n: 2 -> 3" in said


def test_a_failed_cell_gives_code_1_and_ctrl_c_130(call: Call, toy: Toy, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = cell.Workbench.part

    def failing(self: Any, task: Any) -> Any:
        if task.cell == "text":
            raise RuntimeError("no luck")
        return part(self, task)

    monkeypatch.setattr(cell.Workbench, "part", failing)
    code, said = call("run", "study.yaml")
    assert code == 1 and "1 cells failed: text" in said

    def stopped(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(cell.Workbench, "part", stopped)
    code, said = call("run", "study.yaml")
    assert code == 130 and said.endswith("stopped; what is finished is kept, go on with: wanlab run study.yaml")
    monkeypatch.setattr(Toy, "generate", stopped)
    assert call("generate", "-p", "toy", "--prompt", "a") == (130, "stopped")


def test_sites_of_sizes_alone_are_those_of_the_swapped_pipeline(call: Call) -> None:
    swapped = "sites", "tiny", "--match", "align.**", "--swap", "align=none"
    assert call(*swapped, "--meta") == call(*swapped) != call(*swapped[:4], "--meta")
    code, said = call("sites", "tiny", "--meta", "--swap", "align=nonne")
    assert code == 2 and "nearest: none" in said
    code, said = call("sites", "wan-random-tiny", "--meta", "--cost", "--swap", "dit=other")
    assert code == 2 and "has no variants" in said


def test_sites_schema_metrics(call: Call, toy: Toy, tmp_path: Path) -> None:
    from wanlab.data.folder import write_video

    code, said = call("sites", "toy", "--match", "upsample.*.skip")
    assert code == 0 and said == "2 sites upsample (2) 0 (1) skip b=1 f=8 c=3 h=8 w=8 1 (1) skip b=1 f=8 c=3 h=16 w=16"
    code, said = call("sites", "toy", "--match", "generator.out", "--json")
    [site] = json.loads(said)
    assert site == {"name": "generator.out", "axes": list("bfchw"), "shape": [1, 8, 3, 4, 4], "clock": ["branch", "step"]}
    code, said = call("schema")
    assert code == 0 and json.loads(said)["title"] == "Study"
    assert "warp_error" in call("metrics")[1]
    for name, shift in (("real", 0.0), ("fake", 0.1)):
        for i in range(2):
            video = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(i)) * 0.8 + shift
            write_video(tmp_path / name / f"{i}.mp4", video, lossless=True)
    folders = ("--real", "real", "--fake", "fake")
    code, said = call("metrics", *folders, "--metric", "psnr", "flicker", "--size", "32", "--json", "o.json")
    rows = {row["metric"]: row for row in json.loads(Path("o.json").read_text())["rows"]}
    assert code == 0 and rows["psnr"]["value"] == pytest.approx(20.0, abs=0.1) and rows["flicker"]["n"] == 2
    code, said = call("metrics", *folders, "--metric", "psnr", "--size", "16,24", "--json", "o.json")
    assert code == 0 and json.loads(Path("o.json").read_text())["settings"]["size"] == [16, 24]
    assert "clips" not in json.loads(Path("o.json").read_text())["settings"]


def test_metrics_at_infinite_n_and_its_cautions(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 features 12 videos are enough for a value at infinite n; 6 are not, and are told what would be."""
    from metrics import frechet_distance, networks
    from metrics.protocol import PRESETS, UNIT, Protocol
    from wanlab.data.folder import read_video, write_video

    class Means(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3, 4))

    monkeypatch.setitem(PRESETS, "means", Protocol("means", "means", "mean", 4, None, UNIT, "this test"))
    monkeypatch.setitem(networks.NETWORKS, "means", networks.Network(lambda given, protocol: (Means(), "means:test")))
    generator, rows = torch.Generator().manual_seed(1), {}
    for name, tint in (("real", 0.0), ("fake", 0.2)):
        for i in range(12):
            video = (0.6 * torch.rand(1, 3, 1, 1, generator=generator) + tint).expand(4, 3, 16, 16)
            write_video(tmp_path / name / f"{i}.mp4", video, lossless=True)
        rows[name] = torch.stack([read_video(tmp_path / name / f"{i}.mp4").mean((0, 2, 3)) for i in sorted(range(12), key=str)])
    ask = ("metrics", "--fake", "fake", "--metric", "fvd", "--preset", "means", "--json", "o.json", "--real")
    code, said = call(*ask, "real")
    [row] = json.loads(Path("o.json").read_text())["rows"]
    whole = float(frechet_distance(rows["fake"], rows["real"]))
    assert code == 0 and "at n = ∞" in said and "warning" not in said and row["metric"] == "fvd[means|4f|s1|means:test]"
    assert row["value"] == pytest.approx(whole, rel=1e-5) and row["n"] == row["n_reference"] == 12
    assert row["bias"] > 0 and 0 < row["infinity"] < whole  # halves lie higher, so the line meets 1/n = 0 below
    for i in range(6, 12):
        (tmp_path / "real" / f"{i}.mp4").unlink()
    code, said = call(*ask, "real")
    [row] = json.loads(Path("o.json").read_text())["rows"]
    assert code == 0 and row["infinity"] is None and row["n_reference"] == 6 and "at n = ∞" not in said
    assert "n = 6 with 3 features" in said and "give n >= 8" in said and "bias" in said


@pytest.mark.slow
def test_generate_gives_a_last_frame_and_a_second_guidance(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("flf2v", "a14b", "t2v"):
        monkeypatch.setitem(wan_presets.PRESETS, f"wan-{kind}", small(kind))
    first, last = (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2))
    for name, picture in (("a.png", first), ("b.png", last)):
        Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy()).save(name)
    common = ("--image", "a.png", "--prompt", "a cat", "--steps", "2", "--lossless", "--device", "cpu")
    asked = {"steps": 2, "prompt": "a cat", "image": "a.png"}
    code, said = call("generate", "-p", "wan-flf2v", *common, "--last-image", "b.png", "--out", "flf2v.mp4")
    assert code == 0, said
    expected = made("flf2v").generate(**asked, last_image="b.png").video[0]
    assert (read_video("flf2v.mp4") - expected).abs().max() <= 2 / 255
    videos = []
    for scales in (("--guidance", "3", "--guidance-2", "1.5"), ("--guidance", "3")):
        code, said = call("generate", "-p", "wan-a14b", *common, *scales, "--out", "a14b.mp4")
        assert code == 0, said
        videos.append(read_video("a14b.mp4"))
    expected = made("a14b").generate(**asked, guidance=3.0, guidance_2=1.5).video[0]
    assert (videos[0] - expected).abs().max() <= 2 / 255 and not torch.equal(*videos)
    code, said = call("generate", "-p", "wan-a14b", *common, "--last-image", "nowhere.png")
    assert code == 2 and "nowhere.png" in said
    for more, says in ((("--last-image", "b.png"), "takes no last frame"), (("--guidance-2", "2"), "guidance_2 is for the second")):
        code, said = call("generate", "-p", "wan-t2v", "--prompt", "a cat", *more)
        assert code == 2 and says in said


@pytest.mark.slow
def test_weights_of_a_folder_are_asked_for_by_path(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wan_presets.PRESETS, "wan-t2v", small("t2v"))
    published.write(pipe := made("t2v", seed=4), tmp_path / "models")
    asked = ("--prompt", "a cat", "--steps", "1", "--lossless", "--device", "cpu")
    for where in (("-p", "wan-t2v", "--path", "models"), ("-p", "models"), ("--path", "models", "--offload", "true")):
        code, said = call("generate", *where, *asked)
        assert code == 0, said
        assert (read_video("out.mp4") - pipe.generate(None, "a cat", steps=1).video[0]).abs().max() <= 2 / 255
    half = "sites", "--path", "models", "--match", "text.out"
    assert call(*half)[1] == "1 sites text (1) out b=1 j=512 c=32"
    code, said = call("generate", "-p", "wan-t2v", "--path", "models", *asked, "--dtype", "bfloat16", "--out", "half.mp4")
    assert code == 0 and not torch.equal(read_video("half.mp4"), read_video("out.mp4"))
    for wrong, says in (("--dtype bf16", "--dtype bf16 is not one of float32"), ("--offload no", "--offload no is not one of auto"),
                        ("-p tiny --path models", "tiny takes no path"), ("--path nowhere", "no folder 'nowhere'")):
        code, said = call("generate", *wrong.split())
        assert code == 2 and says in said, said


def test_train_hands_the_file_over(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from wanlab import training

    given: list[Any] = []
    monkeypatch.setattr(training, "run", lambda config, out: given.append((config, out)), raising=False)
    (tmp_path / "t.yaml").write_text("steps: 10\nlr: 1e-3\n")
    assert call("train", "t.yaml", "--set", "steps=20", "--out", "there")[0] == 0
    assert given == [({"steps": 20, "lr": 0.001}, Path("there"))]
    (tmp_path / "t.yaml").write_text("- 1\n")
    assert call("train", "t.yaml")[0] == 2


def test_doctor_says_what_it_checked_and_ends_with_2_where_something_is_wrong(call: Call, toy: Toy) -> None:
    code, said = call("doctor", "toy", "--device", "cpu")
    assert code == 0 and "ok identity edits bit-identical video" in said and "sound 16 checks, 3 notes" in said, said
    code, said = call("doctor", "toy", "--nan", "--prompt", "a red circle", "--steps", "2", "--device", "cpu")
    assert code == 0 and "no NaN or infinity in" in said, said
    toy.upsample[0].gain.data.fill_(torch.nan)
    code, said = call("doctor", "toy", "--nan", "--device", "cpu")
    assert code == 2 and "NaN or infinite at upsample.0.skip (outside the loop)" in said, said
    assert "not finite themselves: upsample.0.gain" in said and "error 2 of 3 checks failed: weights, finite" in said
    code, said = call("doctor", "toy", "--device", "cpu")
    assert code == 2 and "checks failed: weights, finite" in said, said
