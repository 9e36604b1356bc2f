"""dev.py: what a person sees when something is wrong, and when nothing has to be done."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dev() -> ModuleType:
    """dev.py as a module of its own for each test."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_needs_the_standard_library_only(dev: ModuleType) -> None:
    imported = {line.split()[1].split(".")[0] for line in (ROOT / "dev.py").read_text().splitlines()
                if line.startswith(("import ", "from "))}  # fmt: skip
    assert imported <= set(sys.stdlib_module_names)


def test_a_failing_install_shows_the_end_of_its_log(dev: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(dev.Stop, match=r"(?s)exit code 1.*pip\.log.*no-such-package-of-ours"):
        dev.pip(tmp_path, "install", "--no-index", "no-such-package-of-ours")


def test_a_folder_that_is_no_environment_is_left_alone(dev: ModuleType, tmp_path: Path) -> None:
    keep = tmp_path / "thesis.tex"
    keep.write_text("mine")
    with pytest.raises(dev.Stop, match="is no environment"):
        dev.environment(tmp_path)
    assert keep.read_text() == "mine"


def test_a_fitting_environment_is_not_touched(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "wanlab").touch()
    (tmp_path / dev.STAMP).write_text(dev.fingerprint(dev.EXTRAS))
    monkeypatch.setattr(dev, "pip", lambda *_: pytest.fail("installed again"))
    assert dev.environment(tmp_path) == tmp_path


def test_changed_pins_change_the_fingerprint(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("a")
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    before = dev.fingerprint(dev.EXTRAS)
    (tmp_path / "constraints.txt").write_text("b")
    assert dev.fingerprint(dev.EXTRAS) != before != dev.fingerprint("dev")


def test_an_unknown_command_names_the_known_ones() -> None:
    run = subprocess.run([sys.executable, "dev.py", "demos"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert "demo" in run.stderr and "test" in run.stderr


def test_the_checks_all_run_and_a_failure_counts(dev: ModuleType, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert dev.heard(sys.executable, "-c", "import sys; print('so'); sys.exit(3)") == (3, "so\n")
    ran = []

    def call(*command: str) -> int:
        ran.append(command)
        return int("ruff" in command[0])

    monkeypatch.setattr(dev, "call", call)
    monkeypatch.setattr(dev, "heard", lambda *command: (call(*command) + 1, "a.py:3: error: of types\n"))
    assert dev.test(Path(sys.prefix), ["-k", "sites"]) == 1
    names = sorted("pytest" if "pytest" in command else Path(command[0]).stem for command in ran)
    assert names == ["mypy", "pytest", "ruff"] and [command[-2:] for command in ran if "pytest" in command] == [("-k", "sites")]
    said = capsys.readouterr().out
    assert "== mypy\na.py:3: error: of types\nfailed: ruff, mypy" in said


def test_the_demo_says_where_the_report_is_and_how_a_shell_gets_the_command(
        dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "runs" / "quickstart" / "report" / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "call", lambda *_: 0)
    assert dev.demo(tmp_path / "my venv", []) == 0
    said = capsys.readouterr().out
    assert report.as_uri() in said and f". '{tmp_path / 'my venv' / dev.BIN / 'activate'}'" in said
