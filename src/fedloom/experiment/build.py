"""Builds a federation from an experiment: data, model, clients, engine and evaluation."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from fedloom.core.activity import tell
from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Scope, group_of
from fedloom.core.shares import at_least
from fedloom.data.client_data import ClientData
from fedloom.experiment.clients import clients_of, load_clients, training_data
from fedloom.experiment.settings import Experiment
from fedloom.experiment.workers import with_workers, worker_pool
from fedloom.federation.calibration import with_multiplier
from fedloom.federation.client import Client
from fedloom.federation.cohort_size import cohort_size
from fedloom.federation.engine import Engine
from fedloom.federation.local_engine import LocalEngine
from fedloom.federation.loop import Federation
from fedloom.federation.pool import Pool
from fedloom.federation.progress import Observer
from fedloom.federation.run_folder import RunFolder
from fedloom.federation.workers_engine import WorkersEngine
from fedloom.models.base import Trainable
from fedloom.models.loading.examples import is_cut
from fedloom.models.loading.loader import Loader
from fedloom.privacy.compatibility import not_installed, too_few
from fedloom.privacy.noise_refusals import cut_noise, weak_promise
from fedloom.privacy.robust.attacks import Backdoor
from fedloom.tasks.base import Evaluator, ServerTools, Trigger
from fedloom.tasks.evaluation import TestSet, evaluated_clients


def build(experiment: Experiment, folder: RunFolder | None, observe: Observer) -> Federation:
    """A federation before its first round. Raises ExperimentError for unusable data or an unusable model."""
    experiment = with_workers(experiment)
    federation = build_from(experiment, load_clients(experiment), folder, observe)
    federation.check()
    return federation


def build_from(
    experiment: Experiment,
    sources: Sequence[ClientData],
    folder: RunFolder | None,
    observe: Observer,
    *,
    holds: Mapping[str, Sequence[str]] | None = None,
    load: Callable[[Experiment], Sequence[ClientData]] = load_clients,
) -> Federation:
    """`build` with clients that are already loaded, in name order.

    `holds`: at a site, the modalities of every client that it knows of; `sources` is then its own client, and the server's own
    models are not loaded. `load`: with worker processes, the function by which each loads the same clients.
    """
    _check_samples(experiment, sources)
    pool = None
    if holds is None:  # they build their model while this process builds its own
        pool = worker_pool(experiment, load, None if folder is None else folder.state)
    try:
        return _built(experiment, sources, folder, observe, holds, pool)
    except BaseException:
        if pool is not None:
            pool.close()
        raise


def _built(
    experiment: Experiment,
    sources: Sequence[ClientData],
    folder: RunFolder | None,
    observe: Observer,
    holds: Mapping[str, Sequence[str]] | None,
    pool: Pool | None,
) -> Federation:
    """The federation on these clients, with the workers of `pool` if there are any."""
    experiment = with_multiplier(experiment)
    experiment = experiment.model_copy(update={"data": experiment.data.settled(sources)})
    task, setup = experiment.task, experiment.setup
    at_hand = experiment.engine
    loader = Loader(at_hand.loaders, at_hand.cache * 10**6, at_hand.memory * 10**6)
    loader.expect(s for source in sources for part in (source.train, source.test) for s in part)
    tell("loading the model")
    tools: ServerTools | None = None
    if holds is None:
        held = {source.name: source.holds for source in sources}
        model = task.model(held, setup)
        tools = task.tools(model, held, setup)
    else:
        [site] = sources
        model = task.model_at_site(site.name, holds, setup)
    model.loader = loader
    model.doubts = task.doubts(model, [s for s in sources if experiment.data.trains(s.name)])
    tested = {s.name: s.test for s in sources if len(s.test)}
    names = evaluated_clients(list(tested), experiment.evaluation, experiment.seed)
    if not names:
        raise ExperimentError(
            'no client has a test sample; mark some with "split": "test" or raise data.test_share'
        )
    tell("preparing the test samples")
    attack = experiment.attack
    trigger = Trigger(attack.answer, attack.patch) if isinstance(attack, Backdoor) else None
    evaluator = task.evaluator({name: tested[name] for name in names}, model, setup, tools, trigger)
    if not isinstance(evaluator, Evaluator):
        missing = [n for n in ("tests", "assess", "controls") if not hasattr(evaluator, n)]
        raise ExperimentError(f"the evaluator of the task {task.name} has no {missing[0]}")
    model.doubts += _cut(evaluator.tests)
    model.notes += model.doubts
    trains = [s for s in sources if experiment.data.trains(s.name)]
    if weak := weak_promise(experiment.privacy.dp, len(trains)):
        model.notes.append(weak)
    model.notes += dict.fromkeys(note for source in sources for note in source.notes)
    training, attackers = training_data(experiment, sources)
    clients = clients_of(experiment, training, model)
    check_clients(experiment, model, clients)
    cohort = experiment.engine.cohort
    if cohort == "auto":
        first = [sample for s in training[:8] for sample in islice(s.train, 4)]
        names = [n for n in model.tensors if experiment.method.scope.role(n) != "frozen"]
        most = -(-at_least(experiment.cohort.fraction, len(clients)) // pool.count) if pool else len(clients)
        chosen = cohort_size(
            model, names, first, experiment.training, max(most, 1), 1 if pool is None else pool.count
        )
        cohort = chosen.clients
        model.notes.append(f"cohort {cohort}: {chosen.reason}")
        # Written into the run's experiment.yaml: another machine's choice could round differently.
        engine_settings = experiment.engine.model_copy(update={"cohort": cohort})
        experiment = experiment.model_copy(update={"engine": engine_settings})
    together = experiment.engine.cohort_limit
    cohorts = -(-at_least(experiment.cohort.fraction, len(clients)) // together)
    if pool is not None and cohorts < pool.count:
        model.notes.append(
            f"{cohorts} of {pool.count} workers have work: a round has {cohorts} cohorts of {together} clients"
        )
    wire, limits = experiment.engine.wire, experiment.firewall
    engine: Engine
    if pool is None:
        engine = LocalEngine(model, clients, experiment.training, wire=wire, cohort=together, limits=limits)
    else:
        engine = WorkersEngine(model, clients, pool, wire=wire, cohort=together, limits=limits)
    if folder is not None:
        folder.write_skipped([sentence for source in sources for sentence in source.skipped])
    return Federation(
        experiment,
        engine,
        evaluator,
        folder,
        observe,
        tools=tools,
        attackers=attackers,
        skipped=skipped_samples(sources),
    )


def skipped_samples(sources: Sequence[ClientData]) -> str:
    """The number of these clients' samples that were left out, and why; empty for none."""
    skipped = sum(len(s.skipped) for s in sources)
    count = skipped + sum(len(s.train) + len(s.test) for s in sources)
    return f"{skipped} of {count} samples skipped: unusable files" if skipped else ""


def _check_samples(experiment: Experiment, sources: Sequence[ClientData]) -> None:
    """Raise ExperimentError for a client with too few training samples."""
    for source in sources:
        if experiment.rounds > 0 and not source.train and experiment.data.trains(source.name):
            raise ExperimentError(
                f"client {source.name} has no training samples; give it some, or leave it out"
            )
        if experiment.training.one_pass and 0 < len(source.train) < experiment.rounds:
            raise ExperimentError(
                f"client {source.name} has {len(source.train)} training samples for {experiment.rounds} rounds of one pass; "
                "give it more (data.captions.least, data.partition.least), or lower rounds"
            )


def check_clients(experiment: Experiment, model: Trainable, clients: Mapping[str, Client]) -> None:
    """Raise ExperimentError for too few clients for the run's privacy or robust rule, or missing libraries."""
    if fault := not_installed(experiment.privacy):
        raise ExperimentError(fault)
    for pattern in experiment.method.personal:
        if not Scope(personal=(pattern,)).pick(model.start, "personal"):
            groups = ", ".join(sorted({group_of(name) for name in model.start}))
            raise ExperimentError(f"method.personal: no tensor is called {pattern}; the model has {groups}")
    trained = {group_of(n) for n in model.start if experiment.method.scope.role(n) != "frozen"}
    if unknown := sorted(set(experiment.training.rates) - trained):
        raise ExperimentError(
            f"training.rates: no group {unknown[0]} is trained; the trained groups are {', '.join(sorted(trained))}"
        )
    summed = {group_of(n) for n in experiment.method.scope.pick(model.start, "shared")}
    held_by = {name: client.groups & summed for name, client in clients.items()}
    if fault := too_few(experiment.privacy, held_by, experiment.cohort.fraction):
        raise ExperimentError(fault)
    rule, asked = experiment.privacy.robust, at_least(experiment.cohort.fraction, len(clients))
    if fault := cut_noise(experiment.privacy.dp, experiment.privacy.secure, max(1, asked)):
        raise ExperimentError(fault)
    if rule is not None and asked < rule.least:
        raise ExperimentError(
            f"privacy.robust: {rule.kind} as it is set needs {rule.least} clients in a round, and {asked} are asked; "
            "lower byzantine, or ask more clients"
        )


def _cut(tests: TestSet) -> list[str]:
    """The number of test samples that were cut to fit, as a clause; none where all fit. The ledger counts training samples."""
    cut = sum(is_cut(tests.examples, i) for i in range(len(tests.examples)))
    return [f"{cut} of {len(tests.examples)} test samples were cut to fit"] if cut else []
