"""Names of a Wan transformer's parameters in diffusers' checkpoints, and in the published ones, whose names are ours.

The table is that of diffusers' conversion, read in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from wanlab.stages.takes import Take, Takes

# published name -> diffusers' name, both as they begin within their module; `{n}` is a block's number
_TOP = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k",
              "k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}
_BLOCK = {
    "modulation": "scale_shift_table",
    "norm3": "norm2",                       # the affine norm before the cross-attention: the two count in another order
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in _ATTENTION.items() if "img" not in ours},
    **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in _ATTENTION.items()},
}
_THEIRS = tuple({theirs: ours for ours, theirs in table.items()} for table in (_TOP, _BLOCK))
_UNUSED = re.compile(r"blocks\.\d+\.attn2\.norm_added_q\.weight")       # of old files: nothing reads it
_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
_PARTS = re.compile(r"(?:blocks\.(?P<n>\d+)\.)?(?P<stem>.+?)(?P<leaf>\.weight|\.bias)?")


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ours (or a published one) under diffusers' names. KeyError names a parameter that has none."""
    return {_renamed(name, _TOP, _BLOCK): value for name, value in state.items()}


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of diffusers under our names. KeyError names a parameter that has none."""
    found = {name: from_diffusers_name(name) for name in state}
    return {ours: state[name] for name, ours in found.items() if ours is not None}


def from_diffusers_name(name: str) -> str | None:
    """Our name of a parameter of diffusers', None for one that nothing reads. KeyError where no Wan transformer has it."""
    return None if _UNUSED.fullmatch(name) else _renamed(name, *_THEIRS)


def dit_takes(names: Collection[str]) -> Takes:
    """What becomes of the tensors of a file with these names: diffusers', or the published ones, which are ours; either may stand
    behind a prefix, as in files that hold the transformer of a larger program."""
    prefix = next((start for start in _PREFIXES if any(name.startswith(start) for name in names)), "")
    theirs = any(name.startswith(f"{prefix}condition_embedder.") for name in names)

    def takes(name: str) -> list[Take]:
        ours = name.removeprefix(prefix)
        found = from_diffusers_name(ours) if theirs else ours
        return [] if found is None else [Take(found)]

    return takes


def _renamed(name: str, top: Mapping[str, str], block: Mapping[str, str]) -> str:
    parts = _PARTS.fullmatch(name)
    assert parts is not None
    table = top if parts["n"] is None else block
    if parts["stem"] not in table:
        raise KeyError(f"no Wan transformer has a parameter {name!r}")
    return ("" if parts["n"] is None else f"blocks.{parts['n']}.") + table[parts["stem"]] + (parts["leaf"] or "")
