"""What every pipeline keeps. A class inherits it and names a few sites; its module has a fixture `pipe`, on each device."""

from __future__ import annotations

import dataclasses
import json
import random
from functools import cached_property
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from torch import Tensor

from tests.contracts import strategies
from wanlab.core import (
    EditError,
    Entry,
    FreezeFrame,
    Identity,
    LedgerError,
    Mean,
    Noise,
    Patch,
    Record,
    RecordError,
    Replace,
    Resample,
    SelectionError,
    Steer,
    UnknownSite,
    Zero,
    edit_from_dict,
    trace,
)
from wanlab.core.record import Key
from wanlab.graph import edits_by_node


class PipelineContract:
    """The contract, through `pipe.generate`.

    chain       sites in the order in which a run passes them, one at least of each stage
    block       a site inside the denoising loop, in both guidance branches
    word_map    an attention map over the tokens of the prompt
    pattern     the attention map of such a place
    prediction  the noise or velocity prediction of each branch
    latent      the latent after each step
    outside     a site outside the loop
    few         the least denoising steps in which every site fires: of two experts each has its own
    more        what `generate` needs beside image and prompt
    """

    chain: list[str]
    block: str
    pattern: str
    word_map: str
    prediction: str
    latent: str
    outside: str
    prompt = "a red circle moves left"
    steps = 3
    guidance = 2.0
    few = 1

    @property
    def more(self) -> dict[str, Any]:
        return {}

    @cached_property
    def image(self) -> Any:
        return torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))

    def run(self, pipe: Any, *edits: Any, capture: Any = (), seed: Any = 0, **kwargs: Any) -> Any:
        return pipe.generate(self.image, self.prompt, seed=seed, guidance=self.guidance, edits=list(edits),
                             capture=list(capture), **{"steps": self.steps, **self.more, **kwargs})

    def request(self, pipe: Any, steps: int | None = None) -> Any:
        return pipe.request(self.image, self.prompt, steps=steps or self.steps, guidance=self.guidance, **self.more)

    def fired(self, pipe: Any) -> list[str]:
        """The sites that generating passes, in `few` steps and in more; a stage that no node runs has sites too."""
        run = tuple(f"{stage}." for node in pipe.nodes for stage in node.stages)
        steps_of = pipe.steps_of(self.request(pipe, self.few))
        names = [site.name for site in pipe.sites() if site.name.startswith(run)]
        assert all(steps_of(name) is None or len(steps_of(name)) for name in names), "`few` steps are too few"
        return names

    def begin(self, pipe: Any, site: str) -> int:
        """The first step in which a site within the loop fires."""
        fires = pipe.steps_of(self.request(pipe))(site)
        return 0 if fires is None else fires.start

    # ------------------------------------------------------------------------------------- nothing changes

    def test_identity_edits_and_captures_everywhere_give_the_same_bytes(self, pipe: Any) -> None:
        plain, names = self.run(pipe), self.fired(pipe)
        out = self.run(pipe, *(Identity(name) for name in names), capture=[f"{name} -> device" for name in names])
        assert torch.equal(out.video, plain.video) and out.ledger.ok
        assert set(out.record) == set(names)

    def test_a_seed_gives_the_same_bytes_and_does_not_depend_on_the_batch(self, pipe: Any) -> None:
        both, alone = self.run(pipe, seed=[3, 4]).video, self.run(pipe, seed=4).video
        assert torch.equal(both, self.run(pipe, seed=[3, 4]).video)
        assert torch.allclose(both[1:], alone, atol=1e-4) and not torch.allclose(both[0], both[1], atol=1e-4)

    def test_the_video_is_a_video(self, pipe: Any) -> None:
        video = self.run(pipe, seed=[0, 1]).video
        assert video.ndim == 5 and video.shape[0] == 2 and video.shape[2] == 3 and video.dtype == torch.float32
        assert video.min() >= 0 and video.max() <= 1

    def test_nodes_run_one_by_one_give_what_generate_gives(self, pipe: Any) -> None:
        edits = [Zero(self.block, branch="cond"), Noise(self.outside, 0.1)]
        whole = self.run(pipe, *edits, seed=[0, 1])
        done: dict[str, Any] = {}
        for node in pipe.nodes:
            inputs = {name: done[name] for name in node.inputs}
            done[node.name] = pipe.run_node(node.name, inputs, whole.request, edits=edits_by_node(pipe, edits)[node.name])
        assert torch.equal(done[pipe.nodes[-1].name]["video"], whole.video)

    def test_a_loop_that_pauses_and_goes_on_gives_the_same_bytes(self, pipe: Any) -> None:
        edits = [Zero(self.block, steps="1:"), Noise(self.latent, 0.1, steps=[0, 2])]
        whole = self.run(pipe, *edits, seed=[0, 1])
        [loop] = [node for node in pipe.nodes if node.steps]
        inputs = {name: whole.nodes[name] for name in loop.inputs}
        assert len(pipe.levels(whole.request)) == self.steps
        first, last = (dataclasses.replace(edits[1], steps=step) for step in (0, 2))
        state = pipe.run_node(loop.name, inputs, whole.request, edits=[first], until=1)
        out = pipe.run_node(loop.name, inputs, whole.request, edits=[edits[0], last], before=state)
        assert all(torch.equal(out[name], value) for name, value in whole.nodes[loop.name].items())

    def test_an_edit_of_several_nodes_acts_in_each(self, pipe: Any) -> None:
        edits = [Identity("**")]
        whole = self.run(pipe, *edits)
        for node in pipe.nodes:
            inputs = {name: whole.nodes[name] for name in node.inputs}
            out = pipe.run_node(node.name, inputs, whole.request, edits=edits_by_node(pipe, edits)[node.name])
            assert all(torch.equal(out[key], value) for key, value in whole.nodes[node.name].items())

    # ------------------------------------------------------------------------------------- exactly this changes

    def test_zeroing_a_site_changes_only_what_lies_downstream(self, pipe: Any) -> None:
        plain = self.run(pipe, capture=self.chain, steps=self.few).record
        for i, site in enumerate(self.chain):
            edited = self.run(pipe, Zero(site), capture=self.chain, steps=self.few).record
            for j, other in enumerate(self.chain[:i + 1]):
                before, after = (_first(record[other]) for record in (plain, edited))
                assert torch.equal(before, after) is (j < i), f"zeroing {site} and {other}"

    def test_whatever_fired_before_an_edit_acted_is_as_it_was(self, pipe: Any) -> None:
        """At any site: those before it in the run, its upstream among them, keep their bytes."""
        plain, draw = self.run(pipe, capture=["**"], steps=self.few).record, random.Random(2)
        order, derived = plain.firings, {site.name for site in pipe.sites() if site.derived}
        for name in draw.sample([name for name in self.fired(pipe) if name not in derived], 4):
            edited = self.run(pipe, Zero(name), capture=["**"], steps=self.few).record
            first = next(i for i, key in enumerate(order) if key.site == name)
            same = [_same(plain.entry(key).tensor, edited.entry(key).tensor) for key in order]
            assert edited.firings == order and all(same[:first]), f"zeroing {name}"
            assert not plain.entry(order[first]).tensor.any() or not same[first], name

    def test_an_edit_from_a_step_on_leaves_every_latent_before(self, pipe: Any) -> None:
        plain, edited = (self.run(pipe, *edits, capture=[self.latent]).record[self.latent].tensor
                         for edits in ((), (Zero(self.block, steps="1:"),)))
        assert torch.equal(plain[0], edited[0]) and not torch.equal(plain[1], edited[1])

    def test_a_branch_leaves_the_others_prediction_at_the_first_step(self, pipe: Any) -> None:
        plain, edited = (self.run(pipe, *edits, capture=[self.prediction]).record
                         for edits in ((), (Zero(self.block, branch="cond"),)))
        first = self.begin(pipe, self.block)
        same = {branch: torch.equal(*(record[self.prediction, first, branch].tensor for record in (plain, edited)))
                for branch in ("cond", "uncond")}
        assert same == {"cond": False, "uncond": True}

    def test_a_pattern_edited_in_one_row_and_head_leaves_the_rest(self, pipe: Any) -> None:
        z = self.pattern.removesuffix("pattern") + "z"
        plain, edited = (_first(self.run(pipe, *edits, capture=[z], seed=[0, 1], steps=self.few).record[z, 0, "cond"])
                         for edits in ((), (Zero(self.pattern, rows=1, heads=0),)))
        assert torch.equal(plain[0], edited[0]) and not torch.equal(plain[1], edited[1])
        heads = pipe.sites()[z].axes.index("k") - 1
        assert torch.equal(plain[1].unbind(heads)[1], edited[1].unbind(heads)[1])

    def test_a_words_edit_is_for_its_tokens_in_cond(self, pipe: Any) -> None:
        plain = self.run(pipe, capture=[self.word_map])
        edited = self.run(pipe, Zero(self.word_map, words="left"), capture=[self.word_map])
        [token], first = pipe.tokens_of(plain.request, "left", 0), self.begin(pipe, self.word_map)
        before, after = (out.record[self.word_map, first, "cond"].tensor for out in (plain, edited))
        assert before[..., token].any() and not after[..., token].any()
        others = [i for i in range(before.shape[-1]) if i != token]
        assert torch.equal(before[..., others], after[..., others])
        assert torch.equal(*(out.record[self.word_map, first, "uncond"].tensor for out in (plain, edited)))
        with pytest.raises(LookupError, match="left"):
            self.run(pipe, Zero(self.word_map, words="rihgt"))
        with pytest.raises(SelectionError, match="not the prompt's"):
            self.run(pipe, Zero(self.pattern, words="left"))

    def test_a_mask_reaches_the_tokens_of_its_part_of_the_picture(self, pipe: Any) -> None:
        left = torch.zeros(8, 8)
        left[:, :4] = 1
        first = self.begin(pipe, self.block)
        plain, edited = (self.run(pipe, *edits, capture=[self.block], steps=self.few).record[self.block, first, "cond"]
                         for edits in ((), (Zero(self.block, mask=left),)))
        if "n" in plain.axes:                                       # tokens in a row, the first of them on a grid
            (_, h, w), n = pipe.grid_of(self.block).sides, plain.axes.index("n")
            inside = torch.zeros(plain.tensor.shape[n], dtype=torch.bool)
            inside[: h * w] = (torch.arange(h * w) % w) < w // 2
        else:
            n = plain.axes.index("w")
            inside = torch.arange(plain.tensor.shape[n]) < plain.tensor.shape[n] // 2
        before, after = plain.tensor.movedim(n, 0), edited.tensor.movedim(n, 0)
        assert inside.any() and not inside.all()
        assert before[inside].all() and not after[inside].any() and torch.equal(before[~inside], after[~inside])

    def test_a_row_edited_in_a_batch_is_the_row_alone_and_others_do_not_move(self, pipe: Any) -> None:
        """Eight samples, one of them edited; `EditContract` has every kind of edit do this on a small model."""
        seeds, site = list(range(8)), pipe.sites()[self.block]
        plain, others = self.run(pipe, seed=seeds, steps=self.few).video, [row for row in seeds if row != 2]
        for edit in (Zero(self.block), Noise(self.block, 0.5, seed=1), Mean(self.block), Steer(self.block, [1.0] * site.size("c"))):
            batch = self.run(pipe, dataclasses.replace(edit, rows=2), seed=seeds, steps=self.few).video
            alone = self.run(pipe, edit, seed=2, steps=self.few).video
            assert torch.equal(batch[others], plain[others]), edit
            assert torch.allclose(batch[2:3], alone, atol=1e-5), edit
            assert not torch.equal(batch[2], plain[2]), edit

    def test_generated_edits_read_back_to_the_same_bytes_and_leave_nothing(self, pipe: Any) -> None:
        fired, plain, before = self.fired(pipe), self.run(pipe, seed=[0, 1], steps=2).video, _state(pipe)
        sites = [site for site in pipe.sites() if site.name in fired]

        @settings(max_examples=5, phases=[Phase.reuse, Phase.generate])
        @given(strategies.edits(sites, rows=2, steps=2, branches=("cond", "uncond"), steps_of=pipe.steps_of(self.request(pipe, 2))))
        def check(told: list[dict[str, Any]]) -> None:
            edits = [edit_from_dict(one) for one in told]
            again = [edit_from_dict(json.loads(json.dumps(edit.to_dict()))) for edit in edits]
            assert again == edits
            out = self.run(pipe, *edits, seed=[0, 1], steps=2)
            assert out.ledger.ok and _same(out.video, self.run(pipe, *again, seed=[0, 1], steps=2).video)

        check()
        assert _state(pipe) == before and torch.equal(self.run(pipe, seed=[0, 1], steps=2).video, plain)

    # ------------------------------------------------------------------------------------- nothing is silent

    @pytest.mark.parametrize(("edit", "error"), [
        (lambda self: Zero(f"{self.block}x"), UnknownSite),
        (lambda self: Zero(self.block, steps=99), ValueError),
        (lambda self: Zero(self.block, branch="conditional"), SelectionError),
        (lambda self: Zero(self.block, heads=99), ValueError),
        (lambda self: Zero(self.outside, steps=0), SelectionError),
        (lambda self: Zero(self.outside, heads=0), SelectionError),
        (lambda self: Zero(self.word_map, words="rihgt"), LookupError),
        (lambda self: Zero(self.latent, mask="10/01;01/10"), SelectionError),
        (lambda self: edit_from_dict({"kind": "zeros", "at": self.block}), EditError),
        (lambda self: Steer(self.block, [1.0, 2.0]), EditError),
        (lambda self: FreezeFrame(self.latent, 99), EditError),
        (lambda self: Resample(self.block), EditError),
        (lambda self: Patch(self.latent, _record(self.latent)), RecordError),
    ])
    def test_mistakes_raise_before_anything_runs(self, pipe: Any, edit: Any, error: type) -> None:
        done: list[int] = []
        fired = self.fired(pipe)
        watch = Replace(fired[0], lambda x: done.append(1) or x)
        with pytest.raises(error):
            self.run(pipe, watch, edit(self), progress=lambda *_: done.append(1))
        assert not done

    def test_a_step_or_branch_at_a_site_that_has_none_raises_at_every_such_site(self, pipe: Any) -> None:
        request, fired = self.request(pipe), self.fired(pipe)
        lacking = [(site.name, limit) for site in pipe.sites() for limit, part in (("steps", "step"), ("branch", "branch"))
                   if site.name in fired and part not in (site.clock or ())]
        assert len({name for name, limit in lacking if limit == "steps"}) > 20
        for name, limit in random.Random(3).sample(lacking, min(40, len(lacking))):
            with pytest.raises(SelectionError, match="fires outside any"):
                pipe.check([Identity(name, **{limit: {"steps": 0, "branch": "cond"}[limit]})], request)

    def test_an_edit_of_a_branch_that_does_not_run_raises(self, pipe: Any) -> None:
        with pytest.raises(SelectionError, match="uncond"):
            pipe.generate(self.image, self.prompt, steps=1, guidance=1, **self.more, edits=[Zero(self.block, branch="uncond")])

    def test_a_trace_around_generate_sees_what_generate_does(self, pipe: Any) -> None:
        inside = self.run(pipe, capture=[self.latent])
        with trace(pipe, capture=[self.latent]) as t:
            self.run(pipe)
        assert torch.equal(t.record[self.latent].tensor, inside.record[self.latent].tensor)
        for unrun in [name for name in pipe.sites().names if name not in self.fired(pipe)][:1]:
            with pytest.raises(LedgerError, match="never fired"), trace(pipe, Zero(unrun)):
                self.run(pipe)

    # ------------------------------------------------------------------------------------- nothing stays behind

    @pytest.mark.parametrize("rounds", [20, pytest.param(1000, marks=pytest.mark.slow(seconds=80))])
    def test_exceptions_at_random_sites_leave_the_model_as_it_was(self, pipe: Any, rounds: int) -> None:
        before, plain, draw = _state(pipe), self.run(pipe, steps=self.few).video, random.Random(1)
        fired = self.fired(pipe)
        editable = [site.name for site in pipe.sites() if site.name in fired and not site.derived]
        for number in range(rounds):
            def fail(x: Tensor) -> Tensor:
                raise draw.choice([ValueError, KeyboardInterrupt, GeneratorExit])

            kept = ["**"] if number < 20 or number % 10 == 0 else draw.sample(fired, 9)     # everywhere, or a few anywhere
            with pytest.raises((ValueError, KeyboardInterrupt, GeneratorExit)):
                self.run(pipe, Replace(draw.choice(editable), fail), capture=kept, steps=self.few)
        assert _state(pipe) == before and torch.equal(self.run(pipe, steps=self.few).video, plain)


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal bytes, so that NaN is equal to itself."""
    return one.shape == other.shape and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()


def _record(site: str) -> Record:
    """A record of the site in another geometry."""
    record = Record()
    record.add(Key(site), Entry(torch.zeros(1, 4, 3, 7, 5), ("b", "f", "c", "h", "w")))
    return record


def _first(entry: Any) -> Tensor:
    """The first firing: what comes later may lie downstream through the next step."""
    return entry.tensor[0] if entry.axes[0] in ("s", "branch") else entry.tensor


def _state(pipe: Any) -> tuple[Any, ...]:
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in pipe.modules()]
    stages = [name for name, _ in pipe.named_children() if list(pipe.get_submodule(name).parameters())]
    taps = [name for name, module in pipe.named_modules() if "_taps" in vars(module)]
    return pipe.hash_of(*stages), hooks, len(list(pipe.buffers())), taps
