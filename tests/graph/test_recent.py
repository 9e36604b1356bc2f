"""Values by key with a limit in bytes: what stays and what goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanlab.graph.recent import Recent


def test_what_was_used_longest_ago_goes_first() -> None:
    recent: Recent[str] = Recent(10)
    for key, size in (("a", 4), ("b", 3), ("c", 3)):
        recent.put(key, key.upper(), size)
    assert recent.get("a") == "A"
    recent.put("d", "D", 5)  # b and c make room, a was just asked for
    assert [key in recent for key in "abcd"] == [True, False, False, True]
    assert recent.used == 9 and recent.dropped == 2
    recent.put("large", "L", 11)
    assert "large" not in recent and recent.used == 9
    recent.put("a", "another", 1)
    assert recent.get("a") == "A"
    recent.drop("a")
    recent.drop("never there")
    assert recent.get("a") is None and recent.used == 5
    with pytest.raises(ValueError, match="at least 0 bytes, got -1"):
        Recent(-1)


def test_spare_values_take_room_from_nobody_and_go_before_all_others() -> None:
    recent: Recent[int] = Recent(10)
    recent.put("state", 0, 4)
    for number in range(5):
        recent.put(f"clip{number}", number, 3, spare=True)  # two find room, the last two
    assert [f"clip{number}" in recent for number in range(5)] == [False, False, False, True, True] and "state" in recent
    assert recent.get("clip3") == 3  # asked for after all: now one like the state
    recent.put("other", 5, 3)
    assert "clip4" not in recent and "clip3" in recent and "state" in recent
    recent.put("more", 6, 3)
    assert "state" not in recent and "clip3" in recent
    recent.put("wide", 7, 5, spare=True)
    assert "wide" not in recent and recent.used == 9


@given(st.integers(0, 30), st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 12), st.booleans(), st.booleans())))
def test_never_more_bytes_than_the_limit_and_what_fits_is_found(limit: int, steps: list[tuple[str, int, bool, bool]]) -> None:
    recent: Recent[int] = Recent(limit)
    sizes: dict[str, int] = {}
    for key, size, spare, ask in steps:
        if ask:
            recent.get(key)
            continue
        if key not in recent:
            sizes[key] = size
        recent.put(key, sizes[key], size, spare)
        assert spare or size > limit or recent.get(key) == sizes[key]
        held = [name for name in sizes if name in recent]
        assert recent.used == sum(sizes[name] for name in held) <= limit and len(recent) == len(held)
    recent.clear()
    assert len(recent) == recent.used == 0
