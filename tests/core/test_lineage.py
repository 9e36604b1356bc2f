"""Which sites an output depends on, and on which no longer once others are cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wanlab.core import Hookable, Identity, Replace, Zero, trace
from wanlab.core.lineage import Lines


class Part(Hookable):
    SITES = {"inner": "b c", "out": "b c"}

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.site("out", torch.tanh(self.site("inner", self.linear(x))), identity=lambda: torch.zeros_like(x))


class Model(Hookable):
    """out = x + a(x) + b(a(x)); `block` is all that is added (bypass: x), `count` is a whole number, `aside` feeds nothing."""

    SITES = {"entry": "b c", "block": "b c", "count": "b", "aside": "b c", "out": "b c"}

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Part(), Part()

    def forward(self, x: Tensor) -> Tensor:
        x = self.site("entry", x)
        self.site("count", (x > 0).sum(1))
        self.site("aside", 2 * x)
        y = self.a(x)
        return self.site("out", self.site("block", x + y + self.b(y), identity=x))


@pytest.fixture(params=["cpu", "meta"])
def model(request: pytest.FixtureRequest) -> Model:
    torch.manual_seed(0)
    return Model().to(request.param)


def lineage(model: Model) -> Any:
    with Lines(model) as lines:
        out = model(torch.ones(2, 3, device=model.a.linear.weight.device))
    return lines.of(out)


ALL = {"entry", "a.inner", "a.out", "b.inner", "b.out", "block", "out"}


@pytest.mark.parametrize(("cut", "left"), [
    ({}, ALL),
    ({"a.out": False}, ALL - {"a.inner", "a.out"}),                         # b runs on, on zeros
    ({"b.out": True}, ALL - {"b.inner", "b.out"}),
    ({"block": True}, {"entry", "out"}),                                    # what stands there is what came in
    ({"block": False}, {"out"}),
    ({"a.out": True, "b.out": True}, {"entry", "block", "out"}),
    ({"out": False}, set()),
    ({"aside": False}, ALL),
])  # fmt: skip
def test_what_still_matters_when_sites_are_cut(model: Model, cut: dict[str, bool], left: set[str]) -> None:
    found = lineage(model)
    assert found.read(cut) == left and found.sites == ALL | {"aside"}


@pytest.mark.parametrize("cut", ["a.out", "b.out", "block", "entry"])
def test_it_is_what_edits_show(cut: str) -> None:
    """Under a cut, a site matters exactly where a change of it changes the output."""
    torch.manual_seed(0)
    model, x = Model(), torch.ones(2, 3)

    def out(*edits: Any) -> Tensor:
        with trace(model, edits=edits):
            return model(x)

    left = lineage(model).read({cut: False})
    for site in sorted(ALL - {cut}):
        assert (site in left) == (not torch.equal(out(Zero(cut), Replace(site, function=lambda x: x + 1)), out(Zero(cut)))), site


def test_looking_changes_nothing_and_leaves_nothing() -> None:
    torch.manual_seed(0)
    model, x = Model(), torch.ones(2, 3)
    plain = model(x)
    with Lines(model):
        seen = model(x)
    assert torch.equal(seen, plain) and all(module._taps is None for module in (model, model.a, model.b))
    with trace(model, edits=Identity("out")):
        assert torch.equal(model(x), plain)
