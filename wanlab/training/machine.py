"""What a training runs on: its device, its processes, its precision, and where its figures are shown.

One process on the CPU in float32, unless `on` says otherwise. Several processes, started by `torchrun` or `accelerate launch`, draw
the same batch and take every n-th row of it each; their gradients are averaged before the step, so that they stay one model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core.device import demand_device
from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted

PRECISIONS = ("float32", "bf16")
CPU = torch.device("cpu")
SETTINGS = ("device", "precision", "tensorboard")


@dataclass(frozen=True)
class Machine:
    """Where this process stands among `processes`; `board`: a TensorBoard writer that is told what the log is told, or None."""

    device: torch.device = CPU
    rank: int = 0
    processes: int = 1
    precision: str = "float32"
    board: Any = None

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks; one of them does."""
        return self.rank == 0

    def whole(self) -> Machine:
        """The same place, with every row for this process: for figures that all processes compute alike."""
        return replace(self, rank=0, processes=1)

    def share(self, value: Any) -> Any:
        """The rows of this process, on its device: of a tensor, or of the tensors in a tuple or a dataclass."""
        if isinstance(value, Tensor):
            return value[self.rank :: self.processes].to(self.device) if self.processes > 1 else value.to(self.device)
        if is_dataclass(value):
            return type(value)(**{one.name: self.share(getattr(value, one.name)) for one in fields(value)})  # type: ignore[arg-type]
        if isinstance(value, tuple):
            return getattr(type(value), "_make", tuple)(map(self.share, value))
        return value

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products and convolutions in bfloat16 within the block, where that was asked for; weights stay float32."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def agree(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients of all processes; where none has any, none is made."""
        if self.processes == 1:
            return
        from accelerate.utils import reduce

        held = list(parameters)
        given = torch.tensor([float(p.grad is not None) for p in held], device=self.device)
        flat = torch.cat([*((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in held), given])
        means = reduce(flat, "mean").split([*(p.numel() for p in held), len(held)])
        for parameter, mean, share in zip(held, means, means[-1].tolist(), strict=False):
            parameter.grad = mean.view_as(parameter) if share else None

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process."""
        if self.processes == 1:
            return flag
        from accelerate.utils import reduce

        return bool(reduce(torch.tensor(float(flag), device=self.device), "sum"))

    def wait(self) -> None:
        """Go on when every process has come here."""
        if self.processes > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


_present: ContextVar[Machine] = ContextVar("machine", default=Machine())  # noqa: B039 (it is frozen)


def present() -> Machine:
    """What this training runs on."""
    return _present.get()


@contextmanager
def on(machine: Machine) -> Iterator[Machine]:
    """Let every training within the block run on `machine`."""
    token = _present.set(machine)
    try:
        yield machine
    finally:
        _present.reset(token)
        if machine.board is not None:
            machine.board.flush()


def machine_of(settings: dict[str, Any], out: Path) -> Machine:
    """The machine that a training file's `machine:` asks for, in the process that accelerate started (or in the only one).

    device       auto (an accelerator where there is one), cpu, or a device of torch
    precision    float32, or bf16: autocast
    tensorboard  true: figures go to out/tensorboard too
    Raises ValueError as `demand`, ModuleNotFoundError where TensorBoard is asked for and not installed.
    """
    demand(settings)
    precision = settings.get("precision", "float32")
    rank, processes, place = _place(settings.get("device", "auto"))
    board = _board(out / "tensorboard") if settings.get("tensorboard") and not rank else None
    return Machine(place, rank, processes, precision, board)


def demand(settings: Any) -> None:
    """Raise ValueError for settings of `machine:` that there are not, and for a device that is unknown or not here."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"machine: expected settings, got {quoted(settings)}")
    for key in settings:
        if key not in SETTINGS:
            raise ValueError(f"machine: unknown setting {quoted(key)}{suggestion(str(key), SETTINGS)}")
    precision, board = settings.get("precision", "float32"), settings.get("tensorboard", False)
    if precision not in PRECISIONS:
        near = suggestion(str(precision), PRECISIONS)
        raise ValueError(f"machine: precision is {' or '.join(PRECISIONS)}, not {quoted(precision)}{near}")
    if not isinstance(board, bool):
        raise ValueError(f"machine: tensorboard is true or false, not {quoted(board)}")
    if (device := settings.get("device", "auto")) != "auto":
        demand_device(device, "machine: device")


def _place(device: str) -> tuple[int, int, torch.device]:
    """Rank, number of processes and device: asked of accelerate where there is something to ask."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone and (device != "auto" or not torch.accelerator.is_available()):
        return 0, 1, torch.device("cpu" if device == "auto" else device)
    from accelerate import PartialState

    state: Any = PartialState(cpu=device == "cpu")
    return state.process_index, state.num_processes, state.device if device in ("auto", "cpu") else torch.device(device)


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ModuleNotFoundError(
            f"machine: tensorboard: true needs the package tensorboard, which is not installed here ({error}): "
            "pip install 'wanlab[tensorboard]', or leave it out; the same figures stand in the .jsonl files beside the checkpoints"
        ) from error
    return SummaryWriter(str(folder))
