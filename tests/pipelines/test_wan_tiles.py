"""Wan's autoencoder in tiles and row by row: as diffusers has it, near the whole picture, and without sites that would lie."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image

from tests.pipelines.test_wan import theirs
from tests.pipelines.wan import made
from wanlab.core import Bypass, Scale, trace
from wanlab.pipelines.wan21 import Wan
from wanlab.stages.vae import PartsError

TILE = (16, 16, 8, 8)       # height, width, strides: nine tiles of a video of 32 x 32
PROMPT = "a cat moves right"


@pytest.fixture
def pipe() -> Wan:
    return made("i2v")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    drawn = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(5))
    return Image.fromarray((drawn.numpy() * 255).astype(np.uint8))


def test_tiles_give_what_diffusers_gives_and_nearly_the_whole(pipe: Wan, picture: Image.Image) -> None:
    whole = pipe.generate(picture, PROMPT, 3, steps=2, guidance=3.0)
    pipe.vae.enable_tiling(*TILE)
    expected = theirs(pipe)(image=picture, prompt=PROMPT, negative_prompt="", height=32, width=32, num_frames=9, guidance_scale=3.0,
                            num_inference_steps=2, generator=torch.Generator().manual_seed(3), output_type="pt").frames
    tiled = pipe.generate(picture, PROMPT, 3, steps=2, guidance=3.0)
    assert (tiled.video - expected).abs().max().item() <= 1e-4
    assert not torch.equal(tiled.video, whole.video)
    inputs = {"denoise": whole.nodes["denoise"]}
    decoded = pipe.run_node("decode", inputs, whole.request)["video"]
    away = (decoded - whole.video).abs()                        # random weights, tiles of two places of the latent
    assert away.max().item() <= 0.5 and away.mean().item() <= 0.1     # the first is what diffusers demands of its own tiles
    pipe.vae.disable_tiling()
    assert torch.equal(pipe.generate(picture, PROMPT, 3, steps=2, guidance=3.0).video, whole.video)


@pytest.mark.parametrize("kind", ["i2v", pytest.param("5b", marks=pytest.mark.slow)])
def test_tiles_are_those_of_diffusers_to_the_last_bit(kind: str) -> None:
    """A second autoencoder with the same weights, in tiles of the same size, does the same to a clip that is no square."""
    ours = made(kind).vae
    inner, side = ours.encoder.net.inner, ours.strides[1]
    theirs = AutoencoderKLWan.from_config(inner.config).eval()
    theirs.load_state_dict(inner.state_dict())
    tile = (2 * side, 3 * side, side, 2 * side)
    whole, generator = theirs.tile_sample_min_height, torch.Generator().manual_seed(7)
    latent = torch.randn(1, 2, inner.config.z_dim, 4, 6, generator=generator)
    video = 2 * torch.rand(1, 5, 3, 4 * side, 6 * side, generator=generator) - 1
    mean, std = (torch.tensor(inner.config[f"latents_{what}"])[:, None, None] for what in ("mean", "std"))

    def compared() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            expected = theirs.decode((latent * std + mean).transpose(1, 2)).sample.transpose(1, 2)
            decoded, encoded = ours.decoder(latent), ours.encoder.encode(video)
            assert torch.equal(decoded, (expected / 2 + 0.5).clamp(0, 1))
            expected = theirs.encode(video.transpose(1, 2)).latent_dist.mode().transpose(1, 2)
            assert torch.equal(encoded, (expected - mean) / std)
        return decoded, encoded

    plain = compared()
    ours.enable_tiling(*tile)
    theirs.enable_tiling(*tile)
    assert theirs.tile_sample_min_height == tile[0] != whole
    assert not torch.equal(compared()[0], plain[0])


def test_clips_of_several_threads_do_not_mix(pipe: Wan) -> None:
    """The autoencoder keeps the last frames of a clip in itself while it works."""
    latents = [torch.randn(1, 3, 16, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    with torch.no_grad():
        expected = [pipe.vae.decoder(latent) for latent in latents]

    def decoded(latent: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return pipe.vae.decoder(latent)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(decoded, latents))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_rows_one_by_one_are_the_same_rows(pipe: Wan, picture: Image.Image) -> None:
    asked = {"seed": [0, 1, 2], "steps": 1}
    whole = pipe.generate(picture, PROMPT, **asked).video
    pipe.vae.enable_slicing()
    sliced = pipe.generate(picture, PROMPT, **asked).video
    assert torch.allclose(sliced, whole, atol=1e-5)


def test_sites_within_are_refused_before_anything_runs_and_those_around_stay_exact(pipe: Wan, picture: Image.Image) -> None:
    plain, known = pipe.constants, pipe.sites().names
    pipe.vae.enable_tiling(*TILE)
    assert pipe.sites().names == known and pipe.constants != plain
    done: list[int] = []
    for site in ("vae.decoder.net.mid.out", "vae.encoder.net.**", "**"):
        with pytest.raises(PartsError, match=r"in tiles, so vae\.\w+\.net\..*disable_tiling"):
            pipe.generate(picture, PROMPT, steps=1, capture=site, progress=lambda *_: done.append(1))
    with pytest.raises(PartsError):
        pipe.check([Scale("vae.decoder.net.mid.out", factor=2.0)], pipe.request(picture, PROMPT))
    with pytest.raises(PartsError), trace(pipe, capture="vae.encoder.net.mid.out"):
        pipe.generate(picture, PROMPT, steps=1)
    assert not done
    out = pipe.generate(picture, PROMPT, steps=1, edits=Bypass("vae.encoder.{mask,latent}"), capture=["vae.decoder.out", "dit.**"])
    assert out.ledger.ok and torch.equal(out.record["vae.decoder.out"].tensor, out.video)
    pipe.vae.disable_tiling()
    assert pipe.constants == plain and pipe.generate(picture, PROMPT, steps=1, capture="vae.decoder.net.mid.out").ledger.ok


def test_pictures_no_larger_than_a_tile_go_through_whole(pipe: Wan, picture: Image.Image) -> None:
    whole = pipe.generate(picture, PROMPT, steps=1).video
    pipe.vae.enable_tiling()
    out = pipe.generate(picture, PROMPT, steps=1, capture="vae.decoder.net.mid.out")
    assert torch.equal(out.video, whole) and out.ledger.ok


@pytest.mark.parametrize(("tile", "says"), [
    ((20, 16, 8, 8), "multiples of 8 pixels, got 20 x 16"), ((16, 16, 24, 8), "leaves gaps"),
])  # fmt: skip
def test_tiles_that_do_not_fit_are_refused(pipe: Wan, tile: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pipe.vae.enable_tiling(*tile)
