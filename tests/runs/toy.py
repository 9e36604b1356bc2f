"""A small real pipeline for the tests of the runner: six nodes, sites in all, two variants; a video takes a millisecond."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core import Bypass, Hookable, Zero, clock
from wanlab.diffusion.sampler import draw_noise
from wanlab.measure import SetMeasure, resolve
from wanlab.pipelines.base import Outputs, Pipeline, Progress
from wanlab.pipelines.node import Node, with_hashes
from wanlab.pipelines.request import Request
from wanlab.runs.cell import Workbench, open_workbench
from wanlab.runs.reading import parse_study

STUDY = """
name: toy
pipeline: toy
data: {kind: procedural, split: test, n: 5, seed: 0}
seeds: [0, 1]
batch: 2
cells:
  baseline:
  text: {ablate: text}
  detail: {ablate: [detail]}
  both: {ablate: [residual, detail]}
  sharp: {swap: {detail: sharp}, pairs_with: detail}
metrics: [psnr, flicker, colour_distance]
report: {videos: 2}
"""


class Text(Hookable):
    SITES = {"out": "b c"}

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 3)

    def forward(self, prompts: list[str]) -> Tensor:
        ids = [[sum(map(ord, word)) % 64 for word in prompt.split()] or [0] for prompt in prompts]
        mean = torch.stack([self.words(torch.tensor(row)).mean(0) for row in ids])
        return self.site("out", mean, identity=torch.zeros_like(mean))


class Generator(Hookable):
    SITES = {"out": "b f c h w"}

    def forward(self, x: Tensor, frame: Tensor, text: Tensor) -> Tensor:
        target = frame[:, None] + 0.2 * torch.tanh(text)[:, None, :, None, None]
        return self.site("out", x + 0.5 * (target - x), identity=x)


class Level(Hookable):
    """One x2 level: repetition of pixels, and a skip that adds the first frame's detail."""

    SITES = {"skip": "b f c h w"}

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.5]))

    def forward(self, video: Tensor, first: Tensor) -> Tensor:
        large = video.repeat_interleave(2, -1).repeat_interleave(2, -2)
        target = nn.functional.interpolate(first, large.shape[-2:], mode="area")[:, None]
        return large + self.site("skip", self.gain * (target - large))


class Detail(Hookable):
    SITES = {"out": "b f c h w"}

    def __init__(self, strength: float = 0.3) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor([strength]))

    def forward(self, x: Tensor) -> Tensor:
        blurred = nn.functional.avg_pool3d(x, (1, 3, 3), stride=1, padding=(0, 1, 1))
        return self.site("out", x + self.strength * (x - blurred), identity=x)


class Toy(Pipeline):
    """`frames` of `size` pixels; `runs` lists the nodes in the order in which they were run."""

    def __init__(self, detail: str = "plain", size: int = 16, frames: int = 8) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.config = {
            "name": "toy",
            "size": size,
            "frames": frames,
            "sampler": {"steps": 3, "guidance": 1.0},
            "variants": {"detail": detail},
        }
        self.text, self.generator = Text(), Generator()
        self.upsample = nn.ModuleList([Level(), Level()])
        self.detail = Detail({"plain": 0.3, "sharp": 0.9}[detail])
        self.components = {
            "text": lambda: [Bypass("text.out")],
            "residual": lambda: [Zero("upsample.*.skip")],
            "detail": lambda: [Bypass("detail.out")],
            "generator": lambda: [Bypass("generator.out")],
        }
        self.runs: list[str] = []
        self.eval()

    @property
    def nodes(self) -> list[Node]:
        if "_nodes" not in self.__dict__:
            self.__dict__["_nodes"] = with_hashes(
                self,
                [
                    Node("text", (), ("text",), ("prompts",)),
                    Node("denoise", ("text",), ("generator",), ("images", "seeds", "steps", "guidance")),
                    Node("upsample.0", ("denoise",), ("upsample.0",), ("images",)),
                    Node("upsample.1", ("upsample.0",), ("upsample.1",), ("images",)),
                    Node("detail", ("upsample.1",), ("detail",)),
                ],
            )
        return self.__dict__["_nodes"]

    def run_node(self, name: str, *given: Any, **options: Any) -> Outputs:
        self.runs.append(name)
        return super().run_node(name, *given, **options)

    def _run(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        if name == "text":
            return {"out": self.text(request.prompts)}
        if name == "detail":
            return {"video": self.detail(inputs["upsample.1"]["video"]).clamp(0, 1)}
        images = torch.zeros(len(request), 3, 1, 1) if request.images is None else request.images
        if name.startswith("upsample"):
            level = int(name[-1])
            return {"video": self.upsample[level](inputs["upsample.0" if level else "denoise"]["video"], images)}
        small = self.config["size"] // 4
        frame = nn.functional.interpolate(images, (small, small), mode="area")
        x = draw_noise(request.seeds, {"video": (self.config["frames"], 3, small, small)})["video"]
        for step in range(request.steps):
            with clock.at(step=step, sigma=1 - step / request.steps, branch="cond"):
                x = self.generator(x, frame, inputs["text"]["out"])
            if progress is not None:
                progress(step + 1, request.steps)
        return {"video": x}

    def swap(self, stage: str, variant: str, init: str | None = None) -> Toy:
        if stage != "detail" or variant not in ("plain", "sharp"):
            raise LookupError(f"no variant {variant!r} of {stage!r}; there are plain, sharp of detail")
        other = type(self)(variant, self.config["size"], self.config["frames"])
        other.text, other.generator, other.upsample, other.runs = self.text, self.generator, self.upsample, self.runs
        return other

    def tokens_of(self, request: Request, word: str, row: int) -> list[int]:
        raise LookupError(f"no tokens here for {word!r}")

    def cut_of(self, prompt: str) -> str:
        return "the toy takes in 23 words" if len(prompt.split()) > 23 else ""

    def unknown_words(self, prompt: str) -> list[str]:
        return [word for word in prompt.split() if word == "xyzzy"]


def load_toy(pipe: Toy | None = None) -> Callable[..., Toy]:
    """A loader for `open_workbench` that always gives the same pipeline."""
    pipe = pipe or Toy()

    def load(name: str, init: str | None = None) -> Toy:
        if name != "toy":
            raise LookupError(f"no preset {name!r}; nearest: toy")
        return pipe

    return load


def resolve_toy(names: Sequence[str], device: str = "cpu") -> list[Any]:
    """The real measures, and a set distance over mean colours that needs no network."""
    return [_colour_distance() if name == "colour_distance" else resolve([name], device)[0] for name in names]


def _colour_distance() -> SetMeasure:
    def extract(video: Tensor) -> Tensor:
        return torch.cat([video.mean((1, 3, 4)), video.std((1, 3, 4))], 1)

    return SetMeasure("colour_distance", "colour_distance[toy]", False, frozenset({"reference"}), extract)


def bench(*sets: str, text: str = STUDY, pipe: Toy | None = None) -> Workbench:
    """The workbench of the toy study, or of another text, after settings `a.b=c`."""
    study, document = parse_study(text, sets)
    return open_workbench(study, document, "cpu", load_toy(pipe), resolve_toy)
