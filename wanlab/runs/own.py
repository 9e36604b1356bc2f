"""Metrics of one's own, given to a study from Python: what a report of them needs stands in cell.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wanlab.measure import SampleMeasure, UnknownMetric, info, stored
from wanlab.measure.kinds import absent

from .store import RunFolder

AGAIN = "a metric of one's own is given to a report as it was to the study: report_study(folder, resolve=...), docs/metrics.md"


def described(measures: Sequence[Any]) -> dict[str, Any]:
    """What cell.yaml says of sample measures that nobody ships, `own: {key: {better, needs}}`; nothing where there are none."""
    own = {one.key: {"better": one.higher_is_better, "needs": sorted(one.needs)} for one in measures if not _shipped(one)}
    return {"own": own} if own else {}


def _shipped(measure: Any) -> bool:
    if measure.kind != "sample":  # a distance cannot be reported without its function
        return True
    try:
        return bool(info(measure.key))
    except UnknownMetric:
        return False


def kept(folder: RunFolder, names: Sequence[str]) -> list[Any]:
    """The measures of these names, as `wanlab.measure.stored` gives them; of one that nobody ships, what the finished cells say.

    Raises:
        UnknownMetric: a name that neither anybody ships nor the cells know.
    """
    found: list[Any] = []
    for name in names:
        try:
            found += stored([name])
        except UnknownMetric as error:
            said = next((cell.description() for cell in folder.cells().values()), {})
            own = said.get("own", {}).get(name)
            if own is None:
                raise UnknownMetric(f"{error} ({AGAIN})") from error
            found.append(SampleMeasure(name, said["metrics"][name], own["better"], frozenset(own["needs"]), absent))
    return found
