"""The engine of this process under the contract of engines."""

from __future__ import annotations

from tests.contracts.engine_contract import EngineContract, whole
from wanlab.runs.engine import Engine
from wanlab.runs.inline import Inline

__all__ = ["whole"]  # a fixture of the suite


class TestInline(EngineContract):
    def engine(self) -> Engine:
        return Inline()
