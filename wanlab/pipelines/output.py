"""What a pipeline gives: the video, what was recorded on the way, and what the edits did; and the file that tells the latter."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from wanlab.core import Ledger, Record
from wanlab.pipelines.request import Request

if TYPE_CHECKING:
    from wanlab.pipelines.base import Pipeline

LISTED = 4  # sites of a record that are shown


@dataclass(repr=False)
class Output:
    """A generated video (b f c h w in [0, 1]) with what was recorded on the way and what the edits did."""

    video: Tensor
    record: Record
    ledger: Ledger
    request: Request
    nodes: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    pipe: Pipeline | None = field(default=None, compare=False)

    def save(self, path: str | Path, fps: float = 8, row: int = 0) -> Path:
        """Write one row as an mp4 for looking at, and beside it what the edits and captures did (NAME.ledger.json; where there were
        none, an earlier one goes). ValueError for a name that says another format."""
        from wanlab.data.folder import write_video
        from wanlab.data.media import demand_mp4

        demand_mp4(Path(path))
        write_video(path, self.video[row], fps=fps)
        save_ledger(self.ledger, Path(path))
        return Path(path)

    def __repr__(self) -> str:
        sizes = " ".join(f"{axis}={size}" for axis, size in zip("bfchw", self.video.shape))
        sites = list(self.record)
        held = ", ".join(sites[:LISTED]) + (f" and {len(sites) - LISTED} more" if len(sites) > LISTED else "")
        ledger = str(self.ledger).splitlines()[0] if len(self.ledger) else "empty"
        return f"Output(video: {sizes}; seeds: {_short(self.request.seeds)}; record: {held or 'empty'}; ledger: {ledger})"


def save_ledger(ledger: Ledger, video: Path) -> None:
    """Write what edits and captures did beside a video; where there were none, what is there of an earlier video goes."""
    place = video.with_suffix(".ledger.json")
    if len(ledger):
        ledger.save(place)
    else:
        place.unlink(missing_ok=True)


def _short(values: list[Any]) -> str:
    return ", ".join(map(str, values[:LISTED])) + (f", … ({len(values)})" if len(values) > LISTED else "")
