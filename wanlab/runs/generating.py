"""`wanlab generate`: a pipeline as the command line asks for it, one video of it, and what to expect of picture and prompt."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from wanlab.core import LedgerError, edit_from_dict
from wanlab.core.quote import quoted
from wanlab.data.folder import write_video
from wanlab.data.media import demand_mp4, demand_rate
from wanlab.pipelines.cascade import Cascade
from wanlab.pipelines.inputs import sides
from wanlab.pipelines.output import save_ledger
from wanlab.pipelines.tiles import Tiling
from wanlab.pipelines.unread import unread
from wanlab.pipelines.wan21 import Wan
from wanlab.runs import opening
from wanlab.runs.document import StudyError, parse
from wanlab.runs.environment import pick_device
from wanlab.runs.files import demand_place
from wanlab.runs.model import Model
from wanlab.stages.prompt import PromptWarning

DTYPES = ("float32", "bfloat16", "float16")
OFFLOAD: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}


def opened(
    model: Model, device: str, init: str | None = None, swaps: Sequence[str] = (), tile: int | None = None
) -> Any:
    """A pipeline on a device, with the variants of `swaps` ("align=none"), and tiles of so many pixels (0: none) where it is a
    cascade. Raises ValueError.
    """
    if init not in (None, "random"):
        raise ValueError(f"--init {init}: the one way to go without trained weights is --init random")
    place = pick_device(device)
    pipe = swapped(opening.opened(model, place, init), swaps, init)
    if tile is not None:
        if not isinstance(pipe, Cascade):
            raise ValueError(f"--tile {tile}: {pipe.config['name']} has no super-resolution")
        pipe = pipe.tiled(Tiling(tile) if tile else None)
    return pipe if pipe.residence is not None else pipe.to(place)


def swapped(pipe: Any, swaps: Sequence[str], init: str | None = None) -> Any:
    """A pipeline with the variants of `swaps` ("align=none"). Raises ValueError, and LookupError for one that there is not."""
    for text in swaps:
        stage, equals, variant = text.partition("=")
        if not equals:
            raise ValueError(f"--swap {text}: expected STAGE=VARIANT, for example align=none")
        pipe = pipe.swap(stage, variant, init=init)
    return pipe


def model(name: str | None, path: Path | None, dtype: str | None = None, offload: str = "auto") -> Model:
    """What the command line says of a pipeline: a name, a place, or both; of neither, `tiny`. Raises ValueError."""
    if dtype not in (None, *DTYPES):
        raise ValueError(f"--dtype {dtype} is not one of {', '.join(DTYPES)}")
    if offload not in OFFLOAD:
        raise ValueError(f"--offload {offload} is not one of {', '.join(OFFLOAD)}")
    told = {"name": name or (None if path else "tiny"), "path": path, "dtype": dtype, "offload": OFFLOAD[offload]}
    return Model.model_validate(told)


def edit(text: str) -> Any:
    """`zero:fusion.attn.z[heads=2]@steps=0:4` as an edit; parameters of the kind follow it in brackets: `scale[factor=2]:...`.

    Raises ValueError.
    """
    head, colon, site = text.partition(":")
    kind, bracket, inside = head.partition("[")
    if not colon or (bracket and not inside.endswith("]")) or not kind.strip().isidentifier():
        raise ValueError(f"--edit {quoted(text)}: expected KIND:SITE, for example zero:fusion.attn.z[heads=2]@steps=0:4, "
                         "or KIND[NAME=VALUE]:SITE, for example scale[factor=0.5]:fusion.attn.z")
    pairs = [pair.partition("=") for pair in inside[:-1].split(",") if pair] if bracket else []
    try:
        parameters = {name.strip(): parse(value).data for name, _, value in pairs}
    except StudyError as error:
        said = "; ".join(problem.message for problem in error.problems)
        raise ValueError(f"--edit {quoted(text)}: what follows an = in brackets is a plain value: {said}") from None
    return edit_from_dict({"kind": kind, "at": site, **parameters})


def demand_name(out: Path) -> None:
    """Raise ValueError where no video can be written to `out`, or where its name says another format than MP4."""
    demand_place(out)
    demand_mp4(out)


def generate(
    pipe: Any,
    picture: Any,
    prompt: str,
    out: Path,
    edits: Sequence[Any],
    settings: Mapping[str, Any],
    file: Mapping[str, Any],
    console: Console,
) -> None:
    """Write one video to `out` and, beside it, what the edits did (NAME.ledger.json; without edits an earlier one goes).

    picture     the first frame as `load_image` gives it, or None
    settings    seed, last_image, steps, guidance, guidance_2, negative of `pipe.generate`
    file        fps and lossless of `write_video`

    Raises LedgerError, after the files are written, where the edits did not fire as expected.
    """
    demand_rate(file["fps"])
    fault: LedgerError | None = None
    try:
        with warnings.catch_warnings(action="ignore", category=PromptWarning):     # `expectations` has told it
            result = pipe.generate(None if picture is None else picture.image, prompt, edits=list(edits), **settings)
    except LedgerError as error:  # what was made all the same is kept, with what is wrong with it
        fault, result = error, error.result
    write_video(out, result.video[0], **file)
    save_ledger(result.ledger, out)
    if fault is not None:
        raise fault
    f, _, h, w = result.video[0].shape
    told = f"{f} frames of {w} x {h}, seed {settings['seed']}, {result.request.steps} steps, guidance {result.request.guidance:g}"
    console.print(escape(f"{out}: {told}") + (f", {len(edits)} edits" if edits else ""), highlight=False)


def expectations(pipe: Any, picture: Any, prompt: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What to expect, as (note | warning, text): what a preset says of itself, what was decided about the first frame, and what
    of the prompts has no effect. `settings` as in `generate`; raises what that would."""
    if "note" in pipe.config:
        yield "warning", f"{pipe.config['name']} is {pipe.config['note']}"
    if picture is not None:
        yield from (("note", text) for text in _about(picture, pipe))
    if not prompt.strip():
        yield "warning", "the prompt is empty: the video follows the image alone"
    yield from (("warning", said) for text in (prompt, settings.get("negative") or "") if (said := pipe.cut_of(text)))
    yield from (("warning", said) for said in unread(pipe, pipe.request(prompt=prompt, **settings)))


def _about(picture: Any, pipe: Any) -> list[str]:
    """What was decided about a first frame, and what to expect of one that is no rendered frame."""
    (h, w), (high, wide) = picture.image.shape[-2:], sides(pipe.config["size"])
    if (h, w) == (high, wide):
        return list(picture.notes)
    part = "the centre square" if high == wide else "the largest centred part of the video's shape"
    expect = "; the shipped model knows rendered shapes alone and moves parts of a photograph as if they were such"
    told = f"of its {w} x {h} pixels {part} is used, at {wide} x {high}"
    return [*picture.notes, told if isinstance(pipe, Wan) or "note" in pipe.config else told + expect]
