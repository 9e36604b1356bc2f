"""Networks that others published: where their files lie on this machine, and whether they are the published ones.

Nothing is ever downloaded. A file that was given comes first, then the folder of WANLAB_WEIGHTS, then the caches of torch
and of the Hugging Face hub; where none has it, the error says which file, from where, and how to give it.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from .digest import SHORT, sha256

ENVIRONMENT = "WANLAB_WEIGHTS"


class WeightsError(RuntimeError):
    """Weights that are missing, unknown, damaged or not those that were asked for; the message says how to give them."""


@dataclass(frozen=True)
class Published:
    """One network's weights as they were published.

    files: names that the file has in caches; source: where to get it; hashes: accepted sha256, whole or their first
    digits (torchvision and torch.hub write eight into the file's name), empty where none is known; repo: a repository of
    the Hugging Face hub, whose folder (or whose file of that name) is looked for in its cache.
    """

    source: str
    files: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    repo: str = ""


def _torch(file: str, where: str = "https://download.pytorch.org/models/") -> Published:
    """A file whose name ends in the first digits of its hash."""
    return Published(where + file, (file,), (file.rsplit("-", 1)[1].split(".")[0],))


def _hub(repo: str, *files: str) -> Published:
    """A repository of the Hugging Face hub: its folder, or one file of it."""
    path = f"/blob/main/{files[0]}" if files else ""
    return Published(f"https://huggingface.co/{repo}{path}", files, repo=repo)


PUBLISHED: dict[str, Published] = {
    # trunks of LPIPS and DISTS
    "alexnet": _torch("alexnet-owt-7be5be79.pth"),
    "vgg16": _torch("vgg16-397923af.pth"),
    "squeezenet1_1": _torch("squeezenet1_1-b8a52dc0.pth"),
    # optical flow
    "raft_large": _torch("raft_large_C_T_SKHT_V2-ff5fadd5.pth"),
    "raft_small": _torch("raft_small_C_T_V2-01064c6d.pth"),
    "raft_things": _torch("raft_large_C_T_V1-22a6c225.pth"),  # the authors' raft-things.pth in torchvision's layout
    # video networks
    "i3d": Published(
        "the VideoGPT or TATS repository (i3d_pretrained_400.pt, converted from tf.hub deepmind/i3d-kinetics-400/1)",
        ("i3d_pretrained_400.pt",),
    ),
    "i3d_torchscript": Published(
        "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1 (StyleGAN-V)", ("i3d_torchscript.pt",)
    ),
    "r3d_18": _torch("r3d_18-b3b3357e.pth"),
    "mc3_18": _torch("mc3_18-a90a0ba3.pth"),
    "s3d": _torch("s3d-d76dad2f.pth"),
    "videomae_g": _hub("OpenGVLab/InternVideoMAE_models", "vit_g_hybrid_pt_1200e_ssv2_ft.pth"),
    "videomae": _hub("MCG-NJU/videomae-base"),
    "vjepa": Published("https://dl.fbaipublicfiles.com/jepa/vith16/vith16.pth.tar", ("vith16.pth.tar",)),
    "vjepa_probe": Published("https://dl.fbaipublicfiles.com/jepa/vith16/ssv2-probe.pth.tar", ("ssv2-probe.pth.tar",)),
    "vjepa2": _hub("facebook/vjepa2-vitl-fpc64-256"),
    # image and text networks
    "dino_vitb16": Published(
        "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        ("dino_vitbase16_pretrain.pth",),
    ),
    "dino": _hub("facebook/dino-vitb16"),
    "clip": _hub("openai/clip-vit-base-patch32"),
    "dists": Published("the DISTS_pytorch package (weights.pt)", ("dists_weights.pt", "DISTS_weights.pt")),
    "amt": _hub("lalala125/AMT", "amt-s.pth"),
}


def published(name: str) -> Published:
    """What is known of a network's file.

    Raises:
        WeightsError: no network of that name is known; the message gives the nearest.
    """
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=3) or sorted(PUBLISHED)
        raise WeightsError(f"no weights {name!r} are known; nearest: {', '.join(near)}")
    return PUBLISHED[name]


def locate(name: str, given: str | Path | None = None) -> Path:
    """The file (or, for a repository of the hub, the folder) with a network's weights.

    Args:
        name: a key of `PUBLISHED`.
        given: a path of the caller; it is taken whatever its hash is (`is_published` says whether it is the known one).

    Raises:
        WeightsError: an unknown name, a given path where nothing is, no file in any cache, or a cached file whose sha256
            is not the published one.
    """
    known = published(name)
    if given is not None:
        path = Path(given).expanduser()
        if not path.exists():
            raise WeightsError(f"{name}: nothing at {path}; {_how(name, known)}")
        return path
    for path in _places(name, known):
        if path.exists():
            if is_published(name, path) is False:
                raise WeightsError(
                    f"{name}: {path} has sha256 {sha256(path)[:16]}, the published file begins with "
                    f"{' or '.join(known.hashes)}: it is damaged or another file; {_how(name, known)}"
                )
            return path
    raise WeightsError(f"{name}: no weights on this machine; {_how(name, known)}")


def is_published(name: str, path: str | Path) -> bool | None:
    """Whether a file is the published one by its sha256; None where no hash of it is known."""
    hashes = published(name).hashes
    return any(sha256(path).startswith(prefix) for prefix in hashes) if hashes else None


def signature(name: str, path: str | Path) -> str:
    """What stands in a metric's name: `alexnet:7be5be79`; `custom-alexnet:...` where the file is not the published one."""
    word = f"custom-{name}" if is_published(name, path) is False else name
    return f"{word}:{sha256(path)[:SHORT]}"


def _places(name: str, known: Published) -> list[Path]:
    """Where the file may lie, in the order of preference."""
    folder = os.environ.get(ENVIRONMENT)
    places = [Path(folder).expanduser() / file for file in (*known.files, name)] if folder else []
    home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    places += [Path(home).expanduser() / "hub" / "checkpoints" / file for file in known.files]
    return places + _in_hub_cache(known)


def _in_hub_cache(known: Published) -> list[Path]:
    """The file, or the folder of the repository, in the Hugging Face cache."""
    if not known.repo:
        return []
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(known.repo, known.files[0] if known.files else "config.json")
    if not isinstance(found, str):
        return []
    return [Path(found) if known.files else Path(found).parent]


def _how(name: str, known: Published) -> str:
    what = known.files[0] if known.files else f"the folder of {known.repo}"
    hashes = f", sha256 {' or '.join(known.hashes)}..." if known.hashes else ", no sha256 known here"
    hub = f", or download it with: hf download {known.repo} {' '.join(known.files)}".rstrip() if known.repo else ""
    return (
        f"wanted is {what} from {known.source}{hashes}. Give it as --weights {name}=PATH (Python: weights={{'{name}': path}}), "
        f"or put it into the folder that {ENVIRONMENT} names or into TORCH_HOME/hub/checkpoints{hub}"
    )
