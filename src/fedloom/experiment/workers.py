"""The workers of an experiment: their number and threads, and what each builds in its own process."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.media import Checking, checking, mode
from fedloom.experiment.clients import clients_of, prepare_process, training_data
from fedloom.experiment.registry import load_entry_points
from fedloom.experiment.settings import Experiment
from fedloom.federation.kept_features import keep_features
from fedloom.federation.pool import Pool
from fedloom.federation.process_pool import ProcessPool
from fedloom.federation.ray_pool import RayPool, Reserved, connect, leave, room
from fedloom.federation.settings import EngineSettings
from fedloom.federation.worker import Worker
from fedloom.models.example_cache import ExampleCache
from fedloom.models.load import choose_device
from fedloom.models.loading.loader import Loader
from fedloom.models.loading.loader_pool import cores

PROCESSES = ("name", "workers", "address", "cpus_per_worker", "gpus_per_worker")
"""The settings of the engine that say which processes train."""
Load = Callable[[Experiment], Sequence[ClientData]]


def with_workers(experiment: Experiment) -> Experiment:
    """The experiment with the threads of its workers where none are set.

    They are recorded in the experiment, because another number of threads may round differently. The number of workers is not,
    where it is `auto`: a resume takes what its machine has. Raises ExperimentError for more workers than there is room for.
    """
    engine = experiment.engine
    if not engine.in_workers:
        return experiment
    threads = engine.threads
    if engine.name == "ray":
        threads = threads or max(1, int(engine.cpus_per_worker or 1))
    else:
        threads = threads or max(1, cores() // number_of_workers(engine))
    return experiment.model_copy(update={"engine": engine.model_copy(update={"threads": threads})})


def number_of_workers(engine: EngineSettings) -> int:
    """The number of workers, on this machine or on the Ray cluster that it has joined. Raises ExperimentError."""
    count = engine.workers
    if engine.name == "ray":
        return count if isinstance(count, int) else max(1, room(_reserved(engine)))
    if choose_device(engine.device).type != "cuda":
        return count if isinstance(count, int) else max(1, cores() // (engine.threads or 1))
    gpus = torch.cuda.device_count()
    if isinstance(count, int) and count > gpus:
        raise ExperimentError(f"engine.workers: {count} workers need a GPU each, and this machine has {gpus}")
    return count if isinstance(count, int) else gpus


def _reserved(engine: EngineSettings) -> Reserved:
    """What each worker reserves in the Ray cluster."""
    threads = engine.threads or 1
    gpus = engine.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if engine.device.startswith("cuda") else 0.0
    return Reserved(float(threads if engine.cpus_per_worker is None else engine.cpus_per_worker), gpus)


def in_one_process(experiment: Experiment) -> Experiment:
    """The same experiment, with the threads of a worker, trained by one process."""
    engine = with_workers(experiment).engine
    alone = {n: type(engine).model_fields[n].default for n in PROCESSES}
    return experiment.model_copy(update={"engine": engine.model_copy(update=alone)})


def about_workers(experiment: Experiment) -> list[str]:
    """What workers change in a plan of one process, as a sentence; none without workers."""
    engine = experiment.engine
    if not engine.in_workers:
        return []
    count = "the Ray cluster's"
    if engine.name == "local" or isinstance(engine.workers, int):
        count = str(number_of_workers(engine))
    return [
        f"planned for one process: {count} workers train cohorts side by side, each with the memory of training beside the "
        "frozen weights, which those of a machine share on a CPU"
    ]


def worker_pool(experiment: Experiment, load: Load, inside: Path | None) -> Pool | None:
    """The running workers of an experiment; None where this process trains its clients by itself.

    `load`: reads the clients in a worker's process. `inside`: folder for what does not fit into memory. Raises ExperimentError.
    """
    if not experiment.engine.in_workers:
        return None
    experiment = with_workers(experiment)
    engine = experiment.engine
    if engine.name == "local":
        count = number_of_workers(engine)
        return ProcessPool(partial(make_worker, experiment, load, count, mode().quick, inside), count)
    connect(engine.address)
    try:
        count, reserved = number_of_workers(engine), _reserved(engine)
        if not reserved.gpus:
            alone = engine.model_copy(update={"device": "cpu"})
            experiment = experiment.model_copy(update={"engine": alone})
        return RayPool(partial(make_worker, experiment, load, count, mode().quick, None), count, reserved)
    except BaseException:
        leave()
        raise


def make_worker(
    experiment: Experiment, load: Load, count: int, quick: bool, inside: Path | None, number: int
) -> Worker:
    """Worker `number` of `count`: reads the data and builds model and clients as the run does, on its own device."""
    engine = experiment.engine
    if choose_device(engine.device).type == "cuda":
        engine = engine.model_copy(update={"device": f"cuda:{number % torch.cuda.device_count()}"})
        experiment = experiment.model_copy(update={"engine": engine})
    load_entry_points()
    prepare_process(experiment)
    with checking(Checking(quick)):
        sources = load(experiment)
    experiment = experiment.model_copy(update={"data": experiment.data.settled(sources)})
    model = experiment.task.model({source.name: source.holds for source in sources}, experiment.setup)
    memory = engine.memory * 10**6 // count
    loaders = max(0, math.ceil(cores() / count) - 1) if engine.loaders == "auto" else engine.loaders
    model.loader = Loader(loaders, engine.cache * 10**6, memory)
    keep_features(experiment, model, memory, inside)
    clients = clients_of(experiment, training_data(experiment, sources)[0], model)
    examples = ExampleCache(memory)
    for client in clients.values():
        client.example_cache = examples
    return Worker(model, clients, experiment.training)
