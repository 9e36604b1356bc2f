"""Every notebook runs from top to bottom, says what it keeps, and is kept with outputs, without errors, small."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.notebooks.kept import alike, differences

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 1_000_000  # bytes of a kept notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_whole_and_small(path: Path) -> None:
    import nbformat

    assert path.stat().st_size < LARGEST
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "not run from top to bottom"
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds and "display_data" in kinds | {"execute_result"}


def test_what_is_kept_is_compared_by_words_and_nearly_by_numbers() -> None:
    assert alike("0.51", "0.52") and alike("fusion", "fusion")
    assert alike("+0.0043", "+0.0044") and alike("12.32", "12.9") and alike("0.00", "-0.00") and alike("0.00", "0.01")
    assert not alike("+0.0043", "-0.0043") and not alike("0.0013", "0.0018") and not alike("0.02", "0.06") and not alike("1.0", "2.0")
    assert not alike("470", "596") and not alike("0.51", "0.71") and not alike("fusion", None) and not alike(".", "0.5")


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """How long it took stands in the report of the tests and in the log; a busy machine is not a broken notebook."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    client = NotebookClient(book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    begun = time.monotonic()
    client.execute()
    seconds = round(time.monotonic() - begun)
    record_property("seconds", seconds)
    assert not list(differences(nbformat.read(path, as_version=4), book)), "run it again and keep what it says"
