"""Which Wan lies in a folder, when nobody says it: told by its files and the sizes of its transformer, from headers alone."""

from __future__ import annotations

from pathlib import Path

from wanlab.core.nearest import suggestion
from wanlab.pipelines import lookalikes
from wanlab.pipelines.wan_files import HUB_ID, cached, check_root, found_in
from wanlab.pipelines.wan_presets import PRESETS
from wanlab.pipelines.wan_reading import dit_sizes
from wanlab.pipelines.weights import WeightsError

SHOWN = 8       # files of a folder, or lines of what differs


def place_of(name: str | Path) -> Path | None:
    """The folder that a name means, where it may be weights of Wan: one without pipeline.json, or a cached repository."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return None if (folder / "pipeline.json").is_file() else folder
    return cached(str(name)) if HUB_ID.fullmatch(str(name)) else None


def kind_of(folder: Path) -> str:
    """The preset whose model a folder holds, in diffusers' layout or as published.

    Raises WeightsError that says what is there instead: another pipeline, a Wan of other sizes, one that two presets fit, nothing.
    """
    check_root(folder)
    parts = found_in(folder, ("dit", "dit.high", "dit.low"))
    two = "dit.low" in parts
    if (place := parts.get("dit.high" if two else "dit")) is None:
        held = sorted(file.name for file in folder.iterdir())
        told = ", ".join(held[:SHOWN]) + (f" and {len(held) - SHOWN} more" if len(held) > SHOWN else "")
        raise WeightsError(f"{folder} is no pipeline folder: it has no pipeline.json, no model_index.json or transformer/ "
                           "(Wan in diffusers' layout), and no diffusion_pytorch_model*.safetensors (Wan as published); "
                           f"it holds {told or 'nothing'}")
    sizes, alike = dit_sizes(place), {name: one.dit for name, one in PRESETS.items() if (one.boundary is not None) is two}
    fit = [name for name, dit in alike.items() if not lookalikes.difference(sizes(dit.head_width), dit)]
    if len(fit) > 1:
        raise WeightsError(f"the weights in {folder} fit {' and '.join(fit)}, which differ in the size of the video and the shift "
                           f"of the noise levels: say which is meant, as load({fit[0]!r}, path=…), --pipeline {fit[0]} --path …")
    if not fit:
        told = ", ".join(f"{field} {value}" for field, value in sizes(128).items() if value is not None)
        kind = "two Wan transformers" if two else "a Wan transformer"
        raise WeightsError(f"{folder} holds {kind} of sizes that no preset has: {told}; presets: "
                           f"{', '.join(alike)}")
    return fit[0]


def unknown(name: str, known: list[str]) -> LookupError:
    """What is said of a name that means nothing here."""
    hub = f", and no repository in the hub's cache (get it: hf download {name})" if HUB_ID.fullmatch(name) else ""
    return LookupError(f"no preset and no folder {name!r}{hub}{suggestion(name, known)}; presets: {', '.join(known)}")
