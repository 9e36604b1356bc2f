"""The code of the documents runs, block after block, on the shipped pipeline; the README's is run by the default tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import wanlab

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """What the pages take for granted: a pipeline, first frames, prompts, a clip and a thing in it."""
    pipe, world = wanlab.load("tiny"), wanlab.World(split="test")
    mask = torch.zeros(8, 4, 4, dtype=torch.bool)
    mask[:, 1, 2] = True
    image, other = world[0].video[0], world[1].video[0]
    out = pipe.generate(image, "a red circle moves left", seed=0, steps=2)
    return {"wanlab": wanlab, "pipe": pipe, "image": image, "images": [image], "others": [other], "seeds": [0],
            "prompts": ["a red circle moves left"], "clip": world[0].video[None], "mask": mask, "out": out}  # fmt: skip


@pytest.mark.parametrize("page", ["attention", "swaps"])
def test_code_runs(page: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)                                         # where its files go
    names = dict(given)
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for number, code in enumerate(blocks):
        exec(compile(code, f"docs/{page}.md, block {number}", "exec"), names)
