"""Gradients at sites: of what is differentiated within a trace, with respect to what leaves a site.

    with trace(pipe, capture="generator.mid.resid_post@steps=3 -> grad") as t:
        out = pipe.generate(image, prompt, grad="**@steps=3:")
        out.video[:, -1].mean().backward()
    t.record["generator.mid.resid_post -> grad"]

A gradient that was asked for and never came is a fault of the ledger, which names the site.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from wanlab.core.clock import Plan, Tick
from wanlab.core.ledger import Line, Moment, told
from wanlab.core.site import Site


class GradientError(RuntimeError):
    """A gradient that cannot come: nothing is differentiated where it is asked for, or its values have none."""


@dataclass
class GradientLine(Line):
    """The line of a gradient: each firing of the site awaits one, and `acted` counts those that came."""

    awaited: list[Moment] = field(default_factory=list)
    came_to: set[int] = field(default_factory=set)

    def awaits(self, tick: Tick) -> tuple[int, int]:
        """Note a firing whose gradient is to come: its number, and its number among those at the same moment."""
        moment = tick.step, tick.branch
        self.awaited.append(moment)
        return len(self.awaited) - 1, self.awaited.count(moment) - 1

    def came(self, firing: int) -> None:
        """Note that the gradient of a firing came back."""
        self.came_to.add(firing)
        self.acted[self.awaited[firing]] += 1

    def fault(self, plan: Plan, stopped: Tick | None = None) -> str | None:
        """What is wrong, in words; None when nothing is."""
        due = self.due(plan) if self.seen else set()
        if not due:
            return super().fault(plan, stopped)
        unfired = due - set(self.awaited) if stopped is None else set()
        lost = {moment for firing, moment in enumerate(self.awaited) if firing not in self.came_to}
        both = (("the site did not fire at", unfired, ""), ("no gradient came back at", lost, _WHY))
        return "; ".join(f"{word} {told(moments)}{why}" for word, moments, why in both if moments) or None


_WHY = " (the site is not on the path to what was differentiated, or backward() did not run before the trace was closed)"


def own(x: Tensor, site: Site, tick: Tick) -> Tensor:
    """`x` as a tensor of the site's own, equal in bits: what else is computed from `x` has no part in its gradient.

    Where nothing before the site is differentiated (frozen weights), differentiation begins here.
    GradientError where nothing can be differentiated: integers, and runs under `torch.no_grad`.
    """
    if not (x.is_floating_point() or x.is_complex()):
        raise GradientError(f"{site.name} passes {x.dtype}, which has no gradient")
    if not torch.is_grad_enabled() or x.is_inference():
        mode = "torch.inference_mode" if x.is_inference() else "torch.no_grad"
        raise GradientError(f"no gradient can come back to {site.name}: it fires under {mode} ({tick}); pipelines "
                            "differentiate what generate(grad=...) names, as in grad=True or grad='**@steps=3:'")
    x = x if x.requires_grad else x.detach().requires_grad_()
    mine = x.clone()        # no view: a model that writes to what it is given would take a view's gradient past the site
    return mine if mine.stride() == x.stride() else x.view_as(x)        # kernels downstream depend on strides


def rejoin(out: Tensor, again: Tensor, changed: Tensor) -> Tensor:
    """The end of a site whose value stands beside the kernel that gave `out`, and from which `again` was computed:
    `again` where the site was `changed`, the kernel's bytes elsewhere; the gradient is that of `again` everywhere."""
    again = again.to(out)
    if again.requires_grad:
        out = out.detach() + (again - again.detach())
    return torch.where(changed, again, out)


def graph_task() -> int:
    """The number of the backward pass that this code runs within; -1: none."""
    return torch._C._current_graph_task_id()


def recomputing(task: int = -1) -> bool:
    """Whether this code runs within a backward pass (other than the pass `task`): a checkpoint computes again."""
    return graph_task() not in (-1, task)


def unknown_moment(site: Site) -> GradientError:
    """What is raised where a checkpoint that is not ours computes again, and it cannot be known as what."""
    return GradientError(f"{site.name} is computed again in a backward pass, where nobody knows the step, branch or trace of the "
                         "first time: use wanlab.core.checkpointed in the place of torch.utils.checkpoint")
