"""Tiny random models of transformers and diffusers, tables of sites for them, and edits by plain hooks of torch to compare with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wanlab.core import Place

HEADS = {"reshape": "b n (k d) -> b k n d", "sizes": {"k": "n_heads"}}
T5 = {
    "embed": Place("encoder.embed_tokens", "b n c"),
    "blocks.{i}.resid": Place("encoder.block.{i}", "b n c", side="input", item="hidden_states"),
    **{f"blocks.{{i}}.attn.{one}": Place(f"encoder.block.{{i}}.layer.0.SelfAttention.{one}", **HEADS) for one in "qkv"},
    "blocks.{i}.attn.z": Place("encoder.block.{i}.layer.0.SelfAttention.o", side="input", **HEADS),
    "blocks.{i}.attn.out": Place("encoder.block.{i}.layer.0.SelfAttention", "b n c", item=0, identity="zeros"),
    "blocks.{i}.mlp": Place("encoder.block.{i}.layer.1.DenseReluDense", "b n c", identity="zeros"),
    "blocks.{i}.out": Place("encoder.block.{i}", "b n c", item=0),
    "out": Place("", "b n c", item="last_hidden_state"),
}
BLOCK = "{part}_blocks.{i}.attentions.{j}.transformer_blocks.0"
CROSS = {"reshape": "b n (k d) -> b k n d", "sizes": {"k": "heads"}}
UNET = {
    **{f"{{part}}.{{i}}.{{j}}.attn{{m}}.{one}": Place(f"{BLOCK}.attn{{m}}.to_{one}", **CROSS) for one in "qkv"},
    "{part}.{i}.{j}.attn{m}.z": Place(f"{BLOCK}.attn{{m}}.to_out.0", side="input", **CROSS),
    "{part}.{i}.resnet.{j}": Place("{part}_blocks.{i}.resnets.{j}", "b c h w"),
    "down.{i}.out": Place("down_blocks.{i}", "b c h w", item=0),
    "down.{i}.skip": Place("down_blocks.{i}", "b c h w", item=(1, 0)),
    "mid.context": Place("mid_block", "b j c", side="input", item="encoder_hidden_states"),
    "time": Place("time_embedding", "b c", identity=None),
    "prediction": Place("", "b c h w", item="sample"),
}


def tiny_t5() -> nn.Module:
    """A T5 encoder of transformers with random weights."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(vocab_size=40, d_model=32, d_kv=6, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0,
                      feed_forward_proj="gated-gelu")
    return perturbed(T5EncoderModel(config))


def tiny_unet() -> nn.Module:
    """A two-level UNet2DConditionModel of diffusers with random weights; 4 heads at 8 channels."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return perturbed(UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        cross_attention_dim=12, attention_head_dim=(2, 4), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")))


def perturbed(model: nn.Module) -> nn.Module:
    """Without the zeros and ones of a fresh model, which would hide what lies before them."""
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval().requires_grad_(False)


def words(rows: int = 3) -> Tensor:
    """Token numbers (rows, 7)."""
    return torch.arange(rows * 7).reshape(rows, 7) % 37 + 1


def denoise(unet: nn.Module, rows: int = 2) -> Tensor:
    """One forward of the UNet on fixed noise."""
    draw = torch.Generator().manual_seed(1)
    x, context = torch.randn(rows, 4, 8, 8, generator=draw), torch.randn(rows, 5, 12, generator=draw)
    return unet(x, torch.tensor(3), encoder_hidden_states=context).sample


def hooks(model: nn.Module) -> list[tuple[int, ...]]:
    """How many hooks of each kind every module carries."""
    kept = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
            "_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks")
    return [tuple(len(getattr(module, one)) for one in kept) for module in model.modules()]


def with_hook(module: nn.Module, change: Callable[[Tensor], Tensor], run: Callable[[], Tensor], before: bool = False) -> Tensor:
    """The reference: a plain forward hook of torch that changes the first input or the output."""
    handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:])) if before else \
        module.register_forward_hook(lambda _, args, out: change(out))
    try:
        return run()
    finally:
        handle.remove()


def without(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    """Zeros in some of the last channels."""
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[..., start:stop] = 0
        return x
    return change
