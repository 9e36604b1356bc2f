"""DINO ViT-B/16 (Caron et al. 2021) as VBench asks it: how alike two frames' subjects are."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from . import weights
from .frames import FrameNetwork
from .transformer import eight_bit_resized, load, normalised

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT, I2V_SHORT = 224, 256  # pixels of the shorter side


def dino(given: str | Path | None = None, crop: bool = False, device: str | torch.device = "cpu") -> FrameNetwork:
    """The class token of DINO after its last normalisation.

    Args:
        given: a folder in the format of transformers (`config.json`, `model.safetensors`); None = the hub's cache.
        crop: VBench-I2V's preparation (shorter side 256 bicubic, middle 224 x 224) instead of VBench's (shorter side 224
            bilinear, no crop); neither is antialiased.
        device: where it goes.

    Raises:
        WeightsError: no such folder, or it does not hold every tensor of a vision transformer.
    """
    from transformers import ViTModel

    path = weights.locate("dino", given)
    network = load(ViTModel, path, add_pooling_layer=False).to(device)

    def features(frames: Tensor) -> Tensor:
        resized = eight_bit_resized(frames, I2V_SHORT if crop else SHORT, bicubic=crop, crop=SHORT if crop else None)
        pixels = normalised(resized.to(device), MEAN, STD)
        return network(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]

    return FrameNetwork(f"{weights.signature('dino', path)}{'|i2v' if crop else ''}", features)
