"""The watched page in headless Chromium, on a phone and on a desktop, while a run goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedloom.core.folder_lock import locked
from tests.experiment.watch.browser import CHROMIUM, Page, browser
from tests.experiment.watch.growing_run import GrowingRun, served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
EVIL = "<script>console.error('ran')</script><img src=x onerror=console.error('ran')>"
TOO_WIDE = """[...document.querySelectorAll("body *")].filter(
  e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre, svg")).map(e => e.outerHTML.slice(0, 99))"""
POINTS = "document.querySelectorAll('#charts .chart .mark').length"
HEADLINE = "document.querySelector('#status p').textContent"


@pytest.fixture(scope="module")
def new_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Page]]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as start:
        yield start


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_page_grows_with_the_run(
    new_page: Callable[[], Page], width: int, dark: bool, tmp_path: Path
) -> None:
    run = GrowingRun(tmp_path / "r", clients=("ann", EVIL))
    page = new_page()
    with served(run.folder) as server:
        page.open(server.address, width, dark=dark)
        page.wait(f"{HEADLINE}.startsWith('Waiting')")
        with locked(run.folder):
            run.begin()
            run.samples({"uid": "x", "client": EVIL, "kind": "text", "question": EVIL, "reference": EVIL * 3})
            run.round(0)
            run.round(1)
            page.wait(f"{HEADLINE} === 'Running: round 2 of 5'")
            before = page.find(POINTS)
            run.round(2, answered=["ann"], refused={EVIL: EVIL})
            run.add("metrics.jsonl", torn='{"round": 3, "na')
            page.wait(f"{HEADLINE} === 'Running: round 3 of 5'")
            assert page.find(POINTS) > before
            page.wait("[...document.images].length === 1 && document.images[0].naturalWidth === 24")
            page.wait("document.querySelector('audio').duration === 0.5")
            assert page.find(TOO_WIDE) == []
            assert page.find("document.documentElement.scrollWidth") <= width
            ground = page.find("getComputedStyle(document.body).backgroundColor")
            assert ground == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
        page.wait(f"{HEADLINE}.startsWith('Killed after round 2 of 5')")
        (run.folder / "metrics.jsonl").write_bytes(
            (run.folder / "metrics.jsonl").read_bytes().rpartition(b"\n")[0] + b"\n"
        )
        with locked(run.folder):
            run.begin("resumed", after=2)
            run.round(3)
            page.wait(f"{HEADLINE} === 'Running: round 4 of 5; resumed once, after round 2'")
            assert page.find("document.querySelectorAll('#charts line.seam').length") >= 2
            run.end("complete, but 1 of 6 updates refused")
        page.wait(f"{HEADLINE}.startsWith('Ended: complete, but 1 of 6 updates refused')")
        smallest = """Math.min(...[...document.querySelectorAll("#charts svg text")].map(
          e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a))"""
        assert page.find(smallest) >= 9  # pixels
        assert page.find("document.querySelectorAll('main script, img[onerror]').length") == 0
        assert EVIL in page.find("document.getElementById('tables').textContent")
    outside = [
        r for r in page.requests if not r.startswith((server.address, "data:"))
    ]  # data: of Chromium's own player
    assert outside == []
    assert page.console == []


def test_the_keyboard_opens_details_that_stay_open_while_figures_come(
    new_page: Callable[[], Page], tmp_path: Path
) -> None:
    run = GrowingRun(tmp_path / "r")
    page = new_page()
    with locked(run.folder), served(run.folder) as server:
        run.begin()
        run.round(0)
        run.round(1)
        page.open(server.address, 1280)
        page.wait(POINTS)
        for _ in range(30):
            page.press("Tab")
            if page.find("document.activeElement.textContent") == "Values":
                break
        page.press("Enter")
        page.wait("document.querySelector('#charts details[open] tbody tr')")
        assert page.find("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        run.round(2)
        page.wait("document.querySelectorAll('#charts details[open] tbody tr').length === 3")
        assert page.find("document.activeElement.textContent") == "Values"


def test_a_page_whose_server_has_ended_says_so(new_page: Callable[[], Page], tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "r")
    run.begin()
    run.round(0)
    page = new_page()
    with served(run.folder) as server:
        page.open(server.address, 390)
        page.wait(POINTS)
    page.wait("document.getElementById('link').textContent.startsWith('The page\\'s server does not answer')")
    assert page.find(POINTS)


def test_the_console_check_would_see_a_script_that_the_policy_stops(
    new_page: Callable[[], Page], tmp_path: Path
) -> None:
    run = GrowingRun(tmp_path / "r")
    run.begin()
    page = new_page()
    with served(run.folder) as server:
        page.open(server.address, 390)
        page.wait("document.getElementById('title').textContent === 'growing'")
        page.find("document.body.append(Object.assign(document.createElement('script'), {textContent: '1'}))")
        page.wait("true")
    assert any("Content Security Policy" in line for line in page.console)
