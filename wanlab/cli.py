"""The command line: `wanlab generate | run | plan | report | sites | train | metrics | schema | doctor`.

A mistake of the user ends with one clear message and exit code 2, Ctrl-C with 130, SIGTERM with 143, failed cells with 1.
Tracebacks come with `--debug`. Everything heavy is imported by the command that needs it, so `wanlab --help` answers at once.
"""

from __future__ import annotations

import io
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

OPENING = """Take image-to-video diffusion systems apart.

Load a pipeline, see every place where a tensor flows, change or keep any of
them at any denoising step, swap one stage for another, and run grids of such
changes that come out as numbers with intervals, tables, figures and videos.

\b
A first look, on the small trained pipeline that ships with the package:
  wanlab sites tiny --match "generator.**"
  wanlab generate --prompt "a red circle moves left"
  wanlab generate --prompt "a red circle moves left" --ablate temporal
  wanlab run experiments/quickstart.yaml
"""
ONE, MANY, MORE = "One video", "Studies", "Numbers, weights, this machine"


class Commands(TyperGroup):
    """Tells SIGTERM, which raises a class of its own (`runs.files.Terminated`), from Ctrl-C: typer makes one exit of both."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; raises `typer.Exit` with 130 or 143 where one of the two stops it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise typer.Exit(130 if type(error) is KeyboardInterrupt else 143) from error


app = typer.Typer(
    name="wanlab", cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help=OPENING,
    epilog="`wanlab COMMAND --help` says what a command takes. Every command works offline.",
)
console, errors = Console(), Console(stderr=True)
RESUMABLE = ("run", "train")
STOPPED = (130, 143)  # by Ctrl-C, by SIGTERM: as shells count

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a setting: data.n=8 (repeatable).")]
Swaps = Annotated[list[str] | None, typer.Option("--swap", metavar="STAGE=VARIANT", help="Another variant (repeatable).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PIPELINE = "A preset's name, a folder with pipeline.json, or a folder of Wan's weights"
PipelineName = Annotated[str | None, typer.Option("--pipeline", "-p", help=f"{PIPELINE} (default tiny).")]
Weights = Annotated[Path | None, typer.Option("--path", help="The folder of a Wan model's weights, in either layout.")]
Dtype = Annotated[str | None, typer.Option(help="Precision of a Wan model: float32, bfloat16 (default on a GPU), float16.")]
Offload = Annotated[str, typer.Option(help="Keep stages of a Wan model in main memory until they run: true, false, auto.")]
Init = Annotated[str | None, typer.Option("--init", metavar="random", help="random: allow stages without trained weights.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """Entry point of the `wanlab` command."""
    arguments = sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text
    debug = "--debug" in arguments
    try:
        result = app(args=[argument for argument in arguments if argument != "--debug"], standalone_mode=False)
        code = result if isinstance(result, int) else 0  # what typer.Exit carried
    except BaseException as error:
        code = _report_error(error, debug)
    if code in STOPPED:
        again = f"; what is finished is kept, go on with: {shlex.join(['wanlab', *arguments])}" if arguments[0] in RESUMABLE else ""
        errors.print(f"stopped{escape(again)}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _report_error(error: BaseException, debug: bool) -> int:
    """Say what went wrong, unless the exit says it by its code; the exit code."""
    if isinstance(error, SystemExit):
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
    from wanlab.pipelines.weights import WeightsError

    if isinstance(error, FloatingPointError) and "step" in str(error):  # a training that diverged: it says where, and what is left
        return True
    if type(error) in (KeyError, IndexError):  # raised by a slip of the code; what wanlab raises on purpose is a class of its own
        return False
    return isinstance(error, (ValueError, LookupError, OSError, MemoryError, WeightsError, LedgerError)) and bool(str(error))


@app.command(rich_help_panel=ONE)
def generate(
    prompt: Annotated[str, typer.Option(help="What happens in the video (without: nothing is said).")] = "",
    image: Annotated[Path | None, typer.Option(help="The first frame (without: none).")] = None,
    last_image: Annotated[Path | None, typer.Option(help="The last frame, where the pipeline takes one.")] = None,
    out: Annotated[Path, typer.Option(help="The video to write.")] = Path("out.mp4"),
    pipeline: PipelineName = None,
    path: Weights = None,
    seed: Annotated[int, typer.Option(min=0, help="All noise of the video follows from it.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps (without: the pipeline's own number).")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Scale of guidance; 1: none (without: the pipeline's own).")] = None,
    guidance_2: Annotated[float | None, typer.Option(min=0, help="Guidance of the second of two experts (Wan2.2).")] = None,
    negative: Annotated[str | None, typer.Option(help="What the video should not show (a negative prompt).")] = None,
    edit: Annotated[list[str] | None, typer.Option(
        metavar="KIND:SITE", help=r'An edit at a site: "zero:fusion.attn.z\[heads=2]@steps=0:4"; in brackets '
                                r'what the kind takes: "scale\[factor=0.5]:fusion.attn.z" (repeatable).')] = None,
    ablate: Annotated[list[str] | None, typer.Option(help="Remove a component: text, temporal, ... (repeatable).")] = None,
    swap: Swaps = None,
    tile: Annotated[int | None, typer.Option(min=0, help="Super-resolution in tiles of so many pixels; 0: untiled.")] = None,
    fps: Annotated[float, typer.Option(min=0.1, max=1000, help="Frames per second of the file.")] = 8.0,
    lossless: Annotated[bool, typer.Option("--lossless", help="Write RGB without loss; not every player shows it.")] = False,
    device: Device = "auto",
    dtype: Dtype = None,
    offload: Offload = "auto",
    init: Init = None,
    debug: Debug = False,
) -> None:
    """Make one video from an image and a prompt, with parts removed, edited or swapped as you say.

    Beside the video stands what the edits did (NAME.ledger.json): where each
    was due, and where it acted.

    \b
      wanlab generate --prompt "a red circle moves left"
      wanlab generate --prompt "a red circle moves left" --ablate temporal
      wanlab generate --image experiments/first.png --edit "zero:fusion.attn.z"
    """
    from wanlab.data.folder import load_image
    from wanlab.runs import generating

    generating.demand_name(out)
    picture = None if image is None else load_image(image)
    pipe = generating.opened(generating.model(pipeline, path, dtype, offload), device, init, swap or [], tile)
    edits = [e for name in ablate or [] for e in pipe.ablate(name)] + [generating.edit(text) for text in edit or []]
    settings = {"seed": seed, "steps": steps, "guidance": guidance, "guidance_2": guidance_2, "negative": negative,
                "last_image": None if last_image is None else load_image(last_image).image}
    for kind, text in generating.expectations(pipe, picture, prompt, settings):
        said = f"{image}: {text}" if kind == "note" else text
        errors.print(f"[yellow]{kind}[/]  {escape(said)}", highlight=False, soft_wrap=True)
    generating.generate(pipe, picture, prompt, out, edits, settings, {"fps": fps, "lossless": lossless}, console)


@app.command(rich_help_panel=MANY)
def run(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    out: Annotated[Path | None, typer.Option(help="The run folder (default runs/NAME).")] = None,
    sets: Sets = None,
    engine: Annotated[str, typer.Option(help="Who works: inline (this process) or ray (many workers).")] = "inline",
    address: Annotated[str | None, typer.Option(help="With ray: join this cluster (auto finds one).")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=100_000, help="With ray: so many (default: as many as fit).")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Do part I of N alone, for job arrays: --shard 2/8.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads of a task (part of the content keys).")] = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Run a study, or go on with one, and write its report.

    What is finished is never run again: after Ctrl-C, a kill or an empty
    battery the same command goes on. Several processes may fill one folder,
    each with --shard i/n, in any order and at any time; then `wanlab report`.

    \b
      wanlab run experiments/components.yaml
      wanlab run experiments/components.yaml --set data.n=8 --out runs/short
    """
    from wanlab.runs.engine import make_engine
    from wanlab.runs.shard import Shard
    from wanlab.runs.study import run_study
    part = None if shard is None else Shard.parse(shard)
    if part is not None and engine != "inline":
        raise ValueError(f"--shard {part} splits a run without Ray; leave it out with --engine {engine}")
    runner = make_engine(engine, address, workers)
    root, outcome = run_study(study, out, sets or [], device, runner, errors, shard=part, threads_each=threads)
    if part is not None:
        waiting = f"{len(outcome.waiting)} cells wait for other shards; when those have ended"
        then = f"wanlab report {escape(shlex.quote(str(root)))}"
        console.print(f"{waiting if outcome.waiting else 'all cells are done'}: {then}", highlight=False, soft_wrap=True)
    elif outcome.done or outcome.before:
        console.print(f"report: {escape(str((root / 'report' / 'report.html').resolve()))}", highlight=False, soft_wrap=True)
    if outcome.failed:
        errors.print(
            f"[red]{len(outcome.failed)} cells failed[/]: {escape(', '.join(outcome.failed))}; their tracebacks stand in "
            "cells/*/attempts.jsonl, and the same command tries them again"
        )
        raise typer.Exit(1)


@app.command(rich_help_panel=MANY)
def plan(
    study: Annotated[Path, typer.Argument(help="A study file.")],
    out: Annotated[Path | None, typer.Option(help="The run folder whose finished work counts (default runs/NAME).")] = None,
    sets: Sets = None,
    workers: Annotated[int | None, typer.Option(min=1, max=100_000, help="Schedule it on so many: time, hours, traffic.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N; with an outline: one that it states.")] = "auto",
    debug: Debug = False,
) -> None:
    """Say what a study would run: cells, stage runs after sharing, minutes, GiB, disk. Nothing runs.

    A study with an outline (stated figures of its pipeline) is planned without weights.
    """
    from wanlab.runs.scale import plan_study
    plan_study(study, out, sets or [], device, workers, console)


@app.command(rich_help_panel=MANY)
def report(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a setting: report.width=icml (repeatable).")
    ] = None,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Write results.csv and report/ of a run folder again; nothing is generated or measured."""
    from wanlab.runs.environment import pick_device
    from wanlab.runs.study import report_study

    page = report_study(folder, pick_device(device), sets=sets or [])
    console.print(escape(str(page.resolve())), highlight=False, soft_wrap=True)


@app.command(rich_help_panel=ONE)
def sites(
    pipeline: Annotated[str | None, typer.Argument(help=f"{PIPELINE} (default tiny).")] = None,
    path: Weights = None,
    match: Annotated[str, typer.Option("--match", "-m", help="Show those that fit a pattern: `generator.**.attn.*`")] = "**",
    swap: Swaps = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: name, axes, shape (of one row), clock.")] = False,
    meta: Annotated[bool, typer.Option("--meta", help="Work from sizes alone: no weights are read.")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="With --meta: show memory and operations of each node, computed.")] = False,
    init: Init = None,
    debug: Debug = False,
) -> None:
    """Show the sites of a pipeline as a tree, with how many there are, their axes and the shapes of one row."""
    if cost and not meta:
        raise ValueError("--cost is computed from sizes alone: give --meta with it")
    name = pipeline or (str(path) if path else "tiny")
    with errors.status(f"loading {escape(name)}", spinner="line"):
        from wanlab.pipelines.cost import sized, told
        from wanlab.runs.generating import model, opened, swapped

        swaps = swap or []
        pipe = swapped(sized(name), swaps, "meta") if meta else opened(model(pipeline, path), "cpu", init, swaps)
        if cost:
            print(told(pipe))
            return
        found = pipe.sites(match)
    if as_json:
        import json

        rows = [{"name": site.name, "axes": site.axes, "shape": site.shape, "clock": sorted(site.clock or ())} for site in found]
        print("[" + ",\n ".join(json.dumps(row) for row in rows) + "]")
    else:
        console.print(escape(str(found)), highlight=False, soft_wrap=True)


@app.command(rich_help_panel=MORE)
def train(
    file: Annotated[Path, typer.Argument(help="A training file, for example experiments/train/tiny.yaml.")],
    out: Annotated[Path | None, typer.Option(help="Where checkpoints go (default runs/train-NAME).")] = None,
    sets: Sets = None,
    debug: Debug = False,
) -> None:
    """Train what a file describes, or go on with it from its checkpoints.

    It shows part, step, loss and time left. Ctrl-C ends after the step in
    hand with a checkpoint, and the same command goes on.
    """
    from wanlab.runs.document import read

    document = read(file)
    for setting in sets or []:
        document.override(setting)
    if not isinstance(document.data, dict):
        raise ValueError(f"{file}: a training file is a mapping of keys")
    from wanlab import training
    from wanlab.runs.files import stoppable
    from wanlab.runs.progress import TrainingMonitor

    folder = out or Path("runs") / f"train-{file.stem}"
    with stoppable(), TrainingMonitor(errors) as monitor, training.watched_by(monitor):
        training.run(document.data, folder)
    pipeline = folder / "pipeline"
    console.print(escape(str((pipeline if pipeline.exists() else folder).resolve())), highlight=False, soft_wrap=True)


@app.command(rich_help_panel=MORE)
def metrics(
    real: Annotated[Path | None, typer.Option(help="Folder of reference videos (files, or folders of frames).")] = None,
    fake: Annotated[Path | None, typer.Option(help="Folder of videos to judge; paired by name, else by order.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Names of metrics (repeatable, or several after one).")] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[METRIC]...", help="More names of metrics.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here; values per video and frame beside it.")] = None,
    preset: Annotated[str, typer.Option(help="Protocol of set distances: videogpt, styleganv, ...")] = "motionnet",
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a clip (default: the preset's).")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Steps from frame to frame (default: the preset's).")] = None,
    offset: Annotated[str | None, typer.Option(help="Where clips begin: first, middle, seeded, uniform.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Where seeded clips begin follows from it.")] = 0,
    weights: Annotated[list[str] | None, typer.Option(metavar="NAME=PATH", help="Where others' weights lie (repeatable).")] = None,
    size: Annotated[str | None, typer.Option(metavar="N|H,W", help="Crop and resize to this size (default: their own).")] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="A CSV file,prompt, for clip_text and clip_score.")] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep what is found here; a stopped call goes on.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Videos at once, at most.")] = 8,
    device: Device = "auto", debug: Debug = False,
) -> None:  # fmt: skip
    """Judge a folder of videos against another; without anything, list the metrics and what each needs.

    \b
      wanlab metrics --real clips --fake made --metric fvd lpips warp_error --json out.json
    """
    from wanlab.runs import judging
    names, clips = [*(metric or []), *(more or [])], judging.Clips(preset, frames, stride, offset, seed)
    if clips == judging.Clips() and not (real or fake or names or weights or json or size or prompts or cache):
        judging.listing(console)
        return
    if json is not None:
        from wanlab.runs.files import demand_place

        demand_place(json, "--json", "out.json")
    more_of_it: dict[str, Any] = {"batch": batch, "device": device, "out": json, "prompts": prompts, "cache": cache}
    judging.judge(judging.request(real, fake, names, clips, weights or [], size, **more_of_it), console, errors)


@app.command(rich_help_panel=MANY)
def schema(
    out: Annotated[Path | None, typer.Option(help="Write it to this file instead.")] = None,
    debug: Debug = False,
) -> None:
    """Print the JSON schema of study files, with which editors complete and check them."""
    from wanlab.runs.spec import schema_text
    if out is None:
        print(schema_text(), end="")
    else:
        out.write_text(schema_text(), encoding="utf-8")


@app.command(rich_help_panel=MORE)
def doctor(
    pipeline: Annotated[str, typer.Argument(help=f"{PIPELINE}.")] = "tiny",
    nan: Annotated[bool, typer.Option("--nan", help="Generate, and name the first site, step, branch that is not finite.")] = False,
    image: Annotated[Path | None, typer.Option(help="With --nan: the first frame.")] = None,
    prompt: Annotated[str | None, typer.Option(help="With --nan: what happens in the video.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="With --nan: the seed.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="With --nan: denoising steps.")] = None,
    device: Device = "auto",
    init: Init = None,
    debug: Debug = False,
) -> None:
    """Check this installation: packages, device, weights, and that edits and records do exactly what they say.

    With --nan it generates, and names the first site, step and branch whose values are not finite.
    """
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
