"""The video networks of torchvision that were trained on Kinetics-400: R3D-18, MC3-18 (Tran et al. 2018), S3D (Xie et al. 2018).

Features are what stands before the last linear layer, averaged over space and time: 512, 512 and 1024 numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from . import weights

Name = Literal["r3d_18", "mc3_18", "s3d"]


class Trunk(nn.Module):
    """A network of torchvision without its classifier: `b c f h w` -> `b d`."""

    def __init__(self, name: Name) -> None:
        super().__init__()
        from torchvision.models import video

        self.name = name
        self.network = getattr(video, name)()

    def forward(self, x: Tensor) -> Tensor:
        """Features of clips that are normalised as torchvision's preset says."""
        if self.name == "s3d":
            return self.network.avgpool(self.network.features(x)).mean((2, 3, 4))
        x = self.network.layer4(self.network.layer3(self.network.layer2(self.network.layer1(self.network.stem(x)))))
        return self.network.avgpool(x).flatten(1)


def load(name: Name, path: str | Path) -> Trunk:
    """A trunk with the tensors of torchvision's file.

    Raises:
        metrics.weights.WeightsError: another file.
    """
    trunk = Trunk(name)
    weights.fill(trunk.network, weights.tensors(path), path)
    return trunk.eval()
