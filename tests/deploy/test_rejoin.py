"""A real deployment in every run of the tests: TLS, keys, SuperLink and nodes, and a site killed and back at once."""

from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed")

from fedloom.deploy import current_run as current
from fedloom.deploy.certificates import write_node_key
from fedloom.deploy.demo import Loopback, largest_difference, loopback
from fedloom.deploy.flower_key import ask_for_key
from fedloom.deploy.processes import environment
from fedloom.deploy.settings import Site, read_settings
from fedloom.experiment.run import run
from tests.deploy.real import experiment, has_trained, kill_part, trained

SITES = ("image-01", "image-02")


@pytest.mark.slow
def test_a_site_killed_and_back_at_once_answers_in_the_same_round(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "short_heartbeats"), prepend=":")
    chosen = experiment(1, images=2)
    with loopback(tmp_path / "d", chosen, SITES) as deployment:
        path = current.begin(deployment.server, "run")
        deployment.start()
        deployment.wait(path, lambda: has_trained(deployment, "image-02", 1))
        kill_part(deployment, "image-02")
        deployment.start()
        write_node_key(tmp_path / "stranger.key", tmp_path / "stranger.pub")
        known = [
            key_known(deployment, tmp_path / key) for key in ("d/sites/image-01/node.key", "stranger.key")
        ]
        deployment.wait(path)
    assert known == [True, False]
    assert [(e["answered"], e["refused"]) for e in trained(path)] == [(list(SITES), {})]
    run(chosen, tmp_path / "local")
    assert largest_difference(path, tmp_path / "local") == 0


def key_known(deployment: Loopback, key: Path) -> bool | None:
    """Whether the server says that it knows a key: image-01 is connected, a stranger is not registered."""
    place = deployment.folder / "sites" / "image-01"
    server = read_settings(Site, place / "site.yaml").server
    return ask_for_key(server, place / "ca.pem", key, environment(deployment.folder / "home"))
