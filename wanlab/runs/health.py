"""`wanlab doctor`: is this installation sound, and do edits and records do what they say on this pipeline?"""

from __future__ import annotations

import importlib.util
import platform
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .environment import PACKAGES, commit, device_class, pick_device, version_of
from .finite import find_nonfinite, non_finite_weights
from .soundness import Check, Soundness

COLOURS = {"ok": "green", "note": "yellow", "bad": "bold red"}
Told = Callable[[str], None]


class Unsound(RuntimeError):
    """Checks that failed; the message names them."""


def examine(pipeline: str, device: str, init: str | None, console: Console, errors: Console) -> None:
    """Print every check as it is made. Raises Unsound where one is bad."""
    _show(console, errors, lambda told: checks(pipeline, device, init, told))


def search(pipeline: str, device: str, init: str | None, console: Console, errors: Console, given: dict[str, Any]) -> None:
    """Generate what `given` says (image, prompt, seed, steps); print where NaN or infinity first passes, and raise Unsound."""
    def found(told: Told) -> Iterator[Check]:
        for one in _loaded(pipeline, pick_device(device), init, told):
            if isinstance(one, Check):
                yield one
                continue
            told("every site for NaN and infinity")
            seen = find_nonfinite(one, **given)
            yield Check("bad" if seen else "ok", "finite", str(seen))

    _show(console, errors, found)


def _show(console: Console, errors: Console, made: Callable[[Told], Iterator[Check]]) -> None:
    """The checks in columns, with what is being checked on the line below while it takes its time."""
    start, seen = time.monotonic(), []
    screen = console if console.is_terminal else errors     # one that knows where the cursor is
    with screen.status("", spinner="line") as status:
        for one in made(lambda text: status.update(f"checking: {text}")):
            line = Table.grid(padding=(0, 2, 0, 0))
            for width in (4, 20, max(20, console.width - 30)):
                line.add_column(width=width, overflow="fold")
            line.add_row(f"[{COLOURS[one.state]}]{one.state}[/]", escape(one.what), escape(one.seen))
            console.print(line, highlight=False)
            seen.append(one)
    bad = [one.what.strip() for one in seen if one.state == "bad"]
    if bad:
        raise Unsound(f"{len(bad)} of {len(seen)} checks failed: {', '.join(bad)}")
    notes = sum(one.state == "note" for one in seen)
    console.print(f"[bold green]sound[/]  {len(seen)} checks{f', {notes} notes' if notes else ''}, "
                  f"{time.monotonic() - start:.0f} s", highlight=False)


def checks(pipeline: str, device: str, init: str | None, told: Told) -> Iterator[Check]:
    """All checks, one after the other; a later one does not run where it cannot. `told` hears what comes next."""
    told("packages")
    yield from _installed()
    where = pick_device(device)
    yield Check("ok", "device", f"{device_class(where)}; threads of torch: {torch.get_num_threads()}")
    told("metrics")
    yield _metrics_door()
    for one in _loaded(pipeline, where, init, told):
        if isinstance(one, Check):
            yield one
        else:
            told("sites")
            yield from Soundness(one).checks(told)


def _installed() -> Iterator[Check]:
    place = version_of("wanlab") or "not installed, running from source"
    yield Check("ok", "wanlab", place + (f", commit {commit()}" if commit() else "") + f"; Python {platform.python_version()}")
    missing = [name for name in PACKAGES if version_of(name) is None]
    present = ", ".join(f"{name} {version_of(name)}" for name in PACKAGES)
    yield Check("bad" if missing else "ok", "packages", f"missing: {', '.join(missing)}" if missing else present)
    if all(importlib.util.find_spec(name) is not None for name in ("ray", "jupyterlab")):
        yield Check("note", "ray and jupyterlab", "both are installed: JupyterLab beside Ray can keep Ray from starting on a busy "
                                                  "machine; give Ray an environment of its own")


def _metrics_door() -> Check:
    from wanlab import measure

    try:
        known = measure.available()
        shipped = measure.resolve([name for name, info in known.items() if not info.weights])
    except (ImportError, OSError, ValueError, LookupError, RuntimeError) as error:
        return Check("bad", "metrics", str(error))
    networks = sorted({part for m in shipped for part in m.name.rstrip("]").split("|") if part.startswith("net:")})
    return Check("ok", "metrics", f"{len(shipped)} with what ships ({', '.join(networks)}), "
                                  f"{len(known) - len(shipped)} more with files of yours")


def _loaded(pipeline: str, device: str, init: str | None, told: Told) -> Iterator[Any]:
    """The checks of loading, and last the pipeline, where there is one."""
    told(f"pipeline {pipeline}")
    try:
        from wanlab.pipelines.load import load

        pipe = load(pipeline, init=init).to(device)
    except (LookupError, ValueError, RuntimeError, OSError) as error:
        yield Check("bad", "pipeline", str(error))
        return
    told("weights")
    spoilt = non_finite_weights(pipe)
    verified = "random weights" if init else "every file of weights as its sha256 says"
    yield Check("ok", "pipeline", f"{pipeline}: {sum(p.numel() for p in pipe.parameters()):,} parameters; {verified}")
    yield Check("bad" if spoilt else "ok", "weights", f"NaN or infinity in {', '.join(spoilt[:3])}" if spoilt else
                ", ".join(f"{node.name} {node.weights_hash[:12]}" for node in pipe.nodes))
    yield pipe
