"""Training files as people write them: what is wrong is told at its place, before a clip is drawn; one setting changes one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from wanlab import training
from wanlab.data.procedural import World
from wanlab.nn.vgg import FILES, PUBLISHED, Vgg, _published_names
from wanlab.training import adversarial, cascade, diffusion, upsampling
from wanlab.training.content import network_of, vgg_file
from wanlab.training.presets import configured, preset_of
from wanlab.training.settings import stated

ROOT = Path(__file__).resolve().parents[2]
FEW = {"clips": 4, "held": 4, "steps": 1, "batch": 2}
BASE = {**FEW, "grounding_steps": 1, "grounding_batch": 2, "ships": {"align": "flow_warp"}}
VARIANT = {**FEW, "align": "none", "train": ["generator"], "ships": {"generator": "no_align"}}
LEVELS = {"clips": 2, "held": 1, "steps": [1, 1], "batch": [1, 1], "crop": [8, 8]}
DETAIL = {"clips": 2, "held": 1, "content_steps": 1, "gan_steps": 1, "batch": 1, "crop": 16}


def config(**more: Any) -> dict[str, Any]:
    return {"kind": "cascade", **more}


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"base": {"ships": {"algn": "flow_warp"}}}, r"base: ships: there is no 'algn'; nearest: align"),
    ({"base": {"ships": {"align": "flowwarp"}}}, r"base: variants of align in tiny: there is no 'flowwarp'; nearest: flow_warp"),
    ({"base": {"ships": {"align": ["flow_warp"]}}}, "variants of align in tiny: there is no"),
    ({"base": {"ships": "align"}}, "base: ships is a mapping, not 'align'"),
    ({"variants": {"x": {"train": ["generater"]}}}, r"variants\.x: train: there is no 'generater'; nearest: generator"),
    ({"variants": {"x": {"train": "generator"}}}, r"variants\.x: train is a list, not 'generator'"),
    ({"base": {"weights": {"motoin": 0.5}}}, r"base: weights: there is no 'motoin'; nearest: motion"),
    ({"base": {"weights": {"motion": "heavy"}}}, r"weights.motion is a number, such as 1.0, not 'heavy'"),
    ({"base": {"clips": 0}}, "base: clips is a whole number from 1 on, not 0"),
    ({"base": {"held": 0}}, "base: held is a whole number from 1 on, not 0"),
    ({"base": {"validate_every": 0}}, "validate_every is a whole number from 1 on, not 0"),
    ({"base": {"steps": 2.5}}, "base: steps is a whole number, such as 6000, not 2.5"),
    ({"base": {"seed": -1}}, "base: seed is a whole number from 0 to 268435456, not -1"),
    ({"base": {"drop_text": 1.5}}, "drop_text is a number from 0 to 1, not 1.5"),
    ({"base": {"rate": float("nan")}}, "rate is a number from 0 on, not nan"),
    ({"base": {"temporal": "no"}}, "temporal is true or false, not 'no'"),
    ({"base": {"image": "dti"}}, "base: image has no class 'dti'; nearest: dit"),
    ({"base": {"image": "latent_dit"}}, r"base: latent\.Config: no layer 'blocks\.13'"),
    ({"base": {"preset": "small"}}, "base: preset is said above, not among the settings"),
    ({"base": {"start": "nowhere.pt"}}, "base: start: there is no 'nowhere.pt'"),
    ({"base": {"distil_steps": 3}}, "base: distil_steps 3: without start there is nothing to learn from"),
    ({"variants": {"x": {"distil_steps": 3, "train": ["generator"]}}}, "distil_steps: train generator has no teacher"),
    ({"variants": {"x": {"distil_steps": 3}}}, r"distil_steps: train \(all\) has no teacher"),
    ({"variants": {"../x": VARIANT}}, "'../x' is to name a folder"),
    ({"variants": {"base": VARIANT}}, "'base' is to name a folder"),
    ({"upsample": {"residual": {"steps": 100}}}, r"upsample\.residual: steps is a list, not 100"),
    ({"upsample": {"residual": {"steps": [600]}}}, r"steps: one number for each of the 2 levels of tiny, not \[600\]"),
    ({"upsample": {"residual": {"crop": [8, "x"]}}}, "crop is a whole number, such as 24, not 'x'"),
    ({"upsample": {"residual": {"content": 0.1, "crop": [4, 8]}}}, r"crop: at least 8 where L_content is asked for, not \[4, 8\]"),
    ({"upsample": {"residual": {"vgg": "vgg16"}}}, "content: 0 asks for none of L_content"),
    ({"upsample": {"residual": {"size": 90}}}, r"upsample\.residual: unknown setting 'size'"),
    ({"upsample": {"residul": LEVELS}}, r"upsample\.residul: upsample has no variant 'residul'; nearest: residual"),
    ({"upsample": {"residual": {"videos": {"path": "x", "held": 1.0}}}}, "held a share below 1"),
    ({"upsample": {"residual": {"videos": {"path": "x", "workers": "two"}}}}, "workers and stride are whole numbers"),
    ({"upsample": {"residual": {"videos": {"path": "nowhere/clips"}}}}, r"upsample\.residual: nowhere/clips: there is no folder"),
    ({"detail": {"gan": {"crop": 200}}}, r"detail\.gan: crop is divisible by 4, from 16 to the 128 pixels of tiny, not 200"),
    ({"detail": {"gan": {"crop": 18}}}, "crop is divisible by 4"),
    ({"detail": {"gan": {"frames": 2}}}, r"detail\.gan: unknown setting 'frames'"),
    ({"detail": {"gan": {"taps": 6}}}, "taps: the content network has 5, not 6"),
    ({"detail": {"gan": {"variant": "no_gan"}}}, r"detail\.gan: variant is said above"),
    ({"detail": {"gan": {"vgg": "/nowhere/vgg16.pth"}}}, r"vgg: '/nowhere/vgg16\.pth' is missing"),
    ({"preset": "article", "base": BASE},
     r"base: text and image of article stand on what others published: say where it is, published: \{text: google-t5/t5-base, "
     r"image: facebook/DiT-XL-2-256\} \(folders, or ids of the hub\), or init: random, and they learn from noise with the rest"),
    ({"preset": "article", "published": {"text": "google-t5/t5-base"}, "base": BASE}, "base: image of article stand on"),
    ({"preset": "article", "published": {"text": "google-t5/t5-bas"}, "init": "random", "base": BASE},
     r"base: published: google-t5/t5-bas is no folder, and .* needs the revision that you trust: .*; nearest: google-t5/t5-base"),
    ({"preset": "article", "published": {"txt": "x"}, "base": BASE},
     "base: published: of the stages of article that others published: there is no 'txt'; nearest: text"),
    ({"preset": "article", "published": {"text": 5}, "base": BASE}, "base: published: text is a folder or an id of the hub, not 5"),
    ({"preset": "article", "published": "t5", "base": BASE}, "base: published is a mapping, not 't5'"),
    ({"preset": "article", "init": "noise", "base": BASE}, "base: init is random, or left out, not 'noise'"),
    ({"preset": "article", "init": "random", "base": {**BASE, "init": None}}, "base: init is said above, not among the settings"),
    ({"preset": "article", "init": "random", "base": {**BASE, "image": "mlp_projecton"}}, "image has no class 'mlp_projecton'"),
    ({"preset": "article", "init": "random", "upsample": {}}, "init: what others published stands in base and variants"),
    ({"published": {"text": "google-t5/t5-base"}, "base": BASE},
     "published: of the stages of tiny that others published: there is no 'text'$"),
    ({"preset": "article", "upsample": {"residual": {}}}, "steps: one number for each of the 4 levels of article"),
    ({"machine": {"device": "gpu"}}, "machine: device gpu: unknown; nearest: cpu"),
    ({"machine": {"device": ["cpu"]}}, "machine: device .*: unknown"),
    ({"machine": {"tensorboard": "yes"}}, "machine: tensorboard is true or false"),
    ({"machine": ["cpu"]}, "machine: expected settings"),
    ({"only": []}, "only: STAGE.VARIANT, or a list of them"),
    ({"only": 5}, "only: STAGE.VARIANT, or a list of them"),
    ({"variants": None}, "variants: expected names with settings, got None"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_a_mistake_is_told_before_a_clip_is_drawn(given: dict, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "__init__", lambda *args, **kwargs: pytest.fail("a world was made"))
    with pytest.raises(ValueError, match=said):
        training.run(config(**given), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cuda", "cuda:64", "mps", "xpu", "hpu"])
def test_a_device_that_is_not_here_is_told(name: str) -> None:
    from wanlab.core.device import _count
    from wanlab.runs.environment import pick_device

    if _count(torch.device(name)) > (torch.device(name).index or 0):
        assert pick_device(name) == name
        return
    with pytest.raises(ValueError, match=rf"--device {name}: .* on this machine; use cpu"):
        pick_device(name)
    with pytest.raises(ValueError, match=rf"machine: device {name}: .* on this machine"):
        cascade.planned(config(machine={"device": name}), Path("never"))
    assert pick_device("cpu") == "cpu"


def test_one_weight_of_the_loss_is_changed_alone() -> None:
    changed = diffusion.Recipe(weights={"motion": 0.5}).weights
    assert changed == {**diffusion.WEIGHTS, "motion": 0.5} and diffusion.Recipe().weights == diffusion.WEIGHTS


def test_what_no_weight_depends_on_may_change_when_a_training_goes_on(tmp_path: Path) -> None:
    training.run(config(base=BASE), tmp_path)
    before = (tmp_path / "base" / "diffusion.pt").read_bytes()
    training.run(config(base={**BASE, "held": 5, "validate_every": 7}), tmp_path)
    (tmp_path / "base" / "provenance-align.flow_warp.json").unlink()
    training.run(config(base={**BASE, "held": 5, "ships": {"align": "flow_warp", "text": "t5"}}), tmp_path)
    assert (tmp_path / "base" / "text.t5.safetensors").exists() and (tmp_path / "base" / "diffusion.pt").read_bytes() == before
    with pytest.raises(ValueError, match=r"grounding\.pt was trained with another recipe: rate was 0\.0015"):
        training.run(config(base={**BASE, "rate": 1e-4, "ships": {"fusion": "cross_attention"}}), tmp_path)


def test_finished_weights_of_other_settings_are_not_kept(tmp_path: Path) -> None:
    """Also where a setting is no longer said, and where the preset is another."""
    training.run(config(detail={"gan": {**DETAIL, "lam": 0.15}}), tmp_path)
    with pytest.raises(ValueError, match=r"detail gan: .*other settings: lam was 0.15; choose another --out"):
        training.run(config(detail={"gan": DETAIL}), tmp_path)
    with pytest.raises(ValueError, match=r"other settings: .*preset was tiny"):
        training.run(config(preset="small", detail={"gan": {**DETAIL, "lam": 0.15}}), tmp_path)


def test_a_training_goes_on_wherever_its_folder_lies_and_not_from_other_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = config(base=BASE, variants={"no_align": {**VARIANT, "steps": 2}})
    training.run(given, Path("out"))
    notes = {note: note.read_text() for note in Path("out").glob("*/provenance-*")}
    (tmp_path / "out" / "no_align" / "provenance-generator.no_align.json").unlink()
    training.run(given, tmp_path / "out")                           # the same folder, in full: the checkpoint is taken
    again = {note: note.read_text() for note in Path("out").glob("*/provenance-*")}
    assert {note: json.loads(text)["sha256"] for note, text in notes.items()} == {
        note: json.loads(text)["sha256"] for note, text in again.items()
    }
    for file in Path("out/base").iterdir():
        file.unlink()
    training.run({**given, "only": "align.flow_warp", "base": {**BASE, "seed": 1}}, Path("out"))
    with pytest.raises(ValueError, match=r"no_align: .*start \(diffusion.pt\) held something else"):
        training.run({**given, "base": {**BASE, "seed": 1}}, Path("out"))


def test_a_class_that_is_not_built_from_a_presets_settings_is_told() -> None:
    with pytest.raises(ValueError, match="image: the settings that article has for latent_dit build no dit"):
        configured(preset_of("article"), "image", "dit")


def test_levels_have_the_size_and_the_frames_of_the_preset() -> None:
    sizes = {preset: upsampling.Recipe(preset=preset) for preset in ("tiny", "small", "article-random-tiny")}
    assert {name: (one.size, one.frames, one.base) for name, one in sizes.items()} == {
        "tiny": (128, 8, 32), "small": (256, 16, 64), "article-random-tiny": (64, 4, 16)}
    four = upsampling.Recipe(preset="article", steps=(1,) * 4, batch=(1,) * 4, crop=(8,) * 4)
    assert (four.size, four.base, len(four.levels)) == (1024, 64, 4)
    assert adversarial.Recipe(preset="small").size == 256


def test_what_is_stated_of_a_recipe_are_files_by_their_names_and_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    here = stated(adversarial.Recipe(upsample=str(tmp_path / "a.safetensors"), held=3))
    assert here["upsample"] == "a.safetensors" and not {"held", "pool"} & here.keys()
    assert set(here["from"]) == {"upsample", "vgg", "preset"}
    (tmp_path / "a.safetensors").write_bytes(b"others")
    assert stated(adversarial.Recipe(upsample=str(tmp_path / "a.safetensors")))["from"] != here["from"]


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VGG-16 in torchvision's layout, random."""
    file = tmp_path_factory.mktemp("vgg") / FILES["vgg16"].replace(".pth", ".safetensors")
    network = Vgg((64, 128, 256, 512, 512), PUBLISHED["vgg16"])
    state = network.state_dict()
    save_file({theirs: state[ours] for theirs, ours in _published_names(network).items()}, file)
    return file


@pytest.mark.slow
def test_a_published_vgg_is_the_content_network_where_it_is_asked_for(vgg: Path, tmp_path: Path) -> None:
    levels = {**LEVELS, "content": 0.1, "vgg": str(vgg)}
    given = config(upsample={"residual": levels}, detail={"gan": {**DETAIL, "vgg": str(vgg)}})
    training.run(given, tmp_path)
    note = json.loads((tmp_path / "detail" / "provenance-discriminator.gan.json").read_text())
    assert note["config"]["taps"] == [64, 128, 256] and note["recipe"]["vgg"] == vgg.name
    assert set(note["from"]) == {"upsample", "vgg", "preset"}
    assert network_of(str(vgg)).blocks[0][0].out_channels == 64


def test_what_is_no_vgg_is_told(vgg: Path, tmp_path: Path) -> None:
    assert vgg_file(str(vgg)) == vgg
    other = tmp_path / "weights.pth"
    other.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="its name begins with neither of vgg16, vgg19"):
        vgg_file(str(other))
    with pytest.raises(ValueError, match=r"vgg16-397923af\.pth is damaged"):
        network_of(str(other.rename(tmp_path / FILES["vgg16"])))
    assert vgg_file(str(tmp_path)).name == FILES["vgg16"]
    with pytest.raises(ValueError, match="is no vgg19 of torchvision's layout"):
        network_of(str(vgg.rename(tmp_path / "vgg19.safetensors")))


def test_the_shipped_training_files_are_read_whole() -> None:
    from wanlab.runs.document import read

    for name in ("tiny", "small", "swaps"):
        data = read(ROOT / "experiments" / "train" / f"{name}.yaml").data
        parts = cascade.planned(data | {"machine": {}}, Path("never"))
        assert len(parts) == sum(len(data.get(key, ())) for key in ("variants", "upsample", "detail")) + ("base" in data)
        assert all(asdict(part.recipe)["preset"] == data["preset"] for part in parts)
