"""Sparse dictionaries: activations as sums of a few of many directions; the edit that takes features away or makes them stronger.

    x ~ centre + scale * sum_i a_i d_i,     a = top_k(relu(E (x - centre) / scale + bias))

The k largest of a are kept, all others are 0 (Gao et al. 2024, arXiv 2406.04093, "Scaling and evaluating sparse autoencoders").
`wanlab.analysis.dictionary` trains them; here they are data: a safetensors file with what it is of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from wanlab.core.edit import Edit, EditError, Event, NotSerialisable
from wanlab.core.label import RecordError
from wanlab.core.pattern import matches
from wanlab.core.select import Select
from wanlab.core.site import Site
from wanlab.core.source import of_file
from wanlab.core.stored import opened

MARK = "wanlab_dictionary"
ROWS = 4096         # rows that are encoded at a time: what is in memory is ROWS x features
PARTS = ("encoder", "bias", "decoder", "centre", "scale")


class DictionaryError(RecordError):
    """A file that is no dictionary, or tensors that are none."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """encoder, decoder m c (rows of the decoder have length 1), bias m, centre c, scale (one number); k of m features are active.

    about: the selection `site` that it was trained on, the pipeline's `weights`, and the settings, as plain data.
    """

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    centre: Tensor
    scale: Tensor
    k: int
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        m, c = self.decoder.shape
        shapes = {"encoder": (m, c), "bias": (m,), "decoder": (m, c), "centre": (c,), "scale": ()}
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise DictionaryError(f"a dictionary's {name} has shape {tuple(getattr(self, name).shape)}, not {shape}")
        if not 1 <= self.k <= m:
            raise DictionaryError(f"{self.k} of {m} features cannot be active")

    @property
    def features(self) -> int:
        """How many features there are (m)."""
        return len(self.decoder)

    @property
    def width(self) -> int:
        """Numbers of an activation (c)."""
        return self.decoder.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """Activations of all features, ... m, in float32: k of them at most are not 0. x: ... c."""
        before = (x.float() - self.centre) / self.scale @ self.encoder.T + self.bias
        top = before.topk(self.k, -1)
        return torch.zeros_like(before).scatter(-1, top.indices, top.values.relu())

    def decode(self, a: Tensor) -> Tensor:
        """... m to ... c."""
        return self.centre + self.scale * (a @ self.decoder)

    def encoded(self, x: Tensor) -> Iterator[Tensor]:
        """`encode` of the rows of x (n c), ROWS at a time."""
        return (self.encode(part) for part in x.split(ROWS))

    def contribution(self, x: Tensor, features: list[int]) -> Tensor:
        """What some features give to each row: n c."""
        own = self.decoder[features]
        return torch.cat([a[:, features] @ own for a in self.encoded(x)]) * self.scale

    def to(self, device: Any) -> Dictionary:
        """The same on another device."""
        there: dict[str, Any] = {name: getattr(self, name).to(device) for name in PARTS}
        return replace(self, **there)

    # -- as data
    def bytes(self) -> bytes:
        """The file: safetensors, with `k` and `about` in its header. Equal content, equal bytes."""
        told = json.dumps({"k": self.k, "about": dict(self.about)}, sort_keys=True)
        return save({name: getattr(self, name).detach().cpu().clone() for name in PARTS}, {MARK: told})

    def save(self, path: str | Path) -> Path:
        """Write the file, to a temporary name first; returns its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(self.bytes())
        partial.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Dictionary:
        """What `save` wrote. DictionaryError where the file is none."""
        if not Path(path).is_file():
            raise DictionaryError(f"no dictionary at {path}")
        file = opened(Path(path))
        told = (file.metadata() or {}).get(MARK)
        if told is None:
            raise DictionaryError(f"{path} is a safetensors file, but not a saved dictionary")
        read = json.loads(told)
        held: dict[str, Any] = {name: file.get_tensor(name).clone() for name in PARTS}
        return cls(**held, k=read["k"], about=read["about"])

    def __eq__(self, other: object) -> bool:
        return self.bytes() == other.bytes() if isinstance(other, Dictionary) else NotImplemented

    __hash__ = None     # type: ignore[assignment]  # equal by value, so there is no hash

    def __repr__(self) -> str:
        return f"Dictionary({self.k} of {self.features} features over {self.width} numbers of {self.about.get('site', 'no site')})"


@dataclass(frozen=True)
class DictionarySource:
    """A dictionary as the parameter of an edit: in memory, or a saved file with the hash of its bytes. Two are equal when their
    bytes are, wherever they lie."""

    sha256: str
    path: str | None = field(default=None, compare=False)
    held: Dictionary | None = field(default=None, compare=False)

    @classmethod
    def of(cls, value: Any) -> DictionarySource:
        """From a Dictionary, the path of a saved one, or what `to_dict` gave."""
        if isinstance(value, DictionarySource):
            return value
        if isinstance(value, Dictionary):
            return cls(sha256(value.bytes()).hexdigest(), None, value)
        if isinstance(value, Mapping) and "path" in value and set(value) <= {"path", "sha256"}:
            found = cls.of(value["path"])
            if value.get("sha256", found.sha256) != found.sha256:
                raise DictionaryError(f"{value['path']} has changed: its sha256 is {found.sha256}, not {value['sha256']}")
            return found
        if isinstance(value, (str, Path)):
            if not Path(value).is_file():
                raise DictionaryError(f"no dictionary at {value}")
            return of_file(cls, Path(value))
        raise EditError("feature: dictionary= is a Dictionary, the path of a saved one, or its path and sha256, "
                        f"not {value!r}")

    @property
    def dictionary(self) -> Dictionary:
        """The dictionary itself; a saved one is read on first use."""
        if self.held is None:
            object.__setattr__(self, "held", Dictionary.load(str(self.path)))
        return self.held    # type: ignore[return-value]  # set above

    def __repr__(self) -> str:
        return f"<dictionary {self.sha256[:12]} in memory>" if self.path is None else repr(self.path)

    def to_dict(self) -> dict[str, str]:
        """Path and hash; a dictionary that was never saved cannot be written down."""
        if self.path is None:
            raise NotSerialisable("the dictionary lives in memory only: save it (dictionary.save(path)) to write the edit down")
        return {"path": self.path, "sha256": self.sha256}


@dataclass(frozen=True)
class Feature(Edit):
    """Some features of a dictionary `factor` times as strong: x + (factor - 1) * scale * sum_i a_i d_i. 0 takes them away and
    leaves everything else, what the dictionary does not explain too.

    dictionary: a saved one (path, or path and sha256), or one in memory, which cannot be written down. features: their numbers.
    """

    kind = "feature"
    reads_seeds = False
    dictionary: Any = None
    features: Any = ()
    factor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dictionary is None:
            raise EditError("feature: dictionary= is missing (a Dictionary, or the path of a saved one)")
        object.__setattr__(self, "dictionary", DictionarySource.of(self.dictionary))
        many = [self.features] if isinstance(self.features, int) else list(self.features)
        if not many or not all(isinstance(one, int) and not isinstance(one, bool) for one in many):
            raise EditError(f"feature: features={self.features!r} is not a number or a list of numbers of features")
        object.__setattr__(self, "features", tuple(dict.fromkeys(many)))
        if isinstance(self.factor, bool) or not isinstance(self.factor, (int, float)):
            raise EditError(f"feature: factor={self.factor!r} is not a number")
        object.__setattr__(self, "factor", float(self.factor))

    def check(self, site: Site) -> None:
        super().check(site)
        held = self.dictionary.dictionary
        strange = [one for one in self.features if not 0 <= one < held.features]
        if strange:
            raise EditError(f"feature: there is no feature {strange[0]}; the dictionary has {held.features}, from 0 on")
        if not {"c", "d"} & set(site.axes):
            raise EditError(f"feature needs channels (axis c or d), but {site.name} has axes '{' '.join(site.axes)}'")
        trained = held.about.get("site")
        if trained is not None and not matches(Select.of(trained).at, site.name):
            raise EditError(f"feature: the dictionary is of {trained}, not of {site.name}")
        size = site.size("c" if "c" in site.axes else "d")
        if size not in (None, held.width):
            raise EditError(f"feature: the dictionary is of activations of {held.width} numbers, {site.name} has {size}")

    def change(self, x: Tensor, event: Event) -> Tensor:
        if self.factor == 1:
            return x
        at = event.site.axes.index("c" if "c" in event.site.axes else "d")
        held: Dictionary = self.dictionary.dictionary
        if x.shape[at] != held.width:
            raise EditError(f"feature: the dictionary is of activations of {held.width} numbers, {event.site.name} has "
                            f"{x.shape[at]}")
        rows = x.movedim(at, -1)
        own = held.to(x.device).contribution(rows.reshape(-1, held.width), list(self.features)).reshape(rows.shape)
        return (x.float() + (self.factor - 1) * own.movedim(-1, at)).to(x)
