"""The demo of four systems: experiments that can be deployed, a table that fits, and a failure that costs its row alone."""

from dataclasses import asdict

import pytest
import torch
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.core.tensor_files import with_checksum
from fedloom.core.terminal import console
from fedloom.deploy import demo_command, systems
from fedloom.deploy.demo import largest_difference_of_all
from fedloom.deploy.settings import check_deployable
from fedloom.deploy.systems import SYSTEMS, experiment_of
from fedloom.federation.progress import Totals
from fedloom.federation.run_folder import Checkpoint, RunFolder
from fedloom.methods import State

CELLS = ("equal bits", "13.5", "0.6", "31.68 kB", "66.80 kB", "241")


@pytest.mark.parametrize("system", SYSTEMS.values())
def test_every_system_of_the_demo_can_be_deployed_on_three_sites(system) -> None:
    experiment = experiment_of(system, 5)
    check_deployable(experiment)
    assert experiment.rounds == experiment.evaluation.every == 5
    assert len(experiment.data.load(experiment.seed)) == 3


def compared(failing: str):
    def made(folder, system, rounds, say):
        if system == failing:
            raise ExperimentError("the server did not start: port 8000 is taken")
        return systems.Compared((system, *CELLS))

    return made


def test_a_system_that_fails_is_a_row_and_the_others_still_run(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(systems, "_compared", compared("FedMMKT"))
    monkeypatch.setattr(demo_command, "out", console(width=80))
    done = CliRunner().invoke(app, ["deploy", "demo", "--out", str(tmp_path / "d")])
    assert done.exit_code == 1
    lines = [line.split() for line in done.output.splitlines()]
    for system in SYSTEMS.values():
        [row] = [line for line in lines if line[:1] == [system]]
        assert row[1:] == (["failed", *["—"] * 5] if system == "FedMMKT" else " ".join(CELLS).split())
    assert "FedMMKT: the server did not start: port 8000 is taken" in done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_one_system_can_be_chosen_and_an_unknown_one_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(systems, "_compared", compared("none"))
    done = CliRunner().invoke(app, ["deploy", "demo", "--system", "pFedMMA", "--out", str(tmp_path / "d")])
    assert done.exit_code == 0
    assert "pFedMMA" in done.output
    assert "UniFLoW" not in done.output
    wrong = CliRunner().invoke(app, ["deploy", "demo", "--system", "fedfoo", "--out", str(tmp_path / "d")])
    assert isinstance(wrong.exception, ExperimentError)
    assert str(wrong.exception) == "--system: 'fedfoo' is none of uniflow, pfedmma, fedmmkt, fedma"


def finished(folder, files, shared, own, personal) -> None:
    """A run's last checkpoint, and the file of the only client."""
    run = RunFolder(folder)
    run.create()
    run.save(Checkpoint(2, State(shared, own), asdict(Totals())))
    files.mkdir(parents=True)
    (files / "000002.safetensors").write_bytes(with_checksum(personal))


@pytest.mark.parametrize("changed", [None, "shared", "own", "personal"])
def test_the_difference_covers_shared_server_and_site_tensors(changed, tmp_path) -> None:
    tensors = {"shared": {"a": torch.ones(3)}, "own": {"b": torch.zeros(2)}, "personal": {"c": torch.ones(1)}}
    far = tmp_path / "sites" / "image-01" / "runs" / "r" / "personal"
    near = tmp_path / "local" / "state" / "clients" / "image-01"
    finished(tmp_path / "far", far, **tensors)
    if changed is not None:
        tensors[changed] = {n: t + 0.25 for n, t in tensors[changed].items()}
    finished(tmp_path / "local", near, **tensors)
    largest = largest_difference_of_all(tmp_path, tmp_path / "far", tmp_path / "local", ["image-01"])
    assert largest == (0 if changed is None else 0.25)


def test_runs_of_different_tensors_are_no_equal_ones(tmp_path) -> None:
    for place, personal in (("far", {"c": torch.ones(1)}), ("local", {})):
        files = {
            "far": tmp_path / "sites/image-01/runs/r/personal",
            "local": tmp_path / "local/state/clients/image-01",
        }
        finished(tmp_path / place, files[place], {}, {}, personal)
    with pytest.raises(ExperimentError, match="do not share the same tensors"):
        largest_difference_of_all(tmp_path, tmp_path / "far", tmp_path / "local", ["image-01"])
