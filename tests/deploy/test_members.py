"""Sites that join and leave while a run is under way, over a hand-made Grid, with kits changed by the commands' functions."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.payload import Payload
from fedloom.core.tensor_files import digest_of, read_checked
from fedloom.deploy import current_run as current
from fedloom.deploy import server
from fedloom.deploy.descriptions import Described, read_descriptions, write_descriptions
from fedloom.deploy.kit_changes import add_site, remove_site
from fedloom.deploy.members import Change, Joining, Members
from fedloom.deploy.remote_engine import Lost, RemoteEngine
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.site_list import read_list
from fedloom.deploy.trainer import SiteTrainer
from fedloom.deploy.trainer_link import serve
from fedloom.deploy.wire import Answer, Request, fingerprint
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder
from tests.deploy.silos import Killed, Silos

flower = pytest.importorskip("fedloom.deploy.flower_server", reason="Flower is not installed")
from tests.deploy.hand_grid import HandGrid  # noqa: E402

FIRST, NEW, OLD = ("image-01", "image-02"), "image-03", "image-02"


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return Experiment.parse(
        {
            "rounds": 4,
            "method": "fedsa-lora",
            "data": {"clients": {"image": 3}, "train": 6, "test": 1},
            "training": {"batch_size": 6},
            "evaluation": {"generate": False, "controls": False, "samples": 0, "every": 4},
            "engine": {"cohort": "off", "device": "cpu"},
        }
    )


@pytest.fixture(scope="module")
def trainers(experiment, tmp_path_factory) -> dict[str, SiteTrainer]:
    """The three sites' trainers, loaded once; a scenario gives each the folder of its kit."""
    kit = tmp_path_factory.mktemp("loaded") / "kit"
    write_kit(kit, experiment, Deployment(sites=(*FIRST, NEW)))
    settings = {n: read_settings(Site, kit / "sites" / n / "site.yaml") for n in (*FIRST, NEW)}
    return {n: SiteTrainer(site, experiment, kit / "sites" / n) for n, site in settings.items()}


class Scenario:
    """A kit whose third site is added in round 1 and whose second one is removed in round 3, while its run goes on."""

    def __init__(self, folder: Path, experiment: Experiment, trainers: dict[str, SiteTrainer]) -> None:
        self.kit, self.trainers = folder / "kit", trainers
        write_kit(self.kit, experiment, Deployment(sites=FIRST, rejoin_timeout=0.0))
        self.places = {name: folder / f"{name}.json" for name in FIRST}
        self.asked: list[tuple[int, str, str]] = []
        self.kills: list[int] = []
        self.over = threading.Event()
        for name in FIRST:
            self.start(name)
        self.path = current.begin(self.kit / "server", "run")

    def start(self, name: str) -> None:
        """The site's trainer listens, with its folder of this kit."""
        trainer = self.trainers[name]
        trainer.folder, trainer._states = self.kit / "sites" / name, {}
        place = self.places[name]

        def answer(data: bytes) -> bytes:
            request = Request.decode(data)
            self.asked.append((request.round, request.name, name))
            self.change(request.round)
            return trainer.answer(data)

        threading.Thread(
            target=serve, args=(place, answer, lambda: not self.over.is_set()), daemon=True
        ).start()

    def change(self, round: int) -> None:
        """What the federation's owner does while this round is under way, once."""
        sites = read_settings(Deployment, self.kit / "server" / "deployment.yaml").sites
        if round == 1 and NEW not in sites:
            add_site(self.kit, NEW, self.kit / "ca.key")
            self.places[NEW] = self.kit.parent / f"{NEW}.json"
            self.start(NEW)
        if round == 3 and OLD in sites:
            remove_site(self.kit, OLD, self.kit / "ca.key")

    def serve(self) -> None:
        """The ServerApp, which is killed at the first answer in a round of `kills`."""
        grid = HandGrid(self.places)

        def spoil(site: str, reply: Any) -> list[Any]:
            if self.kills and (self.asked[-1][:2]) == (self.kills[0], "train"):
                self.kills.pop(0)
                raise Killed
            return [reply]

        grid.spoil = spoil
        current.serve_current(
            self.kit / "server", lambda deployment: flower.GridCarrier(grid, timeout=60, poll=0.01)
        )

    def outcome(self) -> str:
        """One hash of the server's tensors and of every site's own at the end."""
        checkpoint = RunFolder(self.path).last()
        assert checkpoint is not None
        assert checkpoint.round == 4
        tensors = dict(checkpoint.state.shared)
        for name, trainer in self.trainers.items():
            [state] = [trainer._state(folder.name) for folder in (trainer.folder / "runs").iterdir()]
            state.look_at(4)
            tensors |= {f"{name}:{n}": t for n, t in (state.read(name) or {}).items()}
        return digest_of(tensors)


@contextmanager
def scenario(*arguments: Any) -> Iterator[Scenario]:
    made = Scenario(*arguments)
    try:
        yield made
    finally:
        made.over.set()


def test_a_site_added_and_one_removed_in_the_middle_also_when_the_server_is_killed(
    experiment, trainers, tmp_path
) -> None:
    with scenario(tmp_path / "whole", experiment, trainers) as whole:
        whole.serve()
        expected, ledger = whole.outcome(), RunFolder(whole.path).history("ledger.jsonl")
    trained = {e["round"]: e["answered"] for e in ledger if e["request"] == "train"}
    assert trained == {
        1: ["image-01", OLD],
        2: ["image-01", OLD, NEW],
        3: ["image-01", OLD, NEW],
        4: ["image-01", NEW],
    }
    changes = [(e["round"], e["joined"], e["left"]) for e in ledger if e["request"] == "members"]
    assert changes == [(2, [NEW], []), (4, [], [OLD])]
    assert [a for a in whole.asked if a[2] == OLD and a[0] == 4] == []
    lists = [
        read_list(whole.kit / "sites" / n / "sites.json", whole.kit / "sites" / n / "ca.pem").version
        for n in ("image-01", NEW)
    ]
    assert lists == [3, 3], "the new list travelled to the sites that stay"
    with scenario(tmp_path / "killed", experiment, trainers) as killed:
        killed.kills = [2, 4]
        for _ in range(2):
            with pytest.raises(Killed):
                killed.serve()
        killed.serve()
        assert killed.kills == []
        assert killed.outcome() == expected
        again = RunFolder(killed.path).history("ledger.jsonl")
    told = ("round", "request", "asked", "answered", "refused", "joined", "left", "notes")
    assert [[e.get(k) for k in told] for e in again] == [[e.get(k) for k in told] for e in ledger]
    summary = (killed.path / "summary.json").read_text()
    assert all(f'"client": "{name}"' in summary for name in (*FIRST, NEW))


@pytest.mark.slow
@pytest.mark.parametrize("dp", [None, {"clip": 0.01, "noise_multiplier": "calibrated", "epsilon": 50.0}])
def test_a_secure_sum_takes_a_new_site_in_and_goes_on_without_one_that_left(dp, tmp_path) -> None:
    pytest.importorskip("Crypto", reason="the extra privacy is not installed")
    privacy = {"secure": {"least": 3}} | ({} if dp is None else {"dp": dp})
    method = {"name": "ffa-lora", "weights": "uniform"}
    silos, path = changing(tmp_path, 3, method, privacy=privacy)
    current.serve_current(path.parents[1], lambda deployment: silos)
    ledger = [e for e in RunFolder(path).history("ledger.jsonl") if e["request"] == "train"]
    assert [(e["answered"], e["refused"]) for e in ledger] == [
        (["image-01", "image-02", "image-03"], {}),
        (["image-01", "image-02", "image-03", "image-04"], {}),
        (["image-01", "image-03", "image-04"], {}),
    ]


def test_a_site_that_comes_back_with_a_new_folder_gets_all_changes_of_the_base(tmp_path) -> None:
    """FLoRA sends each site the changes that it lacks; a new folder lacks those that the old one had."""
    names = ("image-01", "image-02")
    experiment = Experiment.parse(
        {
            "rounds": 4,
            "method": "flora",
            "data": {"clients": {"image": 2}, "train": 2, "test": 1},
            "training": {"batch_size": 2},
            "evaluation": {"generate": False, "controls": False, "samples": 0, "every": 4},
            "engine": {"cohort": "off", "device": "cpu"},
        }
    )
    kit = tmp_path / "kit"
    write_kit(kit, experiment, Deployment(sites=names))
    silos = Known(experiment, names, kit / "sites")

    def change(site: str, question: bytes) -> Iterator[tuple[str, bytes | Lost]]:
        at = Request.decode(question).round
        sites = read_settings(Deployment, kit / "server" / "deployment.yaml").sites
        if at == 2 and OLD in sites and OLD in silos.trainers:
            yield site, silos.trainer(site).answer(question)
            if site == OLD:
                remove_site(kit, OLD, kit / "ca.key")
                del silos.trainers[OLD]
                (kit / "sites" / OLD).rename(kit / "before")
            return
        if at == 3 and OLD not in sites:
            add_site(kit, OLD, kit / "ca.key")
        yield site, silos.trainer(site).answer(question)

    silos.between = change
    path = current.begin(kit / "server", "run")
    current.serve_current(kit / "server", lambda deployment: silos)
    trained = [e["answered"] for e in RunFolder(path).history("ledger.jsonl") if e["request"] == "train"]
    assert trained == [list(names), list(names), ["image-01"], list(names)]
    stayed, back = (max((kit / "sites" / n / "runs").glob("*/personal/*")) for n in names)
    bases = [{n: t for n, t in read_checked(f).items() if ".merged_" in n} for f in (stayed, back)]
    assert bases[0]
    assert all(torch.equal(tensor, bases[1][name]) for name, tensor in bases[0].items())


def test_a_site_that_comes_back_with_other_modalities_is_refused(experiment, tmp_path) -> None:
    """A resumed run builds its model from the descriptions of the sites of the beginning, which would have changed."""
    before = {n: Described(holds=("image", "text"), train=1, test=1) for n in ("a", "b")}
    write_descriptions(tmp_path, before)

    class Carrier:
        holds = ("text",)

        def exchange(self, requests: Any) -> Iterator[tuple[str, bytes]]:
            for name, question in requests.items():
                numbers = {"holds": list(self.holds), "train": 2, "test": 1}
                yield name, Answer(name, fingerprint(question), Payload({}, numbers)).encode()

    carrier, run = Carrier(), "a" * 32
    engine = RemoteEngine(SimpleNamespace(one_model=True), {}, carrier, run, "b" * 64)
    federation = SimpleNamespace(engine=engine, clients_changed=lambda: None)
    members = Members.of(tmp_path / "state", before, -1)
    made = server._joining(federation, experiment, members, before, tmp_path, carrier, run, set)
    with pytest.raises(ExperimentError, match="it holds text, and held image, text when it took part before"):
        made.describe("b")
    carrier.holds = ("text", "image")
    assert made.describe("b").train == 2


@pytest.mark.slow
def test_turns_that_are_dealt_among_the_first_sites_take_no_new_one_and_lose_none(tmp_path) -> None:
    pytest.importorskip("Crypto", reason="the extra privacy is not installed")
    method = {"name": "ffa-lora", "weights": "uniform"}
    dp = {"mechanism": "tree", "noise_multiplier": 0.01}
    silos, path = changing(tmp_path, 4, method, privacy={"dp": dp}, cohort={"fraction": 0.5})
    with pytest.raises(ExperimentError, match="the run cannot go on without image-02"):
        current.serve_current(path.parents[1], lambda deployment: silos)
    [joining] = [e for e in RunFolder(path).history("ledger.jsonl") if e["request"] == "members"]
    assert "deals the sites' turns by all their names" in joining["refused"]["image-05"]
    assert "the run cannot go on without image-02: privacy.dp.mechanism" in (current.failure(path) or "")


def changing(folder: Path, sites: int, method: Any, **settings: Any) -> tuple["Known", Path]:
    """A run between `sites` sites, begun and not served yet: one more is added in round 1, and image-02 removed in round 2."""
    *names, new = (f"image-{n:02d}" for n in range(1, sites + 2))
    experiment = Experiment.parse(
        {
            "rounds": sites,
            "method": method,
            "data": {"clients": {"image": sites + 1}, "train": 4, "test": 1},
            "training": {"batch_size": 4},
            "evaluation": {"generate": False, "controls": False, "samples": 0, "every": 9},
            "engine": {"cohort": "off", "device": "cpu"},
            **settings,
        }
    )
    kit = folder / "kit"
    write_kit(kit, experiment, Deployment(sites=tuple(names)))
    silos = Known(experiment, (*names, new), kit / "sites")

    def change(site: str, question: bytes) -> Iterator[tuple[str, bytes | Lost]]:
        at = Request.decode(question).round
        listed = read_settings(Deployment, kit / "server" / "deployment.yaml").sites
        if at == 1 and new not in listed:
            add_site(kit, new, kit / "ca.key")
        if at == 2 and "image-02" in listed:
            remove_site(kit, "image-02", kit / "ca.key")
        yield site, silos.trainer(site).answer(question)

    silos.between = change
    return silos, current.begin(kit / "server", "run")


class Known(Silos):
    """A carrier whose sites are all there, with the folders of a kit."""

    def write_kit(self) -> None:
        pass

    def wait_for(self, sites: tuple[str, ...], seconds: float) -> list[str]:
        return []


def joining(tmp_path: Path, wanted: list[str], **changes: Callable[..., Any]) -> Joining:
    """Joining of a run that began with a and b; clients are their names."""
    members = Members.of(tmp_path / "state", ("a", "b"), -1)
    site = Described(holds=("image",), train=1, test=1)
    options: dict[str, Any] = {
        "describe": lambda name: site,
        "keep": lambda described: None,
        "client": lambda name, described: name,
        "check": lambda clients: None,
    } | changes
    clients: Any = {"a": "a", "b": "b"}
    return Joining(members, clients, lambda known: wanted, **options)


def test_a_site_that_cannot_join_is_refused_by_name_and_the_others_go_on(tmp_path) -> None:
    def client(name: str, described: Described) -> str:
        if name == "d":
            raise ExperimentError("no site of the run's beginning holds audio")
        return name

    join = joining(tmp_path, ["a", "b", "c", "d"], client=client)
    [line] = join(3)
    assert sorted(join.clients) == ["a", "b", "c"]
    assert (line["joined"], line["refused"]) == (
        ["c"],
        {"d": "cannot join: no site of the run's beginning holds audio"},
    )
    assert join.members.changes == [Change(round=3, joined=("c",))]


def test_a_round_that_is_repeated_keeps_its_sites(tmp_path) -> None:
    join = joining(tmp_path, ["a", "c"])
    [line] = join(2)
    again = joining(tmp_path, ["a", "b", "c", "d"])
    again.members = Members.of(tmp_path / "state", ("a", "b", "c"), 1)
    again.restore({"c": Described(holds=(), train=0, test=0)})
    assert sorted(again.clients) == ["a", "c"]
    [repeated] = again(2)
    assert {k: v for k, v in repeated.items() if k != "seconds"} == {
        k: v for k, v in line.items() if k != "seconds"
    }
    assert sorted(again.clients) == ["a", "c"], "another change waits for the next round"
    again(3)
    assert sorted(again.clients) == ["a", "b", "c", "d"]
    back = Members.of(tmp_path / "state", ("a", "b", "c", "d"), 0)
    assert back.changes == [], "a checkpoint that was put back is from before the changes"


def test_too_few_that_are_left_end_the_run_in_a_sentence_and_change_nothing(tmp_path) -> None:
    def check(clients: Any) -> None:
        if len(clients) < 2:
            raise ExperimentError("privacy.secure opens no sum of fewer than 2 clients")

    join = joining(tmp_path, ["a"], check=check)
    with pytest.raises(ExperimentError, match=r"cannot go on without b: privacy\.secure opens no sum"):
        join(2)
    assert sorted(join.clients) == ["a", "b"]
    assert Members.of(tmp_path / "state", ("a", "b"), 1).changes == []


def test_a_damaged_record_of_members_is_one_sentence(tmp_path) -> None:
    joining(tmp_path, ["a", "c"])(1)
    file = tmp_path / "state" / "members.json"
    with pytest.raises(ExperimentError, match=r"names the site c, which sites.json does not describe"):
        Members.of(tmp_path / "state", ("a", "b"), 1)
    file.write_text(file.read_text().replace("joined", "jained"))
    with pytest.raises(DiskError, match="is damaged"):
        Members.of(tmp_path / "state", ("a", "b", "c"), 1)
    (tmp_path / "sites.json").write_text('{"a": {"holds": 3}}')
    with pytest.raises(DiskError, match="is damaged"):
        read_descriptions(tmp_path)
