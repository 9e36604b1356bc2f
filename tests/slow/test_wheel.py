"""What is installed from a wheel: all code, weights, templates and styles, importable outside the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tracked files alone."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]  # setuptools is there with the extra dev
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", *offline, "--wheel-dir", str(out), str(tree)]
    subprocess.run(pip, check=True)
    (built,) = out.glob("wanlab-*.whl")
    return built


def test_every_tracked_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    listing = subprocess.run(["git", "ls-tree", "-r", "--name-only", "HEAD", "wanlab", "metrics"],
                             cwd=ROOT, check=True, capture_output=True, text=True)  # fmt: skip
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert not sorted(set(listing.stdout.split()) - inside)


def test_the_unpacked_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path / "site")!r})
import wanlab
assert wanlab.__file__.startswith({str(tmp_path)!r}), wanlab.__file__
pipe = wanlab.load("tiny")
print(len(pipe.sites("**")))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 50
