"""The command line: `wanlab generate | run | plan | report | sites | train | metrics | schema | doctor`.

A user's mistake ends with one clear message and exit code 2, Ctrl-C with 130, failed cells with 1. Tracebacks come with
`--debug`. Everything heavy is imported by the command that needs it, so `wanlab --help` answers at once.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    name="wanlab",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Take image-to-video diffusion systems apart: edit, record, swap, measure.",
)
console, errors = Console(), Console(stderr=True)
RESUMABLE = ("run", "train")

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a setting of the file (repeatable).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PipelineName = Annotated[str, typer.Option("--pipeline", "-p", help="A preset's name or a folder with pipeline.json.")]
Init = Annotated[str | None, typer.Option("--init", metavar="random", help="random: allow stages without trained weights.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """Entry point of the `wanlab` command."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        result = app(args=[argument for argument in arguments if argument != "--debug"], standalone_mode=False)
        code = result if isinstance(result, int) else 0  # what typer.Exit carried
    except BaseException as error:
        code = _report_error(error, debug)
    if code == 130:
        again = f"; what is finished is kept, go on with: {shlex.join(['wanlab', *arguments])}" if arguments[0] in RESUMABLE else ""
        errors.print(f"stopped{escape(again)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _report_error(error: BaseException, debug: bool) -> int:
    """Say what went wrong, unless the exit says it by its code; the exit code."""
    if isinstance(error, SystemExit):  # typer leaves this way on Ctrl-C too
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return 130
    # typer carries a click of its own: its base class is reached through a class that typer exports
    usage: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
    if isinstance(error, usage):
        error.show()
        return 2
    if debug or not _is_mistake(error):
        raise error
    said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    errors.print(f"[bold red]error[/]  {escape(said)}", highlight=False, soft_wrap=True)
    return 2


def _is_mistake(error: BaseException) -> bool:
    """Whether an error speaks about what the user gave (and not about wanlab): its message is then all that is needed."""
    from wanlab.core import LedgerError
    from wanlab.pipelines.load import WeightsError

    if isinstance(error, FloatingPointError) and "step" in str(error):  # a training that diverged: it says where, and what is left
        return True
    if type(error) in (KeyError, IndexError):  # raised by a slip of the code; what wanlab raises on purpose is a class of its own
        return False
    return isinstance(error, (ValueError, LookupError, OSError, MemoryError, WeightsError, LedgerError)) and bool(str(error))


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="What happens in the video (without: nothing is said).")] = "",
    image: Annotated[Path | None, typer.Option(help="The first frame (without: none).")] = None,
    last_image: Annotated[Path | None, typer.Option(help="The last frame, where the pipeline takes one.")] = None,
    out: Annotated[Path, typer.Option(help="The video to write.")] = Path("out.mp4"),
    pipeline: PipelineName = "tiny",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int | None, typer.Option(min=1)] = None,
    guidance: Annotated[float | None, typer.Option(min=0)] = None,
    guidance_2: Annotated[float | None, typer.Option(min=0, help="Of the second of two experts (Wan2.2).")] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    edit: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:SITE", help='For example "zero:fusion.attn.z[heads=2]@steps=0:4" (repeatable).'),
    ] = None,
    ablate: Annotated[list[str] | None, typer.Option(help="Remove a component (repeatable).")] = None,
    swap: Annotated[list[str] | None, typer.Option(metavar="STAGE=VARIANT", help="Another variant (repeatable).")] = None,
    tile: Annotated[int | None, typer.Option(min=0, help="Of super-resolution in tiles: their side in pixels; 0: untiled.")] = None,
    fps: Annotated[float, typer.Option(min=0.1)] = 8.0,
    lossless: Annotated[bool, typer.Option(help="RGB without loss; not every player shows it.")] = False,
    device: Device = "auto",
    init: Init = None,
    debug: Debug = False,
) -> None:
    """Make one video from an image and a prompt; beside it, what the edits did (NAME.ledger.json)."""
    from wanlab.data.folder import load_image
    from wanlab.runs import generating
    from wanlab.runs.files import demand_place

    demand_place(out)
    picture = None if image is None else load_image(image)
    pipe = generating.opened(pipeline, device, init, swap or [], tile)
    edits = [e for name in ablate or [] for e in pipe.ablate(name)] + [generating.edit(text) for text in edit or []]
    for kind, text in generating.expectations(pipe, picture, prompt, negative or ""):
        said = f"{image}: {text}" if kind == "note" else text
        errors.print(f"[yellow]{kind}[/]  {escape(said)}", highlight=False, soft_wrap=True)
    settings = {"seed": seed, "steps": steps, "guidance": guidance, "guidance_2": guidance_2, "negative": negative,
                "last_image": None if last_image is None else load_image(last_image).image}
    generating.generate(pipe, picture, prompt, out, edits, settings, {"fps": fps, "lossless": lossless}, console)


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    out: Annotated[Path | None, typer.Option(help="The run folder (default runs/NAME).")] = None,
    sets: Sets = None,
    engine: Annotated[str, typer.Option(help="inline (this process) or ray (workers, on one machine or many).")] = "inline",
    address: Annotated[str | None, typer.Option(help="ray: join this cluster (auto finds one) instead of starting one.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="ray: so many workers (default: as many as fit).")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only part I of N, for job arrays: --shard 2/8.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of a CPU, for each task (part of the content keys).")] = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Run a study, or go on with one, and write its report.

    Several processes may run one study into one folder: with --shard i/n each, in any order and at any time; then
    `wanlab report`. What is finished is never run again.
    """
    from wanlab.runs.engine import make_engine
    from wanlab.runs.shard import Shard
    from wanlab.runs.study import run_study
    part = None if shard is None else Shard.parse(shard)
    if part is not None and engine != "inline":
        raise ValueError(f"--shard {part} splits a run without Ray; leave it out with --engine {engine}")
    runner = make_engine(engine, address, workers)
    root, outcome = run_study(study, out, sets or [], device, runner, errors, shard=part, threads_each=threads)
    if part is None:
        console.print(f"report: {escape(str((root / 'report' / 'report.html').resolve()))}", highlight=False, soft_wrap=True)
    else:
        waiting = f"{len(outcome.waiting)} cells wait for other shards; when those have ended"
        then = f"wanlab report {escape(shlex.quote(str(root)))}"
        console.print(f"{waiting if outcome.waiting else 'all cells are done'}: {then}", highlight=False, soft_wrap=True)
    if outcome.failed:
        errors.print(
            f"[red]{len(outcome.failed)} cells failed[/]: {escape(', '.join(outcome.failed))}; their tracebacks stand in "
            "cells/*/attempts.jsonl, and the same command tries them again"
        )
        raise typer.Exit(1)


@app.command()
def plan(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    out: Annotated[Path | None, typer.Option(help="The run folder whose finished work counts (default runs/NAME).")] = None,
    sets: Sets = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Schedule it on so many: wall time, hours, traffic, disk.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; with an outline: one that it states.")] = "auto",
    debug: Debug = False,
) -> None:
    """Say what a study would run: cells, stage runs after sharing, minutes, GiB, disk. Nothing runs.

    A study with an outline (stated figures of its pipeline) is planned without weights.
    """
    from wanlab.runs.scale import plan_study
    plan_study(study, out, sets or [], device, workers, console)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Of report, stats and title: report.width=icml (repeatable).")
    ] = None,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Write results.csv and report/ of a run folder again; nothing is generated or measured."""
    from wanlab.runs.environment import pick_device
    from wanlab.runs.study import report_study

    page = report_study(folder, pick_device(device), sets=sets or [])
    console.print(escape(str(page.resolve())), highlight=False, soft_wrap=True)


@app.command()
def sites(
    pipeline: Annotated[str, typer.Argument(help="A preset's name or a folder with pipeline.json.")] = "tiny",
    match: Annotated[str, typer.Option("--match", "-m", help="A pattern such as generator.**.attn.*")] = "**",
    swap: Annotated[list[str] | None, typer.Option(metavar="STAGE=VARIANT", help="Another variant (repeatable).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON: name, axes, shape (of one row), clock.")] = False,
    meta: Annotated[bool, typer.Option("--meta", help="From sizes alone: no weights are read.")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="With --meta: memory and operations of each node, computed.")] = False,
    init: Init = None,
    debug: Debug = False,
) -> None:
    """Show the sites of a pipeline as a tree, with how many there are, their axes and the shapes of one row."""
    if cost and not meta:
        raise ValueError("--cost is computed from sizes alone: give --meta with it")
    with errors.status(f"loading {escape(pipeline)}", spinner="line"):
        if cost:
            from wanlab.pipelines.cost import told

            print(told(pipeline))
            return
        if meta:
            from wanlab.pipelines.load import load

            found = load(pipeline, init="meta").sites(match)
        else:
            from wanlab.runs.generating import opened

            found = opened(pipeline, "cpu", init, swap or []).sites(match)
    if as_json:
        import json

        rows = [{"name": site.name, "axes": site.axes, "shape": site.shape, "clock": sorted(site.clock or ())} for site in found]
        print("[" + ",\n ".join(json.dumps(row) for row in rows) + "]")
    else:
        console.print(escape(str(found)), highlight=False, soft_wrap=True)


@app.command()
def train(
    file: Annotated[Path, typer.Argument(help="A training file, for example experiments/train/tiny.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Where checkpoints go (default runs/train-NAME).")] = None,
    sets: Sets = None,
    debug: Debug = False,
) -> None:
    """Train what a file describes, or go on with it from its checkpoints."""
    from wanlab.runs.document import read

    document = read(file)
    for setting in sets or []:
        document.override(setting)
    if not isinstance(document.data, dict):
        raise ValueError(f"{file}: a training file is a mapping of keys")
    from wanlab import training
    from wanlab.runs.progress import TrainingMonitor

    folder = out or Path("runs") / f"train-{file.stem}"
    with TrainingMonitor(errors) as monitor, training.watched_by(monitor):
        training.run(document.data, folder)
    pipeline = folder / "pipeline"
    console.print(escape(str((pipeline if pipeline.exists() else folder).resolve())), highlight=False, soft_wrap=True)


@app.command()
def metrics(
    real: Annotated[Path | None, typer.Option(help="Folder of reference videos (files, or folders of frames).")] = None,
    fake: Annotated[Path | None, typer.Option(help="Folder of videos to judge; paired by name, else by order.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Names (repeatable, or several after one --metric).")] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[METRIC]...", help="More names.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here; values per video and frame beside it.")] = None,
    preset: Annotated[str, typer.Option(help="Protocol of set distances, such as videogpt or styleganv.")] = "motionnet",
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a clip of the preset (default: the preset's).")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="From one frame of a clip to the next.")] = None,
    offset: Annotated[str | None, typer.Option(help="Where clips begin: first, middle, seeded, uniform.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of seeded clips.")] = 0,
    weights: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="Weights of others (repeatable).")] = None,
    size: Annotated[str | None, typer.Option(metavar="N|H,W", help="Crop to it and resize (default: their own).")] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="CSV file,prompt: for clip_text and clip_score.")] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep what is found here; a stopped call goes on.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Videos at once, at most.")] = 8,
    device: Device = "auto", debug: Debug = False,
) -> None:  # fmt: skip
    """Judge a folder of videos against another; without folders: list the metrics."""
    from wanlab.runs import judging
    if real is None and fake is None:
        judging.listing(console)
        return
    if json is not None:
        from wanlab.runs.files import demand_place

        demand_place(json, "--json", "out.json")
    names, clips = [*(metric or []), *(more or [])], judging.Clips(preset, frames, stride, offset, seed)
    more_of_it: dict[str, Any] = {"batch": batch, "device": device, "out": json, "prompts": prompts, "cache": cache}
    judging.judge(judging.request(real, fake, names, clips, weights or [], size, **more_of_it), console, errors)


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option(help="Write it here instead of printing it.")] = None,
    debug: Debug = False,
) -> None:
    """The JSON schema of study files, for editors."""
    from wanlab.runs.spec import schema_text

    if out is None:
        print(schema_text(), end="")
    else:
        out.write_text(schema_text(), encoding="utf-8")


@app.command()
def doctor(
    pipeline: Annotated[str, typer.Argument(help="A preset's name or a folder with pipeline.json.")] = "tiny",
    nan: Annotated[bool, typer.Option("--nan", help="Generate, and name the first site, step, branch that is not finite.")] = False,
    image: Annotated[Path | None, typer.Option(help="With --nan: the first frame.")] = None,
    prompt: Annotated[str | None, typer.Option(help="With --nan: what happens in the video.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="With --nan.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="With --nan.")] = None,
    device: Device = "auto",
    init: Init = None,
    debug: Debug = False,
) -> None:
    """Check this installation: packages, device, weights, and that edits and records do exactly what they say."""
    from wanlab.data.folder import load_image
    from wanlab.runs import health

    given = {"image": image and load_image(image).image, "prompt": prompt, "seed": seed, "steps": steps}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not nan:
        raise ValueError(f"--{next(iter(given))} is for the search for NaN: add --nan, or leave it out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            if nan:
                health.search(pipeline, device, init, console, errors, given)
            else:
                health.examine(pipeline, device, init, console, errors)
    except health.Unsound as unsound:
        errors.print(f"[bold red]error[/]  {escape(str(unsound))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
