"""What differs between two pieces of plain data, for messages that say so."""

from __future__ import annotations

import json
from typing import Any


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
