"""Path patching: how much of an effect goes from one set of sites to another directly, with everything between them held still.

    found = paths.patch(contrast, senders={"left": "generator.*.cross.attn.z"}, receivers={"motion": "align.motion"},
                        frozen="generator.**.{temporal,spatial}.out", metrics={"left": readouts.displacement("red", "left")})

For each pair: the base run with the sender's values from the other run, while `frozen` sites keep the base run's values; what
arrives at the receiver is then put into the plain base run. Goldowsky-Dill et al. 2023, arXiv 2304.05969, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from wanlab.analysis.cells import BASE, Cell, Metric, generate, run
from wanlab.analysis.contrast import Contrast, ContrastError, kept
from wanlab.analysis.patching import WAYS, Patched, effects
from wanlab.core import Capture, Patch, Select

Named = Mapping[str, str]


def patch(contrast: Contrast, senders: Named, receivers: Named, frozen: str | Sequence[str], metrics: Mapping[str, Metric], *,
          steps: Any = None, way: str = "noising", **how: Any) -> Patched:
    """Effects by sender and receiver: axes `sender` and `receiver` in the table.

    senders, receivers   names of globs; all sites of a glob together
    frozen   globs of what lies between; of a pair, its own sender and receiver are left free, other pairs' are held
    steps    the denoising steps of the path: senders, receivers and frozen sites alike are patched in these alone
    way      "noising" puts the corrupted sender into the clean run, "denoising" the clean one into the corrupted run
    how      as in `cells.run`

    A pair's number does not depend on which others are asked for. Costs one run for each pair, and one for each sender (for each
    pair, where receivers stand among the frozen sites). Raises ContrastError where a receiver is also a sender.
    """
    pipe, (base, other) = contrast.pipe, WAYS[way]
    sent, taken = ({name: _timed(pipe, glob, steps) for name, glob in ends.items()} for ends in (senders, receivers))
    between = list({str(one): one for glob in ([frozen] if isinstance(frozen, str) else frozen)
                    for one in _timed(pipe, glob, steps)}.values())
    for sites in taken.values():
        both = {one.at for one in sites} & {one.at for sender in sent.values() for one in sender}
        if both:
            raise ContrastError(f"{sorted(both)[0]} is a sender and a receiver: a path needs two ends")
    still = kept(contrast.record(base, [str(one) for one in between]), None) if between else None
    theirs = kept(contrast.record(other, list(dict.fromkeys(str(one) for sites in sent.values() for one in sites))), None)
    request, edits = contrast.run(base)
    cells, arrived = [Cell(BASE, edits)], {}
    for (sender, ours), (receiver, its) in product(sent.items(), taken.items()):
        free = {one.at for one in (*ours, *its)}
        held = tuple(str(one) for one in between if one.at not in free)
        if (sender, held) not in arrived:       # receivers for which as much is held share a run
            puts = [*(Patch(one, record=still) for one in held), *(Patch(str(one), record=theirs) for one in ours)]
            arrived[sender, held] = kept(generate(pipe, request, edits=[*edits, *puts], capture=_captures(taken),
                                                  budget=contrast.budget).record, None)
        cells.append(Cell(f"{sender} to {receiver}", (*edits, *(Patch(str(one), record=arrived[sender, held]) for one in its)),
                          {"sender": sender, "receiver": receiver}))
    table = run(pipe, request, cells, metrics, **how)
    asked, put = contrast.run(other)
    return effects(table, run(pipe, asked, [Cell(other, put)], metrics, **{k: v for k, v in how.items() if k == "read"}))


def _timed(pipe: Any, glob: str, steps: Any) -> list[Select]:
    """Each site of a glob, within the steps where it has such."""
    select = Select.of(glob)
    return [replace(select, at=site.name, **({} if steps is None or "step" not in (site.clock or ()) else {"steps": steps}))
            for site in pipe.sites(select.at) if not site.derived]


def _captures(taken: Mapping[str, Sequence[Select]]) -> list[Capture]:
    return [Capture.of(one) for one in dict.fromkeys(str(one) for sites in taken.values() for one in sites)]
