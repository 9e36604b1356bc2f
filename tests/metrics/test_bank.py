"""A bank of features: what was appended is there after any end of the process, and nothing else ever is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metrics import BankError, FeatureBank

KEY = {"preset": "videogpt", "weights": "i3d:1f2e3d4c", "code": 1}

WRITER = """
import sys, torch
from metrics import FeatureBank
bank = FeatureBank(sys.argv[1], {"preset": "videogpt", "weights": "i3d:1f2e3d4c", "code": 1})
for start in range(len(bank), 100_000, 4):
    rows = torch.arange(start, start + 4.0)[:, None] * torch.ones(33)
    bank.append([f"clip {int(row[0])}" for row in rows], rows)
    print(len(bank), flush=True)
"""


def rows(n: int, d: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def names(n: int, first: int = 0) -> list[str]:
    return [f"clip {i}" for i in range(first, first + n)]


def test_what_is_appended_is_mapped_back_in_order(tmp_path: Path) -> None:
    x = rows(9)
    with FeatureBank(tmp_path / "bank", KEY) as bank:
        assert len(bank) == 0 and bank.features.shape == (0, 0) and not (tmp_path / "bank").exists()
        assert bank.append(names(4), x[:4]) == 4
        assert bank.append(names(5, 4), x[4:]) == 5
        assert torch.equal(bank.features, x)
    again = FeatureBank(tmp_path / "bank", dict(reversed(KEY.items())))  # the order of a key's parts means nothing
    assert torch.equal(again.features, x) and again.ids == names(9)
    assert torch.equal(again.rows_of(["clip 7", "clip 0"]), x[[7, 0]])
    assert again.missing(["clip 8", "clip 9", 3]) == ["clip 9", 3]
    again.features.zero_()  # a map of its own: nothing reaches the disk
    assert torch.equal(FeatureBank(tmp_path / "bank", KEY).features, x)
    with pytest.raises(KeyError, match="lacks 1 of 2 samples: 'clip 30'"):
        again.rows_of(["clip 1", "clip 30"])


@settings(max_examples=25)
@given(batches=st.lists(st.lists(st.integers(0, 20), max_size=6), max_size=6), wide=st.booleans())
def test_each_sample_is_held_once_whatever_comes_in(tmp_path_factory: pytest.TempPathFactory, batches: list, wide: bool) -> None:
    folder = tmp_path_factory.mktemp("bank")
    truth = rows(21).to(torch.float64 if wide else torch.float32)
    with FeatureBank(folder, KEY) as bank:
        added = [bank.append(batch, truth[batch]) for batch in batches]
    order = list(dict.fromkeys(sample for batch in batches for sample in batch))
    again = FeatureBank(folder, KEY)
    assert sum(added) == len(order) == len(again) and again.ids == order
    assert torch.equal(again.features, truth[order] if order else torch.zeros(0, 0))


def test_another_key_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    FeatureBank(tmp_path, KEY).append(names(2), rows(2))
    message = r"code is 1 there and 2 here; preset is 'videogpt' there and 'absent' here"
    with pytest.raises(BankError, match=message):
        FeatureBank(tmp_path, {"weights": "i3d:1f2e3d4c", "code": 2})
    root = tmp_path / "banks"
    FeatureBank.under(root, KEY).append(names(2), rows(2))
    assert len(FeatureBank.under(root, KEY)) == 2 and len(FeatureBank.under(root, KEY | {"code": 2})) == 0


def test_killed_at_any_moment_it_holds_whole_appends(tmp_path: Path) -> None:
    """kill -9 while it writes, twice over; the second run goes on where the first one's index ends."""
    held = 0
    for appends in (3, 25):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(appends):
                reported = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
        bank = FeatureBank(tmp_path, KEY)
        assert len(bank) >= reported > held and len(bank) % 4 == 0
        assert torch.equal(bank.features, torch.arange(float(len(bank)))[:, None].expand(-1, 33))
        assert bank.ids == names(len(bank))
        held = len(bank)


def test_what_an_interrupted_append_left_is_overwritten(tmp_path: Path) -> None:
    x = rows(6)
    with FeatureBank(tmp_path, KEY) as bank:
        bank.append(names(4), x[:4])
    for name in ("rows", "ids"):  # an append that ended before its index
        with open(tmp_path / name, "ab") as stream:
            stream.write(b"half an app")
    (tmp_path / "index.json.part").write_text("{")
    with FeatureBank(tmp_path, KEY) as bank:
        assert torch.equal(bank.features, x[:4])
        bank.append(names(2, 4), x[4:])
    assert torch.equal(FeatureBank(tmp_path, KEY).features, x)


@pytest.mark.parametrize("name", ["rows", "ids"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_damage_is_found(tmp_path: Path, name: str, harm: str) -> None:
    FeatureBank(tmp_path, KEY).append(names(4), rows(4))
    path = tmp_path / name
    if harm == "gone":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-1] if harm == "cut" else b"?" + data[1:])
    with pytest.raises(BankError, match=f"{name} is damaged"):
        FeatureBank(tmp_path, KEY)


def test_a_foreign_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{not json")
    with pytest.raises(BankError, match="not an index"):
        FeatureBank(tmp_path, KEY)
    (tmp_path / "index.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(BankError, match="format 9, this is format 1"):
        FeatureBank(tmp_path, KEY)


def test_parts_of_a_parallel_run_merge_and_repeats_count_once(tmp_path: Path) -> None:
    x = rows(20)
    spans = ((0, 8), (6, 15), (14, 20))
    with FeatureBank(tmp_path / "all", KEY) as whole:
        for k, (start, end) in enumerate(spans):
            with FeatureBank(tmp_path / f"part{k}", KEY) as part:
                part.append(names(end - start, start), x[start:end])
                assert whole.absorb(part, batch=3) == end - len(x[:start]) - (2 if k == 1 else 1 if k == 2 else 0)
        assert torch.equal(whole.features, x)
        other = FeatureBank(tmp_path / "other", KEY | {"preset": "tf1"})
        with pytest.raises(BankError, match="preset is 'tf1' there and 'videogpt' here"):
            whole.absorb(other)


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    x = rows(4)
    first, second = FeatureBank(tmp_path, KEY), FeatureBank(tmp_path, KEY)
    first.append(names(2), x[:2])
    with pytest.raises(BankError, match="another process is writing"):
        second.append(names(2), x[:2])
    first.close()
    assert second.append(names(4), x) == 2  # it sees what the first one wrote
    assert torch.equal(second.features, x)


def test_bad_rows_are_refused_and_lose_nothing(tmp_path: Path) -> None:
    x = rows(4)
    bank = FeatureBank(tmp_path, KEY)
    bank.append(names(4), x)
    for ids, values, message in (
        (names(1, 9), torch.full((1, 5), torch.nan), "NaN"),
        (names(1, 9), torch.zeros(1, 6), "holds 5 features per sample, got 6"),
        (names(2, 9), torch.zeros(1, 5), "1 rows of features but 2 ids"),
        (["clip 9", "clip 2"], rows(2, seed=5), "'clip 2' came twice, with different features"),
        (["new", "new"], rows(2, seed=5), "'new' came twice"),
    ):
        with pytest.raises(ValueError, match=message):
            bank.append(ids, values)
    assert bank.append(["clip 2"], x[2:3] * (1 + 1e-6)) == 0  # rounding of another batch
    assert torch.equal(FeatureBank(tmp_path, KEY).features, x)
