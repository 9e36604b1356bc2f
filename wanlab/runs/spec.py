"""A study as data: what a study file may say.

A study is a grid of cells over one pipeline: every cell sees the same samples (image, prompt, seed) and differs by
ablations, swaps, edits or sampler settings. Fields that cannot change a result (`report`, `cache`, `seconds`, `title`, of
`share` all but `pack`) stay out of the study's hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PrivateAttr, WithJsonSchema

from wanlab.data.media import RATES
from wanlab.graph import GIB, digest
from wanlab.pipelines.request import STEPS

from .document import did_you_mean, located
from .model import Model, Named, OrWord, told
from .part import Part

WITHOUT_EFFECT = ("report", "cache", "seconds", "title", "outline")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (str, dict)) else value


Names = Annotated[list[str], BeforeValidator(_listed)]


def _steps(value: Any) -> Any:
    """Steps as a selection reads them."""
    from wanlab.core import Select

    Select("**", steps=value)
    return value


def _some(value: Any) -> Any:
    if not isinstance(value, (list, dict)) or not value:
        raise ValueError("expected a list of values, or names with values")
    return value


def _inches(value: Any) -> Any:
    """A width by the name of a venue, or as it is."""
    if isinstance(value, str) and value not in WIDTHS:
        raise ValueError(f"neither inches nor one of {', '.join(WIDTHS)}{did_you_mean(value, WIDTHS)}")
    return WIDTHS[value] if isinstance(value, str) else value


# exact widths in inches of a column (or, where it says so, of the page) in the styles of these venues
WIDTHS = {"neurips": 5.5, "iclr": 5.5, "icml": 3.25, "icml_page": 6.75, "cvpr": 3.25, "cvpr_page": 6.875}
INCHES = {"anyOf": [{"type": "number", "exclusiveMinimum": 1, "maximum": 30}, {"enum": list(WIDTHS)}]}
Inches = Annotated[float, BeforeValidator(_inches), WithJsonSchema(INCHES)]
Figure = Literal["forest", "heatmap", "windows", "cost", "strips"]
WINDOW = {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}
Window = Annotated[Any, AfterValidator(_steps), WithJsonSchema(WINDOW)]
Values = Annotated[Any, AfterValidator(_some), WithJsonSchema({"anyOf": [{"type": "array"}, {"type": "object"}]})]
Given = BeforeValidator(lambda value: {} if value is None else value)
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # times SAMPLES below what a generator takes
SAMPLES = 1_000_000  # of one seed, each with a noise seed of its own


class Procedural(Part):
    """Rendered videos with known truth."""

    kind: Literal["procedural"] = "procedural"
    split: Literal["train", "val", "test"] = "test"
    n: int = Field(48, ge=1, le=SAMPLES, description="samples")
    seed: Seed = Field(0, description="seed of the world")
    max_objects: Literal[1, 2] = Field(2, description="1: only clips of one object")


class Folder(Part):
    """Real clips; the first frame of each is the conditioning image, the clip is the reference."""

    kind: Literal["folder"]
    path: Path
    captions: Path | None = Field(None, description="CSV with the columns file, prompt; without: empty prompts")
    n: int | None = Field(None, ge=1, description="the first n clips; without: all")
    fps: float | None = Field(None, ge=RATES[0], le=RATES[1], description="resample to this rate; without: the clip's own")


class Image(Part):
    """One photograph with one or more prompts; there is no truth, so the baseline's clip is the reference."""

    kind: Literal["image"]
    path: Path
    prompts: Names = Field(min_length=1)


class Images(Part):
    """First frames with their prompts, one pair to a line: a CSV with a header, or JSONL (one object to a line).

    image   a file, relative to the list's own folder unless absolute
    prompt  the text; empty: the video follows the image alone
    name    how the pair is called in tables (optional; without: the file's name and the line)
    last    the last frame, a file too, for pipelines that take one (optional: in all lines or in none)
    """

    kind: Literal["images"]
    path: Path = Field(description="list of pairs: .csv or .jsonl with the columns image, prompt and, if wanted, name and last")
    n: int | None = Field(None, ge=1, description="the first n pairs; without: all")


WITHOUT_TRUTH = ("image", "images")  # kinds of data that no true clips belong to


class Sampler(Part):
    """How the latents are denoised. A field left out means the pipeline's own default."""

    steps: int | None = Field(None, ge=1, le=STEPS)
    guidance: float | None = Field(None, ge=0)
    guidance_2: float | None = Field(None, ge=0, description="of the second of two experts; without: as guidance")
    negative: str | None = Field(None, description="negative prompt; without: the null condition")

    @property
    def asked(self) -> dict[str, Any]:
        """What a request takes of it; a second guidance only where one is said, as only some pipelines take it."""
        return self.model_dump(include={"steps", "guidance"}) | self.model_dump(include={"guidance_2"}, exclude_none=True)


class Placebo(Part):
    """What no effect looks like: the edits of components, made at as many random sites of equal size outside of them."""

    of: Names = Field(min_length=1, description="components")
    draw: int = Field(0, ge=0, description="number of the draw")
    seed: Seed = 0


class Placebos(Part):
    """Several draws of a placebo: a cell for each, named placebo-COMPONENT+drawN."""

    of: Names = Field(min_length=1, description="components")
    draws: int = Field(5, ge=1, le=10_000)
    seed: Seed = 0
    window: Window | None = Field(None, description="as in a cell")
    branch: str | None = Field(None, description="as in a cell")


class Train(Part):
    """Weights that this cell trains first: a variant of a stage, by the recipe that made the pipeline's own, with changes.

    Trained once for all samples, cells and studies that ask for the same; the folder is `cache.trainings`.
    """

    part: str = Field(pattern=r"^[a-z_]+\.[A-Za-z0-9_]+$", description="STAGE.VARIANT, for example detail.no_gan")
    recipe: Path | None = Field(None, description="a training file; without: the recipe that the pipeline's weights carry")
    set: dict[str, Any] = Field(default_factory=dict, description="settings of the recipe that differ")
    seed: Seed | None = Field(None, description="without: the recipe's own")


class Cell(Part):
    """One setting of the grid: everything left out is as in the pipeline."""

    ablate: Names = Field(default_factory=list, description="components removed at inference")
    swap: dict[str, str] = Field(default_factory=dict, description="stage: variant")
    edits: list[dict[str, Any]] = Field(default_factory=list, description="edits as data: {kind, at, ...}")
    placebo: Placebo | None = Field(None, description="random sites of equal size instead of a component's")
    train: Train | None = Field(None, description="a part that is trained before this cell runs")
    window: Window | None = Field(None, description='steps in which `ablate` acts: "0:4", 3, [0, 1], or noise levels "0.5:1.0"')
    branch: str | None = Field(None, description="guidance branch in which `ablate` acts: cond or uncond")
    sampler: Sampler = Field(default_factory=Sampler, description="fields that differ from the study's sampler")
    pairs_with: str | None = Field(None, description="the cell that this one is shown beside in the report")
    axes: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="axis: value, where the report's heat maps and curves place this cell; a grid fills it in"
    )
    note: str | None = None


def _family(value: Any) -> Any:
    """What Holm's correction ranges over: a word, or families by name."""
    lists = {str(name): _listed(cells) for name, cells in value.items()} if isinstance(value, dict) else {}
    if value not in FAMILIES and not (lists and all(_cells(cells) for cells in lists.values())):
        near = did_you_mean(value, FAMILIES) if isinstance(value, str) else ""
        raise ValueError(f"expected {', '.join(FAMILIES)}, or names with lists of cells{near}")
    return lists or value


def _cells(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


RESAMPLES = 1_000_000  # at most
FAMILIES = ("metric", "study")
NAMES = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
FAMILY = {"anyOf": [{"enum": list(FAMILIES)}, {"type": "object", "additionalProperties": NAMES, "minProperties": 1}]}
Family = Annotated[str | dict[str, list[str]], BeforeValidator(_family), WithJsonSchema(FAMILY)]


class Stats(Part):
    """How numbers are compared."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    resamples: int = Field(10_000, ge=10_000, le=RESAMPLES, description="bootstrap resamples and sign flips")
    family: Family = Field(
        "metric",
        description="what Holm's correction ranges over: all cells of a metric, the whole study, or families by name "
        "({heads: [head*], parts: [text, image]}), each under one metric; every cell is in one",
    )
    seed: Seed = 0

    def families_of(self, cell: str) -> list[str]:
        """The families, of those that are named, which a cell belongs to."""
        named = self.family.items() if isinstance(self.family, dict) else ()
        return [name for name, patterns in named if any(fnmatchcase(cell, pattern) for pattern in patterns)]

    @property
    def corrected_over(self) -> str:
        """What Holm's correction ranges over, in words."""
        if isinstance(self.family, dict):
            return f"the cells of a family ({', '.join(self.family)}) under a metric"
        return {"metric": "all cells of a metric", "study": "all cells and metrics"}[self.family]


class Report(Part):
    """What the report shows."""

    videos: int = Field(6, ge=0, description="samples shown as videos and film strips")
    budget_mb: float = Field(12.0, gt=0, description="bytes of video inside report.html; links beyond")
    fps: float = Field(8.0, ge=RATES[0], le=RATES[1])
    metrics: Names | None = Field(None, description="metrics in table.tex and in the figures; without: all")
    figures: list[Figure] | None = Field(None, description="without: all that the study has something to show in")
    width: Inches = Field(5.5, gt=1, le=30, description="of figures and tables: inches, or the name of a venue")


class Cache(Part):
    """Where stage outputs are kept."""

    memory_gib: float = Field(1.0, ge=0)
    disk: Path | None = Field(None, description="folder of the disk cache; without: memory only")
    disk_gib: float = Field(10.0, gt=0)
    object_store_gib: float = Field(2.0, ge=0, description="with Ray and without `disk`: what workers share in its object store")
    trainings: Path = Field(Path("runs/trainings"), description="folder of what `train` cells have trained")


class Share(Part):
    """What cells have in common and how far it is used. `cache` and `fork` change no byte; `pack` changes the rounding on a GPU."""

    cache: bool = Field(True, description="stage outputs are computed once; false: every cell by itself, without forks")
    fork: bool = Field(True, description="cells share the denoising steps before the first one in which they differ")
    pack: int = Field(1, ge=1, description="so many cells run as rows of one batch; part of every content key (1: none)")


LONGEST = 200  # letters of a name: a folder is called by it, with a key after it, and file systems end at 255
AUTO, GUESS = "auto", 8  # the batch that a device decides, and where it begins to look


class Study(Part):
    """A study file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=LONGEST)
    title: str | None = Field(None, description="headline of the report")
    pipeline: Annotated[Model, Named, OrWord] = Field(
        Model(name="tiny"), description="a preset's name or a folder with pipeline.json; or a mapping, of a Wan model"
    )
    init: Literal["trained", "random"] = "trained"
    data: Annotated[Procedural | Folder | Image | Images, Field(discriminator="kind")]
    sampler: Sampler = Field(default_factory=Sampler)
    seeds: list[Seed] = Field(default_factory=lambda: [0], min_length=1)
    batch: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        AUTO, description="rows per batch, part of every content key; auto: as many as the GPU has memory for (on a CPU 8)"
    )
    baseline: str = "baseline"
    cells: dict[str, Annotated[Cell, Given]] = Field(min_length=1)
    metrics: list[str] = Field(min_length=1)
    reference: str = Field("auto", description="data, baseline or a folder of clips; auto: data where there is truth")
    stats: Stats = Field(default_factory=Stats)
    report: Report = Field(default_factory=Report)
    cache: Cache = Field(default_factory=Cache)
    share: Share = Field(default_factory=Share)
    seconds: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="stated seconds per sample and stage, for plan"
    )
    outline: Path | None = Field(None, description="stated figures of the pipeline, so that plan needs no weights")
    _home: Path | None = PrivateAttr(None)

    @property
    def home(self) -> Path | None:
        """The folder of the study file. No part of the study: where a file lies changes no result, hash or key."""
        return self._home

    def at(self, home: Path | None) -> Study:
        """The same study, read from a file in this folder."""
        study = self.model_copy()
        study._home = home
        return study

    def find(self, path: Path) -> Path:
        """Where a file lies that the study names: see `located`. Raises StudyError."""
        return located(path, self._home)

    def resolved(self) -> dict[str, Any]:
        """Plain data that `Study.model_validate` reads back; of the cells, what differs from the defaults."""
        cells = {name: cell.model_dump(mode="json", exclude_defaults=True) for name, cell in self.cells.items()}
        return {**self.model_dump(mode="json", exclude={"cells"}), "cells": cells}

    @property
    def objects(self) -> int:
        """Bytes of stage outputs that workers share in Ray's object store: none where a folder serves, or nothing is shared."""
        return int(self.cache.object_store_gib * GIB) if self.share.cache and self.cache.disk is None else 0

    @property
    def against_baseline(self) -> bool:
        """Whether samples are judged against the baseline's videos: as the file says, or because there is no true clip."""
        return self.reference == "baseline" or (self.reference == "auto" and self.data.kind in WITHOUT_TRUTH)

    @property
    def rows(self) -> int:
        """Rows per batch; what a device has yet to decide counts as the guess."""
        return GUESS if self.batch == AUTO else int(self.batch)

    @property
    def hash(self) -> str:
        """Digest of everything that can change a result."""
        return digest(settings(self.resolved()))

    def sampler_of(self, cell: str) -> Sampler:
        """The sampler of one cell: the study's, with the cell's own fields over it."""
        return self.sampler.model_copy(update=self.cells[cell].sampler.model_dump(exclude_none=True))


Entry = dict[str, Any]


class StudyFile(Study):
    """What a study file may say: cells by name, and a grid of further ones. A resolved study has only cells."""

    model_config = ConfigDict(title="Study")

    cells: dict[str, Annotated[Cell, Given]] = Field(default_factory=dict)
    each: Entry = Field(default_factory=dict, description="settings that every cell of the grid starts from")
    axes: dict[str, Annotated[dict[str, Values], Field(min_length=1)]] = Field(
        default_factory=dict, description="axis: {path of a cell: [value, ...] or {name: value, ...}}; their product is the grid"
    )
    zip: list[Annotated[list[str], Field(min_length=2)]] = Field(default_factory=list, description="axes that go in lockstep")
    include: list[Entry] = Field(
        default_factory=list, description="{axis: value, set: {...}}: settings for these cells, or one left out comes back"
    )
    exclude: list[Entry] = Field(default_factory=list, description="{axis: value, ...}: cells with these values are left out")
    placebo: Annotated[list[Placebos], BeforeValidator(_listed)] = Field(
        default_factory=list, description="draws of placebos, a cell for each"
    )

    def study(self, more: Mapping[str, Cell]) -> Study:
        """The study of this file with the cells that its grid makes."""
        fields = {name: getattr(self, name) for name in Study.model_fields}
        return Study(**{**fields, "cells": {**self.cells, **more}})


GRID = tuple(name for name in StudyFile.model_fields if name not in Study.model_fields)


def settings(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved study that can change a result."""
    found = {key: value for key, value in resolved.items() if key not in WITHOUT_EFFECT}
    if "pipeline" in found:
        found["pipeline"] = told(found["pipeline"])
    pack = found.pop("share", {}).get("pack", 1)
    return {**found, "share": {"pack": pack}} if pack > 1 else found


def schema_text() -> str:
    """The JSON schema of a study file as text, for editors (`# yaml-language-server: $schema=...`)."""
    return json.dumps(StudyFile.model_json_schema(), indent=1, sort_keys=True) + "\n"
