"""What measures are given: samples with whatever they are judged against; and a memory for what is known of references."""

from __future__ import annotations

import hashlib
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

Made = TypeVar("Made")


@dataclass
class Batch:
    """Samples of one cell, and what they are judged against. All videos `b f c h w` float32 in [0, 1].

    reference: the true clips, or the baseline's where there is no truth; image `b c h w`: what the samples were
    conditioned on; factors: per sample the truth as plain data; masks `b f m h w`, tracks `b f m 2`: of the true clip;
    flow_pairs `b f-1 2 h w` and occlusion `b f-1 h w`: its true motion; prompts: what the samples were asked to show; fps:
    frames per second of each sample; ids: what errors call the samples, and what decides where seeded clips begin.
    """

    video: Tensor
    reference: Tensor | None = None
    image: Tensor | None = None
    factors: list[dict[str, Any]] | None = None
    masks: Tensor | None = None
    tracks: Tensor | None = None
    flow_pairs: Tensor | None = None
    occlusion: Tensor | None = None
    prompts: Sequence[str] | None = None
    fps: Sequence[float] | None = None
    ids: Sequence[str] | None = None

    def get(self, name: str, measure: str) -> Any:
        """A field that a measure needs.

        Raises:
            ValueError: it is absent, or holds another number of samples than the video.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{measure} needs the batch's {name}, and this batch has none")
        if len(value) != len(self.video):
            raise ValueError(f"{measure}: {len(self.video)} videos but {len(value)} in {name}")
        return value


class Memory:
    """Per-sample results about reference clips, so that nine cells do not compute them nine times.

    Keyed by the bytes of the clip; the least recently used go first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: OrderedDict[str, Any] = OrderedDict()

    def of(self, clips: Tensor, make: Callable[[Tensor], Any]) -> list[Any]:
        """`make(clip 1 f c h w)` for every clip of `b f c h w`, from memory where it was made before."""
        return [self._one(clip[None], make) for clip in clips]

    def _one(self, clip: Tensor, make: Callable[[Tensor], Any]) -> Any:
        key = f"{tuple(clip.shape)}{hashlib.blake2b(clip.cpu().contiguous().numpy(), digest_size=16).hexdigest()}"
        if key not in self._held:
            self._held[key] = make(clip)
        self._held.move_to_end(key)
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)
        return self._held[key]


class Latest(Generic[Made]):
    """`make(batch)`, made once for the batch that was asked about last: a score and its curve, or several distances, share it."""

    def __init__(self, make: Callable[[Batch], Made]) -> None:
        self._make = make
        self._held: tuple[weakref.ref[Batch], Made] | None = None

    def __call__(self, batch: Batch) -> Made:
        if self._held is None or self._held[0]() is not batch:
            self._held = None
            self._held = weakref.ref(batch), self._make(batch)
        return self._held[1]
