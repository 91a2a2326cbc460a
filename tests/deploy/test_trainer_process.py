"""The trainer as a process: SIGKILL while it trains, and whoever waits for its answer still gets the one that was due."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from fedloom.core.payload import Payload
from fedloom.deploy import run_site
from fedloom.deploy.processes import Child
from fedloom.deploy.settings import Deployment, experiment_digest
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.trainer_link import ask
from fedloom.deploy.wire import DESCRIBE, Answer, Request
from fedloom.experiment.finished_run import read_experiment


@pytest.mark.deploy
def test_a_trainer_killed_while_it_trains_gives_the_answer_that_was_due(quick, tmp_path: Path) -> None:
    data = {"clients": {"image": 1}, "train": 64, "test": 1}
    training = {"batch_size": 4, "epochs": 12}  # far longer than it takes to see that it has begun
    write_kit(
        tmp_path / "kit", quick("fedsa-lora", data=data, training=training), Deployment(sites=("image-01",))
    )
    folder = tmp_path / "kit" / "sites" / "image-01"
    run_site.accept(folder)
    digest = experiment_digest(read_experiment(folder))
    describe = Request("a" * 32, digest, DESCRIBE, 0, 0, Payload()).encode()
    question = Request("b" * 32, digest, "train", 1, 0, Payload()).encode()
    again = Request("c" * 32, digest, "train", 1, 0, Payload()).encode()
    place = folder / "trainer.json"
    command = [sys.executable, "-m", "fedloom.deploy.trainer_process", str(folder)]
    child = Child(command, dict(os.environ), tmp_path / "trainer.log")
    child.start()
    try:
        described = Answer.decode(ask(place, describe, patience=120)).payload.numbers
        assert (described["holds"], described["train"]) == (["image"], 64)
        answers: list[bytes] = []
        waiting = threading.Thread(target=lambda: answers.append(ask(place, question, patience=240)))
        waiting.start()
        begun = (
            folder / "runs" / ("b" * 32)
        )  # made when the request is taken up, long before its training ends
        until = time.monotonic() + 120
        while not begun.is_dir():
            assert time.monotonic() < until, child.last_words()
            time.sleep(0.01)
        assert not answers, "it is still training"
        assert child.process is not None
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
        place.unlink()
        child.start()
        waiting.join()
        due = ask(place, again, patience=120)
    finally:
        child.stop()
    assert Answer.decode(answers[0]).error is None
    one, other = (Answer.decode(x).payload for x in (answers[0], due))
    assert one.numbers == other.numbers
    assert Payload(one.tensors).encode() == Payload(other.tensors).encode()
