"""A batch of clips: tensors that belong together, with their captions and truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Clips:
    """b clips. Everything but the video may be missing (None), as it is for real clips.

    video       b f c h w   float32 in [0, 1]
    captions    b strings
    factors     b dicts, the truth as plain data
    masks       b f m h w   share of each pixel that each layer covers, summing to 1 (f may be 1: only the first frame)
    tracks      b f m 2     centres, fractions of the width, x right, y down
    motion      b f m 5     dx, dy, log_scale, angle, depth relative to frame 0
    flow        b f 2 h w   from a pixel of frame t to its place in frame 0, fractions of the width
    flow_pairs  b f-1 2 h w from frame t to frame t + 1
    occlusion   b f-1 h w   bool: not visible in frame t + 1
    last        b c h w     a last frame that is given beside the first
    """

    video: Tensor
    captions: list[str] = field(default_factory=list)
    factors: list[dict[str, Any]] | None = None
    masks: Tensor | None = None
    tracks: Tensor | None = None
    motion: Tensor | None = None
    flow: Tensor | None = None
    flow_pairs: Tensor | None = None
    occlusion: Tensor | None = None
    last: Tensor | None = None

    def __post_init__(self) -> None:
        if self.video.ndim != 5:
            raise ValueError(f"Clips.video is b f c h w (5 axes), not {tuple(self.video.shape)}")
        self.captions = self.captions or [""] * len(self)
        for name, value in self._present():
            if len(value) != len(self):
                raise ValueError(f"Clips.{name} holds {len(value)} clips, but the video holds {len(self)}")

    def __len__(self) -> int:
        return self.video.shape[0]

    def __iter__(self) -> Iterator[Clips]:
        return (self[index : index + 1] for index in range(len(self)))

    @property
    def first(self) -> Tensor:
        """The first frames, `b c h w`."""
        return self.video[:, 0]

    @property
    def first_masks(self) -> Tensor:
        """The layers of the first frames, `b m h w`; raises ValueError where there are no masks."""
        if self.masks is None:
            raise ValueError("these clips carry no masks")
        return self.masks[:, 0]

    def _present(self) -> Iterator[tuple[str, Any]]:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if value is not None:
                yield entry.name, value

    def __getitem__(self, rows: int | slice | Sequence[int]) -> Clips:
        """Some of the clips, still a batch; an int gives a batch of one. Raises IndexError beyond the end."""
        if isinstance(rows, int):
            if not -len(self) <= rows < len(self):
                raise IndexError(f"clip {rows} of {len(self)}")
            rows = [rows % len(self)]
        chosen = range(len(self))[rows] if isinstance(rows, slice) else list(rows)

        def take(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return [value[row] for row in chosen]
            return value[rows] if isinstance(rows, slice) else value[torch.as_tensor(chosen, dtype=torch.long)]

        return Clips(**{name: take(value) for name, value in self._present()})

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Clips:
        """The same clips with their tensors elsewhere; dtype applies to floating-point ones."""

        def move(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.to(device, dtype if value.is_floating_point() else None)

        return Clips(**{name: move(value) for name, value in self._present()})

    @classmethod
    def stack(cls, batches: Iterable[Clips]) -> Clips:
        """Join batches; a field that any of them lacks is left out. Raises ValueError for none."""
        batches = list(batches)
        if not batches:
            raise ValueError("no clips to stack")
        shared = set.intersection(*({name for name, _ in batch._present()} for batch in batches))

        def join(name: str) -> Any:
            parts = [getattr(batch, name) for batch in batches]
            return torch.cat(parts) if isinstance(parts[0], Tensor) else [item for part in parts for item in part]

        return cls(**{name: join(name) for name in shared})
