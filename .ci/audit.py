#!/usr/bin/env python3
"""bandit over the packages and pip-audit over constraints.txt; ends with 1 on any finding that no allow-list explains.

    python3.11 dev.py audit        makes an environment for both tools and calls this

The allow-lists, each line with its reason: .ci/bandit.yaml, .ci/vulnerabilities.txt; a single place by `# nosec RULE` under its
reason. pip-audit asks the OSV service about every pinned version. Where the service does not answer, nothing was audited: that is
said in so many words and is no failure, as it says nothing about the packages.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def pins(constraints: Path) -> list[str]:
    """`name==version` of each pin."""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if "==" in line and not line.startswith("#")]


def allowed(file: Path) -> dict[str, str]:
    """Id of a known vulnerability -> why it does not matter here. Raises ValueError for a line without a reason."""
    found = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            told = re.fullmatch(r"(\S+)\s+# (.{20,})", line)
            if told is None:
                raise ValueError(f"{file}:{number}: expected `ID  # why it does not matter here`, got {line!r}")
            found[told[1]] = told[2]
    return found


def verdict(answer: str, complaints: str, known: dict[str, str]) -> tuple[str, list[str]]:
    """("passed", "skipped" or "FAILED", what to say) from what pip-audit wrote; no JSON where its service was silent."""
    try:
        dependencies = json.loads(answer)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        last = (complaints.strip().splitlines() or ["it said nothing"])[-1]
        if not re.search(r"(Connection|Connect|Timeout|Service|HTTP)\w*(Error|Exception)?\b", last):
            return "FAILED", [f"pip-audit failed: {last}"]
        return "skipped", [f"the vulnerability service did not answer, no package was audited ({last[:200]})"]
    asked = [one for one in dependencies if "skip_reason" not in one]
    skipped = [f"{one['name']}: {one['skip_reason']}" for one in dependencies if "skip_reason" in one]
    said = [f"not audited: {line}" for line in skipped[:5]] + ([f"... and {len(skipped) - 5} more"] if len(skipped) > 5 else [])
    if not asked:
        return "skipped", ["the vulnerability service knows none of the packages, so none was audited", *said]
    fails = False
    for one in asked:
        for found in one["vulns"]:
            reason = next((known[name] for name in (found["id"], *found.get("aliases", [])) if name in known), None)
            fails = fails or reason is None
            fixed = ", ".join(found.get("fix_versions", [])) or "no version"
            allowance = f" (allowed: {reason})" if reason else ""
            said.append(f"{one['name']} {one['version']}: {found['id']}, fixed in {fixed}{allowance}")
    return "FAILED" if fails else "passed", [f"{len(asked)} packages audited, {len(skipped)} skipped", *said]


def bandit() -> str:
    """FAILED where bandit finds anything beside what its allow-list names."""
    command = [str(BIN / "bandit"), "--quiet", "--recursive", "wanlab", "metrics", "--configfile", ".ci/bandit.yaml"]
    return "FAILED" if subprocess.run(command, cwd=ROOT).returncode else "passed"


def pip_audit(arguments: list[str]) -> str:
    """FAILED where a pinned version has a vulnerability that the allow-list does not name, skipped where nobody could be asked."""
    known = allowed(ROOT / ".ci" / "vulnerabilities.txt")
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text("\n".join(pins(ROOT / "constraints.txt")) + "\n")
        command = [str(BIN / "pip-audit"), "--vulnerability-service", "osv", "--requirement", str(wanted), "--no-deps",
                   "--disable-pip", "--format", "json", "--progress-spinner", "off", *arguments]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    outcome, said = verdict(answer.stdout, answer.stderr, known)
    print("\n".join(said))
    return outcome


def main(arguments: list[str]) -> int:
    """Both checks, whatever the first one found; arguments go to pip-audit."""
    outcomes = []
    for name, check in {"bandit": bandit, "pip-audit": lambda: pip_audit(arguments)}.items():
        print(f"== {name}", flush=True)
        outcomes.append(check())
        print(f"{name}: {outcomes[-1]}", flush=True)
    return 1 if "FAILED" in outcomes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
