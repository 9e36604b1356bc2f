"""Textures as sums of plane waves, averaged over each pixel exactly.

A wave sin(2 pi (u x + v y) + p) splits into products of a factor of x and a factor of y, so that an image of many waves
is one matrix product; a shift, rotation or scaling of the texture only changes u, v and p; and its mean over a square
pixel of side 1/w is the wave itself times sinc(u/w) sinc(v/w). So textures move without resampling, alias no more than
averaging over pixels does, and look the same at every size up to resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Waves:
    """k plane waves: frequency `... k 2` (cycles per width), phase `... k` (radians), colour `k c` (amplitudes)."""

    frequency: NDArray[np.floating]
    phase: NDArray[np.floating]
    colour: NDArray[np.floating]

    def __add__(self, other: Waves) -> Waves:
        """Both textures, one over the other."""
        pairs = zip((self.frequency, self.phase, self.colour), (other.frequency, other.phase, other.colour), strict=True)
        return Waves(*(np.concatenate(pair) for pair in pairs))

    def moved(self, shift: NDArray, scale: NDArray, angle: NDArray) -> Waves:
        """The same texture carried by similarity transforms x -> shift + scale R(angle) x, one per leading index.

        shift `f 2` (fractions of the width), scale `f`, angle `f` (radians, clockwise on screen).
        """
        cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
        u, v = self.frequency[..., 0], self.frequency[..., 1]
        turned = np.stack([cos[:, None] * u - sin[:, None] * v, sin[:, None] * u + cos[:, None] * v], -1)
        phase = self.phase - 2 * np.pi * np.einsum("fkd,fd->fk", turned, shift)
        return Waves(turned, phase, self.colour)

    def image(self, x: NDArray, y: NDArray, pixel: float) -> Array:
        """Draw on the grids x `f w`, y `f h` (fractions of the width) with square pixels of side `pixel`: `f h c w`."""
        u, v = self.frequency[..., 0], self.frequency[..., 1]  # f k, or 1 k where frames differ by their phase alone
        weight = (np.sinc(u * pixel) * np.sinc(v * pixel)).astype(np.float32)[..., None, :]  # f 1 k
        along = (2 * np.pi * u[..., None] * x[..., None, :]).astype(np.float32)  # f k w
        down = 2 * np.pi * v[..., None, :] * y[..., :, None] + self.phase[..., None, :]  # f h k
        down = down.astype(np.float32)
        rows = np.concatenate([np.sin(down) * weight, np.cos(down) * weight], -1)  # f h 2k
        columns = np.concatenate([np.cos(along), np.sin(along)], -2)  # f 2k w
        colour = np.concatenate([self.colour, self.colour]).astype(np.float32)
        columns = columns[..., :, None, :] * colour[:, :, None]  # f 2k c w
        c, w = columns.shape[-2:]
        flat = rows @ columns.reshape(*columns.shape[:-2], c * w)
        return flat.reshape(*flat.shape[:-1], c, w)
