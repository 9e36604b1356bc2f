"""Weights on disk in one or several files, and how they fill a module: tensor by tensor, never all at once."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.pipelines import tensorfile
from wanlab.pipelines.weights import WeightsError
from wanlab.stages.takes import Take


class Shards:
    """The tensors of a folder or file by name. Opening reads headers alone.

    Raises WeightsError for a missing shard, a damaged file, a name in two files, or a place without weights.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.files = path, _files(path)
        self.place: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            for name, shape in tensorfile.shapes(file).items():
                if name in self.place:
                    raise WeightsError(f"{name} stands in {self.place[name].name} and in {file.name}: {path} holds two models, or "
                                       "two precisions of one; give the file that is meant")
                self.place[name], self.shapes[name] = file, shape

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for file in self.files:
            yield from tensorfile.tensors(file)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in tensorfile.SUFFIXES:
            raise WeightsError(f"{path} is no file of weights that can be read here: those end in {', '.join(tensorfile.SUFFIXES)}")
        return [path]
    indices = sorted(path.glob("*.safetensors.index.json"))
    if indices:
        try:
            named = set(json.loads(indices[0].read_text())["weight_map"].values())
            if strange := [name for name in named if not isinstance(name, str) or Path(name).name != name]:
                raise ValueError(f"{quoted(strange[0])} is no name of a file beside it")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise WeightsError(f"{indices[0]} is damaged: {error!r}") from None
        return [path / name for name in _all_there(path, sorted(named), f"which {indices[0].name} names")]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{path} holds no .safetensors file")
    parts = [match for file in files if (match := re.fullmatch(r"(.+)-\d+-of-(\d+)(\.safetensors)", file.name))]
    stems = {(stem, last, suffix) for stem, last, suffix in (match.groups() for match in parts)}
    wanted = {f"{stem}-{i:0{len(last)}}-of-{last}{suffix}" for stem, last, suffix in stems for i in range(1, int(last) + 1)}
    _all_there(path, sorted(wanted), "by the number of parts in the names of the others")
    return files


def _all_there(path: Path, names: list[str], why: str) -> list[str]:
    if missing := [name for name in names if not (path / name).is_file()]:
        raise WeightsError(f"{path} lacks {', '.join(missing)}, {why}: download again what is missing")
    return names


class Filling:
    """What of some files goes where in a module: strict both ways, shapes included, checked before the first tensor is read.

    module  its parameters on the meta device;  takes: name in the files -> the parameters it becomes, none where nothing reads it,
    KeyError where no such model has it.  Raises WeightsError with the first few names.
    """

    def __init__(self, module: nn.Module, shards: Shards, takes: Callable[[str], Sequence[Take]]) -> None:
        self.shards = shards
        self._places: dict[str, list[tuple[nn.Module, str]]] = {}       # of every parameter, under its first name
        first: dict[int, str] = {}
        names: dict[str, str] = {}                                      # every name of a parameter -> its first
        wanted: dict[str, tuple[int, ...]] = {}
        for name, value in module.named_parameters(remove_duplicate=False):
            names[name] = first.setdefault(id(value), name)
            wanted[names[name]] = tuple(value.shape)
            owner, _, leaf = name.rpartition(".")
            self._places.setdefault(names[name], []).append((module.get_submodule(owner), leaf))
        try:
            told = {name: takes(name) for name in shards.shapes}
        except KeyError as error:
            raise WeightsError(f"{shards.path}: {error.args[0]}") from None
        twice = [one for one, count in Counter(take.name for some in told.values() for take in some).items() if count > 1]
        if twice:
            raise WeightsError(f"{shards.path} holds {len(twice)} parameters under two names, as {', '.join(twice[:3])}")
        self._takes = {name: [take._replace(name=names.get(take.name, take.name)) for take in some] for name, some in told.items()}
        found = {take.name: take.shape(shards.shapes[name]) for name, some in self._takes.items() for take in some}
        _check(wanted, found, shards.path)

    @property
    def size(self) -> int:
        """Numbers that will be read."""
        return sum(math.prod(self.shards.shapes[name]) for name, some in self._takes.items() if some)

    def run(self, dtype_of: Callable[[str], torch.dtype], device: torch.device | str = "cpu",
            progress: Callable[[int], None] | None = None) -> None:
        """Read one tensor at a time, straight to its device and precision. progress: called with the numbers read since the last.

        On the CPU, a file of which most keeps its precision is not read: its parameters are views of it. Any other is let go of
        before the next is opened.
        """
        for file in self.shards.files:
            self._run(file, dtype_of, torch.device(device), progress)

    def _run(self, file: Path, dtype_of: Callable[[str], torch.dtype], device: torch.device,
             progress: Callable[[int], None] | None) -> None:
        """One file; with the call ends what refers to it."""
        held, here = list(tensorfile.tensors(file)), device.type == "cpu"
        kept = sum(value.numel() for name, value in held for take in self._takes[name][:1] if value.dtype == dtype_of(take.name))
        views = here and 2 * kept >= sum(value.numel() for _, value in held)
        while held:
            name, value = held.pop()
            for take in self._takes[name]:
                part = take.of_tensor(value).to(device).to(dtype_of(take.name), copy=here and not views)
                parameter = nn.Parameter(part, requires_grad=False)
                for owner, leaf in self._places[take.name]:
                    owner._parameters[leaf] = parameter
            if progress is not None and self._takes[name]:
                progress(value.numel())


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
