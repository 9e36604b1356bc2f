"""Weights on disk in one or several safetensors files, read tensor by tensor: memory-mapped, never all at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wanlab.core.nearest import suggestion
from wanlab.pipelines.weights import WeightsError


class Shards:
    """The tensors of a folder or file by name. Opening reads headers alone.

    Raises WeightsError for a missing shard, a damaged file, or a folder without weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = _files(path)
        self.place: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (not a mapping)
                        self.place[name], self.shapes[name] = file, tuple(opened.get_slice(name).get_shape())
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{file} is damaged or no safetensors file: {error}") from None

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for file in self.files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    if self.place[name] == file:
                        yield name, opened.get_tensor(name)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    indices = sorted(path.glob("*.safetensors.index.json"))
    if indices:
        told = json.loads(indices[0].read_text())
        files = [path / name for name in sorted(set(told["weight_map"].values()))]
        if missing := [file.name for file in files if not file.is_file()]:
            raise WeightsError(f"{path} lacks {', '.join(missing)}, which {indices[0].name} names: download again what is missing")
        return files
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{path} holds no .safetensors file")
    return files


def fill(module: nn.Module, shards: Shards, renamed: Callable[[str], str | None], dtype_of: Callable[[str], torch.dtype],
         device: torch.device | str = "cpu", progress: Callable[[int, int], None] | None = None) -> None:
    """Give every parameter of a module on the meta device its values, one tensor at a time, in its own precision and place.

    renamed: name in the files -> name in the module, None for what nothing reads. Strict both ways, shapes included, and checked
    before the first tensor is read. Raises WeightsError with the first few names.
    """
    wanted = {name: tuple(value.shape) for name, value in module.named_parameters()}
    found = {name: renamed(name) for name in shards.shapes}
    _check(wanted, {ours: shards.shapes[name] for name, ours in found.items() if ours is not None}, shards.path)
    owners = {name: module.get_submodule(name.rpartition(".")[0]) for name in wanted}
    for done, (name, value) in enumerate(shards):
        ours = found[name]
        if ours is not None:
            leaf = ours.rpartition(".")[2]
            owners[ours]._parameters[leaf] = nn.Parameter(value.to(device, dtype_of(ours)), requires_grad=False)
        if progress is not None:
            progress(done + 1, len(found))


def _check(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], path: Path) -> None:
    missing, strange = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or strange:
        both = ((missing, "missing"), (strange, "unknown"))
        told = "; ".join(f"{len(names)} {what}, as {', '.join(names[:3])}" for names, what in both if names)
        near = suggestion(strange[0], wanted) if strange else ""
        raise WeightsError(f"{path} holds the weights of another model: {told}{near}")
    wrong = [f"{name} is {list(found[name])}, not {list(shape)}" for name, shape in wanted.items() if found[name] != shape]
    if wrong:
        raise WeightsError(f"{path} was made for another configuration: {len(wrong)} shapes differ, as {'; '.join(wrong[:3])}")
