"""What starting costs, counted in imported modules and not in seconds, and what `wanlab --help` says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = "generate run plan report sites train metrics schema doctor".split()
# pydantic is not among them: typer reads the options of a command with it, in .2 s
HEAVY = ("torch", "numpy", "PIL", "av", "ruamel", "safetensors", "diffusers", "transformers", "pandas", "scipy", "matplotlib")
ASK = f"""
import contextlib, io, json, os, sys
os.environ["COLUMNS"] = "100"
from wanlab.cli import main
pages = {{}}
for words in [[], *([name] for name in {COMMANDS!r})]:
    sys.argv = ["wanlab", *words, "--help"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main()
    pages[" ".join(words)] = said.getvalue()
print(json.dumps({{"pages": pages, "modules": sorted(sys.modules)}}))
"""


@pytest.fixture(scope="module")
def asked() -> dict[str, object]:
    """All pages of help from one fresh interpreter, and what that had imported at the end."""
    run = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found: dict[str, object] = json.loads(run.stdout)
    return found


def test_help_imports_neither_torch_nor_any_other_heavy_package(asked: dict[str, object]) -> None:
    loaded = {name.split(".")[0] for name in asked["modules"]} & set(HEAVY)  # type: ignore[attr-defined]
    assert not loaded, f"wanlab --help also imported {sorted(loaded)}"
    own = [name for name in asked["modules"] if name.split(".")[0] in ("wanlab", "metrics")]  # type: ignore[attr-defined]
    assert own == ["wanlab", "wanlab.cli"]


def test_importing_wanlab_adds_next_to_nothing_to_torch() -> None:
    code = "import sys, torch; before = set(sys.modules); import wanlab; print(*sorted(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["wanlab"], run.stdout + run.stderr


def test_the_shipped_pipeline_generates_without_the_packages_of_published_models() -> None:
    """They are several seconds of imports: diffusers (with torch's compiler), transformers, and the statistics of scipy."""
    code = """
import sys, torch, wanlab
pipe = wanlab.load("tiny")
pipe.sites()
pipe.generate(torch.zeros(3, 64, 64), "a red circle moves left", seed=0, steps=1, guidance=1.0)
print(*(name for name in ("diffusers", "transformers", "scipy.stats", "torch._dynamo", "pandas") if name in sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and not run.stdout.split(), run.stdout + run.stderr


def test_the_first_page_names_every_command_and_its_examples_exist(asked: dict[str, object]) -> None:
    page = asked["pages"][""]  # type: ignore[index]
    assert not [name for name in COMMANDS if not re.search(rf"^│ {name} +\S", page, flags=re.MULTILINE)]
    examples = [shlex.split(line.strip()) for line in page.splitlines() if line.strip().startswith("wanlab ")]
    assert len(examples) >= 4 and {words[1] for words in examples} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_and_option_says_what_it_is(command: str, asked: dict[str, object]) -> None:
    import typer.main

    from wanlab.cli import app

    for parameter in typer.main.get_command(app).commands[command].params:  # type: ignore[attr-defined]
        assert parameter.help and len(parameter.help) > 8, f"wanlab {command}: {parameter.name} has no help"
        assert parameter.help[0].isupper() or parameter.help.split()[0].rstrip(":,") in ("auto", "random"), parameter.help
    page = asked["pages"][command]  # type: ignore[index]
    assert f"wanlab {command}" in page and "\\[" not in page and "[/" not in page


def test_what_stands_in_brackets_is_not_lost_as_markup(asked: dict[str, object]) -> None:
    assert '"zero:fusion.attn.z[heads=2]@steps=0:4"' in " ".join(asked["pages"]["generate"].split())  # type: ignore[index]
