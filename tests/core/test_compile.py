"""torch.compile: sites vanish from the graph; a trace still works on what was compiled."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.core.models import Attention, Block, C, start
from wanlab.core import Zero, trace


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


@pytest.mark.slow
def test_inductor_gives_the_same_output() -> None:
    block, x = Block(), start()
    compiled = torch.compile(block, fullgraph=True)
    assert torch.allclose(compiled(x), block(x), atol=1e-5)


def test_the_core_imports_no_compiler() -> None:
    code = "import sys, wanlab.core; assert 'torch._dynamo' not in sys.modules and 'xarray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
