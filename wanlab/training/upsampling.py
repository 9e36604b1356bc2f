"""Training of the x2 levels of the cascade on degraded procedural clips; `degradation` says what they are fed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.nn.residual import enlarge
from wanlab.pipelines.load import CLASSES
from wanlab.stages.resize import ResizeConv, Trilinear
from wanlab.stages.upsample import Config, Upsample
from wanlab.training import losses, machine
from wanlab.training.checkpoint import Spent
from wanlab.training.content import LEAST, network_of, vgg_file
from wanlab.training.degradation import Example, Source, clean, crop, degrade, window
from wanlab.training.descent import Descent
from wanlab.training.presets import Sized, entry_of, preset_of, settings_of
from wanlab.training.settings import demand, origins, stated
from wanlab.training.shipping import ship
from wanlab.training.sources import called, clips_of, of_what

FRAMES = 4  # consecutive frames of a training clip
PER_LEVEL = ("steps", "batch", "crop")


@dataclass(frozen=True)
class Recipe(Sized):
    """How the levels are trained, at the size and with the frames of the preset.

    variant     residual; no_residual: built and trained without the bicubic skips; resize_conv, trilinear: other ways to enlarge
    steps, batch, crop          one number per level; crop in pixels of the small video
    rate        of every level;  content: weight of L_content beside the pixel loss;  vgg: its network (`content.vgg_file`)
    clips, held                 how many clips to train on and to judge by; pool: a folder that keeps them, or none
    preset      whose levels these are
    videos                      real ones instead of the procedural world's (`wanlab.data.reel.Videos`); pool is of no use then
    """

    variant: str = "residual"
    seed: int = 0
    clips: int = 1200
    held: int = 64
    steps: Sequence[int] = (600, 600)
    batch: Sequence[int] = (5, 4)
    crop: Sequence[int] = (24, 28)
    rate: float = 2e-3
    content: float = 0.0
    vgg: str | None = None
    pool: str | None = None
    preset: str = "tiny"
    videos: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        demand(self)
        if self.variant not in VARIANTS:
            raise ValueError(f"upsample has no variant {quoted(self.variant)}{suggestion(self.variant, VARIANTS)}")
        for name in PER_LEVEL:
            if len(given := getattr(self, name)) != len(self.levels):
                count = len(self.levels)
                raise ValueError(f"{name}: one number for each of the {count} levels of {self.preset}, not {quoted(list(given))}")
        self.demand_frames(FRAMES)
        if self.vgg is not None and not self.content:
            raise ValueError("vgg is L_content's network, and content: 0 asks for none of L_content")
        if self.content and 2 * min(self.crop) < LEAST:
            raise ValueError(f"crop: at least {LEAST // 2} where L_content is asked for, not {quoted(list(self.crop))}")
        if self.vgg is not None:
            vgg_file(self.vgg)

    @cached_property
    def levels(self) -> tuple[Config, ...]:
        """The configuration of each level, smallest first."""
        return tuple(Config(**level) for level in settings_of(preset_of(self.preset), "upsample")["levels"])

    @property
    def ships(self) -> dict[str, str]:
        """stage -> variant of what is handed over."""
        return {"upsample": self.variant}

    def entry(self, stage: str) -> dict[str, Any]:
        """Class and configuration of the levels as the recipe builds them, as pipeline.json has them."""
        level, link = VARIANTS[self.variant]
        name = next(name for name, (levels, _) in CLASSES[stage].items() if getattr(levels, "level", None) is level)
        levels = settings_of(preset_of(self.preset), stage)["levels"]
        return entry_of(preset_of(self.preset), stage, name, levels=[{**one, "link": link} for one in levels])

    @property
    def built(self) -> dict[str, Any]:
        """All that is built from the preset's settings, and the sizes of its videos."""
        return {"size": self.size, "frames": self.frames, "upsample": self.entry("upsample")}

    @property
    def batches(self) -> dict[str, int]:
        """Rows of the smallest batch, by setting."""
        return {"batch": min(self.batch)}

    @property
    def base(self) -> int:
        """The side of the video that the first level enlarges."""
        return self.size >> len(self.levels)

    def of(self, level: int) -> dict[str, Any]:
        """The settings that one level's training depends on."""
        sizes = {"size": self.size, "frames": self.frames}
        return stated(self) | sizes | {name: getattr(self, name)[level] for name in PER_LEVEL}


Criterion = Callable[[Tensor, Tensor], Tensor]  # of what was made and what is true, b f 3 h w in [-1, 1]
VARIANTS: dict[str, tuple[type[Upsample], float]] = {  # class of a level, and the link of its bicubic skip
    "residual": (Upsample, 1.0),
    "no_residual": (Upsample, 0.0),
    "resize_conv": (ResizeConv, 1.0),
    "trilinear": (Trilinear, 1.0),
}


def train_upsampling(recipe: Recipe, out: Path) -> dict[str, float]:
    """Train all levels into `out`; a checkpoint there is continued. Writes upsample.<variant>.safetensors and a note.

    Returns the figures on held-out clips.
    """
    criterion = objective(recipe)
    data, held = clips_of(recipe, "train", recipe.clips), clips_of(recipe, "val", recipe.held)
    levels = nn.ModuleList()
    spent = Spent()
    for level in range(len(recipe.levels)):
        descent = train_level(level, recipe, data, out, levels, criterion)
        levels.append(descent.average.module)
        spent += descent.spent
    figures = judge(levels.cpu(), held)
    ship(
        levels,
        "upsample",
        recipe.variant,
        out,
        seed=recipe.seed,
        steps=sum(recipe.steps),
        spent=spent,
        metrics=figures,
        judged=of_what(held),
        recipe=asdict(recipe),
        origins=origins(recipe),
        entry=recipe.entry("upsample"),
    )
    return figures


def train_level(level: int, recipe: Recipe, data: Source, out: Path, below: nn.ModuleList, criterion: Criterion) -> Descent:
    """Train one level; those `below` make its inputs from base videos in three of four batches."""
    torch.manual_seed(recipe.seed * len(recipe.levels) + level)
    build, link = VARIANTS[recipe.variant]
    module = build(replace(recipe.levels[level], link=link))
    path = out / f"{recipe.variant}.level{level}.pt"
    descent = Descent(
        module, steps=recipe.steps[level], rate=recipe.rate, path=path, recipe=recipe.of(level), name=called(data)
    )
    here = machine.present()
    for step in descent:
        example, rows = draw(level, recipe, data, step, below)
        example = here.share(example)
        with here.autocast():
            loss = criterion(module(example.video, example.reference, example.valid), example.target)
        descent.down(loss, rows)
    return descent


def objective(recipe: Recipe) -> Criterion:
    """The pixel loss, and L_content of the recipe's weight."""
    if not (weight := recipe.content):
        return losses.pixel
    network = network_of(recipe.vgg).to(machine.present().device)

    def both(fake: Tensor, real: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = losses.taps(network, real)
        return losses.pixel(fake, real) + weight * losses.content(losses.taps(network, fake), wanted)

    return both


def draw(level: int, recipe: Recipe, data: Source, step: int, below: Iterable[nn.Module] = ()) -> tuple[Example, list[int]]:
    """The batch of this step and the rows it came from: they depend on (seed, level, step) alone."""
    generator = torch.Generator().manual_seed((recipe.seed * 8 + level) * 2**32 + step)
    rows = torch.randint(len(data), (recipe.batch[level],), generator=generator).tolist()
    clips = data.batch(rows)
    last = clips.video.shape[1] - FRAMES
    start = int(torch.randint(0, last + 1, (), generator=generator))
    below = below if float(torch.rand((), generator=generator)) < 0.75 else ()
    example = degrade(window(clips, start, FRAMES, recipe.base), recipe.base * 2 ** (level + 1), generator, below)
    return crop(example, recipe.crop[level], generator), rows


@torch.no_grad()
def judge(levels: Sequence[nn.Module] | nn.ModuleList, held: Source, batch: int = 8) -> dict[str, float]:
    """Figures of each level on held-out clips that are fed with their true base video: PSNR (of frame 0, of bicubic,
    without image) in dB, sharpness relative to the truth.
    """
    sums: dict[str, float] = {}
    for start in range(0, len(held), batch):
        rows = list(range(start, min(start + batch, len(held))))
        clips = held.batch(rows)
        base = clips.video.shape[-1] >> len(levels)
        truth = window(clips, 0, clips.video.shape[1], base)
        video = None
        for level, module in enumerate(levels):
            example = clean(truth, base * 2 ** (level + 1))
            video = example.video if video is None else video
            result = module(video, example.reference, example.valid)
            blind = module(video, torch.zeros_like(example.reference), torch.zeros_like(example.valid))
            for name, value in _figures(result, enlarge(video), blind, example.target).items():
                sums[f"{name}.{level}"] = sums.get(f"{name}.{level}", 0.0) + float(value.sum())
            video = result
    return {name: round(total / len(held), 4) for name, total in sums.items()}


def _figures(result: Tensor, bicubic: Tensor, blind: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {
        "psnr": psnr(result, target),
        "psnr_first": psnr(result[:, :1], target[:, :1]),
        "psnr_bicubic": psnr(bicubic, target),
        "psnr_no_image": psnr(blind, target),
        "sharpness": sharpness(result, target),
        "sharpness_bicubic": sharpness(bicubic, target),
    }


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB (b) of pictures in [-1, 1], clamped there."""
    return -10 * ((x.clamp(-1, 1) - y) / 2).square().mean((1, 2, 3, 4)).clamp(min=1e-10).log10()


def sharpness(x: Tensor, y: Tensor) -> Tensor:
    """Gradient energy of x relative to y: (b)."""

    def energy(v: Tensor) -> Tensor:
        across, down = (v[..., 1:] - v[..., :-1]).square(), (v[..., 1:, :] - v[..., :-1, :]).square()
        return across.mean((1, 2, 3, 4)) + down.mean((1, 2, 3, 4))

    return energy(x.clamp(-1, 1)) / energy(y)
