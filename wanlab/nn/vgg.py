"""The content network: VGG layout, home-trained on procedural frames.

It stands where the article has an ImageNet VGG: in L_content = ||VGG(G(z)) - VGG(x)|| and under the discriminator. It
shares no weight and no training clip with the networks that judge (`metrics`), so a detail enhancer that learns to
please this one has not seen its examiners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from wanlab.core import Hookable

WEIGHTS = Path(__file__).parent.parent / "weights" / "vgg.safetensors"
WIDTHS = (16, 32, 64, 64, 64)
DEPTHS = (1, 1, 2, 2, 2)


class Vgg(Hookable):
    """Blocks of 3x3 convolutions with ReLU, halved by max pooling between blocks (Simonyan and Zisserman 2015).

    Args:
        widths: channels of each block.
        depths: convolutions of each block.

    Sites: `tap1` ... `tapN`, the last activation of each block, `b c h w` at 1, 1/2, 1/4 ... of the input's size.
    """

    SITES: Mapping[str, str] = {f"tap{i}": "b c h w" for i in range(1, len(WIDTHS) + 1)}

    def __init__(self, widths: Sequence[int] = WIDTHS, depths: Sequence[int] = DEPTHS) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"one depth per block: {len(widths)} widths, {len(depths)} depths")
        self.SITES = {f"tap{i}": "b c h w" for i in range(1, len(widths) + 1)}
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5), persistent=False)
        self.register_buffer("std", torch.full((1, 3, 1, 1), 0.25), persistent=False)
        ends = [3, *widths]
        self.blocks = nn.ModuleList(_block(ends[i], ends[i + 1], depths[i]) for i in range(len(widths)))

    def forward(self, frames: Tensor) -> list[Tensor]:
        """The taps of `b c h w` frames in [0, 1], sides at least 2^(blocks - 1) pixels; differentiable.

        Raises:
            ValueError: not `b 3 h w`, or too small for the pooling.
        """
        least = 2 ** (len(self.blocks) - 1)
        if frames.ndim != 4 or frames.shape[1] != 3 or min(frames.shape[-2:]) < least:
            raise ValueError(f"expected b 3 h w with sides of at least {least}, got {tuple(frames.shape)}")
        x = (frames - self.mean) / self.std
        taps = []
        for i, block in enumerate(self.blocks, 1):
            x = block(nn.functional.max_pool2d(x, 2) if i > 1 else x)  # b c h/2^(i-1) w/2^(i-1)
            x = self.site(f"tap{i}", x)
            taps.append(x)
        return taps


def _block(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k in range(depth):
        layers += [nn.Conv2d(inputs if k == 0 else outputs, outputs, 3, padding=1), nn.ReLU()]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


@cache
def _shipped_state() -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not WEIGHTS.is_file():
        raise FileNotFoundError(f"{WEIGHTS} is missing: the package was installed without its content network")
    return {key: value.float() for key, value in load_file(WEIGHTS).items()}


def content_network() -> Vgg:
    """The shipped content network: a fresh copy, frozen, in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    network = Vgg()
    network.load_state_dict(_shipped_state(), strict=True)
    return network.eval().requires_grad_(False)
