"""Prompts of any letters and length, and command lines of any bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.hostile.cases import LONGEST, answer, every, full
from wanlab.pipelines.load import load
from wanlab.pipelines.request import STEPS
from wanlab.stages.prompt import PromptWarning

ODD = [
    "",
    " ",
    "\n",
    "\0",
    "a\0b",
    "\ud800",
    "a \udcff b",
    "\u202egnp.exe",
    "<script>alert(1)</script>",
    "a " * 50_000,
    "x" * 100_000,
    "\u200b" * 99,
    "\U0001f600" * 50,
    "e\u0301" * 50,
    "[/bold]",
    "{{7*7}}",
    "%s%n",
    "a red circle moves left",
    "\ufeffa",
    "'; drop",
    "${HOME}",
    "\x1b[31m",
    "ﷺ" * 20,
]


@full
def test_prompts(whole: bool) -> None:
    pipe = load("tiny")

    def case(prompt: str) -> None:
        def text() -> object:
            pipe.unknown_words(prompt)
            return pipe.run_node("text", {}, pipe.request(None, prompt, 0, steps=1))

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            answer(text, ValueError)
        assert all(issubclass(one.category, PromptWarning) and len(str(one.message)) <= LONGEST for one in told), told

    every("prompts", whole, st.sampled_from(ODD) | st.text(max_size=200), case)


def test_a_prompt_that_is_no_text_and_numbers_that_mean_nothing_are_told() -> None:
    pipe = load("tiny", init="meta")
    for given, expected in (
        ({"prompt": "a \udcff"}, "holds U\\+DCFF, which is no text"),
        ({"steps": 10**9}, f"at most {STEPS:,}, got 1,000,000,000"),
        ({"guidance": float("nan")}, "guidance must be a finite number, got nan"),
        ({"seed": 2**64}, "a seed is a whole number"),
        ({"seed": -1}, "a seed is a whole number from 0"),
    ):
        settings = {"prompt": "a", "seed": 0, "steps": 1} | given
        with pytest.raises(ValueError, match=expected):
            pipe.request(None, settings.pop("prompt"), settings.pop("seed"), **settings)


@pytest.mark.slow
def test_names_that_are_no_text_are_told_on_a_strict_terminal(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.yaml"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    for command in ([b"plan", name], [b"report", name]):
        ended = subprocess.run([sys.executable, "-m", "wanlab", *command], capture_output=True, env=environment, cwd=tmp_path)
        said = (ended.stdout + ended.stderr).decode()
        assert ended.returncode == 2 and "caf\\udce9.yaml" in said and "Traceback" not in said, said
