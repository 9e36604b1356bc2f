"""wanlab: an instrument for taking image-to-video diffusion systems apart.

    pipe = wanlab.load("tiny")
    out = pipe.generate("first.png", "a red circle moves left", edits=[wanlab.Zero("fusion.attn.z", heads=[2])])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module that holds it; resolved when first asked for (PEP 562), so that importing wanlab is fast and changes nothing
_FACE = {
    "load": "wanlab.pipelines.load",
    "trace": "wanlab.core",
    **dict.fromkeys(("adapt", "Place"), "wanlab.core"),
    **dict.fromkeys(("Capture", "Select", "Record", "Ledger", "Sites", "Edit", "edit_from_dict"), "wanlab.core"),
    **dict.fromkeys(("Identity", "Zero", "Mean", "Resample", "Noise", "Scale", "Steer", "Patch", "Bypass", "Replace", "Feature",
                     "FreezeFrame", "ShuffleFrames", "ReverseFrames", "LowPassFrames"), "wanlab.core"),
    "World": "wanlab.data.procedural",
    "explore": "wanlab.analysis.explore",
}

__all__ = ["__version__", *_FACE]  # noqa: PLE0604

if TYPE_CHECKING:
    from wanlab.analysis.explore import explore as explore
    from wanlab.core import trace as trace
    from wanlab.pipelines.load import load as load


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        from wanlab.core.nearest import suggestion

        raise AttributeError(f"wanlab has no {name!r}{suggestion(name, list(_FACE))}")
    return getattr(import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
