"""The signed list of sites: who may write it, and that a site takes no older, foreign or changed one."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.deploy.certificates import write_signing_key, write_tls
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.site_list import change_list, read_identity, read_list, signed, take_list, verified
from fedloom.deploy.trainer import SiteTrainer


@pytest.fixture
def kit(quick, tmp_path) -> Path:
    write_kit(tmp_path / "kit", quick("fedsa-lora"), Deployment(sites=("north", "south")))
    return tmp_path / "kit"


def test_a_kit_has_one_list_and_each_site_the_private_half_of_its_own_key(kit) -> None:
    lists = [read_list(kit / "server/sites.json", kit / "server/tls/ca.pem")]
    for name in ("north", "south"):
        folder = kit / "sites" / name
        lists.append(read_list(folder / "sites.json", folder / "ca.pem"))
        identity = read_identity(folder)
        identity.known().check(name, b"text", identity.sign(b"text"), "")
        assert stat.S_IMODE((folder / "signing.key").stat().st_mode) == 0o600
    assert lists[0] == lists[1] == lists[2]
    assert lists[0].version == 1
    assert len(set(lists[0].sites.values())) == 2
    assert not list((kit / "server").rglob("signing.key"))


def test_a_changed_list_travels_and_replaces_a_lower_version_alone(kit, tmp_path) -> None:
    folder, first = kit / "sites/north", (kit / "server/sites.json").read_text()
    west = write_signing_key(tmp_path / "west.key")
    second = change_list(kit / "server", kit / "ca.key", add={"west": west})
    third = change_list(kit / "server", kit / "ca.key", remove=["south"])
    assert (second.version, sorted(second.sites)) == (2, ["north", "south", "west"])
    assert (third.version, sorted(third.sites)) == (3, ["north", "west"])
    assert take_list(folder, third.text) == third == take_list(folder, third.text)
    for older in (first, second.text):
        with pytest.raises(ExperimentError, match="this site has 3 already"):
            take_list(folder, older)
    assert read_list(folder / "sites.json", folder / "ca.pem") == third
    fork = signed({"north": third.sites["north"]}, 3, kit / "ca.key")
    with pytest.raises(ExperimentError, match="another list of sites of version 3"):
        take_list(folder, fork.text)


@pytest.mark.parametrize(
    "change", ["version", "key", "name", "signature", "extra", "no json", "deep", "long"]
)
def test_what_is_not_as_the_ca_signed_it_is_refused(change, kit) -> None:
    folder = kit / "sites/north"
    fields = json.loads((folder / "sites.json").read_text())
    if change == "version":
        fields["version"] = 9
    elif change == "key":
        fields["sites"]["north"] = "0" * 64
    elif change == "name":
        fields["sites"]["mallory"] = fields["sites"].pop("south")
    elif change == "signature":
        fields["signature"] = "00" * 40
    elif change == "extra":
        fields["more"] = 1
    text = {"no json": "x", "deep": "[" * 10**5, "long": "9" * 2**21}.get(change, json.dumps(fields))
    before = (folder / "sites.json").read_bytes()
    with pytest.raises(ExperimentError, match=r"not signed by this federation's CA|no signed list of sites"):
        take_list(folder, text)
    assert (folder / "sites.json").read_bytes() == before


def test_another_federations_ca_key_changes_nothing(kit, tmp_path) -> None:
    write_tls(tmp_path, tmp_path / "other.key", "localhost")
    before = (kit / "server/sites.json").read_bytes()
    with pytest.raises(
        ExperimentError, match=r"other\.key is not the CA key of this deployment; name with --ca-key"
    ):
        change_list(kit / "server", tmp_path / "other.key", remove=["south"])
    (tmp_path / "text.key").write_text("no key")
    with pytest.raises(
        ExperimentError, match=r"text\.key is no CA key of a deployment; name with --ca-key [^/]*$"
    ):
        change_list(kit / "server", tmp_path / "text.key", remove=["south"])
    with pytest.raises(ExperimentError, match=r"there is no .*absent\.key; name with --ca-key where"):
        change_list(kit / "server", kit / "absent.key", remove=["south"])
    for fault, match in [({"add": {"north": "0" * 64}}, "in the list of sites already"),
                         ({"remove": ["west"]}, "not in the list"), ({"remove": ["north", "south"]}, "without any site"),
                         ({"add": {"west": "no key"}}, "the list of sites")]:  # fmt: skip
        with pytest.raises(ExperimentError, match=match):
            change_list(kit / "server", kit / "ca.key", **fault)
    assert (kit / "server/sites.json").read_bytes() == before


def test_an_older_kit_says_what_it_lacks(kit) -> None:
    folder = kit / "sites/north"
    for file in ("sites.json", "signing.key"):
        (folder / file).unlink()
        with pytest.raises(
            ExperimentError, match=f"has no {file}; it comes from an older kit, so write a new"
        ):
            read_identity(folder)


def test_secure_sums_without_a_list_are_refused_before_anything_is_loaded(quick, kit, tmp_path) -> None:
    experiment = quick("fedavg-lora", privacy={"secure": {}})
    folder = kit / "sites/north"
    (folder / "signing.key").unlink()
    site = read_settings(Site, folder / "site.yaml")
    with pytest.raises(ExperimentError, match=r"has no signing\.key; it comes from an older kit"):
        SiteTrainer(site, experiment, folder)
    with pytest.raises(ExperimentError, match=r"has no sites\.json; it comes from an older kit"):
        go_on(experiment, ("north", "south"), tmp_path / "run", Nobody())
    assert not (tmp_path / "run").exists()


class Nobody:
    """A carrier that must not be asked."""

    def exchange(self, requests: object) -> Iterator[tuple[str, bytes]]:
        raise AssertionError("nobody is asked")


def test_the_signed_text_is_that_of_the_documented_format(kit) -> None:
    text = (kit / "server/sites.json").read_text()
    assert set(json.loads(text)) == {"version", "sites", "signature"}
    reordered = json.dumps(dict(reversed(json.loads(text).items())))
    assert verified(reordered, kit / "server/tls/ca.pem", "x").sites == json.loads(text)["sites"]
