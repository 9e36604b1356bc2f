"""What every kind of edit keeps, on each device. A test class inherits `EditContract` and gives an edit and a site for it."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor

from tests.core.models import Denoiser, start
from tests.core.test_trace import state
from wanlab import core
from wanlab.core import Edit, Patch, Probe, Record, Replace, Scale, SelectionError, Sites, edit_from_dict, sites_of, trace


class EditContract:
    """The contract. `kind` and `parameters` make the edit; `batched`: a sample's result depends on its batch."""

    kind: str
    parameters: dict[str, Any] = {}
    site: str = "blocks.0.out"
    batched: bool = False

    @pytest.fixture(autouse=True)
    def _on(self, device: str) -> None:
        self.device = device

    def model(self) -> Denoiser:
        return Denoiser().to(self.device)

    def start(self, rows: int) -> Tensor:
        return start(rows).to(self.device)

    def edit(self, **limits: Any) -> Edit:
        return edit_from_dict({"kind": self.kind, "at": self.site, **self.parameters, **limits})

    def run(self, *edits: Edit, capture: Any = None) -> tuple[Tensor, Record]:
        model = self.model()
        with torch.no_grad(), trace(model, edits, ["latent", self.site] if capture is None else capture) as t:
            out = model(self.start(8))
        return out, t.record

    # ------------------------------------------------------------------------------------- data

    def test_reads_back_from_yaml_to_the_same_bytes(self) -> None:
        edit, text = self.edit(steps=[0, "last"]), io.StringIO()
        YAML(typ="safe").dump(edit.to_dict(), text)
        again = edit_from_dict(YAML(typ="safe").load(text.getvalue()))
        assert again == edit and again.hash == edit.hash and again.to_dict() == edit.to_dict()
        assert torch.equal(self.run(edit)[0], self.run(again)[0])

    def test_is_the_same_in_one_string_by_keywords_and_as_it_shows_itself(self) -> None:
        edit = self.edit(rows=[0, 2], steps="1:", branch="cond")
        told = {key: value for key, value in edit.to_dict().items() if key not in edit.limits}
        assert edit_from_dict({**told, "at": str(edit.where)}) == edit
        assert eval(repr(edit), vars(core)) == edit and "None" not in repr(edit)

    # ------------------------------------------------------------------------------------- exactly this changes

    def test_does_something_and_the_same_each_time(self) -> None:
        plain, edited = self.run()[0], self.run(self.edit())[0]
        assert torch.equal(edited, self.run(self.edit())[0])
        assert torch.equal(edited, plain) is self.edit().inert

    def test_changes_only_what_lies_downstream(self) -> None:
        """Whatever fired before the edit acted is as it was."""
        plain, edited = (self.run(*edits, capture="**")[1] for edits in ((), (self.edit(steps=1, branch="uncond"),)))
        keys = plain.firings
        first = next(i for i, key in enumerate(keys) if tuple(key[:3]) == (self.site, 1, "uncond"))
        same = [torch.equal(plain.entry(key).tensor, edited.entry(key).tensor) for key in keys]
        assert edited.firings == keys and all(same[:first]) and all(same) is self.edit().inert

    def test_from_a_step_on_leaves_every_latent_before(self) -> None:
        plain, edited = (self.run(*edits)[1]["latent"].tensor for edits in ((), (self.edit(steps="1:"),)))
        assert torch.equal(plain[0], edited[0])
        assert torch.equal(plain[1], edited[1]) is self.edit().inert

    def test_in_one_branch_leaves_the_other_at_the_first_step(self) -> None:
        plain, edited = (self.run(*edits)[1][self.site].tensor for edits in ((), (self.edit(branch="uncond"),)))
        assert torch.equal(plain[0, 0], edited[0, 0])
        assert torch.equal(plain[0, 1], edited[0, 1]) is self.edit().inert

    def test_a_row_in_a_batch_is_the_row_alone_and_others_do_not_move(self) -> None:
        plain, batch = self.run()[0], self.run(self.edit(rows=2))[0]
        others = [0, 1, 3, 4, 5, 6, 7]
        assert torch.equal(batch[others], plain[others])
        if not self.batched:
            model = self.model()
            with torch.no_grad(), trace(model, self.edit(), seeds=[12]):
                alone = model(self.start(3)[2:3])
            assert torch.allclose(batch[2:3], alone, atol=1e-5)

    def test_a_row_depends_on_the_seed_of_its_sample_only_where_the_kind_says_so(self) -> None:
        model, edit, found = self.model(), self.edit(), []
        for seeds in (range(8), range(8, 16)):
            with torch.no_grad(), trace(model, edit, seeds=[*seeds]):
                found.append(model(self.start(8)))
        assert torch.equal(*found) is not edit.reads_seeds

    def test_composes_in_the_order_given(self) -> None:
        edit, double = self.edit(), Scale(self.site, 2.0)
        alone, edited_then_doubled = (self.run(*edits)[1][self.site].tensor[0] for edits in ((edit,), (edit, double)))
        assert torch.equal(edited_then_doubled[0], 2 * alone[0])
        doubled = self.run(double)[1]
        patched = self.run(Patch(self.site, doubled, steps=0), edit)[1][self.site].tensor[0]
        assert torch.equal(self.run(double, edit)[1][self.site].tensor[0], patched)

    # ------------------------------------------------------------------------------------- nothing is silent, nothing stays

    def test_steps_and_branches_where_there_are_none_are_refused_before_anything_runs(self) -> None:
        model = self.model()
        with Probe(model) as probe:
            model(self.start(1), steps=1)
        outside = replace(probe.sites[self.site], clock=frozenset())
        sites = Sites([outside if one.name == self.site else one for one in probe.sites])
        for limit, noun in (({"steps": 0}, "step"), ({"sigma": (0, 1)}, "step"), ({"branch": "cond"}, "branch")):
            with pytest.raises(SelectionError, match=f"{self.site} fires outside any {noun}"):
                trace(model, self.edit(**limit), sites=sites)

    def test_exceptions_leave_nothing(self) -> None:
        model, draw = self.model(), random.Random(0)
        names, before, x = sites_of(model).names, state(model), self.start(4)

        def fail(x: Tensor) -> Tensor:
            raise draw.choice([ValueError, KeyboardInterrupt, GeneratorExit])

        for _ in range(20):
            with pytest.raises((ValueError, KeyboardInterrupt, GeneratorExit)), torch.no_grad(), \
                    trace(model, [self.edit(), Replace(draw.choice(names), fail)], capture="**"):
                model(x, 1)
        assert state(model) == before
