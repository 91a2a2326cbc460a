"""The experiments come with the package: from the checkout and from the built wheel."""

import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment import shipped

ROOT = Path(__file__).parents[1]
NAMES = {
    f.relative_to(ROOT / "experiments").with_suffix("").as_posix() for f in ROOT.glob("experiments/*/*.yaml")
}


def test_every_experiment_is_listed_on_a_line_of_its_own() -> None:
    lines = CliRunner().invoke(app, ["experiments"]).output.splitlines()
    assert [line.split()[0] for line in lines] == sorted(NAMES)
    assert all(line.endswith(".") for line in lines)


def test_a_copy_is_the_file_and_replaces_none(tmp_path: Path) -> None:
    args = ["experiments", "copy", "uniflow/quickstart", str(tmp_path / "new")]
    assert CliRunner().invoke(app, args).exit_code == 0
    copied = tmp_path / "new" / "quickstart.yaml"
    assert copied.read_bytes() == (ROOT / "experiments/uniflow/quickstart.yaml").read_bytes()
    for name, says in (
        ("experiments/uniflow/quickstart.yaml", "exists already"),
        ("quick", "did you mean uniflow/quickstart"),
        ("../../pyproject", "`fedloom experiments` lists them"),
    ):
        with pytest.raises(ExperimentError, match=says):
            shipped.copy_experiment(name, tmp_path / "new")


def test_the_wheel_holds_them_where_the_package_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path, [n for n in archive.namelist() if n.startswith("fedloom/experiments/")])
    monkeypatch.setattr(shipped, "files", lambda package: tmp_path / package)
    shipped.experiment_files.cache_clear()
    try:
        assert shipped.experiments_folder() == tmp_path / "fedloom" / "experiments"
        assert set(shipped.experiment_files()) == NAMES
    finally:
        shipped.experiment_files.cache_clear()
