"""`wanlab run --engine ray --address`: joins a cluster that somebody else has started, and leaves it as it was."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contracts.engine_contract import content
from tests.faults.conftest import ROOT, Wanlab, parts, wait_for
from tests.faults.test_workers import at_work, below, seen_at_work
from wanlab.runs.store import RunFolder

pytestmark = pytest.mark.ray
LOOK = "import ray; ray.init(address={!r}, logging_level='error'); print('CPUs', ray.available_resources().get('CPU'))"


@dataclass
class Head:
    """`ray start --head` as a process of its own."""

    process: subprocess.Popen[str]
    address: str

    def free_cpus(self) -> str:
        """What another program sees that joins the cluster."""
        found = subprocess.run([sys.executable, "-c", LOOK.format(self.address)], capture_output=True, text=True, timeout=300)
        return found.stdout.strip() or found.stderr


@pytest.fixture(scope="module")
def monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    """Of the whole file."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    """A cluster with two CPUs, in the foreground of its process, on a free port."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else it depends on what lies in ~/.ray, for the cluster and for who joins
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
        command += [f"--port={port}", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}", "--disable-usage-stats"]
        command += [f"--object-store-memory={1024**3}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        log = Path(folder) / "start.log"
        with open(log, "w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, text=True, env=environment, start_new_session=True)
        found = Head(process, f"127.0.0.1:{port}")
        try:
            wait_for(lambda: "Ray runtime started" in log.read_text(), process)
            assert process.poll() is None, log.read_text()
            yield found
        finally:
            cluster = [process.pid, *below(process.pid)]
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
            for pid in cluster:
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)


def test_a_cluster_that_runs_is_joined_and_lives_on(wanlab: Wanlab, undisturbed: Path, head: Head, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = wanlab.start(out, "--engine", "ray", "--address", head.address)
    busy = seen_at_work(head.process.pid, lambda: len(parts(out)) >= 1, process)
    assert busy, "no worker of the cluster has anything to do"
    assert not [name for name in below(process.pid).values() if "raylet" in name or "gcs_server" in name], "it started its own"
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0 and "workers share stage outputs through Ray's object store" in said, said
    assert content(out) == content(undisturbed)
    assert [line["engine"] for line in RunFolder(out).attempts() if line["state"] == "began"] == ["ray"]
    assert head.process.poll() is None and not at_work(head.process.pid)
    assert head.free_cpus() == "CPUs 2.0", "the run holds on to a part of the cluster"


def test_more_workers_than_the_cluster_holds_are_refused_at_once(wanlab: Wanlab, head: Head, tmp_path: Path) -> None:
    code, said = wanlab.run(tmp_path / "out", "--engine", "ray", "--address", head.address, "--workers", "3")
    assert code == 2 and "3 workers with 1 CPU each do not fit: the cluster has 1 machines with 2 CPUs" in said, said
    code, said = wanlab.run(tmp_path / "out", "--engine", "ray", "--address", head.address, "--device", "cuda")
    assert code == 2 and "with 1 GPU each do not fit" in said and "0 GPUs (0 free)" in said, said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["nobody", "silence", "a web server"])
def test_a_wrong_address_is_told_and_nothing_is_tried(wanlab: Wanlab, tmp_path: Path, what: str) -> None:
    pytest.importorskip("ray")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if what != "nobody":
            server.listen()
        start = time.monotonic()
        process = wanlab.start(tmp_path / "out", "--engine", "ray", "--address", address)
        if what == "a web server":
            server.settimeout(120)
            client, _ = server.accept()
            client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        said = process.communicate(timeout=200)[0]
        if what == "a web server":
            client.close()
    assert process.returncode == 2 and f"--address {address}: " in said and "`ray start --head`" in said, said
    assert {"nobody": "Connection refused", "silence": "timed out", "a web server": "is no Ray cluster"}[what] in said
    assert time.monotonic() - start < 120 and not (tmp_path / "out").exists() and "Traceback" not in said


def test_a_cluster_that_is_nowhere_to_be_found_is_told(wanlab: Wanlab, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    code, said = wanlab.run(tmp_path / "out", "--engine", "ray", "--address", "nonsense")
    assert code == 2 and "Ray could not join the cluster at nonsense" in said, said
    assert not (tmp_path / "out").exists()
