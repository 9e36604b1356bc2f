"""Descent: checkpoints continue bit for bit, and a loss that is not finite stops it with all one needs to know."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from wanlab.training import checkpoint
from wanlab.training import descent as module
from wanlab.training.checkpoint import Spent
from wanlab.training.descent import Descent, Diverged
from wanlab.training.shipping import processor_minutes


def train(path: Path, until: int = 12, steps: int = 12, **recipe) -> Descent:
    """A regression whose data depend on the step alone; stops early at `until`, as a kill would after a save."""
    torch.manual_seed(0)
    module = nn.Linear(4, 1)
    descent = Descent(module, steps=steps, rate=0.1, path=path, recipe=recipe, save_every=4, warmup=2)
    for step in descent:
        if step == until:
            break
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        descent.down((module(x) - x.sum(1, keepdim=True)).square().mean(), [step])
    return descent


def test_it_goes_down(tmp_path: Path) -> None:
    weight = train(tmp_path / "a.pt", steps=120, until=120).module.weight
    assert torch.allclose(weight, torch.ones(1, 4), atol=0.05)


def test_a_stopped_training_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole.pt")
    train(tmp_path / "broken.pt", until=9)  # the checkpoint is of step 8
    again = train(tmp_path / "broken.pt")
    assert again.step == 12
    for name, value in whole.average.module.state_dict().items():
        assert torch.equal(value, again.average.module.state_dict()[name])
    assert torch.equal(whole.module.weight, again.module.weight)
    assert list(train(tmp_path / "whole.pt")) == []


def test_what_it_took_is_told_of_the_processor_and_of_the_wall_over_all_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two clocks that go on by one second, and by three, whenever they are looked at."""
    clocks = SimpleNamespace(process_time=iter(range(999)).__next__, monotonic=iter(range(0, 2997, 3)).__next__)
    monkeypatch.setattr(module, "time", clocks)
    assert train(tmp_path / "whole.pt").spent == Spent(12, 36)
    train(tmp_path / "broken.pt", until=9)  # the checkpoint is of step 8
    assert train(tmp_path / "broken.pt").spent == Spent(12, 36)
    older = checkpoint.load(tmp_path / "whole.pt")
    checkpoint.save(tmp_path / "older.pt", **{key: value for key, value in older.items() if key != "wall"})
    assert train(tmp_path / "older.pt").spent.processor == 12
    assert (Spent(60, 90) + Spent(0, 90)).minutes == {"processor_minutes": 1.0, "wall_minutes": 3.0}
    assert processor_minutes({"processor_minutes": 2.5}) == processor_minutes({"minutes": 2.5}) == 2.5


def test_the_average_holds_the_statistics_of_a_normalisation(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    descent = Descent(module, steps=3, rate=0.1, path=tmp_path / "a.pt", decay=0.9)
    mean = module[1].running_mean.clone()
    for step in descent:
        descent.down(module(torch.randn(8, 4)).square().sum())
        share = min(0.9, (1 + step) / (10 + step))
        mean = share * mean + (1 - share) * module[1].running_mean
    assert torch.allclose(descent.average.module[1].running_mean, mean) and int(descent.average.module[1].num_batches_tracked) == 3


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "a.pt", width=4)
    with pytest.raises(ValueError, match="another recipe: width was 4"):
        train(tmp_path / "a.pt", width=5)


def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path) -> None:
    descent = Descent(nn.Linear(2, 1), steps=10, rate=0.1, path=tmp_path / "a.pt", save_every=2)
    with pytest.raises(
        Diverged, match=r"is nan at step 5 on clips \[7, 9\]; the last good checkpoint is .*a.pt at step 4"
    ):
        for step in descent:
            loss = descent.module.weight.square().sum()
            descent.down(loss * float("nan") if step == 5 else loss, [7, 9])
    assert torch.isfinite(descent.module.weight).all()
    other = Descent(nn.Linear(2, 1), steps=10, rate=0.1, path=tmp_path / "b.pt")
    with pytest.raises(Diverged, match="no checkpoint was saved"):
        other.down(torch.tensor(float("inf")))


@pytest.mark.parametrize("bad", ["inf", "nan"])
def test_a_gradient_that_is_not_finite_stops_it_before_any_weight_has_changed(bad: str, tmp_path: Path) -> None:
    """A finite loss may have such a gradient: of the square root at 0, of a product that overflows on the way back."""
    descent = Descent(nn.Linear(2, 1), steps=6, rate=0.1, path=tmp_path / "a.pt", save_every=2)
    with pytest.raises(Diverged, match=r"the gradient of a is \w+ at step 3 on clips \[5\]; .*a.pt at step 2"):
        for step in descent:
            loss = descent.module.weight.square().sum()
            before = [p.clone() for p in descent.module.parameters()]
            if step == 3:
                loss.register_hook(lambda gradient: gradient * float(bad))
            descent.down(loss, [5])
    assert all(torch.equal(p, q) for p, q in zip(descent.module.parameters(), before, strict=True))
    assert all(torch.isfinite(p).all() for p in descent.average.module.parameters())
    descent.save()                                          # as a signal to end would
    assert all(torch.isfinite(value).all() for value in checkpoint.load(tmp_path / "a.pt")["model"].values())


def test_damaged_and_foreign_checkpoints_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    train(path)
    whole = path.read_bytes()
    for content in (b"", b"no weights", whole[: len(whole) // 2], whole[:-40]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pt is damaged or no checkpoint of a training"):
            train(path)
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"a\.pt is no checkpoint of a training: it lacks model, average"):
        train(path)
    torch.save(torch.zeros(1), path)
    with pytest.raises(ValueError, match=r"a\.pt is no checkpoint of a training: it lacks everything"):
        train(path)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"a\.pt is the checkpoint of another module: .*size mismatch"):
        Descent(nn.Linear(5, 1), steps=12, rate=0.1, path=path)
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "missing.pt")


def test_a_step_without_down_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"step 0 of a.pt ended without"):
        for _ in Descent(nn.Linear(2, 1), steps=2, rate=0.1, path=tmp_path / "a.pt"):
            continue


def test_a_full_disk_is_told_and_the_checkpoint_before_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole.pt")
    train(tmp_path / "a.pt", until=5)  # the checkpoint is of step 4

    def full(state: dict, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 294720 vs 294608")

    expected = r"a\.pt cannot be written \(\d+ MiB free .*before it is kept"
    with monkeypatch.context() as patched, pytest.raises(OSError, match=expected):
        patched.setattr(torch, "save", full)
        train(tmp_path / "a.pt")
    assert {path.name for path in tmp_path.glob("a.*")} == {"a.pt", "a.jsonl"}
    assert torch.equal(train(tmp_path / "a.pt").module.weight, whole.module.weight)
