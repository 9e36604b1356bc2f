"""What `wanlab metrics` found of each video, and a cache of it, keyed by content, so that a stopped call goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch

import wanlab.data
import wanlab.measure
from wanlab.graph import digest, source_digest
from wanlab.measure import package, part

from .environment import JUDGES, READERS, versions
from .files import write_text
from .pairing import Item
from .source import clip_digest


@dataclass
class Found:
    """What one video, with its reference where it has one, gave.

    values    metric -> number, NaN where it does not apply
    curves    metric -> frames, and the values at them
    features  side (fake, real) of an extractor -> its row; in a cache these stand in the bank
    refused   metric, or side of an extractor -> why it gave nothing
    shorter   what was compared where the two lengths differ
    notes     side -> what reading had to say
    """

    values: dict[str, float] = field(default_factory=dict)
    curves: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    shorter: str = ""
    notes: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a call asks of every video: names of metrics, and the extractors, each by its label."""

    metrics: frozenset[str]
    extractors: Mapping[str, Any]

    def sides(self, item: Item) -> list[tuple[str, str, str]]:
        """(side, label, `side of [label]`) for every row of features that an item should give."""
        sides = [side for side in ("fake", "real") if getattr(item, side) is not None]
        return [(side, label, features_name(side, label)) for label in self.extractors for side in sides]


def features_name(side: str, label: str) -> str:
    """What the features of one side are called, in warnings too."""
    return f"{side} of [{label}]"


class Cache:
    """Found things in a folder, by the bytes of the videos and everything else that decides them: size, device, prompt, code.

    banks/<key>/ holds features (a `FeatureBank` per extractor and side), values/<key>.json all else of a video; a file is
    complete or absent, so what a kill leaves is what was finished.
    """

    def __init__(self, root: Path, wanted: Wanted, context: Mapping[str, Any]) -> None:
        self.root, self.wanted = root, wanted
        packages = versions(dict.fromkeys((*JUDGES, *READERS)))
        self.context = {**context, "torch": torch.__version__, "packages": packages, "code": _code()}
        self._banks: dict[str, Any] = {}
        self._digests: dict[Path, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for bank in self._banks.values():
            bank.close()

    def get(self, item: Item, prompt: str | None) -> Found | None:
        """All that is wanted of an item, or None where any of it is not there yet."""
        held = self._read(item, prompt)
        if held is None or (item.fake is not None and not self.wanted.metrics <= held.values.keys() | held.refused.keys()):
            return None
        for side, label, name in self.wanted.sides(item):
            if name in held.refused:
                continue
            sample, bank = self._sample(item, side, label), self._bank(side, label)
            if sample not in bank:
                return None
            held.features[name] = bank.rows_of([sample])[0]
        return held

    def keep(self, item: Item, prompt: str | None, found: Found) -> None:
        """Keeps what an item gave, beside what other metrics have left there."""
        for side, label, name in self.wanted.sides(item):
            if name in found.features:
                self._bank(side, label).append([self._sample(item, side, label)], found.features[name][None])
        before = self._read(item, prompt) or Found()
        whole = Found(
            before.values | found.values, before.curves | found.curves, {}, before.refused | found.refused, found.shorter,
            found.notes,
        )  # fmt: skip
        write_text(self._file(item, prompt), json.dumps(asdict(whole)))

    def _file(self, item: Item, prompt: str | None) -> Path:
        key = {**self.context, "fake": self._content(item.fake), "real": self._content(item.real), "prompt": prompt}
        return self.root / "values" / f"{digest(key)}.json"

    def _read(self, item: Item, prompt: str | None) -> Found | None:
        file = self._file(item, prompt)
        return Found(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None

    def _content(self, path: Path | None) -> str | None:
        if path is not None and path not in self._digests:
            self._digests[path] = clip_digest(path)
        return None if path is None else self._digests[path]

    def _sample(self, item: Item, side: str, label: str) -> str:
        path: Path = getattr(item, side)
        seeded = self._sampling(side, label).offset == "seeded"
        return f"{self._content(path)}/{path.stem}" if seeded else str(self._content(path))

    def _sampling(self, side: str, label: str) -> Any:
        extractor = self.wanted.extractors[label]
        return extractor.protocol.sampling(side, extractor.seed)

    def _bank(self, side: str, label: str) -> Any:
        sampling = self._sampling(side, label)
        seed = sampling.seed if sampling.offset == "seeded" else 0
        key = {name: str(value) for name, value in self.context.items()} | {"of": label, "offset": sampling.offset, "seed": seed}
        name = digest(key)
        if name not in self._banks:
            self._banks[name] = part("bank").FeatureBank.under(self.root / "banks", key)
        return self._banks[name]


@cache
def _code() -> str:
    """Version of everything that a value depends on."""
    folders = [Path(str(module.__file__)).parent for module in (package(), wanlab.data, wanlab.measure)]
    return source_digest([*folders, *(Path(__file__).with_name(name) for name in ("court.py", "pairing.py"))])
