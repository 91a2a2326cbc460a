"""The notebooks of docs/notebooks: without outputs in the repository, and each runs to its end."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))
SHOWS = {
    "first_federation": "global/audio/exact_match",
    "your_silos": "'green': 'green'",
    "your_method": "privacy.secure cannot work",
}
"""A piece of the output of each."""


def test_there_are_three_and_none_holds_outputs() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(SHOWS)
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None), (
                path.name
            )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_says(path: Path, tmp_path: Path, monkeypatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "src"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [str(output.get("text", output.get("data", {}).get("text/plain", ""))) for output in outputs]
    assert any(SHOWS[path.stem] in text for text in texts)
    plots = sum("image/png" in output.get("data", {}) for output in outputs)
    assert plots == 1
    (tmp_path / "outputs.txt").write_text("\n".join(texts))
