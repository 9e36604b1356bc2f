"""What is installed from a wheel, and from an sdist: all code, weights, templates and styles, at work far from any checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STUDY = """name: two
pipeline: tiny
data: {kind: procedural, n: 1, max_objects: 1}
sampler: {steps: 2}
batch: 1
metrics: [flicker, psnr]
cells:
  baseline:
  text: {ablate: text}
"""


def built(tree: Path, out: Path, what: str) -> Path:
    """The wheel or sdist of a tree; setuptools is there with the extra dev, so nothing is fetched."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{what}(sys.argv[1])"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(out)], cwd=tree, check=True, capture_output=True)
    (found,) = out.glob("wanlab-*.whl" if what == "wheel" else "wanlab-*.tar.gz")
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracked files alone."""
    folder = tmp_path_factory.mktemp("tree")
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tree, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the unpacked sdist: what an index would give to those whose platform it has no wheel for."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    return built(folder, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wanlab` of an environment that holds the wheel and, beside it, this one's packages without its wanlab."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    version = "python{}.{}".format(*sys.version_info)
    # a folder that a .pth names is searched, but its own .pth files, and so an editable wanlab, are not
    (folder / "lib" / version / "site-packages" / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index",
           "--force-reinstall"]  # fmt: skip
    subprocess.run([*pip, str(wheel)], check=True, env=clean(folder), capture_output=True)
    return folder / "bin" / "wanlab"


def clean(home: Path) -> dict[str, str]:
    """The environment of a stranger: another home, no path of Python's."""
    left = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WANLAB", "VIRTUAL_ENV"))}
    return left | {"HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def run(program: Path, place: Path, *words: str) -> str:
    """What the installed program prints, called from a folder of its own."""
    answer = subprocess.run([str(program), *words], cwd=place, env=clean(place), capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return answer.stdout


def test_every_tracked_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    listing = subprocess.run(["git", "ls-tree", "-r", "--name-only", "HEAD", "wanlab", "metrics"],
                             cwd=ROOT, check=True, capture_output=True, text=True)  # fmt: skip
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert not sorted(set(listing.stdout.split()) - inside)


def test_the_installed_package_is_the_wheels_and_lists_sites(program: Path, tmp_path: Path) -> None:
    code = "import wanlab, metrics; print(wanlab.__file__, metrics.__file__)"
    python = str(program.with_name("python"))
    where = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean(tmp_path), capture_output=True, text=True)
    assert len(where.stdout.split()) == 2, where.stderr
    assert all(path.startswith(str(program.parents[1])) for path in where.stdout.split())
    assert "generator" in run(program, tmp_path, "sites", "tiny")
    assert "wan2.1" not in run(program, tmp_path, "sites", "wan2.1-t2v-1.3b", "--meta", "--match", "dit.blocks.0.**.z")


def test_one_video_from_a_picture(program: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "first.png")
    run(program, tmp_path, "generate", "--image", "first.png", "--prompt", "a red circle moves left", "--steps", "2")
    assert (tmp_path / "out.mp4").stat().st_size > 1000


def test_a_study_runs_and_writes_its_report(program: Path, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(STUDY)
    run(program, tmp_path, "run", "two.yaml")
    report = tmp_path / "runs" / "two" / "report"
    assert {"report.html", "table.tex", "table.csv", "figures"} <= {path.name for path in report.iterdir()}
    assert "baseline" in (report / "table.csv").read_text()
    assert '"title": "Study"' in run(program, tmp_path, "schema")
