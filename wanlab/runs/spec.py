"""A study as data: what a study file may say.

A study is a grid of cells over one pipeline: every cell sees the same samples (image, prompt, seed) and differs by
ablations, swaps, edits or sampler settings. Fields that cannot change a result (`report`, `cache`, `seconds`, `title`, of
`share` all but `pack`) stay out of the study's hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from wanlab.graph import digest

WITHOUT_EFFECT = ("report", "cache", "seconds", "title")


class Part(BaseModel):
    """A mapping of a study file: unknown keys are errors, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed)]
Given = BeforeValidator(lambda value: {} if value is None else value)


class Procedural(Part):
    """Rendered videos with known truth."""

    kind: Literal["procedural"] = "procedural"
    split: Literal["train", "val", "test"] = "test"
    n: int = Field(48, ge=1, description="samples")
    seed: int = Field(0, ge=0, description="seed of the world")
    max_objects: Literal[1, 2] = Field(2, description="1: only clips of one object")


class Folder(Part):
    """Real clips; the first frame of each is the conditioning image, the clip is the reference."""

    kind: Literal["folder"]
    path: Path
    captions: Path | None = Field(None, description="CSV with the columns file, caption; without: empty captions")
    n: int | None = Field(None, ge=1, description="the first n clips; without: all")
    fps: float | None = Field(None, gt=0, description="resample to this rate; without: the clip's own")


class Image(Part):
    """One photograph with one or more prompts; there is no truth, so the baseline's clip is the reference."""

    kind: Literal["image"]
    path: Path
    prompts: Names = Field(min_length=1)


class Sampler(Part):
    """How the latents are denoised. A field left out means the pipeline's own default."""

    steps: int | None = Field(None, ge=1)
    guidance: float | None = Field(None, ge=0)
    negative: str | None = Field(None, description="negative prompt; without: the null condition")


class Cell(Part):
    """One setting of the grid: everything left out is as in the pipeline."""

    ablate: Names = Field(default_factory=list, description="components removed at inference")
    swap: dict[str, str] = Field(default_factory=dict, description="stage: variant")
    edits: list[dict[str, Any]] = Field(default_factory=list, description="edits as data: {kind, at, ...}")
    window: str | int | list[int] | None = Field(None, description='steps in which `ablate` acts: "0:4", 3, [0, 1], "0.5:1.0"')
    branch: str | None = Field(None, description="guidance branch in which `ablate` acts: cond or uncond")
    sampler: Sampler = Field(default_factory=Sampler, description="fields that differ from the study's sampler")
    pairs_with: str | None = Field(None, description="the cell that this one is shown beside in the report")
    note: str | None = None


class Stats(Part):
    """How numbers are compared."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(10_000, ge=10_000, description="bootstrap resamples and sign flips")
    family: Literal["metric", "study"] = Field("metric", description="what Holm's correction ranges over")
    seed: int = Field(0, ge=0)


class Report(Part):
    """What the report shows."""

    videos: int = Field(6, ge=0, description="samples shown as videos and film strips")
    budget_mb: float = Field(12.0, gt=0, description="bytes of video inside report.html; links beyond")
    fps: float = Field(8.0, gt=0)
    table: Names | None = Field(None, description="metrics in table.tex; without: all")
    width: float = Field(5.5, gt=1, description="width of the figures in inches")


class Cache(Part):
    """Where stage outputs are kept."""

    memory_gib: float = Field(1.0, ge=0)
    disk: Path | None = Field(None, description="folder of the disk cache; without: memory only")
    disk_gib: float = Field(10.0, gt=0)


class Share(Part):
    """What cells have in common and how far it is used. `cache` and `fork` change no byte; `pack` changes the rounding."""

    cache: bool = Field(True, description="stage outputs are computed once; false: every cell by itself, without forks")
    fork: bool = Field(True, description="cells share the denoising steps before the first one in which they differ")
    pack: int = Field(1, ge=1, description="so many cells run as rows of one batch; part of every content key (1: none)")


class Study(Part):
    """A study file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")
    title: str | None = Field(None, description="headline of the report")
    pipeline: str = Field("tiny", description="a preset's name or a folder with pipeline.json")
    init: Literal["trained", "random"] = "trained"
    data: Annotated[Procedural | Folder | Image, Field(discriminator="kind")]
    sampler: Sampler = Field(default_factory=Sampler)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], min_length=1)
    batch: int = Field(8, ge=1, description="rows per batch; part of every content key")
    baseline: str = "baseline"
    cells: dict[str, Annotated[Cell, Given]] = Field(min_length=1)
    metrics: list[str] = Field(min_length=1)
    reference: str = Field("auto", description="data, baseline or a folder of clips; auto: data where there is truth")
    stats: Stats = Field(default_factory=Stats)
    report: Report = Field(default_factory=Report)
    cache: Cache = Field(default_factory=Cache)
    share: Share = Field(default_factory=Share)
    seconds: dict[str, float] = Field(default_factory=dict, description="stated seconds per sample and stage, for plan")

    def resolved(self) -> dict[str, Any]:
        """Plain data that `Study.model_validate` reads back."""
        return self.model_dump(mode="json")

    @property
    def hash(self) -> str:
        """Digest of everything that can change a result."""
        return digest(settings(self.resolved()))

    def sampler_of(self, cell: str) -> Sampler:
        """The sampler of one cell: the study's, with the cell's own fields over it."""
        return self.sampler.model_copy(update=self.cells[cell].sampler.model_dump(exclude_none=True))


def settings(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved study that can change a result."""
    found = {key: value for key, value in resolved.items() if key not in WITHOUT_EFFECT}
    pack = found.pop("share", {}).get("pack", 1)
    return {**found, "share": {"pack": pack}} if pack > 1 else found


def schema_text() -> str:
    """The JSON schema of a study file as text, for editors (`# yaml-language-server: $schema=...`)."""
    return json.dumps(Study.model_json_schema(), indent=1, sort_keys=True) + "\n"
