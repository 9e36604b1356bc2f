"""Reading the tensors of weight files: safetensors, or torch files without running anything that stands in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .published import WeightsError

M = TypeVar("M", bound=nn.Module)


def tensors(path: str | Path, inside: str | None = None) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, of a `.safetensors` file or of a state that torch saved (`weights_only=True`).

    Args:
        path: the file.
        inside: the key under which a checkpoint holds its state, such as "module"; None: the file is the state.

    Raises:
        WeightsError: not such a file, a file that wants to run code, no such key, or something that is no tensor.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle end in whatever the unpickler stumbles over
        raise WeightsError(f"{path}: no file of plain tensors ({_shortened(str(error))})") from error
    if inside is not None:
        if not isinstance(held, Mapping) or inside not in held:
            raise WeightsError(f"{path}: holds no {inside!r}; it has {_keys(held)}")
        held = held[inside]
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise WeightsError(f"{path}: not a mapping of names to tensors; it has {_keys(held)}")
    return dict(held)


def fill(network: M, state: Mapping[str, Tensor], path: str | Path) -> M:
    """`network` with every one of its tensors from `state`, frozen and in evaluation mode.

    Raises:
        WeightsError: a tensor is missing, unexpected, of another shape or not finite; a partial load would leave the rest random.
    """
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: not the weights of {type(network).__name__}: {_shortened(str(error))}") from error
    broken = [key for key, value in network.state_dict().items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise WeightsError(f"{path}: NaN or infinite values in {', '.join(broken[:4])}")
    return network.eval().requires_grad_(False)


def from_folder(kind: Any, path: str | Path) -> nn.Module:
    """A model of transformers from a folder with config.json and weights, frozen; nothing is downloaded.

    Args:
        kind: a model class, such as `transformers.VideoMAEModel`.
        path: the folder.

    Raises:
        WeightsError: not such a folder, or tensors of the model are missing there (transformers would leave them random).
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise WeightsError(f"{path}: no folder of {kind.__name__} (no config.json)")
    try:
        model, told = kind.from_pretrained(path, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: not a folder of {kind.__name__} ({_shortened(str(error))})") from error
    lacking = sorted(told["missing_keys"]) + sorted(str(key) for key in told.get("mismatched_keys", ()))
    if lacking:
        raise WeightsError(f"{path}: {kind.__name__} needs {len(lacking)} tensors that are not there: {', '.join(lacking[:4])}")
    return model.eval().requires_grad_(False)


def _keys(held: object) -> str:
    return ", ".join(map(str, list(held)[:6])) if isinstance(held, Mapping) else type(held).__name__


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 400 else text[:400] + " ..."
