"""torch.compile: with nothing attached every stage is one graph without a break, and gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from wanlab.pipelines.load import CLASSES
from wanlab.stages import align, conv, detail, discriminator, fusion, generator, image, pooled, resize, text, upsample
from wanlab.stages.fusion import Condition
from wanlab.stages.generator import Draft
from wanlab.stages.image import Image
from wanlab.stages.text import Text

B, F, M, SIZE, OUT, C, G = 2, 3, 2, 16, 32, 16, 16


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape) * 2 - 1


def first() -> Image:
    tokens, pooled = torch.randn(B, 16, C), torch.randn(B, C)
    return Image(tokens, pooled, pictures(B, 3, SIZE, SIZE), pictures(B, 3, OUT, OUT), torch.tensor([1.0, 0]))


def condition() -> Condition:
    return Condition(torch.randn(B, 5, C), torch.zeros(B, 5), torch.randn(B, 16, C), torch.randn(B, M, C), torch.randn(B, C))


def draft() -> Draft:
    hint, features = torch.randn(B, F, 1, SIZE, SIZE), torch.randn(B, F, G, 4, 4)
    return Draft(video(SIZE), hint, torch.randn(B, F, M, 5), features)


def motion() -> Tensor:
    return 0.1 * torch.randn(B, F, M, 5)


def aligning(variant: str) -> tuple[nn.Module, Sequence[Any]]:
    config = align.Config(size=SIZE, patch=4, features=G, context=C, width=8, heads=2)
    return CLASSES["align"][variant][0](config), (first(), condition(), draft(), motion())


def fusing(build: type[fusion.Fusion]) -> tuple[nn.Module, Sequence[Any]]:
    words = Text(torch.randn(B, 5, C), torch.ones(B, 5))
    return build(fusion.Config(C, 2, M)), (words, first(), torch.tensor([1.0, 0.3]))


def enlarging(build: type[upsample.Upsample]) -> tuple[nn.Module, Sequence[Any]]:
    return build(upsample.Config(8, 1)), (video(SIZE), video(OUT), video(OUT, 1).clamp(0, 1))


def video(size: int, channels: int = 3) -> Tensor:
    return pictures(B, F, channels, size, size)


STAGES: dict[str, Callable[[], tuple[nn.Module, Sequence[Any]]]] = {
    "text": lambda: (text.TextEncoder(text.Config(("a", "red", "circle"), 6, C, 8, 2, 1, 32)),
                     (torch.tensor([[3, 4, 5, 1, 0, 0], [0] * 6]),)),
    "image": lambda: (image.ImageEncoder(image.Config(SIZE, OUT, 4, C, 2, 1)),
                      (torch.rand(B, 3, OUT, OUT), torch.tensor([1.0, 0]))),
    "image.conv": lambda: (conv.ConvEncoder(image.Config(SIZE, OUT, 4, C, 2, 1)),
                           (torch.rand(B, 3, OUT, OUT), torch.tensor([1.0, 0]))),
    "fusion": lambda: fusing(fusion.CrossAttentionFusion),
    "fusion.concat": lambda: fusing(pooled.ConcatFusion),
    "fusion.film": lambda: fusing(pooled.FilmFusion),
    "fusion.gated": lambda: fusing(pooled.GatedFusion),
    "align.flow_warp": lambda: aligning("flow_warp"),
    "align.temporal_attention": lambda: aligning("temporal_attention"),
    "align.deformable": lambda: aligning("deformable"),
    "align.none": lambda: aligning("none"),
    "blend": lambda: (generator.Blend(), (draft(), video(SIZE), video(SIZE, 1), video(SIZE))),
    "upsample": lambda: enlarging(upsample.Upsample),
    "upsample.resize_conv": lambda: enlarging(resize.ResizeConv),
    "upsample.trilinear": lambda: enlarging(resize.Trilinear),
    "detail": lambda: (detail.Detail(detail.Config(8, 1, 8, 1)), (video(OUT), video(OUT), video(OUT, 1).clamp(0, 1))),
    "discriminator": lambda: (discriminator.Discriminator(discriminator.Config((4,), 8)),
                              (video(SIZE), [torch.randn(B * F, 4, SIZE, SIZE)])),
}
UNET = generator.Config(SIZE, 4, (8, 16), 2, C)


def check(module: nn.Module, args: Sequence[Any], backend: str) -> None:
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)       # layers that start at zero would hide what lies before them
    with torch.no_grad():
        plain, compiled = module(*args), torch.compile(module, fullgraph=True, backend=backend)(*args)
    for one, other in zip(tree_leaves(plain), tree_leaves(compiled), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("stage", [name if name == "fusion" else pytest.param(name, marks=pytest.mark.slow) for name in STAGES])
def test_a_stage_is_one_graph_and_gives_the_same_numbers(stage: str) -> None:
    check(*STAGES[stage](), backend="eager")


@pytest.mark.slow
def test_the_generator_is_one_graph_and_gives_the_same_numbers() -> None:
    check(generator.Generator(UNET), (video(SIZE), torch.randn(B, F, M, 5), pictures(B, 3, SIZE, SIZE), condition()), "eager")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["fusion", "upsample"])
def test_inductor_gives_the_same_numbers(stage: str) -> None:
    check(*STAGES[stage](), backend="inductor")
