"""An experiment that cannot be deployed is refused by init, by the server and at a site, before any process starts."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedloom.core.errors import ExperimentError
from fedloom.deploy import run_site
from fedloom.deploy.commands import app
from fedloom.deploy.run_server import Server
from fedloom.deploy.settings import Deployment, Site, check_deployable, read_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.federation.run_folder import RunFolder

REASON = "attack simulates attackers"


@pytest.fixture
def attacked(quick):
    return quick("fedavg-lora", attack={"kind": "sign_flip"})


def test_init_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("{rounds: 2, method: fedavg-lora, attack: {kind: sign_flip}}")
    done = CliRunner().invoke(app, ["init", str(tmp_path / "kit"), str(file), "--site", "a"])
    assert isinstance(done.exception, ExperimentError)
    assert REASON in str(done.exception)
    assert not (tmp_path / "kit").exists()


def test_workers_are_refused_between_sites_and_at_a_site(quick, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"engine\.workers train simulated clients side by side"):
        check_deployable(quick("fedavg-lora", engine={"workers": 2}))
    write_kit(tmp_path / "kit", quick("fedavg-lora"), Deployment(sites=("north",)))
    file = tmp_path / "kit" / "sites" / "north" / "site.yaml"
    whole = yaml.safe_load(file.read_text())
    whole["engine"]["workers"] = 2
    file.write_text(yaml.safe_dump(whole))
    with pytest.raises(
        ExperimentError, match="train simulated clients side by side; leave them out at a site"
    ):
        run_site.run_site(file.parent, print, lambda: False)


def test_a_kit_of_an_earlier_version_names_loaders_by_their_old_name(quick, tmp_path: Path) -> None:
    write_kit(tmp_path / "kit", quick("fedavg-lora"), Deployment(sites=("north",)))
    file = tmp_path / "kit" / "sites" / "north" / "site.yaml"
    whole = yaml.safe_load(file.read_text())
    del whole["engine"]["loaders"]
    file.write_text(yaml.safe_dump({**whole, "engine": {**whole["engine"], "workers": "auto"}}))
    engine = read_settings(Site, file).engine
    assert (engine.loaders, engine.workers) == ("auto", None)


def test_server_and_site_start_no_process(attacked, quick, tmp_path: Path) -> None:
    """The files of a kit are changed by hand after `init`, or by an older release."""
    kit = tmp_path / "kit"
    write_kit(kit, quick("fedavg-lora"), Deployment(sites=("north",)))
    for folder in (kit / "server", kit / "sites" / "north"):
        RunFolder(folder).write_experiment(attacked.as_dict())
    server = Server(kit / "server", print)
    with pytest.raises(ExperimentError, match=REASON):
        server.run(lambda: False)
    run_site.accept(kit / "sites" / "north")
    with pytest.raises(ExperimentError, match=REASON):
        run_site.run_site(kit / "sites" / "north", print, lambda: False)
    assert server.link.process is None
    assert not list(kit.rglob("*.log"))
