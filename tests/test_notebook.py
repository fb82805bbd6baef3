"""The notebook runs from top to bottom, and what is committed was executed."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "experiments/notebook/notebook.ipynb"


def test_the_notebook_is_committed_with_its_outputs() -> None:
    import nbformat  # takes long

    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {kind for cell in cells for o in cell.outputs for kind in o.get("data", {})}
    assert {"image/png", "text/markdown"} <= kinds
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("max_steps=800", "max_steps=20")
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
