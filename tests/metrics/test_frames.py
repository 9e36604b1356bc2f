"""Frame networks from local folders, with random weights; what VBench, TGVE and CLIPScore make of their features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metrics import clip_score, consistency, frame_scores, i2v_subject, text_alignment, weights
from metrics.clip import Clip, clip, pooled
from metrics.dino import dino
from metrics.frames import FrameNetwork, embed, home
from metrics.likeness import consistency_curve, image_curve, lag_curve, to_first
from tests.metrics.scenes import noisy, shuffled, sliding, still
from wanlab.data.procedural import World
from wanlab.measure import Batch, resolve

WORDS = ("a", "red", "circle", "moves", "left")


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(1)
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, patch_size=16)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *(f"{word}</w>" for word in WORDS[1:])]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: k for k, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 16}
    torch.manual_seed(2)
    text = CLIPTextConfig(**size, vocab_size=len(tokens), eos_token_id=len(tokens) - 1, bos_token_id=len(tokens) - 2)
    vision = CLIPVisionConfig(**size, image_size=224, patch_size=32)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def judge(clip_folder: Path) -> Clip:
    return clip(clip_folder)


def vbench_loop(features: Tensor) -> float:
    """VBench's subject consistency of one clip `f d`, frame by frame as its text has it."""
    like, total = torch.nn.functional.cosine_similarity, 0.0
    for t in range(1, len(features)):
        before = max(0.0, float(like(features[t - 1], features[t], dim=0)))
        first = max(0.0, float(like(features[0], features[t], dim=0)))
        total += (before + first) / 2
    return total / (len(features) - 1)


def test_dino_is_the_class_token_of_frames_whose_shorter_side_is_224(dino_folder: Path) -> None:
    from torchvision.transforms import functional
    from transformers import ViTModel

    network = dino(dino_folder)
    assert network.name == f"dino:{weights.sha256(dino_folder)[:8]}"
    video = sliding(2, 3, size=48)[..., :40, :]
    pixels = functional.resize((video[0] * 255).round().to(torch.uint8), [224], antialias=False)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    theirs = ViTModel.from_pretrained(dino_folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        expected = theirs((pixels / 255 - mean) / std, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    assert pixels.shape[-2:] == (224, 268)
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(embed(video, network)[0], expected, rtol=1e-4, atol=1e-5)
    assert float(consistency(video, network).score) == pytest.approx(vbench_loop(expected), rel=1e-4)
    assert dino(dino_folder, crop=True).name.endswith("|i2v")


def test_background_consistency_is_the_same_formula_on_clip(judge: Clip) -> None:
    video = torch.cat([sliding(3, 4), still(sliding(3, 4)), noisy(sliding(3, 4), 0.3)])
    features = embed(video, judge.frames)
    found = consistency(video, judge.frames)
    assert found.score.tolist() == pytest.approx([vbench_loop(row) for row in features], rel=1e-5)
    assert found.still.tolist() == [False, True, False] and float(found.score[1]) == pytest.approx(1, abs=1e-5)


def test_missing_and_foreign_tensors_are_refused_not_left_random(dino_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_text((dino_folder / "config.json").read_text())
    state = load_file(dino_folder / "model.safetensors")
    first = sorted(state)[0]
    less, more = {key: value for key, value in state.items() if key != first}, {**state, "x.y": state[first] + 1}
    for changed, message in ((less, "missing"), (more, "foreign")):
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(weights.WeightsError, match=message):
            dino(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(weights.WeightsError, match="no config"):
        dino(tmp_path)
    with pytest.raises(weights.WeightsError, match="facebook/dino-vitb16"):
        dino(tmp_path / "nowhere")


def test_both_conventions_of_text_alignment(judge: Clip) -> None:
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    video = torch.rand(2, 3, 3, 224, 224)
    texts = ["a red circle moves left", "circle"]
    cosine = text_alignment(video, texts, judge)
    images, words = embed(video, judge.frames), judge.text_features(texts)
    expected = [float((images[k] @ words[k]).mean()) for k in range(2)]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.no_grad():  # 224 x 224 is not resized
        raw = pooled(judge.model.get_image_features(pixel_values=((video[0] * 255).round() / 255 - mean) / std))
    torch.testing.assert_close(images[0], raw / raw.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert cosine.tolist() == pytest.approx(expected, rel=1e-5)
    assert clip_score(video, texts, judge).tolist() == pytest.approx([max(100 * value, 0) for value in expected], rel=1e-5)
    assert text_alignment(video, ["a " * 200, "red"], judge).isfinite().all()  # cut to 77 tokens
    with pytest.raises(ValueError, match="2 videos but 1 texts"):
        text_alignment(video, ["a"], judge)


def test_i2v_subject_is_the_weighted_sum(dino_folder: Path) -> None:
    network = dino(dino_folder, crop=True)
    video, image = sliding(4, 4), noisy(sliding(4, 4), 0.2)[:, 0]
    features, asked = embed(video, network), embed(image[:, None], network)
    like = (features * asked).sum(-1).clamp_min(0)
    steps = (features[:, 1:] * features[:, :-1]).sum(-1).clamp_min(0)
    expected = 0.4 * like.max() + 0.3 * steps.mean() + 0.3 * steps.min()
    assert float(i2v_subject(video, image, network).score) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(image_curve(features, asked), like)
    frozen = i2v_subject(still(video), video[:, 0], network)
    assert float(frozen.score) == pytest.approx(1, abs=1e-5) and bool(frozen.still) and frozen.moving.isnan().all()


def test_the_shipped_trunk_tells_still_true_and_shuffled_clips_apart() -> None:
    network = home()
    assert network.name.startswith("home-squeeze|net:")
    clips = World(size=64, split="test", seed=1).batch(range(6)).video
    series = [still(clips), clips, shuffled(clips)]
    found = [frame_scores(part, network) for part in series]
    values = [float(part.neighbours.score.mean()) for part in found]
    assert values == sorted(values, reverse=True) and len(set(values)) == 3
    assert [float(part.neighbours.still.float().mean()) for part in found] == [1, 0, 0]
    drift = [float(part.drift.score.mean()) for part in found]
    assert drift[0] == pytest.approx(0, abs=1e-5) and drift[1] < -1e-4 and drift[1] < drift[2]  # a shuffle has no direction


def test_likeness_by_lag() -> None:
    features = torch.nn.functional.normalize(torch.rand(2, 5, 7), dim=-1)
    curve = lag_curve(features)
    assert curve.shape == (2, 5) and curve[:, 0].tolist() == pytest.approx([1, 1])
    for lag in range(1, 5):
        expected = torch.stack([(features[:, t] * features[:, t + lag]).sum(-1) for t in range(5 - lag)]).mean(0)
        torch.testing.assert_close(curve[:, lag], expected)
    torch.testing.assert_close(curve[:, 4], to_first(features)[:, 4])
    pairs = torch.tensor([[float(a @ b) for i, a in enumerate(row) for j, b in enumerate(row) if i != j] for row in features])
    calls = []
    network = FrameNetwork("given", lambda frames: calls.append(len(frames)) or features.flatten(0, 1))  # type: ignore[func-returns-value]
    found = frame_scores(torch.rand(2, 5, 3, 16, 16), network)
    torch.testing.assert_close(found.all_pairs.score, pairs.mean(1))
    torch.testing.assert_close(found.consistency.score, consistency_curve(features).mean(1))
    assert calls == [10] and found.i2v is None  # every frame once for all of them
    drop = [np.polyfit(range(3), row[:3].double().numpy(), 1)[0] for row in curve]
    assert found.drift.score.tolist() == pytest.approx(drop, rel=1e-4)


def test_what_a_network_cannot_take_is_said() -> None:
    with pytest.raises(ValueError, match="at least 32 x 32"):
        consistency(torch.rand(1, 3, 3, 24, 24))
    with pytest.raises(ValueError, match="all zero"):
        embed(torch.rand(1, 2, 3, 8, 8), FrameNetwork("dead", lambda frames: torch.zeros(len(frames), 4)))
    with pytest.raises(ValueError, match="2 videos but 1 images"):
        i2v_subject(torch.rand(2, 3, 3, 32, 32), torch.rand(1, 3, 32, 32), home())


def test_measures_by_name_share_one_embedding_of_each_network(
    dino_folder: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metrics import frames

    asked: list[str] = []

    def counted(video: Tensor, network: FrameNetwork) -> Tensor:
        asked.append(network.name)
        return embed(video, network)

    monkeypatch.setattr(frames, "embed", counted)
    video = torch.cat([sliding(3, 4), still(sliding(3, 4))])
    batch = Batch(video=video, prompts=["a red circle", "left"])
    names = ["subject_consistency", "frame_consistency", "lag_drift", "background_consistency", "clip_text", "clip_score"]
    found = {measure.key: measure for measure in resolve(names, weights={"dino": dino_folder, "clip": clip_folder})}
    for key in names[:4]:
        assert found[key].score(batch).isnan().tolist() == [False, True], key  # a still has no score
    assert asked == ["home-squeeze|net:" + weights.short_hash("frametrunk"), f"clip:{weights.sha256(clip_folder)[:8]}"]
    sha = weights.sha256(clip_folder)[:8]
    assert found["clip_text"].name == f"clip_text[cosine|clip:{sha}]"
    assert found["clip_score"].name == f"clip_text[clipscore|clip:{sha}]"
    torch.testing.assert_close(found["clip_score"].score(batch), (100 * found["clip_text"].score(batch)).clamp_min(0))


def test_prompts_reach_clip_from_studies(clip_folder: Path, judge: Clip) -> None:
    from tests.runs.toy import STUDY, load_toy
    from wanlab.runs.cell import open_workbench
    from wanlab.runs.plan import Task
    from wanlab.runs.reading import parse_study

    def found(names: list[str], device: str) -> list[Any]:
        return resolve(names, device, weights={"clip": clip_folder})

    study, document = parse_study(STUDY.replace("[psnr, flicker, colour_distance]", "[clip_text, clip_score]"), ["data.n=2"])
    bench = open_workbench(study, document, "cpu", load_toy(), found)
    part = bench.part(Task("text", 0))
    expected = text_alignment(bench.generate(Task("text", 0)), bench.source.prompts([0, 1]), judge)
    cosine, score = part.values.values()
    assert bench.notes == [] and cosine == pytest.approx(expected.tolist()) and expected[0] != expected[1]
    assert score == pytest.approx((100 * expected).clamp_min(0).tolist())


def test_an_empty_prompt_has_no_score(clip_folder: Path, judge: Clip) -> None:
    video, prompts = torch.cat([sliding(3, 4)] * 2), ["a red circle", " "]
    for measure in resolve(["clip_text", "clip_score"], weights={"clip": clip_folder}):
        assert measure.score(Batch(video=video, prompts=prompts)).isnan().tolist() == [False, True]


def test_prompts_reach_clip_from_folders(clip_folder: Path, tmp_path: Path, judge: Clip) -> None:
    from tests.runs.test_judging import put, verdict
    from wanlab.runs.judging import Request

    videos = {f"{i}.mp4": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(3)}
    fake, texts = put(tmp_path / "fake", videos), tmp_path / "prompts.csv"
    texts.write_text('file,prompt\n0.mp4,a red circle\n2,"left, then up"\n')
    asked = Request(None, fake, ["clip_text", "flicker"], weights={"clip": clip_folder}, device="cpu", prompts=texts)
    found, said = verdict(asked)
    expected = [float(text_alignment(videos[name][None], [text], judge)) for name, text in
                (("0.mp4", "a red circle"), ("2.mp4", "left, then up"))]  # fmt: skip
    assert [row.n for row in found.rows[:2]] == [2, 3] and "1 left out: no prompt is given: 1.mp4" in said
    assert found.rows[0].value == pytest.approx(sum(expected) / 2, abs=2e-3)  # files hold 8 bits
    for text, message in (
        ("file,prompt\n7.mp4,a\n", ":2: no clip '7.mp4'"),
        ("file,caption\n0.mp4,a\n", "columns file, prompt; this one has 'file, caption'"),
        ("file,prompt\n0.mp4,\n", ":2: no prompt of '0.mp4'"),
    ):  # fmt: skip
        texts.write_text(text)
        with pytest.raises(ValueError, match=message):
            verdict(asked)
