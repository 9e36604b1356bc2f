"""Small real models for the tests of the core: a two-level denoiser with attention, a head outside the loop, a loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wanlab.core import Hookable, clock
from wanlab.core.gradient import rejoin

BRANCHES = ("cond", "uncond")
B, F, N, C, HEADS = 3, 4, 5, 8, 2


class Attention(Hookable):
    """Attention over tokens within a frame, or over frames."""

    def __init__(self, frames: bool) -> None:
        super().__init__()
        self.frames, self.qkv = frames, nn.Linear(C, 3 * C)
        lead, query = ("b n k", "f") if frames else ("b f k", "n")
        self.SITES = {"z": f"{lead} {query} d", "pattern": f"{lead} {query} j"}

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2) if self.frames else x
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(-2, -3) for part in self.qkv(x).chunk(3, -1))
        # Folded to four axes: with five, Inductor of torch 2.14 on CPU gives wrong numbers, without any site in sight.
        folded = (part.reshape(-1, *part.shape[-3:]) for part in (q, k, v))
        z = nn.functional.scaled_dot_product_attention(*folded).reshape(q.shape)
        if self.listening("pattern"):
            pattern = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
            edited = self.site("pattern", pattern)
            if edited is not pattern:       # queries whose weights are as they were keep the fused kernel's bytes
                z = rejoin(z, edited @ v, (edited != pattern).any(-1, keepdim=True))
        z = self.site("z", z).transpose(-2, -3).flatten(-2)
        return z.transpose(1, 2) if self.frames else z


class Block(Hookable):
    """Spatial and temporal attention, each added to the stream."""

    SITES = {"resid": "b f n c", "out": "b f n c"}

    def __init__(self) -> None:
        super().__init__()
        self.spatial, self.temporal = Attention(False), Attention(True)

    def forward(self, x: Tensor) -> Tensor:
        skip = x = self.site("resid", x)
        x = x + self.spatial(x)
        x = x + self.temporal(x)
        return self.site("out", x, identity=skip)


class Denoiser(Hookable):
    """A text stage that runs once a branch, then a loop of steps and branches over blocks, then a picture."""

    SITES = {"text": "b j", "latent": "b f n c", "picture": "b f c h w"}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.ends = nn.ModuleDict({"head": nn.Linear(C, 4)})
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Tensor, steps: int = 3) -> Tensor:
        with clock.announce(steps=steps, branches=BRANCHES, seeds=range(10, 10 + len(x)), tokens_of=tokens_of,
                            words=[["left"]] * len(x), text_sites="text"):
            text = {}
            for branch in BRANCHES:
                with clock.at(branch=branch):
                    text[branch] = self.site("text", x.new_ones(len(x), N))
            for step in range(steps):
                with clock.at(step=step, sigma=1 - step / steps):
                    x = self.site("latent", x + 0.1 * self.guided(x, text))
            picture = self.ends["head"](x).transpose(-1, -2).unflatten(-1, (1, N))
            return self.site("picture", picture * self.scale)

    def guided(self, x: Tensor, text: dict[str, Tensor]) -> Tensor:
        out = {}
        for branch in BRANCHES:
            with clock.at(branch=branch):
                y = x * text[branch][:, None, :, None] + (branch == "cond")
                for block in self.blocks:
                    y = block(y)
                out[branch] = y
        return 2 * out["cond"] - out["uncond"]


def tokens_of(word: str, row: int) -> list[int]:
    """The word "left" stands at token 1, in row 0 at tokens 1 and 2."""
    if word != "left":
        raise LookupError(f"no word {word!r} in the prompt; it has: left")
    return [1, 2] if row == 0 else [1]


def start(rows: int = B) -> Tensor:
    """The same noise for row r whatever the number of rows."""
    return torch.stack([torch.randn(F, N, C, generator=torch.Generator().manual_seed(row)) for row in range(rows)])
