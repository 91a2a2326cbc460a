"""Flower as the transport of a deployment (extra `fedloom[flower]`): one message of bytes per site and phase.

Flower's strategies, client sampling and tensor records are not used: the round loop is `fedloom.federation.loop`, which a
restarted ServerApp resumes after the last finished round.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp

from fedloom.deploy.flower_message import bytes_in, record_of
from fedloom.deploy.keeping import Pauses
from fedloom.deploy.pace import pause
from fedloom.deploy.remote_engine import Lost

SERVER = "FEDLOOM_SERVER"
"""Environment variable: the server's folder, as written by `fedloom deploy init`."""
RAISED, NODE_LOST = 2, 5
"""Flower's error codes for a handler that raised and for a lost node."""
ON_THE_WAY = (3, 4, NODE_LOST)
"""Codes of a question or an answer that was lost because a process or a connection ended."""
PULLS = 16
"""Answers that are fetched at one time."""
LONGEST = 1.0
"""Longest pause between two looks for answers, in seconds."""

app = ServerApp()
no_client = ClientApp()
"""Flower wants an app to name one; no site runs it (`deploy.flower_node`)."""


class GridCarrier:
    """Transports bytes over a Flower Grid. Nodes are identified by the name under which the server registered their key.

    Flower lists a dead node as connected until its heartbeats are overdue (a minute), and a node that is started again
    has forgotten what it was asked. So a site that is gone is waited for, and asked again as soon as it is back; it answers a
    repeated question from what it has kept.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        timeout: float,
        rejoin: float = 0.0,
        poll: float = 0.1,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Seconds: `timeout` for a phase, `rejoin` for which a site may be gone, `poll` at least between looks at the Grid.

        `check` is called while it waits, and may raise to end the wait.
        """
        self.grid, self.timeout, self.rejoin, self.poll, self.check = grid, timeout, rejoin, poll, check
        self._gone: dict[str, float] = {}  # since when each missing site has been so; it outlives a phase

    def nodes(self) -> dict[str, NodeInfo]:
        """The connected sites' nodes, by site name."""
        return {info.name: info for info in self.grid.get_nodes() if info.name}

    def wait_for(self, sites: tuple[str, ...], seconds: float) -> list[str]:
        """Wait until these sites are connected; returns those still missing after `seconds`."""
        until = time.monotonic() + seconds
        while missing := self._missing(sites, self.nodes()):
            if time.monotonic() > until:
                return missing
            self.check()
            time.sleep(max(self.poll, 1.0))
        return []

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Lost]]:
        """Yield each site's answer on arrival, or Lost with the reason; ends after `timeout` seconds at the latest."""
        with _Phase(self.grid, requests, self.timeout) as phase:
            while phase.faults and not phase.over:
                self.check()
                nodes = self.nodes()
                missing = self._missing(phase.faults, nodes)
                for site in list(phase.faults):
                    if site not in missing:
                        refused = phase.ask(site, nodes[site])
                    else:
                        phase.lose(site)
                        refused = time.monotonic() - self._gone[site] >= self.rejoin
                    if refused:
                        yield site, Lost(phase.faults.pop(site))
                yield from phase.answers(pause(phase.lasted, self.poll, LONGEST))
            for site, why in phase.faults.items():
                yield site, Lost(why)

    def _missing(self, sites: Iterable[str], nodes: Mapping[str, NodeInfo]) -> list[str]:
        """The sites without a node; since when is noted."""
        missing = [site for site in sites if site not in nodes]
        self._gone = {site: since for site, since in self._gone.items() if site not in nodes}
        for site in missing:
            self._gone.setdefault(site, time.monotonic())
        return missing


class _Phase:
    """One phase: the sites that have yet to answer, and the questions that are on their way.

    Every question has a thread that fetches its answer, because an upload that a killed site has begun keeps whoever
    fetches it waiting for three minutes.
    """

    def __init__(self, grid: Grid, requests: Mapping[str, bytes], timeout: float) -> None:
        self.grid, self.requests, self.timeout = grid, requests, timeout
        self.until = time.monotonic() + timeout
        self.faults = dict.fromkeys(sorted(requests), "unreachable: the site is not connected")
        self._asked: dict[
            str, tuple[str, str]
        ] = {}  # when the site's node had been activated; the question's number
        self._sites: dict[str, str] = {}  # by the question's number
        self._pauses: dict[str, Pauses] = {}
        self._not_before: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(PULLS)
        self._pulls: dict[Future[list[Message]], str] = {}

    def __enter__(self) -> "_Phase":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def lasted(self) -> float:
        """Seconds since it began."""
        return time.monotonic() + self.timeout - self.until

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.until

    def ask(self, site: str, node: NodeInfo) -> bool:
        """Send the site its question unless this very start of its node has it; True if Flower did not take it."""
        has_it = site in self._asked and self._asked[site][0] == node.last_activated_at
        if has_it or time.monotonic() < self._not_before.get(site, 0):
            return False
        left = max(self.until - time.monotonic(), 1.0)
        message = Message(record_of(self.requests[site]), node.node_id, "train", ttl=left)
        [number] = self.grid.push_messages([message]) or [None]
        if number is None:
            self.faults[site] = "unreachable: the message was not accepted"
            return True
        self._asked[site], self._sites[number] = (node.last_activated_at, number), site
        self.faults[site] = f"missing: no answer within {self.timeout:g} s"
        return False

    def lose(self, site: str, why: str = "lost: its node is gone") -> None:
        """Take a question that was sent to a site for lost; it is asked again, each time after a longer pause."""
        if self._asked.pop(site, None) is not None:
            self.faults[site] = why
            self._not_before[site] = time.monotonic() + self._pauses.setdefault(site, Pauses()).next()

    def answers(self, poll: float) -> Iterator[tuple[str, bytes | Lost]]:
        """The answers that have arrived, after a pause of about `poll` seconds."""
        open_questions = {number for number, site in self._sites.items() if site in self.faults}
        for number in open_questions - set(self._pulls.values()):
            self._pulls[self._pool.submit(self._pull, number)] = number
        done, _ = wait(self._pulls, poll)
        for pull in done:
            del self._pulls[pull]
            for reply in pull.result():
                number = reply.metadata.reply_to_message_id
                site = self._sites.pop(number, "")
                if site not in self.faults:
                    continue
                answer = _unwrap(reply)
                if isinstance(answer, Lost) and reply.has_error() and reply.error.code in ON_THE_WAY:
                    if site in self._asked and self._asked[site][1] == number:
                        self.lose(site, answer.why)
                else:
                    del self.faults[site]
                    yield site, answer
        if self.faults:
            time.sleep(max(poll, len(self._sites) / PULLS))

    def _pull(self, number: str) -> list[Message]:
        return list(self.grid.pull_messages([number]))


def _unwrap(reply: Message) -> bytes | Lost:
    if reply.has_error():
        code, reason = reply.error.code, " ".join(str(reply.error.reason or "").split())[:300]
        kind = {RAISED: "raised", NODE_LOST: "lost: its node is gone"}.get(code, f"error {code}")
        return Lost(f"{kind}: {reason}")
    try:
        return bytes_in(reply.content)
    except ValueError as error:
        return Lost(f"unreadable: {error}")


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """The ServerApp: executes the current run of the server's folder."""
    from fedloom.deploy.current_run import current, serve_current, stop_check
    from fedloom.deploy.settings import Deployment

    folder = Path(os.environ[SERVER])
    check = stop_check(folder, current(folder))

    def carrier(deployment: Deployment) -> GridCarrier:
        return GridCarrier(
            grid,
            timeout=deployment.round_timeout,
            rejoin=deployment.rejoin_timeout,
            poll=deployment.poll,
            check=check,
        )

    serve_current(folder, carrier)
