"""Sites added to a kit and removed from it: what is written, what is refused, and what the SuperLink is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedloom.core.errors import ExperimentError
from fedloom.deploy.commands import app
from fedloom.deploy.registration import Registration
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.site_list import read_identity, read_list
from tests.deploy.silos import said_into

NAMES = ("north", "south")


def invoke(*arguments: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(done.exception, ExperimentError):
        return 2, str(done.exception)
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def kit(quick, tmp_path) -> Path:
    write_kit(tmp_path / "kit", quick("fedsa-lora"), Deployment(sites=NAMES, host="fl.example.org"))
    return tmp_path / "kit"


def files_of(kit: Path) -> dict[str, bytes]:
    return {str(p.relative_to(kit)): p.read_bytes() for p in kit.rglob("*") if p.is_file()}


def sites_of(kit: Path) -> tuple[tuple[str, ...], list[str], int]:
    listed = read_list(kit / "server" / "sites.json", kit / "server" / "tls" / "ca.pem")
    return (
        read_settings(Deployment, kit / "server" / "deployment.yaml").sites,
        sorted(listed.sites),
        listed.version,
    )


def test_a_new_site_gets_a_folder_like_the_others_and_nothing_of_theirs_changes(kit) -> None:
    before = files_of(kit)
    code, output = invoke("add-site", kit, "west")
    assert code == 0
    assert "the other sites need nothing" in output
    assert sites_of(kit) == (("north", "south", "west"), ["north", "south", "west"], 2)
    west, north = kit / "sites" / "west", kit / "sites" / "north"
    assert sorted(p.name for p in west.iterdir()) == sorted(p.name for p in north.iterdir())
    assert read_settings(Site, west / "site.yaml").server == "fl.example.org:443"
    assert {p.stat().st_mode & 0o077 for p in west.rglob("*")} == {0}
    assert (kit / "server" / "nodes" / "west.pub").read_text().startswith("ecdsa-sha2-nistp384 ")
    identity = read_identity(west)
    identity.known().check("west", b"text", identity.sign(b"text"), "not west's")
    after = files_of(kit)
    assert {n for n in before if after[n] != before[n]} == {"server/deployment.yaml", "server/sites.json"}


def test_a_removed_site_is_on_no_list_and_can_come_back_with_new_keys(kit) -> None:
    old = (kit / "server" / "nodes" / "south.pub").read_bytes()
    assert invoke("remove-site", kit, "south")[0] == 0
    assert sites_of(kit) == (("north",), ["north"], 2)
    code, output = invoke("add-site", kit, "south")
    assert (code, "move it away, so that no key is overwritten" in output) == (2, True)
    shutil.move(kit / "sites" / "south", kit / "old-south")
    assert invoke("add-site", kit, "south")[0] == 0
    assert sites_of(kit) == (NAMES, list(NAMES), 3)
    assert (kit / "server" / "nodes" / "south.pub").read_bytes() != old


@pytest.mark.parametrize(
    ("command", "name", "sentence"),
    [
        ("add-site", "north", "north is one of the sites already"),
        ("add-site", "North", "north and North differ by case only"),
        ("add-site", "common", "'common' is where common test pictures lie"),
        ("add-site", "../up", "'../up' is no site's name; use letters, digits, dots and dashes"),
        ("remove-site", "west", "west is none of the sites; there is north, south"),
        ("add-site", "west", "ca.key; name with --ca-key where the ca.key lies"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(command, name, sentence, kit) -> None:
    if "ca.key" in sentence:
        (kit / "ca.key").rename(kit.parent / "ca.key")
    before = files_of(kit)
    code, output = invoke(command, kit, name)
    assert code == 2
    assert sentence in output
    assert files_of(kit) == before
    if "ca.key" in sentence:
        assert invoke(command, kit, name, "--ca-key", kit.parent / "ca.key")[0] == 0


def test_the_last_site_stays_and_unequal_ranks_keep_their_sites(kit, quick, tmp_path) -> None:
    assert invoke("remove-site", kit, "south")[0] == 0
    code, output = invoke("remove-site", kit, "north")
    assert (code, output) == (2, "north is the last site; a deployment without any is none")
    unequal = quick("hetlora", cohort={"ranks": {"llm": [4, 2]}})
    write_kit(tmp_path / "ranks", unequal, Deployment(sites=NAMES))
    for command, name in (("add-site", "west"), ("remove-site", "south")):
        code, output = invoke(command, tmp_path / "ranks", name)
        assert code == 2
        assert output.startswith("cohort.ranks deals the ranks by all sites' names")


def test_a_new_site_of_a_kit_without_proxy_reaches_the_superlink(quick, tmp_path) -> None:
    deployment = Deployment(sites=NAMES, port=8123, direct=True)
    write_kit(tmp_path / "direct", quick("fedsa-lora"), deployment)
    assert invoke("add-site", tmp_path / "direct", "west")[0] == 0
    for name in ("north", "west"):
        folder = tmp_path / "direct" / "sites" / name
        assert read_settings(Site, folder / "site.yaml").server == "localhost:8123"


def test_secure_sums_keep_their_least_number_of_sites(quick, tmp_path) -> None:
    kit, three = tmp_path / "kit", ("east", *NAMES)
    secret = quick("fedavg-lora", privacy={"secure": {"least": 3}})
    with pytest.raises(
        ExperimentError, match="opens no sum of fewer than 3 sites, and a round asks 2; take more"
    ):
        write_kit(kit, secret, Deployment(sites=NAMES))
    assert not kit.exists()
    write_kit(kit, secret, Deployment(sites=three))
    before = files_of(kit)
    code, output = invoke("remove-site", kit, "east")
    assert code == 2
    assert "fewer than 3 sites" in output
    assert files_of(kit) == before
    (kit / "server/sites.json").rename(tmp_path / "kept.json")
    for command in ("upgrade", "server"):
        code, output = invoke(command, kit / "server")
        assert code == 2
        assert "has no sites.json" in output
    (tmp_path / "kept.json").rename(kit / "server/sites.json")
    file = kit / "server/deployment.yaml"
    file.write_text(file.read_text().replace("- east\n", ""))
    for command in ("upgrade", "server"):
        code, output = invoke(command, kit / "server")
        assert code == 2
        assert "fewer than 3 sites" in output


def test_a_change_that_was_cut_off_before_its_end_can_be_undone(kit) -> None:
    assert invoke("add-site", kit, "west")[0] == 0
    settings = kit / "server" / "deployment.yaml"
    settings.write_text(settings.read_text().replace("- west\n", ""))  # written last
    assert sites_of(kit) == (NAMES, ["north", "south", "west"], 2)
    assert invoke("remove-site", kit, "west")[0] == 0
    assert sites_of(kit) == (NAMES, list(NAMES), 3)


class Link:
    """A SuperLink's node list behind `flwr supernode`."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.said: list[tuple[str, ...]] = []

    def __call__(self, *words: str) -> str:
        self.said.append(words[1:3])
        if words[1] == "register":
            if Path(words[2]).read_text() in self.nodes.values():
                raise ExperimentError("flwr supernode failed: Public key already in use.")
            number = str(100 + len(self.said))
            self.nodes[number] = Path(words[2]).read_text()
            return f'✅ registered\n{{\n  "success": true,\n  "node-id": {number}\n}}\n'
        if words[1] == "unregister":
            if self.nodes.pop(words[2], None) is None:
                raise ExperimentError("flwr supernode failed: Node ID not found for account.")
            return "done"
        return json.dumps({"nodes": [{"node-id": n, "status": "online"} for n in self.nodes]})


def test_keys_are_registered_and_unregistered_once_also_after_a_kill_in_between(kit) -> None:
    server, link, lines = kit / "server", Link(), list[str]()
    (server / "state").mkdir()
    registration = Registration(server, link, said_into(lines))
    registration.match(NAMES)
    registration.match(NAMES)
    assert [w[0] for w in link.said] == ["register", "register"]
    file = server / "state" / "registered.json"
    before = file.read_text()
    registration.match(("north",))
    assert len(link.nodes) == 1
    assert lines == ["south has left: its key is not let in any more"]
    file.write_text(before)  # killed after Flower had done it
    registration.match(("north",))
    assert json.loads(file.read_text()).keys() == {"north"}
    known = json.loads(file.read_text())
    registration.match(NAMES)
    file.write_text(
        json.dumps(known)
    )  # killed before its number was written: it is found again by what is left over
    registration.match(NAMES)
    registration.match(("north",))
    assert [*link.nodes.values()] == [(server / "nodes" / "north.pub").read_text()]
    (server / "nodes" / "north.pub").write_text("another key")
    registration.match(("north",))
    assert [*link.nodes.values()] == ["another key"], "a name that came back has another key"
    with pytest.raises(ExperimentError, match=r"west is one of the sites, and .*west.pub is missing"):
        registration.match(("north", "west"))


def test_the_record_of_an_earlier_version_is_read(kit) -> None:
    server, link = kit / "server", Link()
    (server / "state").mkdir()
    Registration(server, link, said_into([])).match(NAMES)
    (server / "state" / "registered.json").write_text(json.dumps(list(NAMES)))
    lines: list[str] = []
    Registration(server, link, said_into(lines)).match(("north",))
    assert lines[0].startswith("south is not asked any more, but Flower still knows its key")
    assert len(link.nodes) == 2
