"""What an engine is, and which there are.

An engine evaluates groups of tasks and hands back what they gave. Which tasks are left, in which order, how often one that
fails is tried, and every file that is written is not its business (`execution.py`): so every engine resumes, fails, stops
and counts in the same way, and its tests are one suite that each inherits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .document import did_you_mean

if TYPE_CHECKING:
    from .cell import Failure, Workbench
    from .plan import Group, Task
    from .store import Part

ENGINES = ("inline", "ray")
Deliver = Callable[["Task", "Part | Failure"], None]


class EngineError(ValueError):
    """An engine that cannot start or go on; the message says what helps. What was delivered is not lost."""


@dataclass(frozen=True)
class Place:
    """device: where tasks run; here: where this process opens its own workbench (it plans, and with Ray nothing else);
    environment: as `environment.describe` where tasks run."""

    device: str
    here: str
    environment: Mapping[str, Any]


class Engine(Protocol):
    """Something that evaluates groups."""

    name: str
    threads: int | None
    """Torch threads that a task gets on a CPU where nobody says otherwise; None: as many as torch takes by itself."""

    def prepare(self, device: str, objects: int | None = None) -> Place:
        """Where tasks will run, for a device as the user names it; with room for so many bytes of stage outputs, if workers are
        started that share them in an object store (`Study.objects`). Raises EngineError or ValueError where there is none."""

    def there(self, function: Callable[..., Any], *given: Any) -> Any:
        """What a function that can be imported gives where tasks run, once `prepare` has been called. Raises what it raises."""

    def run(self, bench: Workbench, groups: Iterable[Group], deliver: Deliver) -> None:
        """Evaluate every group and deliver each task in this process, in any order.

        groups is drawn as workers become free, so that it may leave out what has become needless meanwhile. A task that
        raises, or whose worker dies, is delivered as a Failure. Raises EngineError where nothing can be evaluated at all.
        """

    def close(self) -> None:
        """Let workers go."""


def make_engine(name: str, address: str | None = None, workers: int | None = None) -> Engine:
    """The engine of this name; address and workers are for ray. Raises LookupError with the nearest, ValueError, EngineError."""
    if name not in ENGINES:
        raise LookupError(f"no engine {name!r}{did_you_mean(name, ENGINES)}; there are {', '.join(ENGINES)}")
    if name == "ray":
        from .ray import Ray

        return Ray(address, workers)
    for option, value in {"--address": address, "--workers": workers}.items():
        if value is not None:
            raise ValueError(f"{option} {value} is for --engine ray; the engine of this run is {name}")
    from .inline import Inline

    return Inline()
