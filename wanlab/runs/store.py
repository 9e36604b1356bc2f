"""The run folder: the truth about a study. Everything is written under a temporary name and renamed; DONE comes last.

    NAME/
      study.yaml            the resolved study with its hash
      environment.json      of the last run: versions, commit, device, weights, the keys of its cells
      attempts.jsonl        one line when a run begins and one when it ends: who, on how many stage runs
      reference/            the true clips of the shown samples (where there is truth), DONE last: how many, of which data
      cells/<key>/          cell.yaml  samples.parquet  features.safetensors  videos/*.mp4  attempts.jsonl  DONE
                            parts/*.safetensors while the cell is under way: one file per finished batch
      results.csv           one row per cell and metric
      report/               report.html  table.tex  table.csv  figures/

DONE holds the checksum of every result file of the cell, so a truncated file is noticed and the cell runs again.
`attempts.jsonl` is a log (times differ from run to run); everything else that a cell holds has the same bytes however the
run went, on whichever engine, in however many shards.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from wanlab.graph import digest, file_digest

from .differences import differing
from .document import StudyError
from .files import RunFolderError, append, from_yaml, sweep, to_yaml, write, write_text
from .lock import alone, held
from .logs import now, records, speaks
from .shard import Shard
from .spec import Study, settings

COLUMNS = ("index", "unit", "prompt", "seed", "metric", "value")  # of samples.parquet
SHOWN = 8  # differences between two studies that a message names


@dataclass
class Part:
    """What one cell gave for one batch of rows (r rows).

    index, seed: r integers each; unit, prompt: r texts; values: metric name -> r numbers (NaN: does not apply);
    features: name -> tensor (r, d) float32; videos: file name -> the bytes of an mp4 file, to look at.
    """

    index: list[int]
    seed: list[int]
    unit: list[str]
    prompt: list[str]
    values: dict[str, list[float]]
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    videos: dict[str, bytes] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)


class CellFolder:
    """The folder of one cell."""

    def __init__(self, root: Path):
        self.root = root
        self._tries: Counter[int] | None = None

    @property
    def done(self) -> bool:
        """Whether the cell is finished and each of its files still has the checksum that DONE states."""
        try:
            sums = json.loads((self.root / "DONE").read_text())
            return all(file_digest(self.root / name) == value for name, value in sums.items())
        except (OSError, ValueError, AttributeError, RecursionError):
            return False

    def has(self, chunk: int) -> bool:
        """Whether the rows of this batch are saved, as a part or in a finished cell (files are not checked)."""
        return self._part(chunk).exists() or (self.root / "DONE").exists()

    def save(self, chunk: int, part: Part) -> None:
        """Keep the rows of one batch: videos first, the part file last."""
        for name, video in part.videos.items():
            write(self.root / "videos" / name, lambda temporary, video=video: temporary.write_bytes(video))
        tensors = {f"features/{name}": value.contiguous() for name, value in part.features.items()}
        tensors |= {f"values/{name}": torch.tensor(value, dtype=torch.float64) for name, value in part.values.items()}
        tensors |= {"index": torch.tensor(part.index), "seed": torch.tensor(part.seed)}
        words = json.dumps({"unit": part.unit, "prompt": part.prompt, "metrics": list(part.values)})
        write(self._part(chunk), lambda temporary: save_file(tensors, temporary, metadata={"words": words}))
        self.log({"chunk": chunk, "state": "ok", **part.log})

    def load(self, chunk: int) -> Part | None:
        """The rows of one batch, or None where the file is missing or damaged (then it is removed)."""
        path = self._part(chunk)
        try:
            with safe_open(path, framework="pt") as file:
                words = json.loads(file.metadata()["words"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            path.unlink(missing_ok=True)
            return None
        return Part(
            tensors["index"].tolist(),
            tensors["seed"].tolist(),
            words["unit"],
            words["prompt"],
            {name: tensors[f"values/{name}"].tolist() for name in words["metrics"]},
            {name.removeprefix("features/"): value for name, value in tensors.items() if name.startswith("features/")},
        )

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to attempts.jsonl, with the time and the number of this attempt at its batch."""
        if self._tries is None:
            self._tries = Counter(line["chunk"] for line in self.attempts())
        self._tries[record["chunk"]] += 1
        line = json.dumps({"time": now(), "attempt": self._tries[record["chunk"]], **record})
        with alone(self.root / ".lock"):
            append(self.root / "attempts.jsonl", line)

    def attempts(self) -> list[dict[str, Any]]:
        """The lines of attempts.jsonl that speak of a batch; one that a kill cut off is left out."""
        return [line for line in records(self.root / "attempts.jsonl") if speaks(line)]

    def finish(self, description: Mapping[str, Any], chunks: int) -> bool:
        """Join the parts into the result files, write DONE, remove the parts; one process does it where several want to.

        Returns False where a part turned out to be missing or damaged: that batch has to run again.
        """
        with alone(self.root / ".lock"):
            whole = all(self._part(chunk).exists() for chunk in range(chunks))
            if not (self.root / "DONE").exists() and not (whole and self._join(description, chunks)):
                return False
            shutil.rmtree(self.root / "parts", ignore_errors=True)
            (self.root / ".lock").unlink(missing_ok=True)
        return True

    def _join(self, description: Mapping[str, Any], chunks: int) -> bool:
        parts = [part for chunk in range(chunks) if (part := self.load(chunk)) is not None]
        if len(parts) < chunks:
            return False
        sweep(self.root)
        write_text(self.root / "cell.yaml", to_yaml(dict(description)))
        write(self.root / "samples.parquet", lambda temporary: _write_table(parts, temporary))
        features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
        features |= {
            "index": torch.tensor([i for part in parts for i in part.index]),
            "seed": torch.tensor([s for part in parts for s in part.seed]),
        }
        write(self.root / "features.safetensors", lambda temporary: save_file(features, temporary))
        names = ["cell.yaml", "samples.parquet", "features.safetensors"]
        names += sorted(f"videos/{file.name}" for file in (self.root / "videos").glob("[!.]*.mp4"))
        sums = {name: file_digest(self.root / name) for name in names}
        write_text(self.root / "DONE", json.dumps(sums, indent=1) + "\n")
        return True

    def repair(self) -> bool:
        """Whether the cell is finished. Drops damaged results of a finished cell, so that it runs again (its log stays), and
        what a kill just after DONE left beside it."""
        if not (self.root / "DONE").exists():
            return False
        with alone(self.root / ".lock"):
            done = self.done
            if done:
                shutil.rmtree(self.root / "parts", ignore_errors=True)
                (self.root / ".lock").unlink(missing_ok=True)
            else:
                for name in ("DONE", "samples.parquet", "features.safetensors"):
                    (self.root / name).unlink(missing_ok=True)
        return done

    def description(self) -> dict[str, Any]:
        """What cell.yaml says. Raises RunFolderError where it is damaged, as `samples` and `features` do."""
        with self.whole("cell.yaml"):
            said: dict[str, Any] = from_yaml(self.root / "cell.yaml")
            _demand(said, {"name": str, "metrics": dict, "weights": dict, "sampler": dict})
        return said

    def samples(self) -> dict[str, list[Any]]:
        """The columns of samples.parquet: index, unit, prompt, seed, metric, value; one row per sample and metric."""
        import pyarrow.parquet

        with self.whole("samples.parquet"):
            columns: dict[str, list[Any]] = pyarrow.parquet.read_table(self.root / "samples.parquet").to_pydict()
            _demand(columns, dict.fromkeys(COLUMNS, list))
        return columns

    def features(self) -> dict[str, torch.Tensor]:
        """Per-sample features of the set metrics, with `index` and `seed` of their rows."""
        with self.whole("features.safetensors"):
            with safe_open(self.root / "features.safetensors", framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            _demand(found, {"index": torch.Tensor, "seed": torch.Tensor})
        return found

    @contextlib.contextmanager
    def whole(self, name: str) -> Iterator[None]:
        """Say of a file that cannot be read within the block, or whose rows do not fit, what helps. Raises RunFolderError."""
        try:
            yield
        except (StudyError, SafetensorError, ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
            raise RunFolderError(f"{self.root / name} is damaged, or of another version ({_line(error)}); the command that ran the "
                                 "study makes this cell again, and without its folder the others can be reported") from error

    def _part(self, chunk: int) -> Path:
        return self.root / "parts" / f"{chunk:05d}.safetensors"


class RunFolder:
    """A run folder, opened for one study (`open`) or for reading (the constructor)."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def cell(self, key: str) -> CellFolder:
        """The folder of the cell with this key."""
        return CellFolder(self.root / "cells" / key)

    def study(self) -> Study:
        """The study of this folder. Raises RunFolderError where there is none."""
        stored = self._stored()
        if stored is None:
            raise RunFolderError(f"{self.root} is not a run folder: it has no study.yaml")
        try:
            return Study.model_validate(stored["study"])
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise RunFolderError(f"{self.root / 'study.yaml'} was written by another version of wanlab ({where}: {first['msg']}); "
                                 "that version can report it") from error

    @property
    def begun(self) -> bool:
        """Whether the folder is some study's already."""
        return (self.root / "study.yaml").exists()

    def begin(self, study: Study) -> None:
        """Make the folder this study's."""
        write_text(self.root / "study.yaml", to_yaml({"hash": study.hash, "study": study.resolved()}))

    def finished(self) -> list[CellFolder]:
        """Every finished cell, whichever run made it, the oldest first."""
        done = sorted((self.root / "cells").glob("*/DONE"), key=lambda path: path.stat().st_mtime)
        return [CellFolder(path.parent) for path in done]

    def cells(self) -> dict[str, CellFolder]:
        """The finished cells of the last run by name, in the order of the study; what other code, versions, weights, data or
        threads made before it is not mixed in. Of a folder that does not say which is which, the newest under each name."""
        keys = self.environment().get("cells")
        if keys is None:
            found = {cell.description()["name"]: cell for cell in self.finished()}
        else:
            done = {cell.root.name: cell for cell in self.finished()}
            found = {name: done[key] for name, key in keys.items() if key in done}
        return {name: found[name] for name in self.study().cells if name in found}

    def outdated(self) -> list[str]:
        """The cells that earlier runs have finished and the last one has not."""
        mine, before = self.cells(), set()
        for cell in self.finished():
            with contextlib.suppress(RunFolderError):  # a damaged one, which nobody reads: who needs it makes it again
                before.add(cell.description()["name"])
        return [name for name in self.study().cells if name in before and name not in mine]

    def environment(self) -> dict[str, Any]:
        """What environment.json says, or nothing."""
        path = self.root / "environment.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"code": {}}
            _demand({"cells": {}, **found}, {"code": dict, "cells": dict})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunFolderError(f"{path} is damaged ({_line(error)}): it says with which versions and threads results were made. "
                                 "Put it right, or remove it and say --threads") from error
        return found if path.exists() else {}

    @property
    def threads(self) -> int | None:
        """The torch threads that results of this folder were computed with, if any were."""
        return self.environment().get("threads")

    @contextlib.contextmanager
    def open(self, study: Study, environment: Mapping[str, Any], shard: Shard | None = None) -> Iterator[RunFolder]:
        """Make the folder, or check that it belongs to this study, and keep other runners out (but not the other shards).

        Raises RunFolderError for a folder of another study (both hashes and what differs), a folder that another
        process is running, shards whose results would not fit together, or one that cannot be written.
        """
        self.refuse_strangers(study)
        self.refuse_links()
        with held(self.root, shard) as beside:
            if shard is None:
                sweep(self.root)
            self.begin(study)
            self._settle(dict(environment), beside)
            yield self

    def _settle(self, environment: dict[str, Any], beside: list[str]) -> None:
        """Write environment.json, unless shards are at work in another one."""
        theirs = self.environment() if beside else {}
        if theirs and theirs["code"] != environment["code"]:
            differences = [line for line in differing(theirs, environment) if not line.startswith(("code.", "cells."))]
            raise RunFolderError(
                f"{', '.join(beside)} would not fit together with this one: results depend on the device, the versions and "
                f"the threads. Different: {'; '.join(differences[:SHOWN]) or 'the code of wanlab'}"
            )
        if not theirs:
            write_text(self.root / "environment.json", json.dumps(environment, indent=1, sort_keys=True) + "\n")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line to the attempts.jsonl of the whole run, with the time and the process."""
        line = {"time": now(), "process": os.getpid(), "host": platform.node(), **record}
        with alone(self.root / ".lock-log"):
            append(self.root / "attempts.jsonl", json.dumps(line))

    def attempts(self) -> list[dict[str, Any]]:
        """The runs that this folder has seen: a line each when they began and when they ended (a killed one did not)."""
        return records(self.root / "attempts.jsonl")

    def refuse_strangers(self, study: Study) -> None:
        """Raise RunFolderError for a folder of another study (both hashes and what differs) or one with other files."""
        if self.root.exists() and not self.root.is_dir():
            raise RunFolderError(f"{self.root} is a file, not a folder")
        stored = self._stored()
        if stored is None:
            if self.root.exists() and any(self.root.iterdir()) and not any(self.root.glob(".lock*")):
                raise RunFolderError(f"{self.root} holds other files and no study.yaml: choose another folder with --out")
            return
        if stored["hash"] == study.hash:
            return
        differences = differing(settings(stored["study"]), settings(study.resolved()))
        if len(differences) > SHOWN:
            differences = [*differences[:SHOWN], f"and {len(differences) - SHOWN} more"]
        raise RunFolderError(
            f"{self.root} belongs to another study: its hash is {stored['hash']}, this one's is "
            f"{study.hash}. Different: {'; '.join(differences)}. Choose another folder with --out"
        )

    def refuse_links(self) -> None:
        """Raise RunFolderError for a link that leads out of the folder: what is written or shown stays within it."""
        home = self.root.resolve()
        for folder, folders, files in os.walk(self.root):
            for path in (Path(folder) / name for name in (*folders, *files)):
                if path.is_symlink() and not path.resolve().is_relative_to(home):
                    raise RunFolderError(f"{path} is a link that leads out of {self.root}: remove it, or choose another --out")

    def _stored(self) -> dict[str, Any] | None:
        path = self.root / "study.yaml"
        if not path.exists():
            return None
        try:
            stored: dict[str, Any] = from_yaml(path)
            ours = {"hash", "study"} <= set(stored)
            if ours and stored["hash"] != digest(settings(stored["study"])):
                raise ValueError("its hash does not fit its content")
        except (StudyError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(f"{path} is damaged or edited ({error}); choose another folder with --out") from error
        if not ours:
            raise RunFolderError(f"{path} is a study file, not the record of a run; choose another folder with --out")
        return stored


def _demand(said: Any, kinds: Mapping[str, type]) -> None:
    """Raise ValueError where data is no mapping that holds values of these kinds."""
    for key, kind in kinds.items():
        if not isinstance(said, dict) or not isinstance(said.get(key), kind):
            raise ValueError(f"it has no {key}")


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _write_table(parts: list[Part], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        (part.index[r], part.unit[r], part.prompt[r], part.seed[r], metric, values[r])
        for part in parts
        for r in range(len(part.index))
        for metric, values in part.values.items()
    ]
    kinds = {
        "index": pyarrow.int64(),
        "unit": pyarrow.string(),
        "prompt": pyarrow.string(),
        "seed": pyarrow.int64(),
        "metric": pyarrow.string(),
        "value": pyarrow.float64(),
    }
    columns = [pyarrow.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds.values())]
    pyarrow.parquet.write_table(pyarrow.table(columns, names=list(kinds)), path)
