"""`wanlab doctor`: is this installation sound, and does an identity edit change nothing?"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from .environment import PACKAGES, commit, device_class, pick_device, version_of

Check = tuple[str, str, str]  # "ok", "note" or "bad"; what; what was seen


def examine(pipeline: str, device: str, random_weights: bool, console: Console) -> bool:
    """Print every check; True where none is bad."""
    colours = {"ok": "green", "note": "yellow", "bad": "red"}
    sound = True
    for state, what, seen in checks(pipeline, device, random_weights):
        console.print(f"[{colours[state]}]{state:<5}[/] {what:<22} {escape(seen)}", highlight=False, soft_wrap=True)
        sound &= state != "bad"
    return sound


def checks(pipeline: str, device: str, random_weights: bool) -> Iterator[Check]:
    """All checks, one after the other; a later one does not run where it cannot."""
    yield (
        "ok",
        "wanlab",
        f"{version_of('wanlab') or 'not installed, running from source'}" + (f", commit {commit()}" if commit() else ""),
    )
    missing = [name for name in PACKAGES if version_of(name) is None]
    yield (
        ("bad" if missing else "ok"),
        "packages",
        (f"missing: {', '.join(missing)}" if missing else ", ".join(f"{n} {version_of(n)}" for n in PACKAGES[:4]) + ", …"),
    )
    where = pick_device(device)
    yield "ok", "device", f"{device_class(where)}, {torch.get_num_threads()} threads"
    if all(importlib.util.find_spec(name) is not None for name in ("ray", "jupyterlab")):
        yield (
            "note",
            "ray and jupyterlab",
            "both are installed: JupyterLab beside Ray can keep Ray from starting on a busy machine; "
            "give Ray an environment of its own",
        )
    yield _metrics_door()
    try:
        from wanlab.pipelines.load import load

        pipe = load(pipeline, init="random" if random_weights else None).to(where)
    except (LookupError, ValueError, RuntimeError, OSError) as error:
        yield "bad", f"pipeline {pipeline}", str(error)
        return
    yield (
        "ok",
        f"pipeline {pipeline}",
        f"weights {pipe.weights_hash[:12]}, every file as its sha256 says" if not random_weights else "random",
    )
    for node in pipe.nodes:
        yield "ok", f"  {node.name}", node.weights_hash[:12]
    yield from _identity(pipe)


def _metrics_door() -> Check:
    from wanlab import measure

    try:
        measures = measure.resolve(list(measure.available()))
    except (ImportError, OSError, ValueError, LookupError, RuntimeError) as error:
        return "bad", "metrics", str(error)
    return "ok", "metrics", ", ".join(m.name for m in measures if "net:" in m.name)


def _identity(pipe: Any) -> Iterator[Check]:
    """An identity edit at every site must give the same bytes, and nothing may be left behind."""
    from wanlab.core import Identity

    pattern = "{" + ",".join(f"{stage}.**" for node in pipe.nodes for stage in node.stages) + "}"  # all that sampling runs
    found = pipe.sites(pattern)
    before = {name: value.clone() for name, value in pipe.state_dict().items()}
    plain = pipe.generate(None, "", seed=0, steps=2).video
    edited = pipe.generate(None, "", seed=0, steps=2, edits=[Identity(pattern)]).video
    same = torch.equal(plain, edited)
    yield (
        ("ok" if same else "bad"),
        "identity edits",
        (
            f"bit-identical video with {len(found)} sites edited"
            if same
            else f"the video differs by up to {(plain - edited).abs().max():.3g}"
        ),
    )
    finite = bool(torch.isfinite(plain).all())
    yield ("ok" if finite else "bad"), "finite", "no NaN in the video" if finite else "the video holds NaN or infinity"
    after = pipe.state_dict()
    kept = before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    hooks = [name for name, module in pipe.named_modules() if module._forward_hooks or module._forward_pre_hooks]
    yield (
        ("ok" if kept and not hooks else "bad"),
        "nothing left behind",
        "weights unchanged, no hooks"
        if kept and not hooks
        else (f"hooks at {', '.join(hooks[:3])}" if hooks else "weights changed"),
    )
