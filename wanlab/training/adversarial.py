"""Training of the detail stage: its content branch, then its texture head against a discriminator, all else frozen.

    L_total = L_content + pixel + lambda * L_GAN

With lambda = 0 (variant no_gan) the same head learns, in as many steps, from L_content and the pixel loss alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.stages import detail, discriminator
from wanlab.training import losses, machine, watch
from wanlab.training.content import LEAST, TAPS, network_of, vgg_file, widths_of
from wanlab.training.degradation import Source, degrade, enlarged, window
from wanlab.training.descent import Descent
from wanlab.training.presets import Sized, entry_of, fresh, preset_of
from wanlab.training.settings import demand, origins, stated
from wanlab.training.shipping import read, ship
from wanlab.training.sources import called, clips_of, of_what
from wanlab.training.upsampling import psnr, sharpness

FRAMES = 4


@dataclass(frozen=True)
class Recipe(Sized):
    """How the detail stage is trained.

    variant     gan, or no_gan (lambda 0)
    upsample    weights of the levels below, as `train_upsampling` writes them
    lam         lambda of L_GAN;  gan: log (the article's), hinge, relativistic or relativistic_average
    r1          gamma of the gradient penalty gamma / 2 * |d logits / d inputs|^2 (Mescheder et al. 2018), asked for every
                r1_every-th step and then that many times as heavy (Karras et al. 2020, "lazy regularization")
    pixel       weight of the pixel loss beside L_content;  vgg: the content network (`content.vgg_file`), `taps` of whose taps the
                discriminator looks at
    crop        side in pixels;  pool: a folder that keeps the clips, or none
    preset      whose stages these are, and whose size and frames the clips have
    videos      real ones instead of the procedural world's (`wanlab.data.reel.Videos`)
    """

    variant: str = "gan"
    upsample: str = ""
    seed: int = 0
    clips: int = 128
    held: int = 64
    content_steps: int = 300
    gan_steps: int = 400
    batch: int = 4
    crop: int = 48
    rate: float = 1e-3
    judge_rate: float = 5e-4
    lam: float = 0.05
    gan: str = "log"
    r1: float = 0.0
    r1_every: int = 1
    pixel: float = 1.0
    taps: int = 3
    vgg: str | None = None
    pool: str | None = None
    preset: str = "tiny"
    videos: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        demand(self)
        if self.variant not in ("gan", "no_gan"):
            raise ValueError(f"detail has no variant {quoted(self.variant)}{suggestion(self.variant, ('gan', 'no_gan'))}")
        losses.gan(self.gan)
        if self.crop % 4 or not LEAST <= self.crop <= self.size:
            raise ValueError(f"crop is divisible by 4, from {LEAST} to the {self.size} pixels of {self.preset}, not {self.crop}")
        self.demand_frames(FRAMES)
        if self.taps > TAPS:
            raise ValueError(f"taps: the content network has {TAPS}, not {self.taps}")
        if self.vgg is not None:
            vgg_file(self.vgg)

    @property
    def weight(self) -> float:
        """lambda, 0 where there is no opponent."""
        return self.lam if self.variant == "gan" else 0.0

    @property
    def ships(self) -> dict[str, str]:
        """stage -> variant of all that is handed over: the opponent too, where there is one."""
        return {"detail": self.variant, **({"discriminator": "gan"} if self.weight else {})}

    def entry(self, stage: str) -> dict[str, Any]:
        """Class and configuration of a stage as the recipe builds it, as pipeline.json has them."""
        changes = {"taps": list(widths_of(self.vgg)[: self.taps])} if stage == "discriminator" else {}
        return entry_of(preset_of(self.preset), stage, **changes)

    @property
    def built(self) -> dict[str, Any]:
        """All that is built from the preset's settings, and the sizes of its videos."""
        stages = {stage: self.entry(stage) for stage in ("upsample", "detail", "discriminator")}
        return {"size": self.size, "frames": self.frames} | stages

    @property
    def batches(self) -> dict[str, int]:
        """Rows of a batch, by setting."""
        return {"batch": self.batch}


class Bank(NamedTuple):
    """What the frozen levels made of degraded clips: bytes, b f c h w; `valid` of one channel."""

    video: Tensor
    reference: Tensor
    valid: Tensor
    target: Tensor


def train_detail(recipe: Recipe, out: Path, network: nn.Module | None = None) -> dict[str, float]:
    """Train both branches into `out`; checkpoints that are there are continued. Writes detail.<variant>.safetensors
    (and the
    discriminator's) with provenance. network: the content network, the recipe's unless given. Returns held-out
    figures.
    """
    here = machine.present()
    network = (network or network_of(recipe.vgg)).to(here.device)
    levels = _levels(recipe)
    source = clips_of(recipe, "train", recipe.clips)
    data, name = bank(source, levels, recipe.seed), called(source)
    first = train_content(recipe, data, network, out, name)
    module: detail.Detail = first.average.module  # type: ignore[assignment]
    opponent = fresh(preset_of(recipe.preset), "discriminator", taps=_widths(network)[: recipe.taps])
    second = train_texture(recipe, data, network, module, opponent, out, name)
    trained: detail.Detail = second.average.module.cpu()  # type: ignore[assignment]
    held = clips_of(recipe, "val", recipe.held)
    figures = judge(trained, bank(held, levels, recipe.seed + 1), network.cpu())
    known = {
        "seed": recipe.seed,
        "spent": first.spent + second.spent,
        "metrics": figures,
        "judged": of_what(held),
        "recipe": asdict(recipe),
        "origins": origins(recipe),
    }
    if recipe.weight:                   # first: whoever finds the detail stage finds its opponent
        entry = recipe.entry("discriminator") | {"config": opponent.to_config()}
        ship(opponent, "discriminator", "gan", out, steps=recipe.gan_steps, entry=entry, **known)
    ship(
        trained,
        "detail",
        recipe.variant,
        out,
        steps=recipe.content_steps + recipe.gan_steps,
        entry=recipe.entry("detail"),
        **known,
    )
    return figures


def _levels(recipe: Recipe) -> nn.ModuleList:
    levels = fresh(preset_of(recipe.preset), "upsample")
    if recipe.upsample:
        levels.load_state_dict(read(Path(recipe.upsample)))
    return levels.eval().requires_grad_(False).to(machine.present().device)


def _widths(network: nn.Module) -> tuple[int, ...]:
    """Channels of the content network's taps."""
    with torch.no_grad():
        device = machine.present().device
        return tuple(tap.shape[1] for tap in losses.taps(network, torch.zeros(1, 1, 3, 64, 64, device=device)))


@torch.no_grad()
def bank(source: Source, levels: Iterable[nn.Module], seed: int, batch: int = 4) -> Bank:
    """Every clip of `source`, degraded with `seed` and enlarged by the frozen levels, as bytes."""
    *below, last = levels
    parts = []
    for start in range(0, len(source), batch):
        watch.present().busy("making the detail stage's clips", start, len(source))
        generator = torch.Generator().manual_seed(seed * 2**32 + start)
        clips = source.batch(list(range(start, min(start + batch, len(source)))))
        truth = window(clips, 0, clips.video.shape[1], clips.video.shape[-1] >> len(below) + 1)
        example = degrade(truth, truth.video.shape[-1], generator, below)
        made = enlarged(last, example)
        parts.append(
            Bank(_bytes(made), _bytes(example.reference), _bytes(2 * example.valid - 1), _bytes(example.target))
        )
    return Bank(*(torch.cat(field) for field in zip(*parts, strict=True)))


def _bytes(x: Tensor) -> Tensor:
    return ((x + 1) * 127.5).round().clamp(0, 255).byte()


def draw(data: Bank, recipe: Recipe, phase: int, step: int) -> tuple[Bank, list[int]]:
    """The batch of this step, in [-1, 1] (valid in [0, 1]), and its rows: they depend on (seed, phase, step) alone."""
    generator = torch.Generator().manual_seed((recipe.seed * 8 + phase) * 2**32 + step)
    rows = torch.randint(len(data.video), (recipe.batch,), generator=generator)
    side, (f, _, h, w) = recipe.crop, data.video.shape[1:]
    start, top, left = (
        int(torch.randint(0, n + 1, (), generator=generator)) for n in (f - FRAMES, (h - side) // 2, (w - side) // 2)
    )
    cut = (slice(start, start + FRAMES), slice(None), slice(2 * top, 2 * top + side), slice(2 * left, 2 * left + side))
    return unpack(Bank(*(x[(rows, *cut)] for x in data))), rows.tolist()


def unpack(data: Bank) -> Bank:
    """Bytes to [-1, 1], `valid` to [0, 1]."""
    ranged = Bank(*(x.float() / 127.5 - 1 for x in data))
    return ranged._replace(valid=(ranged.valid + 1) / 2)


def train_content(recipe: Recipe, data: Bank, network: nn.Module, out: Path, name: Callable[[int], str] = str) -> Descent:
    """The content branch, from L_content and the pixel loss; the texture head stays zero. name: of a row, for people."""
    torch.manual_seed(recipe.seed)
    module = fresh(preset_of(recipe.preset), "detail")
    module.texture.requires_grad_(False)
    descent = Descent(
        module, steps=recipe.content_steps, rate=recipe.rate, path=out / "content.pt", recipe=_shared(recipe), name=name
    )
    here = machine.present()
    for step in descent:
        batch, rows = draw(data, recipe, 0, step)
        batch = here.share(batch)
        with here.autocast():
            fake = batch.video + module.sharpen(batch.video, batch.reference, batch.valid)
            content, pixel, _ = faithfulness(network, fake, batch.target)
        descent.down(content + recipe.pixel * pixel, rows, content=content.item(), pixel=pixel.item())
    return descent


def _shared(recipe: Recipe) -> dict[str, Any]:
    """The settings that the content branch depends on: both variants start from the same one."""
    names = ("seed", "clips", "content_steps", "batch", "crop", "rate", "pixel", "upsample", "preset", "videos", "vgg", "from")
    settings = stated(recipe)
    return {name: settings[name] for name in names} | {"size": recipe.size, "frames": recipe.frames}


def faithfulness(network: nn.Module, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """L_content, the pixel loss, and the content network's activations of `fake`."""
    with torch.no_grad():
        wanted = losses.taps(network, real)
    given = losses.taps(network, fake)
    return losses.content(given, wanted), losses.pixel(fake, real), given


def train_texture(
    recipe: Recipe,
    data: Bank,
    network: nn.Module,
    module: detail.Detail,
    opponent: discriminator.Discriminator,
    out: Path,
    name: Callable[[int], str] = str,
) -> Descent:
    """The texture head on top of the frozen content branch of `module`, against `opponent` where lambda > 0."""
    here = machine.present()
    module.requires_grad_(False)
    module.texture.requires_grad_(True)
    opponent.to(here.device)
    optim = torch.optim.Adam(opponent.parameters(), lr=recipe.judge_rate, betas=(0.5, 0.99))
    descent = Descent(
        module,
        steps=recipe.gan_steps,
        rate=recipe.rate,
        path=out / f"texture.{recipe.variant}.pt",
        recipe=stated(recipe),
        beside={"opponent": opponent, "optim": optim},
        save_every=50,
        name=name,
    )
    generator_loss, _ = losses.gan(recipe.gan)
    figures: dict[str, float] = {}
    for step in descent:
        batch, rows = draw(data, recipe, 1, step)
        batch = here.share(batch)
        with here.autocast():
            fake = module(batch.video, batch.reference, batch.valid)
            content, pixel, given = faithfulness(network, fake, batch.target)
        loss = content + recipe.pixel * pixel
        figures |= {"content": content.item(), "pixel": pixel.item()}
        if recipe.weight:
            figures |= _challenge(recipe, network, opponent, optim, fake.detach(), batch.target, descent, rows)
            opponent.requires_grad_(False)
            with here.autocast():
                with torch.no_grad():
                    real_logits = opponent(batch.target, losses.taps(network, batch.target))
                against = generator_loss(opponent(fake, given), real_logits)
            opponent.requires_grad_(True)
            loss, figures["gan"] = loss + recipe.weight * against, against.item()
        descent.down(loss, rows, **figures)
    return descent


def _challenge(
    recipe: Recipe,
    network: nn.Module,
    opponent: discriminator.Discriminator,
    optim: torch.optim.Optimizer,
    fake: Tensor,
    real: Tensor,
    descent: Descent,
    rows: Sequence[int],
) -> dict[str, float]:
    """One step of the discriminator. Its figures: loss, mean logits, how often it is right on made and on real patches, norm of
    its gradient, and the penalty of the steps that ask for it.
    """
    here, penalised = machine.present(), recipe.r1 > 0 and descent.step % recipe.r1_every == 0
    with here.autocast():
        with torch.no_grad():
            taps_real, taps_fake = losses.taps(network, real), losses.taps(network, fake)
        inputs = [x.detach().requires_grad_(penalised) for x in (real, *taps_real)]
        on_real, on_fake = opponent(inputs[0], inputs[1:]), opponent(fake, taps_fake)
        loss = losses.gan(recipe.gan)[1](on_fake, on_real)
    figures = {"judge": loss.item(), "logit_real": on_real.mean().item(), "logit_fake": on_fake.mean().item()}
    figures["right_fake"], figures["right_real"] = losses.right(recipe.gan, on_fake, on_real)
    if penalised:
        penalty = losses.r1(on_real, [inputs[0], *inputs[1 : 1 + recipe.taps]])
        loss, figures["r1"] = loss + recipe.r1_every * recipe.r1 / 2 * penalty, penalty.item()
    descent.demand_finite(loss, rows, "discriminator's loss")
    optim.zero_grad(set_to_none=True)
    loss.backward()
    here.agree(opponent.parameters())
    norm = nn.utils.clip_grad_norm_(opponent.parameters(), 1.0)
    descent.demand_finite(norm, rows, "discriminator's gradient")
    figures["judge_grad"] = norm.item()
    optim.step()
    return figures


@torch.no_grad()
def judge(module: detail.Detail, held: Bank, network: nn.Module, batch: int = 8) -> dict[str, float]:
    """Held-out means for the input, the content branch alone and the whole stage; `colour`: drift of the mean
    colour, in [0, 1] units.
    """
    sums: dict[str, float] = {}
    for start in range(0, len(held.video), batch):
        x = unpack(Bank(*(field[start : start + batch] for field in held)))
        sharp = x.video + module.sharpen(x.video, x.reference, x.valid)
        for name, made in (("input", x.video), ("content", sharp), ("whole", module(x.video, x.reference, x.valid))):
            far = torch.stack([faithfulness(network, one[None], other[None])[0] for one, other in zip(made, x.target)])
            colour = rearrange(made - x.target, "b f c h w -> b c (f h w)").mean(-1).abs().mean(-1) / 2
            for key, value in (
                ("psnr", psnr(made, x.target)),
                ("sharpness", sharpness(made, x.target)),
                ("distance", far),
                ("colour", colour),
            ):
                sums[f"{key}.{name}"] = sums.get(f"{key}.{name}", 0.0) + float(value.sum())
    return {name: round(total / len(held.video), 4) for name, total in sums.items()}
