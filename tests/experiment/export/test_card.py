"""Model cards of small runs, read by the hub's own parser: what they tell, what they keep back, and hands that edited them."""

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import fedloom
from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.export.licences import licence
from fedloom.experiment.settings import Experiment
from tests.experiment.small_run import SETTINGS, quick_runs


def carded(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["card", *map(str, arguments)], catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rate of learning spoils the model, so that the figures before and after it differ."""
    folder = tmp_path_factory.mktemp("runs") / "r"
    data = {"clients": {"image": 2}, "train": 4, "test": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedloom.experiment.report.write_report", lambda folder: folder)
        fedloom.run(
            Experiment.parse(
                {
                    **SETTINGS,
                    "data": data,
                    "training": {"batch_size": 4, "lr": 0.3},
                    "evaluation": {"controls": True, "samples": 1},
                    "rounds": 1,
                    "method": {"name": "fedsa-lora", "unseen": "mean_b"},  # with a common model and own ones
                }
            ),
            folder,
        )
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "r")
    return tmp_path / "r"


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def changed(run: Path, **settings: Any) -> None:
    """Give a run's record other settings, without its seal."""
    record = yaml.safe_load((run / "experiment.yaml").read_text())
    (run / "experiment.yaml").write_text(yaml.safe_dump(record | settings))
    (run / "checksums.json").unlink()


def test_the_card_stands_beside_the_model_and_the_hub_reads_it(run: Path) -> None:
    assert carded(run, "--license", "mit").split() == ["card", str(run / "model" / "README.md")]
    text = (run / "model" / "README.md").read_text()
    data = ModelCard(text).data
    assert (data.license, data.library_name, data.base_model) == ("mit", "peft", None)
    assert data.tags == ["fedloom", "federated-learning", "fedsa-lora", "lora", "image"]
    assert {"token_accuracy", "exact_match", "f1", "bleu", "rouge", "meteor_exact"} <= {*data.metrics}
    assert "| base, llm | path/to/tiny-mllm/llm | `apache-2.0` |" in section(text, "Licence")
    assert "| clients with image | 2, with 8 training and 6 test samples |" in section(text, "Data")
    assert "| rounds | 1 |" in section(text, "Training")
    assert "- No privacy mechanism: the server saw every client's update" in section(text, "Privacy")
    assert "small generated world" in section(text, "Intended use and limits")
    assert f"| fedloom | {version('fedloom')} |" in section(text, "Made with")
    assert "image-01" not in text
    assert str(run) not in text


def test_figures_stand_beside_their_start_and_interval_and_controls(run: Path) -> None:
    carded(run)
    text = (run / "model" / "README.md").read_text()
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    rows = {
        cells[1].strip(" `"): [c.strip() for c in cells[2:5]]
        for line in section(text, "Figures of the last round").splitlines()
        if len(cells := line.split("|")) == 6
    }
    name = "global/image/token_accuracy"
    start, end, interval = rows[name]
    assert (start, end) == (percent(metrics["start"][name]), percent(metrics[name]))
    assert start != end
    low, high = (float(part.rstrip(" %")) / 100 for part in interval.split(" to "))
    assert low < metrics[name] < high
    assert not [n for n in rows if n.startswith(("train/", "control/", "update"))]
    control = section(text, "Controls")
    removed = metrics["control/image/removed/token_accuracy"]
    assert f"| image, token_accuracy | {percent(metrics[name])} | {percent(removed)} |" in control


def test_checksums_are_those_of_the_files(run: Path) -> None:
    carded(run)
    text = section((run / "model" / "README.md").read_text(), "Checksums (SHA-256)")
    files = [p for p in (run / "model").rglob("*.safetensors") if "clients" not in p.parts]
    assert files
    for file in files:
        name, digest = file.relative_to(run / "model"), hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"| `{name.as_posix()}` | `{digest}` |" in text
    assert "clients/" not in text


def test_a_card_that_was_edited_stays_unless_told_and_goes_with_the_export(run: Path, tmp_path: Path) -> None:
    file = run / "model" / "README.md"
    carded(run)
    carded(run)  # its own is replaced
    file.write_text(file.read_text().replace("## Data\n", "## Data\n\nTwo cameras in a garden.\n"))
    with pytest.raises(ExperimentError, match=r"README\.md was edited by hand, or is not ours; --force"):
        carded(run)
    assert "Two cameras" in file.read_text()
    fedloom.load(run)  # a card is no result
    exported = CliRunner().invoke(app, ["export", str(run), "--out", str(tmp_path / "out")])
    assert exported.exit_code == 0
    assert (tmp_path / "out" / "README.md").read_text() == file.read_text()
    carded(run, "--out", tmp_path / "cards")
    assert "Two cameras" not in (tmp_path / "cards" / "README.md").read_text()
    carded(run, "--force")
    assert "Two cameras" not in file.read_text()


def test_an_edited_card_outlives_a_resume(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carded(run)
    file = run / "model" / "README.md"
    file.write_text("mine")
    with quick_runs():
        fedloom.run(Experiment.load(run / "experiment.yaml"), run, resume=True, accept_changes=True)
    assert file.read_text() == "mine"
    file.write_text("mine, later")
    fedloom.load(run)


def test_a_clients_card_is_of_its_own_model(run: Path, tmp_path: Path) -> None:
    carded(run, "--client", "image-02", "--out", tmp_path / "own.md")
    text = (tmp_path / "own.md").read_text()
    assert "One of 2 clients' own model" in text
    assert "| clients with image | 1, with 4 training and 3 test samples |" in text
    assert "`image/token_accuracy`" in text
    assert "image-02" not in text


def test_clients_are_named_where_asked_and_never_of_a_private_run(run: Path, tmp_path: Path) -> None:
    carded(run, "--clients", "--out", tmp_path / "named.md")
    assert "| image-02 | image | 4 | 3 |" in section((tmp_path / "named.md").read_text(), "Clients")
    changed(run, privacy={"dp": {"clip": 0.5, "noise_multiplier": 1.0, "delta": 1e-5}})
    summary = json.loads((run / "summary.json").read_text())
    summary["privacy"] = {"spent": {"epsilon": 4.25, "delta": 1e-5, "rounds": 1}}
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ExperimentError, match="--clients: the run kept single clients apart"):
        carded(run, "--clients", "--out", tmp_path / "no.md")
    carded(run, "--out", tmp_path / "private.md")
    found = section((tmp_path / "private.md").read_text(), "Privacy")
    assert "epsilon 4.25 at delta 1e-05, spent over 1 rounds (clip 0.5, noise multiplier 1)" in found
    assert "No privacy mechanism" not in found
    (run / "checksums.json").touch()
    changed(run, privacy={"dp": {"clip": {"quantile": 0.3}, "noise_multiplier": "calibrated", "epsilon": 5}})
    carded(run, "--out", tmp_path / "adaptive.md")
    found = section((tmp_path / "adaptive.md").read_text(), "Privacy")
    assert "(clip at quantile 0.3, noise multiplier calibrated)" in found


def test_a_run_that_has_not_ended_and_a_wrong_place_are_one_sentence(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(
        ExperimentError, match=r"cannot hold a card; name a folder, or a file that ends in \.md"
    ):
        carded(run, "--out", tmp_path / "file.txt")
    with pytest.raises(ExperimentError, match="no personal model of a client 'nobody'"):
        carded(run, "--client", "nobody")
    shutil.rmtree(run / "model")
    with pytest.raises(ExperimentError, match="holds no finished model"):
        carded(run)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("README.md", "---\nlicense: cc-by-4.0\n---\n# x\n", "cc-by-4.0"),
        ("README.md", "---\nlicense: [broken\n---\n", None),
        ("config.json", '{"model_type": "vit", "license": "MIT"}', "mit"),
        ("LICENSE", "Apache License\n   Version 2.0, January 2004\n", "apache-2.0"),
        ("LICENCE.txt", "weights: CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"),
        ("LICENSE.md", "All rights reserved.", None),
        ("other.txt", "MIT License", None),
    ],
)
def test_a_folders_licence_is_what_its_files_state(
    tmp_path: Path, name: str, text: str, found: str | None
) -> None:
    (tmp_path / name).write_text(text)
    assert licence(str(tmp_path)) == found
