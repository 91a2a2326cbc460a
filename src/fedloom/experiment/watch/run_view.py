"""The page's values of one run, as JSON; texts from files stay plain text."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedloom.core.errors import ExperimentError
from fedloom.experiment.report.read import LedgerEntry, SampleRecord, inside
from fedloom.experiment.report.samples import PICTURES, SOUNDS, is_right
from fedloom.experiment.report.units import human_bytes, show, words
from fedloom.experiment.watch.curves import charts, client_losses, controls
from fedloom.experiment.watch.files import RunFiles
from fedloom.experiment.watch.status import Status, status_of
from fedloom.methods import METHODS

ENTRIES, CLIENTS, PER_KIND = 100, 300, 12
"""Most ledger lines, clients, and samples of each kind on the page."""
MEDIA = ("image", "video", "depth", "thermal", "audio", "imu")


class RunView:
    """One run. A deployment knows more of its status, and names its sites before they have joined."""

    def __init__(
        self,
        folder: Path,
        status: Callable[[Status], Status] = lambda found: found,
        sites: Sequence[str] = (),
    ) -> None:
        self.folder, self.files = folder, RunFiles(folder)
        self._known_better, self._sites = status, sites
        self._media: list[Path] = []
        self._shown: dict[str, Any] = {}
        self._found = self.status = Status("waiting", "")

    def snapshot(self) -> dict[str, Any]:
        """The page's values; made anew where a file, the lock or the status has changed."""
        changed = self.files.read_on() or not self._shown
        if changed:
            self._found = status_of(self.files)
        status = self._known_better(self._found)
        if changed or status != self.status:
            self.status = status
            self._shown = self._fields()
        return self._shown

    def medium(self, number: int) -> Path | None:
        """The file of a sample's picture or sound by its number on the page."""
        return self._media[number] if 0 <= number < len(self._media) else None

    def _fields(self) -> dict[str, Any]:
        files = self.files
        series = files.series()
        first, more = charts(series)
        settings = files.settings()
        self._media = []
        header, lines = controls(series)
        tables = [
            *([table("controls", "Controls", header, lines)] if lines else []),
            *_ledger(files.ledger.records),
            *_clients(files, client_losses(series), self._sites),
        ]
        return {
            "title": _title(settings) or self.folder.name,
            "description": str(settings.get("description") or ""),
            "status": self.status.fields(),
            "facts": facts(files),
            "charts": [chart.fields() for chart in first],
            "more": [chart.fields() for chart in more],
            "tables": tables,
            "samples": self._samples(),
            "settings": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True) if settings else "",
            "report": files.summary.value is not None and (self.folder / "report.html").is_file(),
        }

    def _samples(self) -> list[dict[str, Any]]:
        before, after = (
            {(p.client, p.uid): p.prediction for p in lines.records} for lines in self.files.predictions
        )
        if not self.files.samples.value:
            records = self.files.predictions[-1].records or self.files.predictions[0].records
            bare = [
                SampleRecord(uid=p.uid, client=p.client, kind=p.kind, question="", reference=p.reference)
                for p in records
                if p.prediction is not None
            ]
            return [self._card(s, before, after) for s in _per_kind(bare)]
        return [self._card(s, before, after) for s in _per_kind(self.files.samples.value)]

    def _card(
        self, sample: SampleRecord, before: Mapping[Any, Any], after: Mapping[Any, Any]
    ) -> dict[str, Any]:
        key = sample.client, sample.uid
        answers = {"before": before.get(key, sample.before), "after": after.get(key, sample.after)}
        return {
            "kind": words(sample.kind),
            "client": sample.client,
            "question": sample.question,
            "spoken": sample.spoken,
            "reference": sample.reference,
            "answers": [
                {"moment": moment, "text": text, "right": is_right(text, sample.reference)}
                for moment, text in answers.items()
                if text is not None
            ],
            "media": [medium for m in MEDIA if (medium := self._medium(m, getattr(sample, m)))],
        }

    def _medium(self, modality: str, name: str | None) -> dict[str, Any] | None:
        """A picture or sound that lies in the run's samples, under its number; None for any other file."""
        if not name:
            return None
        place = self.folder / "samples"
        try:
            path = inside(place, name, place / "samples.json")
        except (ExperimentError, OSError, ValueError):
            return None
        if path.suffix.lower() not in {**PICTURES, **SOUNDS} or not path.is_file():
            return None
        self._media.append(path)
        sound = path.suffix.lower() in SOUNDS
        return {"modality": modality, "sound": sound, "href": f"media/{len(self._media) - 1}"}


def table(key: str, caption: str, header: Sequence[str], lines: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """A table of the page; the first field of a line is its header. A field is a text, or {"text", "href", "state"}."""
    return {"key": key, "caption": caption, "header": list(header), "lines": [list(line) for line in lines]}


def facts(files: RunFiles) -> list[tuple[str, str]]:
    """The settings that matter, and the traffic so far."""
    settings = files.settings()
    training, cohort = (_mapping(settings.get(name)) for name in ("training", "cohort"))
    method = METHODS.get(str(_mapping(settings.get("method")).get("name")))
    entries = files.ledger.records
    up, down = sum(e.bytes_up for e in entries), sum(e.bytes_down for e in entries)
    named: dict[str, Any] = {
        "method": method.title if method is not None else _mapping(settings.get("method")).get("name"),
        "row": settings.get("row"),
        "rounds": settings.get("rounds"),
        "seed": settings.get("seed"),
        "clients": len(files.held()) or None,
        "of them asked in a round": _percent(cohort.get("fraction")),
        "data": _mapping(settings.get("data")).get("source"),
        "learning rate": training.get("lr", training.get("learning_rate")),
        "batch size": training.get("batch_size"),
        "up, all clients": human_bytes(up) if entries else None,
        "down, all clients": human_bytes(down) if entries else None,
        "privacy budget": _budget(settings, entries),
    }
    return [(name, str(value)) for name, value in named.items() if value is not None]


def _budget(settings: Mapping[str, Any], entries: Sequence[LedgerEntry]) -> str | None:
    """The privacy budget spent so far, and its limit if there is one; None without differential privacy."""
    dp = _mapping(settings.get("privacy")).get("dp")
    if not isinstance(dp, dict):
        return None
    spent = next((e.epsilon for e in reversed(entries) if e.epsilon is not None), 0.0)
    limit, delta = dp.get("epsilon"), dp.get("delta")
    of = f" of {limit:g}" if isinstance(limit, int | float) else ", no limit"
    return f"ε {spent:.3g}{of}" + (f" (δ {delta:g})" if isinstance(delta, int | float) else "")


def _title(settings: Mapping[str, Any]) -> str:
    """The experiment's name, and the row and seed of a run in a study."""
    name, row = str(settings.get("name") or ""), settings.get("row")
    return name if row is None else f"{name}: {row}, seed {settings.get('seed', 0)}"


def _ledger(entries: Sequence[LedgerEntry]) -> Iterable[dict[str, Any]]:
    """The ledger, newest round first."""
    if not entries:
        return
    lines = []
    for entry in reversed(entries[-ENTRIES:]):
        faults = [
            *(f"{client} refused: {why}" for client, why in entry.refused.items()),
            *(f"{client} left out: {why}" for client, why in entry.left_out.items()),
            *(f"{client} capped: {why}" for client, why in entry.capped.items()),
            *(f"{client} did not answer" for client in entry.silent),
            *entry.notes,
        ]
        lines.append(
            [
                str(entry.round),
                entry.request,
                str(len(entry.asked)),
                {"text": str(len(entry.answered)), "state": "bad" if entry.refused or entry.silent else ""},
                human_bytes(entry.bytes_up),
                human_bytes(entry.bytes_down),
                _time(entry.seconds),
                {"text": "; ".join(faults) or "—", "long": True},
            ]
        )
    left = len(entries) - len(lines)
    more = f"; {left} earlier lines are in ledger.jsonl" if left else ""
    header = ("round", "request", "asked", "answered", "up", "down", "time", "refused, and other remarks")
    yield table("ledger", f"Ledger, newest round first{more}", header, lines)


def _clients(
    files: RunFiles, losses: Mapping[str, Mapping[int, float]], sites: Sequence[str]
) -> Iterable[dict[str, Any]]:
    """Every client: last answer and training loss, which a phone shows without scrolling, modalities, samples."""
    held = files.held()
    last = _last_answers(files.ledger.records, set(held))
    names = sorted({*held, *last, *losses, *sites})
    lines = []
    for name in names[:CLIENTS]:
        own, loss = held.get(name), losses.get(name)
        lines.append(
            [
                name,
                last.get(name, {"text": "not asked yet"}),
                _number(loss[max(loss)]) if loss else "—",
                (", ".join(own.holds) or "text") if own else "—",
                f"{own.train:,}" if own else "—",
                f"{own.test:,}" if own else "—",
            ]
        )
    if names:
        left = f"; the first {CLIENTS} of {len(names)}" if len(names) > CLIENTS else ""
        one, all_of_them = ("site", "Sites") if sites else ("client", "Clients")
        header = (one, "last answer", "last training loss", "holds", "training samples", "test samples")
        yield table("clients", f"{all_of_them}{left}", header, lines)


def _last_answers(entries: Sequence[LedgerEntry], clients: set[str]) -> dict[str, dict[str, Any]]:
    """How each client answered last; the newest entries suffice once all of these clients are among them."""
    last: dict[str, dict[str, Any]] = {}
    for entry in reversed(entries):
        answers: dict[str, dict[str, Any]] = {
            c: {"text": f"no answer in round {entry.round}", "state": "bad"} for c in entry.asked
        }
        answers |= {c: {"text": f"round {entry.round}"} for c in entry.answered}
        answers |= {c: {"text": f"takes part from round {entry.round} on"} for c in entry.joined}
        answers |= {c: {"text": f"left before round {entry.round}", "state": "stopped"} for c in entry.left}
        answers |= {
            c: {"text": f"round {entry.round}: refused: {why}", "state": "bad", "long": True}
            for c, why in entry.refused.items()
        }
        last = answers | last
        if clients and clients <= last.keys():
            break
    return last


def _per_kind(samples: Sequence[SampleRecord]) -> list[SampleRecord]:
    counts: dict[str, int] = {}
    kept = []
    for sample in samples:
        counts[sample.kind] = counts.get(sample.kind, 0) + 1
        if counts[sample.kind] <= PER_KIND:
            kept.append(sample)
    return kept


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _percent(value: object) -> str | None:
    return f"{value:.0%}" if isinstance(value, float) and math.isfinite(value) and value != 1 else None


def _time(seconds: float) -> str:
    """A request's time; a dash where the ledger has none."""
    return "—" if seconds == 0 else "<0.1 s" if seconds < 0.05 else show(seconds, "seconds")


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not finite"
