"""The warm trainer of a site: one process with the foundation and the site's client, which answers encoded requests.

Flower starts a process for every message; this one persists, so that the foundation is loaded once. It serves only the requests
that the site has accepted, for the accepted experiment. A repeated request gets the stored answer from disk; before a round that
a restarted server repeats, the site's state is rolled back (see `deploy.state`).
"""

import math
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.payload import Payload, PayloadError
from fedloom.core.plain_text import plain
from fedloom.deploy import refusals
from fedloom.deploy.demands import Spending, unmet
from fedloom.deploy.settings import Site, check_deployable, classes_digest, experiment_digest
from fedloom.deploy.site_list import read_identity, site_count, take_list
from fedloom.deploy.state import SiteState
from fedloom.deploy.wire import ALWAYS, DESCRIBE, EVALUATE, Answer, Request, fingerprint
from fedloom.experiment.build import build_from
from fedloom.experiment.clients import client_shapes
from fedloom.experiment.provenance import versions
from fedloom.experiment.settings import Experiment
from fedloom.federation.calibration import with_multiplier
from fedloom.federation.client import Client
from fedloom.federation.loop import Federation
from fedloom.federation.settings import Round
from fedloom.methods import State
from fedloom.privacy.secure.messages import KEYS, MASKED
from fedloom.privacy.secure.terms import Safeguards
from fedloom.privacy.settings import Privacy
from fedloom.tasks.base import Snapshot


class SiteTrainer:
    """Answers the server's requests for one site; its state is kept in `folder/runs/<run>`."""

    def __init__(self, site: Site, experiment: Experiment, folder: Path) -> None:
        """Load data and foundation. Raises ExperimentError for unusable data, an unusable model, or a kit that is too old."""
        check_deployable(experiment)
        if reason := unmet(site.demands, experiment, site_count(site, folder)):
            raise ExperimentError(reason)
        identity = None if experiment.privacy.secure is None else read_identity(folder)
        budget, dp = site.demands.dp, with_multiplier(experiment).privacy.dp
        self.spending = None if budget is None or dp is None else Spending(folder, budget, dp)
        self.site, self.folder = site, folder
        self.experiment = experiment
        self.digest = experiment_digest(experiment)
        self.federation = build_client(site, experiment)
        self.client: Client = self.federation.clients[site.name]
        self.client.safeguards = Safeguards(identity, site.demands.fellows, self._report)
        self._states: dict[str, SiteState] = {}

    def answer(self, data: bytes) -> bytes:
        """The encoded answer to an encoded request; never raises, every error becomes an answer."""
        question = fingerprint(data)
        try:
            request = Request.decode(data, self.experiment.firewall)
            return self._answer(request, question)
        except PayloadError as error:
            return Answer(self.site.name, question, error=f"unreadable: {error}").encode()
        except Exception as error:  # one failed request must not end the trainer
            reason = str(error) if isinstance(error, ExperimentError) else f"{type(error).__name__}: {error}"
            return Answer(self.site.name, question, error=f"raised {reason}").encode()

    def _answer(self, request: Request, question: str) -> bytes:
        if reason := self._refusal(request):
            return self._refused(question, reason)
        if request.sites:
            try:
                take_list(self.folder, request.sites)
            except ExperimentError as error:
                self._report(str(error))
                return self._refused(question, str(error))
        state = self._state(request.run)
        if request.name == DESCRIBE:
            return Answer(self.site.name, question, Payload({}, self.described())).encode()
        if request.name == EVALUATE:
            state.look_at(request.round)
            return Answer(self.site.name, question, Payload({}, self._figures(request, state))).encode()
        if request.round < state.newest:
            stale = f"stale: asks for round {request.round} again, after round {state.newest}"
            return Answer(self.site.name, question, error=stale).encode()
        if (kept := state.kept(request.round, request.step, question)) is not None:
            return kept
        if self.spending is not None and (reason := self._spend(self.spending, request.name)):
            self._report(reason)
            return self._refused(question, reason)
        state.stand_before(request.round, request.step)
        self.client.states = state
        at = Round(request.round, self.experiment.rounds, self.experiment.seed)
        method = self.experiment.method_in(request.round)
        [reply] = self.federation.engine.ask(
            method, request.name, {self.site.name: request.payload}, at, _ignore, lambda reply: reply
        )
        answer = Answer(self.site.name, question, reply.payload, reply.error).encode()
        if reply.error is None:
            state.keep(request.round, request.step, question, answer)
        return answer

    def described(self) -> dict[str, Any]:
        """This site's description for the server: modalities, groups of the model, counts, versions, the class names' digest."""
        data, own = self.client.data, self.federation.experiment
        assert isinstance(own, Experiment)  # noqa: S101 - `build_client` gave it one
        return {
            "holds": list(data.holds),
            "groups": sorted(self.client.groups),
            "train": len(data.train),
            "test": len(data.test),
            "versions": versions(),
            "classes": classes_digest(own),
        }

    def _refusal(self, request: Request) -> str | None:
        if request.experiment != self.digest:
            return "the server runs another experiment than this site has accepted"
        if request.name not in self.site.requests:
            return f"this site has not agreed to the request {request.name}; it does {', '.join(self.site.requests)}"
        if request.name not in ALWAYS and not 1 <= request.round <= self.experiment.rounds:
            return f"round {request.round} is none of the experiment's {self.experiment.rounds}"
        return None

    def _refused(self, question: str, reason: str) -> bytes:
        return Answer(self.site.name, question, error=f"refused: {reason}").encode()

    def _report(self, sentence: str) -> None:
        """Tell the site's own people what the server was refused, through its log and `deploy site`."""
        refusals.note(self.folder, plain(f"refused the server: {sentence}"))

    def _spend(self, spending: Spending, request: str) -> str | None:
        """Count a sum in which this site's change leaves it; the reason where the budget does not allow another."""
        secure = self.experiment.privacy.secure is not None
        if secure and request not in (KEYS, MASKED):
            return None
        reason = spending.refusal()
        if reason is None and (not secure or request == MASKED):
            spending.take()
        return reason

    def _state(self, run: str) -> SiteState:
        if run not in self._states:
            device = self.federation.engine.model.device
            self._states = {run: SiteState(self.folder / "runs" / run, device)}
        return self._states[run]

    def _figures(self, request: Request, state: SiteState) -> dict[str, Any]:
        """The task's figures on this site's test samples: counts and means, no sample and no answer."""
        federation, model = self.federation, self.federation.engine.model
        tensors, numbers = request.payload.tensors, request.payload.numbers
        shared = self.experiment.method.scope.pick(tensors, "shared")
        federation.state = State(shared, {n: t for n, t in tensors.items() if n not in shared})
        self.client.states = state
        common = federation.global_model() or (model.start if request.round == 0 else {})
        snapshot = Snapshot(
            request.round,
            False,
            numbers.get("generate") is True,
            common,
            federation.personal_models,
            federation.state,
        )
        assessment = federation.evaluator.assess(snapshot)
        if not model.store.constant:
            model.store.clear()
        model.rest()
        leaving = self.experiment.task.site_figures().leaving(assessment, self.site.name)
        return {"figures": {n: v for n, v in leaving.items() if math.isfinite(v)}}


def build_client(site: Site, experiment: Experiment) -> Federation:
    """A federation of one client, the site's own, with its model. Raises ExperimentError."""
    data = experiment.data
    if site.data is not None:
        if not data.has_own_files:
            raise ExperimentError(
                f"the experiment generates its data, but the site names the folder {site.data}; leave it out, or take an "
                "experiment with data.source: folder"
            )
        data = data.model_copy(update={"path": site.data})
    engine = site.engine.model_copy(update={"cohort": "off"})
    # The server checks the minimum number of clients of a secure sum; this federation has one.
    own = experiment.model_copy(update={"data": data, "engine": engine, "privacy": Privacy()})
    sources = {s.name: s for s in own.task.clients(own.setup)}
    if site.name not in sources:
        raise ExperimentError(
            f"the data hold nothing of a client called {site.name}; there is {', '.join(sorted(sources))}"
        )
    # Generated data are of all clients; of files of their own each site knows its own alone, beside what all agree on.
    known = {**data.agreed_holdings(), **{name: client.holds for name, client in sources.items()}}
    holds = {name: held for name, held in known.items() if name in {*site.sites, site.name}}
    federation = build_from(own, [sources[site.name]], None, lambda progress: None, holds=holds)
    for sentence in sources[site.name].skipped:
        print(sentence, flush=True)  # into the site's own log
    shapes = client_shapes(own, site.sites, federation.engine.model.scales)
    federation.clients[site.name].shapes = shapes[site.name]
    federation.clients[site.name].privacy = with_multiplier(experiment).privacy
    return federation


def _ignore(client: str, seconds: float) -> None:
    """Progress callback that does nothing."""
