"""Flower as the carrier of a deployment (extra `fedloom[flower]`): bytes out, bytes in, and nothing else.

One message per site and phase. Flower's strategies, its sampling and its records of tensors are not used: the round loop is
`fedloom.federation.loop`, which a restarted ServerApp takes up again at the last finished round.
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
"""Environment: the server's folder, as `fedloom deploy init` writes it."""
RAISED, NODE_LOST = 2, 5
"""Flower's error codes of a handler that raised and of a node that is gone."""

app = ServerApp()


class GridCarrier:
    """Carries bytes over a Flower Grid. A node is known by the name under which the server registered its key."""

    def __init__(self, grid: Grid, *, timeout: float, poll: float = 0.5) -> None:
        """`timeout` in seconds for one phase; `poll` between two looks for answers."""
        self.grid, self.timeout, self.poll = grid, timeout, poll

    def nodes(self) -> dict[str, int]:
        """The node of each connected site."""
        return {info.name: info.node_id for info in self.grid.get_nodes() if info.name}

    def wait_for(self, sites: tuple[str, ...], seconds: float) -> list[str]:
        """Wait until these sites are connected; returns those that are not after so many seconds."""
        until = time.monotonic() + seconds
        while missing := [s for s in sites if s not in self.nodes()]:
            if time.monotonic() > until:
                return missing
            time.sleep(max(self.poll, 1.0))
        return []

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Lost]]:
        """Each site's answer as it comes, or why there is none; nobody is waited for longer than the timeout."""
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
                asked = waiting.pop(reply.metadata.reply_to_message_id, None)
                if asked is not None:
                    yield asked, _said(reply)
            if not waiting or time.monotonic() > until:
                break
            time.sleep(self.poll)
        for site in waiting.values():
            yield site, Lost(f"missing: no answer within {self.timeout:g} s")


def _said(reply: Message) -> bytes | Lost:
    if reply.has_error():
        code, reason = reply.error.code, " ".join(str(reply.error.reason or "").split())[:300]
        what = {RAISED: "raised", NODE_LOST: "lost: its node is gone"}.get(code, f"error {code}")
        return Lost(f"{what}: {reason}")
    try:
        return bytes_in(reply.content)
    except ValueError as error:
        return Lost(f"unreadable: {error}")


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """The ServerApp: go on with the server folder's current run."""
    from fedloom.deploy.current_run import serve_current

    serve_current(
        Path(os.environ[SERVER]), lambda timeout, poll: GridCarrier(grid, timeout=timeout, poll=poll)
    )
