"""A linear pipeline, of which every effect is known: words -> left -> middle -> right, left -> right, all of them -> picture."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Hookable, clock, stretch
from wanlab.pipelines.base import Outputs, Pipeline, Progress
from wanlab.pipelines.node import Node
from wanlab.pipelines.request import Request

WORDS = ("a", "red", "circle", "left", "right")
HEADS, FRAMES, WIDTH = 2, 3, 4
PARTS = ("left", "middle", "right")


class Text(Hookable):
    SITES = {"out": "b j c"}

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), WIDTH)

    def forward(self, prompts: list[str]) -> Tensor:
        ids = [[WORDS.index(word) for word in (one or "a a a a").split()] for one in prompts]
        return self.site("out", self.words(torch.tensor(ids)))


class Net(Hookable):
    """Heads d = WIDTH / HEADS wide. `spare` is a site that nothing follows from."""

    SITES = {**dict.fromkeys(PARTS, "b k f d"), "spare": "b k f d", "out": "b f c"}

    def __init__(self) -> None:
        super().__init__()
        names = ("said", "seen", "left_middle", "left_right", "middle_right", *(f"{part}_out" for part in PARTS))
        self.maps = nn.ParameterDict({name: nn.Parameter(torch.randn(WIDTH, WIDTH) / 2) for name in names})

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        m = self.maps
        said = text.mean(1)[:, None] * torch.arange(1, FRAMES + 1)[:, None]
        left = self._site("left", x @ m["seen"] + said @ m["said"])
        middle = self._site("middle", left @ m["left_middle"])
        right = self._site("right", left @ m["left_right"] + middle @ m["middle_right"])
        self._site("spare", right)
        return self.site("out", left @ m["left_out"] + middle @ m["middle_out"] + right @ m["right_out"])

    def _site(self, name: str, x: Tensor) -> Tensor:
        x = self.site(name, rearrange(x, "b f (k d) -> b k f d", k=HEADS))
        return rearrange(x, "b k f d -> b f (k d)")


class Linear(Pipeline):
    """Video: the first three channels of what has been summed up over steps; b f 3 1 1."""

    text_sites = "text.out"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = {"name": "linear", "size": 1, "sampler": {"steps": 2, "guidance": 1.0}}
        self.text, self.net = Text(), Net()
        self.eval().requires_grad_(False)

    @property
    def nodes(self) -> list[Node]:
        return [Node("text", (), ("text",), ("prompts",)), Node("denoise", ("text",), ("net",), ("seeds", "steps", "guidance"))]

    def _run(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        if name == "text":
            with clock.at(branch="cond"):
                return {"tokens": self.text(request.prompts)}
        x = torch.stack([torch.randn(FRAMES, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in request.seeds])
        for step in range(request.steps):
            with clock.at(step=step, sigma=1 - step / request.steps, branch="cond"), stretch.step():
                x = x + 0.3 * self.net(x, inputs["text"]["tokens"])
        return {"video": x[..., :3, None, None]}

    def words_of(self, request: Request, row: int) -> list[str]:
        return request.prompts[row].split()

    def tokens_of(self, request: Request, word: str, row: int) -> list[int]:
        return [i for i, one in enumerate(self.words_of(request, row)) if one == word]

    def swap(self, stage: str, variant: str, init: str | None = None) -> Pipeline:
        raise LookupError(f"linear has no variant {variant!r} of {stage!r}")
