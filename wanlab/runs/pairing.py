"""Two folders of videos side by side: which belong together, and reading them one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from wanlab.data.folder import Footage, MediaError, clip_files, load_video
from wanlab.data.media import Size

BATCH_BYTES = 256 * 2**20  # of both sides' frames together: a batch holds this much or a single pair


@dataclass(frozen=True)
class Item:
    """A video to judge and its reference; either may be absent."""

    name: str
    fake: Path | None = None
    real: Path | None = None


@dataclass(frozen=True)
class Pairing:
    """items: all videos of both folders, pairs first; how: in words how pairs were made; alone: what has no partner, by side."""

    items: tuple[Item, ...]
    how: str
    alone: Mapping[str, Sequence[str]]

    @property
    def pairs(self) -> list[Item]:
        """The items that have both."""
        return [item for item in self.items if item.fake and item.real]


def pair(real: Path | None, fake: Path) -> Pairing:
    """The videos of two folders: by the stems of their names where any agree, by order where none does and there are as many.

    Raises:
        MediaError: a folder that is missing or holds no video and no folder of frames.
    """
    fakes, reals = _files(fake), [] if real is None else _files(real)
    if not reals:
        return Pairing(tuple(Item(_name(path), path) for path in fakes), "no reference", {"real": [], "fake": []})
    partners = {path.stem: path for path in reals}
    if len(partners) == len(reals) and any(path.stem in partners for path in fakes):
        items = [Item(_name(path), path, partners.pop(path.stem, None)) for path in fakes]
        how = "by name"
    elif len(fakes) == len(reals):
        items, partners = [Item(_name(a), a, b) for a, b in zip(fakes, reals, strict=True)], {}
        how = "by order, because no names agree"
    else:
        items, how = [Item(_name(path), path) for path in fakes], f"not at all: {len(reals)} and {len(fakes)}, and no names agree"
    rest = [Item(_name(path), None, path) for path in partners.values()] if how != "by order, because no names agree" else []
    items.sort(key=lambda item: item.real is None)
    alone = {"fake": [item.name for item in items if item.real is None], "real": [item.name for item in rest]}
    return Pairing((*items, *rest), how, alone)


def _files(folder: Path) -> list[Path]:
    files = clip_files(folder)
    if not files:
        raise MediaError(f"{folder}: no videos and no folders of frames here")
    return files


def _name(path: Path) -> str:
    return path.name or path.resolve().name


@dataclass
class Read:
    """Items of one shape, read: names, their own videos and their references (None where they have none), and the references'
    own names; frames per second."""

    names: list[str]
    fake: torch.Tensor | None
    real: torch.Tensor | None
    references: list[str]
    fps: list[float] | None


Found = tuple[Item, Footage | None, Footage | None]


@dataclass
class Reader:
    """Reads items one after the other and hands them on in batches; what cannot be read is named, with the reason.

    left_out    side -> name -> why it could not be read
    notes       side -> note -> names of the videos that it was said of
    """

    size: Size
    batch: int
    left_out: dict[str, dict[str, str]] = field(default_factory=lambda: {"real": {}, "fake": {}})
    notes: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {"real": {}, "fake": {}})

    def batches(self, items: Sequence[Item]) -> Iterator[tuple[int, Read | None]]:
        """How many items were taken since the last, and what could be read of them; one batch is alive at a time."""
        held: list[Found] = []
        taken = 0
        for item in items:
            found = item, self._load(item.fake, "fake"), self._load(item.real, "real")
            if held and _shape(found) != _shape(held[0]):
                yield taken, _stacked(held)
                held, taken = [], 0
            taken += 1
            if found[1] or found[2]:
                held.append(found)
            full = held and (len(held) == self.batch or _bytes(held[0]) * (len(held) + 1) > BATCH_BYTES)
            del found
            if full:  # before the next is read
                yield taken, _stacked(held)
                held, taken = [], 0
        yield taken, _stacked(held) if held else None

    def lacks(self, item: Item) -> bool:
        """Whether a side of an item could not be read."""
        return any(path and _name(path) in self.left_out[side] for side, path in (("fake", item.fake), ("real", item.real)))

    def said_of(self, item: Item) -> dict[str, list[str]]:
        """Side -> what was noted while reading an item."""
        names = {"fake": item.fake and _name(item.fake), "real": item.real and _name(item.real)}
        return {side: [note for note, who in self.notes[side].items() if name in who] for side, name in names.items()}

    def say_again(self, item: Item, said: Mapping[str, Sequence[str]]) -> None:
        """Notes what an earlier call noted of an item that need not be read again."""
        for side, notes in said.items():
            for note in notes:
                self.notes[side].setdefault(note, []).append(_name(getattr(item, side)))

    def _load(self, path: Path | None, side: str) -> Footage | None:
        if path is None:
            return None
        try:
            footage = load_video(path, size=self.size)
        except MediaError as error:
            self.left_out[side][_name(path)] = str(error).removeprefix(f"{path}: ")
            return None
        for note in footage.notes:
            self.notes[side].setdefault(note.rpartition(": ")[2], []).append(_name(path))
        return footage


def _shape(found: Found) -> list[torch.Size | None]:
    return [None if footage is None else footage.video.shape for footage in found[1:]]


def _bytes(found: Found) -> int:
    return sum(footage.video.numel() * 4 for footage in found[1:] if footage is not None)


def _stacked(held: list[Found]) -> Read:
    sides = []
    for side in ([fake for _, fake, _ in held], [real for _, _, real in held]):
        videos = [footage.video for footage in side if footage is not None]
        sides.append((videos[0][None] if len(videos) == 1 else torch.stack(videos)) if videos else None)
    given = [own.fps for _, own, _ in held if own is not None]
    rates = [rate for rate in given if rate]
    references = [_name(item.real) for item, _, other in held if other is not None and item.real is not None]
    fakes, reals = sides
    names = [item.name for item, _, _ in held]
    return Read(names, fakes, reals, references, rates if rates and len(rates) == len(given) else None)
