"""Loading Wan: a preset's sizes with random weights, without values, or with the weights of files, whoever saved them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wanlab.pipelines.digests import demand
from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_files import Parts, find
from wanlab.pipelines.wan_parts import random_pipeline, stages
from wanlab.pipelines.wan_presets import PRESETS, Preset
from wanlab.pipelines.wan_reading import Reading, dit_reading, of_text, readings
from wanlab.stages.dit import Config, Dit

Progress = Callable[[int, int], None]


def load_wan(name: str | Preset, init: str | None = None, path: str | Path | None = None, dtype: torch.dtype | None = None,
             size: int | tuple[int, int] | None = None, frames: int | None = None, scheduler: str | None = None,
             shift: float | None = None, parts: Parts | None = None, verify: bool | Mapping[str, str] = False,
             progress: bool | Progress = True, device: str | torch.device = "cpu") -> Wan:
    """A Wan model by the name of its preset, or of sizes of your own.

    init       "random": weights drawn from a fixed seed; "meta": none, to list sites; the small random presets need neither
    path       folder of the weights, in diffusers' layout or as published, or a repository in the hub's cache ("Wan-AI/…");
               without, the preset's own repository there. Nothing is downloaded
    parts      single parts from elsewhere: {"dit": "mine.safetensors"}; "dit.high" and "dit.low" of two experts, "text",
               "tokenizer", "vae", "clip", "processor"; files (.safetensors, .pth) or folders, under the published names of
               parameters, diffusers' or transformers'
    dtype      of text encoder and transformer, but float32 where the published code computes in it; without: bfloat16 on a device
               other than the CPU, else float32, and random weights are float32 everywhere. CLIP and VAE are float32
    size       height and width of the video, multiples of 16; frames: 4n + 1; those of the preset where not given
    scheduler  "unipc" or "euler"; shift: of its noise levels
    verify     True: every file must have the sha256 that the hub told when it was downloaded; or name of the file -> sha256
    progress   called with (numbers read, all); True: a bar where a terminal looks on

    Weights go straight to device and precision, one tensor at a time; on a CPU what keeps its precision stays in the file.
    Raises WeightsError for files that are missing, partial, damaged or of another model, before anything large is read.
    """
    told: dict[str, Any] = {"size": size, "frames": frames, "scheduler": scheduler, "shift": shift}
    told = {key: value for key, value in told.items() if value is not None}
    preset = replace(PRESETS[name] if isinstance(name, str) else name, **told)
    if init == "meta":
        with torch.device("meta"):
            return Wan(stages(preset), preset.config(), preset)
    if init == "random" or (preset.random and path is None and parts is None):
        drawn = random_pipeline(preset)
        return (drawn if dtype is None else _cast(drawn, dtype)).to(device)
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
    made = _read(preset, find(preset, path, parts), dtype, verify, progress, device)
    return Wan(made, preset.config(), preset).to(device)


def _cast(pipe: Wan, dtype: torch.dtype) -> Wan:
    """Weights that are there already, in the precision in which they would have been read."""
    for module in pipe.dit.modules():
        if isinstance(module, Dit):
            module.cast(dtype)
    kept = of_text(dtype)
    for name, value in pipe.text.encoder.inner.named_parameters():
        value.data = value.data.to(kept(name))
    return pipe


def _read(preset: Preset, files: Mapping[str, Path], dtype: torch.dtype, verify: bool | Mapping[str, str],
          progress: bool | Progress, device: str | torch.device) -> dict[str, nn.Module]:
    """The stages, with the weights of some files."""
    from transformers import AutoTokenizer, CLIPImageProcessor

    tokenizer = AutoTokenizer.from_pretrained(files["tokenizer"], local_files_only=True)
    processor = CLIPImageProcessor.from_pretrained(files["processor"], local_files_only=True) if "processor" in files else None
    with torch.device("meta"):
        made = stages(preset, tokenizer, processor)
    found = readings(made, files, dtype)
    demand([file for one in found for file in one.filling.shards.files], verify)
    _fill(found, preset.name, progress, device)
    if "clip" in made:
        _number_places(made["clip"].tower.inner, device)
    return {name: stage.eval().requires_grad_(False) for name, stage in made.items()}


def read_dit(place: Path, expected: Config, dtype: torch.dtype = torch.float32, progress: bool | Progress = False,
             device: str | torch.device = "cpu") -> Dit:
    """The transformer of a file, or of a folder with safetensors files, under diffusers' or the published names.

    Raises WeightsError where its sizes are not the expected ones, or its weights do not fit them.
    """
    with torch.device("meta"):
        dit = Dit(expected)
    _fill([dit_reading(place, dit, dtype)], place.name, progress, device)
    return dit.eval().requires_grad_(False)


def _fill(found: list[Reading], title: str, progress: bool | Progress, device: str | torch.device) -> None:
    with _counting(progress, title, sum(one.filling.size for one in found)) as count:
        for one in found:
            one.filling.run(one.dtype_of, device, count)


@contextmanager
def _counting(progress: bool | Progress, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """What to call with the numbers read since the last call."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    done = 0
    console = Console(stderr=True)
    shown = progress is True and console.is_terminal
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(f"reading {title}", total=total)

        def count(numbers: int) -> None:
            nonlocal done
            done += numbers
            bar.update(task, completed=done)
            if callable(progress):
                progress(done, total)

        yield count


def _number_places(tower: Any, device: str | torch.device) -> None:
    """The numbers of CLIP's places are in no file."""
    embeddings = getattr(tower, "vision_model", tower).embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]
