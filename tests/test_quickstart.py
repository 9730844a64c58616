"""The notebook of the examples: its cells run, and the outputs that it stores name no path and no error."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

for module in ("matplotlib", "pandas", "pyarrow", "sklearn"):
    pytest.importorskip(module, reason=f"{module} is not installed (extra lab)")

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell, and return the value of its last line if that is an expression without a semicolon."""
    body = ast.parse(source)
    last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
    exec(compile(body, NOTEBOOK.name, "exec"), names)
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)  # type: ignore[attr-defined]
    return None if source.rstrip().endswith(";") else value


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names: dict[str, Any] = {}
    for cell in CODE:
        value = run("".join(cell["source"]), names)
        stored = [output for output in cell["outputs"] if output["output_type"] == "execute_result"]
        assert bool(stored) == (value is not None)
        if stored and "text/html" in stored[0]["data"]:
            assert value._repr_html_()
    said = capsys.readouterr().out
    accuracy, again, recorded = (float(one) for one in re.findall(r"([\d.]+)%", said))
    assert accuracy > 90
    assert again == recorded > 80


def test_the_stored_outputs_are_of_a_whole_run_and_name_no_place_of_a_machine() -> None:
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result", "display_data"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}
    for output in outputs:
        output.get("data", {}).pop("image/png", None)
    text = json.dumps(outputs)
    assert not re.search(r"/(home|root|tmp|work|usr|Users)\b|[A-Z]:\\", text)
    assert NOTEBOOK.stat().st_size < 200_000
