"""I3D (Carreira & Zisserman 2017): the inflated Inception that stands behind nearly every published FVD.

The tensors are those of `i3d_pretrained_400.pt`, which VideoGPT converted from tf.hub `deepmind/i3d-kinetics-400/1`; names
and shapes follow that file, the code is the project's own. Features are the 400 Kinetics logits before the softmax,
averaged over time. Paddings are TensorFlow's "SAME": as much as the output needs, the odd pixel behind.

One number is not in the file: the epsilon of the batch normalisations. The TensorFlow graph uses 1e-3 (Sonnet's default),
the PyTorch port of VideoGPT and of all its copies 1e-5, on the same unfolded tensors. A protocol states which it means.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import weights

CLASSES = 400
SIDE = 224  # pixels; the last average needs 7 x 7 after a division by 32
MINIMUM = 9  # frames: 8 leave one step of time after the divisions, and the last average spans two
TENSORFLOW, PORT = 1e-3, 1e-5  # epsilon of the batch normalisations

# channels of the branches of each Inception block: 1x1, 1x1 -> 3x3, 1x1 -> 3x3, pool -> 1x1
BLOCKS = {
    "Mixed_3b": (64, (96, 128), (16, 32), 32),
    "Mixed_3c": (128, (128, 192), (32, 96), 64),
    "Mixed_4b": (192, (96, 208), (16, 48), 64),
    "Mixed_4c": (160, (112, 224), (24, 64), 64),
    "Mixed_4d": (128, (128, 256), (24, 64), 64),
    "Mixed_4e": (112, (144, 288), (32, 64), 64),
    "Mixed_4f": (256, (160, 320), (32, 128), 128),
    "Mixed_5b": (256, (160, 320), (32, 128), 128),
    "Mixed_5c": (384, (192, 384), (48, 128), 128),
}
# before these blocks: a pooling of (kernel, stride), each over (time, height, width)
POOLS = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}

Three = tuple[int, int, int]


def pad_same(x: Tensor, kernel: Three, stride: Three) -> Tensor:
    """`b c f h w` with zeros around it so that a window gives ceil(size / stride) places: TensorFlow's "SAME"."""
    pads: list[int] = []
    for size, window, step in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        total = max((-(-size // step) - 1) * step + window - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.pad(x, pads) if any(pads) else x


def pool_same(x: Tensor, kernel: Three, stride: Three) -> Tensor:
    """Maximum over windows of `b c f h w`, sides as of `pad_same`.

    The zeros of the padding never win, because what is pooled went through a ReLU.
    """
    return functional.max_pool3d(pad_same(x, kernel, stride), kernel, stride)


class Unit(nn.Module):
    """Convolution with "SAME" padding, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int, epsilon: float, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (size, size, size), (stride, stride, stride)
        self.conv3d = nn.Conv3d(inputs, outputs, size, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """`b c f h w`, the same with the outputs as channels and each side divided by the stride, rounded up."""
        return self.bn(self.conv3d(pad_same(x, self.kernel, self.stride))).relu()


class Inception(nn.Module):
    """Four branches side by side; the largest windows are 3 x 3 x 3."""

    def __init__(self, inputs: int, block: tuple[int, tuple[int, int], tuple[int, int], int], epsilon: float) -> None:
        super().__init__()
        plain, (near, near_out), (far, far_out), pooled = block
        self.b0 = Unit(inputs, plain, 1, epsilon)
        self.b1a, self.b1b = Unit(inputs, near, 1, epsilon), Unit(near, near_out, 3, epsilon)
        self.b2a, self.b2b = Unit(inputs, far, 1, epsilon), Unit(far, far_out, 3, epsilon)
        self.b3b = Unit(inputs, pooled, 1, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """`b c f h w`, the same with the channels of the four branches one after the other."""
        pooled = pool_same(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


class Linear(nn.Module):
    """The last layer, a 1 x 1 x 1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`b c f h w`, the same with the outputs as channels."""
        return self.conv3d(x)


class I3D(nn.Module):
    """Videos -> 400 logits of Kinetics, averaged over time.

    Args:
        epsilon: of the batch normalisations, `TENSORFLOW` or `PORT`.
        classes: outputs.
    """

    def __init__(self, epsilon: float = PORT, classes: int = CLASSES) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, epsilon, stride=2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1, epsilon)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3, epsilon)
        width = 192
        for name, block in BLOCKS.items():
            self.add_module(name, Inception(width, block, epsilon))
            width = block[0] + block[1][1] + block[2][1] + block[3]
        self.logits = Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`b c f h w` in [-1, 1], at least 9 frames of at least 193 x 193 (224 x 224 is meant) -> `b classes`.

        Raises:
            ValueError: fewer frames, or smaller ones.
        """
        if x.shape[2] < MINIMUM:
            raise ValueError(f"I3D needs at least {MINIMUM} frames, got {x.shape[2]}: its last average spans two steps of time")
        if -(-min(x.shape[-2:]) // 32) < 7:
            raise ValueError(f"I3D needs frames of {SIDE} x {SIDE}, got {tuple(x.shape[-2:])}")
        x = self.Conv3d_1a_7x7(x)                                         # b  64 f/2 h/2  w/2
        x = self.Conv3d_2b_1x1(pool_same(x, (1, 3, 3), (1, 2, 2)))        # b  64 f/2 h/4  w/4
        x = self.Conv3d_2c_3x3(x)                                         # b 192 f/2 h/4  w/4
        for name in BLOCKS:
            if name in POOLS:
                x = pool_same(x, *POOLS[name])
            x = self.get_submodule(name)(x)                               # b   c f/8 h/32 w/32 at the end
        x = self.logits(functional.avg_pool3d(x, (2, 7, 7), 1))           # b 400 f/8-1 1  1 at 224 x 224
        return x.mean((2, 3, 4)) if x.shape[-1] == x.shape[-2] == 1 else x[..., 0, 0].mean(2)


def load(path: str | Path, epsilon: float = PORT) -> I3D:
    """An I3D with the tensors of a file in the layout of `i3d_pretrained_400.pt`, frozen.

    The file holds 287 tensors, or 344 with the counters of the batch normalisations, which nothing reads.

    Raises:
        metrics.weights.WeightsError: a tensor is missing, unexpected, of another shape or not finite.
    """
    network = I3D(epsilon)
    weights.fill(network, weights.tensors(path), path)
    return network
