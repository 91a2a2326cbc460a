"""The documentation site: it builds without a warning, asks no other machine for anything, and has every page."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("material")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUEST = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>"
)
CSS_REQUEST = re.compile(r"(?:url\(|@import )\s*[\"']?https?://")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # as `make docs` does: an announcement of the theme
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


def pages(site: Path) -> dict[str, str]:
    return {p.relative_to(site).as_posix(): p.read_text("utf-8") for p in site.rglob("*.html")}


def test_every_page_is_in_the_site_and_in_its_navigation(site: Path) -> None:
    written = {p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in ROOT.glob("docs/**/*.md")}
    written |= {p.relative_to(ROOT / "docs").with_suffix("").as_posix() for p in ROOT.glob("docs/**/*.ipynb")}
    wanted = {
        f"{name.removesuffix('README')}{'index' if name.endswith('README') else ''}.html" for name in written
    }
    wanted |= {"overview.html", "contributing.html", "changelog.html"}
    found = pages(site)
    assert wanted <= set(found)
    linked = set(re.findall(r"<a href=\"([^\"#]+)\" class=\"md-nav__link", found["settings.html"]))
    assert wanted - {"settings.html"} <= linked


def test_no_page_asks_another_machine(site: Path) -> None:
    for name, text in pages(site).items():
        assert REQUEST.findall(text) == [], name
    for style in site.rglob("*.css"):
        assert not CSS_REQUEST.search(style.read_text("utf-8")), style


def test_the_search_index_is_a_script_with_every_setting(site: Path) -> None:
    script = (site / "search" / "search_index.js").read_text("utf-8")
    assert script.startswith("var __index = ")
    texts = [d["text"] for d in json.loads(script.removeprefix("var __index = "))["docs"]]
    assert any("training.lr_schedule" in text for text in texts)
    assert 'src="assets/iframe-worker.js"' in (site / "index.html").read_text("utf-8")


def test_links_out_of_docs_lead_to_pages_and_copies_of_the_site(site: Path) -> None:
    found = pages(site)
    assert 'href="overview.html"' in found["index.html"]
    assert (
        'href="contributing.html#a-task-a-source-a-metric-a-privacy-mechanism"' in found["experiments.html"]
    )
    assert 'href="files/LICENSE"' in found["contributing.html"]
    assert (site / "files" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_search_answers_from_a_file(site: Path, tmp_path: Path) -> None:
    address = f"{(site / 'index.html').as_uri()}?q=lr_schedule"
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=20000",
    ]
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", address], capture_output=True, text=True, timeout=120
    )
    assert "settings.html?h=lr_schedule#training" in done.stdout
    assert re.search(r"\d+ matching document", done.stdout)
