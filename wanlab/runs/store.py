"""The run folder: the truth about a study. Everything is written under a temporary name and renamed; DONE comes last.

    NAME/
      study.yaml            the resolved study with its hash        environment.json   versions, commit, device, weights
      reference/*.mp4       the true clips of the shown samples (where there is truth)
      cells/<key>/          cell.yaml  samples.parquet  features.safetensors  videos/*.mp4  attempts.jsonl  DONE
                            parts/*.safetensors while the cell is under way: one file per finished batch
      results.csv           one row per cell and metric
      report/               report.html  table.tex  table.csv  figures/

DONE holds the checksum of every result file of the cell, so a truncated file is noticed and the cell runs again.
`attempts.jsonl` is a log (times differ from run to run); everything else that a cell holds has the same bytes however the
run went.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from wanlab.graph import digest, file_digest

from .document import StudyError
from .spec import Study, settings

SHOWN = 8  # differences between two studies that a message names


class RunFolderError(ValueError):
    """The run folder cannot be used or written; the message says why and what helps."""


@dataclass
class Part:
    """What one cell gave for one batch of rows (r rows).

    index, seed: r integers each; unit, prompt: r texts; values: metric name -> r numbers (NaN: does not apply);
    features: name -> tensor (r, d) float32; videos: file name -> tensor f c h w, to look at.
    """

    index: list[int]
    seed: list[int]
    unit: list[str]
    prompt: list[str]
    values: dict[str, list[float]]
    features: dict[str, torch.Tensor] = field(default_factory=dict)
    videos: dict[str, torch.Tensor] = field(default_factory=dict)
    log: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C until the write in hand is finished (main thread only; elsewhere Ctrl-C does not arrive)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write a temporary file beside `path`, then rename it. Raises RunFolderError for a full disk."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with uninterrupted():
            path.parent.mkdir(parents=True, exist_ok=True)
            fill(temporary)
            os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; see `write`."""
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def to_yaml(data: Any) -> str:
    """Plain data as YAML text, keys in the order given."""
    stream = StringIO()
    dumper = YAML(typ="safe", pure=True)
    dumper.default_flow_style = False
    dumper.sort_base_mapping_type_on_output = False
    dumper.width = 110
    dumper.dump(data, stream)
    return stream.getvalue()


def from_yaml(path: Path) -> Any:
    """The data of a YAML file that wanlab wrote."""
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def _explained(error: BaseException, path: Path) -> RunFolderError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        free = shutil.disk_usage(path.parent if path.parent.exists() else path.anchor).free / 1024**2
        return RunFolderError(
            f"the disk is full ({free:.0f} MiB free) while writing {path}. Nothing finished is lost: "
            "make room and give the same command again, it goes on where it stopped"
        )
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        reason = getattr(error, "strerror", None) or error
        return RunFolderError(f"{path.parent} cannot be written to ({reason}); choose another folder with --out")
    return RunFolderError(f"writing {path} failed: {error}")


class CellFolder:
    """The folder of one cell."""

    def __init__(self, root: Path):
        self.root = root

    @property
    def done(self) -> bool:
        """Whether the cell is finished and each of its files still has the checksum that DONE states."""
        try:
            sums = json.loads((self.root / "DONE").read_text())
            return all(file_digest(self.root / name) == value for name, value in sums.items())
        except (OSError, ValueError, AttributeError):
            return False

    def has_part(self, chunk: int) -> bool:
        """Whether the rows of this batch are saved."""
        return self._part(chunk).exists()

    def save(self, chunk: int, part: Part, fps: float) -> None:
        """Keep the rows of one batch: videos first, the part file last."""
        from wanlab.data.folder import write_video

        for name, video in part.videos.items():
            write(self.root / "videos" / name, lambda temporary, video=video: write_video(temporary, video, fps=fps))
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
        """Append one line to attempts.jsonl."""
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **record})
        try:
            with uninterrupted():
                self.root.mkdir(parents=True, exist_ok=True)
                with open(self.root / "attempts.jsonl", "a", encoding="utf-8") as stream:
                    stream.write(line + "\n")
        except OSError as error:
            raise _explained(error, self.root / "attempts.jsonl") from error

    def attempts(self) -> list[dict[str, Any]]:
        """The lines of attempts.jsonl; a last line that a kill cut off is left out."""
        path, records = self.root / "attempts.jsonl", []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return records

    def finish(self, description: Mapping[str, Any], chunks: int) -> bool:
        """Join the parts into the result files, write DONE, remove the parts.

        Returns False where a part turned out to be missing or damaged: that batch has to run again.
        """
        parts = [self.load(chunk) for chunk in range(chunks)]
        if any(part is None for part in parts):
            return False
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
        shutil.rmtree(self.root / "parts", ignore_errors=True)
        return True

    def reset(self) -> None:
        """Drop what a damaged cell holds (its log stays)."""
        (self.root / "DONE").unlink(missing_ok=True)
        for name in ("samples.parquet", "features.safetensors"):
            (self.root / name).unlink(missing_ok=True)

    def description(self) -> dict[str, Any]:
        """What cell.yaml says."""
        return from_yaml(self.root / "cell.yaml")

    def samples(self) -> dict[str, list[Any]]:
        """The columns of samples.parquet: index, unit, prompt, seed, metric, value; one row per sample and metric."""
        import pyarrow.parquet

        return pyarrow.parquet.read_table(self.root / "samples.parquet").to_pydict()

    def features(self) -> dict[str, torch.Tensor]:
        """Per-sample features of the set metrics, with `index` and `seed` of their rows."""
        with safe_open(self.root / "features.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)

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
        return Study.model_validate(stored["study"])

    def cells(self) -> dict[str, CellFolder]:
        """The finished cells by name, in the order of the study; of several under one name, the newest."""
        found: dict[str, tuple[float, CellFolder]] = {}
        for path in (self.root / "cells").glob("*/DONE"):
            folder = CellFolder(path.parent)
            name, written = folder.description()["name"], path.stat().st_mtime
            if name not in found or written > found[name][0]:
                found[name] = (written, folder)
        return {name: found[name][1] for name in self.study().cells if name in found}

    def environment(self) -> dict[str, Any]:
        """What environment.json says, or nothing."""
        path = self.root / "environment.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @contextlib.contextmanager
    def open(self, study: Study, environment: Mapping[str, Any]) -> Iterator[RunFolder]:
        """Make the folder, or check that it belongs to this study, and keep other runners out.

        Raises RunFolderError for a folder of another study (both hashes and what differs), a folder that another
        process is running, or one that cannot be written.
        """
        self.refuse_strangers(study)
        with self._locked():
            for left in self.root.rglob(".*.part*"):  # of a writer that was killed
                left.unlink(missing_ok=True)
            write_text(self.root / "study.yaml", to_yaml({"hash": study.hash, "study": study.resolved()}))
            write_text(self.root / "environment.json", json.dumps(dict(environment), indent=1, sort_keys=True) + "\n")
            yield self

    def refuse_strangers(self, study: Study) -> None:
        """Raise RunFolderError for a folder of another study (both hashes and what differs) or one with other files."""
        if self.root.exists() and not self.root.is_dir():
            raise RunFolderError(f"{self.root} is a file, not a folder")
        stored = self._stored()
        if stored is None:
            if self.root.exists() and any(self.root.iterdir()) and not (self.root / ".lock").exists():
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

    def _stored(self) -> dict[str, Any] | None:
        path = self.root / "study.yaml"
        if not path.exists():
            return None
        try:
            stored = from_yaml(path)
            if stored["hash"] != digest(settings(stored["study"])):
                raise ValueError("its hash does not fit its content")
        except (StudyError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path} is damaged or edited ({error}); choose another folder with --out") from error
        return stored

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.root / ".lock"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            stream = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed below, after the lock)
        except OSError as error:
            raise _explained(error, path) from error
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                stream.seek(0)
                raise RunFolderError(
                    f"{self.root} is being run by process {stream.read().strip() or '?'}; wait for it "
                    "or choose another folder with --out"
                ) from None
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
            yield


def differing(old: Any, new: Any, path: str = "") -> list[str]:
    """What differs between two pieces of plain data: 'a.b: 1 -> 2'."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in [*old, *(k for k in new if k not in old)]
            for line in differing(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [f"{path}: {_brief(old)} -> {_brief(new)}"]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


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
