"""A site added to a real deployment and one removed from it while its run goes on: TLS, keys, SuperLink and nodes."""

import json

import pytest

from fedloom.deploy import current_run as current
from fedloom.deploy.demo import free_ports, loopback
from fedloom.deploy.kit_changes import add_site, remove_site
from fedloom.deploy.settings import Deployment, Site, read_settings, write_settings
from fedloom.federation.run_folder import RunFolder
from fedloom.federation.settings import EngineSettings
from tests.deploy.real import experiment, trained

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1500)]
OLD, NEW = "image-02", "image-03"


def test_a_site_joins_a_run_under_way_and_another_leaves_it_for_good(tmp_path) -> None:
    with loopback(tmp_path / "d", experiment(500), ("image-01", OLD)) as deployment:
        file = deployment.server / "deployment.yaml"
        write_settings(read_settings(Deployment, file).model_copy(update={"rejoin_timeout": 5.0}), file)
        path = current.begin(deployment.server, "run")
        deployment.start()
        deployment.wait(path, lambda: len(trained(path)) >= 1)
        folder = add_site(deployment.folder, NEW, deployment.folder / "ca.key")
        [port] = free_ports(1)
        settings = read_settings(Site, folder / "site.yaml")
        engine = EngineSettings(device="cpu", threads=1)
        write_settings(settings.model_copy(update={"port": port, "engine": engine}), folder / "site.yaml")
        deployment.add(NEW)
        deployment.children[NEW].start()
        deployment.wait(path, lambda: any(NEW in e["answered"] for e in trained(path)))
        remove_site(deployment.folder, OLD, deployment.folder / "ca.key")
        deployment.wait(path, lambda: [e for e in trained(path) if OLD not in e["asked"]][1:])
        registered = json.loads((deployment.server / "state" / "registered.json").read_text())
        current.end(deployment.server)
        said = deployment.children[OLD].log
        deployment.wait(path, lambda: "does not know this site's key" in said.read_text())
        assert "compare the clocks" not in said.read_text(), (
            "also where its next message was what was refused"
        )
        server = deployment.children["server"].log.read_text()
    changes = [e for e in RunFolder(path).history("ledger.jsonl") if e["request"] == "members"]
    assert [(e["joined"], e["left"], e["refused"]) for e in changes] == [([NEW], [], {}), ([], [OLD], {})]
    joined, left = (e["round"] for e in changes)
    for entry in trained(path):
        asked = (
            {"image-01"}
            | ({OLD} if entry["round"] < left else set())
            | ({NEW} if entry["round"] >= joined else set())
        )
        assert set(entry["asked"]) == asked
        answered = set(entry["answered"])
        assert answered == asked or (entry["round"] == left - 1 and answered == asked - {OLD}), (
            "its key went in that round"
        )
    assert set(registered) == {"image-01", NEW}
    assert all(site["node"].isdigit() for site in registered.values())
    assert f"{OLD} has left: its key is not let in any more" in server
    log = [json.loads(x) for x in (deployment.server / "logs" / "server.jsonl").read_text().splitlines()]
    assert {x["site"] for x in log if x["event"] == "site_answered"} == {"image-01", OLD, NEW}
