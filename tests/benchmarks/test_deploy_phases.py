"""The benchmark of a deployment's phases, without its processes: its kit, the nodes' commands, and its table's cells."""

import pytest

pytest.importorskip("flwr", reason="Flower is not installed")

from benchmarks.deploy import KINDS, SITES, Kit, cells, payload
from fedloom.core.payload import Payload
from fedloom.deploy.settings import Deployment, Site, read_settings


def test_the_kit_and_its_nodes_are_those_of_a_deployment(tmp_path) -> None:
    kit = Kit(tmp_path / "kit", [1], 1)
    assert read_settings(Deployment, kit.folder / "server/deployment.yaml").sites == SITES
    for site, port in zip(SITES, kit.ports, strict=True):
        place = kit.folder / "sites" / site
        assert read_settings(Site, place / "site.yaml").server == f"localhost:{kit.port}"
        for kind in KINDS:
            app = kit.folder / kind
            if not app.is_dir():
                app.mkdir()
                (app / "pyproject.toml").write_text(kit.app(kind))
                (app / "README.md").write_text("An echo.\n")
            command = kit._node(kind, place, port)
            assert f"localhost:{kit.port}" in command
            assert any(str(place) in word for word in command)


def test_a_payload_is_as_large_as_it_says() -> None:
    assert Payload.decode(payload(1).encode()).nbytes == 10**6


def test_cells_are_medians_with_their_parts_where_a_trainer_was_asked() -> None:
    phases = [
        {"began": 0.0, "ended": dict.fromkeys(SITES, float(n)), "trained": dict.fromkeys(SITES, n / 4)}
        for n in (4, 1, 2)
    ]
    assert cells(phases) == ["2.00 (1.00 to 4.00)", "0.50", "1.50"]
    assert cells([{"began": 0.0, "ended": {"north": 3.0}}]) == ["3.00 (3.00 to 3.00)", "", ""]
