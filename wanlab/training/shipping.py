"""What a training hands over: half-precision weights and where they came from."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wanlab.pipelines.load import save_stage
from wanlab.pipelines.published import content_key, found_at
from wanlab.training import machine
from wanlab.training.checkpoint import Spent, unwritten


def ship(
    module: nn.Module,
    stage: str,
    variant: str,
    out: Path,
    *,
    seed: int,
    steps: int,
    spent: Spent,
    metrics: dict[str, float],
    judged: str,
    recipe: dict[str, Any],
    entry: Mapping[str, Any],
    origins: dict[str, str],
    published: str | None = None,
    apart: tuple[str, ...] = (),
) -> Path:
    """Write <stage>.<variant>.safetensors (float16) and provenance-<stage>.<variant>.json into `out`, each whole or
    not at all; of several processes one does. `judged`: what the metrics are of; `origins`: what the recipe's files held; `entry`:
    class, configuration and companions (`with`), as pipeline.json has them. The modules `apart` are what others published, found at
    `published`: of them there is but a note where and what it was. Raises OSError where they cannot be written.
    """
    path = out / f"{stage}.{variant}.safetensors"
    if not machine.present().main:
        return path
    try:
        sha256 = save_stage(module, path, apart=apart)
    except (OSError, SafetensorError) as error:
        raise unwritten(path, error) from error
    provenance = {
        "stage": stage,
        "variant": variant,
        "seed": seed,
        "steps": steps,
        **spent.minutes,
        "device": _where(),
        "metrics": metrics,
        "metrics_of": judged,
        "recipe": {key: told(value) for key, value in recipe.items() if key != "pool"},
        "from": origins,
        **entry,
        "sha256": sha256,
        **({"published": {"source": found_at(published), "key": content_key(stage, published)}} if published else {}),
    }
    note = out / f"provenance-{stage}.{variant}.json"
    part = note.with_suffix(".part")
    part.write_text(json.dumps(provenance, indent=1) + "\n")
    part.replace(note)
    return path


def processor_minutes(provenance: Mapping[str, Any]) -> float | None:
    """What a training took of the processor; None where that is not known. The first weights that shipped say `minutes`."""
    return provenance.get("processor_minutes", provenance.get("minutes"))


def _where() -> str:
    """What the training ran on, in words."""
    here = machine.present()
    if here.device.type == "cuda":
        name = torch.cuda.get_device_name(here.device)
    else:
        name = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread"
    many = f", {here.processes} processes" if here.processes > 1 else ""
    return name + many + ("" if here.precision == "float32" else f", {here.precision}")


def told(value: Any) -> Any:
    """A setting as provenance states it: of a path, only the file's name."""
    if isinstance(value, dict):
        return {key: told(one) for key, one in value.items()}
    return Path(value).name if isinstance(value, (str, Path)) else value


def read(path: Path) -> dict[str, Tensor]:
    """The weights that `ship` wrote, as float32. Raises FileNotFoundError."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: train that stage first")
    return {name: value.float() for name, value in load_file(path).items()}
