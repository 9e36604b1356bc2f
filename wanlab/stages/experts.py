"""Dit stage of Wan2.2's A14B: two transformers of one size, one for high noise and one for low; each has its own sites."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from wanlab.stages.dit import Config, Dit


class Experts(nn.Module):
    """`high` is at work while the timestep (0 to 1000) is at least 1000 `boundary`, `low` after that.

    A site's address carries its expert: `dit.high.blocks.3.self_attn.z`. It fires in the expert's own steps alone.
    """

    img_emb = None              # neither reads image tokens

    def __init__(self, high: Dit, low: Dit, boundary: float) -> None:
        super().__init__()
        if high.config != low.config:
            raise ValueError(f"two experts are of one size, these are {high.config} and {low.config}")
        self.high, self.low, self.boundary = high, low, boundary

    @property
    def config(self) -> Config:
        """The size of each."""
        return self.high.config

    def at(self, time: float) -> str:
        """Which one is at work at a timestep."""
        return "high" if time >= 1000 * self.boundary else "low"

    def steps(self, times: Sequence[float]) -> dict[str, range]:
        """The steps of each, at these timesteps (falling)."""
        high = sum(self.at(time) == "high" for time in times)
        return {"high": range(high), "low": range(high, len(times))}
