"""torch.compile: sites vanish from the graph; a trace still works on what was compiled, and says what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.core.models import Attention, Block, C, Denoiser, start
from wanlab.core import Zero, sites_of, tap, trace


def test_a_block_compiles_to_one_graph_without_its_sites_and_can_still_be_traced() -> None:
    block, x = Block(), start()
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list) -> object:
        graphs.append(graph)
        return graph.forward

    compiled, plain = torch.compile(block, fullgraph=True, backend=backend), block(x)
    assert torch.equal(compiled(x), plain) and len(graphs) == 1
    assert "site" not in graphs[0].code and "tap" not in graphs[0].code
    with trace(block, Zero("out"), ["resid", "temporal.pattern"]) as t:
        assert not compiled(x).any()
    assert torch.equal(t.record["resid"].tensor, x) and t.record["temporal.pattern"].tensor.shape[-1] == 4
    assert torch.equal(compiled(x), plain) and len(graphs) == 1


def test_compiling_while_a_trace_is_open_still_edits() -> None:
    module, x = Attention(True), start()
    with trace(module, Zero("z")):
        assert not torch.compile(module, backend="eager")(x).any()
    assert x.shape[-1] == C


def test_what_was_compiled_under_a_trace_forgets_it() -> None:
    module, x = Attention(True), start()
    plain, compiled = module(x), torch.compile(module, backend="eager")
    with trace(module, Zero("z")):
        assert not compiled(x).any()
    assert torch.equal(compiled(x), plain)
    with trace(module, Zero("z", heads=0)):
        assert compiled(x).any()


def test_a_trace_says_once_that_compiled_models_run_uncompiled(caplog: pytest.LogCaptureFixture,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = Block(), start()
    torch.compile(block, backend="eager")(x)
    monkeypatch.setattr(tap, "_said", False)
    for _ in range(2):
        with trace(block, Zero("out")):
            block(x)
    said = [record for record in caplog.records if record.name == "wanlab.core.tap"]
    assert [one.levelname for one in said] == ["WARNING"] and "runs uncompiled" in said[0].message


@torch.no_grad()
def test_compiled_modules_keep_the_names_of_their_sites() -> None:
    model, x = Denoiser(), start()
    names, plain = sites_of(model).names, model(x)
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager", fullgraph=True)
    assert sites_of(model).names == names == sites_of(torch.compile(model, backend="eager")).names
    assert torch.equal(model(x), plain)
    with trace(model, Zero("blocks.0.out"), "blocks.0.out") as t:
        assert not torch.equal(model(x), plain)
    assert t.ledger.ok and torch.equal(model(x), plain)


@pytest.mark.slow
def test_inductor_gives_the_same_output() -> None:
    block, x = Block(), start()
    compiled = torch.compile(block, fullgraph=True)
    assert torch.allclose(compiled(x), block(x), atol=1e-5)


def test_the_core_imports_no_compiler() -> None:
    code = "import sys, wanlab.core; assert 'torch._dynamo' not in sys.modules and 'xarray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
