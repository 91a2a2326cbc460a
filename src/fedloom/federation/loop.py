"""The round loop: sample a cohort, ask, check, combine, evaluate, record, checkpoint; and resuming from a checkpoint."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedloom.core.activity import stage, tell
from fedloom.core.errors import ExperimentError, with_place
from fedloom.core.lazy_mapping import LazyMapping
from fedloom.core.payload import Payload, Reply, group_of, not_finite
from fedloom.core.plain_text import plain
from fedloom.core.shares import at_least
from fedloom.federation import Engine
from fedloom.federation.ask import RoundAsk
from fedloom.federation.calibration import mechanism_of
from fedloom.federation.client import Client
from fedloom.federation.client_states import ClientStates
from fedloom.federation.cohort import cohort_of
from fedloom.federation.diagnostics import aggregation, agreement, change_norm, turn
from fedloom.federation.exchange import Exchange, NoReplies
from fedloom.federation.kept_features import keep_features
from fedloom.federation.progress import Observer, Progress, Totals
from fedloom.federation.run_folder import Checkpoint, RunFolder
from fedloom.federation.settings import RunSettings
from fedloom.federation.spilled_uploads import SpilledUploads
from fedloom.methods import Method, State
from fedloom.models.example_cache import ExampleCache
from fedloom.models.lora.ranks import ratios
from fedloom.models.training.settings import ANY_STEPS, local_steps, trained_in
from fedloom.privacy.differential.accountant import Accountant
from fedloom.privacy.differential.key_file import forget_key
from fedloom.privacy.robust.attacks import described
from fedloom.tasks.base import Evaluator, ServerTools, Snapshot
from fedloom.tasks.metrics import EvaluationRecord
from fedloom.tasks.personal_batches import ClientModel

if TYPE_CHECKING:
    from fedloom.privacy.secure.signatures import PublicKeys


@dataclass
class Federation:
    """The server's side of a run. `run` continues from the current round to the last one."""

    experiment: RunSettings
    engine: Engine
    evaluator: Evaluator
    folder: RunFolder | None = None
    observe: Observer = lambda progress: None
    round: int = 0
    totals: Totals = field(default_factory=Totals)
    tools: ServerTools | None = None
    """The server's own models, for the methods that need them."""
    attackers: Sequence[str] = ()
    """The clients that carry out the experiment's simulated attack."""
    skipped: str = ""
    """The number of samples left out because their files cannot be used, as a clause; empty for none."""
    before_round: Callable[[int], Sequence[Mapping[str, Any]]] = lambda number: ()
    """Called before a round; it may change the clients, and returns lines for the ledger."""
    public_keys: Callable[[], "PublicKeys | None"] = lambda: None
    """The clients' signing keys, under which secure sums are signed; none where all clients live in this process."""

    def __post_init__(self) -> None:
        self.method = self.experiment.method
        self.mechanism = mechanism_of(self.experiment)
        if self.experiment.rounds and not self.rounds:
            raise ExperimentError(
                "privacy.dp: the first round alone would pass the budget; raise epsilon or noise_multiplier, "
                "or lower cohort.fraction"
            )
        start = self.engine.model.start
        self.state: State = self.method.start(start)
        memory = self.experiment.engine.memory * 10**6
        kept = None if self.folder is None else self.folder.state
        device = next((t.device for t in start.values()), torch.device("cpu"))
        self.uploads = SpilledUploads(memory, kept)
        keep_features(self.experiment, self.engine.model, memory, kept)
        self.client_states = ClientStates(None if kept is None else kept / "clients", device)
        example_cache, begin = ExampleCache(memory), self.method.scope.pick(start, "personal")
        for client in self.clients.values():
            client.states, client.example_cache, client.begin = self.client_states, example_cache, begin
        self.replies: list[Reply] = []
        self.noted_metrics: dict[str, float] = {}
        self.resumed = False
        self.change: Mapping[str, Tensor] = {}
        self.first_metrics: Mapping[str, float] = {}
        self.last_metrics: Mapping[str, float] = {}
        self.client_metrics: Mapping[str, Mapping[str, float]] = {}
        self.history: list[dict[str, Any]] = []
        """The lines of `metrics.jsonl`, where there is no folder."""
        self.records: dict[str, Sequence[EvaluationRecord]] = {}
        """The predictions at the start and the end, where there is no folder."""

    @cached_property
    def accountant(self) -> Accountant | None:
        """The privacy accountant; None without differential privacy."""
        return None if self.mechanism is None else self.mechanism.accountant

    @cached_property
    def rounds(self) -> int:
        """Number of rounds: the experiment's, or fewer if the privacy budget allows fewer."""
        dp, rounds = self.experiment.privacy.dp, self.experiment.rounds
        if dp is None or dp.epsilon is None or self.accountant is None:
            return rounds
        return self.accountant.rounds(dp.epsilon, rounds)

    @property
    def clients(self) -> Mapping[str, Client]:
        """The engine's clients by name."""
        return self.engine.clients

    @cached_property
    def names(self) -> Sequence[str]:
        """The clients' names in order."""
        return sorted(self.clients)

    @cached_property
    def unequal(self) -> bool:
        """Whether clients' ranks or scales differ."""
        return any(client.shapes for client in self.clients.values())

    def clients_changed(self) -> None:
        """Forget what was derived from the clients before some joined or left."""
        self.__dict__ = {k: v for k, v in self.__dict__.items() if k not in ("names", "unequal")}

    def status(self) -> str:
        """`complete`, with reservations if there are any; see `Totals.status`."""
        attack = self.experiment.attack
        simulated = None if attack is None else described(attack, self.attackers)
        return self.totals.status(simulated, self.skipped, self.engine.model.doubts)

    def run(self) -> None:
        """Run the remaining rounds; each ends with a checkpoint, if there is a folder."""
        if self.round == 0 and not self.resumed:
            self._finish_round(0, time.perf_counter(), [])
        if self.rounds < self.experiment.rounds and self.experiment.privacy.dp is not None:
            self.totals.budget = (
                f"the privacy budget of epsilon {self.experiment.privacy.dp.epsilon:g} ended it after round {self.rounds} "
                f"of {self.experiment.rounds}"
            )
        if self.mechanism is not None and self.round < self.rounds:
            self.mechanism.open(None if self.folder is None else self.folder.state, after=self.round)
        for number in range(self.round + 1, self.rounds + 1):
            began = time.perf_counter()
            changes = self.before_round(number)
            method = self.experiment.method_in(number)
            entries: list[dict[str, Any]] = []
            before = self.state
            tell(f"round {number}/{self.rounds}, training")
            after, failure = self._computed(method, number, entries)
            if failure is not None:
                self.totals.failed_rounds += 1
                entries[-1]["notes"].append(plain(f"{failure}: the round changed nothing on the server"))
            elif self._quorum(entries):
                self.state = after
            else:
                self.totals.skipped_rounds += 1
                entries[-1]["notes"].append("no quorum: the round changed nothing on the server")
            measured = self._round_metrics(method, number, before, entries)
            self.replies, self.noted_metrics = [], {}
            self.uploads.clear()
            self._finish_round(number, began, [*changes, *entries], measured)
        if self.folder is not None:
            forget_key(self.folder.state)
        if not self.client_metrics:  # resumed after the last round: the same evaluation, the same figures
            self._assess(self.round, ends=True)

    def check(self) -> None:
        """Raise ExperimentError for a run whose rounds could change nothing, or whose messages would be too large."""
        method, training, rounds = self.method, self.experiment.training, self.experiment.rounds
        most = self.experiment.firewall.max_tensors
        if len(self.state.shared) > most:
            raise ExperimentError(
                f"firewall.max_tensors: method {method.name} shares {len(self.state.shared)} tensors, and {most} are let "
                "through; raise it"
            )
        if not rounds or not (
            method.shares.shared or method.shares.personal
        ):  # a baseline that trains nothing
            return
        names = [n for n in self.engine.model.tensors if method.scope.role(n) != "frozen"]
        for client in self.clients.values():
            held = [n for n in names if group_of(n) in client.groups]
            samples = math.ceil(len(client.data.train) / (rounds if training.one_pass else 1))
            known = (local_steps(samples, training),) if samples else ANY_STEPS  # a site's samples stay there
            if any(trained_in(training, held, number, rounds, s) for number in (1, rounds) for s in known):
                return
        raise ExperimentError(
            f"method {method.name} finds no tensor to train in any round; give the model an adapter, let training and "
            "method.head leave a part unfrozen, or set rounds: 0"
        )

    def _computed(
        self, method: Method, number: int, entries: list[dict[str, Any]]
    ) -> tuple[State, str | None]:
        """The state after a round; or the state before it and, if the server failed at the replies, the reason."""
        before = self.state
        exchange = Exchange(self, method, number, entries)
        try:
            after = method.moved(before, method.round(before, RoundAsk(exchange)))
        except NoReplies:
            return before, None
        except ExperimentError:
            raise
        except Exception as error:
            if not any(entry["answered"] for entry in entries):  # no client's doing
                raise
            return before, f"the server function raised {with_place(error)}"
        new = {n: t for n, t in after.shared.items() if t is not before.shared.get(n)}
        new |= {n: t for n, t in after.tensors.items() if t is not before.tensors.get(n)}
        bad = not_finite(new)
        return (after, None) if bad is None else (before, f"the new {bad} is not finite")

    def resume(self, checkpoint: Checkpoint | None) -> None:
        """Restore the state, and the run's folder, at the checkpoint; None is the state before round 0. Raises DiskError."""
        if self.folder is not None:
            self.folder.restore(checkpoint)
        if checkpoint is None:
            return
        self.resumed = True
        self.round = checkpoint.round
        # What was read is mapped from a file that the next round removes.
        self.state = checkpoint.state.copied(self.client_states.device)
        self.totals = Totals(**checkpoint.totals)
        if self.mechanism is not None:
            self.mechanism.restore(checkpoint.privacy, self.names)
        self.change = {n: t.to(self.client_states.device, copy=True) for n, t in checkpoint.change.items()}
        self.client_states.restore(checkpoint.round, checkpoint.seals)
        if self.folder is not None:
            lines = self.folder.history("metrics.jsonl")
            self.first_metrics = {x["name"]: x["value"] for x in lines if x["round"] == 0}
            self.last_metrics = {x["name"]: x["value"] for x in lines if x["round"] == self.round}

    def cohort(self, number: int) -> list[str]:
        """The clients of a round, in order; see `cohort_of`."""
        return cohort_of(self.experiment, self.names, number)

    def report_answer(self, number: int, client: str, clients: int) -> None:
        """Report to the observer that one of `clients` has answered."""
        self.observe(Progress(number, self.rounds, {}, self.totals, client, clients))

    def global_model(self) -> Mapping[str, Tensor]:
        """The global model's tensors; empty where the method or the architectures have none."""
        if not self.engine.model.one_model:
            return {}
        personal = LazyMapping(self.names, lambda name: self.clients[name].personal)
        return self.method.global_model(self.state, personal)

    def personal_models(self, names: Collection[str] | None = None) -> Mapping[str, ClientModel]:
        """The personal models of these clients (None: all), built lazily; clients without one are left out."""
        candidates = [name for name in self.names if names is None or name in names]
        owners = [name for name in candidates if self.client_model(self.clients[name]) is not None]
        return LazyMapping(owners, lambda name: self.client_model(self.clients[name]) or ClientModel({}))

    def client_model(self, client: Client) -> ClientModel | None:
        """A client's personal model, or None where it has none."""
        personal = client.personal
        own = self.method.client_model(self.state, personal)
        if not self.engine.model.one_model:
            return ClientModel(client.held({**self.engine.model.start, **self.state.shared, **own}))
        if not own:
            return None
        common = client.view(Payload(self.state.shared)).tensors
        kept = {n: t for n, t in own.items() if n in personal}  # also tensors outside all groups
        return ClientModel({**common, **client.held(own), **kept}, ratios(client.shapes))

    def _quorum(self, entries: Sequence[Mapping[str, Any]]) -> bool:
        share = self.experiment.cohort.quorum
        dp = self.experiment.privacy.dp
        if dp is not None and dp.in_turns:  # the next round takes back noise that this one must have added
            return True
        if dp is not None and self.experiment.privacy.secure is None:  # noise alone is a change
            entries = [e for e in entries if e["asked"]]
        return all(len(e["answered"]) >= max(1, at_least(share, len(e["asked"]))) for e in entries)

    def _round_metrics(
        self, method: Method, number: int, before: State, entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, float]:
        """Training losses and aggregation diagnostics of the round; diagnostics that fail are left out and noted."""
        losses = {
            r.client: float(r.payload.numbers["loss"]) for r in self.replies if "loss" in r.payload.numbers
        }
        metrics = {f"train/{client}/loss": loss for client, loss in losses.items()}
        if losses:
            metrics["train/loss"] = sum(losses.values()) / len(losses)
        metrics |= self.noted_metrics
        try:
            metrics |= self._diagnostics(method, number, before)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            entries[-1]["notes"].append(plain(f"diagnostics are left out: raised {with_place(error)}"))
        return metrics

    def _diagnostics(self, method: Method, number: int, before: State) -> dict[str, float]:
        """Diagnostics of the aggregation, of the model's change, and of the method."""
        metrics: dict[str, float] = {}
        summed = self.experiment.privacy.sums
        if (self.replies or summed) and self.state is not before and before.shared:
            evaluation = self.experiment.evaluation
            every = evaluation.diagnostics or evaluation.every
            frozen = method.scope.pick(self.engine.model.start, "frozen")
            if not summed and every != "off" and (number == self.rounds or number % every == 0):
                weights = method.client_weights(self.replies)
                known, began = ({**frozen, **t} for t in (before.shared, method.began(before)))
                began = self._common_start(began, number)
                metrics |= aggregation(self.replies, weights, method.product(self.state), known, began)
            after = {**self.state.shared, **method.product(self.state)}
            metrics["change_norm"] = change_norm(method.began(before), after, frozen)
            if self.experiment.evaluation.updates:
                metrics |= self._update_metrics(before, number)
        if self.state is not before:
            metrics |= method.measured(self.state)
        return metrics

    def _common_start(self, tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        """These tensors without those of which each client drew its own before the first round."""
        own = self.experiment.cohort.start == "own" and number == 1
        return {n: t for n, t in tensors.items() if not (own and n.endswith("lora_A"))}

    def _update_metrics(self, before: State, number: int) -> dict[str, float]:
        """Agreement between the clients' changes, and between this round's change of the model and the previous one's."""
        model = self.engine.model.tensors
        previous = {n: t for n, t in before.shared.items() if n in model}
        change = {n: self.state.shared[n] - t for n, t in previous.items() if self.state.shared[n] is not t}
        metrics = agreement(self.replies, self._common_start(previous, number)) | turn(change, self.change)
        self.change = change
        return metrics

    def _finish_round(
        self,
        number: int,
        began: float,
        entries: Sequence[Mapping[str, Any]],
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """Evaluate if it is due, write the histories, then the checkpoint, which completes the round."""
        metrics = dict(measured or {})
        ends = number in (0, self.rounds)
        if due := ends or number % self.experiment.evaluation.every == 0:
            with stage(f"round {number}/{self.rounds}" if number else "before training"):
                tell("evaluating")
                metrics |= self._assess(number, ends=ends)
        self.round, self.last_metrics = number, metrics
        self.first_metrics = metrics if number == 0 else self.first_metrics
        self.totals.seconds += time.perf_counter() - began
        lines = [{"round": number, "name": n, "value": v} for n, v in metrics.items() if math.isfinite(v)]
        if self.folder is None:
            self.history += lines
        else:
            self.folder.append("metrics.jsonl", lines)
            self.folder.append("ledger.jsonl", entries)
            index = self.client_states.record(number)
            private = {} if self.mechanism is None else self.mechanism.state(self.names)
            self.folder.save(Checkpoint(number, self.state, asdict(self.totals), self.change, index, private))
        self.client_states.forget_replaced()
        notes = self.engine.model.notes if number == 0 else ()
        own = self.client_metrics if due else {}
        self.observe(
            Progress(
                number, self.rounds, metrics, self.totals, notes=notes, ledger=entries, client_metrics=own
            )
        )

    def _assess(self, number: int, *, ends: bool) -> dict[str, float]:
        """Evaluate the round's models, and write what they answer before the first and after the last round."""
        model = self.engine.model
        snapshot = Snapshot(
            number,
            number == self.rounds,
            ends and self.experiment.evaluation.generate,
            self.global_model(),
            self.personal_models,
            self.state,
            None if self.folder is None else self.folder.path,
            self.experiment.engine.cohort_limit,
        )
        assessment = self.evaluator.assess(snapshot)
        if not model.store.constant:  # the encoder changes in the next round
            model.store.clear()
        if ends and assessment.records:
            moment = "start" if number == 0 else "end"
            if self.folder is None:
                self.records[moment] = assessment.records
            else:
                self.folder.write_predictions(moment, assessment.records)
                if assessment.own:
                    self.folder.write_own(moment, assessment.own)
                if assessment.common:
                    self.folder.write_common(moment, assessment.common)
        self.client_metrics = assessment.clients
        return dict(assessment.metrics)
