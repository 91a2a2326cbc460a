"""The report in headless Chromium, on a phone and on a desktop."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

from fedloom.experiment.report import write_report
from fedloom.tasks.image_grid import write_grid
from tests.experiment.report.report_folders import make_rows

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",
    "--window-size=1400,1000",
]

PROBE = """<script>
const sounds = [...document.querySelectorAll("audio")];
const look = () => {
  if (sounds.some(e => e.readyState < 1 && !e.error)) { setTimeout(look, 50); return; }
  const wide = [...document.querySelectorAll("body *")].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre, svg"));
  const style = e => getComputedStyle(e);
  const ground = scheme => {
    document.getElementById("scheme-" + scheme).click();
    return style(document.body).backgroundColor;
  };
  const schemes = ["dark", "light", "system"].map(ground);
  const opacities = () => [...document.querySelectorAll("#curves figure:first-child :is(.row, .band)")]
    .map(e => [e.getAttribute("class").split(" ")[1], style(e).opacity]);
  const before = opacities();
  document.querySelector("#curves .pick-1").click();
  parent.postMessage(JSON.stringify({
    schemes: schemes,
    before: Object.fromEntries(before),
    picked: Object.fromEntries(opacities()),
    saved: [...document.querySelectorAll("a[download]")].map(e => e.href.split(",")[0]),
    inner: innerWidth,
    scroll: document.documentElement.scrollWidth,
    wide: wide.map(e => e.outerHTML.slice(0, 150)),
    pictures: [...document.images].map(e => e.naturalWidth),
    sounds: sounds.map(e => e.duration),
    letters: Math.min(...[...document.querySelectorAll("svg text")]
      .map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a).filter(size => size > 0)),
    requests: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
  }), "*");
};
addEventListener("load", look);
</script>"""

FRAME = """<!DOCTYPE html><meta charset=utf-8><link rel=icon href="data:,"><script>
addEventListener("message", event => {
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = event.data;
  document.body.append(out);
});
</script><body><iframe src="probed.html" style="width:WIDTHpx;height:900px;border:0"></iframe>"""


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two rows with everything on it, long words and a hostile question included."""
    folder = tmp_path_factory.mktemp("browser")
    runs = {
        ("FedAvg-LoRA", 0): {"image": 0.5, "question": "<script>console.error('ran')</script>" + "W" * 120},
        ("FedAvg-LoRA", 1): {},
        ("a method with a very_long_name_that_has_no_place_to_break_in_it", 0): {
            "refused": {"c1": "x" * 200}
        },
    }
    demo = make_rows(folder / "demo", runs)
    drawn = demo / "fedavg-lora" / "seed-0" / "generated"
    write_grid(torch.zeros(3, 11, 3, 16, 16, dtype=torch.uint8), drawn / "round-000000.png")
    classes = ["red cube", "W" * 120, "a name of many words that is longer than a phone is wide"]
    (drawn / "classes.json").write_text(json.dumps(classes))
    return write_report(demo)


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_is_sound_at_phone_and_desktop_width(page: Path, tmp_path: Path, width: int) -> None:
    text = page.read_text(encoding="utf-8")
    # the page's own policy forbids scripts, the probe's too: the probed copy goes without it
    copy = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", PROBE + "</body>")
    assert copy.count("<script>") == 1
    (tmp_path / "probed.html").write_text(copy, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    done = chromium(tmp_path, "--dump-dom", (tmp_path / "frame.html").as_uri())
    told = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert told, done.stderr[-2000:]
    found = json.loads(html.unescape(told.group(1)))
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["pictures"]
    assert min(found["pictures"]) == 32
    assert found["sounds"] == [0.5, 0.5]  # seconds
    assert found["letters"] >= 9  # pixels: the plots' smallest letters are readable on a phone, too
    assert found["requests"] == []
    assert found["schemes"] == ["rgb(21, 24, 28)", "rgb(255, 255, 255)", "rgb(255, 255, 255)"]
    assert found["before"] == {"row-0": "1", "band-0": "1", "row-1": "1"}
    assert found["picked"] == {"row-0": "0.13", "band-0": "0", "row-1": "1"}
    assert set(found["saved"]) == {"data:image/svg+xml", "data:text/csv;charset=utf-8"}


def test_the_page_as_it_is_leaves_the_console_empty(page: Path, tmp_path: Path) -> None:
    done = chromium(tmp_path, "--dump-dom", page.as_uri())
    assert "Reproduce" in done.stdout
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_is_dark_where_the_system_is(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "dark.png"
    chromium(tmp_path, "--blink-settings=preferredColorScheme=0", f"--screenshot={picture}", page.as_uri())
    assert Image.open(picture).convert("RGB").getpixel((2, 2)) == (21, 24, 28)


def test_the_console_test_would_see_an_error(page: Path, tmp_path: Path) -> None:
    """The page's policy stops a script, and says so in the console: the check above can fail."""
    evil = page.read_text(encoding="utf-8").replace("</body>", "<script>1</script></body>")
    (tmp_path / "evil.html").write_text(evil, encoding="utf-8")
    done = chromium(tmp_path, "--dump-dom", (tmp_path / "evil.html").as_uri())
    assert any("CONSOLE" in line and "Content Security Policy" in line for line in done.stderr.splitlines())
