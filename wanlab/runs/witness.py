"""Witnesses of a run: what passed every site, in order, and what a model looks like before and after."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core import Hookable, clock
from wanlab.core.firing import Key
from wanlab.core.lazy import Lazy
from wanlab.core.tap import Onlooker
from wanlab.pipelines.base import FOUND_OUT

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Witness(Onlooker):
    """Notes every firing of every site in order, with a digest of each row (of the whole, where axis b is not the first).

    It is hung before the traces that open inside it, so that it sees what comes to a site, not what an edit makes of it.
    Dense attention maps are not computed for it. `digests=False` only counts.
    """

    def __init__(self, root: nn.Module, digests: bool = True) -> None:
        super().__init__(root)
        self._digests = digests
        self.firings: dict[Key, tuple[bytes, ...]] = {}

    def listens(self, module: Hookable, name: str) -> bool:
        """Nothing is computed for a witness."""
        return False

    def fire(self, module: Hookable, name: str, x: Any, identity: Any) -> Any:
        """Note what passes; it passes unchanged."""
        if self._here:
            tick = clock.now()
            key = Key(self._full(module, name), tick.step, tick.branch)
            while key in self.firings:
                key = key._replace(call=key.call + 1)
            rows = x.unbind(0) if module.SITES[name].split()[0] == "b" and not isinstance(x, Lazy) else (x,)
            self.firings[key] = tuple(digest(row) for row in rows) if self._digests and not isinstance(x, Lazy) else ()
        return x


def digest(x: Tensor) -> bytes:
    """Eight bytes that tell one tensor's values from another's."""
    plain = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(plain.data, digest_size=8).digest()


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that a run could leave behind: every parameter and buffer by its digest, hooks, taps and attributes by module."""
    found: dict[str, Any] = {f"weight {name}": digest(value) for name, value in model.named_parameters()}
    found |= {f"buffer {name}": digest(value) for name, value in model.named_buffers()}
    for path, module in model.named_modules():
        name = path or type(module).__name__
        found[f"hooks of {name}"] = tuple(len(getattr(module, kind)) for kind in HOOKS)
        found[f"attributes of {name}"] = tuple(sorted(set(vars(module)) - set(FOUND_OUT)))
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not as it was, by name."""
    return [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
