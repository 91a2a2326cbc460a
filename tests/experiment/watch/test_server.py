"""The page's server: what it gives, what it refuses, and what it says when nothing has changed."""

import json
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.experiment.watch.folder_view import FolderView
from fedloom.experiment.watch.server import Server
from tests.experiment.watch.growing_run import GrowingRun, data, get, served


@pytest.fixture
def run(tmp_path: Path) -> GrowingRun:
    run = GrowingRun(tmp_path / "r")
    run.begin()
    run.round(0, accuracy=0.25)
    run.round(1, refused={"bob": "not finite"}, answered=["ann"])
    return run


def test_new_rounds_appear_and_nothing_is_sent_twice(run: GrowingRun) -> None:
    with served(run.folder) as server:
        first = get(server)
        tag = first.getheader("ETag") or ""
        body = first.read()
        again = get(server, If_None_Match=tag)
        assert (again.status, again.read(), again.getheader("ETag")) == (304, b"", tag)
        run.add("metrics.jsonl", torn='{"round": 2, "name": "global/image/tok')
        assert get(server, If_None_Match=tag).status in (200, 304), "half a line is no error"
        run.add("metrics.jsonl", torn='en_accuracy", "value": 0.75}\n')
        grown = data(server)
        assert grown != json.loads(body)
        [chart] = [c for c in grown["charts"] if c["title"] == "token accuracy"]
        assert chart["lines"] == [
            {"name": "image", "points": [[0, 0.25, "25.0 %"], [1, 0.5, "50.0 %"], [2, 0.75, "75.0 %"]]}
        ]


def test_the_page_shows_settings_ledger_clients_and_losses(run: GrowingRun) -> None:
    with served(run.folder) as server:
        page = data(server)
    assert {"method": "FedSA-LoRA", "rounds": "5", "seed": "3", "clients": "2"}.items() <= dict(
        page["facts"]
    ).items()
    tables = {t["key"]: t for t in page["tables"]}
    [line] = tables["ledger"]["lines"]
    assert line[:3] == ["1", "train", "2"]
    assert line[3] == {"text": "1", "state": "bad"}
    assert line[4:7] == ["1.50 kB", "2.00 MB", "1.5 s"]
    assert line[7]["text"] == "bob refused: not finite"
    ann, bob = tables["clients"]["lines"]
    assert ann == ["ann", {"text": "round 1"}, "2.000", "image", "10", "4"]
    assert bob[1]["text"] == "round 1: refused: not finite"
    [loss] = [c for c in page["charts"] if c["title"] == "training loss"]
    assert [x["name"] for x in loss["lines"]] == ["mean", "ann", "bob"]
    assert "name: growing" in page["settings"]


def test_controls_stand_beside_the_figure(run: GrowingRun) -> None:
    name = "control/image/zeroed/token_accuracy"
    run.add("metrics.jsonl", {"round": 1, "name": name, "value": 0.125})
    with served(run.folder) as server:
        [controls] = [t for t in data(server)["tables"] if t["key"] == "controls"]
    assert controls["header"] == ["figure", "as it is", "zeroed"]
    assert controls["lines"] == [["image: token accuracy", "50.0 %", "12.5 %"]]


def test_samples_with_media_and_answers_so_far(run: GrowingRun) -> None:
    run.samples()
    answers = {"uid": "s0", "client": "ann", "kind": "image", "reference": "red", "prediction": "blue"}
    run.add("predictions-start.jsonl", answers)
    with served(run.folder) as server:
        first, second = data(server)["samples"]
        assert first["answers"] == [{"moment": "before", "text": "blue", "right": False}]
        assert second["answers"] == []
        assert (second["spoken"], second["media"][0]["sound"]) == ("how many", True)
        run.add("predictions-end.jsonl", answers | {"prediction": "Red."})
        assert data(server)["samples"][0]["answers"][1] == {"moment": "after", "text": "Red.", "right": True}
        picture = get(server, first["media"][0]["href"])
        assert (picture.getheader("Content-Type"), picture.read()[:4]) == ("image/png", b"\x89PNG")
        sound = get(server, second["media"][0]["href"], Range="bytes=0-3")
        assert (sound.status, sound.read(), sound.getheader("Content-Type")) == (206, b"RIFF", "audio/wav")
        assert get(server, second["media"][0]["href"], Range=f"bytes={'9' * 5000}-").status == 200
        assert (sound.getheader("Content-Range") or "").startswith("bytes 0-3/")
        assert get(server, second["media"][0]["href"], Range="bytes=999999-").status == 416


def test_only_what_the_page_lists_is_served(run: GrowingRun, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    hostile = {"uid": "x", "client": "ann", "kind": "image", "question": "q", "reference": "r"}
    names = ("../../secret.png", "/etc/passwd", "../state/events.jsonl", "link.png", "gone.png", "a\0.png")
    run.samples(*(hostile | {"image": name} for name in names))
    (run.folder / "samples" / "link.png").symlink_to(tmp_path / "secret.png")
    with served(run.folder) as server:
        page = data(server)
        assert [s["media"] for s in page["samples"][2:]] == [[]] * len(names)
        ways = (
            "summary.json experiment.yaml page.html ../ ..%2f media/ media/2 media/-1 media/%C2%B2 media/000-image.png "
            "media/../../state/events.jsonl run/0/ run/0/data run/x/data"
        )
        for way in ways.split():
            assert get(server, way).status == 404, way
        for whole in (
            "/",
            "/data",
            "/wrong/data",
            "//",
            "//[",
            "/../etc/passwd",
            f"/{server.word}",
            f"/{server.word}x/",
        ):
            assert get(server, whole, whole=True).status == 404, whole
        assert get(server, f"http://evil.example/{server.word}/data", whole=True).status == 421


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:%d", 200),
        ("localhost:%d", 200),
        ("localhost:9000", 200),  # a tunnel's end
        ("evil.example:%d", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost:80@evil.example", 421),
        ("", 421),
    ],
)
def test_requests_for_another_host_are_refused(run: GrowingRun, host: str, code: int) -> None:
    with served(run.folder) as server:
        name = host % server.server_port if "%d" in host else host
        assert get(server, Host=name).status == code


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_than_get_are_refused(run: GrowingRun, method: str) -> None:
    with served(run.folder) as server:
        answer = get(server, method=method)
        assert (answer.status, answer.getheader("Allow")) == (405, "GET")


def test_every_answer_has_a_strict_policy(run: GrowingRun) -> None:
    with served(run.folder) as server:
        for path in ("", "data", "watch.js", "charts.js", "watch.css", "icon.svg", "nothing"):
            answer = get(server, path)
            policy = answer.getheader("Content-Security-Policy") or ""
            assert policy.startswith("default-src 'none'; script-src 'self';")
            assert "unsafe" not in policy
            assert "http" not in policy
            assert answer.getheader("X-Content-Type-Options") == "nosniff"
            assert answer.status == (404 if path == "nothing" else 200)
        page = get(server, "").read().decode()
    assert "<style" not in page
    assert "onload" not in page
    assert "//" not in page.replace("<!DOCTYPE html>", "")


def test_texts_from_files_are_data_and_control_characters_are_shown(run: GrowingRun) -> None:
    evil = "<script>alert(1)</script>\x1b[31m\u202e"
    run.add("ledger.jsonl", {"round": 2, "asked": [evil], "answered": [], "refused": {evil: evil}})
    with served(run.folder) as server:
        answer = get(server)
        assert answer.getheader("Content-Type") == "application/json"
        text = json.dumps(json.loads(answer.read()), ensure_ascii=False)
    assert "<script>alert(1)</script>\ufffd[31m\ufffd" in text
    assert "\x1b" not in text
    assert "\\u001b" not in text


def test_figures_that_are_no_numbers_leave_the_page_whole(run: GrowingRun) -> None:
    run.add("metrics.jsonl", torn='{"round": 2, "name": "global/image/token_accuracy", "value": NaN}\n')
    run.add("metrics.jsonl", torn='{"round": 2, "name": "train/ann/loss", "value": null}\n')
    run.add("ledger.jsonl", torn='{"round": 2, "asked": ["ann"], "answered": ["ann"], "seconds": Infinity}\n')
    run.add("state/events.jsonl", torn='{"event": "round", "time": 1e999, "round": 2}\n')
    with served(run.folder) as server:
        page = data(server)
    [chart] = [c for c in page["charts"] if c["title"] == "token accuracy"]
    assert [p[0] for p in chart["lines"][0]["points"]] == [0, 1]
    [clients] = [t for t in page["tables"] if t["key"] == "clients"]
    assert clients["lines"][0][2] == "not finite"


def test_a_long_run_is_thinned_and_keeps_its_last_round(run: GrowingRun) -> None:
    name = "global/image/token_accuracy"
    run.add("metrics.jsonl", *({"round": r, "name": name, "value": 0.5} for r in range(2, 3002)))
    with served(run.folder) as server:
        [chart] = [c for c in data(server)["charts"] if c["title"] == "token accuracy"]
    rounds = [p[0] for p in chart["lines"][0]["points"]]
    assert len(rounds) <= 401
    assert (rounds[0], rounds[-1]) == (0, 3001)


def test_a_port_that_is_taken_is_one_sentence(run: GrowingRun) -> None:
    with served(run.folder) as server, pytest.raises(ExperimentError, match=r"--port: \d+ cannot be had"):
        Server(FolderView(run.folder), server.server_port)


def test_the_server_listens_on_loopback_alone(run: GrowingRun) -> None:
    with served(run.folder) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert server.address == f"http://127.0.0.1:{server.server_port}/{server.word}/"
