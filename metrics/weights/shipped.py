"""The networks that ship with the package, and how their files are read: strictly, with their hash checked."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .digest import sha256

FOLDER = Path(__file__).parent


@cache
def provenance() -> dict[str, dict[str, Any]]:
    """Name -> what is known of that file: recipe, seed, steps, minutes, device, validation figures, sha256, config.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    path = FOLDER / "weights.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the package was installed without the weights of its judges")
    return json.loads(path.read_text())


def short_hash(name: str) -> str:
    """The first eight hex digits of a shipped network's file: what stands in a metric's name."""
    return str(entry(name)["sha256"])[:8]


def entry(name: str) -> dict[str, Any]:
    """One network's provenance.

    Raises:
        KeyError: no network of that name ships; the message lists those that do.
    """
    known = provenance()
    if name not in known:
        raise KeyError(f"no network {name!r} ships with the package; there are {', '.join(sorted(known))}")
    return known[name]


def read(name: str) -> dict[str, Tensor]:
    """The tensors of a shipped network, as float32.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: its bytes are not those that were trained (sha256 differs).
    """
    from safetensors.torch import load

    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but weights.json lists it")
    found, expected = sha256(path), entry(name)["sha256"]
    if found != expected:
        raise ValueError(f"{path} is not the trained file: sha256 {found[:16]} instead of {expected[:16]}")
    return {key: value.float() for key, value in load(path.read_bytes()).items()}


def load_into(network: nn.Module, name: str) -> nn.Module:
    """`network` with the shipped weights, every key matched, frozen and in evaluation mode."""
    network.load_state_dict(read(name), strict=True)
    return network.eval().requires_grad_(False)


def finished(folder: Path, name: str) -> dict[str, Any] | None:
    """The entry of a network that was saved to `folder` and whose file is still the one that was saved; else None."""
    index, path = folder / "weights.json", folder / f"{name}.safetensors"
    known = json.loads(index.read_text()).get(name) if index.is_file() else None
    return known if known and path.is_file() and sha256(path) == known["sha256"] else None


def save(network: nn.Module, name: str, note: dict[str, Any], folder: Path) -> Path:
    """Writes `folder/name.safetensors` (float16) and its entry in `folder/weights.json`; returns the file's path."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    state = {key: value.detach().cpu().to(torch.float16).contiguous() for key, value in network.state_dict().items()}
    save_file(state, path)
    index = folder / "weights.json"
    known = json.loads(index.read_text()) if index.is_file() else {}
    known[name] = {**note, "sha256": sha256(path), "bytes": path.stat().st_size}
    index.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")
    return path
