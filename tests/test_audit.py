""".ci/audit.py: what counts as a finding, what as silence of the service, and what an allow-list may say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SILENT = "Traceback (most recent call last):\nrequests.exceptions.ConnectionError: HTTPSConnectionPool(host='service'): no route"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(*dependencies: dict[str, Any]) -> str:
    """What pip-audit prints with --format json."""
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


SOUND = {"name": "einops", "version": "0.8.1", "vulns": []}
FLAWED = {"name": "pillow", "version": "11.0", "vulns": [
    {"id": "PYSEC-2026-1", "fix_versions": ["11.1"], "aliases": ["CVE-2026-1"], "description": "a buffer"}]}  # fmt: skip
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.11)"}


def test_a_flaw_that_nobody_explains_fails(audit: ModuleType) -> None:
    outcome, said = audit.verdict(answer(SOUND, FLAWED), "", {})
    assert outcome == "FAILED" and "pillow 11.0: PYSEC-2026-1, fixed in 11.1" in said


@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-1"])
def test_an_explained_one_passes_by_any_of_its_names(audit: ModuleType, name: str) -> None:
    outcome, said = audit.verdict(answer(FLAWED), "", {name: "only TIFF files, which are not read"})
    assert outcome == "passed" and "only TIFF files" in said[-1]


def test_a_service_that_is_silent_or_knows_nothing_is_said_and_is_no_pass(audit: ModuleType) -> None:
    for told in (audit.verdict("", SILENT, {}), audit.verdict(answer(UNKNOWN), "", {})):
        assert told[0] == "skipped" and "was audited" in told[1][0]
    outcome, said = audit.verdict(answer(SOUND, UNKNOWN), "", {})
    assert outcome == "passed" and said[0] == "1 packages audited, 1 skipped" and "torch" in said[1]


def test_any_other_trouble_of_the_tool_fails(audit: ModuleType) -> None:
    assert audit.verdict("", "pip-audit: error: unrecognized arguments: --offline", {})[0] == "FAILED"
    assert audit.verdict("", "", {})[0] == "FAILED"


def test_the_allow_list_wants_a_reason(audit: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "allowed.txt"
    file.write_text("# heading\n\nCVE-1  # only on Windows, where this does not run\n")
    assert audit.allowed(file) == {"CVE-1": "only on Windows, where this does not run"}
    file.write_text("CVE-1\n")
    with pytest.raises(ValueError, match=r"allowed\.txt:1: expected"):
        audit.allowed(file)
    assert isinstance(audit.allowed(ROOT / ".ci" / "vulnerabilities.txt"), dict)


def test_every_pin_is_asked_about(audit: ModuleType) -> None:
    pins = audit.pins(ROOT / "constraints.txt")
    assert len(pins) > 200 and any(pin.startswith("torch==") for pin in pins)
