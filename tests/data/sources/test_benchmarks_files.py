"""POPE, MME and MMBench from tiny hand-written files."""

import base64
import json

import pytest
from PIL import Image

from fedloom.core.errors import ExperimentError
from fedloom.data.sources.benchmarks import load_mmbench, load_mme, load_pope


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "images" / "scene").mkdir(parents=True)
    Image.new("RGB", (5, 4), "red").save(tmp_path / "images" / "a.png")
    Image.new("RGB", (5, 4), "red").save(tmp_path / "images" / "scene" / "b.png")
    return tmp_path / "images"


def test_pope(tmp_path, picture) -> None:
    file = tmp_path / "pope.json"
    lines = [{"question_id": 7, "image": "a.png", "text": "Is there a dog?", "label": "No"}]
    file.write_text("\n".join(json.dumps(x) for x in lines) + "\n\n")
    (sample,) = load_pope(file, picture)
    assert (sample.uid, sample.answer, sample.meta["truth"]) == ("pope/7", "no", "no")
    assert sample.question.startswith("Is there a dog?")
    assert sample.modalities["image"].shape == (3, 4, 5)
    file.write_text('{"image": "a.png", "text": "?", "label": "maybe"}')
    with pytest.raises(ExperimentError, match="yes or no, and is 'maybe'"):
        load_pope(file, picture)
    file.write_text('{"image": "z.png", "text": "?", "label": "yes"}')
    with pytest.raises(ExperimentError, match="there is no picture"):
        load_pope(file, picture)
    file.write_text("[]")
    with pytest.raises(ExperimentError, match="line 1"):
        load_pope(file, picture)


def test_a_question_may_hold_any_line_break_of_unicode(tmp_path, picture) -> None:
    text = "Is there\u2028a\u0085dog?"
    (tmp_path / "pope.json").write_text(
        json.dumps({"image": "a.png", "text": text, "label": "no"}, ensure_ascii=False), encoding="utf-8"
    )
    (sample,) = load_pope(tmp_path / "pope.json", picture)
    assert sample.question.startswith(text)
    (tmp_path / "scene.txt").write_text(f"a.png\t{text}\tNo\n", encoding="utf-8")
    (sample,) = load_mme(tmp_path, picture)
    assert sample.question.startswith(text)


def test_mme(tmp_path, picture) -> None:
    folder = tmp_path / "mme"
    folder.mkdir()
    (folder / "scene.txt").write_text("b.png\tIs it red?\tYes\nb.png\tIs it blue?\tNo\n")
    (folder / "count.txt").write_text("a.png\tIs there one?\tYes\n")
    found = load_mme(folder, picture)
    assert [(s.meta["category"], s.answer) for s in found] == [
        ("count", "yes"),
        ("scene", "yes"),
        ("scene", "no"),
    ]
    (folder / "bad.txt").write_text("a.png\tno answer")
    with pytest.raises(ExperimentError, match="separated by tabs"):
        load_mme(folder, picture)


def test_mmbench(tmp_path, picture) -> None:
    coded = base64.b64encode((picture / "a.png").read_bytes()).decode()
    file = tmp_path / "bench.tsv"
    head = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\n"
    file.write_text(f"{head}3\tWhat colour?\tLook.\tred\tblue\tnan\t\tA\tcolour\t{coded}\n")
    (sample,) = load_mmbench(file)
    assert sample.meta["choices"] == {"A": "red", "B": "blue"}
    assert sample.question.splitlines()[:4] == ["Look.", "What colour?", "A. red", "B. blue"]
    assert sample.modalities["image"].shape == (3, 4, 5)
    file.write_text(f"{head}3\tWhat colour?\t\tred\tblue\t\t\tC\tcolour\t{coded}\n")
    with pytest.raises(ExperimentError, match="answer among them"):
        load_mmbench(file)
    file.write_text(head)
    with pytest.raises(ExperimentError, match="holds no question"):
        load_mmbench(file)
