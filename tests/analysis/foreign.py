"""A pipeline of another kind: all tokens of all frames in one row, cross-attention to padded text, image tokens behind the text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wanlab.core import Grid, Hookable, clock
from wanlab.core.pattern import matches
from wanlab.nn.attention import Attention
from wanlab.pipelines.base import Outputs, Pipeline, Progress
from wanlab.pipelines.node import Node
from wanlab.pipelines.request import Request

FRAMES, HEIGHT, WIDTH, TEXT, PICTURE = 3, 2, 4, 8, 6
VOCABULARY = ("a", "red", "circle", "moves", "left", "blue")


class Dit(Hookable):
    """Two layers over a row of tokens."""

    SITES = {"out": "b n c"}

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.cross = (nn.ModuleList(Attention(16, 2) for _ in range(2)) for _ in range(2))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        for attn, cross in zip(self.attn, self.cross, strict=True):
            x = x + attn(x)
            x = x + cross(x, context)
        return self.site("out", x)


class Foreign(Pipeline):
    """Guided in two forwards of one batch each, as Wan is."""

    text_sites = "dit.cross.*.{k,v,pattern}"

    def __init__(self) -> None:
        super().__init__()
        self.config = {"name": "foreign", "size": 4, "sampler": {"steps": 2, "guidance": 3.0}}
        self.dit, self.words = Dit(), nn.Embedding(len(VOCABULARY), 16)
        self.eval().requires_grad_(False)

    @property
    def nodes(self) -> list[Node]:
        return [Node("denoise", (), ("dit",), ("prompts", "seeds", "steps", "guidance", "images"))]

    def _run(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        draws = [torch.Generator().manual_seed(seed) for seed in request.seeds]
        x = torch.stack([torch.randn(FRAMES * HEIGHT * WIDTH, 16, generator=draw) for draw in draws])
        for step in range(request.steps):
            for branch in self.branches(request):
                with clock.at(step=step, sigma=1 - step / request.steps, branch=branch):
                    said = request.prompts if branch == "cond" else request.negative or [""] * len(request)
                    out = self.dit(x, self.context(said))
            x = out
        return {"video": x[..., :3].reshape(len(x), FRAMES, HEIGHT, WIDTH, 3).permute(0, 1, 4, 2, 3)}

    def context(self, prompts: list[str]) -> Tensor:
        """Words, zeros up to TEXT, then tokens of the picture."""
        text = torch.zeros(len(prompts), TEXT, 16)
        for row, prompt in enumerate(prompts):
            for i, word in enumerate(prompt.split()):
                text[row, i] = self.words.weight[VOCABULARY.index(word)]
        picture = torch.randn(1, PICTURE, 16, generator=torch.Generator().manual_seed(1)).expand(len(prompts), -1, -1)
        return torch.cat([text, picture], 1)

    def grid_of(self, site: str) -> Grid | None:
        if matches("dit.cross.*.{k,v,received}", site):
            return Grid(1, 2, 3, start=TEXT, of="image")
        return Grid(FRAMES, HEIGHT, WIDTH)

    def words_of(self, request: Request, row: int) -> list[str]:
        return request.prompts[row].split()

    def tokens_of(self, request: Request, word: str, row: int) -> list[int]:
        words = self.words_of(request, row)
        if word not in words:
            raise LookupError(f"the prompt has no word {word!r}; it has: {' '.join(words)}")
        return [i for i, one in enumerate(words) if one == word]

    def swap(self, stage: str, variant: str, init: str | None = None) -> Pipeline:
        raise LookupError(f"foreign has no variant {variant!r} of {stage!r}")
