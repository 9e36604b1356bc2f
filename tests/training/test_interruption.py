"""`wanlab train`, stopped by Ctrl-C or killed: the same command goes on and ends with the same weights."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wanlab import cli

ROOT = Path(__file__).resolve().parents[2]
FILE = """
kind: cascade
upsample:
  residual: {clips: 2, held: 1, steps: [2, 120], batch: [1, 1], crop: [8, 8]}
"""

Train = Callable[..., tuple[int, str]]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Train]:
    """Run `wanlab train t.yaml --out OUT` here; gives the exit code and what was said."""
    (tmp_path / "t.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)

    def go(out: str, *more: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wanlab", "train", "t.yaml", "--out", out, *more])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), " ".join((said.out + said.err).split())

    before = signal.getsignal(signal.SIGINT)
    yield go
    assert signal.getsignal(signal.SIGINT) is before


def broken_off(folder: Path, number: int, after: str) -> tuple[int, str]:
    """The same in another process, which gets a signal when it has said `after` and made a step of level 1; exit code and
    what was said."""
    log = folder / "upsample" / "residual.level1.jsonl"
    command = [sys.executable, "-m", "wanlab", "train", "t.yaml", "--out", folder.name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder.parent, env=environment, stderr=subprocess.PIPE, text=True)
    said = ""
    for line in process.stderr or ():
        said += line
        if after in line:
            while not log.exists() and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(number)
    process.communicate()
    return process.returncode, " ".join(said.split())


@pytest.mark.slow
def test_a_training_that_was_broken_off_ends_with_the_same_weights(train: Train, tmp_path: Path) -> None:
    code, said = train("whole")
    assert code == 0 and "upsample residual part 1 of 1" in said and "done upsample/residual.level1" in said
    assert "whole/pipeline" in said

    code, said = broken_off(tmp_path / "broken", signal.SIGINT, "done    upsample/residual.level0")
    assert code == 130 and said.endswith("stopped; what is finished is kept, go on with: wanlab train t.yaml --out broken")
    code, said = broken_off(tmp_path / "broken", signal.SIGKILL, "resumed upsample/residual.level1")
    assert code == -signal.SIGKILL and "resumed upsample/residual.level0: all 2 steps are done" in said
    code, said = train("broken")
    assert code == 0 and re.search(r"resumed upsample/residual.level1: going on at step \d+ of 120", said)

    left, right = (tmp_path / folder / "upsample" / "upsample.residual.safetensors" for folder in ("whole", "broken"))
    assert left.read_bytes() == right.read_bytes()

    code, said = train("whole")
    assert code == 0 and "upsample residual part 1 of 1 finished before, kept" in said
    code, said = train("whole", "--set", "upsample.residual.rate=1e-4")
    assert code == 2 and "was trained with other settings: rate was 0.002" in said
    code, said = train("new", "--set", "upsample.residual.rate=fast")
    assert code == 2 and "rate is a number, such as 0.002, not 'fast'" in said
