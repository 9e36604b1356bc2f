"""The places of a whole run: what stands in each residual stream is what stood there before plus what a branch added."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wanlab.core import Record
from wanlab.pipelines.cascade import Cascade

BLOCK = ("{0}.resid_spatial = {0}.resid_pre + {0}.spatial.out", "{0}.resid_cross = {0}.resid_spatial + {0}.cross.out",
         "{0}.resid_mid = {0}.resid_cross + {0}.temporal.out", "{0}.resid_post = {0}.resid_mid + {0}.mlp.out",
         "{0}.res.out = {0}.res.skip + {0}.res.branch")
ENCODER = ("{0}.resid_mid = {0}.resid_pre + {0}.attn_out", "{0}.resid_post = {0}.resid_mid + {0}.mlp_out")
LINK = ("{0}.out = {0}.skip + {0}.branch",)
FUSION = ("fusion.resid_attn = fusion.resid_pre + fusion.attn.out", "fusion.resid_mid = fusion.resid_attn + fusion.mlp.out",
          "fusion.resid_mix = fusion.resid_mid + fusion.mix.out", "fusion.resid_post = fusion.resid_mix + fusion.mix_mlp.out")
SUMS = [
    *(one.format(f"{stage}.blocks.{i}") for stage in ("text", "image") for i in (0, 1) for one in ENCODER), *FUSION,
    *(f"{stage}.blocks.1.resid_pre = {stage}.blocks.0.resid_post" for stage in ("text", "image")),
    *(one.format(f"generator.{name}") for name in ("down.0", "down.1", "mid", "up.0", "up.1") for one in BLOCK),
    "generator.down.0.grid = generator.input",
    *(one.format(f"upsample.{level}.blocks.{i}") for level in (0, 1) for i in (0, 1, 2) for one in LINK),
    *(f"upsample.{level}.blocks.0.skip = upsample.{level}.inlet" for level in (0, 1)),
    *(f"upsample.{level}.residual.branch = upsample.{level}.paint + upsample.{level}.carried" for level in (0, 1)),
    *(one.format(f"upsample.{level}.residual") for level in (0, 1) for one in LINK),
    *(one.format(f"detail.{side}.blocks.{i}") for side in ("sharpen", "texture") for i in (0, 1) for one in LINK),
    "detail.out = upsample.1.out + detail.content + detail.gan",
    "generator.noisy = sampler.video.noise", "generator.blend.out = sampler.video.x0",
    "sampler.motion.guided_x0 = sampler.motion.latent",     # at the last step, where sigma falls to 0
]


@pytest.fixture(scope="module")
def record(pipe: Cascade) -> Record:
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    return pipe.generate(image, "a red circle moves left", seed=0, steps=1, capture=["**"]).record


def value(record: Record, name: str) -> Tensor:
    """What stood at a site, in branch cond where it has branches."""
    [key] = [key for key in record.find(name) if key.branch in (None, "cond")]
    return record.entry(key).tensor


@pytest.mark.parametrize("told", SUMS)
def test_a_stream_is_the_sum_of_what_was_added(record: Record, told: str) -> None:
    total, parts = told.split(" = ")
    assert torch.allclose(value(record, total), sum(value(record, part) for part in parts.split(" + ")), atol=1e-5)


@pytest.mark.parametrize(("site", "axes"), [
    ("text.blocks.0.norm1.scale", "b j"), ("text.norm.scale", "b j"), ("text.blocks.0.mlp_pre", "b j c"),
    ("image.condition", "b c"), ("image.blocks.0.modulation", "b c"), ("image.blocks.0.norm2.scale", "b n"),
    ("fusion.time", "b c"), ("fusion.said", "b c"), ("fusion.pooled", "b c"), ("fusion.context", "b j c"),
    ("fusion.norm_text.scale", "b j"), ("generator.mid.res.modulation", "b c"), ("generator.mid.res.norm1.scale", "b f g"),
    ("generator.mid.temporal.norm.scale", "b f n"), ("generator.norm_grid.scale", "b f g"), ("generator.skip.0", "b f c h w"),
    ("generator.skip.slots", "b f m c"), ("generator.mid.mlp.pre", "b f n c"), ("generator.mid.temporal.attn.z", "b n k f d"),
    ("sampler.video.x0", "b f c h w"), ("sampler.video.velocity", "b f c h w"), ("sampler.video.guided", "b f c h w"),
    ("sampler.video.difference", "b f c h w"), ("sampler.motion.difference", "b f m d"),
    ("sampler.video.guided_x0", "b f c h w"), ("sampler.video.latent", "b f c h w"), ("sampler.video.noise", "b f c h w"),
    ("upsample.1.blocks.0.post", "b f c h w"), ("detail.reference", "b f c h w"), ("discriminator.judge.1", "b f c h w"),
    ("discriminator.change.4", "b c f h w"),
])
def test_every_kind_of_place_is_a_site_with_named_axes_and_a_known_shape(pipe: Cascade, site: str, axes: str) -> None:
    found = pipe.sites()[site]
    assert " ".join(found.axes) == axes and found.shape is not None and len(found.shape) == len(found.axes)


def test_sites_print_as_a_tree_with_counts_and_narrow(pipe: Cascade) -> None:
    sites = pipe.sites("generator.mid.**")
    lines = str(sites).splitlines()
    assert lines[0] == f"{len(sites)} sites" and f"    mid  ({len(sites)})" in lines
    assert "        attn  (12)" in lines and any(line.strip().startswith("resid_mid  b=1 f=4 n=7 c=") for line in lines)
    assert sites.narrow("**.pattern").names == [site.name for site in sites if site.name.endswith(".pattern")]
