"""The settings of a first experiment: clients, test samples, method, model and training, from what an inspection found."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.inspection.inspect import Inspection
from fedloom.data.sources import parse_source
from fedloom.models.known_models import Use, kind_of

SHIPPED_READS = frozenset({"image", "audio", "video"})
"""Modalities of the shipped multimodal LLM."""
_A_CLIENT = 20
"""Samples for each client that rows are dealt to, about."""
_MOST_CLIENTS = 10
_HOLDING = {"image": "image", "audio": "audio", "image+audio": "both", "text": "text"}


NEEDED: Mapping[Use, tuple[str, tuple[str, ...]]] = {
    "classes": ("a CLIP", ("clip",)),
    "labels": ("a text classifier, or an encoder of what the rows hold", ("classifier", "encoder")),
    "answers": ("a language model that answers in words", ("foundation", "llm", "native", "encoder")),
}
"""The model for each use in words, and the settings that name one."""


@dataclass(frozen=True)
class Choices:
    """The groups of the experiment file, and the clients that its data give."""

    method: str
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    clients: Sequence[ClientData]


def use_of(seen: Inspection) -> Use:
    """The use of a model for the data."""
    return "classes" if seen.layout.source == "classes" else "labels" if seen.has_classes else "answers"


def choose(seen: Inspection, models: Sequence[str] = ()) -> Choices:
    """The choices. `models`: checkpoints to use, by folder or hub id. Raises ExperimentError where no experiment would run."""
    model = _model(seen, models)
    data, clients = _dealt(seen)
    sizes = sorted(len(client.train) for client in clients)
    training = _training(int(median(sizes)))
    if seen.layout.source == "classes":
        clip = {
            "optimizer": "sgd",
            "lr": 0.002,
            "lr_schedule": "constant",
            "weight_decay": 0.0005,
            "clip": None,
        }
        return Choices("promptfl", data, model, {**training, **clip}, {"every": 5, "samples": 6}, clients)
    holdings = {client.holds for client in clients}
    evaluation: dict[str, Any] = {"every": 5, "samples": 6}
    if "label" not in seen.found.parts:  # a label is shorter than the default
        evaluation["max_new_tokens"] = max(8, min(128, 2 * seen.longest[1]))
    if len(clients) > _MOST_CLIENTS:
        evaluation["clients"] = _MOST_CLIENTS
    return Choices(
        "feda2-lora" if len(holdings) > 1 else "fedavg-lora", data, model, training, evaluation, clients
    )


def _training(samples: int) -> dict[str, int]:
    """Batch size and steps of a round for a client with so many training samples: an epoch, or 50 steps of a longer one."""
    batch = 4 if samples < 32 else 8 if samples < 128 else 16
    long = samples > 50 * batch
    return {"steps" if long else "epochs": 50 if long else 1, "batch_size": batch}


def _dealt(seen: Inspection) -> tuple[dict[str, Any], list[ClientData]]:
    """The data part, and its clients; where rows are dealt to clients, as many as all get samples of either part."""
    data = _data(seen)
    tried = _numbers(seen)
    for number, clients in enumerate(tried):
        fields = {**data, **clients}
        try:
            dealt = parse_source(fields).load(0)
        except ExperimentError:
            if number == len(tried) - 1:
                raise
            continue
        if number == len(tried) - 1 or all(client.train and client.test for client in dealt):
            return fields, dealt
    raise AssertionError("there is always a last number of clients")


def _numbers(seen: Inspection) -> list[dict[str, Any]]:
    """Settings of clients to try, first to last; one empty setting where the data name the clients."""
    source = seen.layout.source
    if source == "folder" or "client" in seen.found.parts:
        return [{}]
    if seen.layout.domains:
        return [_by_class(len(seen.layout.domains), {"kind": "domains", "least": 1})]
    most = max(2, min(_MOST_CLIENTS, seen.samples // _A_CLIENT))
    numbers = [n for n in sorted({most, max(most // 2, 1), 2, 1}, reverse=True) if n <= most]
    if source == "classes":
        return [_by_class(n, {"kind": "labeldir", "least": 1}) for n in numbers]
    by_holding = {_HOLDING.get(kind, ""): n for kind, n in seen.kinds.items()}
    listed: list[dict[str, Any]] = [{"clients": n} for n in numbers]
    if len(by_holding) > 1 and "" not in by_holding and min(by_holding.values()) >= _A_CLIENT:
        counts = {holding: min(5, n // _A_CLIENT) for holding, n in sorted(by_holding.items())}
        listed.insert(0, {"clients": counts})
    return listed


def _by_class(clients: int, partition: Mapping[str, Any]) -> dict[str, Any]:
    return {"clients": {"image": clients}, "partition": dict(partition)}


def _data(seen: Inspection) -> dict[str, Any]:
    """The data part without the number of clients."""
    data: dict[str, Any] = {"source": seen.layout.source, "path": str(seen.layout.path)}
    if seen.layout.source == "classes":
        data["dataset"] = "pictures"  # the folder's own name may be that of a known set
    if seen.found.parts:
        data["columns"] = dict(seen.found.parts)
    if seen.question is not None:
        data["question"] = seen.question
    if seen.layout.source != "classes" or "split" not in seen.layout.form:
        data["test_share"] = 0.2
    if seen.faults:
        share = len(seen.faults) / (seen.samples + len(seen.faults))
        data["skip_bad"] = True
        if share > 0.1:
            data["max_skipped"] = min(0.99, math.ceil(100 * share + 1) / 100)
    return data


def _model(seen: Inspection, models: Sequence[str]) -> dict[str, Any]:
    """The model part: the named checkpoints, else the shipped foundation."""
    by_class = seen.layout.source == "classes"
    if not models:
        if not by_class and (unread := sorted(seen.modalities - SHIPPED_READS)):
            raise ExperimentError(
                f"{seen.layout.path} holds {unread[0]}, which no shipped model reads; name a model that does with --model, or "
                "write the experiment by hand with model.encoder: <folder of an ImageBind> and model.llm"
            )
        if seen.has_classes and not seen.modalities:
            return {"classifier": "tiny-roberta"}
        return {"clip": "tiny-clip"} if by_class else {"foundation": "tiny-mllm"}
    part: dict[str, Any] = {}
    for source in models:
        setting, _, modality = kind_of(source).partition(".")
        need, settings = NEEDED[use_of(seen)]
        if setting not in settings or (use_of(seen) == "labels" and {modality} - {""} != seen.modalities):
            raise ExperimentError(
                f"--model: {source} goes to model.{setting}, and {seen.layout.form} need {need}"
            )
        own = part.setdefault(setting, {}) if modality else part
        if (modality or setting) in own:
            raise ExperimentError(
                f"--model: {source} and {own[modality or setting]} both go to model.{setting}; name one"
            )
        own[modality or setting] = source
    return _completed(part, seen)


def _completed(part: dict[str, Any], seen: Inspection) -> dict[str, Any]:
    """The model with the settings of its encoders. Raises ExperimentError for a language model without the encoders it needs."""
    if seen.has_classes:
        return part
    if "encoder" in part and "llm" not in part:
        raise ExperimentError(
            "--model: an encoder needs a causal language model beside it; name one with a further --model"
        )
    lacking = sorted(seen.modalities - set(part.get("encoder", ())))
    if "llm" in part and lacking:
        raise ExperimentError(
            f"--model: {part['llm']} reads text alone, and the data hold {lacking[0]}; name an encoder with a further --model, "
            "such as google/siglip-base-patch16-224 for pictures or openai/whisper-tiny.en for sounds"
        )
    if "encoder" in part:
        part["tokens"] = 8
    if "audio" in part.get("encoder", ()) and (longest := seen.media["audio"].longest):
        part["audio_seconds"] = min(30, math.ceil(longest))
    return part
