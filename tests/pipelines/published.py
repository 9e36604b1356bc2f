"""Folders of Wan as it is published: small ones with the weights of a pipeline, and ones of true size whose values are holes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.stages import published
from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_presets import CLIP_TINY, UMT5_TINY
from wanlab.stages.experts import Experts
from wanlab.stages.published_keys import image_takes, text_takes, vae_takes
from wanlab.stages.takes import Takes

TEXT, VAE, CLIP = "models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


def write(pipe: Wan, folder: Path) -> Path:
    """The folder of a small pipeline in the layout of the published checkpoints, each transformer in one file."""
    folder.mkdir(parents=True)
    size = pipe.dit.config
    experts = {"high_noise_model": "high", "low_noise_model": "low"} if isinstance(pipe.dit, Experts) else {".": ""}
    for place, name in experts.items():
        (folder / place).mkdir(exist_ok=True)
        save_file(dict(pipe.dit.get_submodule(name).state_dict()), folder / place / "diffusion_pytorch_model.safetensors")
        (folder / place / "config.json").write_text(json.dumps({
            "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": size.width, "eps": size.eps, "ffn_dim": size.hidden,
            "freq_dim": size.frequencies, "in_dim": size.inputs, "model_type": "i2v" if size.inputs > size.outputs else "t2v",
            "num_heads": size.heads, "num_layers": size.depth, "out_dim": size.outputs, "text_len": 512}))
    pipe.text.tokenizer.save_pretrained(folder / "google" / "umt5-xxl")
    text, vae = pipe.text.encoder.inner, pipe.vae.encoder.net.inner
    sizes = {key: value for key, value in UMT5_TINY.items() if not key.startswith("relative")}
    names = published.T5(sizes["vocab_size"], sizes["d_model"], sizes["d_kv"] * sizes["num_heads"], sizes["num_heads"],
                         sizes["d_ff"], sizes["num_layers"], 8, 32)
    torch.save(state(names, text, text_takes(text, names.state_dict())), folder / TEXT)
    sizes = vae.config
    names = published.vae(sizes.base_dim, sizes.z_dim, sizes.dim_mult, sizes.num_res_blocks, sizes.in_channels,
                          sizes.decoder_base_dim, sizes.is_residual)
    file = VAE.replace("2.1", "2.2") if sizes.is_residual else VAE
    torch.save(state(names, vae, vae_takes(vae, names.state_dict())), folder / file)
    if size.image_width:
        tower = pipe.clip.tower.inner
        names = published.Clip(side=CLIP_TINY["image_size"], patch=CLIP_TINY["patch_size"], width=CLIP_TINY["hidden_size"],
                               heads=CLIP_TINY["num_attention_heads"], hidden=CLIP_TINY["intermediate_size"],
                               depth=CLIP_TINY["num_hidden_layers"], out=CLIP_TINY["projection_dim"])
        torch.save(state(names, tower, image_takes(tower, names.state_dict())), folder / CLIP)
    return folder


def state(published: nn.Module, module: nn.Module, takes: Takes) -> dict[str, Tensor]:
    """The values of a module under the published names, put together again."""
    ours = module.state_dict()
    return {name: torch.cat([ours[take.name] for take in takes(name)]).reshape(value.shape) if len(takes(name)) > 1
            else ours[takes(name)[0].name].reshape(value.shape) if takes(name) else value
            for name, value in published.state_dict().items()}


def holes(file: Path, shapes: Mapping[str, tuple[int, ...]], kind: str = "BF16", size: int = 2) -> Path:
    """A safetensors file whose values are a hole: as long as a true one, and of no weight on the disk."""
    head, at = {}, 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * size
        head[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    told = json.dumps(head).encode()
    told += b" " * (-len(told) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as opened:
        opened.write(struct.pack("<Q", len(told)) + told)
        opened.truncate(8 + len(told) + at)
    return file


def hole_shards(folder: Path, shapes: Mapping[str, tuple[int, ...]], kind: str = "BF16", limit: int = 5_000_000_000) -> None:
    """The same in shards of at most `limit` numbers, with an index."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if sum(math.prod(one) for one in (*shards[-1].values(), shape)) > limit and shards[-1]:
            shards.append({})
        shards[-1][name] = shape
    names = [f"diffusion_pytorch_model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for file, shard in zip(names, shards, strict=True):
        holes(folder / file, shard, kind, {"BF16": 2, "F32": 4}[kind])
    index = {"metadata": {}, "weight_map": {name: file for file, shard in zip(names, shards, strict=True) for name in shard}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
