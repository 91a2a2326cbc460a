"""Settings of the model that would make a run do something else than it says: refused, mended, or said."""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fedloom
from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.experiment.finished_run import read_experiment
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment, load_rows

SHIPPED = Path(str(files("fedloom.models"))) / "shipped" / "tiny-mllm"
ONE_BATCH: dict[str, Any] = {"clients": {"image": 2}, "train": 4, "test": 1}


def assembled(folder: Path) -> dict[str, str]:
    """Settings that name the shipped encoder and LLM from inside `folder`."""
    (folder / "parts").symlink_to(SHIPPED)
    return {"encoder": "parts/encoder", "llm": "parts/llm"}


@pytest.mark.parametrize("beside", [{"llm": "x"}, {"llm": "x", "encoder": "y"}])
def test_a_foundation_beside_the_parts_of_another_model_is_refused(quick, beside) -> None:
    with pytest.raises(ExperimentError, match=r"model\.foundation"):
        quick(model={"foundation": "some-folder", **beside})


def test_an_override_that_names_a_second_model_is_refused(tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("method: feda2-lora\nmodel: {llm: a/llm, encoder: {image: an/encoder}, tokens: 4}\n")
    with pytest.raises(ExperimentError, match=r"model\.native and model\.llm name two models"):
        load_rows(file, ["model.native=a/vlm"])
    with pytest.raises(ExperimentError, match=r"model\.native and model\.encoder name two models"):
        load_rows(file, ["model.native=a/vlm", "model.llm=null"])


def test_a_lost_folder_is_said_to_be_lost(quick, tmp_path) -> None:
    model = {"llm": str(tmp_path / "gone"), "encoder": str(SHIPPED / "encoder")}
    with pytest.raises(ExperimentError, match=rf"model\.llm: there is no folder {tmp_path / 'gone'}$"):
        run(quick("fedavg-lora", rounds=1, data=ONE_BATCH, model=model))


@pytest.mark.parametrize("schedule", ["two_stage", "reverse"])
def test_a_client_with_one_batch_trains_every_part(schedule, quick, federate) -> None:
    training = {"batch_size": 8, "schedule": schedule}
    federation = federate(quick("fedavg-lora", rounds=1, data=ONE_BATCH, training=training))
    before = federation.state.shared
    federation.run()
    after = federation.state.shared
    changed = {group_of(n) for n in after if not torch.equal(after[n], before[n])}
    assert changed == {"encoder.image", "projector", "llm"}


def test_a_frozen_llm_gives_its_steps_to_the_projector(quick, federate) -> None:
    model = {"llm_lora": None, "encoder_lora": None}
    federation = federate(quick("fedavg", rounds=1, data=ONE_BATCH, model=model, training={"batch_size": 2}))
    steps = []
    original = federation.engine._ask_one

    def spy(client, method, request, payload, at):
        reply = original(client, method, request, payload, at)
        steps.append(reply.payload.numbers["steps"])
        return reply

    federation.engine._ask_one = spy
    federation.run()
    assert steps == [2, 2]


def test_a_run_is_resumed_where_it_was_begun_and_loaded_from_another_folder(
    quick, tmp_path, monkeypatch
) -> None:
    begun, later = tmp_path / "begun", tmp_path / "later"
    begun.mkdir()
    later.mkdir()
    monkeypatch.chdir(begun)
    adapters = {"llm_lora": {"rank": 2}, "encoder_lora": {"rank": 2}}
    run(quick("fedavg-lora", rounds=1, data=ONE_BATCH, model={**assembled(begun), **adapters}), "runs/one")
    resumed = run(read_experiment(Path("runs/one")), "runs/one", resume=True)
    assert "accepted" not in resumed.summary["status"]
    monkeypatch.chdir(later)
    assert read_experiment(begun / "runs" / "one").model.llm == str(begun / "parts" / "llm")
    model = fedloom.load(begun / "runs" / "one")
    saved = load_file(begun / "runs" / "one" / "model" / "projector.safetensors")
    assert torch.equal(model.tensors["projector/weight"].detach(), saved["projector/weight"])


def test_models_of_the_package_keep_their_names(quick, tmp_path, monkeypatch) -> None:
    (tmp_path / "tiny-mllm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert quick().located() == quick()


def write_silo(folder: Path, answer: str) -> None:
    folder.mkdir(parents=True)
    lines = [json.dumps({"question": "is it red?", "answer": answer}) for _ in range(6)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("answer", "doubt"), [("haemorrhage", True), ("Ωραία ημέρα", True), ("red", False)])
def test_answers_that_the_tokenizer_cannot_read_are_said(answer, doubt, quick, tmp_path) -> None:
    write_silo(tmp_path / "silos" / "a", answer)
    told = []
    experiment = quick("fedavg-lora", rounds=1, data={"source": "folder", "path": str(tmp_path / "silos")})
    result = run(experiment, tmp_path / "run", observe=lambda progress: told.extend(progress.notes))
    says = "of the answers' words, and reads the others by letters"
    assert (says in result.summary["status"]) == doubt
    assert any(says in note for note in told) == doubt


def test_what_was_adapted_is_in_the_summary_and_in_the_report(quick, tmp_path) -> None:
    result = run(quick("fedavg-lora", rounds=0), tmp_path / "run")
    [line] = [n for n in result.summary["notes"] if n.startswith("adapted in llm: ")]
    assert "q_proj ×" in line
    assert line in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_record_with_the_prompts_former_name_is_read(quick) -> None:
    fields = quick().as_dict()
    for frame, prompt in ((None, "auto"), ("conversation", "paper"), ("bare", "bare")):
        model = {n: v for n, v in fields["model"].items() if n != "prompt"} | {"frame": frame}
        assert Experiment.from_record({**fields, "model": model}, "x").model.prompt == prompt


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (
            "mllm.json",
            {"tokens": 0, "pool": "x"},
            r"mllm\.json: pool: input should be 'head', 'cls' or 'mean'",
        ),
        ("mllm.json", {"sauce": 1}, r"mllm\.json: unknown key sauce"),
        ("encoder/config.json", {"out_dim": "wide"}, r"config\.json: out_dim: "),
        ("encoder/config.json", {"model_type": "vit"}, r"is of a vit model, no ImageBind"),
        ("llm/config.json", {"model_type": "no-such-kind"}, r"model\.foundation: .*llm cannot be loaded"),
    ],
)
def test_a_broken_foundation_is_one_sentence(file, change, says, quick, tmp_path, federate) -> None:
    shutil.copytree(SHIPPED, tmp_path / "own")
    path = tmp_path / "own" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf-8")
    with pytest.raises(ExperimentError, match=says) as raised:
        federate(quick(model={"foundation": str(tmp_path / "own")}))
    assert "\n" not in str(raised.value)
