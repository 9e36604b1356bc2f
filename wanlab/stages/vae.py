"""Vae stage of Wan: the causal 3D autoencoder from diffusers, with sites from tables; its halves are nodes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from wanlab.core import Hookable, Place, adapt

_GUARD = Lock()
_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()      # beside the modules: a lock can be neither copied nor saved
_VIDEO = {"reshape": "b c f h w -> b f c h w", "identity": None}
ENCODER = {
    "conv_in": Place("encoder.conv_in", **_VIDEO),
    "down.{i}.out": Place("encoder.down_blocks.{i}", **_VIDEO),
    "mid.out": Place("encoder.mid_block", **_VIDEO),
    "moments": Place("encoder", **_VIDEO),
}
DECODER = {
    "conv_in": Place("decoder.conv_in", **_VIDEO),
    "mid.out": Place("decoder.mid_block", **_VIDEO),
    "up.{i}.resnets.{j}.out": Place("decoder.up_blocks.{i}.resnets.{j}", **_VIDEO),
    "up.{i}.out": Place("decoder.up_blocks.{i}", **_VIDEO),
    "frames": Place("decoder", **_VIDEO),
}


class PartsError(ValueError):
    """A site within the autoencoder, while it works in tiles or row by row and no place of it sees the whole picture."""


class VaeEncoder(Hookable):
    """The first (and last) frame to what the transformer reads beside the noise: 4 channels that say which frames are given, and
    the latent of the video that has those frames and grey elsewhere.

    Sites: those of the encoder (they fire once for the first frame and once for every four more), `mask`, `latent` (bypass: no
    frame is given: mask 0, and the latent of a grey video).
    """

    SITES = {"mask": "b f c h w", "latent": "b f c h w"}

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.net = adapt(vae, ENCODER)

    def forward(self, first: Tensor, frames: int, last: Tensor | None = None) -> Tensor:
        """first, last: b c h w in [-1, 1]. Returns b f 20 h w: mask, then latent, f = 1 + (frames - 1) / 4."""
        video = first.new_zeros(len(first), frames, *first.shape[1:])
        video[:, 0] = first
        if last is not None:
            video[:, -1] = last
        latent = self.encode(video)
        given = latent.new_zeros(frames)
        given[[0] if last is None else [0, -1]] = 1
        mask = _folded(given, latent)
        return torch.cat([
            self.site("mask", mask, identity=lambda: torch.zeros_like(mask)),
            self.site("latent", latent, identity=self._grey(video)),
        ], 2)

    def within(self, first: Tensor | None, none: Tensor, frames: int) -> dict[str, Tensor]:
        """What Wan2.2's small model lays into the noise: `mask` (b f 1 h w, 1 at the frame that is given) and the `latent`
        (b 1 c h w) of the first frame (b c h w in [-1, 1]). Without one, no frame is given, and `none` (b c h w) is its latent."""
        mask = none.new_zeros(len(none), frames, 1, *none.shape[-2:])
        given, latent = mask.clone(), none[:, None]
        if first is not None:
            given[:, 0], latent = 1, self.encode(first[:, None])
        return {"mask": self.site("mask", given, identity=mask), "latent": self.site("latent", latent, identity=none[:, None])}

    def encode(self, video: Tensor) -> Tensor:
        """b f c h w in [-1, 1] to the standardised mean of its latent, b f c h w."""
        vae: Any = self.net.inner
        refuse_parts(self.net, video.shape[-2:])
        x, stride = rearrange(video, "b f c h w -> b c f h w").to(vae.dtype), vae.config.scale_factor_temporal
        with _alone(vae):
            if video.is_meta and self._taps is not None:        # what further frames pass is what the second part passes
                mean = vae.encode(x[:, :, :1 + stride]).latent_dist.mode()
                mean = mean[:, :, :1].repeat(1, 1, 1 + (x.shape[2] - 1) // stride, 1, 1)
            else:
                mean = vae.encode(x).latent_dist.mode()
        return (rearrange(mean, "b c f h w -> b f c h w").float() - _of(vae, "mean", mean)) / _of(vae, "std", mean)

    def _grey(self, video: Tensor) -> Callable[[], Tensor]:
        return lambda: Context().run(self.encode, torch.zeros_like(video[:1])).expand(len(video), -1, -1, -1, -1)


class VaeDecoder(Hookable):
    """A standardised latent (b f c h w) to a video in [0, 1].

    Sites: those of the decoder (they fire once for each frame of the latent), and `out`.
    """

    SITES = {"latent": "b f c h w", "out": "b f c h w"}

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.net = adapt(vae, DECODER)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode to b f c h w in [0, 1], float32, f = 4 f' - 3."""
        vae: Any = self.net.inner
        latent = self.site("latent", latent)
        refuse_parts(self.net, [side * vae.config.scale_factor_spatial for side in latent.shape[-2:]])
        z = latent.float() * _of(vae, "std", latent) + _of(vae, "mean", latent)
        z = rearrange(z, "b f c h w -> b c f h w").to(vae.dtype)
        with _alone(vae):
            if z.is_meta and self._taps is not None:            # as in the encoder
                video = vae.decode(z[:, :, :2]).sample
                frames = 1 + (z.shape[2] - 1) * vae.config.scale_factor_temporal
                video = video[:, :, :1].repeat(1, 1, frames, 1, 1)
            else:
                video = vae.decode(z).sample
        video = rearrange(video, "b c f h w -> b f c h w").float()
        return self.site("out", (video / 2 + 0.5).clamp(0, 1))


class Vae(nn.Module):
    """The autoencoder as a stage with two halves, each a node of its own.

    `enable_tiling` and `enable_slicing` do what they do in diffusers: pictures larger than a tile go through in overlapping tiles
    whose edges are blended, and rows one by one, in less memory. What stands at a site within the halves (`encoder.net`,
    `decoder.net`) is then a part of a picture or of a batch: it can be neither edited nor kept (PartsError). The sites around them,
    `latent`, `mask` and `out`, hold the whole as ever.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = VaeEncoder(vae), VaeDecoder(vae)
        vae.clear_cache()           # the first clip finds it as every clip leaves it

    @property
    def strides(self) -> tuple[int, int]:
        """Frames of the video to one of the latent, after the first; pixels to one place of it."""
        size: Any = self.encoder.net.inner.config
        return int(size.scale_factor_temporal), int(size.scale_factor_spatial)

    def enable_tiling(self, height: int = 256, width: int = 256, stride_height: int = 192, stride_width: int = 192) -> None:
        """Tiles of height x width pixels, a stride apart, multiples of the latent's stride; smaller pictures go through whole."""
        step = self.strides[1]
        if any(side % step or side < step for side in (height, width, stride_height, stride_width)):
            sizes = f"{height} x {width}, {stride_height}, {stride_width}"
            raise ValueError(f"tiles and strides are multiples of {step} pixels, got {sizes}")
        if stride_height > height or stride_width > width:
            raise ValueError(f"a stride of {stride_height}, {stride_width} leaves gaps between tiles of {height} x {width}")
        self.encoder.net.inner.enable_tiling(height, width, stride_height, stride_width)

    def disable_tiling(self) -> None:
        """Whole pictures."""
        self.encoder.net.inner.disable_tiling()

    def enable_slicing(self) -> None:
        """Row by row."""
        self.encoder.net.inner.enable_slicing()

    def disable_slicing(self) -> None:
        """All rows at once."""
        self.encoder.net.inner.disable_slicing()

    @property
    def parts(self) -> dict[str, Any]:
        """How it is cut, as plain data; empty where it is not."""
        return parts_of(self.encoder.net.inner)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within the block, neither tiles nor slices."""
        vae: Any = self.encoder.net.inner
        kept = vae.use_tiling, vae.use_slicing
        vae.use_tiling = vae.use_slicing = False
        try:
            yield
        finally:
            vae.use_tiling, vae.use_slicing = kept


def parts_of(vae: Any) -> dict[str, Any]:
    """How an autoencoder of diffusers is set to work in parts: its tiles (height, width, strides), and rows one by one."""
    tile = [getattr(vae, f"tile_sample_{what}") for what in ("min_height", "min_width", "stride_height", "stride_width")]
    return ({"tile": tile} if vae.use_tiling else {}) | ({"slices": True} if vae.use_slicing else {})


def in_parts(vae: Any, size: Sequence[int]) -> str | None:
    """In which parts a picture of that size (h, w in pixels) goes through, in words; None: whole."""
    if vae.use_tiling and (size[0] > vae.tile_sample_min_height or size[1] > vae.tile_sample_min_width):
        return "in tiles"
    return "row by row" if vae.use_slicing else None


def refuse_parts(net: Any, size: Sequence[int], site: str | None = None) -> None:
    """Raise PartsError where somebody listens within an autoencoder (or asks for `site`) that works in parts."""
    how = in_parts(net.inner, size)
    if how is not None and (site is not None or net.listening(*net.SITES)):
        raise PartsError(f"the autoencoder works {how}, so {site or 'a site within it'} never holds a whole picture of all rows: "
                         "pipe.vae.disable_tiling() and pipe.vae.disable_slicing() bring the sites within it back")


@contextmanager
def _alone(vae: Any) -> Iterator[None]:
    """One clip at a time, and nothing of it stays: an autoencoder keeps the last frames of every convolution for those that follow,
    and would mix the clips of two threads."""
    with _GUARD:
        lock = _LOCKS.setdefault(vae, RLock())
    with lock:
        try:
            yield
        finally:
            vae.clear_cache()


def _of(vae: Any, what: str, like: Tensor) -> Tensor:
    """Mean or standard deviation of the latent's channels, (c 1 1)."""
    return torch.tensor(getattr(vae.config, f"latents_{what}"), device=like.device)[:, None, None]


def _folded(given: Tensor, latent: Tensor) -> Tensor:
    """Which frames are given (f,), the first four times, four to a frame of the latent: b f' 4 h w."""
    spread = torch.cat([given[:1].expand(3), given])
    folded = rearrange(spread, "(f i) -> f i", i=4)
    return repeat(folded, "f i -> b f i h w", b=len(latent), h=latent.shape[-2], w=latent.shape[-1])
