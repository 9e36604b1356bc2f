"""The doctor: a sound pipeline passes every check, each kind of fault is found by the check that is for it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from tests.runs.toy import Toy
from wanlab.core import Hookable, Replace, Site, clock
from wanlab.nn.attention import Attention
from wanlab.pipelines import load as loading
from wanlab.pipelines.base import Outputs, Progress
from wanlab.pipelines.request import Request
from wanlab.runs import health
from wanlab.runs.finite import find_nonfinite
from wanlab.runs.health import Unsound, examine
from wanlab.runs.soundness import Soundness
from wanlab.runs.witness import Witness


class Attending(Hookable):
    """A denoiser with attention over the pixels of a frame."""

    SITES = {"in": "b f n c", "out": "b f c h w"}

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attn = Attention(3, 3, "b f n c")

    def forward(self, x: Tensor, frame: Tensor, text: Tensor) -> Tensor:
        y = self.site("in", (x + frame[:, None] + text[:, None, :, None, None]).flatten(-2).transpose(-1, -2))
        y = (y + self.attn(y)).transpose(-1, -2).unflatten(-1, x.shape[-2:])
        return self.site("out", y / 2, identity=x)


class Looped(Toy):
    """The toy with attention and two guidance branches in its loop."""

    def __init__(self, generator: nn.Module | None = None) -> None:
        super().__init__()
        self.generator = generator or Attending()
        self.config["sampler"] = {"steps": 3, "guidance": 2.0}

    def _run(self, name: str, inputs: Mapping[str, Outputs], request: Request, progress: Progress | None) -> Outputs:
        if name != "denoise":
            return super()._run(name, inputs, request, progress)
        small = self.config["size"] // 4
        frame = nn.functional.interpolate(request.images, (small, small), mode="area")
        x = torch.stack([torch.randn(8, 3, small, small, generator=torch.Generator().manual_seed(seed)) for seed in request.seeds])
        for step in range(request.steps):
            with clock.at(step=step, sigma=1 - step / request.steps):
                out = {}
                for branch in self.branches(request):
                    with clock.at(branch=branch):
                        out[branch] = self.generator(x, frame, inputs["text"]["out"] * (branch == "cond"))
                x = torch.lerp(out["uncond"], out["cond"], request.guidance)
        return {"video": x.sigmoid()}


def verdicts(pipe: Toy) -> dict[str, tuple[str, str]]:
    with torch.no_grad():
        return {one.what: (one.state, one.seen) for one in Soundness(pipe).checks(lambda text: None)}


def bad(pipe: Toy) -> dict[str, str]:
    return {what: seen for what, (state, seen) in verdicts(pipe).items() if state == "bad"}


def test_a_sound_pipeline_passes_every_check() -> None:
    found = verdicts(Looped())
    assert set(found) == {"finite", "identity edits", "one head", "one frame", "one token", "one row", "one step", "one branch",
                          "after exceptions", "nothing left behind"}
    assert {state for state, _ in found.values()} == {"ok"}, found
    assert "[heads=1]: that part alone" in found["one head"][1] and "[branch=uncond]" in found["one branch"][1]


def test_what_a_pipeline_does_not_have_is_a_note() -> None:
    found = verdicts(Toy())
    assert {what for what, (state, _) in found.items() if state == "note"} == {"one head", "one token", "one branch"}
    assert found["one head"][1] == "nothing to edit: no site of the loop has two heads" and not bad(Toy())


class MindsListeners(Attending):
    def forward(self, x: Tensor, frame: Tensor, text: Tensor) -> Tensor:
        return super().forward(x + (1e-3 if self.listening("out") else 0), frame, text)


class MixesRows(Attending):
    def forward(self, x: Tensor, frame: Tensor, text: Tensor) -> Tensor:
        y = super().forward(x, frame, text)
        return self.attn.site("out", y.flatten(-2).transpose(-1, -2)).transpose(-1, -2).unflatten(-1, x.shape[-2:]) + y.mean(0)


class Remembers(Attending):
    """Its output is that of the call before; its counter is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor, frame: Tensor, text: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x, frame, text)


class Hooks(Attending):
    def forward(self, x: Tensor, frame: Tensor, text: Tensor) -> Tensor:
        if self._taps and not self.attn.q._forward_hooks:
            self.attn.q.register_forward_hook(lambda *_: None)
        return super().forward(x, frame, text)


class NotSeen(Attending):
    """What an edit does to the site comes to nothing."""

    def site(self, name: str, x: Tensor, identity: Any = None) -> Tensor:
        super().site(name, x, identity)
        return x


@pytest.mark.parametrize(("generator", "what", "message"), [
    (MindsListeners, "identity edits", "the video differs by up to"),
    (MixesRows, "one row", "row 0 changed at generator."),
    (Remembers, "nothing left behind", "not as before: buffer generator.calls"),
    (Hooks, "nothing left behind", "not as before: hooks of generator.attn.q"),
])
def test_each_fault_is_found(generator: type[Attending], what: str, message: str) -> None:
    found = bad(Looped(generator()))
    assert what in found and message in found[what], found


def test_an_edit_without_effect_is_found() -> None:
    pipe = Looped(NotSeen())
    sound = Soundness(pipe)
    with torch.no_grad():
        state, seen = sound.one("frames", sound.sites["generator.out"])
    assert state == "bad" and "changed" in seen


def test_a_part_that_is_larger_than_asked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from wanlab.runs import soundness

    class Wide(Replace):
        kind = ""

        def apply(self, x: Tensor, event: Any) -> Tensor:
            return self.change(x, event)

    monkeypatch.setattr(soundness, "Replace", Wide)
    found = bad(Looped())
    assert {"one head", "one frame", "one token", "one row"} <= set(found)
    assert "values outside the part changed, 0 inside did not" in found["one head"]


# ------------------------------------------------------------------------------------------------ NaN

def find(pipe: Toy, **given: Any) -> Any:
    return find_nonfinite(pipe, torch.rand(3, 16, 16), "a red circle", steps=2, **given)


def test_a_poisoned_weight_is_found_with_site_step_and_branch() -> None:
    pipe = Looped()
    assert not find(pipe) and str(find(pipe)) == str(find(Looped())) and str(find(pipe)).startswith("no NaN or infinity in ")
    pipe.generator.attn.v.weight.data[0, 0] = torch.inf
    found = find(pipe)
    assert (found.site, found.step, found.branch) == ("generator.attn.v", 0, "cond")
    assert found.before == "generator.attn.k (step 0, branch cond)" and found.weights == ("generator.attn.v.weight",)
    assert "are NaN or infinite at generator.attn.v (step 0, branch cond)" in str(found)


def test_what_overflows_later_is_found_at_its_step_and_branch_with_sound_weights() -> None:
    found = find(Looped(), edits=[Replace("generator.in@steps=1,branch=uncond", lambda x: x / 0)])
    assert (found.site, found.step, found.branch, found.weights) == ("generator.attn.q", 1, "uncond", ())
    assert "every weight is finite" in str(found)
    found = find(Looped(), edits=[Replace("detail.out", lambda x: x / 0 * 0)])
    assert found.site is None and str(found).startswith("NaN or infinity in the video, after the last site")


# ------------------------------------------------------------------------------------------------ what is seen

def test_a_witness_sees_every_row_and_leaves_nothing() -> None:
    pipe = Looped()
    pipe.sites()
    kept = [sorted(vars(module)) for module in pipe.modules()]
    with Witness(pipe) as seen:
        pipe.generate(torch.rand(3, 16, 16), "a", seed=[0, 1, 0], steps=2)
    digests = seen.firings[next(key for key in seen.firings if key.site == "generator.out" and key.step == 1)]
    assert len(digests) == 3 and digests[0] == digests[2] != digests[1]
    assert kept == [sorted(vars(module)) for module in pipe.modules()]


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_keeps_its_columns_at_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    pipe = Looped()
    monkeypatch.setattr(loading, "load", lambda name, **how: pipe)
    said = io.StringIO()
    examine("toy", "cpu", None, Console(file=said, width=width), Console(file=io.StringIO()))
    lines = said.getvalue().splitlines()
    assert all(len(line.rstrip()) <= width for line in lines) and lines[-1].startswith("sound  ")
    assert {line[:6].strip() for line in lines[:-1]} == {"ok", ""} and all(line[26:28] == "  " for line in lines[:-1])


def test_failed_checks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, said = Looped(), io.StringIO()
    pipe.detail.strength.data.fill_(torch.nan)
    monkeypatch.setattr(loading, "load", lambda name, **how: pipe)
    monkeypatch.setattr(health.importlib.util, "find_spec", lambda name: Site)     # as if ray and jupyterlab were there
    with pytest.raises(Unsound, match=r"of \d+ checks failed: weights, finite"):
        examine("toy", "cpu", None, Console(file=said, width=100), Console(file=io.StringIO()))
    assert "NaN or infinity in detail.strength" in said.getvalue() and "note  ray and jupyterlab" in said.getvalue()
