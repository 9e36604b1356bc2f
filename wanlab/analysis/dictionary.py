"""Training of sparse dictionaries on the activations of a site: a top-k sparse autoencoder, beside controls of equal k.

    blocks = features.stream(pipe, requests, "generator.up.1.resid_post", rows=64)
    held = dictionary.train(blocks, features=192, k=8, about=dictionary.about(pipe, "generator.up.1.resid_post"))
    dictionary.compare(held, other_blocks)          # explained, active, dead: of the dictionary, of a PCA, of random directions
    held.save("up1.safetensors"); Feature("generator.up.1.resid_post", dictionary="up1.safetensors", features=[17])

After Gao et al. 2024 (arXiv 2406.04093): TopK activation, encoder that starts as the decoder's transpose, decoder of unit rows,
a bias that is subtracted first (here the mean), and an auxiliary loss by which features that have not fired model what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.core import Dictionary
from wanlab.core.seeding import generator

if TYPE_CHECKING:
    from pandas import DataFrame


class Block(Protocol):
    """Rows of a site: what `features.stream` yields."""

    values: Tensor


@dataclass(frozen=True)
class Settings:
    """How a dictionary is trained.

    features, k   how many there are, and how many of them are active in a row
    steps, batch, rate   of Adam; rate falls to 0 in the last fifth
    dead, aux_k, aux   a feature that was silent for `dead` rows is dead; of the dead the aux_k that would be largest model what is
                  left, with weight aux (None: half of the width; the article: 1/32)
    buffer        rows that are kept of the stream, each as likely as any other
    seed          of everything that is drawn
    """

    features: int
    k: int
    steps: int = 2000
    batch: int = 512
    rate: float = 1e-3
    dead: int = 50_000
    aux_k: int | None = None
    aux: float = 1 / 32
    buffer: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.features:
            raise ValueError(f"{self.k} of {self.features} features cannot be active")
        for name in ("steps", "batch", "dead", "buffer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")


def about(pipe: Any, at: str) -> dict[str, Any]:
    """What a dictionary says of where it comes from: pipeline, hash of its weights, the selection of sites."""
    return {"site": at, "pipeline": pipe.config["name"], "weights": pipe.weights_hash}


def rows_of(blocks: Iterable[Block | Tensor]) -> Iterator[Tensor]:
    """The values (n c, float32) of each block; ValueError where they are not finite."""
    for block in blocks:
        values = (block if isinstance(block, Tensor) else block.values).float()
        if not torch.isfinite(values).all():
            raise ValueError("the activations hold NaN or infinity: watch_finite=True finds where they come from")
        yield values


def reservoir(blocks: Iterable[Block | Tensor], size: int, seed: int = 0) -> Tensor:
    """`size` rows of a stream, each as likely as any other (all, where there are fewer): n c, in memory that does not grow.

    Each row draws a number by its place in the stream; those with the smallest numbers stay. ValueError for an empty stream.
    """
    draw = generator("reservoir", seed)
    kept, keys = None, torch.zeros(0)
    for rows in rows_of(blocks):
        drawn = torch.rand(len(rows), generator=draw)
        kept, keys = (rows, drawn) if kept is None else (torch.cat([kept, rows]), torch.cat([keys, drawn]))
        if len(kept) > size:
            few = keys.topk(size, largest=False, sorted=False).indices.sort().values
            kept, keys = kept[few], keys[few]
    if kept is None:
        raise ValueError("there are no activations to train on")
    return kept


def train(blocks: Iterable[Block | Tensor], features: int, k: int, about: Mapping[str, Any] | None = None, **settings: Any
          ) -> Dictionary:
    """A dictionary of `features` directions of which `k` are active, from a stream of activations; `settings` as in `Settings`.

    blocks: read once; of them `buffer` rows are kept. Equal blocks, settings and number of threads give equal bytes.
    Costs steps x batch x width x features x 6 multiplications or so, beside making the activations.
    ValueError where all activations are equal.
    """
    how = Settings(features, k, **settings)
    rows = reservoir(blocks, how.buffer, how.seed)
    centre = rows.mean(0)
    scale = (rows - centre).square().sum(1).mean().sqrt() / rows.shape[1] ** 0.5
    if not scale > 0:
        raise ValueError("all activations are equal: there is nothing to explain")
    x = (rows - centre) / scale
    draw = generator("dictionary", how.seed)
    decoder = F.normalize(torch.randn(features, rows.shape[1], generator=draw), dim=1)
    made = _descend(x, decoder, how, draw)
    told = {**(about or {}), "settings": {name: getattr(how, name) for name in how.__dataclass_fields__}, "rows": len(rows)}
    return Dictionary(made["encoder"], made["bias"], made["decoder"], centre + scale * made["shift"], scale, k, told)


def _descend(x: Tensor, decoder: Tensor, how: Settings, draw: torch.Generator) -> dict[str, Tensor]:
    """Adam on the error over the variance, and on the auxiliary loss; x has mean 0 and, on average, unit variance."""
    with torch.enable_grad():
        start = {"encoder": decoder, "decoder": decoder, "bias": torch.zeros(how.features), "shift": torch.zeros(x.shape[1])}
        made = {name: value.clone().requires_grad_() for name, value in start.items()}
        adam = torch.optim.Adam(made.values(), lr=how.rate)
        silent, aux_k = torch.zeros(how.features), how.aux_k or max(1, x.shape[1] // 2)
        for step in range(how.steps):
            for group in adam.param_groups:
                group["lr"] = how.rate * min(1.0, 5 * (1 - step / how.steps))
            batch = x[torch.randint(len(x), (how.batch,), generator=draw)]
            before = (batch - made["shift"]) @ made["encoder"].T + made["bias"]
            top = before.topk(how.k, -1)
            a = torch.zeros_like(before).scatter(-1, top.indices, top.values.relu())
            left = batch - made["shift"] - a @ made["decoder"]
            loss = left.square().mean()
            dead = silent >= how.dead
            if dead.any():
                loss = loss + how.aux * _auxiliary(before, dead, min(aux_k, int(dead.sum())), left.detach(), made["decoder"])
            adam.zero_grad()
            loss.backward()
            _along_the_sphere(made["decoder"])
            adam.step()
            with torch.no_grad():
                made["decoder"].copy_(F.normalize(made["decoder"], dim=1))
                silent = torch.where((a > 0).any(0), 0.0, silent + how.batch)
    return {name: value.detach() for name, value in made.items()}


def _auxiliary(before: Tensor, dead: Tensor, k: int, left: Tensor, decoder: Tensor) -> Tensor:
    """The error of dead features that model what the others left, over its size."""
    top = before.masked_fill(~dead, -torch.inf).topk(k, -1)
    a = torch.zeros_like(before).scatter(-1, top.indices, top.values.relu())
    return (left - a @ decoder).square().mean() / left.square().mean().clamp(min=1e-12)


def _along_the_sphere(decoder: Tensor) -> None:
    """Of the gradient what does not change the length of a row."""
    grad = decoder.grad
    assert grad is not None
    grad -= (grad * decoder.detach()).sum(1, keepdim=True) * decoder.detach()


@dataclass(frozen=True)
class Score:
    """explained: 1 - error / variance over all rows and numbers; active: mean number of features that are not 0 (L0); dead: share
    of the features that were 0 in every row; rows."""

    explained: float
    active: float
    dead: float
    rows: int


def score(held: Dictionary, blocks: Iterable[Block | Tensor]) -> Score:
    """How well a dictionary does on activations n c, in one pass and constant memory. The mean is that of these rows."""
    return _scored(blocks, held.features, lambda x: _both(held, x))


def _both(held: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    a = torch.cat(list(held.encoded(x)))
    return held.decode(a), a != 0


def _scored(blocks: Iterable[Block | Tensor], features: int, rebuilt: Any) -> Score:
    rows, error, active = 0, 0.0, 0
    total, squares, fired = torch.zeros(()), 0.0, torch.zeros(features, dtype=torch.bool)
    for x in rows_of(blocks):
        y, on = rebuilt(x)
        rows, active, fired = rows + len(x), active + int(on.sum()), fired | on.any(0)
        error, squares = error + float((x.double() - y.double()).square().sum()), squares + float(x.double().square().sum())
        total = total + x.double().sum(0)
    if rows < 2:
        raise ValueError("a score needs at least two activations")
    variance = squares - float((total / rows).square().sum()) * rows
    return Score(1 - error / variance, active / rows, 1 - float(fired.double().mean()), rows)


def random(held: Dictionary, seed: int = 0) -> Dictionary:
    """The control: directions drawn at random, as many and with the same k, centre and scale; the encoder their transpose."""
    drawn = F.normalize(torch.randn(held.decoder.shape, generator=generator("random dictionary", seed)), dim=1)
    return replace(held, encoder=drawn, decoder=drawn, bias=torch.zeros(held.features), about={**held.about, "random": seed})


@dataclass(frozen=True)
class Basis:
    """Principal components: directions k c, centre c."""

    directions: Tensor
    centre: Tensor


def pca(rows: Tensor, k: int) -> Basis:
    """The k directions of largest variance of rows n c: of all ways to write a row as k numbers times fixed directions the best."""
    centre = rows.double().mean(0)
    part = rows.double() - centre
    return Basis(torch.linalg.eigh(part.T @ part).eigenvectors[:, -k:].T.float(), centre.float())


def compare(held: Dictionary, blocks: Iterable[Block | Tensor], fit: Tensor | None = None, seed: int = 0) -> DataFrame:
    """Scores on the same activations n c of the dictionary, a PCA of k components, and a random dictionary: one line each.

    blocks: read once and held in memory. fit: rows that the PCA is fitted on; by default these, which favours it.
    """
    import pandas

    rows = list(rows_of(blocks))
    basis = pca(torch.cat(rows) if fit is None else fit, min(held.k, held.width))

    def components(x: Tensor) -> tuple[Tensor, Tensor]:
        found = (x - basis.centre) @ basis.directions.T
        return found @ basis.directions + basis.centre, found != 0

    found = {"dictionary": score(held, rows), f"pca of {len(basis.directions)}": _scored(rows, len(basis.directions), components),
             "random": score(random(held, seed), rows)}
    return pandas.DataFrame([{"what": name, **vars(one)} for name, one in found.items()]).set_index("what")


def recovered(held: Dictionary, atoms: Tensor) -> Tensor:
    """For each of some known directions (n c) the largest cosine with a feature's direction."""
    return (F.normalize(atoms, dim=1) @ held.decoder.T).amax(1)
