"""Traces: edits act where and when they are meant, nothing is silent, nothing stays behind."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core.models import Denoiser, start
from wanlab.core import (
    Bypass,
    CutFrames,
    EditError,
    Hookable,
    Identity,
    LedgerError,
    Mean,
    Noise,
    NonFiniteError,
    PositionError,
    Replace,
    ReverseFrames,
    Scale,
    SelectionError,
    Trace,
    UnknownSite,
    Zero,
    clock,
    sites_of,
    trace,
)


def run(model: Denoiser, edits: Any = (), capture: Any = (), rows: int = 3, **kwargs: Any) -> tuple[Tensor, Trace]:
    with torch.no_grad(), trace(model, edits, capture, **kwargs) as t:
        out = model(start(rows))
    return out, t


def state(model: torch.nn.Module) -> tuple:
    sha = hashlib.sha256()
    for name, value in model.state_dict().items():
        sha.update(name.encode() + value.cpu().numpy().tobytes())
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    return sha.hexdigest(), hooks, [sorted(vars(module)) for module in model.modules()], len(list(model.buffers()))


# ------------------------------------------------------------------------------------------------ exactness

@pytest.mark.parametrize("site", sites_of(Denoiser()).names)
def test_identity_edits_and_captures_are_bit_exact(site: str) -> None:
    model = Denoiser()
    plain = model(start())
    out, t = run(model, Identity(site), [site, f"{site} -> mean"])
    assert torch.equal(out, plain) and t.ledger.ok


def test_identity_is_bit_exact_in_inference_mode() -> None:
    model = Denoiser()
    with torch.inference_mode():
        plain = model(start())
        with trace(model, Identity("**")):
            assert torch.equal(model(start()), plain)


def test_an_edit_changes_only_what_lies_downstream() -> None:
    names = "**"
    _, plain = run(Denoiser(), capture=names, strict=True)
    _, zeroed = run(Denoiser(), Zero("blocks.1.spatial.z@steps=1"), names)
    changed = {key for key in plain.record.firings if not torch.equal(plain.record[tuple(key[:3])].tensor,
                                                                      zeroed.record[tuple(key[:3])].tensor)}
    assert changed and all(key.step is None or key.step >= 1 for key in changed)
    first = {key.site for key in changed if key.step == 1}
    assert first == {"blocks.1.spatial.z", "blocks.1.temporal.z", "blocks.1.temporal.pattern", "blocks.1.out", "latent"}


def test_rows_heads_frames_branches_change_exactly_their_part() -> None:
    site = "blocks.0.temporal.z"
    _, plain = run(Denoiser(), capture=site)
    _, edited = run(Denoiser(), Zero(site, heads=1, frames="2:", rows=[0, 2], branch="cond", steps=0), site)
    before, after = plain.record[site].tensor[0], edited.record[site].tensor[0]
    assert torch.equal(before[1], after[1])
    inside = torch.zeros_like(before[0], dtype=torch.bool)
    inside[[0, 2], :, 1, 2:] = True
    assert torch.equal(after[0][~inside], before[0][~inside]) and not after[0][inside].any()


def test_a_row_edited_in_a_batch_equals_the_row_alone_and_others_stay() -> None:
    model = Denoiser()
    for edit in (Zero, Mean, Noise, ReverseFrames, Bypass):
        site = "blocks.1.out"
        plain, _ = run(model, rows=8)
        batch, _ = run(model, edit(site, rows=0), rows=8)
        alone, _ = run(model, edit(site), rows=1)
        assert torch.allclose(batch[:1], alone, atol=1e-5) and torch.equal(batch[1:], plain[1:])
        assert not torch.equal(batch[:1], plain[:1])


def test_edits_at_one_site_compose_in_order_and_nested_traces_from_the_outside_in() -> None:
    model, site = Denoiser(), "picture"
    plain = model(start())
    add = Replace(site, lambda x: x + 1)
    out, _ = run(model, [add, Scale(site, 2)])
    assert torch.equal(out, (plain + 1) * 2)
    with trace(model, add, site) as outer, trace(model, Scale(site, 2), site) as inner:
        assert torch.equal(model(start()), (plain + 1) * 2)
    assert torch.equal(inner.record[site].tensor, (plain + 1) * 2)
    assert torch.equal(outer.record[site].tensor, plain + 1), "before the edits of a trace within"


def test_patterns_are_computed_only_when_wanted_and_can_be_edited() -> None:
    model, site = Denoiser(), "blocks.0.temporal.pattern"
    _, t = run(model, CutFrames("**.temporal.pattern@steps=1"), f"{site}@steps=0,1")
    assert [len(line.seen) for line in t.ledger if line.what.startswith("capture")] == [4]
    kept = t.record[site].tensor
    assert torch.allclose(kept[1], torch.eye(4).expand_as(kept[1])) and (kept[0] > 0).all()
    assert torch.allclose(kept.sum(-1), torch.ones(()))


def test_words_are_the_prompts_and_stand_in_cond() -> None:
    model = Denoiser()
    _, t = run(model, Zero("text", words="left"), "text")
    assert t.record["text"].tensor.tolist()[0] == [[1, 0, 0, 1, 1], [1, 0, 1, 1, 1], [1, 0, 1, 1, 1]]
    assert t.record["text"].tensor[1].all()
    with pytest.raises(LookupError, match="no word 'rihgt' in the prompt; it has: left"):
        run(model, Zero("text", words="rihgt"))


# ------------------------------------------------------------------------------------------------ nothing is silent

@pytest.mark.parametrize(("edit", "error", "message"), [
    (Zero("blocks.0.tempral.z"), UnknownSite, "nearest: blocks.0.temporal.z"),
    (Zero("latent", heads=0), SelectionError, "latent has axes 'b f n c' and no axis k"),
    (ReverseFrames("text"), EditError, "needs an axis f"),
    (Zero("latent@steps=7"), PositionError, "steps=7 is outside: there are 3"),
    (Zero("latent@steps=3:"), PositionError, "steps=3: selects none of 3"),
    (Zero("latent@branch=cnd"), SelectionError, "no branch 'cnd'.*cond, uncond"),
    (Zero("latent", rows=3), PositionError, "rows=3 is outside"), (Identity, EditError, "is no edit"),
])
def test_mistakes_raise_before_anything_runs(edit: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        trace(Denoiser(), [edit], steps=3, branches=("cond", "uncond"), seeds=[0, 1, 2])


def test_known_shapes_and_clocks_are_checked_before_anything_runs() -> None:
    from wanlab.core import Probe
    model = Denoiser()
    with Probe(model) as probe:
        model(start(), steps=1)
    with pytest.raises(PositionError, match=r"blocks.0.spatial.z: heads=2 is outside"):
        trace(model, Zero("blocks.0.spatial.z", heads=2), sites=probe.sites)
    with pytest.raises(SelectionError, match="picture fires outside any step"):
        trace(model, Zero("picture@steps=0"), sites=probe.sites)


def test_steps_at_a_site_outside_the_loop_raise() -> None:
    with pytest.raises(SelectionError, match=r"picture fires outside any step, so steps=.*with wanlab.core.clock.at\(step=i"):
        run(Denoiser(), Zero("picture@steps=0"))
    with pytest.raises(SelectionError, match="latent fires outside any branch"):
        run(Denoiser(), Zero("latent@branch=cond"))


def test_what_never_fired_or_fired_too_little_raises_and_is_in_the_ledger() -> None:
    model = Denoiser()
    with pytest.raises(LedgerError, match=r"zero\(picture\) at picture: the site never fired"), \
            trace(model, Zero("picture")):
        pass
    with pytest.raises(LedgerError, match=r"zero\(latent\) at latent: did not act at step 2") as caught, \
            trace(model, Zero("latent"), steps=3) as t, clock.announce(steps=3):
        for step in range(2):
            with clock.at(step=step):
                model.site("latent", start())
    assert "latent" in str(caught.value) and not t.ledger.ok
    told = t.ledger.to_dict()["lines"][0]
    assert told["expected"] == [[0, None], [1, None], [2, None]] and told["actual"] == [[0, None, 1], [1, None, 1]]
    assert "! zero(latent) at latent" in str(t.ledger)


def test_a_missing_branch_is_missed() -> None:
    model = Denoiser()
    with pytest.raises(LedgerError, match="did not act at step 0, branch uncond"), \
            trace(model, Zero("blocks.0.resid")), clock.announce(steps=1, branches=("cond", "uncond")), \
            clock.at(step=0, branch="cond"):
        model.blocks[0](start())
    with pytest.raises(LedgerError, match="never due: the site fired at step 0, branch cond"), \
            trace(model, Zero("blocks.0.resid@branch=uncond")), clock.at(step=0, branch="cond"):
        model.blocks[0](start())


def test_a_fork_is_not_expected_to_run_the_steps_before_it() -> None:
    model = Denoiser()
    with trace(model, Zero("latent")) as t, clock.announce(steps=3, start=2), clock.at(step=2):
        model.site("latent", start())
    assert t.ledger.ok and [line.due(t.ledger.plan) for line in t.ledger] == [{(2, None)}]


def test_a_pattern_may_be_limited_to_what_runs() -> None:
    model = Denoiser()
    with trace(model, Zero("**.out"), within=lambda site: site.startswith("blocks.0")) as t:
        model.blocks[0](start())
    assert [line.site for line in t.ledger] == ["blocks.0.out"]
    with pytest.raises(UnknownSite, match="'picture' matches picture, but nothing that runs here"):
        trace(model, Zero("picture"), within=lambda site: site.startswith("blocks"))


def test_a_ledger_error_never_masks_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), trace(Denoiser(), Zero("picture")):
        raise ZeroDivisionError


def test_the_first_non_finite_value_is_found_with_site_step_and_branch() -> None:
    model = Denoiser()
    spoil = Replace("blocks.1.spatial.z@steps=1,branch=uncond", lambda x: x / 0)
    model.blocks[1].spatial.qkv.weight.data[-1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"NaN or infinite at blocks.1.spatial.z \(step 0, branch cond\)"):
        run(model, watch_finite=True)
    model = Denoiser()
    with pytest.raises(NonFiniteError, match=r"blocks.1.spatial.z after replace\(.*\(step 1, branch uncond\)"):
        run(model, spoil, watch_finite=True)
    run(model, watch_finite=True)


# ------------------------------------------------------------------------------------------------ nothing stays behind

def test_stop_after_saves_the_rest_of_the_forward() -> None:
    model, ran = Denoiser(), []
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: ran.append(path))
    with trace(model, capture="blocks.0.out", stop_after="blocks.0.out@steps=1,branch=cond") as t:
        model(start())
        ran.append("the line after")
    assert t.ledger.stopped == clock.Tick(1, 1 - 1 / 3, "cond") and t.ledger.ok and len(t.record.firings) == 3
    assert ran.count("blocks.0.temporal") == 3 and ran.count("blocks.1") == 2 and ran[-1] == "blocks.0.temporal"
    with pytest.raises(LedgerError, match="stop_after"), trace(model, stop_after="blocks.0.out@steps=1"), \
            clock.at(step=0):
        model.blocks[0](start())
    assert state(model)[0] == state(Denoiser())[0] and not any("_taps" in vars(module) for module in model.modules())


def test_a_stop_is_caught_by_the_trace_that_asked_for_it_alone() -> None:
    model, later = Denoiser(), []
    with trace(model, capture="blocks.0.resid@steps=0,branch=cond") as outer:
        with trace(model, stop_after="blocks.0.out@steps=0,branch=cond") as inner:
            model(start())
        later.append(1)
    assert later and inner.ledger.stopped and not outer.ledger.stopped


def test_what_a_stopped_run_should_have_done_before_is_held_against_it() -> None:
    model = Denoiser()
    with pytest.raises(LedgerError, match=r"zero\(picture\) at picture: no site of it fired before .* stopped \(step 1\)"), \
            trace(model, Zero("picture"), stop_after="latent@steps=1"):
        model(start())
    with pytest.raises(LedgerError, match=r"zero\(latent\) at latent: did not act at step 0"), \
            trace(model, Zero("latent"), stop_after="latent@steps=1"), clock.announce(steps=3), clock.at(step=1):
        model.site("latent", start())
    with trace(model, Zero("**.out"), stop_after="blocks.0.out"):
        model(start())


class Interrupt(BaseException):
    """Neither Exception nor anything that somebody catches."""


@pytest.mark.parametrize("rounds", [1000])
def test_a_thousand_exceptions_at_random_sites_leave_nothing(rounds: int) -> None:
    model, draw = Denoiser(), random.Random(0)
    names, before, x = sites_of(model).names, state(model), start(1)
    plain = model(x, 1)

    def fail(x: Tensor) -> Tensor:
        raise draw.choice([ValueError, KeyboardInterrupt, GeneratorExit, Interrupt, StopIteration])

    for _ in range(rounds):
        with pytest.raises(BaseException), trace(model, Zero(draw.choice(names))), \
                trace(model, Replace(draw.choice(names), fail), capture="**"):     # noqa: B017
            model(x, 1)
    assert state(model) == before and torch.equal(model(x, 1), plain)
    assert clock.now() == clock.Tick() and clock.plan() == clock.Plan()


def test_traces_closed_in_any_order_take_off_only_themselves() -> None:
    model, x = Denoiser(), start()
    plain = model(x)
    first, second = trace(model, Scale("picture", 2)), trace(model, Scale("picture", 3))
    first.__enter__()
    second.__enter__()
    assert torch.equal(model(x), plain * 2 * 3)
    first.__exit__(None, None, None)
    assert torch.equal(model(x), plain * 3)
    second.__exit__(None, None, None)
    assert torch.equal(model(x), plain) and state(model) == state(Denoiser())


def test_an_interrupt_while_a_trace_is_opened_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, count = Denoiser(), []

    def interrupted(module: object) -> None:
        count.append(module)
        if len(count) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Hookable, "_tapped", interrupted)
    with pytest.raises(KeyboardInterrupt), trace(model, Zero("**")):
        pass
    assert len(count) == 6 and state(model) == state(Denoiser())


def test_a_ledger_is_saved_with_its_differences(tmp_path: Path) -> None:
    model = Denoiser()
    with pytest.raises(LedgerError) as caught, trace(model, Zero("latent"), steps=3), clock.announce(steps=3), clock.at(step=0):
        model.site("latent", start())
    told = json.loads(caught.value.ledger.save(tmp_path / "run" / "ledger.json").read_text())
    assert not told["ok"] and told["lines"] == [{
        "what": "zero(latent)", "site": "latent", "fault": "did not act at step 1; step 2",
        "expected": [[0, None], [1, None], [2, None]], "actual": [[0, None, 1]]}]


def test_hooks_of_others_are_not_touched() -> None:
    model = Denoiser()
    fired = []
    handle = model.register_forward_hook(lambda *_: fired.append(1))
    run(model, Zero("picture"))
    model(start())
    assert fired == [1, 1] and len(model._forward_hooks) == 1
    handle.remove()


def test_a_trace_is_used_once() -> None:
    model = Denoiser()
    _, t = run(model, Zero("picture"))
    with pytest.raises(RuntimeError, match="has run"), t:
        pass


def test_gradients_flow_through_edits() -> None:
    model, x = Denoiser(), start().requires_grad_()
    with trace(model, [Scale("blocks.0.out", 0.5), ReverseFrames("latent")]):
        model(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
