#!/usr/bin/env python3
"""Two commands for a fresh clone, standard library only.

    python3.11 dev.py demo     environment + experiments/quickstart.yaml + report; prints where the report is
    python3.11 dev.py test     the same environment + ruff + mypy + the default tests, on all cores (arguments go to pytest)

also
    python3.11 dev.py env      only the environment (.venv; --extras NAMES, --venv FOLDER for another one)
    python3.11 dev.py bench    benchmarks/demo.py (arguments go to it)
    python3.11 dev.py docs     the documents as a site, site/index.html; warnings are errors (arguments go to mkdocs build)
    python3.11 dev.py audit    bandit, and pip-audit where its service can be reached (arguments go to pip-audit)

The first call installs the packages pinned in constraints.txt (several minutes, about 6 GB with CUDA libraries);
a stamp in the environment lets later calls start at once until setup.cfg or constraints.txt changes.
docs and audit need none of that: each has a small environment of its own (.venv-docs, .venv-audit).
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
EXTRAS = "dev,notebook,bench"
BIN = "Scripts" if os.name == "nt" else "bin"
EXE = ".exe" if os.name == "nt" else ""
OLDEST = (3, 11)
STAMP = "wanlab.stamp"
SMALL = ("docs", "audit")  # commands with a small environment of their own
PARALLEL = ("--numprocesses=logical", "--maxprocesses=8", "--dist=worksteal")  # tests use one thread each; `-n 0` undoes it


class Stop(Exception):
    """A failure with one message for the person at the terminal."""


def fingerprint(extras: str) -> str:
    """Changes when the environment has to be installed again."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {extras} {ROOT}".encode())
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def program(venv: Path, name: str) -> str:
    """Path of an executable inside the environment."""
    return str(venv / BIN / (name + EXE))


def version(venv: Path) -> str:
    """Python version of an environment ("3.11"), empty where none is or it does not start."""
    ask = [program(venv, "python"), "-c", "import sys, pip; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def create(venv: Path) -> None:
    """Make an empty environment; a broken one is replaced, a stranger's one never."""
    mine, found = "{}.{}".format(*sys.version_info), version(venv)
    if found == mine:
        return
    if found and not (venv / STAMP).is_file():
        raise Stop(f"{venv} has Python {found}, this is Python {mine}: remove it or name another folder with --venv")
    if not found and venv.exists() and not (venv / "pyvenv.cfg").is_file():
        raise Stop(f"{venv} exists and is no environment: name another folder with --venv")
    print(f"making {venv} with Python {mine}", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True)
    if made.returncode:
        hint = "on Debian and Ubuntu: apt install python3-venv"
        raise Stop(f"python -m venv failed ({hint}):\n{(made.stdout + made.stderr).strip()}")


def pip(venv: Path, *arguments: str) -> None:
    """Run pip quietly with a sign of life; on failure show the end of its log."""
    log = venv / "pip.log"
    command = [program(venv, "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    started = shown = time.monotonic()
    with open(log, "wb") as sink:
        running = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            while running.poll() is None:
                time.sleep(0.2)
                if time.monotonic() - shown >= 60:
                    shown = time.monotonic()
                    print(f"  still installing, {(shown - started) / 60:.0f} min", flush=True)
        except BaseException:
            running.terminate()
            running.wait()
            raise
    if running.returncode:
        tail = "\n".join("  " + line for line in log.read_text(errors="replace").splitlines()[-25:])
        raise Stop(f"pip failed (exit code {running.returncode}); the end of {log}:\n{tail}")


def environment(venv: Path, extras: str = EXTRAS) -> Path:
    """Create or bring up to date the environment; does nothing when the stamp says that it fits."""
    stamp, wanted = venv / STAMP, fingerprint(extras)
    if stamp.is_file() and stamp.read_text() == wanted and Path(program(venv, "wanlab")).is_file():
        return venv
    create(venv)
    print("installing the pinned packages (several minutes the first time)", flush=True)
    # compat: a plain path entry, so that mypy and editors see the packages as they are in the checkout.
    target = ["-e", f".[{extras}]", "--config-settings", "editable_mode=compat"]
    pip(venv, "install", "--quiet", "--constraint", "constraints.txt", *target)
    stamp.write_text(wanted)
    return venv


def light(venv: Path, extra: str) -> Path:
    """An environment with the packages of one extra alone, without those that the package itself needs."""
    stamp, wanted = venv / STAMP, fingerprint(f"only {extra}")
    if stamp.is_file() and stamp.read_text() == wanted:
        return venv
    create(venv)
    print(f"installing the packages of the extra {extra} (a minute or less)", flush=True)
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    packages = parser["options.extras_require"][extra].split()
    pip(venv, "install", "--quiet", "--constraint", "constraints.txt", *packages)
    stamp.write_text(wanted)
    return venv


def call(*command: str) -> int:
    """Run a command in the repository with its output shown; returns its exit code."""
    return subprocess.run(command, cwd=ROOT).returncode


def heard(*command: str) -> tuple[int, str]:
    """Run a command in the repository; returns its exit code and what it said."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def demo(venv: Path, rest: list[str]) -> int:
    """Quickstart from nothing to a report."""
    started = time.monotonic()
    out = ROOT / "runs" / "quickstart"
    code = call(program(venv, "wanlab"), "run", "experiments/quickstart.yaml", "--out", str(out), *rest)
    report = out / "report" / "report.html"
    if code == 0 and not report.is_file():
        raise Stop(f"the run ended well but there is no {report}")
    if code == 0:
        print(f"open {report.as_uri()}   (the demo took {time.monotonic() - started:.0f} s)")
        print(f"so that this shell has the command wanlab:  . {shlex.quote(str(venv / BIN / 'activate'))}")
    return code


def test(venv: Path, rest: list[str]) -> int:
    """Lint, types, default tests; all run even when an earlier one fails. Types take one core half a minute, beside the tests."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # tests start many processes: each would compile the package anew
    types = [program(venv, "mypy"), "--no-error-summary"]
    checks = {
        "ruff": [program(venv, "ruff"), "check", "--quiet", "."],
        "pytest": [program(venv, "python"), "-m", "pytest", "-q", *PARALLEL, *rest],
    }
    failed = []
    with ThreadPoolExecutor(1) as beside:
        typed = beside.submit(heard, *types)
        for name, command in checks.items():
            print(f"== {name}", flush=True)
            if call(*command):
                failed.append(name)
        code, said = typed.result()
    print(f"== mypy\n{said}", end="", flush=True)
    if code:
        failed.append("mypy")
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def bench(venv: Path, rest: list[str]) -> int:
    """Speed of the main job on this machine."""
    return call(program(venv, "python"), "benchmarks/demo.py", *rest)


def docs(venv: Path, rest: list[str]) -> int:
    """The site; nothing of the package is imported but its command line, so a light environment does."""
    os.environ.setdefault("NO_MKDOCS_2_WARNING", "1")  # the theme's word about its future is no fault of a page
    code = call(program(venv, "python"), "-m", "mkdocs", "build", "--strict", "--quiet", *rest)
    if code == 0 and not rest:
        print(f"open {(ROOT / 'site' / 'index.html').as_uri()}")
    return code


def audit(venv: Path, rest: list[str]) -> int:
    """What known flaws our code and the pinned packages have."""
    return call(program(venv, "python"), ".ci/audit.py", *rest)


def main(arguments: list[str]) -> int:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(
        prog="dev.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("command", choices=["demo", "test", "env", "bench", *SMALL])
    parser.add_argument("--venv", type=Path, help="folder of the environment (default: .venv; .venv-docs, .venv-audit)")
    parser.add_argument("--extras", default=EXTRAS, help="extras of setup.cfg to install (default: %(default)s)")
    known, rest = parser.parse_known_args(arguments)
    if rest and known.command == "env":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if known.command in SMALL:
        venv = light((known.venv or ROOT / f".venv-{known.command}").absolute(), known.command)
        return {"docs": docs, "audit": audit}[known.command](venv, rest)
    venv = environment((known.venv or ROOT / ".venv").absolute(), known.extras)
    if known.command == "env":
        print(f"environment: {venv}")
        return 0
    return {"demo": demo, "test": test, "bench": bench}[known.command](venv, rest)


if __name__ == "__main__":
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"dev.py needs Python {OLDEST[0]}.{OLDEST[1]} or newer, this is {found} ({sys.executable}).\n"
            f"Try: python3.11 dev.py {' '.join(sys.argv[1:])}"
        )
    try:
        sys.exit(main(sys.argv[1:]))
    except Stop as problem:
        sys.exit(f"dev.py: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
