"""What every test shares: one thread (so that numbers do not depend on the machine's cores) and no network."""

from __future__ import annotations

import os
from collections.abc import Iterator

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that reaches for the hub fails at once instead of downloading
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic mode on CUDA asks for it

import pytest
import torch
from hypothesis import settings

# A slow machine is no mistake, and a change lands or not by what it does, not by what is drawn: the same examples in every run.
# WANLAB_RANDOM=1 draws others.
settings.register_profile("house", deadline=None, derandomize=os.environ.get("WANLAB_RANDOM") is None)
settings.load_profile("house")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def float32_products() -> Iterator[None]:
    """Products of float32 throughout, so that a tolerance speaks of rounding and not of TF32."""
    kept = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = kept


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, float32_products: None) -> str:
    """Where a pipeline or a stage is tested: on the CPU, and under the marker `gpu` by the same tests on a CUDA device."""
    return request.param


@pytest.fixture
def placed(device: str) -> Iterator[str]:
    """What a test makes is made on its device."""
    with torch.device(device):
        yield device


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    """Tests that draw from torch's global generator draw the same numbers in any order."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` say why they did not run where there is no device. The longest come first, so that no core waits at the
    end for one that another has just begun."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
    items.sort(key=_seconds, reverse=True)


def _seconds(item: pytest.Item) -> float:
    """About how long a slow test takes, where its marker says so: 40 seconds and more."""
    return max((mark.kwargs.get("seconds", 0) for mark in item.iter_markers("slow")), default=0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long the notebooks took: tests that record `seconds` have them in the log too."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    told = [f"{value:5d} s  {report.nodeid}" for report in reports for name, value in report.user_properties if name == "seconds"]
    if told:
        terminalreporter.section("seconds")
        terminalreporter.write_line("\n".join(told))
