"""A run's folder that grows as a test says."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from PIL import Image

from fedloom.experiment.watch.folder_view import FolderView
from fedloom.experiment.watch.server import Server

CLIENTS = ("ann", "bob")


class GrowingRun:
    """Writes what a run writes, a step at a time."""

    def __init__(self, folder: Path, clients: tuple[str, ...] = CLIENTS, rounds: int = 5) -> None:
        self.folder, self.clients, self.rounds = folder, clients, rounds
        self.clock = time.time()  # events lie ahead of the lock, which is taken before them

    def begin(self, event: str = "begun", after: int = -1, **settings: Any) -> None:
        (self.folder / "state").mkdir(parents=True, exist_ok=True)
        fields = {"name": "growing", "rounds": self.rounds, "seed": 3, "method": {"name": "fedsa-lora"}}
        fields |= settings
        (self.folder / "experiment.yaml").write_text(yaml.safe_dump(fields))
        held = {name: {"holds": ["image"], "train": 10, "test": 4} for name in self.clients}
        self.event(event, after=after, clients=held)

    def event(self, event: str, **fields: Any) -> None:
        self.clock += 10
        self.add("state/events.jsonl", {"event": event, "time": self.clock, **fields})

    def round(self, number: int, accuracy: float = 0.5, **entry: Any) -> None:
        figures = {"global/image/token_accuracy": accuracy, "update_norm": 0.1}
        if number:
            figures |= {"train/loss": 1 / number, **{f"train/{c}/loss": 2 / number for c in self.clients}}
            usual = {"round": number, "request": "train", "asked": self.clients, "answered": self.clients}
            self.add(
                "ledger.jsonl", usual | {"bytes_up": 1500, "bytes_down": 2_000_000, "seconds": 1.5} | entry
            )
        self.add("metrics.jsonl", *({"round": number, "name": n, "value": v} for n, v in figures.items()))
        self.event("round", round=number, rounds=self.rounds)

    def add(self, name: str, *lines: dict[str, Any], torn: str = "") -> None:
        with (self.folder / name).open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines) + torn)

    def samples(self, *records: dict[str, Any]) -> None:
        place = self.folder / "samples"
        place.mkdir()
        Image.new("RGB", (24, 24), (200, 40, 30)).save(place / "000-image.png")
        soundfile.write(place / "001-audio.wav", np.zeros(8000), 16000)
        usual = [
            {"uid": "s0", "client": "ann", "kind": "image", "question": "what colour?", "reference": "red"}
            | {"image": "000-image.png"},
            {"uid": "s1", "client": "bob", "kind": "audio", "question": "listen", "reference": "two"}
            | {"audio": "001-audio.wav", "spoken": "how many"},
        ]  # fmt: skip
        (place / "samples.json").write_text(json.dumps([*usual, *records]))

    def end(self, status: str = "complete") -> None:
        clients = [{"client": c, "holds": ["image"], "train": 10, "test": 4} for c in self.clients]
        fields = {"name": "growing", "status": status, "rounds": self.rounds, "clients": clients}
        (self.folder / "summary.json").write_text(json.dumps(fields))
        self.event("ended")


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A server of the folder's page in a thread of this process."""
    with Server(FolderView(folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def get(
    server: Server, path: str = "data", method: str = "GET", whole: bool = False, **headers: str
) -> http.client.HTTPResponse:
    """The answer to a request below the server's word; `whole`: the path is the address as it is."""
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    link.putrequest(method, path if whole else f"/{server.word}/{path}", skip_host="Host" in headers)
    for name, value in headers.items():
        link.putheader(name.replace("_", "-"), value)
    link.endheaders()
    return link.getresponse()


def data(server: Server, path: str = "data") -> dict[str, Any]:
    answer = get(server, path)
    assert answer.status == 200
    found: dict[str, Any] = json.loads(answer.read())
    return found
