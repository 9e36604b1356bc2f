"""Where a training's clips come from: the procedural world, with its truth, or a folder of real videos, with captions at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wanlab.data.procedural import World
from wanlab.data.reel import Reel, Videos
from wanlab.graph import digest, file_digest
from wanlab.training import watch
from wanlab.training.degradation import Source


def clips_of(recipe: Any, split: str, n: int) -> Source:
    """`n` clips of a split for super-resolution: `recipe` has size, frames, pool, seed and videos. What is left out is told."""
    if recipe.videos:
        return reel(recipe.videos, n, recipe.size, recipe.frames, recipe.seed, split)
    return World(size=recipe.size, frames=recipe.frames, split=split).pool(n, recipe.pool)


def called(source: Source) -> Callable[[int], str]:
    """How people are told of a row: of real videos by file and first frame, else by its number."""
    return source.called if isinstance(source, Reel) else str


def of_what(source: Source) -> str:
    """What the figures of clips for validation are of, as provenance says it."""
    return "the videos that were trained on" if isinstance(source, Reel) and not source.held else "held-out clips"


def reel(videos: Mapping[str, Any], n: int, size: int, frames: int, seed: int, split: str) -> Reel:
    """Windows of real videos. Raises ValueError and MediaError as `Videos.of` and `Reel`."""
    found = Reel(Videos.of(videos), n, size, frames, seed, split)
    if split == "train":
        watch.present().note(found.told)
    return found


def videos_digest(videos: Mapping[str, Any]) -> str:
    """The content key of a recipe's `videos:`: its settings and the bytes of the files, wherever they lie."""
    from pathlib import Path

    folder = Path(str(videos["path"])).expanduser()
    files = [(path.relative_to(folder).as_posix(), file_digest(path)) for path in sorted(folder.rglob("*")) if path.is_file()]
    captions = file_digest(Path(str(videos["captions"])).expanduser()) if videos.get("captions") else None
    return digest([files, captions, {key: value for key, value in videos.items() if key not in ("path", "captions", "workers")}])
