"""The face of the package: its names, its version, its errors, its commands, and the README's own code."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import wanlab

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = "generate run plan report sites train metrics schema doctor".split()


@pytest.mark.parametrize("name", wanlab.__all__)
def test_every_name_of_the_face_resolves(name: str) -> None:
    assert getattr(wanlab, name) is not None


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(AttributeError, match="Zero"):
        wanlab.Zeros  # noqa: B018


def test_hasattr_and_dir_behave() -> None:
    assert not hasattr(wanlab, "__wrapped__")
    assert set(wanlab.__all__) <= set(dir(wanlab))


def test_one_version() -> None:
    assert wanlab.__version__ == version("wanlab")
    assert f"## {wanlab.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_command_is_installed_and_names_its_parts() -> None:
    (command,) = [entry for entry in entry_points(group="console_scripts") if entry.name == "wanlab"]
    assert command.value == "wanlab.cli:main"
    run = subprocess.run([sys.executable, "-c", "from wanlab.cli import main; main()", "--help"],
                         capture_output=True, text=True, cwd=ROOT)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert not [name for name in COMMANDS if not re.search(rf"\b{name}\b", run.stdout)]


def test_packages_carry_their_types() -> None:
    assert (ROOT / "wanlab" / "py.typed").is_file() and (ROOT / "metrics" / "py.typed").is_file()


def readme(language: str) -> list[str]:
    """Fenced blocks of the README in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_readmes_code_runs() -> None:
    names: dict[str, object] = {}
    for code in readme("python"):                                   # the later blocks go on from the earlier ones
        exec(compile(code, "README.md", "exec"), names)
        assert names["out"].video.shape == (1, 8, 3, 128, 128)  # type: ignore[attr-defined]


def test_the_readmes_commands_exist() -> None:
    said = [line.split()[1] for block in readme("sh") for line in block.splitlines() if line.startswith("wanlab ")]
    assert said and set(said) <= set(COMMANDS)


def test_links_of_the_documents_lead_somewhere() -> None:
    dead = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert not dead, "\n".join(dead)
