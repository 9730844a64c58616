"""Execute ``examples/quickstart.ipynb`` and store its outputs: ``python tools/run_notebook.py``.

It runs in an empty folder, so that outputs name no path of this machine and no run is resumed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def main() -> None:
    """Execute the notebook in place."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}, record_timing=False)
        client.execute()
    notebook.metadata["language_info"] = {"name": "python"}  # the version of this machine's Python says nothing
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
