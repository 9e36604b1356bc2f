"""Parts of a cascade that others published: T5 for the text stage, DiT and its autoencoder for the image stage.

They are read from a local folder, or from the hub's cache by id (huggingface_hub downloads what is not there), at one revision:
the same bytes for everyone, whatever is uploaded later. They are read strictly, and only where their sizes are those of the stage.
The projections around them belong to no published model and stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core.nearest import suggestion
from wanlab.graph import digest, file_digest
from wanlab.pipelines.shards import Shards
from wanlab.pipelines.weights import WeightsError
from wanlab.stages.image_dit_keys import from_diffusers
from wanlab.stages.latent import SCALE, LatentEncoder
from wanlab.stages.t5 import T5Encoder

# what each stage is published as, and what of a repository is read
T5, DIT = "google-t5/t5-base", "facebook/DiT-XL-2-256"
USUAL = {"text": T5, "image": DIT}
REVISIONS = {T5: "a9723ea7f1b39c1eae772870f3b547bf6ef7e6c1", DIT: "eab87f77abd5aef071a632f08807fbaab0b704d0"}
READ = {"text": ["*.json", "*.safetensors", "*.model"], "image": ["transformer/*", "vae/*"]}
# settings that diffusers has had only since those files were written, as it reads files without them
LATER: dict[str, dict[str, Any]] = {"transformer": {"norm_eps": 1e-5}, "vae": {"norm_num_groups": 32, "scaling_factor": SCALE}}


def fill_published(stage: str, module: nn.Module, source: str | Path) -> None:
    """Give a stage the weights of `source`: a folder, or a hub id (`T5`, `DIT`, or another of the same sizes as `ID@REVISION`).

    Raises WeightsError for a folder that is missing, partial, damaged or of another model, LookupError for a stage without
    published parts.
    """
    if isinstance(module, T5Encoder):
        _fill_text(module, folder_of(stage, source))
    elif isinstance(module, LatentEncoder):
        _fill_image(module, folder_of(stage, source))
    else:
        raise LookupError(f"nothing is published for the stage {stage} ({type(module).__name__}); text (T5) and image (DiT) of the "
                          "preset article have published parts")


def found_at(source: str | Path) -> str:
    """`source` as it is found from anywhere: the folder's whole path, or ID@COMMIT of a repository; nothing is read or downloaded.

    Raises WeightsError for what is neither.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    name, _, said = str(source).partition("@")
    if (revision := said or REVISIONS.get(name)) is None:
        raise WeightsError(f"{source} is no folder, and as a repository of the hub it needs the revision that you trust: "
                           f"{source}@COMMIT{suggestion(name, REVISIONS)}")
    return f"{name}@{revision}"


def folder_of(stage: str, source: str | Path, local: bool = False) -> Path:
    """The folder with what was published for a stage; of a repository the hub's cache, which is filled unless `local`.

    Raises WeightsError where there is none.
    """
    place = found_at(source)
    if (folder := Path(place)).is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = place.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=READ[stage], local_files_only=local))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise WeightsError(f"{source} is no folder, and no repository that the hub or its cache has: {error}") from None


def content_key(stage: str, source: str | Path) -> str:
    """The content key of the files that a stage reads of `source`, wherever they lie. Raises WeightsError for what is not here."""
    folder = folder_of(stage, source, local=True)
    patterns = READ[stage] if any(folder.glob("*.safetensors")) else [*READ[stage], "*.bin"]
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return digest([(path.relative_to(folder).as_posix(), _file_key(path, path.stat().st_mtime_ns)) for path in files])


@cache
def _file_key(path: Path, changed: int) -> str:
    """Of one file; these are gigabytes, so each is read once while it stays as it is."""
    return file_digest(path)


def trained_around(stage: str, given: str | Path | None, told: Mapping[str, str]) -> Path:
    """The folder with what a stage was trained around: `given`, else where pipeline.json says that it was (`told`: source, key).

    What a file names is looked for here; only the revisions of this module are downloaded on its word. Raises WeightsError where
    nothing is there, and where its files are others.
    """
    source = given or told["source"]
    ours = source in {f"{name}@{revision}" for name, revision in REVISIONS.items()}
    try:
        folder = folder_of(stage, source, local=not given and not ours)
    except WeightsError as error:
        if given:
            raise
        raise WeightsError(f"the stage {stage} was trained around {source}, which is not here and no part of its own weights: give "
                           f"published={{{stage!r}: ...}}, the folder where it is or an id of the hub") from error
    if content_key(stage, folder) != told["key"]:
        raise WeightsError(f"{source} is not what the stage {stage} was trained around ({told['source']}): its files differ")
    return folder


def _fill_text(stage: T5Encoder, folder: Path) -> None:
    from transformers import AutoTokenizer, T5EncoderModel

    config, told = stage.config, _told(folder / "config.json")
    _demand(folder, config, told, {"vocabulary": "vocab_size", "width": "d_model", "head_width": "d_kv", "heads": "num_heads",
                                   "depth": "num_layers", "hidden": "d_ff", "buckets": "relative_attention_num_buckets"})
    if (given := told.get("feed_forward_proj", "relu")) != config.feed_forward:
        raise WeightsError(f"{folder} is another model: feed_forward {given} instead of {config.feed_forward}")
    model = _read(folder, lambda: T5EncoderModel.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True))
    stage.encoder.inner.load_state_dict(model.state_dict(), strict=True)
    try:
        stage.__dict__["tokenizer"] = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} has no tokenizer that can be read: {error}") from None


def _fill_image(stage: LatentEncoder, folder: Path) -> None:
    from diffusers import AutoencoderKL

    if missing := [part for part in ("transformer", "vae") if not (folder / part).is_dir()]:
        raise WeightsError(f"{folder} is no DiT in diffusers' layout: it lacks {', '.join(missing)}/")
    told = LATER["transformer"] | _told(folder / "transformer" / "config.json")
    told["width"] = told.get("num_attention_heads", 0) * told.get("attention_head_dim", 0)
    _demand(folder / "transformer", stage.dit.sizes, told, {
        "side": "sample_size", "channels": "in_channels", "outputs": "out_channels", "patch": "patch_size", "width": "width",
        "heads": "num_attention_heads", "depth": "num_layers", "classes": "num_embeds_ada_norm", "mlp_eps": "norm_eps"})
    state = _tensors(folder / "transformer")
    try:
        stage.dit.load_state_dict({name: value.float() for name, value in from_diffusers(state).items()}, strict=True)
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder / 'transformer'} holds the weights of another model: {error.args[0]}") from None

    told = LATER["vae"] | _told(folder / "vae" / "config.json")
    _demand(folder / "vae", stage.config, told | {"block_out_channels": tuple(told.get("block_out_channels", ()))}, {
        "vae_widths": "block_out_channels", "vae_blocks": "layers_per_block", "vae_groups": "norm_num_groups",
        "latent": "latent_channels"})
    if abs((scale := told["scaling_factor"]) - SCALE) > 1e-6:
        raise WeightsError(f"{folder / 'vae'} is another model: scaling_factor {scale} instead of {SCALE}")
    vae = _read(folder / "vae", lambda: AutoencoderKL.from_pretrained(
        folder / "vae", torch_dtype=torch.float32, local_files_only=True, output_loading_info=True))
    half: Any = stage.vae.inner
    half.encoder.load_state_dict(vae.encoder.state_dict(), strict=True)
    half.quant_conv.load_state_dict(vae.quant_conv.state_dict(), strict=True)


def _told(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsError(f"{path} is missing: what its model's sizes are cannot be told")
    try:
        told: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path} is not valid JSON: {error}") from None
    return told


def _demand(folder: Path, ours: Any, theirs: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Raise WeightsError where a checkpoint says of itself that it has other sizes."""
    differ = [f"{name} {theirs.get(key)} instead of {getattr(ours, name)}" for name, key in names.items()
              if theirs.get(key) != getattr(ours, name)]
    if differ:
        raise WeightsError(f"{folder} is another model: {', '.join(differ)}")


def _read(folder: Path, read: Callable[[], Any]) -> Any:
    """The model that a library reads from a folder; WeightsError where anything of it was missing, damaged or did not fit."""
    from safetensors import SafetensorError

    try:
        model, info = read()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder} is damaged or holds no weights: {error}") from None
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if found := sorted(map(str, info.get(kind) or ())):
            raise WeightsError(f"{folder} holds the weights of another model: {len(found)} {kind.replace('_', ' ')}, as {found[0]}")
    return model


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder of safetensors, else of the one torch file that older checkpoints have; no code in it is run."""
    pickled = sorted(folder.glob("*.bin"))
    if any(folder.glob("*.safetensors")) or not pickled:
        return dict(Shards(folder))
    import pickle

    try:
        state: dict[str, Tensor] = torch.load(pickled[0], map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{pickled[0]} is damaged or holds more than tensors: {error}") from None
    return state
