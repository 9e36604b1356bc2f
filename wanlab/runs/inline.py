"""The engine that runs here: one process, one device, one task after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .engine import Deliver, Place
from .environment import describe, pick_device

if TYPE_CHECKING:
    from .cell import Workbench
    from .plan import Group


class Inline:
    """See `Engine`."""

    name: str = "inline"
    threads: int | None = None

    def prepare(self, device: str, objects: int | None = None) -> Place:
        """The device itself."""
        where = pick_device(device)
        return Place(where, where, describe(where))

    def there(self, function: Callable[..., Any], *given: Any) -> Any:
        """Here."""
        return function(*given)

    def run(self, bench: Workbench, groups: Iterable[Group], deliver: Deliver) -> None:
        """Evaluate the groups in order."""
        for group in groups:
            for task, result in bench.evaluate(group):
                deliver(task, result)

    def close(self) -> None:
        """There is nothing to let go."""
