"""The network of L_content that a recipe asks for: the shipped one, or torchvision's VGG-16 or VGG-19 from a file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from wanlab.core.quote import quoted
from wanlab.nn.vgg import FILES, PUBLISHED_WIDTHS, WEIGHTS, WIDTHS, Vgg, content_network, published_network

TAPS = len(WIDTHS)  # of each of them
LEAST = 2 ** (TAPS - 1)  # pixels of a side that it takes


def there(path: Any) -> bool:
    """Whether something is at a path, whatever stands for it."""
    try:
        return Path(str(path)).exists()
    except (OSError, ValueError):                           # a name that no file can have
        return False


def vgg_file(vgg: str) -> Path:
    """The file that `vgg:` means: itself, what is in a folder, or for `vgg16` and `vgg19` what torchvision has downloaded.

    Raises ValueError where there is none, and for a name that does not begin with the layout.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILES[vgg] if vgg in FILES else Path(vgg)
    if there(path) and path.is_dir():
        path = next((path / name for name in FILES.values() if (path / name).is_file()), path / FILES["vgg16"])
    if not there(path) or not path.is_file():
        known = " and ".join(FILES.values())
        raise ValueError(f"vgg: {quoted(str(path))} is missing; torchvision publishes {known}; none is downloaded here")
    if not path.name.startswith(tuple(FILES)):
        raise ValueError(f"vgg: which network {path} holds cannot be told: its name begins with neither of {', '.join(FILES)}")
    return path


def file_of(vgg: str | None) -> Path:
    """The file of the network: what `vgg_file` finds, or the shipped one."""
    return WEIGHTS if vgg is None else vgg_file(vgg)


def widths_of(vgg: str | None) -> tuple[int, ...]:
    """Channels of the network's taps."""
    return WIDTHS if vgg is None else PUBLISHED_WIDTHS


def network_of(vgg: str | None) -> Vgg:
    """The network, frozen, on the CPU. Raises ValueError for a file that is missing, damaged or of another network."""
    if vgg is None:
        return content_network()
    path = vgg_file(vgg)
    try:
        return published_network(path.name[:5], path)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ValueError(f"vgg: {path} is damaged or holds more than tensors: {error}") from error
