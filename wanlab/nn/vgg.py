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
from wanlab.core.nearest import suggestion

WEIGHTS = Path(__file__).parent.parent / "weights" / "vgg.safetensors"
WIDTHS = (16, 32, 64, 64, 64)
DEPTHS = (1, 1, 2, 2, 2)
PUBLISHED = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}       # convolutions of each block, of 64 ... 512 channels
PUBLISHED_WIDTHS = (64, 128, 256, 512, 512)
FILES = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}  # as torchvision keeps them
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Vgg(Hookable):
    """Blocks of 3x3 convolutions with ReLU, halved by max pooling between blocks (Simonyan and Zisserman 2015).

    Args:
        widths: channels of each block.
        depths: convolutions of each block.
        mean, std: of the colours, by which frames are standardised.

    Sites: `tap1` ... `tapN`, the last activation of each block, `b c h w` at 1, 1/2, 1/4 ... of the input's size.
    """

    SITES: Mapping[str, str] = {f"tap{i}": "b c h w" for i in range(1, len(WIDTHS) + 1)}

    def __init__(self, widths: Sequence[int] = WIDTHS, depths: Sequence[int] = DEPTHS, mean: Sequence[float] = (0.5,) * 3,
                 std: Sequence[float] = (0.25,) * 3) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"one depth per block: {len(widths)} widths, {len(depths)} depths")
        self.SITES = {f"tap{i}": "b c h w" for i in range(1, len(widths) + 1)}
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)
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


def published_network(layout: str = "vgg16", path: str | Path | None = None) -> Vgg:
    """VGG-16 or VGG-19 (Simonyan and Zisserman 2015) from a file of torchvision's layout, frozen, on the CPU.

    path: a .pth or .safetensors file; without, where torchvision keeps what it has downloaded. Nothing is downloaded, no code in
    a file is run. The classifier's weights are not read.

    Raises ValueError for a layout that is none or a file of another network, FileNotFoundError where there is no file.
    """
    if layout not in PUBLISHED:
        raise ValueError(f"no layout {layout!r}{suggestion(layout, PUBLISHED)}")
    file = Path(torch.hub.get_dir()) / "checkpoints" / FILES[layout] if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: torchvision publishes {layout} as {FILES[layout]}")
    network = Vgg(PUBLISHED_WIDTHS, PUBLISHED[layout], **IMAGENET)
    found = {key: value for key, value in _read(file).items() if not key.startswith("classifier.")}
    names = _published_names(network)
    if found.keys() != names.keys():
        strange = min(found.keys() ^ names.keys())
        kind = "unknown" if strange in found else "missing"
        raise ValueError(f"{file} is no {layout} of torchvision's layout: {strange} is {kind}")
    try:
        network.load_state_dict({names[key]: value.float() for key, value in found.items()}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{file} is no {layout}: {error}") from None
    return network.eval().requires_grad_(False)


def _published_names(network: Vgg) -> dict[str, str]:
    """torchvision's name of each parameter -> ours: it counts convolutions, activations and poolings in one row."""
    names: dict[str, str] = {}
    place = 0
    for i, block in enumerate(network.blocks):
        for j, layer in enumerate(block.children()):
            if isinstance(layer, nn.Conv2d):
                names |= {f"features.{place}.{leaf}": f"blocks.{i}.{j}.{leaf}" for leaf in ("weight", "bias")}
            place += 1
        place += 1                                                          # the pooling after each block
    return names


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state
