"""The clients of an experiment: their data, read and dealt, and what each makes of the model."""

from collections.abc import Iterable, Sequence

import torch

from fedloom.core.activity import tell
from fedloom.data.client_data import ClientData
from fedloom.experiment.settings import Experiment
from fedloom.federation.client import Client
from fedloom.models.base import Trainable
from fedloom.models.lora.ranks import Shape, Shapes

POOLED = "pooled"
"""Name of the single client of a centralised run."""


def prepare_process(experiment: Experiment) -> None:
    """Set up this process for the experiment's arithmetic."""
    # Saturated attention gives denormal numbers, up to 40 times slower on a CPU. Before the first parallel operation,
    # because worker threads inherit the mode of the thread that starts them.
    torch.set_flush_denormal(True)
    if experiment.engine.threads is not None:
        torch.set_num_threads(experiment.engine.threads)


def load_clients(experiment: Experiment) -> list[ClientData]:
    """The experiment's clients, once the process is set up for its arithmetic. Raises ExperimentError for unusable data."""
    prepare_process(experiment)
    tell("reading the data")
    clients = experiment.task.clients(experiment.setup)
    experiment.data.check_read(clients)
    return clients


def training_data(
    experiment: Experiment, sources: Sequence[ClientData]
) -> tuple[list[ClientData], Sequence[str]]:
    """The data of the clients that train, poisoned or pooled as the experiment says, and the attackers' names."""
    trained = [s for s in sources if experiment.data.trains(s.name)]
    attackers: list[str] = []
    if (attack := experiment.attack) is not None:
        attackers = attack.attackers([s.name for s in trained], experiment.seed)
        trained = [attack.learn(s) if s.name in attackers else s for s in trained]
    return [_pool(trained)] if experiment.method.pooled else trained, attackers


def clients_of(experiment: Experiment, training: Sequence[ClientData], model: Trainable) -> dict[str, Client]:
    """The clients of these data by name."""
    shapes = client_shapes(experiment, [s.name for s in training], model.scales)
    return {
        s.name: Client(
            s,
            model.groups(s.holds, s.name),
            shapes[s.name],
            experiment.cohort.start,
            experiment.privacy,
        )
        for s in training
    }


def _pool(sources: list[ClientData]) -> ClientData:
    return ClientData(
        POOLED,
        [s for source in sources for s in source.train],
        [s for source in sources for s in source.test],
    )


def client_shapes(experiment: Experiment, names: Sequence[str], groups: Iterable[str]) -> dict[str, Shapes]:
    """Each client's rank and scale by group, where `cohort.ranks` makes them differ from the model's."""
    shapes_of: dict[str, Shapes] = {}
    ranks_of = {str(part): ranks for part, ranks in experiment.cohort.ranks.items()}
    for position, name in enumerate(sorted(names)):
        shapes = {}
        for group in groups:
            part = group.split(".", 1)[0]
            ranks, spec = ranks_of.get(part, ()), experiment.adapters()[part]
            rank = ranks[position % len(ranks)] if ranks else spec.rank
            if rank != spec.rank:
                fixed = experiment.cohort.alpha == "fixed"
                shapes[group] = Shape(rank, spec.scale(rank) / spec.scale() if fixed else 1.0)
        shapes_of[name] = shapes
    return shapes_of
