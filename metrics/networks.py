"""The networks behind the protocols: located, loaded strictly, named with their hash; and the extractors made of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from . import i3d, kinetics, motionnet, torchscript, videomae, vjepa, weights
from .protocol import BYTES, Protocol, Side
from .sampling import TooShort

Given = Mapping[str, str | Path]
RANDOM = "random"  # said instead of a path: untrained weights of a fixed seed, and a name that says so


@dataclass(frozen=True)
class Network:
    """How a network comes by its weights.

    open     given weights and protocol -> network and what stands in the name
    blank    protocol -> the untrained network, where that is allowed
    """

    open: Callable[[Given, Protocol], tuple[nn.Module, str]]
    blank: Callable[[Protocol], nn.Module] | None = None


class Motion(nn.Module):
    """The shipped motion network, given clips as other networks are: `b c f h w`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, x: Tensor) -> Tensor:
        """Features `b d` of clips in [0, 1]."""
        return self.network.features(rearrange(x, "b c f h w -> b f c h w"))


def _motionnet(given: Given, protocol: Protocol) -> tuple[nn.Module, str]:
    return Motion(motionnet.shipped()), f"net:{weights.short_hash('motionnet')}"


def _i3d(given: Given, protocol: Protocol) -> tuple[nn.Module, str]:
    if torchscript.WEIGHTS in given:
        file, digest = torchscript.pinned(given[torchscript.WEIGHTS])
        return torchscript.load(f"{file}@{digest}", _in_graph(protocol)), f"{torchscript.WEIGHTS}:{digest[:8]}"
    path = weights.locate("i3d", given.get("i3d"))
    return i3d.load(path, protocol.epsilon), weights.signature("i3d", path)


def _in_graph(protocol: Protocol) -> bool:
    """Whether the compiled I3D rescales and resizes by itself: StyleGAN-V gives it frames in [0, 255] at their own size."""
    return protocol.name == "styleganv"


def _kinetics(name: kinetics.Name) -> Network:
    def open_(given: Given, protocol: Protocol) -> tuple[nn.Module, str]:
        path = weights.locate(name, given.get(name))
        return kinetics.load(name, path), weights.signature(name, path)

    return Network(open_, lambda protocol: kinetics.Trunk(name))


def _videomae_g(given: Given, protocol: Protocol) -> tuple[nn.Module, str]:
    path = weights.locate("videomae_g", given.get("videomae_g"))
    return videomae.load(path, protocol.frames), weights.signature("videomae_g", path)


def _videomae(given: Given, protocol: Protocol) -> tuple[nn.Module, str]:
    path = weights.locate("videomae", given.get("videomae"))
    network = videomae.load_folder(path)
    if (network.frames, network.side) != (protocol.frames, 224):
        raise weights.WeightsError(
            f"videomae: {path} is made for {network.frames} frames of {network.side} pixels, the preset is {protocol.frames} of 224"
        )
    return network, weights.signature("videomae", path)


def _vjepa(given: Given, protocol: Protocol) -> tuple[nn.Module, str]:
    path, probe = weights.locate("vjepa", given.get("vjepa")), given.get("vjepa_probe")
    if probe == "none":
        return vjepa.load(path, None), f"{weights.signature('vjepa', path)}|mean"
    pooler = weights.locate("vjepa_probe", probe)
    return vjepa.load(path, pooler), f"{weights.signature('vjepa', path)}|probe:{weights.sha8(pooler)}"


def _vjepa2(given: Given, protocol: Protocol) -> tuple[nn.Module, str]:
    path = weights.locate("vjepa2", given.get("vjepa2"))
    return vjepa.load_folder(path), weights.signature("vjepa2", path)


NETWORKS: dict[str, Network] = {
    "motionnet": Network(_motionnet),
    "i3d": Network(_i3d, lambda protocol: i3d.I3D(protocol.epsilon)),
    "r3d_18": _kinetics("r3d_18"),
    "mc3_18": _kinetics("mc3_18"),
    "s3d": _kinetics("s3d"),
    "videomae_g": Network(_videomae_g),
    "videomae": Network(_videomae),
    "vjepa": Network(_vjepa),
    "vjepa2": Network(_vjepa2),
}


class Extractor:
    """A protocol with its network: videos `b f c h w` in [0, 1] -> features (b, d) float32 on the CPU.

    label is what stands in brackets behind a distance's name; seed decides where seeded clips begin.
    """

    def __init__(self, protocol: Protocol, network: nn.Module, signature: str, device: str | torch.device, seed: int = 0) -> None:
        self.protocol, self.signature, self.seed = protocol, signature, seed
        self.device = torch.device(device)
        self.network = network.eval().requires_grad_(False).to(self.device)

    @property
    def label(self) -> str:
        """Preset, clip and network: `videogpt|16f|s1|i3d:1f2e3d4c`."""
        return self.protocol.label(self.signature, self.seed)

    def cut(self, videos: Tensor | Sequence[Tensor], names: Sequence[str] | None = None, side: Side = "fake") -> Tensor:
        """The clips of some videos, `b f c h w`; names decide where seeded clips begin.

        Raises:
            TooShort: a video has fewer frames than a clip spans; the message names it.
        """
        sampling = self.protocol.sampling(side, self.seed)
        named = [""] * len(videos) if names is None else list(names)
        clips = []
        for row, (video, name) in enumerate(zip(videos, named, strict=True)):
            try:
                clips.append(sampling.cut(video, name))
            except TooShort as error:
                raise TooShort(f"{name or f'video {row}'}: {error}") from None
        return torch.stack(clips)

    @torch.no_grad()
    def __call__(self, videos: Tensor, names: Sequence[str] | None = None, side: Side = "fake") -> Tensor:
        """Features of the clips of `videos`.

        Raises:
            ValueError: too few frames, NaN, values outside [0, 1].
        """
        clips = self.cut(videos, names, side).to(self.device)
        return self.network(self.protocol.prepare(clips)).float().cpu()


def extractor(protocol: Protocol, given: Given | None = None, device: str | torch.device = "cpu", seed: int = 0) -> Extractor:
    """The extractor of a protocol.

    Args:
        protocol: see `metrics.protocol.PRESETS`.
        given: name of weights -> path; "random" instead of a path: untrained, and named so. What is not given is looked for
            (see `metrics.weights.locate`).
        device: where the network runs.
        seed: of seeded clips.

    Raises:
        metrics.weights.WeightsError: weights that are missing, damaged or of another network, or names that this one has not.
    """
    given, kind = dict(given or {}), NETWORKS[protocol.network]
    if given.get(protocol.network) == RANDOM:
        if kind.blank is None:
            raise weights.WeightsError(f"{protocol.network} has no untrained form; give the path of its weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Extractor(protocol, kind.blank(protocol), f"{protocol.network}:{RANDOM}", device, seed)
    network, signature = kind.open(given, protocol)
    if torchscript.WEIGHTS in given and _in_graph(protocol):
        protocol = replace(protocol, resize=None, statistics=BYTES)
    return Extractor(protocol, network, signature, device, seed)
