"""A run's folder on disk: atomic writes, checkpoints, and reading them back on resume.

A checkpoint is a folder `state/round-000003` that appears by one rename; the clients' personal tensors lie beside
it in `state/clients` (see `client_states`). Every file that a resume reads is sealed: tensor files hold a checksum, and
`state.json` holds the seals of the histories (`metrics.jsonl`, `ledger.jsonl`), of the index of the clients' tensors and of the
predictions. The histories may be ahead of the last checkpoint; resuming cuts them to it.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.files import sync, text_lines, write_atomic
from fedloom.core.seals import EMPTY, Log, Seal, check, damaged, read_sealed, seal_of, write_sealed
from fedloom.core.tensor_files import PREFIX, read_checked, save_checked
from fedloom.methods import State
from fedloom.tasks.metrics import EvaluationRecord

CHANGE = "change"
HISTORIES = ("metrics.jsonl", "ledger.jsonl")
PREDICTIONS = "predictions-{moment}.jsonl"
COMMON = "predictions-common-{moment}.jsonl"
OWN = "predictions-own-{moment}.jsonl"


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after its last finished round, without the clients' personal tensors."""

    round: int
    state: State
    totals: Mapping[str, Any]
    change: Mapping[str, Tensor] = field(default_factory=dict)
    """The last round's change of the model, for `update/turn` in the next round."""
    seals: Mapping[str, Seal] | None = field(default_factory=dict)
    """Seals of the files beside the checkpoint, by name; None in a checkpoint of a version before there were any."""
    privacy: Mapping[str, Any] = field(default_factory=dict)
    """Values of the privacy mechanism, such as an adaptive clip."""


class RunFolder:
    """Reads and writes one run's files."""

    def __init__(self, path: Path) -> None:
        """Raises ExperimentError for a name that is not UTF-8, which the tensor files' library cannot open."""
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise ExperimentError(
                f"the folder name {str(path)!r} is not UTF-8; choose another one"
            ) from error
        self.path = path
        self._logs: dict[str, Log] = {}
        self._predictions: dict[str, Seal] = {}

    @property
    def state(self) -> Path:
        """The folder of checkpoints, clients' tensors, and spilled uploads."""
        return self.path / "state"

    @property
    def provenance(self) -> Path:
        """The file of what the run was begun with (see `experiment.provenance`)."""
        return self.state / "provenance.json"

    @property
    def tracking(self) -> Path:
        """The file of the trackers' ids and last rounds (see `experiment.tracking`)."""
        return self.state / "tracking.json"

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "experiment.yaml").exists()

    def create(self) -> None:
        """Create the folder. Raises ExperimentError if it is not writable, or already holds a run."""
        if self.begun:
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
        self._log(history).append(lines)

    def write_predictions(self, moment: str, records: Iterable[EvaluationRecord]) -> None:
        """`predictions-start.jsonl`, `predictions-end.jsonl`: every test sample's reference and generated answer."""
        self._write_lines(PREDICTIONS.format(moment=moment), map(_plain, records))

    def write_own(self, moment: str, records: Iterable[EvaluationRecord]) -> None:
        """`predictions-own-end.jsonl` and so on: the answers of the personal models beside a common one."""
        self._write_lines(OWN.format(moment=moment), map(_plain, records))

    def write_common(self, moment: str, common: Mapping[str, Mapping[tuple[str, str], float]]) -> None:
        """`predictions-common-end.jsonl` and so on: every sample of all clients' models, and its share of right ones."""
        lines = (
            {"set": name, **({"client": client} if client else {}), "uid": uid, "right": share}
            for name, of in common.items()
            for (client, uid), share in of.items()
        )
        self._write_lines(COMMON.format(moment=moment), lines)

    def _write_lines(self, name: str, lines: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, sort_keys=True, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(self.path / name, text.encode())
        self._predictions[name] = seal_of(self.path / name)

    def records(self, moment: str) -> list[dict[str, Any]]:
        """The lines of the predictions at the start or the end; none where there is no such file."""
        path = self.path / PREDICTIONS.format(moment=moment)
        return [json.loads(line) for line in text_lines(path) if line] if path.exists() else []

    def predictions(self, moment: str) -> dict[str, str]:
        """Generated answers by sample uid."""
        return {record["uid"]: record["prediction"] for record in self.records(moment)}

    def history(self, history: str) -> list[dict[str, Any]]:
        """The complete lines of a history. Raises DiskError for a line that is no JSON."""
        return Log(self.path / history).lines()

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
        seals = {name: self._log(name).seal() for name in HISTORIES}
        seals |= {**self._predictions, **(checkpoint.seals or {})}
        fields = {
            "round": checkpoint.round,
            "values": dict(checkpoint.state.values),
            "totals": dict(checkpoint.totals),
            "privacy": dict(checkpoint.privacy),
            "parts": sorted(parts),
            "seals": {name: [seal.length, seal.digest] for name, seal in seals.items()},
            "provenance": self.provenance.exists(),
        }
        write_sealed(partial / "state.json", fields)
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        shutil.rmtree(self.state / label, ignore_errors=True)
        partial.rename(self.state / label)
        sync(self.state)
        self._forget_before(checkpoint.round)

    def last(self) -> Checkpoint | None:
        """The newest complete checkpoint, or None; nothing is changed. Raises DiskError where it is damaged."""
        checkpoints = sorted(self.state.glob("round-*")) if self.state.is_dir() else []
        if not checkpoints:
            if self.history("ledger.jsonl"):
                raise DiskError(
                    f"{self.state} holds no checkpoint, although {self.path / 'ledger.jsonl'} holds rounds; "
                    "put the checkpoint back from a copy, or start the run anew in another folder"
                )
            return None
        folder = checkpoints[-1]
        fields = read_sealed(folder / "state.json")
        if fields.get("provenance") and not self.provenance.exists():
            raise damaged(self.provenance)
        state = State(
            read_checked(folder / "shared.safetensors"),
            read_checked(folder / "method.safetensors"),
            fields["values"],
        )
        file = folder / f"{CHANGE}.safetensors"
        has_change = CHANGE in fields["parts"] if "parts" in fields else file.is_file()
        change = read_checked(file) if has_change else {}
        seals = {name: Seal(*seal) for name, seal in fields["seals"].items()} if "seals" in fields else None
        return Checkpoint(fields["round"], state, fields["totals"], change, seals, fields.get("privacy", {}))

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Return to a checkpoint, or to before round 0: cut the histories, and remove what an interrupted round left.

        Raises DiskError if a history or the predictions are damaged.
        """
        for leftover in self.state.glob(f"{PREFIX}*"):  # uploads of an interrupted round
            shutil.rmtree(leftover, ignore_errors=True)
        seals: Mapping[str, Seal] | None = (
            dict.fromkeys(HISTORIES, EMPTY) if checkpoint is None else checkpoint.seals
        )
        if checkpoint is not None and seals is None:
            self._cut_by_round(checkpoint.round)
        for name, seal in (seals or {}).items():
            if name in HISTORIES:
                self._log(name).cut(seal)
            elif name.startswith("predictions-"):
                check(self.path / name, seal)
                self._predictions[name] = seal
        if checkpoint is not None:
            self._forget_before(checkpoint.round)

    def _log(self, history: str) -> Log:
        if history not in self._logs:
            self._logs[history] = Log(self.path / history)
        return self._logs[history]

    def _cut_by_round(self, after: int) -> None:
        """Cut histories that no checkpoint sealed: drop later rounds, and the controls, which are measured at the end."""
        for name in HISTORIES:
            lines = self.history(name)
            try:
                kept = [
                    x for x in lines if x["round"] <= after and not x.get("name", "").startswith("control/")
                ]
            except (KeyError, TypeError, AttributeError) as error:
                raise damaged(self.path / name) from error
            text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept)
            write_atomic(self.path / name, text.encode())
            self._logs.pop(name, None)

    def _forget_before(self, round: int) -> None:
        """Remove checkpoints older than `round`."""
        for old in self.state.glob("round-*"):
            if old.name < f"round-{round:06d}":
                shutil.rmtree(old, ignore_errors=True)


def _plain(record: EvaluationRecord) -> dict[str, Any]:
    """A record as it is written; without scores where it has none."""
    fields = asdict(record)
    return fields if fields["scores"] else {k: v for k, v in fields.items() if k != "scores"}
