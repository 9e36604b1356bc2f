"""What every kind of edit keeps. A test class inherits `EditContract` and gives an edit and a site for it."""

from __future__ import annotations

import io
from typing import Any

import torch
from ruamel.yaml import YAML
from torch import Tensor

from tests.core.models import Denoiser, start
from wanlab.core import Edit, Record, edit_from_dict, trace


class EditContract:
    """The contract. `kind` and `parameters` make the edit; `batched`: a sample's result depends on its batch."""

    kind: str
    parameters: dict[str, Any] = {}
    site: str = "blocks.0.out"
    batched: bool = False

    def edit(self, **limits: Any) -> Edit:
        return edit_from_dict({"kind": self.kind, "at": self.site, **self.parameters, **limits})

    def run(self, *edits: Edit) -> tuple[Tensor, Record]:
        model = Denoiser()
        with torch.no_grad(), trace(model, edits, ["latent", self.site]) as t:
            out = model(start(8))
        return out, t.record

    def test_reads_back_from_yaml_to_the_same_bytes(self) -> None:
        edit, text = self.edit(steps=[0, "last"]), io.StringIO()
        YAML(typ="safe").dump(edit.to_dict(), text)
        again = edit_from_dict(YAML(typ="safe").load(text.getvalue()))
        assert again == edit and again.hash == edit.hash and again.to_dict() == edit.to_dict()
        assert torch.equal(self.run(edit)[0], self.run(again)[0])

    def test_does_something_and_the_same_each_time(self) -> None:
        assert torch.equal(self.run(self.edit())[0], self.run(self.edit())[0])
        assert self.kind == "identity" or not torch.equal(self.run(self.edit())[0], self.run()[0])

    def test_from_a_step_on_leaves_every_latent_before(self) -> None:
        plain, edited = (self.run(*edits)[1]["latent"].tensor for edits in ((), (self.edit(steps="1:"),)))
        assert torch.equal(plain[0], edited[0])
        assert self.kind == "identity" or not torch.equal(plain[1], edited[1])

    def test_in_one_branch_leaves_the_other_at_the_first_step(self) -> None:
        plain, edited = (self.run(*edits)[1][self.site].tensor for edits in ((), (self.edit(branch="uncond"),)))
        assert torch.equal(plain[0, 0], edited[0, 0])
        assert self.kind == "identity" or not torch.equal(plain[0, 1], edited[0, 1])

    def test_a_row_in_a_batch_is_the_row_alone_and_others_do_not_move(self) -> None:
        plain, batch = self.run()[0], self.run(self.edit(rows=2))[0]
        others = [0, 1, 3, 4, 5, 6, 7]
        assert torch.equal(batch[others], plain[others])
        if not self.batched:
            model = Denoiser()
            with torch.no_grad(), trace(model, self.edit(), seeds=[12]):
                alone = model(start()[2:3])
            assert torch.allclose(batch[2:3], alone, atol=1e-5)
