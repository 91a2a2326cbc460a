"""Classes of one's own, end to end: texts, pairs, pictures and sounds are learned, asked, resumed, protected and refused."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import fedloom
from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.deploy.server import go_on
from fedloom.experiment.build import build
from fedloom.experiment.finished_run import load
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder
from fedloom.methods import METHODS
from fedloom.methods.base.clip import CLIPMethod
from tests.deploy.silos import Silos

QUICK: dict[str, Any] = {
    "rounds": 2,
    "method": "fedavg-lora",
    "training": {"lr": 0.02, "batch_size": 8},
    "model": {"body_lora": {"rank": 2}},
    "evaluation": {"samples": 0, "controls": False},
}
OF_LABELS = sorted(n for n, m in METHODS.items() if not m.public_items and not issubclass(m, CLIPMethod))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module", autouse=True)
def _no_report() -> Iterator[None]:
    """The report has tests of its own, and after each of these runs it would take most of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
        yield


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The settings of small data sets that can be learned, by kind."""
    root, draw = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    words = {"broken": "a red cube", "fine": "the blue ball", "unsure": "two green cones"}
    texts = [
        {"text": f"{words[label]} left of it", "intent": label, "client": f"site-{i % 2}"}
        for i, label in enumerate([*words] * 16)
    ]
    pairs = [
        {"premise": f"a {('red', 'blue')[i % 2]} cube", "hypothesis": f"a {('red', 'blue')[i // 2 % 2]} cube"}
        | {"label": int(i % 2 == i // 2 % 2)}
        for i in range(48)
    ]
    for label, colour in (("cat", (220, 30, 30)), ("dog", (30, 220, 30)), ("elk", (30, 30, 220))):
        (root / "pictures" / label).mkdir(parents=True)
        for i in range(10):
            noisy = np.clip(np.array(colour) + draw.integers(-30, 30, (16, 20, 3)), 0, 255)
            Image.fromarray(noisy.astype("uint8")).save(root / "pictures" / label / f"{i}.png")
    for label, pitch in (("high", 3000), ("low", 200)):
        (root / "sounds" / label).mkdir(parents=True)
        for i in range(12):
            wave = 0.5 * np.sin(2 * np.pi * (pitch + 10 * i) * np.arange(8000) / 16_000)
            soundfile.write(root / "sounds" / label / f"{i}.wav", wave, 16_000)
    return {
        "text": {"path": str(write_csv(root / "texts.csv", texts))},
        "pair": {"path": str(write_csv(root / "pairs.csv", pairs)), "clients": 2},
        "image": {"path": str(root / "pictures"), "clients": 3},
        "audio": {"path": str(root / "sounds"), "clients": 2},
    }


def experiment(data: dict[str, Any], **more: Any) -> Experiment:
    return Experiment.parse({**QUICK, "data": data, **more})


def ask(folder: Path, *options: str) -> list[list[str]]:
    output = CliRunner().invoke(app, ["ask", str(folder), *options], catch_exceptions=False).output
    return [line.rsplit("  ", 1) for line in output.splitlines() if line]


@pytest.fixture(scope="module")
def runs(tables, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    for kind, data in tables.items():
        run(experiment(data, rounds=4 if kind != "pair" else 1), root / kind)
    return {kind: root / kind for kind in tables}


@pytest.mark.parametrize("kind", ["text", "image", "audio"])
def test_classes_are_learned_and_recorded_in_one_order(kind: str, runs) -> None:
    summary = fedloom.experiment.finished_run.read_summary(runs[kind])
    assert summary["metrics"][f"global/{kind}/accuracy"] > 0.9
    assert summary["metrics"][f"global/{kind}/macro_f1"] > 0.9
    assert f"mean_client/{kind}/macro_f1" in summary["metrics"]
    labels = {"text": ["broken", "fine", "unsure"], "image": ["cat", "dog", "elk"], "audio": ["high", "low"]}[
        kind
    ]
    recorded = yaml.safe_load((runs[kind] / "experiment.yaml").read_text())["data"]
    assert (recorded["answers"], recorded["labels"]) == ("labels", labels)
    assert fedloom.load(runs[kind]).labels == tuple(labels)
    assert any(f"a classifier learns {len(labels)} classes" in note for note in summary["notes"])


def test_answers_name_labels_with_their_probabilities(runs, tables) -> None:
    picture = str(Path(tables["image"]["path"]) / "dog" / "3.png")
    sound = str(Path(tables["audio"]["path"]) / "low" / "2.wav")
    text = "the blue ball left of it"
    for answer, label, count in (
        (ask(runs["text"], "--question", text), "fine", 3),
        (ask(runs["image"], "--image", picture), "dog", 3),
        (ask(runs["audio"], "--audio", sound), "low", 2),
    ):
        shares = [float(share) for _, share in answer[-count:]]
        assert answer[-count][0].strip() == label
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=0.02)
    model = load(runs["text"])
    assert next(iter(model.classify(text))) == "fine"
    answer = ask(runs["pair"], "--question", "a red cube", "--pair", "a red cube")
    assert {label.strip() for label, _ in answer[-2:]} == {"0", "1"}


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("text", ["--question", "a", "--pair", "b"], "reads one text; leave --pair out"),
        ("pair", ["--question", "a"], "compares two texts; give the second one with --pair"),
        ("image", ["--question", "a"], "reads one file; give --image alone"),
        ("image", [], "reads one file; give --image alone"),
    ],
)
def test_a_question_of_another_kind_is_one_sentence(kind, options, says, runs) -> None:
    with pytest.raises(ExperimentError, match=says):
        ask(runs[kind], *options)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(kind, tables, tmp_path) -> None:
    def stop(progress) -> None:
        if progress.round == 1 and progress.client is None:
            raise KeyboardInterrupt

    chosen = experiment(tables[kind], evaluation={"generate": False, "samples": 0})
    run(chosen, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(chosen, tmp_path / "parts", observe=stop)
    run(chosen, tmp_path / "parts", resume=True)
    saved = sorted((tmp_path / "whole" / "model").rglob("*.safetensors"))
    assert {file.name for file in saved} == {"adapter_model.safetensors", "head.safetensors"}
    for file in saved:
        assert file.read_bytes() == (tmp_path / "parts" / file.relative_to(tmp_path / "whole")).read_bytes()


@pytest.mark.parametrize("method", OF_LABELS)
def test_every_method_of_adapters_trains_body_and_head(method, tables) -> None:
    data = {**tables["image"], "train": 6, "test": 2}
    silent = {"generate": False, "controls": False, "samples": 0}
    federation = build(experiment(data, method=method, evaluation=silent), None, lambda progress: None)
    federation.run()
    model = federation.engine.model
    client = sorted(federation.clients)[0]
    own = federation.client_model(federation.clients[client])
    tensors = federation.global_model() or (own.tensors if own else {})
    moved = {
        group_of(n) for n, t in tensors.items() if n in model.start and not torch.equal(t, model.start[n])
    }
    merged = {group_of(n) for n in tensors if ".merged_" in n}
    assert moved | merged == {"body", "head"}


@pytest.mark.parametrize(
    "privacy", [{"secure": {}}, {"dp": {"noise_multiplier": 0.1}}, {"robust": {"kind": "median"}}], ids=str
)
@pytest.mark.parametrize("kind", ["text", "image"])
def test_protected_runs_learn_too(kind, privacy, tables) -> None:
    data = {**tables[kind], "clients": 3}
    result = run(experiment(data, privacy=privacy))
    metrics = result.summary["metrics"]
    assert metrics[f"global/{kind}/accuracy"] > metrics["start"][f"global/{kind}/accuracy"]


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("image", {"method": "promptfl"}, "method promptfl trains a part of CLIP; set data.source: classes"),
        (
            "image",
            {"method": "fedmd"},
            "method fedmd is for clients with models of their own; set data.source: labelled",
        ),
        (
            "image",
            {"model": {"classifier": "x"}},
            r"name the encoder of pictures or sounds in model\.encoder, as in",
        ),
        ("image", {"model": {"llm": "x"}}, r"model\.llm is not read by the task classification"),
        (
            "image",
            {"model": {"encoder": {"audio": "x"}}},
            "clients hold image, and model.encoder names encoders of audio",
        ),
        (
            "text",
            {"model": {"encoder": {"image": "x"}}},
            r"the rows are texts; name their model in model\.classifier",
        ),
        ("text", {"evaluation": {"bertscore": "world"}}, "bertscore compares sentences"),
        ("text", {"model": {"classifier": "/no/where"}}, r"model\.classifier: /no/where cannot be loaded"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(kind, settings, says, tables) -> None:
    with pytest.raises(ExperimentError, match=says):
        build(experiment(tables[kind], **settings), None, lambda progress: None)


def test_a_status_names_what_is_doubtful(tables, tmp_path) -> None:
    rows = [
        {
            "text": f"Glioblastoma multiforme qxzwv {i}",
            "label": "ab"[i % 2],
            "client": "s",
            "split": ("train", "test")[i % 2],
        }
        for i in range(8)
    ]
    table = str(write_csv(tmp_path / "x.csv", rows))
    status = run(experiment({"path": table, "labels": ["a", "b", "c"]}, rounds=1)).summary["status"]
    assert "no client trains on 2 of the 3 classes, such as b" in status
    assert "of the texts' words, and reads the others by letters" in status
    status = run(experiment(tables["image"], rounds=0)).summary["status"]
    assert "the encoder is the package's tiny one" in status


def test_the_examples_of_the_docs_run(tmp_path, monkeypatch) -> None:
    docs = Path("docs/your-data.md").read_text(encoding="utf-8")
    section = docs.split("## Classes of your own")[1].split("\n## ")[0]
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)]
    assert [sorted(b["model"]) for b in blocks] == [["classifier"], ["encoder"], ["audio_seconds", "encoder"]]
    monkeypatch.chdir(tmp_path)
    teams = [{"text": f"no {i}", "team": ("lift", "roof")[i % 2], "office": f"o{i // 6}"} for i in range(12)]
    write_csv(tmp_path / "tickets.csv", teams)
    for label in ("fracture", "healthy"):
        (tmp_path / "scans" / label).mkdir(parents=True)
        for i in range(8):
            grey = np.full((9, 8, 3), 9 * i + len(label), np.uint8)
            Image.fromarray(grey).save(tmp_path / "scans" / label / f"{i}.png")
    for hospital in ("a", "b"):
        (tmp_path / "hospitals" / hospital).mkdir(parents=True)
        for i in range(6):
            soundfile.write(f"hospitals/{hospital}/{i}.wav", np.sin(np.arange(2000) * (i + 1) / 50), 16_000)
        listed = [{"file_name": f"{i}.wav", "label": ("dry", "wet")[i % 2]} for i in range(6)]
        write_csv(tmp_path / "hospitals" / hospital / "metadata.csv", listed)
    kinds = {"text": ("lift", "roof"), "image": ("fracture", "healthy"), "audio": ("dry", "wet")}
    for block, (kind, labels) in zip(blocks, kinds.items(), strict=True):
        result = run(Experiment.parse({**block, "rounds": 1, "model": {}}), tmp_path / kind)
        assert f"global/{kind}/macro_f1" in result.summary["metrics"]
        assert load(tmp_path / kind).labels == labels


def test_sites_that_share_the_classes_end_in_the_bits_of_a_local_run(tables, tmp_path) -> None:
    names = ("site-0", "site-1")
    given = {**tables["text"], "labels": ["fine", "broken", "unsure"]}
    chosen = experiment(given, engine={"cohort": "off"}, evaluation={"samples": 0, "generate": False})
    local = build(chosen, None, lambda progress: None)
    local.run()
    go_on(chosen, names, tmp_path / "far", Silos(chosen, names, tmp_path / "sites"))
    far = RunFolder(tmp_path / "far").last()
    assert far is not None
    assert far.state.shared.keys() == local.state.shared.keys()
    assert all(torch.equal(far.state.shared[n], t) for n, t in local.state.shared.items())
    unnamed = experiment({**tables["text"], "answers": "labels"})
    silos = Silos(chosen, names, tmp_path / "again")
    with pytest.raises(ExperimentError, match=r"data\.labels: the server does not see the sites' data"):
        go_on(unnamed, names, tmp_path / "none", silos)
    assert silos.asked == []


def test_a_server_that_sees_no_data_needs_the_classes(tables) -> None:
    chosen = experiment({**tables["text"], "answers": "labels"})
    with pytest.raises(
        ExperimentError, match=r"data\.labels: the server does not see the sites' data; name the classes"
    ):
        chosen.task.model({"a": ()}, chosen.setup)
    named = experiment({**tables["text"], "labels": ["broken", "fine", "unsure"]})
    assert named.task.model({"a": ()}, named.setup).labels == ("broken", "fine", "unsure")
    with pytest.raises(ExperimentError, match="clients hold audio and image"):
        named.task.model({"a": ("image",), "b": ("audio",)}, named.setup)
