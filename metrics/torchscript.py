"""Compiled programs, above all the I3D that StyleGAN-V published (`i3d_torchscript.pt`): opened only when asked for by their hash.

A TorchScript file is a program. So it is never looked for: the caller names the file and its sha256, and a file with any
other hash is not opened.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import weights

WEIGHTS = "i3d_torchscript"


def pinned(given: str | Path, name: str = WEIGHTS) -> tuple[Path, str]:
    """File and hash of `PATH@SHA256`, given for the weights of this name.

    Raises:
        metrics.weights.WeightsError: no hash of 64 digits, no file, or a file with another hash.
    """
    path, _, digest = str(given).rpartition("@")
    if not path or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise weights.WeightsError(
            f"{name}: a TorchScript file is a program; give it with the sha256 that you trust, as PATH@SHA256 "
            "(64 hex digits), not as " + repr(str(given))
        )
    file = weights.locate(name, path)
    found = weights.sha256(file)
    if found != digest.lower():
        raise weights.WeightsError(f"{name}: {file} has sha256 {found}, asked for was {digest.lower()}; it is not opened")
    return file, found


class Program(nn.Module):
    """The compiled network with its three switches.

    in_graph   True: it rescales [0, 255] and resizes to 224 by itself (StyleGAN-V); False: it is given 224 x 224 in [-1, 1]
    """

    def __init__(self, module: Any, in_graph: bool) -> None:
        super().__init__()
        self.module, self.in_graph = module, in_graph

    def forward(self, x: Tensor) -> Tensor:
        """`b c f h w` -> `b 400`."""
        return self.module(x, rescale=self.in_graph, resize=self.in_graph, return_features=True)


def opened(given: str | Path, name: str = WEIGHTS) -> Any:
    """The compiled module of `PATH@SHA256`, in evaluation mode on the CPU. Raises `metrics.weights.WeightsError` as `pinned`."""
    file, _ = pinned(given, name)
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):  # torch.jit is on its way out
            warnings.simplefilter("ignore", kind)
        return torch.jit.load(file, map_location="cpu").eval()


def load(given: str | Path, in_graph: bool) -> Program:
    """I3D as a program, see `Program`."""
    return Program(opened(given), in_graph)
