"""A pipeline as a study or the command line asks for it: by name or place, its weights from anywhere, in some precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from wanlab.pipelines.wan_files import HUB_ID

from .document import StudyError
from .model import Model


def opened(model: Model, device: str | torch.device, init: str | None = None, find: Callable[[Path], Path] = Path) -> Any:
    """The pipeline on its device. find: where a file lies that `model` names (`Study.find`).

    Raises as `wanlab.load`, and StudyError for a place that is nowhere.
    """
    from wanlab.pipelines.load import load

    plain = {key: value for key in ("size", "frames", "scheduler", "shift", "verify") if (value := getattr(model, key))}
    settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    if model.dtype is not None:
        settings["dtype"] = getattr(torch, model.dtype)
    if model.parts:
        settings["parts"] = {part: find(file.expanduser()) for part, file in model.parts.items()}
    place = None if model.path is None else _place(model.path, find)
    if model.name is not None and place is not None:
        settings["path"] = place
    return load(cast("str | Path", model.name or place), init=init, device=device, offload=model.offload, **settings)


def _place(path: Path, find: Callable[[Path], Path]) -> str | Path:
    """A folder, or what has the form of a repository's id."""
    try:
        return find(path.expanduser())
    except StudyError:
        if HUB_ID.fullmatch(str(path)):
            return str(path)
        raise
