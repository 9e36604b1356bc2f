"""What a training starts from: the averaged weights of another one, or a pipeline's. What fits is taken over; what does not is
told, and refused where nothing could come of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import Tensor

from wanlab.pipelines.load import read_manifest
from wanlab.training import checkpoint, watch
from wanlab.training.diffusion import STAGES, Base, Recipe
from wanlab.training.shipping import read

KINDS = ("image", "fusion", "align", "temporal", "predicts")     # settings of what weights are of


def take_over(base: Base, path: Path, learning: Collection[str] = ()) -> None:
    """Start from another training's averaged weights (a checkpoint of ours, or a pipeline's folder: the default variants), for
    every parameter that fits. learning: the stages that are to learn; all where none is named.

    Raises ValueError for a folder without weights, for weights that hold no stage of `base`, for a UNet that predicts something
    else, and where a stage that is not to learn would stay as it was drawn.
    """
    state = None if path.is_dir() else checkpoint.load(path)
    own, given = base.state_dict(), _shipped(base, path) if state is None else state["average"]
    if not given:
        raise ValueError(f"a training was to start from {path}, which has no weights: train its base first")
    fitting = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    new, unused = ([name for name in names if name not in fitting] for names in (own, given))
    if not {name.partition(".")[0] for name in own} & set(STAGES) - {name.partition(".")[0] for name in new}:
        raise ValueError(f"start: {path} has no stage of this model: of its {len(given)} tensors ({_named(given)}) "
                         f"{len(fitting)} fit one of the {len(own)} here")
    demand_predicts(base["generator"].config.predicts, path, kinds_of(path, state))
    if learning and (blank := [name for name in new if name.partition(".")[0] in set(STAGES) - set(learning)]):
        raise ValueError(f"start: {path} does not fill what is not to learn, it has nothing that fits {_named(blank)}: let it "
                         "learn (train:), or build what was trained there")
    base.load_state_dict(own | fitting)
    told = [f"{what} {_named(names)}" for what, names in (("new is", new), ("left there is", unused)) if names]
    if told:
        watch.present().note(f"of {path}, {len(fitting)} of {len(given)} tensors are taken over; {'; '.join(told)}")


def _named(names: Collection[str]) -> str:
    """Tensors by stage: `fusion (12)`."""
    return ", ".join(f"{stage} ({len(list(some))})" for stage, some in groupby(sorted(names), lambda name: name.partition(".")[0]))


def _shipped(base: Base, folder: Path) -> dict[str, Tensor]:
    """The weights of a pipeline's folder under the names of the base."""
    stages = read_manifest(folder)["stages"]
    files = {name: stages[name]["variants"][stages[name]["default"]].get("file") for name in base if name in stages}
    return {f"{name}.{key}": value for name, file in files.items() if file for key, value in read(folder / file).items()}


def kinds_of(path: Path, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the weights at `path` are of, as settings of a recipe; what is not told is as recipes have it. state: what a checkpoint
    holds, where it is loaded already."""
    if not path.is_dir():
        return {name: value for name, value in (state or checkpoint.load(path))["recipe"].items() if name in KINDS}
    stages = read_manifest(path)["stages"]
    entries = {name: stage["variants"][stage["default"]] for name, stage in stages.items()}
    unet = entries["generator"].get("config", {})
    return {name: entries[name]["class"] for name in Recipe.CHOSEN} | {name: unet[name] for name in KINDS if name in unet}


def demand_predicts(mine: str, path: Path, kinds: Mapping[str, Any] | None = None) -> None:
    """Raise ValueError where a UNet that predicts `mine` is to start from one that predicts something else. kinds: of the weights
    at `path`; without, a pipeline's folder says it, and of a checkpoint, which may be large, it is not asked."""
    if kinds is None and not (path / "pipeline.json").exists():
        return
    if mine != (theirs := (kinds_of(path) if kinds is None else kinds).get("predicts", "x0")):
        raise ValueError(f"start: the UNet of {path} predicts {theirs}, and this one {mine}: say predicts: {theirs}")
