"""Parts of entries: by the numbers of the model, by branch, by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wanlab.core.index import Index, holds, index, positions
from wanlab.core.label import Label, RecordError, short
from wanlab.core.nearest import suggestion
from wanlab.core.select import AXIS_OF

if TYPE_CHECKING:
    from wanlab.core.entry import Entry

LIMITS = {**AXIS_OF, "steps": "s"}


def part_of(entry: Entry, branch: Any, words: Any, limits: Mapping[str, Any]) -> Entry:
    """See `Entry.take`."""
    part = entry
    if words is not None and branch is None and "branch" in entry.axes:
        branch = "cond"
    if branch is not None:
        part = _branch(part, branch)
    for key, value in limits.items():
        if LIMITS.get(key) not in entry.axes:
            has = [other for other, axis in LIMITS.items() if axis in entry.axes] + ["branch"] * ("branch" in entry.axes)
            raise RecordError(f"{entry.site or 'the entry'} has axes '{' '.join(entry.axes)}': no {key!r} to take"
                              f"{suggestion(key, has)}")
        asked = index(value, key)
        if asked is not None:
            axis = LIMITS[key]
            labels = part.coords.get(axis, range(part.sizes[axis]))
            full = part.full.get(axis, None if axis in part.coords else part.sizes[axis])
            part = at_positions(part, axis, _held(labels, asked, full, f"{entry.site}: {key}" if entry.site else key), full)
    return part if words is None else _words(part, [words] if isinstance(words, str) else list(words))


def _branch(entry: Entry, asked: Any) -> Entry:
    names = [asked] if isinstance(asked, str) else list(asked)
    held = entry.coords.get("branch", ()) if "branch" in entry.axes else (entry.coords.get("branch"),)
    for name in names:
        if name not in held:
            told = ", ".join(one for one in held if one) or "none"
            raise RecordError(f"{entry.site or 'the entry'} is not held for branch {name!r}; it has {told}")
    if "branch" not in entry.axes:
        return entry
    part = at_positions(entry, "branch", [held.index(name) for name in names], None)
    return dropped(part, "branch") if len(names) == 1 else part


def dropped(entry: Entry, axis: str) -> Entry:
    """The entry without an axis of length 1; its position stays as a single coordinate."""
    at = entry.axes.index(axis)
    coords = {**entry.coords, axis: entry.coords.get(axis, (0,))[0]}
    labels = {name: Label(tuple(one for one in label.axes if one != axis),
                          label.values.take(0, label.axes.index(axis)) if axis in label.axes else label.values)
              for name, label in entry.labels.items()}
    full = {name: size for name, size in entry.full.items() if name != axis}
    return replace(entry, tensor=entry.tensor.squeeze(at), axes=(*entry.axes[:at], *entry.axes[at + 1:]), coords=coords,
                   labels=labels, full=full)


def at_positions(entry: Entry, axis: str, kept: list[int], full: int | None) -> Entry:
    """The entry cut to some of the positions along an axis; `full`: how many the model has, where known."""
    at = entry.axes.index(axis)
    tensor = entry.tensor.index_select(at, torch.tensor(kept, device=entry.tensor.device))
    known = entry.coords.get(axis, range(entry.tensor.shape[at]))
    labels = {name: label._replace(values=label.values.take(kept, label.axes.index(axis)))
              if axis in label.axes else label for name, label in entry.labels.items()}
    return replace(entry, tensor=tensor, coords={**entry.coords, axis: tuple(known[i] for i in kept)}, labels=labels,
                   full={**entry.full, **({} if full is None else {axis: full})})


def _words(entry: Entry, words: list[str]) -> Entry:
    if "word" not in entry.labels:
        raise RecordError(f"{entry.site or 'the entry'} holds no prompt's tokens, so there are no words to take")
    label = entry.labels["word"]
    if label.axes[:-1] not in ((), ("b",)):
        raise RecordError(f"{entry.site}: the prompt's tokens differ along {', '.join(label.axes[:-1])}: take one branch")
    rows = label.values.reshape(-1, label.values.shape[-1])
    kept = [_tokens_of(words, row.tolist(), i if len(rows) > 1 else None) for i, row in enumerate(rows)]
    axis = label.axes[-1]
    if all(tokens == kept[0] for tokens in kept):
        return at_positions(entry, axis, kept[0], entry.full.get(axis, None if axis in entry.coords else entry.sizes[axis]))
    if len({len(tokens) for tokens in kept}) > 1:
        told = ", ".join(f"{len(tokens)} in row {i}" for i, tokens in enumerate(kept))
        raise RecordError(f"{entry.site}: the words {', '.join(words)} have different numbers of tokens ({told}): "
                          "take one row (rows=0)")
    return _words_by_row(entry, axis, kept, rows)


def _words_by_row(entry: Entry, axis: str, kept: list[list[int]], rows: np.ndarray) -> Entry:
    """As many tokens in each row, but others: the axis counts them, and label `token` says where they stood."""
    at, b = entry.axes.index(axis), entry.axes.index("b")
    parts = [entry.tensor.narrow(b, row, 1).index_select(at, torch.tensor(tokens, device=entry.tensor.device))
             for row, tokens in enumerate(kept)]
    known = entry.coords.get(axis, range(entry.tensor.shape[at]))
    labels = {name: label for name, label in entry.labels.items() if axis not in label.axes}
    labels["word"] = Label(("b", axis), np.array([row[tokens] for row, tokens in zip(rows, kept, strict=True)]))
    labels["token"] = Label(("b", axis), np.array([[known[i] for i in tokens] for tokens in kept]))
    return replace(entry, tensor=torch.cat(parts, b), labels=labels,
                   coords={name: value for name, value in entry.coords.items() if name != axis},
                   full={name: size for name, size in entry.full.items() if name != axis})


def _held(labels: Sequence[int], asked: Index, full: int | None, what: str) -> list[int]:
    """Where among `labels` the asked positions stand. One that is not there raises."""
    wanted = None if full is None else set(positions(asked, full, what))
    found = [i for i, one in enumerate(labels) if (one in wanted if wanted is not None else holds(asked, one, None, what))]
    single = [one if one >= 0 or full is None else one % full for one in asked if isinstance(one, int)]
    missing = [one for one in single if one not in labels]
    if missing or not found:
        told = ", ".join(map(str, missing)) or ", ".join(map(str, asked))
        raise RecordError(f"{what}={told} is not held; there are {short(tuple(labels))}")
    return found


def _tokens_of(words: list[str], row: list[str], number: int | None) -> list[int]:
    """Positions of the words' tokens in one row of labels; a word that is not there raises with those that are."""
    found: set[int] = set()
    for word in words:
        exact = [i for i, one in enumerate(row) if one == word and one]
        at = exact or [i for i, one in enumerate(row) if one.casefold() == word.casefold() and one]
        if not at:
            has = list(dict.fromkeys(filter(None, row)))
            raise RecordError(f"no word {word!r}{'' if number is None else f' in row {number}'}{suggestion(word, has)}; "
                              f"held: {' '.join(has)}")
        found.update(at)
    return sorted(found)
