"""Flower as the transport of a deployment (extra `fedloom[flower]`): one message of bytes per site and phase.

Flower's strategies, client sampling and tensor records are not used: the round loop is `fedloom.federation.loop`, which a
restarted ServerApp resumes after the last finished round.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from flwr.app import Context, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid, ServerApp

from fedloom.deploy.flower_site import bytes_in, record_of
from fedloom.deploy.remote_engine import Lost

SERVER = "FEDLOOM_SERVER"
"""Environment variable: the server's folder, as written by `fedloom deploy init`."""
RAISED, NODE_LOST = 2, 5
"""Flower's error codes for a handler that raised and for a lost node."""

app = ServerApp()


class GridCarrier:
    """Transports bytes over a Flower Grid. Nodes are identified by the name under which the server registered their key.

    Flower lists a dead node as connected until its heartbeats are overdue (a minute), and forgets what a SuperNode was asked when
    that restarts. So a site whose node is gone, or was started again, is asked again as soon as it is back; a site answers a
    repeated question from what it has kept.
    """

    def __init__(self, grid: Grid, *, timeout: float, rejoin: float = 0.0, poll: float = 0.5) -> None:
        """Seconds: `timeout` for a phase, `rejoin` for which a site may be gone, `poll` between looks at the Grid."""
        self.grid, self.timeout, self.rejoin, self.poll = grid, timeout, rejoin, poll
        self._gone: dict[str, float] = {}  # since when each site has been missing; it outlives a phase

    def nodes(self) -> dict[str, NodeInfo]:
        """The connected sites' nodes, by site name."""
        return {info.name: info for info in self.grid.get_nodes() if info.name}

    def wait_for(self, sites: tuple[str, ...], seconds: float) -> list[str]:
        """Wait until these sites are connected; returns those still missing after `seconds`."""
        until = time.monotonic() + seconds
        while missing := self._missing(sites, self.nodes()):
            if time.monotonic() > until:
                return missing
            time.sleep(max(self.poll, 1.0))
        return []

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Lost]]:
        """Yield each site's answer on arrival, or Lost with the reason; ends after `timeout` seconds at the latest."""
        until = time.monotonic() + self.timeout
        asked: dict[str, str] = {}  # when the node that was asked had been activated
        questions: dict[str, str] = {}  # the site of each message
        faults = dict.fromkeys(sorted(requests), "unreachable: the site is not connected")
        while faults:
            nodes = self.nodes()
            missing = self._missing(tuple(faults), nodes)
            for site in list(faults):
                if site in missing:
                    if asked.pop(site, None) is not None:
                        faults[site] = "lost: its node is gone"
                    if time.monotonic() - self._gone[site] >= self.rejoin:
                        yield site, Lost(faults.pop(site))
                elif asked.get(site) != nodes[site].last_activated_at:
                    asked[site] = nodes[site].last_activated_at
                    left = max(until - time.monotonic(), 1.0)
                    message = Message(record_of(requests[site]), nodes[site].node_id, "train", ttl=left)
                    [number] = self.grid.push_messages([message]) or [None]
                    if number is None:
                        del faults[site]
                        yield site, Lost("unreachable: the message was not accepted")
                    else:
                        questions[number] = site
                        faults[site] = f"missing: no answer within {self.timeout:g} s"
            for reply in self.grid.pull_messages(list(questions)) if questions else ():
                sender = questions.pop(reply.metadata.reply_to_message_id, None)
                if sender is None or sender not in faults:
                    continue
                answer = _unwrap(reply)
                if isinstance(answer, Lost) and reply.error.code == NODE_LOST:
                    faults[sender] = answer.why
                    asked.pop(sender, None)
                else:
                    del faults[sender]
                    yield sender, answer
            if faults and time.monotonic() > until:
                break
            if faults:
                time.sleep(self.poll)
        for site, why in faults.items():
            yield site, Lost(why)

    def _missing(self, sites: tuple[str, ...], nodes: Mapping[str, NodeInfo]) -> list[str]:
        """The sites without a node, and note since when."""
        missing = [site for site in sites if site not in nodes]
        for site in sites:
            if site in nodes:
                self._gone.pop(site, None)
        for site in missing:
            self._gone.setdefault(site, time.monotonic())
        return missing


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
    from fedloom.deploy.current_run import serve_current
    from fedloom.deploy.settings import Deployment

    def carrier(deployment: Deployment) -> GridCarrier:
        return GridCarrier(
            grid,
            timeout=deployment.round_timeout,
            rejoin=deployment.rejoin_timeout,
            poll=deployment.poll,
        )

    serve_current(Path(os.environ[SERVER]), carrier)
