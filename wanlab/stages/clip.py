"""Image stage of Wan: the vision tower of CLIP from transformers, with sites from a table, read at its last block but one."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wanlab.core import Hookable, Place, adapt


class Clip(Hookable):
    """Images (b c h w in [0, 1]) to tokens (b j c): the class token and one for each patch, of the last block but one.

    Sites: those of the tower, and `out`.
    """

    SITES = {"out": "b j c"}

    def __init__(self, tower: nn.Module, processor: Any) -> None:
        super().__init__()
        self.tower = adapt(tower.eval(), table(tower))
        self.__dict__["processor"] = processor

    @property
    def side(self) -> int:
        """Patches along one side of a picture."""
        config = self.tower.inner.config
        return int(config.image_size // config.patch_size)

    @property
    def rules(self) -> dict[str, Any]:
        """What decides its output beside configuration and weights: part of its content key."""
        return {"processor": self.processor.to_dict()}

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Encode; the processor resizes and normalises as the published code does, from 8-bit pictures."""
        weight = next(self.tower.parameters())
        if images.device.type == "meta":
            side = self.processor.crop_size["height"]
            pixels = images.new_zeros(len(images), 3, side, side)
        else:
            pictures = list((images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy())
            pixels = torch.from_numpy(np.stack(self.processor(images=pictures)["pixel_values"]))
        out = self._before_the_last(pixels.to(weight.device, weight.dtype))
        return self.site("out", out, identity=lambda: torch.zeros_like(out))

    def _before_the_last(self, pixels: Tensor) -> Tensor:
        """What comes to the last block; b j c. (Asked for its hidden states, transformers leaves hooks at the tower for good.)"""
        here, seen = threading.get_ident(), []

        def look(_: nn.Module, given: tuple[Any, ...]) -> None:
            if threading.get_ident() == here:
                seen.append(given[0])

        inner = getattr(self.tower.inner, "vision_model", self.tower.inner)
        with inner.encoder.layers[-1].register_forward_pre_hook(look):
            self.tower(pixels)
        return seen[0]


def table(tower: nn.Module) -> dict[str, Place]:
    """Sites of a CLIP vision tower; older releases of transformers keep it one module deeper."""
    inner = "vision_model." if hasattr(tower, "vision_model") else ""
    layer = f"{inner}encoder.layers.{{i}}"
    heads = {"k": "num_heads"}
    return {
        "embed": Place(f"{inner}embeddings", "b j c", identity=None),
        "blocks.{i}.resid_pre": Place(layer, "b j c", side="input"),
        **{f"blocks.{{i}}.attn.{name}": Place(f"{layer}.self_attn.{name}_proj", reshape="b j (k d) -> b k j d", sizes=heads,
                                             identity=None) for name in "qkv"},
        "blocks.{i}.attn.z": Place(f"{layer}.self_attn.out_proj", side="input", reshape="b j (k d) -> b k j d", sizes=heads),
        "blocks.{i}.attn.out": Place(f"{layer}.self_attn.out_proj", "b j c", identity="zeros"),
        "blocks.{i}.mlp.post": Place(f"{layer}.mlp.fc2", "b j c", side="input"),
        "blocks.{i}.mlp.out": Place(f"{layer}.mlp.fc2", "b j c", identity="zeros"),
    }
