"""Real processes of a deployment: which there are, SIGKILL for all of a part, and what a run has done so far."""

from pathlib import Path
from typing import Any

from fedloom.deploy.demo import Loopback
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder
from tests.processes import kill


def experiment(rounds: int, images: int = 3) -> Experiment:
    """Something with personal tensors, quick to train: the messages are what takes time."""
    return Experiment.parse(
        {
            "rounds": rounds,
            "method": "fedsa-lora",
            "data": {"clients": {"image": images}, "train": 12, "test": 2},
            "training": {"batch_size": 6},
            "evaluation": {"generate": False, "controls": False, "samples": 0, "every": 99},
            "engine": {"cohort": "off", "threads": 1},
        }
    )


def kill_part(deployment: Loopback, name: str) -> None:
    """SIGKILL the server or a site, and wait until it is gone."""
    process = deployment.children[name].process
    assert process is not None
    kill(process.pid)
    process.wait()


def trained(path: Path) -> list[dict[str, Any]]:
    """The ledger's lines of training, one a round."""
    if not path.is_dir():
        return []
    return [e for e in RunFolder(path).history("ledger.jsonl") if e["request"] == "train"]


def has_trained(deployment: Loopback, site: str, round: int) -> bool:
    """Whether a site has come to keep its answer of a round, whatever has become of it since."""
    return any((deployment.folder / "sites" / site).glob(f"runs/*/answers/{round:06d}-*"))
