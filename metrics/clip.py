"""CLIP (Radford et al. 2021): how alike two frames' scenes are, and how well frames fit a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import einsum
from torch import Tensor

from . import weights
from .frames import FrameNetwork, embed
from .transformer import eight_bit_resized, load, normalised
from .video import check_video

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Clip:
    """A CLIP that may judge; `name` goes into the brackets of a number's name."""

    name: str
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)

    @property
    def frames(self) -> FrameNetwork:
        """Its image features, as VBench's background consistency asks for them: shorter side bicubic, middle cut out."""
        return FrameNetwork(self.name, self._image_features)

    @torch.no_grad()
    def _image_features(self, frames: Tensor) -> Tensor:
        size = self.model.config.vision_config.image_size
        pixels = eight_bit_resized(frames, size, bicubic=True, crop=size).to(self.model.device)
        return pooled(self.model.get_image_features(pixel_values=normalised(pixels, MEAN, STD)))

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """`b d` of unit length; a text beyond the network's length is cut."""
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt",
            max_length=self.model.config.text_config.max_position_embeddings,
        )  # fmt: skip
        features = pooled(self.model.get_text_features(**tokens.to(self.model.device)))
        return features / features.norm(dim=1, keepdim=True)


def pooled(output: Any) -> Tensor:
    """The features `b d` in what transformers returns: a tensor before version 5, an output since."""
    return output if isinstance(output, Tensor) else output.pooler_output


def clip(given: str | Path | None = None, device: str | torch.device = "cpu") -> Clip:
    """CLIP from a folder in the format of transformers, tokenizer included.

    Args:
        given: the folder; None = the hub's cache of openai/clip-vit-base-patch32.
        device: where it goes.

    Raises:
        WeightsError: no such folder, or it does not hold every tensor, or no tokenizer.
    """
    from transformers import AutoTokenizer, CLIPModel

    path = weights.locate("clip", given)
    model = load(CLIPModel, path).to(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise weights.WeightsError(f"{path}: no tokenizer can be read from it: {error}") from error
    return Clip(weights.signature("clip", path), model, tokenizer)


def text_alignment(video: Tensor, texts: Sequence[str], judge: Clip) -> Tensor:
    """Mean over frames of the cosine between frame and text: `b` in [-1, 1], named `clip_text[cosine|...]`.

    Args:
        video: `b f c h w` in [0, 1].
        texts: one for each video.
        judge: from `clip`.

    Raises:
        ValueError: another number of texts than of videos.
    """
    return text_curve(video, texts, judge).mean(1)


def text_curve(video: Tensor, texts: Sequence[str], judge: Clip) -> Tensor:
    """Cosine between every frame and the video's text, `b f`.

    Raises:
        ValueError: another number of texts than of videos.
    """
    video = check_video(video)
    if len(texts) != len(video):
        raise ValueError(f"{len(video)} videos but {len(texts)} texts")
    return einsum(embed(video, judge.frames), judge.text_features(texts), "b f d, b d -> b f")


def clip_score(video: Tensor, texts: Sequence[str], judge: Clip) -> Tensor:
    """torchmetrics' CLIPScore: 100 x the mean cosine, at least 0; `b`, named `clip_text[clipscore|...]`.

    Not the paper's (Hessel et al. 2021), which clamps each frame and multiplies by 2.5. Arguments as `text_alignment`'s.
    """
    return (100 * text_alignment(video, texts, judge)).clamp_min(0)
