"""What a result depends on beside the study: versions, device, the code of the stages, of the metrics and of what reads data."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from wanlab.core.device import demand_device
from wanlab.graph import digest, source_digest

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "tokenizers",
    "ftfy",
    "safetensors",
    "einops",
    "torchmetrics",
    "lpips",
    "opencv-python-headless",
    "av",
    "pillow",
    "numpy",
    "scipy",
    "pyarrow",
    "matplotlib",
    "pydantic",
    "ruamel.yaml",
)
GENERATING = ("core", "nn", "graph", "diffusion", "stages", "pipelines")
# whose numbers stand in what is made, in what judges it, and in what reads or renders data: all of them are among PACKAGES
MAKERS = ("torchvision", "diffusers", "transformers", "tokenizers", "ftfy", "numpy")
JUDGES = ("torchvision", "transformers", "torchmetrics", "lpips", "opencv-python-headless", "numpy", "scipy")
READERS = ("av", "pillow", "numpy")
HOME = Path(__file__).parents[1]


def pick_device(name: str) -> str:
    """The device that `auto` means here, or the one asked for. Raises ValueError where it is absent."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(demand_device(name, "--device"))


def device_class(device: str) -> str:
    """What bytes depend on: "cpu", the model of the GPU, or the kind of another accelerator ("mps", "xpu")."""
    kind = torch.device(device).type
    return torch.cuda.get_device_name(device) if kind == "cuda" else kind


THREADS = 1024  # of a task; torch ends the process where the system gives no more


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Within the block torch computes with so many threads on the CPU; None: as it does by itself. Raises ValueError for a number
    that no machine has."""
    if count is not None and not 1 <= count <= THREADS:
        raise ValueError(f"{count:,} threads of a task: from 1 to {THREADS:,}")
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def context_of(device: str) -> dict[str, Any]:
    """The part of all content keys that does not come from the study: `generate` and `measure`, two digests.

    On a CPU the number of threads belongs to it: sums are split among threads, and another split is another rounding.
    """
    from wanlab import measure

    summing = torch.get_num_threads() if torch.device(device).type == "cpu" else None
    generate = {
        "device": device_class(device),
        "threads": summing,
        "dtype": "float32",
        "torch": torch.__version__,
        "packages": versions(MAKERS),
        "code": source_digest(HOME / name for name in GENERATING),
    }
    metrics = Path(str(measure.package().__file__)).parent
    measuring = {
        "threads": summing,
        "torch": torch.__version__,
        "packages": versions(JUDGES),
        "code": source_digest([HOME / "measure", metrics]),
    }
    return {"generate": digest(generate), "measure": digest(measuring)}


def reading() -> dict[str, Any]:
    """What the samples of a study depend on beside the files and numbers that it names: code and packages that read or render."""
    return {"code": source_digest([HOME / "data"]), "packages": versions(READERS)}


def describe(device: str) -> dict[str, Any]:
    """environment.json but for the pipeline: everything needed to see why two runs differ."""
    return {
        "wanlab": version_of("wanlab"),
        "commit": commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": device_class(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "packages": versions(PACKAGES),
        "code": context_of(device),
    }


def describe_pipeline(pipe: Any) -> dict[str, Any]:
    """The part of environment.json that speaks of the pipeline."""
    return {"name": pipe.config["name"], "variants": pipe.config.get("variants", {}), "weights": pipe.weights_hash}


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each of some packages."""
    return {name: version_of(name) for name in packages}


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit that wanlab runs from ("+" with changes), or None outside a checkout."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(HOME), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
