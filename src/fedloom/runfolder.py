"""A run's folder on disk: what is written when, atomically, and what a resumed run reads back.

A checkpoint is a folder `state/round-000003` that appears by one rename; a client's personal tensors lie in
`state/clients/<client>/round-000003.safetensors` and the checkpoint says which file belongs to it. The histories
(`metrics.jsonl`, `ledger.jsonl`) may run ahead of the last checkpoint; resuming cuts them back to it.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from fedloom.errors import ExperimentError
from fedloom.methods import State
from fedloom.metrics import EvaluationRecord

HISTORIES = ("metrics.jsonl", "ledger.jsonl")


@dataclass(frozen=True)
class Personal:
    """One client's own tensors, and the round in which they last changed."""

    changed: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on: the last finished round, the method's state, the clients' personal tensors."""

    round: int
    state: State
    personal: Mapping[str, Personal]
    totals: Mapping[str, Any]


class RunFolder:
    """Reads and writes one run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the folder. Raises ExperimentError if it cannot be written to, or already holds a run."""
        if (self.path / "experiment.yaml").exists():
            raise ExperimentError(
                f"{self.path} already holds a run; choose another --out, or continue it with --resume {self.path}"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".write-test"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ExperimentError(
                f"cannot write to the output folder {self.path}: {error.strerror}"
            ) from error

    def write_experiment(self, fields: Mapping[str, Any]) -> None:
        """`experiment.yaml`: the resolved experiment with versions."""
        text = yaml.safe_dump(dict(fields), sort_keys=False, allow_unicode=True)
        write_atomic(self.path / "experiment.yaml", text.encode())

    def append(self, history: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Add JSON lines to a history."""
        with (self.path / history).open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps(line, sort_keys=True, allow_nan=False) + "\n")

    def write_predictions(self, moment: str, records: Iterable[EvaluationRecord]) -> None:
        """`predictions-start.jsonl`, `predictions-end.jsonl`: every test sample's reference and generated answer."""
        text = "".join(json.dumps(asdict(r), sort_keys=True, ensure_ascii=False) + "\n" for r in records)
        write_atomic(self.path / f"predictions-{moment}.jsonl", text.encode())

    def predictions(self, moment: str) -> dict[str, str]:
        """Generated answers by sample uid."""
        path = self.path / f"predictions-{moment}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {r["uid"]: r["prediction"] for r in map(json.loads, lines)}

    def history(self, history: str) -> list[dict[str, Any]]:
        """The complete lines of a history; a torn last line, left by a kill, is dropped."""
        path = self.path / history
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def cut_histories(self, after: int) -> None:
        """Drop every line of a round later than `after`, and the controls, which are measured once at the end."""
        for name in HISTORIES:
            lines = (x for x in self.history(name) if not x.get("name", "").startswith("control/"))
            kept = [x for x in lines if x["round"] <= after]
            text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept)
            write_atomic(self.path / name, text.encode())

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; it counts only once its folder has its final name."""
        state_folder = self.path / "state"
        label = f"round-{checkpoint.round:06d}"
        part = state_folder / f".{label}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file(dict(checkpoint.state.shared), part / "shared.safetensors")
        save_file(dict(checkpoint.state.tensors), part / "method.safetensors")
        files = {
            client: self._save_personal(client, own)
            for client, own in checkpoint.personal.items()
            if own.tensors
        }
        changed = {client: checkpoint.personal[client].changed for client in files}
        described = {
            "round": checkpoint.round,
            "values": dict(checkpoint.state.values),
            "totals": dict(checkpoint.totals),
            "personal": files,
            "changed": changed,
        }
        write_atomic(part / "state.json", json.dumps(described, sort_keys=True).encode())
        for file in part.iterdir():
            _sync(file)
        shutil.rmtree(state_folder / label, ignore_errors=True)
        part.rename(state_folder / label)
        _sync(state_folder)
        self._forget_before(checkpoint.round, set(files.values()))

    def last(self) -> Checkpoint | None:
        """The newest complete checkpoint, or None."""
        found = sorted((self.path / "state").glob("round-*")) if (self.path / "state").is_dir() else []
        if not found:
            return None
        folder = found[-1]
        described = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        state = State(
            load_file(folder / "shared.safetensors"),
            load_file(folder / "method.safetensors"),
            described["values"],
        )
        personal = {
            client: Personal(described["changed"][client], load_file(self.path / "state" / file))
            for client, file in described["personal"].items()
        }
        self._forget_before(described["round"], set(described["personal"].values()))
        return Checkpoint(described["round"], state, personal, described["totals"])

    def _save_personal(self, client: str, own: "Personal") -> str:
        """Write a client's tensors unless they are there already; returns the file, relative to `state/`."""
        file = Path("clients") / client / f"round-{own.changed:06d}.safetensors"
        target = self.path / "state" / file
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, tensors_to_bytes({n: t.contiguous() for n, t in own.tensors.items()}))
        return str(file)

    def _forget_before(self, round: int, used: set[str]) -> None:
        """Remove checkpoints older than `round`, and personal files that it does not use."""
        folder = self.path / "state"
        for old in folder.glob("round-*"):
            if old.name < f"round-{round:06d}":
                shutil.rmtree(old, ignore_errors=True)
        for file in folder.glob("clients/*/*.safetensors"):
            if str(file.relative_to(folder)) not in used:
                file.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    _sync(part)
    part.replace(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
