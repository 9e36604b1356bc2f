"""Kernels that give attention together with its log-sum-exp, in one table, and the one function that chooses among them.

The log-sum-exp of a query's logits is natural and float32: exp(logit - lse) is an entry of the map. Tests hold every kernel
of the table against the dense map; which of them run on this machine, `available()` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend

from wanlab.nn.flush import attend_mass, why_not

Kernel = Callable[[Tensor, Tensor, Tensor, "Tensor | None", float], "tuple[Tensor, Tensor]"]
Grouped = Callable[[Tensor, Tensor, Tensor, Sequence[int], float], "tuple[Tensor, Tensor, Tensor]"]
ALIGNED = 16            # elements: what CUDA's memory-efficient kernel wants a bias's rows to be multiples of


@dataclass(frozen=True)
class Backend:
    """A kernel: (q, k, v, bias, scale) -> (output b k n d, lse b k n); all with four axes, v as wide as q.

    `refuses` says why it cannot take such tensors; None: it can. `fused` is torch's name for the kernel within
    scaled_dot_product_attention: where that is chosen there, the output here has the same bytes. `grouped` gives beside both the
    mass on groups of keys that follow each other, b k n g, in the same pass: (q, k, v, sizes of the groups, scale).
    """

    name: str
    call: Kernel
    refuses: Callable[[Tensor, Tensor | None], str | None]
    fused: SDPBackend | None = None
    grouped: Grouped | None = None


def _cpu_flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias, scale=scale)


def _cpu_flash_refuses(q: Tensor, bias: Tensor | None) -> str | None:
    return None if q.device.type == "cpu" else f"it runs on cpu, not on {q.device.type}"


def _cuda_flash(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    width = q.shape[-1]
    q, k, v = (F.pad(x, (0, -width % 8)) for x in (q, k, v))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)
    return out[..., :width], lse


def _cuda_flash_refuses(q: Tensor, bias: Tensor | None) -> str | None:
    if q.device.type != "cuda":
        return f"it runs on cuda, not on {q.device.type}"
    if bias is not None:
        return "it takes no additive bias"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"it takes float16 and bfloat16, not {q.dtype}"
    return None if q.shape[-1] <= 256 else f"it takes heads of at most 256, not {q.shape[-1]}"


def _efficient(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    width, keys = q.shape[-1], k.shape[-2]
    q, k, v = (F.pad(x, (0, -width % 8)) for x in (q, k, v))
    if bias is not None:
        bias = F.pad(bias.to(q.dtype), (0, -keys % ALIGNED))[..., :keys].expand(*q.shape[:-1], keys)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, scale=scale)
    return out[..., :width], lse[..., : q.shape[-2]]            # the kernel pads its rows


def _efficient_refuses(q: Tensor, bias: Tensor | None) -> str | None:
    return None if q.device.type == "cuda" else f"it runs on cuda, not on {q.device.type}"


def _flex(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    biased = None if bias is None else lambda score, b, h, i, j: score + bias[b, h, i, j]
    run: Any = _compiled(flex_attention) if q.is_cuda else flex_attention
    out, aux = run(q, k, v, score_mod=biased, scale=scale, return_aux=AuxRequest(lse=True))
    return out, aux.lse


def _flex_refuses(q: Tensor, bias: Tensor | None) -> str | None:
    try:
        from torch.nn.attention.flex_attention import AuxRequest  # noqa: F401
    except ImportError:
        return "this torch's flex_attention does not give a log-sum-exp"
    if q.device.type not in ("cuda", "cpu"):
        return f"it runs on cuda and, without fusing anything, on cpu, not on {q.device.type}"
    return None if q.shape[-1] >= 16 or q.device.type == "cpu" else f"it takes heads of at least 16, not {q.shape[-1]}"


_COMPILED: dict[Callable[..., Any], Callable[..., Any]] = {}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    if function not in _COMPILED:
        _COMPILED[function] = torch.compile(function)
    return _COMPILED[function]


def blockwise(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, block: int = 1024) -> tuple[Tensor, Tensor]:
    """The kernel of last resort, in plain torch on any device: queries by blocks, each against all keys, in float32 at least."""
    wide = torch.promote_types(q.dtype, torch.float32)
    outs, sums = [], []
    for start in range(0, q.shape[-2], block):
        rows = slice(start, start + block)
        logits = scale * (q[..., rows, :].to(wide) @ k.to(wide).transpose(-1, -2))
        logits = logits if bias is None else logits + bias[..., rows, :]
        lse = logits.logsumexp(-1)
        outs.append(((logits - lse[..., None]).exp() @ v.to(wide)).to(v.dtype))
        sums.append(lse)
    return torch.cat(outs, -2), torch.cat(sums, -1)


def _triton(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    return attend_mass(q, k, v, [k.shape[-2]], scale)[:2]


def _triton_refuses(q: Tensor, bias: Tensor | None) -> str | None:
    if bias is not None:
        return "it takes no additive bias"
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32) or q.shape[-1] > 128:
        return f"it takes heads of at most 128 in float16, bfloat16 or float32, not of {q.shape[-1]} in {q.dtype}"
    return why_not(str(q.device))


# In the order of preference.
BACKENDS = {backend.name: backend for backend in (
    Backend("cpu flash", _cpu_flash, _cpu_flash_refuses, SDPBackend.FLASH_ATTENTION),
    Backend("cuda flash", _cuda_flash, _cuda_flash_refuses, SDPBackend.FLASH_ATTENTION),
    Backend("memory-efficient", _efficient, _efficient_refuses, SDPBackend.EFFICIENT_ATTENTION),
    Backend("flex", _flex, _flex_refuses),
    Backend("triton", _triton, _triton_refuses, grouped=attend_mass),
    Backend("blockwise", blockwise, lambda q, bias: None),
)}


def choose(q: Tensor, bias: Tensor | None = None, grouped: bool = False) -> Backend:
    """The first kernel of the table that can take such queries (b k n d) and such a bias; grouped: one that gives the mass on
    groups of keys in the same pass, where there is one.

    Flex stands behind what is fused everywhere; on a CPU it would hold the dense map.
    """
    if grouped:
        for one in BACKENDS.values():
            if one.grouped is not None and one.refuses(q, bias) is None:
                return one
    fits = (one for one in BACKENDS.values() if one.refuses(q, bias) is None and (one.name != "flex" or q.is_cuda))
    return next(fits)


def available(device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, str | None]:
    """Of each kernel why it cannot run there; None: it can."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        return dict.fromkeys(BACKENDS, "no CUDA device on this machine")
    q = torch.empty(1, 1, 1, 64, device=device, dtype=dtype)
    return {name: backend.refuses(q, None) for name, backend in BACKENDS.items()}


def attend_lse(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None,
               backend: str | None = None) -> tuple[Tensor, Tensor]:
    """softmax(scale q k^T + bias) v and the log-sum-exp of the logits: b k n d -> (b k n e, b k n float32).

    v may have another width than q: it is padded with zeros, or taken in parts, as the kernels ask. bias broadcasts to
    b k n j. ValueError where the kernel named by `backend` cannot take these tensors.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if bias is not None:
        bias = bias.to(q.dtype).expand(*q.shape[:-1], k.shape[-2])
    chosen = choose(q, bias) if backend is None else BACKENDS[backend]
    why_not = chosen.refuses(q, bias)
    if why_not:
        raise ValueError(f"{chosen.name} cannot run here: {why_not}")
    width = q.shape[-1]
    v = v.expand(*k.shape[:-1], v.shape[-1])
    parts = [chosen.call(q, k, F.pad(part, (0, width - part.shape[-1])) if part.shape[-1] < width else part, bias, scale)
             for part in v.split(width, -1)]
    out = parts[0][0] if len(parts) == 1 else torch.cat([part for part, _ in parts], -1)
    return out[..., : v.shape[-1]], parts[0][1].float()


def same_bytes(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> bool:
    """Whether scaled_dot_product_attention would run the very kernel that `choose` names, so that one call can stand for both."""
    chosen, ask = choose(q, bias), getattr(torch, "_fused_sdp_choice", None)
    if chosen.fused is None or ask is None or v.shape[-1] != q.shape[-1]:
        return False
    return ask(q, k, v, bias, 0.0, False, scale=scale) == chosen.fused.value
