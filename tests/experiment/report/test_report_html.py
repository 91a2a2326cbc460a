import base64
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.experiment.report import write_report
from fedloom.experiment.report.page import spans
from fedloom.experiment.report.samples import is_right
from tests.experiment.report.report_folders import change, make_rows, make_run, make_two_rows

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags with attributes, ids, visible text; fails on unbalanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """One plain run and its page, for the tests that only read it."""
    run = make_run(tmp_path_factory.mktemp("page") / "q")
    return run, page_of(run)


@pytest.fixture(scope="module")
def rows_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    rows = make_two_rows(tmp_path_factory.mktemp("page") / "demo")
    return rows, page_of(rows)


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_the_page_asks_for_nothing_outside_itself(rows_page: tuple[Path, Page]) -> None:
    rows, page = rows_page
    text = (rows / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//[a-z]", re.sub(r"data:[^\"]*", "", text))
    assert "script" not in {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\((?!#)|@import", text)


def test_media_in_the_page_are_the_run_folders_own_bytes(run_page: tuple[Path, Page]) -> None:
    run, page = run_page
    picture = next(a["src"] for tag, a in page.tags if tag == "img")
    sound = next(a for tag, a in page.tags if tag == "audio")
    assert (
        picture
        == "data:image/png;base64," + base64.b64encode((run / "samples/scene.png").read_bytes()).decode()
    )
    assert base64.b64decode(str(sound["src"]).split(",")[1]) == (run / "samples/spoken.wav").read_bytes()
    assert "controls" in sound
    assert "how many cubes are there" in page.text


def test_every_text_from_data_is_escaped(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>$\\frac'
    run = make_run(tmp_path / "q", row=evil, question=evil, refused={evil: evil}, status=evil)
    summary = json.loads((run / "summary.json").read_text())
    for client in summary["clients"]:
        client["client"] = evil + client["client"]
    change(run / "summary.json", name=evil, clients=summary["clients"])
    samples = json.loads((run / "samples/samples.json").read_text())
    for sample in samples:
        sample |= {"uid": evil, "kind": evil, "reference": evil, "before": evil, "spoken": evil}
    (run / "samples/samples.json").write_text(json.dumps(samples))
    (run / "experiment.yaml").write_text(json.dumps({"description": evil, "seed": 0}))
    lines = (run / "metrics.jsonl").read_text()
    more = [{"round": t, "name": f"global/{evil}/exact_match", "value": 0.5} for t in (0, 1)]
    (run / "metrics.jsonl").write_text(lines + "\n".join(map(json.dumps, more)))
    page = page_of(run)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [a for _, a in page.tags if "onerror" in a]
    assert all(str(a["src"]).startswith("data:") for tag, a in page.tags if tag == "img")
    assert page.text.count("<script>alert(1)</script>") >= 10


def test_a_plainly_complete_run_says_so(run_page: tuple[Path, Page]) -> None:
    _, page = run_page
    assert "Complete. Every run ended" in page.text
    assert "Not plainly complete" not in page.text


def test_a_refusal_is_loud_with_client_and_reason(rows_page: tuple[Path, Page]) -> None:
    _, page = rows_page
    status = next(a for tag, a in page.tags if a.get("aria-label") == "Status")
    assert "loud" in str(status["class"])
    assert "Not plainly complete" in page.text
    assert "complete with refusals: 1 of 12 updates (1 of 2 runs)" in page.text
    assert "c1 not finite: tensor llm.q holds NaN FedA²-LoRA 1 1 2" in page.text


def test_a_stopped_run_is_loud_even_without_refusals(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "q", status="stopped in round 3: no client answered"))
    assert "Not plainly complete" in page.text
    assert "stopped in round 3: no client answered" in page.text


def test_answers_are_marked_right_and_wrong(run_page: tuple[Path, Page]) -> None:
    text = run_page[1].text
    assert "blue ✗ wrong Red. ✓ right" in text  # "Red." matches "red" by the exact match metric
    assert "one ✗ wrong" in text
    assert is_right("the Red", "red") is True
    assert is_right("", "red") is False
    assert is_right(None, "red") is None


def test_rows_that_share_a_sample_share_its_media(rows_page: tuple[Path, Page]) -> None:
    _, page = rows_page
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 2  # image, image+audio
    assert len([tag for tag, _ in page.tags if tag == "audio"]) == 2
    assert "FedAvg-LoRA blue ✗ wrong green ✗ wrong FedA²-LoRA blue ✗ wrong Red. ✓ right" in page.text


def test_controls_stand_beside_the_intact_figure(run_page: tuple[Path, Page]) -> None:
    text = run_page[1].text
    assert "row input metric intact zeroed shuffled removed" in text
    assert "FedAvg-LoRA image token accuracy ↑ 60.0 % 25.0 % 26.0 % 27.0 %" in text
    assert "shows that the model answers without that input" in text


def test_bytes_clients_restoration_and_commands_are_there(run_page: tuple[Path, Page]) -> None:
    run, text = run_page[0], run_page[1].text
    assert "FedAvg-LoRA projector 4.00 kB 4.00 kB" in text  # 1000 bytes a round, four rounds
    assert "FedAvg-LoRA llm 1.50 MB 3.00 MB" in text
    assert "c2 image, audio 90 20 50.0 % 40.0 %" in text
    assert "0.0050" in text  # 0.02 / 4 rounds
    assert f"fedloom run {run / 'experiment.yaml'} --out {run}-again" in text
    assert "ridge: 0.01" in text


def test_the_page_can_be_read_aloud(rows_page: tuple[Path, Page]) -> None:
    _, page = rows_page
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    assert all(a.get("aria-label") for tag, a in page.tags if tag == "audio")
    assert all(a.get("aria-label") or a.get("aria-hidden") for tag, a in page.tags if tag == "svg")
    assert all(a.get("scope") in ("row", "col") for tag, a in page.tags if tag == "th")
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for _, a in page.tags if str(a.get("href", "")).startswith("#")}
    assert targets <= set(ids)


def test_headings_go_down_by_one(rows_page: tuple[Path, Page]) -> None:
    _, page = rows_page
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert next(a["lang"] for tag, a in page.tags if tag == "html") == "en"


def test_every_box_has_a_name_and_a_row_to_pick(rows_page: tuple[Path, Page]) -> None:
    rows, page = rows_page
    boxes = [str(a["class"]) for tag, a in page.tags if tag == "input" and a["type"] == "checkbox"]
    assert boxes[:2] == ["pick pick-0", "pick pick-1"]
    assert [a["id"] for tag, a in page.tags if tag == "input" and a["type"] == "radio"] == [
        "scheme-system",
        "scheme-light",
        "scheme-dark",
    ]
    text = (rows / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<label><input", text)) == len([tag for tag, _ in page.tags if tag == "input"])
    assert ".legend:has(.pick-1:checked" in text


def test_figures_and_the_table_can_be_saved(rows_page: tuple[Path, Page]) -> None:
    _, page = rows_page
    saved = [a for tag, a in page.tags if tag == "a" and "download" in a]
    assert {str(a["download"]).rsplit(".", 1)[1] for a in saved} == {"svg", "csv"}
    assert all(a.get("aria-label", "").startswith("Save ") for a in saved)
    plots = [a for tag, a in page.tags if tag == "svg" and a.get("role") == "img"]
    assert len([a for a in saved if str(a["download"]).endswith(".svg")]) == len(plots)


def test_differences_by_seed_are_in_sight(rows_page: tuple[Path, Page]) -> None:
    text = rows_page[1].text
    assert "Paired differences" in text
    # FedA² less FedAvg: 0.7 - 0.5 and 0.72 - 0.6
    assert "FedA²-LoRA +16.0 +20.0 +12.0 —" in text


def test_a_run_of_an_earlier_version_says_that_its_norm_is_of_the_factors(tmp_path: Path) -> None:
    old, new = make_run(tmp_path / "old"), make_run(tmp_path / "new")
    for run, name in ((old, "update_norm"), (new, "change_norm")):
        with (run / "metrics.jsonl").open("a") as file:
            file.writelines(json.dumps({"round": t, "name": name, "value": 0.5}) + "\n" for t in (1, 2, 3))
    texts = page_of(old).text, page_of(new).text
    assert ["update norm of the factors" in text for text in texts] == [True, False]
    assert ["in runs of earlier versions" in text for text in texts] == [True, False]
    assert "update norm" in texts[1]


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    first = path.read_bytes()
    assert write_report(run).read_bytes() == first
    assert not list(run.glob("*.partial"))


def test_a_run_with_little_to_tell_still_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "q")
    for path in (run / "samples").iterdir():
        path.unlink()
    (run / "metrics.jsonl").write_text("")
    (run / "ledger.jsonl").write_text("")
    change(run / "summary.json", metrics={}, clients=[], trainable_parameters=None, shared_parameters=None)
    page = page_of(run)
    assert "Complete." in page.text
    assert not {"samples", "curves", "clients", "controls"} & {str(a.get("id")) for _, a in page.tags}


@pytest.mark.parametrize(
    ("image", "says"),
    [("absent.png", "cannot be read"), ("../../secret.png", "leads out"), ("scene.svg", "neither a picture")],
)
def test_a_medium_that_cannot_be_shown_is_told(run: Path, image: str, says: str) -> None:
    (run.parent / "secret.png").write_bytes(b"secret")
    samples = json.loads((run / "samples/samples.json").read_text())
    samples[0]["image"] = image
    (run / "samples/samples.json").write_text(json.dumps(samples))
    with pytest.raises(ExperimentError, match=says):
        write_report(run)


def test_many_samples_are_cut_and_the_rest_is_counted(run: Path) -> None:
    samples = json.loads((run / "samples/samples.json").read_text())
    many = [samples[0] | {"uid": f"m{i}"} for i in range(20)]
    (run / "samples/samples.json").write_text(json.dumps(many))
    page = page_of(run)
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 12
    assert "8 more in samples/samples.json" in page.text


def test_control_characters_and_halves_of_letters_do_not_reach_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "q", question="half a pair: \ud800, a null: \x00, \x1b[31m and \u202eback")
    assert "half a pair: \ufffd, a null: \ufffd, \ufffd[31m and \ufffdback" in page_of(run).text


def test_more_rows_than_colours_still_have_a_page(tmp_path: Path) -> None:
    runs = {(f"method {i}", 0): {"image": 0.4 + 0.01 * i} for i in range(10)}
    folder = make_rows(tmp_path / "r", runs)
    for metrics in folder.glob("*/*/metrics.jsonl"):  # one curve is enough here
        lines = metrics.read_text().splitlines(keepends=True)
        metrics.write_text("".join(line for line in lines if "global/image/token_accuracy" in line))
    page = page_of(folder)
    assert all(f"method {i} {40 + i}.0" in page.text for i in range(10))
    labels = [str(a["aria-label"]) for tag, a in page.tags if tag == "svg" and a.get("aria-label")]
    curve = next(label for label in labels if "over rounds" in label)
    assert "method 9 49.0 %" in curve


def test_spans_of_rounds() -> None:
    assert spans([3, 1, 2, 7, 7]) == "1–3, 7"
