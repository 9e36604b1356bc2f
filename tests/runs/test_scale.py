"""Plans from stated figures: what is shared is counted step by step, and docs/scale.md says what the command says."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.runs.toy import STUDY as TOY
from tests.runs.toy import bench
from wanlab.runs.document import StudyError
from wanlab.runs.outline import load_outline, workload
from wanlab.runs.reading import load_study, parse_study
from wanlab.runs.scale import _jobs_of, scale_of_outline, scale_of_plan
from wanlab.runs.schedule import Job, simulate

ROOT = Path(__file__).resolve().parents[2]
OUTLINE = """
name: small
says: made up
steps: 8
guidance: 5.0
components: {text: text, temporal: denoise}
devices: {box: {start: 3, seconds: {text: 1, denoise: 2, decode: 4, metrics: 1}}}
nodes:
  text: {reads: [prompts]}
  denoise: {inputs: [text], reads: [seeds, steps, guidance], stages: [dit], steps: true, gib: 1, state_gib: 2}
  decode: {inputs: [denoise], gib: 3}
"""
STUDY = """
name: s
pipeline: small
data: {kind: procedural, n: 2}
batch: 2
cells:
  baseline:
  temporal: {ablate: temporal}
  late: {ablate: temporal, window: "4:"}
  later: {ablate: temporal, window: "6:"}
  text: {ablate: text}
  same: {edits: [{kind: bypass, at: dit.x, steps: "6:"}]}
  dull: {sampler: {guidance: 1.0}}
metrics: [psnr]
"""


@pytest.fixture
def outline(tmp_path: Path) -> Path:
    (tmp_path / "outline.yaml").write_text(OUTLINE)
    return tmp_path / "outline.yaml"


def test_steps_are_shared_until_cells_differ(outline: Path) -> None:
    study, document = parse_study(STUDY)
    stated = load_outline(outline)
    work = workload(study, document, stated, stated.device(None), 2)
    assert work.steps_alone == 7 * 8 * 2
    # baseline 8, temporal 8, late 4 more, later 2 more, text 8, same 2 more, dull 8: for two rows
    assert work.steps_shared == (8 + 8 + 4 + 2 + 8 + 2 + 8) * 2
    assert work.shared["decode"] == 7 and work.shared["text"] == 2
    # the loop of the baseline is cut at 4 and at 6: three runs, and one for each of the others
    assert work.shared["denoise"] == 3 + 6
    # seconds: 2 rows; a step takes 2 s, 1 s at guidance 1
    assert sum(job.seconds for job in work.jobs if job.stage == "denoise") == 2 * (2 * 32 + 1 * 8)
    assert work.alone_seconds == 2 * (7 * (1 + 4 + 1) + 6 * 16 + 8)
    parting = [job for job in work.jobs if job.stage == "denoise" and job.gib == 2 * 2]
    assert len(parting) == 2  # the state is kept where cells part


@pytest.mark.parametrize(("share", "steps"), [("{fork: false}", 56 * 2), ("{cache: false}", 56 * 2)])
def test_what_is_not_shared_is_counted_for_every_cell(outline: Path, share: str, steps: int) -> None:
    study, document = parse_study(STUDY + f"share: {share}\n")
    stated = load_outline(outline)
    work = workload(study, document, stated, stated.device("box"), 2)
    assert work.steps_shared == steps
    assert work.shared["text"] == (2 if "fork" in share else 7)


def test_what_an_outline_does_not_have_is_told_at_its_place(outline: Path) -> None:
    text = STUDY.replace("ablate: text}", "ablate: txt}").replace("at: dit.x", "at: dti.x")
    text = text.replace("metrics: [psnr]", f"metrics: [psnr]\noutline: {outline}")
    text = text.replace("  dull:", '  window: {ablate: text, window: "0:2"}\n  dull:')
    with pytest.raises(StudyError) as caught:
        scale_of_outline(*parse_study(text), 2, None)
    said = str(caught.value)
    assert "no component 'txt' (did you mean 'text'?)" in said and "no stage for the site 'dti' (did you mean 'dit'?)" in said
    assert ":13:34: cells.window.window: text acts in text, which has no steps" in said
    with pytest.raises(StudyError, match="states no device 'h200'; it states box"):
        scale_of_outline(*parse_study(STUDY + f"outline: {outline}\n"), 2, "h200")


def test_mistakes_in_an_outline(outline: Path) -> None:
    wrong = OUTLINE.replace("inputs: [text]", "inputs: [txt]").replace("decode: 4, ", "")
    outline.write_text(wrong.replace("temporal: denoise", "temporal: dit"))
    with pytest.raises(StudyError) as caught:
        load_outline(outline)
    for part in ("no node 'txt' before this one (did you mean 'text'?)", "the seconds of decode are missing", "no node 'dit'"):
        assert part in str(caught.value)


FORKED = TOY.replace("  both:", "  late: {ablate: generator, window: '2:'}\n  both:")


@pytest.mark.parametrize(("old", "new"), [("text: 1,", "text: .inf,"), ("text: 1,", "text: .nan,"), ("text: 1,", "text: -1,"),
                                          ("steps: 8", "steps: 1000000000"), ("state_gib: 2", "state_gib: .inf"),
                                          ("start: 3", "start: 1.0e+300")])  # fmt: skip
def test_figures_of_an_outline_that_nothing_can_have(old: str, new: str, outline: Path) -> None:
    outline.write_text(OUTLINE.replace(old, new))
    with pytest.raises(StudyError, match=r"outline.yaml:\d+:\d+: "):
        load_outline(outline)


def test_more_workers_than_jobs_take_no_longer_to_plan() -> None:
    jobs = [Job("a", 1.0), Job("b", 2.0), Job("c", 1.0, needs=(0, 1))]
    assert simulate(jobs, 10**9).wall == simulate(jobs, 3).wall == 3.0


@pytest.mark.parametrize("edit", ["{kind: zero}", "{kind: zero, at: dit.x, steps: x}", "{kind: zero, at: dit.x, steps: {}}"])
def test_an_edit_that_says_no_place_is_told_where_it_stands(edit: str, outline: Path) -> None:
    study, document = parse_study(STUDY.replace("{kind: bypass, at: dit.x, steps: \"6:\"}", edit), name="s.yaml")
    stated = load_outline(outline)
    with pytest.raises(StudyError, match=r"s.yaml:12:\d+: cells.same.edits"):
        workload(study, document, stated, stated.device(None), 2)


@pytest.mark.parametrize("text", [TOY, FORKED, FORKED + "share: {pack: 3}\n", TOY + "share: {cache: false}\n"])
def test_a_planned_study_is_scheduled_from_its_seconds(text: str) -> None:
    work = bench(text=text)
    each = {"text": 1.0, "denoise": 2.0, "upsample.0": 1.0, "upsample.1": 1.0, "detail": 3.0, "metrics": 0.5}
    alone, many = (scale_of_plan(work.study, work.plan, each, workers, "cpu") for workers in (1, 4))
    rows = sum(len(chunk.indices) for chunk in work.plan.chunks)
    runs = work.plan.stage_runs()
    judging = len(work.plan.cells) * rows * each["metrics"]
    assert alone.schedule.wall == pytest.approx(sum(runs.rows[stage] * each[stage] for stage in runs.rows) + judging)
    assert {stage: shared for stage, _, shared, _ in alone.rows if stage != "metrics"} == dict(runs.shared)
    assert alone.steps == (sum(runs.steps_alone.values()), sum(runs.steps.values()))
    assert many.schedule.bound <= many.schedule.wall < alone.schedule.wall
    assert not [name for name in alone.figures() if "cache" in name]    # nobody knows their sizes
    with pytest.raises(StudyError, match="needs the seconds of detail"):
        scale_of_plan(work.study, work.plan, {name: one for name, one in each.items() if name != "detail"}, 2, "cpu")


@pytest.mark.parametrize("share", ["{}", "{pack: 2}", "{cache: false}"])
def test_a_cell_is_judged_when_the_baseline_that_it_is_compared_with_is_there(share: str) -> None:
    each = dict.fromkeys(("text", "denoise", "upsample.0", "upsample.1", "detail", "metrics"), 1.0)
    counts = {}
    for reference in ("data", "baseline"):
        work = bench("data.n=1", "seeds=[0]", f"reference={reference}", text=TOY + f"share: {share}\n")
        jobs = _jobs_of(work.plan, each)
        judging = [set(job.needs) for job in jobs if job.stage == "metrics"]
        assert {jobs[number].stage for needs in judging for number in needs} == {"detail"}
        counts[reference] = [len(needs) for needs in judging]
    assert counts["data"] == [1] * 5 and counts["baseline"].count(1) < 5 and len(set.intersection(*judging)) == 1


def test_the_document_says_what_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the outline lies beside the study
    study, document = load_study(ROOT / "experiments" / "scale" / "heads14b.yaml")
    assert len(study.cells) == 10_005
    scale = scale_of_outline(study, document, 64, "h200")
    page = (ROOT / "docs" / "scale.md").read_text()
    for name, value in scale.figures().items():
        assert f"| {name} | {value} |" in page, f"{name}: {value}"
    steps = f"{scale.steps[0]:,}", f"{scale.steps[1]:,}"
    assert f"would have been {steps[0]}, is {steps[1]}" in page
    said = io.StringIO()
    scale.show(Console(file=said, width=200))
    assert "nothing measured" in said.getvalue() and scale.figures()["wall time"] in said.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "device", "change", "says"),
    [
        (64, "h200", ("share.fork=false",), "it is {hours} device hours and {wall}"),
        (256, "h200", (), "256 would be for {efficiency} ({wall}, {hours} device hours)"),
        (64, "a100", (), "{wall} and {hours} device hours"),
    ],
)
def test_what_the_document_says_of_other_clusters(
    workers: int, device: str, change: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study, document = load_study(ROOT / "experiments" / "scale" / "heads14b.yaml", change)
    told = scale_of_outline(study, document, workers, device).figures()
    page = " ".join((ROOT / "docs" / "scale.md").read_text().split())
    sentence = says.format(hours=told["device hours"], wall=told["wall time"], efficiency=told["efficiency"])
    assert sentence in page, sentence


def test_the_stated_seconds_follow_from_the_shapes() -> None:
    outline = load_outline(ROOT / "experiments" / "scale" / "wan14b.outline.yaml")

    def flop(width: int, hidden: int, blocks: int, image: bool) -> float:
        n, words, pictures = 21 * 30 * 52, 512, 257 if image else 0
        linear = 2 * n * (4 * width**2 + 2 * width**2 + 2 * width * hidden)
        context = 2 * 2 * (words + pictures) * width**2
        return blocks * (linear + context + 4 * n**2 * width + 4 * n * (words + pictures) * width)

    assert flop(1536, 8960, 30, image=False) == pytest.approx(283e12, rel=0.01)  # the figure of docs/scale.md for the 1.3B model
    step = 2 * flop(5120, 13824, 40, image=True)
    for device, peak in (("h200", 989e12), ("h100", 989e12), ("a100", 312e12)):
        assert outline.devices[device].seconds["denoise"] == pytest.approx(step / (0.45 * peak), rel=0.005)
