"""Flower as the transport of a deployment (extra `fedloom[flower]`): one message of bytes per site and phase.

Flower's strategies, client sampling and tensor records are not used: the round loop is `fedloom.federation.loop`, which a
restarted ServerApp resumes after the last finished round.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fedloom.deploy.flower_site import bytes_in, record_of
from fedloom.deploy.remote_engine import Lost

SERVER = "FEDLOOM_SERVER"
"""Environment variable: the server's folder, as written by `fedloom deploy init`."""
RAISED, NODE_LOST = 2, 5
"""Flower's error codes for a handler that raised and for a lost node."""

app = ServerApp()


class GridCarrier:
    """Transports bytes over a Flower Grid. Nodes are identified by the name under which the server registered their key."""

    def __init__(self, grid: Grid, *, timeout: float, poll: float = 0.5) -> None:
        """`timeout` is in seconds per phase; `poll` is the polling interval in seconds."""
        self.grid, self.timeout, self.poll = grid, timeout, poll

    def nodes(self) -> dict[str, int]:
        """Node ids of the connected sites, by site name."""
        return {info.name: info.node_id for info in self.grid.get_nodes() if info.name}

    def wait_for(self, sites: tuple[str, ...], seconds: float) -> list[str]:
        """Wait until these sites are connected; returns those still missing after `seconds`."""
        until = time.monotonic() + seconds
        while missing := [s for s in sites if s not in self.nodes()]:
            if time.monotonic() > until:
                return missing
            time.sleep(max(self.poll, 1.0))
        return []

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Lost]]:
        """Yield each site's answer on arrival, or Lost with the reason; ends after `timeout` seconds at the latest."""
        nodes, waiting = self.nodes(), dict[str, str]()
        until = time.monotonic() + self.timeout
        for site in sorted(requests):
            if site not in nodes:
                yield site, Lost("unreachable: the site is not connected")
                continue
            content = record_of(requests[site])
            message = Message(content, nodes[site], "train", ttl=self.timeout)
            [number] = self.grid.push_messages([message]) or [None]
            if number is None:
                yield site, Lost("unreachable: the message was not accepted")
            else:
                waiting[number] = site
        while waiting:
            for reply in self.grid.pull_messages(list(waiting)):
                sender = waiting.pop(reply.metadata.reply_to_message_id, None)
                if sender is not None:
                    yield sender, _unwrap(reply)
            if not waiting or time.monotonic() > until:
                break
            time.sleep(self.poll)
        for site in waiting.values():
            yield site, Lost(f"missing: no answer within {self.timeout:g} s")


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

    serve_current(
        Path(os.environ[SERVER]), lambda timeout, poll: GridCarrier(grid, timeout=timeout, poll=poll)
    )
