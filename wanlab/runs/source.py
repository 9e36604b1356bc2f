"""Where the samples of a study come from: rendered videos, a folder of clips, or photographs with prompts.

Every source says, without rendering or decoding anything, what its rows depend on (`digest`) and what their prompts
are; that is all a plan needs.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from wanlab.core.quote import quoted
from wanlab.data.clip import Clips
from wanlab.graph import digest, file_digest
from wanlab.pipelines.inputs import sides

from .document import did_you_mean
from .environment import reading
from .pairs import Pair, PairsError, read_pairs
from .spec import Folder, Image, Images, Procedural

if TYPE_CHECKING:
    from wanlab.data.folder import VideoFolder


LOOKED = 64  # pictures of a list that are read before a run, to tell what is done with them


class SourceError(ValueError):
    """Data that a study names and that cannot be used."""


class Source(Protocol):
    """n samples. `truth` says whether their true clips are known, `fields` what of a batch (see `measure.Batch`) is known
    beside video, reference and prompts, `notes` what the user should hear about."""

    n: int
    truth: bool
    fields: frozenset[str]
    notes: list[str]

    def prompts(self, indices: Sequence[int]) -> list[str]:
        """The captions."""

    def units(self, indices: Sequence[int]) -> list[str]:
        """A readable name of each (image, prompt)."""

    def digest(self, indices: Sequence[int]) -> str:
        """Content key of the rows: of what they are made from, and of the code that reads or renders it."""

    def clips(self, indices: Sequence[int], truth: bool = False) -> Clips:
        """The rows: video b f c h w in [0, 1] (only the first frame where there is no true clip), captions, factors, masks;
        with `truth` also flow_pairs and occlusion, where they are known."""


def open_source(data: Procedural | Folder | Image | Images, size: int | tuple[int, int], frames: int) -> Source:
    """The source that a study names, at the pipeline's size and length. Raises SourceError or MediaError."""
    if isinstance(data, Procedural):
        return ProceduralSource(data, size, frames)
    if isinstance(data, Folder):
        return FolderSource(data, size, frames)
    if isinstance(data, Images):
        return ImagesSource(data, size)
    return ImageSource(data, size)


class ProceduralSource:
    """Rendered videos with known truth."""

    truth = True
    fields = frozenset({"image", "factors", "masks", "tracks", "flow_pairs", "occlusion"})

    def __init__(self, data: Procedural, size: int | tuple[int, int], frames: int):
        from wanlab.data.procedural import World

        high, wide = sides(size)
        if high != wide:
            raise SourceError(f"procedural videos are square, this pipeline makes {high} x {wide}: give images or a folder")
        self.n, self._data = data.n, data
        self.notes: list[str] = []
        self._world = World(
            size=high, frames=frames, seed=data.seed, split=data.split, max_objects=data.max_objects
        )
        self._reading = reading()

    def prompts(self, indices: Sequence[int]) -> list[str]:
        """See Source."""
        return [self._world.scene(index)[1] for index in indices]

    def units(self, indices: Sequence[int]) -> list[str]:
        """See Source."""
        return [f"{self._data.split}-{self._data.seed}-{index}" for index in indices]

    def digest(self, indices: Sequence[int]) -> str:
        """See Source."""
        return digest(["procedural", repr(self._world), list(indices), self._reading])

    def clips(self, indices: Sequence[int], truth: bool = False) -> Clips:
        """See Source."""
        return self._world.batch(indices, truth=truth)


class FolderSource:
    """Real clips: the first `frames` frames of each file, or of each folder of frames, in the order of their names."""

    truth = True
    fields = frozenset({"image"})

    def __init__(self, data: Folder, size: int | tuple[int, int], frames: int):
        from wanlab.data.folder import VideoFolder

        self._folder = VideoFolder(data.path, frames=frames, size=size, fps=data.fps)
        found = len(self._folder)
        left_out = {**self._folder.corrupt, **self._folder.short}
        self.notes = [f"{data.path}: {name} is left out: {reason}" for name, reason in left_out.items()]
        if data.n is not None and data.n > found:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise SourceError(
                f"{data.path} holds {found} clips of {frames} frames, the study asks for {data.n}"
                + (f" (left out: {reasons})" if reasons else "")
            )
        self.n, self._key = data.n or found, [size, frames, data.fps, reading()]
        self._captions = _read_captions(data.captions, self._folder) if data.captions is not None else {}
        self._digests: dict[int, str] = {}

    def prompts(self, indices: Sequence[int]) -> list[str]:
        """See Source."""
        return [self._captions.get(self._folder.names[index], "") for index in indices]

    def units(self, indices: Sequence[int]) -> list[str]:
        """See Source."""
        return [_printable(self._folder.names[index]) for index in indices]

    def digest(self, indices: Sequence[int]) -> str:
        """See Source."""
        for index in indices:
            if index not in self._digests:
                self._digests[index] = clip_digest(self._folder.files[index])
        return digest(["folder", [self._digests[i] for i in indices], self._key])

    def clips(self, indices: Sequence[int], truth: bool = False) -> Clips:
        """See Source. Raises MediaError, naming the file, where one cannot be decoded."""
        return Clips(video=torch.stack([self._folder[i] for i in indices]), captions=self.prompts(indices))


class ImageSource:
    """One photograph under several prompts; there is no true clip."""

    truth = False
    fields = frozenset({"image"})

    def __init__(self, data: Image, size: int | tuple[int, int]):
        from wanlab.data.folder import load_image

        self.n, self._prompts, self._path = len(data.prompts), data.prompts, data.path
        self._image, notes = load_image(data.path, size=size)
        self.notes = [f"{data.path}: {note}" for note in notes]
        self._key = [file_digest(data.path), tuple(self._image.shape), reading()]

    def prompts(self, indices: Sequence[int]) -> list[str]:
        """See Source."""
        return [self._prompts[index] for index in indices]

    def units(self, indices: Sequence[int]) -> list[str]:
        """See Source."""
        return [f"{_printable(self._path.name)}-{index}" for index in indices]

    def digest(self, indices: Sequence[int]) -> str:
        """See Source."""
        return digest(["image", self._key, self.prompts(indices)])

    def clips(self, indices: Sequence[int], truth: bool = False) -> Clips:
        """See Source: the video is the photograph alone, b 1 c h w."""
        return Clips(video=torch.stack([self._image[None]] * len(indices)), captions=self.prompts(indices))


class ImagesSource:
    """First frames with a prompt each, from a list; there are no true clips."""

    truth = False
    fields = frozenset({"image"})

    def __init__(self, data: Images, size: int | tuple[int, int]):
        try:
            pairs = read_pairs(data.path)
        except PairsError as error:
            raise SourceError(str(error)) from None
        if data.n is not None and data.n > len(pairs):
            raise SourceError(f"{data.path} holds {len(pairs)} pairs, the study asks for {data.n}")
        self._pairs, self._size, self._reading = pairs[: data.n], size, reading()
        self.n, self.notes = len(self._pairs), _notes_on(self._pairs, size)
        self._digests: dict[Path, str] = {}

    def prompts(self, indices: Sequence[int]) -> list[str]:
        """See Source."""
        return [self._pairs[index].prompt for index in indices]

    def units(self, indices: Sequence[int]) -> list[str]:
        """See Source."""
        return [self._pairs[index].name for index in indices]

    def digest(self, indices: Sequence[int]) -> str:
        """See Source. Of the pictures by what they hold, wherever they lie."""
        pairs = [self._pairs[index] for index in indices]
        files = [file for pair in pairs for file in (pair.image, pair.last) if file is not None]
        self._digests |= {file: file_digest(file) for file in files if file not in self._digests}
        return digest(["images", [self._digests[file] for file in files], self._size, self._reading, self.prompts(indices)])

    def clips(self, indices: Sequence[int], truth: bool = False) -> Clips:
        """See Source: the video is the picture alone, b 1 c h w; beside it the last frame, where the list has it. Raises
        MediaError, naming the file."""
        from wanlab.data.folder import load_image

        def read(files: Sequence[Path]) -> torch.Tensor:
            return torch.stack([load_image(file, size=self._size)[0] for file in files])

        pairs = [self._pairs[index] for index in indices]
        ends = [pair.last for pair in pairs if pair.last is not None]
        return Clips(video=read([pair.image for pair in pairs])[:, None], captions=self.prompts(indices),
                     last=read(ends) if ends else None)


def _notes_on(pairs: Sequence[Pair], size: int | tuple[int, int]) -> list[str]:
    """What was decided about the first pictures, each kind of note once with how many it concerns."""
    from wanlab.data.folder import load_image

    looked = list(dict.fromkeys(pair.image for pair in pairs))[:LOOKED]
    counted = Counter(note for file in looked for note in load_image(file, size=size)[1])
    return [f"{note} ({count} of {len(looked)} pictures that were looked at)" for note, count in counted.items()]


def clip_digest(path: Path) -> str:
    """The content key of a video file, or of a folder of frames by their names and bytes."""
    if path.is_file():
        return file_digest(path)
    return digest([(frame.name, file_digest(frame)) for frame in sorted(path.iterdir()) if frame.is_file()])


def _read_captions(path: Path, folder: VideoFolder) -> dict[str, str]:
    """Name of a clip -> prompt, from a CSV with the columns file (with suffix or without) and prompt. Raises SourceError, naming
    the line."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            heads = [str(head) for head in reader.fieldnames or []]
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: captions cannot be read: {error}") from None
    if rows and not {"file", "prompt"} <= set(heads):
        raise SourceError(f"{path}: a captions file has the columns file, prompt; this one has {quoted(', '.join(heads))}")
    known = {said: name for name in (*folder.names, *folder.corrupt, *folder.short) for said in (Path(name).stem, name)}
    for number, row in rows:
        if None in row:
            raise SourceError(f"{path}:{number}: more fields than columns; a prompt with a comma stands in quotes")
        if row["prompt"] is None:
            raise SourceError(f"{path}:{number}: no prompt: the line ends before it")
        if row["file"] not in known:
            raise SourceError(f"{path}:{number}: no clip {quoted(row['file'])}{did_you_mean(row['file'], known)}")
    return {known[row["file"]]: row["prompt"] for _, row in rows}


def _printable(name: str) -> str:
    """The name of a file in letters that any other file can hold: what is no text in it stands by its code."""
    return name.encode("utf-8", "backslashreplace").decode()
