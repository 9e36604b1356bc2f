"""The super-resolution and detail stages of a cascade, after the decoder of another pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wanlab.core import Bypass, Edit, Zero
from wanlab.pipelines.base import Pipeline
from wanlab.pipelines.component import removing
from wanlab.pipelines.node import Node

ENLARGING = ("upsample", "detail")


def enlarging_nodes(pipe: Pipeline, after: str) -> list[Node]:
    """The nodes of attached stages, the first reads `after`; none where nothing is attached."""
    if not hasattr(pipe, "upsample"):
        return []
    names = [*(f"upsample.{i}" for i in range(len(pipe.upsample))), "detail"]
    return [Node(name, (before,), (name,)) for name, before in zip(names, [after, *names])]


def enlarged(pipe: Pipeline, name: str, video: Tensor) -> Tensor:
    """What an attached stage makes of a video (b f c h w in [0, 1]), without a reference: x2, or the same size (detail)."""
    scale = 1 if name == "detail" else 2
    x = 2 * video - 1
    nothing = x.new_zeros(*x.shape[:3], scale * x.shape[3], scale * x.shape[4])
    stage: Any = pipe.get_submodule(name)
    return ((stage(x, nothing, nothing[:, :, :1]) + 1) / 2).clamp(0, 1).to(torch.float32)


def enlarging_components(pipe: Pipeline) -> dict[str, Callable[[], list[Edit]]]:
    """The components that attached stages bring; none where nothing is attached."""
    if not hasattr(pipe, "upsample"):
        return {}
    return {"upsample.residual": removing(Zero("upsample.*.residual.skip")), "detail": removing(Bypass("detail.out")),
            "gan_head": removing(Zero("detail.gan"))}
