"""Where the samples of a study come from: rendered videos, a folder of clips, or photographs with prompts.

Every source says, without rendering or decoding anything, what its rows depend on (`digest`) and what their prompts
are; that is all a plan needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from wanlab.data.clip import Clips
from wanlab.data.table import known_as, read_captions
from wanlab.graph import digest, file_digest
from wanlab.pipelines.inputs import sides

from .environment import reading
from .pairs import Pair, read_pairs
from .spec import Folder, Image, Images, Procedural

LISTED = 5  # names of files that a message shows
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


def open_reference(path: Path, source: Source, size: int | tuple[int, int], frames: int) -> FolderSource:
    """The clips of a folder that the samples of `source` are judged against, in their order: of the same names, where the data is a
    folder too and any agree; else clip i for sample i. Raises MediaError, and SourceError where that leaves a sample without its
    clip, or could give it another's because one was left out."""
    judges = FolderSource(Folder(kind="folder", path=path), size, frames)
    if isinstance(source, FolderSource) and judges.follow(source.names):
        return judges
    for one in (judges, source):
        if isinstance(one, FolderSource) and one.left_out:
            named = "; ".join(f"{name}: {reason}" for name, reason in one.left_out.items())
            why = "clip i is the reference of sample i, so none can be left out"
            raise SourceError(f"{one.path}: {why} ({named}): mend it or remove it")
    if judges.n < source.n:
        raise SourceError(f"{path} holds {judges.n} clips, but clip i is the reference of sample i and the "
                          f"study has {source.n} samples")  # fmt: skip
    return judges


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
        self.left_out = left_out = {**self._folder.corrupt, **self._folder.short}
        self.notes = [f"{data.path}: {name} is left out: {reason}" for name, reason in left_out.items()]
        if data.n is not None and data.n > found:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise SourceError(
                f"{data.path} holds {found} clips of {frames} frames, the study asks for {data.n}"
                + (f" (left out: {reasons})" if reasons else "")
            )
        self.path, self.n, self._key = data.path, data.n or found, [size, frames, data.fps, reading()]
        names = (*self._folder.names, *left_out)
        self._captions = read_captions(data.captions, names) if data.captions is not None else {}
        self._digests: dict[int, str] = {}

    @property
    def names(self) -> list[str]:
        """The files of the rows."""
        return self._folder.names[: self.n]

    def follow(self, names: Sequence[str]) -> bool:
        """Take the clips that these files are called by (a suffix may differ) as the rows; False, and nothing, where none is.
        Raises SourceError, naming those that have no clip here, or more than one."""
        known = known_as(self._folder.names)
        found = [known.get(name) or known.get(Path(name).stem, []) for name in names]
        stems = {Path(name).stem for name in names}
        if not any(found) and not any(Path(name).stem in stems for name in self.left_out):
            return False
        if lacking := [name for name, clips in zip(names, found) if len(clips) != 1]:
            more = f" and {len(lacking) - LISTED} more" if len(lacking) > LISTED else ""
            told = "".join(f"; {name} is left out: {reason}" for name, reason in self.left_out.items() if Path(name).stem in stems)
            raise SourceError(f"{self.path} has no clip, or no single one, for {', '.join(lacking[:LISTED])}{more}{told}")
        files = dict(zip(self._folder.names, self._folder.files))
        self._folder.files[:] = [files[clip] for (clip,) in found]
        self.n = len(names)
        return True

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
        pairs = read_pairs(data.path)
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


def _printable(name: str) -> str:
    """The name of a file in letters that any other file can hold: what is no text in it stands by its code."""
    return name.encode("utf-8", "backslashreplace").decode()
