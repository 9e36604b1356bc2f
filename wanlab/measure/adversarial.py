"""Builders of what the adversarial training learns from, under the shipped content network and a preset's discriminator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from torch import Tensor

from wanlab.measure.door import part
from wanlab.measure.samples import Built
from wanlab.measure.sets import Workshop


def l_content(workshop: Workshop, choice: str) -> Built:
    """L_content to the reference."""
    from wanlab.nn.vgg import WEIGHTS, content_network

    network, ask = workshop.once("content", lambda: content_network().to(workshop.device)), part("adversarial").content_loss
    device, short = workshop.device, hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:8]
    return Built(f"vgg|net:{short}", lambda b: ask(b.video.to(device), b.reference.to(device), network))


def l_gan(workshop: Workshop, choice: str) -> Built:
    """L_GAN under the discriminator of a preset."""
    brackets, judge = _discriminator(workshop, choice)
    return Built(brackets, lambda b: part("adversarial").gan_loss(judge(b.video)))


def realness(workshop: Workshop, choice: str) -> Built:
    """The mean logit of the discriminator of a preset."""
    brackets, judge = _discriminator(workshop, choice)
    return Built(brackets, lambda b: part("adversarial").realness(judge(b.video)))


def _discriminator(workshop: Workshop, choice: str) -> tuple[str, Callable[[Tensor], Tensor]]:
    """What the name says of it, and videos to logits."""
    from wanlab.pipelines.load import PRESETS, load, read_manifest

    variants = read_manifest(PRESETS / choice)["stages"]["discriminator"]
    short = variants["variants"][variants["default"]]["sha256"][:8]
    pipe = workshop.once(("preset", choice), lambda: load(choice, device=workshop.device))
    return f"{choice}|net:{short}", lambda video: pipe.judge(video)
