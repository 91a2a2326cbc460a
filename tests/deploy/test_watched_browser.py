"""The page of a deployment's server in headless Chromium, on a phone and on a desktop."""

import os
from pathlib import Path
from threading import Thread

import pytest

from fedloom.core.folder_lock import locked
from fedloom.deploy import current_run as current
from fedloom.deploy.settings import Deployment
from fedloom.deploy.site_kit import write_kit
from fedloom.deploy.watched import deployment
from fedloom.experiment.watch.folder_view import FolderView
from fedloom.experiment.watch.server import Server
from tests.experiment.watch.browser import CHROMIUM, browser
from tests.experiment.watch.growing_run import GrowingRun
from tests.experiment.watch.test_watch_browser import HEADLINE, TOO_WIDE

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
SITES = ("north-hospital", "south-hospital", "west-clinic")
REASON = "lost: its node is gone, and it has not come back within the 120 s that it may be away"


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_servers_page_shows_sites_traffic_and_budget(
    quick, tmp_path: Path, width: int, dark: bool
) -> None:
    write_kit(tmp_path / "kit", quick("fedsa-lora"), Deployment(sites=SITES))
    server = tmp_path / "kit" / "server"
    run = GrowingRun(current.begin(server, "first"), SITES)
    with browser(tmp_path / "profile") as new_page, locked(run.folder):
        run.begin(privacy={"dp": {"epsilon": 8.0, "delta": 1e-5}})
        run.round(1, epsilon=1.25)
        with Server(FolderView(server, deployment)) as pages:
            Thread(target=pages.serve_forever, args=(0.05,), daemon=True).start()
            page = new_page()
            page.open(pages.address, width, dark=dark)
            page.wait(f"{HEADLINE} === 'Running: round 2 of 5 (run first)'")
            run.round(2, answered=SITES[:2], refused={SITES[2]: REASON}, epsilon=2.5)
            page.wait(f"document.getElementById('tables').textContent.includes('{REASON}')")
            left = {"request": "members", "asked": [], "answered": [], "left": [SITES[1]]}
            run.add("ledger.jsonl", {"round": 3, "bytes_up": 0, "bytes_down": 0} | left)
            run.round(
                3, asked=[SITES[0], SITES[2]], answered=SITES[:1], refused={SITES[2]: REASON}, epsilon=3.5
            )
            page.wait("document.getElementById('facts').textContent.includes('ε 3.5 of 8')")
            page.wait("document.getElementById('tables').textContent.includes('left before round 3')")
            facts = page.find("document.getElementById('facts').textContent")
            tables = page.find("document.getElementById('tables').textContent")
            assert "(δ 1e-05)" in facts
            assert "up, all clients4.50 kB" in facts.replace("\u00a0", " ")
            assert REASON in tables
            assert "Sites" in tables
            assert page.find("document.querySelectorAll('#charts .legend li').length") >= 4, (
                "the sites' losses"
            )
            assert page.find(TOO_WIDE) == []
            assert page.find("document.documentElement.scrollWidth") <= width
            if place := os.environ.get("FEDLOOM_PICTURES"):
                page.picture(Path(place) / f"deployment-{width}.png")
            pages.shutdown()
        assert page.console == []
