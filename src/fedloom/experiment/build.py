"""From an experiment to what its clients train: the foundation with adapters, or their own models; and their ranks."""

from collections.abc import Iterable, Sequence
from typing import Any

from fedloom.data.client_data import ClientData
from fedloom.data.pictures.class_names import Classes
from fedloom.experiment.settings import Experiment
from fedloom.models.base import Trainable
from fedloom.models.classifier.load import load_classifier
from fedloom.models.classifier.trainable import AdaptedClassifier
from fedloom.models.clip.load import load_clip
from fedloom.models.clip.trainable import AdaptedCLIP
from fedloom.models.lora.ranks import Shape, Shapes
from fedloom.models.mllm.load import load_model
from fedloom.models.mllm.trainable import AdaptedMLLM
from fedloom.models.own.load import load_model_bank
from fedloom.models.own.model_bank import ModelBank


def client_model(experiment: Experiment, sources: Sequence[ClientData], held: Sequence[str]) -> Trainable:
    """What clients train: their own models, or adapters on a foundation."""
    own = experiment.data.own_models
    return (
        _own_models(experiment, sources)
        if own
        else adapted_model(experiment, held, experiment.data.classes())
    )


def adapted_model(
    experiment: Experiment, held: Sequence[str], classes: Classes | None
) -> AdaptedMLLM | AdaptedClassifier | AdaptedCLIP:
    """The foundation that the data need (`held`: modalities), with the adapters that the method needs."""
    settings, device, seed = experiment.model, experiment.engine.device, experiment.seed
    second, attachment = experiment.method.second, experiment.method.attachment
    model: AdaptedMLLM | AdaptedClassifier | AdaptedCLIP
    told: Any = {"precision": experiment.engine.dtype}
    if classes is not None and attachment is not None:
        model = load_clip(settings, classes, attachment, device, seed, **told)
    elif labels := experiment.data.labels():
        model = load_classifier(settings, labels, device, seed, second=second, **told)
    else:
        model = load_model(settings, held, device, seed, second=second, **told)
    if experiment.engine.compile:
        model.compile_frozen()
    return model


def _own_models(experiment: Experiment, sources: Sequence[ClientData]) -> ModelBank:
    """The architectures of clients with models of their own."""
    modalities = {s.name: s.holds[0] if s.holds else "text" for s in sources}
    return load_model_bank(
        experiment.model, modalities, experiment.data.class_names(), experiment.engine.device, experiment.seed
    )


def client_shapes(experiment: Experiment, names: Sequence[str], groups: Iterable[str]) -> dict[str, Shapes]:
    """Each client's rank and scale per group, where `cohort.ranks` makes them differ from the model's."""
    found: dict[str, Shapes] = {}
    given = {str(part): ranks for part, ranks in experiment.cohort.ranks.items()}
    for position, name in enumerate(sorted(names)):
        shapes = {}
        for group in groups:
            part = group.split(".", 1)[0]
            ranks, spec = given.get(part, ()), experiment.adapters()[part]
            rank = ranks[position % len(ranks)] if ranks else spec.rank
            if rank != spec.rank:
                fixed = experiment.cohort.alpha == "fixed"
                shapes[group] = Shape(rank, spec.scale(rank) / spec.scale() if fixed else 1.0)
        found[name] = shapes
    return found
