"""The script of docs/python.md: at most 25 lines, and it runs."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_shows_the_script_as_it_is() -> None:
    script = (DOCS / "first_federation.py").read_text()
    assert len(script.splitlines()) <= 25
    assert f"```python\n{script}```" in (DOCS / "python.md").read_text()


@pytest.mark.slow
def test_the_script_runs_and_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    figures = runpy.run_path(str(DOCS / "first_federation.py"))["figures"]
    assert list(figures.index) == [0, 1, 2, 3, 4, 5]
    assert (figures.iloc[-1] > figures.iloc[0]).all()
    assert (tmp_path / "rounds.png").stat().st_size > 0
    assert capsys.readouterr().out.rstrip().endswith("]")
