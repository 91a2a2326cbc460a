"""ServerApp's carrier and ClientApp's stub on a Grid in this process: what Flower would carry, and what Flower would do to it."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fedloom.deploy.remote_engine import Lost
from fedloom.deploy.server import go_on
from fedloom.deploy.trainer_link import Unreachable, ask, serve
from fedloom.experiment.run import run
from fedloom.federation.progress import Stopped
from fedloom.federation.run_folder import RunFolder
from tests.deploy.silos import Silos

flower = pytest.importorskip("fedloom.deploy.flower_server", reason="Flower is not installed")
from flwr.app import Error, Message  # noqa: E402

from tests.deploy.hand_grid import HandGrid  # noqa: E402

NAMES = ("audio-01", "image-01")


@pytest.fixture
def listening(tmp_path) -> Iterator[dict[str, Path]]:
    """Two trainers' ends that answer with what they were asked, backwards."""
    over = threading.Event()
    places = {name: tmp_path / f"{name}.json" for name in NAMES}
    threads = [
        threading.Thread(target=serve, args=(p, lambda d: d[::-1], lambda: not over.is_set()), daemon=True)
        for p in places.values()
    ]
    for thread in threads:
        thread.start()
    yield places
    over.set()
    for place, thread in zip(places.values(), threads, strict=True):
        with suppress(Unreachable):  # it may have seen that it is over by itself
            ask(place, b"", patience=0.2)
        thread.join(10)


def test_bytes_go_to_every_site_and_come_back(listening) -> None:
    grid = HandGrid(listening)
    carrier = flower.GridCarrier(grid, timeout=5, poll=0.01)
    big = bytes(range(256)) * 40_000  # more than one of Flower's chunks
    assert dict(carrier.exchange({"audio-01": b"abc", "image-01": big})) == {
        "audio-01": b"cba",
        "image-01": big[::-1],
    }
    assert grid.sent == 2


def test_a_stop_ends_the_wait_for_answers_and_for_sites(listening) -> None:
    grid, looks = HandGrid(listening), []
    grid.spoil = lambda site, reply: []  # a phase that hangs

    def check() -> None:
        looks.append(1)
        if len(looks) % 4 == 0:
            raise Stopped

    carrier = flower.GridCarrier(grid, timeout=600, poll=0.01, check=check)
    with pytest.raises(Stopped):
        list(carrier.exchange({"audio-01": b"abc"}))
    grid.away.add("image-01")
    looks[:] = [1] * 3
    with pytest.raises(Stopped):
        carrier.wait_for(NAMES, 600)


def test_a_site_that_is_away_is_not_waited_for(listening) -> None:
    grid = HandGrid(listening)
    grid.away.add("image-01")
    carrier = flower.GridCarrier(grid, timeout=60, poll=0.01)
    answers = dict(carrier.exchange({"audio-01": b"abc", "image-01": b"x"}))
    assert answers == {"audio-01": b"cba", "image-01": Lost("unreachable: the site is not connected")}
    assert carrier.wait_for(NAMES, 0.0) == ["image-01"]
    assert carrier.wait_for(("audio-01",), 0.0) == []


def failing(grid: HandGrid, site: str, code: int, times: int = 1) -> None:
    """Let a site's first replies be Flower's errors; the SuperLink speaks for a node that is gone."""
    left = [code] * times

    def spoil(sender: str, reply: Message) -> list[Message]:
        if sender != site or not left:
            return [reply]
        error = Message(Error(left.pop(), " why\n"), reply_to=reply)
        error.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
        error.metadata.__dict__["_src_node_id"] = 1
        return [error]

    grid.spoil = spoil


@pytest.mark.parametrize(("code", "message"), [(2, "raised: why"), (8, "error 8: why")])
def test_flowers_errors_get_names(code, message, listening) -> None:
    grid = HandGrid(listening)
    failing(grid, "image-01", code)
    answers = dict(flower.GridCarrier(grid, timeout=5, poll=0.01).exchange(dict.fromkeys(NAMES, b"ab")))
    assert answers == {"audio-01": b"ba", "image-01": Lost(message)}


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The carrier's seconds: they pass when it sleeps, and take no time."""
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(flower, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    return now


@pytest.mark.parametrize("code", [3, 4, 5])
def test_what_was_lost_on_the_way_is_asked_again(code, listening, clock) -> None:
    grid = HandGrid(listening)
    failing(grid, "image-01", code, times=3)
    carrier = flower.GridCarrier(grid, timeout=600, rejoin=60, poll=0.5)
    answers = dict(carrier.exchange(dict.fromkeys(NAMES, b"ab")))
    assert answers == dict.fromkeys(NAMES, b"ba")
    assert grid.sent == 5
    assert clock[0] - 1000 > 5, "each time after a longer pause"


def test_a_dead_node_that_is_listed_still_is_waited_for_until_it_is_back(listening, clock) -> None:
    grid = HandGrid(listening)
    failing(grid, "image-01", 5)
    seen = grid.get_nodes

    def nodes() -> list:
        grid.away = {"image-01"} if 1001 < clock[0] < 1050 else set()
        return seen()

    grid.get_nodes = nodes
    carrier = flower.GridCarrier(grid, timeout=600, rejoin=60, poll=0.5)
    assert carrier.wait_for(NAMES, 10.0) == [], "Flower lists it"
    assert dict(carrier.exchange(dict.fromkeys(NAMES, b"ab"))) == dict.fromkeys(NAMES, b"ba")
    assert 1050 <= clock[0] < 1060


def test_a_site_that_stays_away_is_waited_for_once(listening, clock) -> None:
    grid = HandGrid(listening)
    grid.spoil = lambda site, reply: [reply] if site == "audio-01" else []
    seen = grid.get_nodes
    grid.get_nodes = lambda: (grid.away.update({"image-01"} if clock[0] > 1001 else ()), seen())[1]
    carrier = flower.GridCarrier(grid, timeout=600, rejoin=60, poll=0.5)
    first = dict(carrier.exchange(dict.fromkeys(NAMES, b"ab")))
    assert first == {"audio-01": b"ba", "image-01": Lost("lost: its node is gone")}
    assert 60 <= clock[0] - 1001 < 65
    began = clock[0]
    second = dict(carrier.exchange(dict.fromkeys(NAMES, b"ab")))
    assert second["image-01"] == Lost("unreachable: the site is not connected")
    assert clock[0] - began < 2


def test_a_supernode_started_anew_before_its_death_was_noticed_is_asked_again(listening, clock) -> None:
    grid = HandGrid(listening)

    def spoil(site: str, reply: Message) -> list[Message]:
        if site == "image-01" and "image-01" not in grid.started:
            grid.started["image-01"] = "later"  # killed with the question, and back
            return []
        return [reply]

    grid.spoil = spoil
    carrier = flower.GridCarrier(grid, timeout=600, rejoin=60, poll=0.5)
    assert dict(carrier.exchange(dict.fromkeys(NAMES, b"ab"))) == dict.fromkeys(NAMES, b"ba")
    assert clock[0] - 1000 < 60


def test_an_upload_that_a_killed_site_began_keeps_no_other_answer_waiting(listening) -> None:
    grid = HandGrid(listening)
    pull, cut_off = grid.pull_messages, threading.Event()
    stuck: list[str] = []

    def pull_messages(numbers: list[str]) -> list[Message]:
        due = list(pull(numbers))
        if not stuck and any(grid.site_of[reply.metadata.reply_to_message_id] == "audio-01" for reply in due):
            stuck.extend(numbers)
            grid.replies += due  # whichever question it was pulled for
            grid.started["audio-01"] = "later"
            cut_off.wait(60)
            return []
        return due

    grid.pull_messages = pull_messages
    try:
        carrier = flower.GridCarrier(grid, timeout=50, poll=0.01)
        answers = dict(carrier.exchange(dict.fromkeys(NAMES, b"ab")))
        assert not cut_off.is_set()
    finally:
        cut_off.set()
    assert stuck
    assert answers == dict.fromkeys(NAMES, b"ba")


def test_silence_ends_with_the_timeout_and_late_and_double_replies_are_nobodys(listening) -> None:
    grid = HandGrid(listening)
    late: list[Message] = []

    def spoil(site: str, reply: Message) -> list[Message]:
        if site == "image-01":
            late.append(reply)
            return []
        return [*late, reply, reply]

    grid.spoil = spoil
    carrier = flower.GridCarrier(grid, timeout=0.2, poll=0.01)
    first = list(carrier.exchange({"image-01": b"ab"}))
    assert first == [("image-01", Lost("missing: no answer within 0.2 s"))]
    assert list(carrier.exchange({"audio-01": b"ab"})) == [("audio-01", b"ba")]


def test_a_node_without_its_trainer_sends_an_error(listening, monkeypatch) -> None:
    monkeypatch.setattr(
        "fedloom.deploy.flower_node.ask", lambda place, data, patience: ask(place, data, patience=0.1)
    )
    grid = HandGrid({**listening, "south": Path("/nowhere/trainer.json")})
    answers = dict(flower.GridCarrier(grid, timeout=5, poll=0.01).exchange({"south": b"x"}))
    assert "does not answer" in answers["south"].why


@pytest.mark.slow
def test_a_run_over_the_grid_ends_in_the_bits_of_the_local_engine(quick, tmp_path) -> None:
    data = {"clients": {"image": 1, "audio": 1}, "train": 8, "test": 2}
    experiment = quick("feda2-lora", data=data, engine={"cohort": "off"})
    run(experiment, tmp_path / "local")
    silos = Silos(experiment, NAMES, tmp_path / "sites")
    over = threading.Event()
    places = {name: tmp_path / f"{name}.json" for name in NAMES}
    for name in NAMES:
        options = (places[name], silos.trainer(name).answer, lambda: not over.is_set())
        threading.Thread(target=serve, args=options, daemon=True).start()
    carrier = flower.GridCarrier(HandGrid(places), timeout=60, poll=0.01)
    go_on(experiment, NAMES, tmp_path / "far", carrier)
    over.set()
    one, two = RunFolder(tmp_path / "local").last(), RunFolder(tmp_path / "far").last()
    assert all(torch.equal(t, two.state.shared[n]) for n, t in one.state.shared.items())
