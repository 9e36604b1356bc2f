"""Names of a DiT's parameters in diffusers' checkpoints, in both directions.

diffusers keeps a copy of the time and class embedding in every block; the published model has one, and so has ours. The copies of
a checkpoint must be equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_TOP = {"embed": "pos_embed.proj", "modulate": "proj_out_1", "head": "proj_out_2"}
_EMBEDDINGS = {"time.0": "timestep_embedder.linear_1", "time.2": "timestep_embedder.linear_2",
               "label": "class_embedder.embedding_table"}
_BLOCK = {"modulate": "norm1.linear", "up": "ff.net.0.proj", "down": "ff.net.2",
          "attn.q": "attn1.to_q", "attn.k": "attn1.to_k", "attn.v": "attn1.to_v", "attn.o": "attn1.to_out.0"}
_PARTS = re.compile(r"(?:blocks\.(?P<n>\d+)\.)?(?P<stem>.+)\.(?P<leaf>weight|bias)")
_THEIRS = re.compile(r"(?:transformer_blocks\.(?P<n>\d+)\.)?(?P<stem>.+)\.(?P<leaf>weight|bias)")
_BACK = {"top": {v: k for k, v in _TOP.items()}, "block": {v: k for k, v in _BLOCK.items()},
         "embedding": {f"norm1.emb.{v}": k for k, v in _EMBEDDINGS.items()}}


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of `ImageDit` under diffusers' names, the embeddings repeated in every block. KeyError names what has none."""
    depth = 1 + max(int(parts["n"]) for name in state if (parts := _PARTS.fullmatch(name)) and parts["n"])
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        parts = _PARTS.fullmatch(name)
        stem = None if parts is None else parts["stem"]
        table = _TOP if parts is None or parts["n"] is None else _BLOCK
        if parts is not None and parts["n"] is None and stem in _EMBEDDINGS:
            out |= {f"transformer_blocks.{n}.norm1.emb.{_EMBEDDINGS[stem]}.{parts['leaf']}": value for n in range(depth)}
        elif parts is None or stem not in table:
            raise KeyError(f"no DiT has a parameter {name!r}")
        else:
            block = "" if parts["n"] is None else f"transformer_blocks.{parts['n']}."
            out[f"{block}{table[stem]}.{parts['leaf']}"] = value
    return out


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of diffusers under our names. KeyError names what has none, ValueError an embedding whose copies differ."""
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        ours = from_diffusers_name(name)
        if ours in out and not torch.equal(out[ours], value):
            raise ValueError(f"the copies of {ours} differ from block to block ({name}): the published DiT has one for all")
        out.setdefault(ours, value)
    return out


def from_diffusers_name(name: str) -> str:
    """Our name of a parameter of diffusers'. KeyError where no DiT has it."""
    parts = _THEIRS.fullmatch(name)
    stem, block = (None, None) if parts is None else (parts["stem"], parts["n"])
    if parts is not None and block is None and stem in _BACK["top"]:
        return f"{_BACK['top'][stem]}.{parts['leaf']}"
    if parts is not None and block is not None and stem in _BACK["block"]:
        return f"blocks.{block}.{_BACK['block'][stem]}.{parts['leaf']}"
    if parts is not None and block is not None and stem in _BACK["embedding"]:
        return f"{_BACK['embedding'][stem]}.{parts['leaf']}"
    raise KeyError(f"no DiT has a parameter {name!r}")
