"""The toy pipeline with the house's sampler under a multistep scheduler: a loop that can pause, and remembers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.runs.toy import Toy
from wanlab.diffusion.sampler import Sampler, State, draw_noise
from wanlab.pipelines.base import Outputs, Progress
from wanlab.pipelines.node import Node, with_hashes
from wanlab.pipelines.request import Request


def unipc(steps: int) -> Any:
    """As Wan2.1 uses it."""
    from diffusers import UniPCMultistepScheduler

    made = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    made.set_timesteps(steps)
    return made


class Flow(Toy):
    """Six steps; `most` rows have memory for the stage `denoise`."""

    def __init__(self, detail: str = "plain", size: int = 16, frames: int = 8) -> None:
        super().__init__(detail, size, frames)
        self.config["sampler"] = {"steps": 6, "guidance": 1.0}
        self.sampler = Sampler({"video": "b f c h w"}, unipc)
        self.most = 10**9

    @property
    def nodes(self) -> list[Node]:
        if "_nodes" not in self.__dict__:
            loop = Node("denoise", ("text",), ("generator", "sampler"), ("images", "seeds", "steps", "guidance"))
            self.__dict__["_nodes"] = with_hashes(self, [loop if node.name == "denoise" else node for node in super().nodes])
        return self.__dict__["_nodes"]

    def _run(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        if name != "denoise":
            return super()._run(name, inputs, request, progress)
        if len(request) > self.most:
            raise torch.OutOfMemoryError("the device is full")
        small = self.config["size"] // 4
        images = torch.zeros(len(request), 3, 1, 1) if request.images is None else request.images
        frame = nn.functional.interpolate(images, (small, small), mode="area")

        def predict(state: State, level: Tensor, branch: str) -> State:
            x0 = self.generator(state["video"], frame, inputs["text"]["out"])
            return {"video": x0 * (1 if branch == "cond" else 0.5)}

        noise = draw_noise(request.seeds, {"video": (self.config["frames"], 3, small, small)})
        return {"video": self.sampler(noise, predict, request.steps, request.guidance, progress)["video"]}
