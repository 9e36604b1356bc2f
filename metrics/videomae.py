"""VideoMAE v2 (Wang et al. 2023) as content-debiased FVD uses it, and any VideoMAE folder of transformers.

`vit_g_hybrid_pt_1200e_ssv2_ft.pth` holds a ViT-g/14 fine-tuned on Something-Something v2: 40 blocks, 1408 wide, 174
classes. Its features are the normalised mean over all tokens. Its layout (one matrix for queries, keys and values, biases
for two of the three, no tensor for the positions) is not that of transformers, so it is loaded by a module of our own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import weights
from .vit import VideoEncoder, measured

FRAMES, SIDE, HEADS = 16, 224, 16


class VideoMAE2(VideoEncoder):
    """Videos -> the normalised mean of their tokens.

    frames, side   of the clips; everything else as in `VideoEncoder`
    classes        outputs of the head, which the file holds and the features leave out
    """

    def __init__(
        self, width: int, depth: int, heads: int, hidden: int, patch: int, tubelet: int, frames: int, side: int, classes: int
    ) -> None:
        places = (frames // tubelet) * (side // patch) ** 2
        super().__init__(width, depth, heads, hidden, patch, tubelet, places, split_bias=True, fixed=True)
        self.fc_norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`b c f h w` in [0, 1] (content-debiased FVD does not normalise further) -> `b width`."""
        return self.fc_norm(self.tokens(x).mean(1))


def load(path: str | Path, frames: int = FRAMES, side: int = SIDE, heads: int = HEADS) -> VideoMAE2:
    """The network of a checkpoint in VideoMAE v2's own layout, its state under "module" or "model" or bare.

    Raises:
        metrics.weights.WeightsError: another file; a tensor that is missing, unexpected, of another shape, not finite.
    """
    state = _state(path)
    try:
        network = VideoMAE2(**measured(state), heads=heads, frames=frames, side=side, classes=len(state["head.bias"]))
    except (KeyError, ValueError) as error:
        raise weights.WeightsError(f"{path}: not a VideoMAE v2 fine-tuned checkpoint (lacks {error})") from error
    weights.fill(network, state, path)
    return network


def _state(path: str | Path) -> dict[str, Tensor]:
    for inside in ("model", "module"):
        try:
            return weights.tensors(path, inside)
        except weights.WeightsError as error:
            if f"holds no {inside!r}" not in str(error):
                raise
    return weights.tensors(path)


class Folder(nn.Module):
    """A VideoMAE of transformers: the mean of the last tokens, normalised as its classifier does where it has one."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.frames, self.side = int(model.config.num_frames), int(model.config.image_size)

    def forward(self, x: Tensor) -> Tensor:
        """`b c f h w`, normalised with ImageNet's mean and deviation -> `b width`."""
        return self.model(pixel_values=x.transpose(1, 2)).last_hidden_state.mean(1)


def load_folder(path: str | Path) -> Folder:
    """The VideoMAE encoder in a folder of transformers (config.json and model.safetensors); nothing is downloaded.

    Raises:
        metrics.weights.WeightsError: not such a folder, or tensors that the encoder needs are missing.
    """
    from transformers import VideoMAEModel

    return Folder(weights.from_folder(VideoMAEModel, path))
