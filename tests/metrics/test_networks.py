"""Video transformers and trunks against the libraries that have them; files whole or not at all; nothing random unsaid."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metrics import kinetics, torchscript, videomae, vjepa, weights
from metrics.networks import extractor
from metrics.protocol import PRESETS, preset
from metrics.sampling import TooShort
from metrics.vit import sines
from metrics.weights import WeightsError

SMALL = {"width": 32, "depth": 2, "heads": 4, "hidden": 48, "patch": 14, "tubelet": 2}


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter away from its initial value, so that none is forgotten unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def clips(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """VideoMAE v2's tensors under the names that transformers gives them."""
    out: dict[str, Tensor] = {
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
    }
    for number in range(SMALL["depth"]):
        ours, theirs = f"blocks.{number}.", f"encoder.layer.{number}."
        for name, part in zip(("query", "key", "value"), state[ours + "attn.qkv.weight"].chunk(3), strict=True):
            out[theirs + f"attention.attention.{name}.weight"] = part
        out[theirs + "attention.attention.query.bias"] = state[ours + "attn.q_bias"]
        out[theirs + "attention.attention.value.bias"] = state[ours + "attn.v_bias"]
        for mine, name in (("attn.proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"),
                           ("norm1", "layernorm_before"), ("norm2", "layernorm_after")):  # fmt: skip
            for kind in ("weight", "bias"):
                out[theirs + f"{name}.{kind}"] = state[f"{ours}{mine}.{kind}"]
    return out


@torch.no_grad()
def test_videomae_v2_is_transformers_videomae_with_other_names(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEModel

    ours = shaken(videomae.VideoMAE2(**SMALL, frames=4, side=28, classes=5))
    config = VideoMAEConfig(image_size=28, patch_size=14, num_frames=4, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                            intermediate_size=48, layer_norm_eps=1e-6, use_mean_pooling=True)  # fmt: skip
    theirs = VideoMAEModel(config).eval()
    theirs.load_state_dict(to_transformers(ours.state_dict()), strict=True)
    x = clips(2, 3, 4, 28, 28)
    mean = theirs(x.transpose(1, 2)).last_hidden_state.mean(1)
    torch.testing.assert_close(ours(x), ours.fc_norm(mean), rtol=1e-4, atol=1e-5)

    theirs.save_pretrained(tmp_path / "folder")
    folder = videomae.load_folder(tmp_path / "folder")
    torch.testing.assert_close(folder(x), mean)
    assert (folder.frames, folder.side) == (4, 28)
    with pytest.raises(WeightsError, match="made for 4 frames of 28 pixels, the preset is 16 of 224"):
        extractor(preset("videomae"), {"videomae": tmp_path / "folder"})


@torch.no_grad()
@pytest.mark.parametrize("inside", ["module", "model", None])
def test_a_videomae_v2_checkpoint_loads_whole(tmp_path: Path, inside: str | None) -> None:
    network = shaken(videomae.VideoMAE2(**SMALL, frames=4, side=28, classes=5))
    state = {key: value.clone() for key, value in network.state_dict().items()}
    assert "pos_embed" not in state
    torch.save({inside: state} if inside else state, tmp_path / "g.pth")
    x = clips(1, 3, 4, 28, 28)
    torch.testing.assert_close(videomae.load(tmp_path / "g.pth", 4, 28, heads=4)(x), network(x))
    for part in ("fc_norm.weight", "blocks.1.attn.v_bias"):
        torch.save({key: value for key, value in state.items() if key != part}, tmp_path / "less.pth")
        with pytest.raises(WeightsError, match=part):
            videomae.load(tmp_path / "less.pth", 4, 28, heads=4)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not a VideoMAE v2"):
        videomae.load(tmp_path / "other.pth")


def test_the_giant_has_the_published_shapes() -> None:
    with torch.device("meta"):
        giant = videomae.VideoMAE2(1408, 40, 16, 6144, 14, 2, 16, 224, 174)
    state = giant.state_dict()
    assert len(state) == 40 * 13 + 2 + 2 + 2 and giant.pos_embed.shape == (1, 2048, 1408)
    assert 1.01e9 < sum(value.numel() for value in state.values()) < 1.02e9
    assert state["blocks.39.attn.q_bias"].shape == (1408,) and state["head.weight"].shape == (174, 1408)


def test_fixed_positions_are_vaswani_s() -> None:
    table = sines(5, 6)
    for position in range(5):
        for i in range(3):
            angle = torch.tensor(position / 10000 ** (2 * i / 6))
            torch.testing.assert_close(table[position, 2 * i : 2 * i + 2], torch.stack([angle.sin(), angle.cos()]))


class Reference(nn.Module):
    """A pre-norm transformer from torch's own parts, filled from V-JEPA's tensors."""

    def __init__(self, state: dict[str, Tensor], heads: int) -> None:
        super().__init__()
        self.state, self.heads = state, heads

    def norm(self, x: Tensor, name: str, epsilon: float) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], epsilon)

    def mlp(self, x: Tensor, name: str) -> Tensor:
        hidden = nn.functional.gelu(x @ self.state[f"{name}.fc1.weight"].T + self.state[f"{name}.fc1.bias"])
        return hidden @ self.state[f"{name}.fc2.weight"].T + self.state[f"{name}.fc2.bias"]

    def attend(self, queries: Tensor, x: Tensor, weight: Tensor, bias: Tensor, name: str) -> Tensor:
        attention = nn.MultiheadAttention(x.shape[-1], self.heads, batch_first=True)
        out = {f"out_proj.{kind}": self.state[f"{name}.proj.{kind}"] for kind in ("weight", "bias")}
        attention.load_state_dict({"in_proj_weight": weight, "in_proj_bias": bias, **out})
        return attention(queries, x, x, need_weights=False)[0]

    def forward(self, x: Tensor) -> Tensor:
        kernel, bias = self.state["patch_embed.proj.weight"], self.state["patch_embed.proj.bias"]
        x = nn.functional.conv3d(x, kernel, bias, stride=kernel.shape[2:]).flatten(2).transpose(1, 2) + self.state["pos_embed"]
        for number in range(SMALL["depth"]):
            name = f"blocks.{number}"
            y = self.norm(x, f"{name}.norm1", 1e-6)
            x = x + self.attend(y, y, self.state[f"{name}.attn.qkv.weight"], self.state[f"{name}.attn.qkv.bias"], f"{name}.attn")
            x = x + self.mlp(self.norm(x, f"{name}.norm2", 1e-6), f"{name}.mlp")
        return self.norm(x, "norm", 1e-6)

    def pooled(self, tokens: Tensor) -> Tensor:
        block, query = "cross_attention_block", self.state["query_tokens"].expand(len(tokens), -1, -1)
        weight = torch.cat([self.state[f"{block}.xattn.{part}.weight"] for part in ("q", "kv")])
        bias = torch.cat([self.state[f"{block}.xattn.{part}.bias"] for part in ("q", "kv")])
        query = query + self.attend(query, self.norm(tokens, f"{block}.norm1", 1e-5), weight, bias, f"{block}.xattn")
        return (query + self.mlp(self.norm(query, f"{block}.norm2", 1e-5), f"{block}.mlp"))[:, 0]


@torch.no_grad()
def test_vjepa_and_its_probe_are_torch_s_parts_put_together(tmp_path: Path) -> None:
    encoder = shaken(vjepa.VJepa(**SMALL, places=2 * 4))
    pooler = shaken(vjepa.Pooler(32, 4, 48), 1)
    linear = {"module.linear.weight": torch.zeros(174, 32), "module.linear.bias": torch.zeros(174)}
    target = {f"module.backbone.{key}": value for key, value in encoder.state_dict().items()}
    probe = {f"module.pooler.{key}": value for key, value in pooler.state_dict().items()}
    torch.save({"epoch": 3, "target_encoder": target}, tmp_path / "v.tar")
    torch.save({"classifier": probe | linear}, tmp_path / "p.tar")
    x = clips(2, 3, 4, 28, 28)
    reference = Reference({**encoder.state_dict(), **pooler.state_dict()}, 4)
    tokens = reference(x)
    pooled, mean = vjepa.load(tmp_path / "v.tar", tmp_path / "p.tar", heads=4), vjepa.load(tmp_path / "v.tar", None, heads=4)
    torch.testing.assert_close(mean(x), tokens.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled(x), reference.pooled(tokens), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="positions for 8 tokens"):
        mean(clips(1, 3, 6, 28, 28))
    with pytest.raises(WeightsError, match="holds no 'classifier'"):
        vjepa.load(tmp_path / "v.tar", tmp_path / "v.tar", heads=4)


@torch.no_grad()
def test_a_vjepa2_folder_is_transformers_own(tmp_path: Path) -> None:
    from transformers import VJEPA2Config, VJEPA2Model

    blocks = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = VJEPA2Config(crop_size=32, frames_per_clip=4, **blocks, **{f"pred_{name}": value for name, value in blocks.items()})
    model = VJEPA2Model(config).eval()
    model.save_pretrained(tmp_path / "v2")
    x = clips(1, 3, 4, 32, 32)
    torch.testing.assert_close(vjepa.load_folder(tmp_path / "v2")(x), model.get_vision_features(x.transpose(1, 2)).mean(1))
    with pytest.raises(WeightsError, match=r"no config\.json"):
        vjepa.load_folder(tmp_path)


def test_a_folder_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import VideoMAEConfig, VideoMAEModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    VideoMAEModel(VideoMAEConfig(image_size=28, patch_size=14, num_frames=4, **sizes)).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("encoder.layer.0.output.dense.weight")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"needs 1 tensors that are not there: encoder\.layer\.0\.output\.dense\.weight"):
        videomae.load_folder(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize(("name", "width", "frames"), [
    ("r3d_18", 512, 2), pytest.param("s3d", 1024, 13, marks=pytest.mark.slow),
    pytest.param("mc3_18", 512, 2, marks=pytest.mark.slow),
])  # fmt: skip
def test_trunks_are_torchvision_s_up_to_their_last_layer(tmp_path: Path, name: Any, width: int, frames: int) -> None:
    from torchvision.models import video

    theirs = shaken(getattr(video, name)())
    torch.save(theirs.state_dict(), tmp_path / "trunk.pth")
    side = PRESETS[name].resize.inner[0]
    x = clips(1, 3, frames, side, side)
    trunk = kinetics.load(name, tmp_path / "trunk.pth")
    features = trunk(x)
    last = theirs.classifier[1] if name == "s3d" else theirs.fc
    logits = last(features[..., None, None, None]).flatten(1) if name == "s3d" else last(features)
    assert features.shape == (1, width)
    torch.testing.assert_close(logits, theirs(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError):
        kinetics.load("mc3_18" if name == "r3d_18" else "r3d_18", tmp_path / "trunk.pth")


def test_random_weights_only_when_said_and_named_so() -> None:
    with pytest.raises(WeightsError, match="r3d_18: no weights on this machine"):
        extractor(preset("r3d_18"))
    state = torch.get_rng_state()
    first, second = (extractor(preset("r3d_18").with_clips(4), {"r3d_18": "random"}) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert first.label == "r3d_18|4f|s1|r3d_18:random"
    x = clips(1, 4, 3, 16, 16)
    assert torch.equal(first(x), second(x)) and first(x).shape == (1, 512)
    with pytest.raises(WeightsError, match="no untrained form"):
        extractor(preset("cdfvd-videomae"), {"videomae_g": "random"})


def test_the_program_opens_for_its_hash_alone(tmp_path: Path) -> None:
    class Stub(nn.Module):
        def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
            if rescale:
                x = 2 * x / 255 - 1
            return x.mean((2, 3, 4)) + (10.0 if resize else 0.0) + (100.0 if return_features else 0.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Stub()).save(tmp_path / "i3d.pt")
    file = tmp_path / "i3d.pt"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    other, short = f"{file}@{'0' * 64}", f"{file}@{digest[:8]}"
    for wrong, match in ((file, "give it with the sha256"), (short, "64 hex digits"), (other, "is not opened")):
        with pytest.raises(WeightsError, match=match):
            torchscript.load(wrong, True)
    x = torch.full((1, 16, 3, 40, 40), 0.5)
    graph = extractor(preset("styleganv"), {"i3d_torchscript": f"{file}@{digest}"})
    plain = extractor(preset("cm-styleganv"), {"i3d_torchscript": f"{file}@{digest}"})
    assert graph.label == f"styleganv|16f|s1|i3d_torchscript:{digest[:8]}"
    torch.testing.assert_close(graph(x), torch.full((1, 3), 110 + 2 * 128 / 255 - 1))  # 0.5 rounds to 128 of 255; in-graph resize
    torch.testing.assert_close(plain(x), torch.full((1, 3), 100.0))


def test_extractors_say_which_video_is_too_short() -> None:
    shipped = extractor(preset("motionnet"))
    assert shipped.label == f"motionnet|8f|net:{weights.short_hash('motionnet')}"
    x = clips(2, 10, 3, 64, 64)
    assert shipped(x).shape == (2, 188) and torch.equal(shipped(x), shipped(x[:, :8]))
    with pytest.raises(TooShort, match=r"b\.mp4: too short: 5 frames, a clip of 8 spans 8"):
        shipped([x[0], x[1, :5]], ["a.mp4", "b.mp4"])
