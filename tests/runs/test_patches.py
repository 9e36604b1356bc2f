"""A finished study of patches beside the run that its values were taken from: sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wanlab.runs.files import RunFolderError
from wanlab.runs.patches import patched, table

Run = Callable[..., Any]
STUDY = """
name: patches
pipeline: toy
data: {kind: procedural, n: 3}
seeds: [0, 2]
batch: 2
baseline: base
cells:
  base:
  half: {edits: [{kind: scale, at: generator.out, factor: 0.5}], axes: {site: generator.out}}
  whole: {edits: [{kind: zero, at: generator.out}], axes: {site: every}}
metrics: [flicker]
report: {videos: 0}
"""


def test_a_sample_is_compared_with_the_other_run_of_the_same_sample(run: Run) -> None:
    """Of a run with more samples and seeds, in another order, those of the same seed and number."""
    root, _ = run("patches", text=STUDY)
    other, _ = run("other", "data.n=5", "seeds=[1, 2, 0]", "baseline=whole", text=STUDY)
    found = patched(root, other).table
    whole = found[found.cell == "whole"]
    assert len(whole) == 6 and np.array_equal(whole.value, whole.other) and (whole.effect == 1).all()
    base = found[found.cell == "base"]
    assert np.array_equal(base.value, base.base) and (base.effect == 0).all() and not (base.value == base.other).any()
    assert set(table(root).columns) == {"site", "cell", "row", "metric", "value"} and "seed" not in found


@pytest.mark.parametrize(("sets", "said"), [
    (("seeds=[0, 1]",), r"other has no sample 0 under seed 2; it needs those of .*patches"),
    (("data.n=2",), r"other has no sample 2 under seed 0"),
    (("data.seed=5",), r"are of other clips: data have seed 0 and 5"),
    (("data.max_objects=1",), r"are of other clips: data have max_objects 2 and 1"),
])  # fmt: skip
def test_other_samples_are_no_run_to_compare_with(sets: tuple[str, ...], said: str, run: Run) -> None:
    root, other = run("patches", text=STUDY)[0], run("other", *sets, text=STUDY)[0]
    with pytest.raises(RunFolderError, match=said):
        patched(root, other)


def test_a_sample_of_another_name_is_another_sample(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    roots = []
    for name, colours in (("one", ("red", "blue")), ("other", ("red", "green"))):
        for colour in colours:
            Image.new("RGB", (16, 16), colour).save(tmp_path / f"{colour}.png")
        (tmp_path / f"{name}.csv").write_text("image,prompt,name\n" + "".join(f"{one}.png,{name},{one}\n" for one in colours))
        data = f"data={{kind: images, path: {tmp_path / name}.csv}}"
        roots.append(run(name, data, "reference=baseline", "seeds=[0]", text=STUDY)[0])
    with pytest.raises(RunFolderError, match=r"sample 1 is blue in .*one and green in .*other: a patch is compared with"):
        patched(*roots)
