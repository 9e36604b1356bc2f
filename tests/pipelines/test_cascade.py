"""The cascade from image and prompt to video: equal requests give equal bytes, every component can be removed and swapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from wanlab.core import BudgetError, Capture, Identity, Scale, Select, SelectionError, UnknownSite, Zero, trace
from wanlab.data.procedural import World
from wanlab.graph import edits_by_node
from wanlab.pipelines.cascade import STAGES, Cascade
from wanlab.pipelines.load import WeightsError, load
from wanlab.pipelines.request import Request
from wanlab.stages.prompt import CutWarning, PromptWarning

PROMPT = "a red circle moves left"
COMPONENTS = ("text", "image", "fusion", "temporal", "alignment", "residual", "detail", "gan_head", "guidance")
CLOSE = 0.01  # mean distance in [0, 1] of a video under autocast in bfloat16
IMAGE = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def plain(pipe: Cascade) -> Tensor:
    """The video that nobody touched."""
    return pipe.generate(IMAGE, PROMPT, seed=1).video


def test_an_image_and_a_prompt_give_a_video(pipe: Cascade, plain: Tensor) -> None:
    assert plain.shape == (1, 4, 3, 64, 64) and plain.dtype == torch.float32
    assert plain.min() >= 0 and plain.max() <= 1 and plain.std() > 0.01


def test_the_same_request_gives_the_same_bytes(pipe: Cascade, plain: Tensor) -> None:
    torch.manual_seed(99)
    assert torch.equal(pipe.generate(IMAGE, PROMPT, seed=1).video, plain)
    assert torch.equal(pipe.generate(IMAGE, [PROMPT], seed=[1], steps=2, guidance=2.0).video, plain)


@pytest.mark.parametrize("changed", [
    {"seed": 2}, {"prompt": "a blue star grows"}, {"image": None}, {"image": 1 - IMAGE}, {"steps": 3}, {"guidance": 1.0},
    {"negative": "a blue star"},
])  # fmt: skip
def test_everything_in_a_request_matters(pipe: Cascade, plain: Tensor, changed: dict[str, Any]) -> None:
    other = pipe.generate(**{"image": IMAGE, "prompt": PROMPT, "seed": 1, **changed}).video
    assert not torch.allclose(other, plain, atol=1e-4)


def test_identity_edits_are_free(pipe: Cascade, plain: Tensor) -> None:
    edits = [Identity(site) for site in ("generator.mid.resid_post", "fusion.attn.pattern", "align.out", "sampler.*.latent")]
    out = pipe.generate(IMAGE, PROMPT, seed=1, edits=edits, capture=["generator.mid.temporal.attn.pattern"])
    assert torch.equal(out.video, plain) and out.ledger.ok
    assert out.record["generator.mid.temporal.attn.pattern"].axes[:2] == ("s", "branch")


def test_weights_in_half_precision_are_refused_and_autocast_comes_close() -> None:
    tiny = load("tiny")
    image = World(size=128, split="test")[3].video[0]
    plain = tiny.generate(image, PROMPT, seed=0, steps=2).video
    with torch.autocast("cpu", torch.bfloat16):
        half = tiny.generate(image, PROMPT, seed=0, steps=2).video
    assert half.dtype == torch.float32 and half.isfinite().all()
    assert 0 < (half - plain).abs().mean() < CLOSE
    with pytest.raises(ValueError, match=r"the stage text is in torch.bfloat16: a cascade runs in float32 .* torch.autocast"):
        tiny.to(torch.bfloat16).generate(image, PROMPT, seed=0, steps=1)


def test_rows_are_independent(pipe: Cascade, plain: Tensor) -> None:
    images = torch.stack([1 - IMAGE, IMAGE])
    both = pipe.generate(images, ["a blue star grows and a red square hops", PROMPT], seed=[7, 1]).video
    assert torch.allclose(both[1:], plain, atol=1e-4)


def test_one_image_or_prompt_serves_all_seeds(pipe: Cascade, plain: Tensor) -> None:
    request = pipe.request(IMAGE, PROMPT, range(3))
    assert len(request) == 3 and request.images is not None and request.images.shape == (3, 3, 64, 64)
    assert request.prompts == [PROMPT] * 3 and request.seeds == [0, 1, 2]
    with pytest.raises(ValueError, match="prompt has 2 rows where the others have 3"):
        pipe.request(IMAGE, [PROMPT] * 2, range(3))


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_can_be_removed(pipe: Cascade, plain: Tensor, component: str) -> None:
    """Its edits act (the ledger would raise) and the video is another one."""
    out = pipe.generate(IMAGE, PROMPT, seed=1, edits=pipe.ablate(component))
    assert len(out.ledger) > 0 and out.ledger.ok
    assert (out.video - plain).abs().max() > 1e-3


def test_removing_text_is_an_empty_condition_and_removing_guidance_is_guidance_one(pipe: Cascade) -> None:
    removed = pipe.generate(IMAGE, PROMPT, seed=1, edits=pipe.ablate("text"))
    other = pipe.generate(IMAGE, "a blue star grows", seed=1, edits=pipe.ablate("text"))
    assert torch.equal(removed.video, other.video)
    unguided = pipe.generate(IMAGE, PROMPT, seed=1, edits=pipe.ablate("guidance"))
    assert torch.allclose(unguided.video, pipe.generate(IMAGE, PROMPT, seed=1, guidance=1).video, atol=1e-6)


def test_the_difference_of_the_branches_is_there_where_both_run(pipe: Cascade) -> None:
    """A glob over the sampler goes without it where guidance is 1; asked for by name it is refused before anything runs."""
    both = pipe.generate(IMAGE, PROMPT, seed=1, guidance=2, steps=2, capture="sampler.**")
    one = pipe.generate(IMAGE, PROMPT, seed=1, guidance=1, steps=2, capture="sampler.**")
    assert set(both.record) - set(one.record) == {"sampler.video.difference", "sampler.motion.difference"}
    assert both.ledger.ok and one.ledger.ok
    with pytest.raises(SelectionError, match=r"2 steps of this run \(cond alone\), sampler.video.difference fires in no step"):
        pipe.generate(IMAGE, PROMPT, guidance=1, steps=2, edits=Scale("sampler.video.difference", 2.0))


def test_removing_the_image_is_no_image(pipe: Cascade) -> None:
    removed = pipe.generate(IMAGE, PROMPT, seed=1, edits=pipe.ablate("image"))
    assert torch.equal(removed.video, pipe.generate(None, PROMPT, seed=1).video)


def test_removing_alignment_at_run_time_is_the_variant_none(pipe: Cascade) -> None:
    removed = pipe.generate(IMAGE, PROMPT, seed=1, edits=pipe.ablate("alignment")).nodes["denoise"]
    swapped = pipe.swap("align", "none").generate(IMAGE, PROMPT, seed=1).nodes["denoise"]
    assert torch.allclose(removed["video"], swapped["video"], atol=1e-5)
    assert torch.equal(removed["scope"], swapped["scope"]) and swapped["masks"].shape[1] == 0


def test_nodes_run_one_by_one_give_what_generate_gives(pipe: Cascade) -> None:
    edits = [Zero("generator.mid.temporal.attn.z", heads=[0]), Zero("upsample.1.trust")]
    whole = pipe.generate(IMAGE, PROMPT, seed=[0, 1], edits=edits)
    done: dict[str, Any] = {}
    for node in pipe.nodes:
        inputs = {name: done[name] for name in node.inputs}
        done[node.name] = pipe.run_node(node.name, inputs, whole.request, edits=edits_by_node(pipe, edits)[node.name])
    assert torch.equal(done["detail"]["video"], whole.video)
    assert [name for name, mine in edits_by_node(pipe, edits).items() if mine] == ["denoise", "upsample.1"]


def test_nodes_come_after_their_inputs_and_share_no_stage(pipe: Cascade) -> None:
    names = [node.name for node in pipe.nodes]
    assert names == ["text", "image", "denoise", "upsample.0", "upsample.1", "detail"]
    assert all(names.index(x) < i for i, node in enumerate(pipe.nodes) for x in node.inputs)
    stages = [stage for node in pipe.nodes for stage in node.stages]
    assert len(stages) == len(set(stages)) and all(len(node.weights_hash) == 64 for node in pipe.nodes)


@pytest.mark.parametrize(("stage", "variant"), [
    ("align", "none"), ("align", "temporal_attention"), ("generator", "no_temporal"), ("upsample", "no_residual"),
])  # fmt: skip
def test_a_swap_shares_every_other_weight(pipe: Cascade, plain: Tensor, stage: str, variant: str) -> None:
    before = pipe.weights_hash
    other = pipe.swap(stage, variant, init="random")
    for name in STAGES:
        assert (other.get_submodule(name) is pipe.get_submodule(name)) is (name != stage)
    assert other.config["variants"][stage] == variant != pipe.config["variants"][stage]
    assert other.weights_hash != before == pipe.weights_hash
    assert not torch.allclose(other.generate(IMAGE, PROMPT, seed=1).video, plain, atol=1e-4)


def test_every_variant_that_a_preset_names_can_be_swapped_in(pipe: Cascade, plain: Tensor) -> None:
    for stage, entry in pipe.config["stages"].items():
        for variant in set(entry["variants"]) - {entry["default"], "no_gan"}:      # texture heads start at zero
            video = pipe.swap(stage, variant, init="random").generate(IMAGE, PROMPT, seed=1, steps=1).video
            assert video.shape == plain.shape and video.isfinite().all(), (stage, variant)


def test_what_a_variant_was_trained_with_comes_along(pipe: Cascade) -> None:
    other = pipe.swap("generator", "no_align", init="random")
    assert pipe.companions("generator", "no_align") == {"align": "none"} and other.config["variants"]["align"] == "none"
    back = other.swap("align", "flow_warp", init="random")
    assert back.config["variants"]["generator"] == "no_align" and back.config["variants"]["align"] == "flow_warp"
    assert pipe.companions("align", "none") == {} and pipe.swap("align", "none").config["variants"]["generator"] == "unet"


def test_the_discriminator_judges_every_patch_of_a_video(pipe: Cascade, plain: Tensor) -> None:
    with trace(pipe, capture=["discriminator.realness"]) as t:
        real = pipe.judge(plain)
    assert real.shape == (1, 4, 16, 16)
    assert torch.equal(t.record["discriminator.realness"].tensor[:, :, 0], real)
    changed = plain.clone()
    changed[:, 2, :, :8, :8] = 1 - changed[:, 2, :, :8, :8]
    moved = (pipe.judge(changed) - real).abs()[0]
    assert moved[2, :4, :4].max() == moved.max() and not moved[:, 12:, 12:].any(), "a patch is judged by what is near it"


def test_the_generator_sees_the_frame_it_is_to_start_from(pipe: Cascade) -> None:
    """With an image, alignment leaves frame 0 as given and the reference of every level is the image itself there."""
    out = pipe.generate(IMAGE, PROMPT, seed=1, capture=["align.out", "upsample.1.reference", "upsample.1.valid"])
    reference = out.record["upsample.1.reference"].tensor[0, 0]
    assert torch.allclose((reference + 1) / 2, IMAGE, atol=1e-6)
    assert torch.equal(out.record["upsample.1.valid"].tensor[0, 0], torch.ones(1, 64, 64))


def test_without_an_image_no_level_is_guided(pipe: Cascade) -> None:
    out = pipe.generate(None, PROMPT, capture=["upsample.*.valid", "upsample.*.reference"])
    assert not any(out.record[name].tensor.any() for name in out.record)


def test_every_stage_has_sites_with_shapes_and_the_nine_components_are_there(pipe: Cascade) -> None:
    sites = pipe.sites()
    assert {site.name.split(".")[0] for site in sites} == {*STAGES, "sampler"}
    assert all(site.shape is not None for site in sites)
    assert sites["generator.mid.temporal.attn.pattern"].axes == ("b", "n", "k", "f", "j")
    assert sites["generator.mid.temporal.attn.pattern"].size("f") == 4
    assert set(pipe.components) == set(COMPONENTS)


def test_words_select_their_tokens(pipe: Cascade) -> None:
    request = pipe.request(IMAGE, "A red circle moves, and the red star grows", 0)
    assert pipe.tokens_of(request, "Red", 0) == [1, 6]
    with pytest.raises(LookupError, match=r"no word 'circel'; nearest: circle.*it has: a red circle moves"):
        pipe.tokens_of(request, "circel", 0)
    assert pipe.unknown_words("a mauve circle") == ["mauve"]


@pytest.mark.parametrize(("prompt", "settings", "said"), [
    (f"{PROMPT} " * 5, {}, "takes in 23 words; 'moves left' were cut"),
    ("a mauve circle", {}, "does not know: mauve"),
    (PROMPT, {"negative": "a blue star", "guidance": 1.0}, "with guidance 1 the negative prompt has no effect"),
])  # fmt: skip
def test_what_of_a_prompt_has_no_effect_is_told_once(pipe: Cascade, prompt: str, settings: dict[str, Any], said: str) -> None:
    with pytest.warns(PromptWarning, match=said) as heard:
        pipe.generate(None, [prompt] * 2, [0, 1], steps=1, **settings)
    assert len(heard) == 1 and (heard[0].category is CutWarning or heard[0].filename == __file__)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda p: p.swap("algin", "none"), LookupError, "no stage 'algin'; nearest: align"),
    (lambda p: p.swap("align", "flow"), LookupError, "stage align has no variant 'flow'; nearest: flow_warp"),
    (lambda p: p.swap("align", "temporal_attention"), WeightsError, "'temporal_attention' has no weights"),
    (lambda p: p.ablate("temporl"), LookupError, "no component 'temporl'; nearest: temporal"),
    (lambda p: p.node("denoiser"), LookupError, "no node 'denoiser'; nearest: denoise"),
    (lambda p: p.sites("fusion.atn.z"), UnknownSite, "nearest: fusion.attn.z"),
    (lambda p: p.generate(IMAGE, PROMPT, edits=[Zero("generator.mid.tempral.out")]), UnknownSite, r"generator\.mid\.temporal\.out"),
    (lambda p: p.generate(IMAGE, PROMPT, edits=[Zero("fusion.out", steps=2)]), ValueError, "step"),
    (lambda p: p.generate(IMAGE, PROMPT, edits=[Zero("text.out", steps=0)]), SelectionError, "step"),
    (lambda p: p.generate(IMAGE, PROMPT, steps=0), ValueError, "steps must be at least 1"),
    (lambda p: p.generate(IMAGE, PROMPT, steps=2.7), TypeError, "steps is a whole number, got 2.7"),
    (lambda p: p.generate(IMAGE, PROMPT, seed=None), TypeError, "seed is a whole number, got None"),
    (lambda p: p.generate(IMAGE, [PROMPT, None]), TypeError, "prompt is a sentence, or one for each row, got None"),
    (lambda p: p.generate(IMAGE, PROMPT, guidance="3"), TypeError, "guidance is a number, got '3'"),
    (lambda p: p(IMAGE, PROMPT), TypeError, r"pipe\.generate\(image, prompt"),
    (lambda p: p.ablate(["text", "image"]), TypeError, "the name of one component"),
    (lambda p: p.generate(IMAGE, PROMPT, edits="zero:text.out"), ValueError, "'zero:text.out' is no edit"),
    (lambda p: load(None), TypeError, "load takes a name or a folder, not None; there are .*tiny"),
    (lambda p: p.generate(torch.rand(2, 3, 8, 8), [PROMPT] * 3), ValueError, "as many of each"),
])  # fmt: skip
def test_mistakes_are_answered_with_what_is_right(pipe: Cascade, call: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(pipe)


def test_a_cascade_lacks_no_stage() -> None:
    with pytest.raises(ValueError, match=r"missing: text, image.*discriminator"):
        Cascade({}, {})


def test_edits_can_be_checked_without_running(pipe: Cascade) -> None:
    request = Request([PROMPT], [0], None, 2, 1.0)
    pipe.check([Zero("fusion.out", branch="cond")], request)
    with pytest.raises(SelectionError, match="uncond"):
        pipe.check([Zero("fusion.out", branch="uncond")], request)


def test_captures_and_edits_come_in_any_form(pipe: Cascade) -> None:
    def kept(capture: Any) -> list[str]:
        return list(pipe.generate(IMAGE, PROMPT, steps=1, guidance=1, edits=None, capture=capture).record)

    assert kept(None) == []
    assert kept("text.out") == kept(Select("text.out")) == kept({"at": "text.out"}) == kept(Capture("text.out")) == ["text.out"]


def test_an_output_shows_itself_in_a_line(pipe: Cascade) -> None:
    out = pipe.generate(IMAGE, PROMPT, [0, 1], steps=1, guidance=1, capture="text.out", edits=[Zero("fusion.out")])
    assert repr(out) == ("Output(video: b=2 f=4 c=3 h=64 w=64; seeds: 0, 1; record: text.out; "
                         "ledger: 2 edits and captures at sites, all as expected)")
    assert "record: empty; ledger: empty" in repr(pipe.generate(IMAGE, PROMPT, steps=1, guidance=1))


def test_a_ledger_beside_a_video_is_of_that_video(pipe: Cascade, tmp_path: Path) -> None:
    (tmp_path / "other.ledger.json").write_text("{}")
    for edits, beside in (([Zero("fusion.out")], True), ([], False)):
        pipe.generate(IMAGE, PROMPT, steps=1, guidance=1, edits=edits).save(tmp_path / "out.mp4")
        assert (tmp_path / "out.ledger.json").exists() is beside
    assert (tmp_path / "other.ledger.json").exists()


def test_a_cascade_in_another_precision_says_how_to_bring_it_back(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"the stage text is in torch.float64: a cascade runs in float32 \(pipe.float\(\)\)"):
        load(folder, init="random").double().generate(IMAGE, PROMPT, steps=1)


def test_progress_is_told_and_the_video_can_be_saved(pipe: Cascade, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = pipe.generate(IMAGE, PROMPT, steps=3, progress=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert out.save(tmp_path / "out.mp4").stat().st_size > 0


def test_files_serve_as_images(pipe: Cascade, tmp_path: Path) -> None:
    from PIL import Image

    bytes_ = (IMAGE * 255).round().byte()
    Image.fromarray(bytes_.permute(1, 2, 0).numpy()).save(tmp_path / "first.png")
    from_file = pipe.generate(str(tmp_path / "first.png"), PROMPT, seed=1, steps=1, guidance=1).video
    assert torch.allclose(from_file, pipe.generate(bytes_.float() / 255, PROMPT, seed=1, steps=1, guidance=1).video, atol=1e-6)


def test_a_loaded_pipeline_is_ready_to_run_and_asks_for_no_gradient(folder: Path) -> None:
    fresh = load(folder, init="random")
    assert not fresh.training and fresh.device.type == "cpu"
    assert not fresh.generate(IMAGE, PROMPT, steps=1, guidance=1).video.requires_grad


def test_a_record_knows_the_words_of_the_prompt(pipe: Cascade) -> None:
    out = pipe.generate(IMAGE, [PROMPT, "a blue circle"], seed=1, capture=["fusion.attn.pattern", "text.embed -> topk(k=2)"])
    array = out.record["fusion.attn.pattern"].to_xarray()
    assert array.word.sel(branch="cond").isel(b=0).values.tolist()[:6] == [*PROMPT.split(), ""]
    part = out.record["fusion.attn.pattern[words=circle]@steps=last"]
    assert part.coords["j"] == (2,) and part.coords["branch"] == "cond"
    whole = out.record["fusion.attn.pattern", 1, "cond"].tensor
    assert torch.equal(part.tensor[0, ..., 0], whole[..., 2])
    assert set(out.record["text.embed -> topk"].to_xarray().seed.values) == {1}
    with pytest.raises(LookupError, match=r"no word 'left' in row 1; nearest: .*; held: a blue circle"):
        out.record["fusion.attn.pattern[words=left]"]
    with pytest.raises(BudgetError, match=r"the budget is .* stream \('.*fusion.attn.pattern -> mean'"):
        pipe.generate(IMAGE, PROMPT, capture="fusion.attn.pattern", budget=2**10)
