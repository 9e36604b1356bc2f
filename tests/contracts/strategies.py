"""What Hypothesis draws for the contracts: limits and edits that fit the sites of a model, as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from wanlab.core import Select, Site
from wanlab.core.select import AXIS_OF
from wanlab.core.values import KEPT

Data = dict[str, Any]
StepsOf = Callable[[str], range | None]


def positions(size: int) -> st.SearchStrategy[Any]:
    """Positions that an axis of this size has: a number, from the end too, several, or a slice that is not empty."""
    one = st.integers(-size, size - 1)
    slices = st.tuples(st.integers(0, size - 1), st.integers(1, size)).map(lambda ends: f"{ends[0]}:{ends[0] + ends[1]}")
    return one | st.lists(one, min_size=1, max_size=3) | slices | st.just("last")


def moments(steps: int, fires: range | None) -> st.SearchStrategy[Any]:
    """Steps of a run, one of them at least among those in which a site fires (None: in all)."""
    if fires is None:
        return positions(steps)
    return st.sampled_from(fires) | st.sampled_from([f"{fires.start}:{fires.stop}", ":", list(fires)])


@st.composite
def limits(draw: st.DrawFn, site: Site, rows: int, steps: int, branches: Sequence[str], masks: bool = True,
           fires: range | None = None) -> Data:
    """Limits that fit a site: positions on some of its axes, a mask where it has a picture, some steps and branches."""
    sizes = dict(zip(site.axes, site.shape or (), strict=True)) | {"b": rows}
    known = {key: sizes[axis] for key, axis in AXIS_OF.items() if axis in site.axes}
    told = {key: draw(positions(size)) for key, size in known.items() if draw(st.integers(0, 3)) == 0}
    if masks and {"h", "w"} <= set(site.axes) and draw(st.booleans()):
        told["mask"] = draw(st.sampled_from(["1", "10/10", "0110*2/1111*2", [[0, 1], [1, 1]]]))
    if "step" in (site.clock or ()) and draw(st.booleans()):
        told["steps"] = draw(moments(steps, fires))
    if "branch" in (site.clock or ()) and draw(st.booleans()):
        told["branch"] = draw(st.sampled_from(list(branches)))
    return told


def kinds(site: Site, rows: int) -> dict[str, st.SearchStrategy[Data]]:
    """The kinds of edit that mean something at a site, with parameters."""
    seeds = st.integers(0, 9)
    found: dict[str, st.SearchStrategy[Data]] = {"identity": st.just({})}
    if site.derived:
        return found
    found |= {"zero": st.just({}), "scale": st.fixed_dictionaries({"factor": st.sampled_from([-1.0, 0.5, 2.0])}),
              "noise": st.fixed_dictionaries({"std": st.sampled_from([0.0, 0.1, 1.0]), "seed": seeds})}
    if set(site.axes) - set(KEPT):
        found["mean"] = st.just({})
    if rows > 1 and "b" in site.axes:
        found["resample"] = st.fixed_dictionaries({"seed": seeds})
    if channels := {"c", "d"} & set(site.axes):
        size = site.size("c" if "c" in channels else "d") or 0
        found["steer"] = st.fixed_dictionaries({"direction": st.just([0.1] * size), "strength": st.sampled_from([-1.0, 3.0])})
    if site.bypass:
        found["bypass"] = st.just({})
    if "f" in site.axes:
        frames = site.size("f") or 1
        found |= {"freeze_frame": st.fixed_dictionaries({"frame": st.integers(-frames, frames - 1)}), "reverse_frames": st.just({}),
                  "low_pass_frames": st.fixed_dictionaries({"window": st.sampled_from([1, 3])})}
        if frames > 1:
            found["shuffle_frames"] = st.fixed_dictionaries({"seed": seeds})
    if site.axes[-2:] == ("f", "j"):
        found["cut_frames"] = st.fixed_dictionaries({"block": st.integers(1, 3)})
    return found


@st.composite
def edits(draw: st.DrawFn, sites: Sequence[Site], rows: int, steps: int, branches: Sequence[str], most: int = 4,
          steps_of: StepsOf = lambda site: None) -> list[Data]:
    """A list of edits of any kinds at any of the sites, several at one site among them. steps_of: a site's name -> the steps in
    which it fires, None: in all."""
    told = []
    for _ in range(draw(st.integers(1, most))):
        site = draw(st.sampled_from(list(sites)))
        kind = draw(st.sampled_from(sorted(known := kinds(site, rows))))
        told.append({"kind": kind, "at": site.name, **draw(limits(site, rows, steps, branches, fires=steps_of(site.name))),
                     **draw(known[kind])})
    return told


@st.composite
def selections(draw: st.DrawFn, sites: Sequence[Site], rows: int, steps: int, branches: Sequence[str]) -> tuple[Site, Select]:
    """A site with a selection of a part of it that a capture can be cut to."""
    site = draw(st.sampled_from(list(sites)))
    return site, Select.of({"at": site.name, **draw(limits(site, rows, steps, branches, masks=False))})
