"""The classes of set distances: batches, merges, processes and hostile dtypes give the number of one pass over everything."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.wrappers import BootStrapper

from metrics import (
    FeatureBank,
    FrechetVideoDistance,
    JediDistance,
    KernelVideoDistance,
    ManifoldMetrics,
    SetDistances,
    SmallSampleWarning,
    frechet_bias,
    frechet_distance,
    frechet_infinity,
    jedi_distance,
    kernel_distance,
    manifold_metrics,
)


def sets(n: int = 90, m: int = 70) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 12, generator=generator), 1.5 * torch.randn(m, 12, generator=generator) + 0.3


def filled(metric: SetDistances, x: Tensor, y: Tensor, batch: int = 30, ids: bool = False) -> SetDistances:
    for real, rows in ((False, x), (True, y)):
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            metric.update(part, real=real, ids=[f"{start + i}" for i in range(len(part))] if ids else None)
    return metric


@pytest.mark.parametrize("batch", [1, 7, 90])
@pytest.mark.parametrize("ddof", [0, 1])
def test_streamed_equals_stored(batch: int, ddof: int) -> None:
    x, y = sets()
    streamed = filled(FrechetVideoDistance(ddof=ddof), x, y, batch).compute()
    assert float(streamed) == pytest.approx(float(frechet_distance(x, y, ddof)), rel=1e-10)


def test_one_pass_gives_every_distance() -> None:
    x, y = sets()
    seen = []
    metric = SetDistances(lambda video: seen.append(len(video)) or video.mean((3, 4)).flatten(1), keep=True)
    videos = {real: rows.view(-1, 4, 3, 1, 1).expand(-1, -1, -1, 2, 2) for real, rows in ((False, x), (True, y))}
    with pytest.warns(SmallSampleWarning, match="subsets of 70"):
        found = filled(metric, videos[False], videos[True]).compute()
        kernel = kernel_distance(x, y)
    assert sum(seen) == len(x) + len(y)
    expected = {"fvd": frechet_distance(x, y), "fvd_bias": frechet_bias(x, y), "jedi": jedi_distance(x, y),
                "kvd": kernel.mean, "kvd_std": kernel.std, **manifold_metrics(y, x)._asdict()}  # fmt: skip
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-6), name


def test_what_too_few_samples_cannot_give_is_left_out_with_a_word() -> None:
    with pytest.warns(SmallSampleWarning) as told:
        found = filled(SetDistances(keep=True), *sets(5, 70)).compute()
    assert found.keys() == {"fvd", "fvd_bias", "jedi", "kvd", "kvd_std"}
    assert any("need 6 samples, n = 5" in str(warning.message) for warning in told)


def test_the_extrapolation_comes_from_kept_features() -> None:
    x, y = sets()
    assert float(filled(SetDistances(keep=True), x, y).infinity()) == pytest.approx(float(frechet_infinity(x, y)), rel=1e-12)


def test_each_class_is_a_face_of_the_same_state() -> None:
    x, y = sets()
    assert float(filled(JediDistance(unbiased=True), x, y).compute()) == pytest.approx(float(jedi_distance(x, y, True)))
    options = {"subsets": 5, "subset_size": 40}
    kvd = filled(KernelVideoDistance(kernel_options=options), x, y).compute()
    assert tuple(map(float, kvd)) == pytest.approx(tuple(map(float, kernel_distance(x, y, **options))))
    cover = filled(ManifoldMetrics(neighbours=3), x, y).compute()
    assert cover == manifold_metrics(y, x, neighbours=3)._asdict()


def test_in_a_collection_the_network_runs_once_per_batch() -> None:
    """torchmetrics groups metrics of equal state: after the first batch one update serves all."""
    x, y = sets()
    seen = []
    network = lambda rows: seen.append(len(rows)) or rows  # noqa: E731
    collection = MetricCollection({"fvd": FrechetVideoDistance(network), "jedi": JediDistance(network)})
    for real, rows in ((False, x), (True, y)):
        for part in rows.split(10):
            collection.update(part, real=real)
    found = collection.compute()
    assert sum(seen) == len(x) + len(y) + 10
    assert float(found["fvd"]) == pytest.approx(float(frechet_distance(x, y)), rel=1e-10)
    assert float(found["jedi"]) == pytest.approx(float(jedi_distance(x, y)), rel=1e-10)


@pytest.mark.parametrize("keep", [False, True])
def test_merge_of_parts_equals_the_whole(keep: bool) -> None:
    x, y = sets()
    whole = frechet_distance(x, y)
    parts = [filled(FrechetVideoDistance(keep=keep), x[k::3], y[k::3], 4) for k in range(3)]
    first = FrechetVideoDistance(keep=keep)  # an empty part changes nothing
    for part in parts:
        first.merge_state(part)
    assert float(first.compute()) == pytest.approx(float(whole), rel=1e-12)
    first.merge_state(FrechetVideoDistance(keep=keep))
    assert float(first.compute()) == pytest.approx(float(whole), rel=1e-12)
    if keep:
        torch.testing.assert_close(first.rows("fake").sort(0).values, x.double().sort(0).values)


def gathered(parts: list[SetDistances], own: SetDistances) -> Callable[..., list[Tensor]]:
    """What torch.distributed would hand to one process: for each state, that of every process, in order."""
    queue = [[state for part in parts for state in [*part._part(side)]] for side in ("real", "fake")]
    per_side = 3 if own.keep else 2
    order = [[queue[side][kind + 3 * k] for k in range(len(parts))] for side in (0, 1) for kind in range(per_side)]
    return lambda state, group=None: order.pop(0)


@pytest.mark.parametrize("keep", [False, True])
def test_compute_takes_the_union_of_all_processes_and_gives_the_own_state_back(keep: bool) -> None:
    x, y = sets()
    parts = [filled(FrechetVideoDistance(keep=keep), x[:50], y[:20]), FrechetVideoDistance(keep=keep),
             filled(FrechetVideoDistance(keep=keep), x[50:], y[20:])]  # fmt: skip
    own = parts[0]
    own.distributed_available_fn = lambda: True
    own.dist_sync_fn = gathered(parts, own)
    assert float(own.compute()) == pytest.approx(float(frechet_distance(x, y)), rel=1e-12)
    assert own.moments("fake").n == 50 and own.moments("real").n == 20
    if keep:
        assert torch.equal(own.rows("fake"), x[:50])


PROCESS = """
import sys
import torch
import torch.distributed as dist
from metrics import FrechetVideoDistance, SetDistances

rank, world, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
generator = torch.Generator().manual_seed(0)
x, y = torch.randn(90, 12, generator=generator), 1.5 * torch.randn(70, 12, generator=generator) + 0.3
names = [f"clip {i}" for i in range(90)]
for keep in (False, True):
    metric = FrechetVideoDistance(keep=keep)
    if rank < 2:                                    # the last process sees nothing
        mine = slice(rank, None, 2)
        metric.update(x[mine], real=False, ids=names[mine])
        metric.update(y[mine], real=True, ids=names[:70][mine])
        if keep:                                    # and a sampler pads
            metric.update(x[:1], real=False, ids=names[:1])
    print(f"{float(metric.compute()):.15e}", metric.moments("fake").n)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_real_processes_agree_with_one(tmp_path: Path) -> None:
    """Three gloo processes: unequal shares, one without a sample, and a sample that two of them hold."""
    command = [sys.executable, "-W", "ignore", "-c", PROCESS]
    processes = [subprocess.Popen([*command, str(rank), "3", str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
                 for rank in range(3)]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    expected = float(frechet_distance(*sets()))
    for output, own in zip(outputs, (("45", "45"), ("45", "46"), ("0", "0")), strict=True):
        assert [float(value) for value in output[::2]] == pytest.approx([expected, expected], rel=1e-12)
        assert tuple(output[1::2]) == own  # after compute each process has its own samples again


def test_a_sample_that_comes_twice_counts_once() -> None:
    """Within a process always; across processes (the padding of a distributed sampler) where features are kept."""
    x, y = sets()
    expected = pytest.approx(float(frechet_distance(x, y)), rel=1e-12)
    one = filled(filled(FrechetVideoDistance(), x, y, ids=True), x[:8], y[:8], ids=True)
    assert float(one.compute()) == expected
    names = [str(i) for i in range(90)]
    for keep in (True, False):
        left, right = FrechetVideoDistance(keep=keep), FrechetVideoDistance(keep=keep)
        for part, rows in ((left, slice(0, 50)), (right, slice(40, 90))):
            part.update(x[rows], real=False, ids=names[rows])
            part.update(y[rows], real=True, ids=names[rows][: len(y[rows])])
        if keep:
            left.merge_state(right)
            assert float(left.compute()) == expected and left.moments("fake").n == 90
        else:
            with pytest.raises(ValueError, match=r"10 real samples came in on more than one process.*keep=True"):
                left.merge_state(right)


def test_what_a_bank_holds_is_not_extracted_again(tmp_path: Path) -> None:
    x, y = sets()
    counts = []
    for _ in range(2):  # the second run finds everything
        seen = []
        banks = (FeatureBank(tmp_path / "real", {"net": "a"}), FeatureBank(tmp_path / "fake", {"net": "a"}))
        metric = FrechetVideoDistance(lambda rows, seen=seen: seen.append(len(rows)) or rows, keep=banks)
        assert float(filled(metric, x, y, ids=True).compute()) == pytest.approx(float(frechet_distance(x, y)), rel=1e-12)
        torch.testing.assert_close(metric.rows("fake"), x)
        counts.append(sum(seen))
        copied = copy.deepcopy(metric)
        assert torch.equal(copied.rows("real"), metric.rows("real"))
        metric.merge_state(filled(FrechetVideoDistance(keep=True), x[:20], y[:20], ids=True))  # known samples
        assert metric.moments("fake").n == 90 and torch.equal(metric.rows("fake"), x.double())
        for bank in banks:
            bank.close()
    assert counts == [160, 0]
    with pytest.raises(ValueError, match="bank needs them"):
        FrechetVideoDistance(keep=banks).update(x, real=True)


def test_the_state_stays_float64_and_survives_a_huge_mean() -> None:
    x, y = (part.double() + 1e6 for part in sets())
    metric = FrechetVideoDistance()
    for change in (lambda m: m.set_dtype(torch.float32), lambda m: m.half(), lambda m: m.to(torch.float16), lambda m: m.bfloat16()):
        change(metric)
        filled(metric, x[:10], y[:10])
        assert metric.real.dtype == metric.moments("fake").flat.dtype == torch.float64
        metric.reset()
    filled(metric, x, y, 8).half()
    assert float(metric.compute()) == pytest.approx(float(frechet_distance(x - 1e6, y - 1e6)), rel=1e-8)


def test_the_network_follows_the_dtype_and_the_state_does_not() -> None:
    network = torch.nn.Linear(12, 4)
    metric = FrechetVideoDistance(network)
    metric.to(torch.float64)
    assert network.weight.dtype == torch.float64 and metric.real.dtype == torch.float64
    filled(metric, *(part.double() for part in sets()))
    metric.to(torch.float16)
    assert network.weight.dtype == torch.float16 and metric.real.dtype == torch.float64
    assert not metric.moments("real").mean.requires_grad


def test_reset_may_keep_the_real_set() -> None:
    x, y = sets()
    metric = filled(FrechetVideoDistance(keep=True, reset_real_features=False), x + 5, y, ids=True)
    metric.reset()
    assert metric.moments("real").n == 70 and metric.moments("fake").n == 0
    metric.update(x, real=False, ids=range(90))
    assert float(metric.compute()) == pytest.approx(float(frechet_distance(x, y)), rel=1e-12)
    forgetful = filled(FrechetVideoDistance(), x, y)
    forgetful.reset()
    assert forgetful.moments("real").n == 0


def test_few_samples_are_warned_of_by_number() -> None:
    x, y = sets(29, 200)
    with pytest.warns(SmallSampleWarning, match=r"n = 29 samples of 12 features.*n >= 30"):
        few = filled(FrechetVideoDistance(), x, y).compute()
    assert float(few) == pytest.approx(float(frechet_distance(x, y)), rel=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled(FrechetVideoDistance(), *sets(30, 200)).compute()


@pytest.mark.parametrize("n", [2, 5, 12])
def test_fewer_samples_than_features_are_measured_exactly(n: int) -> None:
    x, y = sets(n, 70)
    for keep in (False, True):
        with pytest.warns(SmallSampleWarning):
            found = filled(FrechetVideoDistance(keep=keep), x, y).compute()
            zero = filled(FrechetVideoDistance(keep=keep), x, x).compute()
        assert float(found) == pytest.approx(float(frechet_distance(x, y)), rel=1e-9)
        assert 0 <= float(zero) < 1e-10


def test_a_bootstrap_is_refused() -> None:
    metric = FrechetVideoDistance()
    with pytest.raises(ValueError, match=r"bootstrap of fvd is wrong.*jackknife_interval"):
        BootStrapper(metric, num_bootstraps=2)
    filled(metric, *sets())
    twin, thawed = metric.clone(), pickle.loads(pickle.dumps(metric))
    assert float(twin.compute()) == float(thawed.compute()) == float(metric.compute())


def test_bad_updates_are_refused_and_lose_nothing() -> None:
    metric = filled(FrechetVideoDistance(), *sets())
    before = float(metric.compute())
    for values, message in (
        (torch.zeros(4, 5), r"\(b, 12\)"),
        (torch.full((4, 12), torch.nan), "the real batch holds NaN"),
        (torch.zeros(4), r"\(n, d\)"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(values, real=True)
    with pytest.raises(ValueError, match="every update"):
        metric.update(torch.zeros(2, 12), real=True, ids=["a", "b"])
    assert metric.moments("real").n == 70 and float(metric.compute()) == before
    metric(torch.zeros(1, 12), real=True)  # called as a function it adds, too
    assert metric.moments("real").n == 71
    with pytest.raises(ValueError, match="3 samples but 2 ids"):
        FrechetVideoDistance().update(torch.zeros(3, 12), real=True, ids=["a", "b"])


def test_what_cannot_be_computed_says_so() -> None:
    metric = FrechetVideoDistance()
    with pytest.raises(ValueError, match="at least 2 samples, got 0"), pytest.warns(UserWarning, match="compute"):
        metric.compute()
    metric.update(torch.zeros(1, 12), real=True)
    metric.update(torch.zeros(5, 12), real=False)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        metric.compute()
    with pytest.raises(ValueError, match="keeps no features"):
        metric.manifold()
    with pytest.raises(ValueError, match="expected a FrechetVideoDistance"):
        metric.merge_state({"real": torch.zeros(2)})
