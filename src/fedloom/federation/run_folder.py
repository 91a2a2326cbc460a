"""A run's folder on disk: atomic writes, checkpoints, and reading them back on resume.

A checkpoint is a folder `state/round-000003` that appears by one rename; the clients' personal tensors lie beside
it in `state/clients` (see `client_states`). Its files hold a checksum; a damaged file raises ExperimentError. The histories
(`metrics.jsonl`, `ledger.jsonl`) and the index of the clients' tensors may be ahead of the last checkpoint; resuming truncates
them to it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.files import sync, write_atomic
from fedloom.core.tensor_files import PREFIX, damaged, read_checked, save_checked
from fedloom.methods import State
from fedloom.tasks.metrics import EvaluationRecord

CHANGE = "change"
HISTORIES = ("metrics.jsonl", "ledger.jsonl")


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after its last finished round, without the clients' personal tensors."""

    round: int
    state: State
    totals: Mapping[str, Any]
    change: Mapping[str, Tensor] = field(default_factory=dict)
    """The last round's change of the model, for `update/turn` in the next round."""


class RunFolder:
    """Reads and writes one run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def state(self) -> Path:
        """The folder of checkpoints, clients' tensors, and spilled uploads."""
        return self.path / "state"

    def create(self) -> None:
        """Create the folder. Raises ExperimentError if it is not writable, or already holds a run."""
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

    def write_skipped(self, sentences: Sequence[str]) -> None:
        """`skipped.txt`: one sentence per sample that was left out; no file for none."""
        if sentences:
            write_atomic(
                self.path / "skipped.txt", "".join(f"{s}\n" for s in sentences).encode(errors="replace")
            )

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
        """The complete lines of a history; a truncated last line, left by a kill, is dropped."""
        path = self.path / history
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def cut_histories(self, after: int) -> None:
        """Drop the lines of rounds later than `after`, and the controls, which are measured once at the end."""
        for name in HISTORIES:
            lines = (x for x in self.history(name) if not x.get("name", "").startswith("control/"))
            kept = [x for x in lines if x["round"] <= after]
            text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept)
            write_atomic(self.path / name, text.encode())

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; it is complete once its folder has its final name."""
        label = f"round-{checkpoint.round:06d}"
        partial = self.state / f".{label}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        parts = {"shared": checkpoint.state.shared, "method": checkpoint.state.tensors}
        if checkpoint.change:
            parts[CHANGE] = checkpoint.change
        for name, tensors in parts.items():
            save_checked(tensors, partial / f"{name}.safetensors")
        fields = {
            "round": checkpoint.round,
            "values": dict(checkpoint.state.values),
            "totals": dict(checkpoint.totals),
        }
        text = json.dumps(fields, sort_keys=True)
        envelope = {"digest": hashlib.sha256(text.encode()).hexdigest(), "state": text}
        write_atomic(partial / "state.json", json.dumps(envelope).encode())
        for file in partial.iterdir():
            sync(file)
        shutil.rmtree(self.state / label, ignore_errors=True)
        partial.rename(self.state / label)
        sync(self.state)
        self._forget_before(checkpoint.round)

    def last(self) -> Checkpoint | None:
        """The newest complete checkpoint, or None. Raises ExperimentError where it is damaged."""
        for leftover in self.state.glob(f"{PREFIX}*"):  # uploads of an interrupted round
            shutil.rmtree(leftover, ignore_errors=True)
        checkpoints = sorted(self.state.glob("round-*")) if self.state.is_dir() else []
        if not checkpoints:
            return None
        folder = checkpoints[-1]
        fields = _read_fields(folder / "state.json")
        state = State(
            read_checked(folder / "shared.safetensors"),
            read_checked(folder / "method.safetensors"),
            fields["values"],
        )
        self._forget_before(fields["round"])
        file = folder / f"{CHANGE}.safetensors"
        change = read_checked(file) if file.is_file() else {}
        return Checkpoint(fields["round"], state, fields["totals"], change)

    def _forget_before(self, round: int) -> None:
        """Remove checkpoints older than `round`."""
        for old in self.state.glob("round-*"):
            if old.name < f"round-{round:06d}":
                shutil.rmtree(old, ignore_errors=True)


def _read_fields(file: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint: round, values, totals. Raises ExperimentError where it is damaged."""
    try:
        envelope = json.loads(file.read_text(encoding="utf-8"))
        if hashlib.sha256(envelope["state"].encode()).hexdigest() != envelope["digest"]:
            raise damaged(file)
        fields: dict[str, Any] = json.loads(envelope["state"])
    except ExperimentError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(file) from error
    return fields
