"""L_content and L_GAN of any video: against the losses that training uses, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import wanlab
from metrics import content_loss, gan_loss
from metrics.streaming import MeanOverSamples
from wanlab.analysis import readouts
from wanlab.analysis.cells import Seen
from wanlab.measure import Batch, resolve
from wanlab.nn.vgg import content_network
from wanlab.training import losses


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(2, 3, 3, 32, 32, generator=generator)
    return video, (video + 0.2 * torch.rand(video.shape, generator=generator)).clamp(0, 1)


def test_they_are_what_training_descends(clips: tuple[Tensor, Tensor]) -> None:
    video, reference = clips
    network = content_network()
    trained = [losses.content(losses.taps(network, 2 * x[None] - 1), losses.taps(network, 2 * y[None] - 1))
               for x, y in zip(video, reference, strict=True)]  # fmt: skip
    torch.testing.assert_close(content_loss(video, reference, network), torch.stack(trained))
    logits = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(gan_loss(logits), torch.stack([losses.gan_log(row, row) for row in logits]))


def test_by_hand() -> None:
    def taps(frames: Tensor) -> list[Tensor]:
        return [frames, frames.mean((2, 3), keepdim=True)]

    ones = torch.ones(1, 2, 3, 4, 4)
    half = torch.cat([ones[:, :1], 0 * ones[:, :1]], 1)         # the second of two frames is black
    assert content_loss(half, ones, taps).item() == pytest.approx(math.sqrt(0.5), abs=1e-5)
    assert content_loss(ones, ones, taps).item() == pytest.approx(0, abs=1e-5)
    logits = torch.zeros(3, 2, 4, 4)
    logits[1], logits[2] = 20.0, -20.0
    assert gan_loss(logits).tolist() == pytest.approx([math.log(2), 0.0, 20.0], abs=1e-4)


def test_the_names_say_what_judged_and_the_mean_is_that_of_the_samples(clips: tuple[Tensor, Tensor]) -> None:
    video, reference = clips
    content, gan, real = resolve(["l_content", "l_gan", "realness"])
    assert content.name.startswith("l_content[vgg|net:") and gan.name.startswith("l_gan[tiny|net:")
    batch = Batch(video=video, reference=reference)
    torch.testing.assert_close(content.score(batch), content_loss(video, reference, content_network()))
    torch.testing.assert_close(gan.score(batch), gan_loss(wanlab.load("tiny").judge(video)))
    assert real.name == gan.name.replace("l_gan", "realness")
    readout = readouts.realness(wanlab.load("tiny"))(Seen({"video": video}, None))     # as an analysis asks
    torch.testing.assert_close(real.score(batch), readout)
    mean = MeanOverSamples(gan_loss)
    for row in video:
        mean.update(wanlab.load("tiny").judge(row[None]))
    assert mean.compute().item() == pytest.approx(gan.score(batch).mean().item(), rel=1e-5)
