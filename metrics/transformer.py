"""Image networks of transformers: read from a local folder, every tensor accounted for, and frames prepared for them.

VBench resizes 8-bit tensors without antialiasing; files on disk that go through Pillow are antialiased and score otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .weights import WeightsError

SPARE = ("position_ids", "pooler.dense.weight", "pooler.dense.bias")  # in some published files, read by nobody


def load(kind: Any, path: Path, **settings: Any) -> Any:
    """A network from a folder with `config.json` and its weights, in float32, frozen.

    Args:
        kind: the class, such as `transformers.ViTModel`.
        path: the folder.
        settings: for the class.

    Raises:
        WeightsError: not such a folder, or a tensor is missing, foreign or of another shape: it would be left random.
    """
    if not (path / "config.json").is_file():
        raise WeightsError(f"{path}: not a folder in the format of transformers, there is no config.json")
    try:
        network, report = kind.from_pretrained(
            path, local_files_only=True, output_loading_info=True, dtype=torch.float32, **settings
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: {kind.__name__} cannot be read from it: {error}") from error
    wrong = {
        "missing": sorted(report["missing_keys"]),
        "foreign": sorted(key for key in report["unexpected_keys"] if not key.endswith(SPARE)),
        "of another shape": sorted(str(entry) for entry in report["mismatched_keys"]),
    }
    told = "; ".join(f"{word}: {', '.join(keys[:4])}" for word, keys in wrong.items() if keys)
    if told:
        raise WeightsError(f"{path}: not the weights of {kind.__name__}: {told}")
    return network.eval().requires_grad_(False)


def eight_bit_resized(frames: Tensor, short: int, bicubic: bool, crop: int | None = None) -> Tensor:
    """Frames `n c h w` in [0, 1] as 8-bit values, shorter side `short`, not antialiased, the middle `crop` cut out; uint8."""
    from torchvision.transforms import functional

    pixels = (frames * 255).round().to(torch.uint8)
    kernel = functional.InterpolationMode.BICUBIC if bicubic else functional.InterpolationMode.BILINEAR
    pixels = functional.resize(pixels, [short], interpolation=kernel, antialias=False)
    return pixels if crop is None else functional.center_crop(pixels, [crop])


def normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """8-bit frames `n c h w` as float32, each channel shifted and scaled."""
    shift, scale = (torch.tensor(list(v), device=pixels.device).view(1, -1, 1, 1) for v in (mean, std))
    return (pixels.float() / 255 - shift) / scale
