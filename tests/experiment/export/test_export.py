"""Exported folders of whole runs: forms, model cards whose code runs, what is refused, and what is left behind."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import fedloom
from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import Experiment
from fedloom.models.classifier.load import classifier_source
from fedloom.models.mllm.load import foundation_folder
from fedloom.models.settings import Foundation
from tests.experiment.small_run import SETTINGS, contents
from tests.models.clip.tiny_clip import quick_settings
from tests.models.readers import READERS, apply
from tests.models.test_weights import write_llm

IDS = torch.tensor([[1, 5, 9, 20, 33]])
TEXT = {
    "rounds": 1,
    "method": "fedavg-lora",
    "data": {"source": "text", "task": "entailment", "train": 6, "test": 2},
    "model": {"body_lora": {"rank": 3, "kind": "vera"}},
    "training": {"batch_size": 4},
}


def exported(*arguments: object) -> None:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=True)
    if result.exception is not None:
        raise result.exception


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a finished run of these settings, run once."""
    known: dict[str, Path] = {}

    def of(label: str, **settings: Any) -> Path:
        if label not in known:
            folder = tmp_path_factory.mktemp("runs") / label
            fields = settings if "data" in settings else {**SETTINGS, **settings}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("fedloom.experiment.report.write_report", lambda folder: folder)
                fedloom.run(Experiment.parse(fields), folder)
            known[label] = folder
        return known[label]

    return of


def code_of(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def ran(folder: Path, monkeypatch: pytest.MonkeyPatch, bases: Path) -> dict[str, Any]:
    """The variables of the README's code, run in its folder beside the base models."""
    if not (folder / "path").exists():
        (folder / "path").mkdir()
        (folder / "path" / "to").symlink_to(bases)
    monkeypatch.chdir(folder)
    variables: dict[str, Any] = {}
    exec(code_of(folder), variables)
    return variables


def said(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture(scope="module")
def fedex(runs: Any) -> Path:
    lora = {"llm_lora": {"rank": 4, "rslora": True}, "encoder_lora": {"rank": 3}}
    warm = {"method": "fedavg-lora", "rounds": 1}
    return runs("fedex", method={"name": "fedex-lora", "warm_start": warm}, model=lora)


def test_the_readme_of_every_form_loads_the_model(fedex, tmp_path, monkeypatch) -> None:
    want = said(fedloom.load(fedex).mllm.llm)
    shipped = foundation_folder("tiny-mllm")
    base = AutoModelForCausalLM.from_pretrained(shipped / "llm", dtype=torch.float32)
    assert float((said(base) - want).abs().max()) > 0.05  # any tolerance below is far less
    exported(fedex, "--out", tmp_path / "plain")
    exported(fedex, "--uniform", "--out", tmp_path / "uniform")
    exported(fedex, "--merge", "--dtype", "float32", "--out", tmp_path / "whole")
    for form, name in (("plain", "model"), ("uniform", "model"), ("whole", "llm")):
        model = ran(tmp_path / form, monkeypatch, shipped.parent)[name]
        torch.testing.assert_close(
            said(model.float()), want, atol=2e-3 if form != "whole" else 1e-4, rtol=1e-3
        )
    for form in ("plain", "uniform"):
        for rank in READERS.values():
            base = AutoModelForCausalLM.from_pretrained(shipped / "llm", dtype=torch.float32)
            read = apply(base, tmp_path / form / "llm", rank)
            torch.testing.assert_close(said(read), want, atol=1e-4, rtol=1e-4)
    plain, model = contents(tmp_path / "plain"), contents(fedex / "model")
    readme = plain.pop("README.md")
    assert {n: b for n, b in plain.items() if not n.startswith("path/")} == {
        n: b for n, b in model.items() if not n.startswith("clients/")
    }
    again = Foundation(foundation=str(tmp_path / "whole"))
    from fedloom.models.mllm.load import load_model

    torch.testing.assert_close(
        said(load_model(again, ["image"], "cpu", 0).mllm.llm), want, atol=1e-4, rtol=1e-4
    )
    assert b"alpha" in readme


def test_a_merged_model_keeps_the_bases_own_dtype(fedex, tmp_path) -> None:
    exported(fedex, "--merge", "--out", tmp_path / "whole")
    stored = load_file(tmp_path / "whole" / "llm" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}  # as the shipped one's
    want = said(fedloom.load(fedex).mllm.llm)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "llm", dtype=torch.float32)
    torch.testing.assert_close(said(model), want, atol=2e-2, rtol=1e-2)


def test_the_card_is_what_the_hub_reads_and_tells_no_name_and_no_path(fedex, tmp_path) -> None:
    exported(fedex, "--out", tmp_path / "plain")
    text = (tmp_path / "plain" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.library_name == "peft"
    assert card.data.license == "apache-2.0"  # the shipped base's
    assert "to be stated by whoever publishes" in text
    assert card.data.base_model is None  # it lies on this machine
    for told in (
        "FedEx-LoRA",
        "| rounds | 2 |",
        "2, with 8 training and 2 test samples",
        "global/image/token_accuracy",
    ):
        assert told in text
    names = [row["client"] for row in json.loads((fedex / "summary.json").read_text())["clients"]]
    assert len(names) == 2
    assert not [name for name in names if name in text]
    assert str(fedex) not in text
    assert "/src/" not in text


def test_a_base_of_the_hub_is_named(fedex, tmp_path) -> None:
    record = yaml.safe_load((fedex / "experiment.yaml").read_text())
    experiment = Experiment.from_record(record, "here")
    model = experiment.model.model_copy(update={"llm": "org/llm", "encoder": {"image": "org/sight"}})
    from fedloom.experiment.export.card import Card, card_text
    from fedloom.experiment.export.export import _name_bases
    from fedloom.experiment.export.finished import Finished

    exported(fedex, "--out", tmp_path / "plain")
    there = experiment.model_copy(update={"model": model})
    _name_bases(tmp_path / "plain", there)
    summary = json.loads((fedex / "summary.json").read_text())
    text = card_text(tmp_path / "plain", Finished(there, summary), Card())
    (tmp_path / "plain" / "README.md").write_text(text)
    card = ModelCard(text)
    assert card.data.license == "unknown"
    assert "| base, llm | org/llm | unknown; see https://huggingface.co/org/llm |" in text
    assert card.data.base_model == ["org/llm", "org/sight"]
    named = {
        p.parent.name: json.loads(p.read_text())["base_model_name_or_path"]
        for p in (tmp_path / "plain").rglob("adapter_config.json")
    }
    assert named == {"llm": "org/llm", "encoder.image": "org/sight"}
    assert 'from_pretrained("org/llm")' in code_of(tmp_path / "plain")


def test_one_clients_folder_is_exported_by_name_alone(runs, tmp_path) -> None:
    run = runs("fedsa")
    exported(run, "--client", "image-02", "--merge", "--dtype", "float32", "--out", tmp_path / "own")
    want = said(fedloom.load(run, "image-02").mllm.llm)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "own" / "llm")
    torch.testing.assert_close(said(model), want, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(said(fedloom.load(run, "image-01").mllm.llm), want)
    with pytest.raises(ExperimentError, match="no personal model of a client 'nobody'"):
        exported(run, "--client", "nobody", "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_client_whose_adapters_are_mixed_says_so_and_has_no_other_form(runs, tmp_path, monkeypatch) -> None:
    run = runs("feddpa", method="feddpa-lora")
    own = run / "model" / "clients" / "image-01"
    assert "mixes two adapters anew for every example" in (own / "README.md").read_text()
    assert not (run / "model" / "README.md").exists()
    for option in ("--merge", "--uniform"):
        with pytest.raises(
            ExperimentError, match=f"mixes two adapters by example, which {option} cannot express"
        ):
            exported(run, "--client", "image-01", option, "--out", tmp_path / "no")
    exported(run, "--client", "image-01", "--out", tmp_path / "own")
    text = (tmp_path / "own" / "README.md").read_text()
    assert "No format of PEFT or transformers" in text
    shipped = foundation_folder("tiny-mllm")
    plain = ran(tmp_path / "own", monkeypatch, shipped.parent)["model"]
    model = fedloom.load(run, "image-01")
    model.mix(0.0)  # the common adapter alone, which plain PEFT computes
    torch.testing.assert_close(said(plain.float()), said(model.mllm.llm), atol=2e-3, rtol=1e-3)
    exported(run, "--uniform", "--out", tmp_path / "common")
    base = AutoModelForCausalLM.from_pretrained(shipped / "llm", dtype=torch.float32)
    read = apply(base, tmp_path / "common" / "llm", READERS["each tensor's own rank"])
    torch.testing.assert_close(said(read), said(fedloom.load(run).mllm.llm), atol=1e-4, rtol=1e-4)


def test_two_adapters_of_full_weight_are_one_uniform_adapter(runs, tmp_path, monkeypatch) -> None:
    run = runs("additive", method={"name": "feddpa-lora", "variant": "additive"})
    want = said(fedloom.load(run, "image-01").mllm.llm)
    shipped = foundation_folder("tiny-mllm")
    exported(run, "--client", "image-01", "--out", tmp_path / "two")
    both = ran(tmp_path / "two", monkeypatch, shipped.parent)["model"]
    torch.testing.assert_close(said(both.float()), want, atol=2e-3, rtol=1e-3)
    exported(run, "--client", "image-01", "--uniform", "--out", tmp_path / "one")
    base = AutoModelForCausalLM.from_pretrained(shipped / "llm", dtype=torch.float32)
    read = apply(base, tmp_path / "one" / "llm", READERS["the configuration's rank"])
    torch.testing.assert_close(said(read), want, atol=1e-4, rtol=1e-4)
    exported(run, "--client", "image-01", "--merge", "--dtype", "float32", "--out", tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "llm")
    torch.testing.assert_close(said(whole), want, atol=1e-4, rtol=1e-4)


def test_a_classifiers_forms_load_by_their_readme(runs, tmp_path, monkeypatch) -> None:
    run = runs("text", **TEXT)
    model = fedloom.load(run)
    with torch.no_grad():
        want = model.model.eval()(input_ids=IDS).logits
    shipped = Path(classifier_source(Foundation())).parent
    for options in ((), ("--uniform",), ("--merge", "--dtype", "float32")):
        folder = tmp_path / "-".join(("form", *options[:1]))
        exported(run, *options, "--out", folder)
        read = ran(folder, monkeypatch, shipped)["model"]
        torch.testing.assert_close(said(read.float()), want, atol=1e-3, rtol=1e-3)


def test_a_run_without_adapters_has_one_form(runs, clip_folder, tmp_path, monkeypatch) -> None:
    run = runs("clip", **quick_settings(clip_folder, 2), method="promptfl")
    for option in ("--merge", "--uniform"):
        with pytest.raises(ExperimentError, match=f"no LoRA or VeRA adapters; leave {option} out"):
            exported(run, option, "--out", tmp_path / "no")
    exported(run, "--out", tmp_path / "out")
    tensors = ran(tmp_path / "out", monkeypatch, tmp_path)["tensors"]
    assert {n: t.shape for n, t in tensors.items()} == {
        n.partition("/")[2]: t.shape for n, t in fedloom.load(run).tensors.items()
    }


class Hub:
    """A stand-in for the hub's client."""

    def __init__(self, private: bool = True, fault: Exception | None = None) -> None:
        self.private, self.fault = private, fault
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo: str, **options: Any) -> str:
        self.calls.append(("create", {"repo": repo, **options}))
        return f"https://hub/{repo}"

    def model_info(self, repo: str) -> Any:
        return type("Info", (), {"private": self.private})

    def upload_folder(self, **options: Any) -> None:
        if self.fault is not None:
            raise self.fault
        files = sorted(p.name for p in Path(options["folder_path"]).iterdir())
        self.calls.append(("upload", {**options, "files": files}))


@pytest.fixture
def hub(monkeypatch) -> Any:
    def use(token: str | None = "t", **state: Any) -> Hub:
        known = Hub(**state)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: known)
        monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
        return known

    return use


def test_a_push_is_private_and_carries_no_clients_model(runs, hub, tmp_path) -> None:
    known = hub()
    run = runs("feddpa", method="feddpa-lora")
    assert (run / "model" / "clients").is_dir()
    exported(run, "--out", tmp_path / "a", "--push", "org/name")
    (_, created), (_, uploaded) = known.calls
    assert (created["repo"], created["private"]) == ("org/name", True)
    assert uploaded["files"] == ["README.md", "encoder.image", "fedloom.json", "llm", "projector.safetensors"]
    exported(run, "--out", tmp_path / "b", "--push", "org/name", "--public")
    assert known.calls[2][1]["private"] is False


def test_what_the_hub_refuses_is_one_sentence_and_the_folder_stays(fedex, hub, tmp_path) -> None:
    hub(token=None)
    with pytest.raises(ExperimentError, match="there is no Hugging Face token on this machine"):
        exported(fedex, "--out", tmp_path / "a", "--push", "org/name")
    assert not (tmp_path / "a").exists()
    known = hub(private=False)
    with pytest.raises(
        ExperimentError, match="org/name exists and is public; give --public, or another name"
    ):
        exported(fedex, "--out", tmp_path / "a", "--push", "org/name")
    assert [name for name, _ in known.calls] == ["create"]
    hub(fault=RuntimeError("403 Forbidden\nmore"))
    with pytest.raises(
        ExperimentError, match=r"org/name was not uploaded: 403 Forbidden\. The model stands in .*b$"
    ):
        exported(fedex, "--out", tmp_path / "b", "--push", "org/name")
    assert (tmp_path / "b" / "README.md").is_file()


def test_a_folder_appears_whole_or_not_at_all(fedex, tmp_path, monkeypatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ExperimentError, match="full is not empty; choose another folder"):
        exported(fedex, "--out", tmp_path / "full")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExperimentError, match="file is no folder"):
        exported(fedex, "--out", tmp_path / "file")
    monkeypatch.setattr(
        "fedloom.experiment.export.export.card_text",
        lambda *told: (_ for _ in ()).throw(OSError(28, "full")),
    )
    with pytest.raises(OSError, match="full"):
        exported(fedex, "--out", tmp_path / "cut")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--merge", "--uniform"), "are two forms of the model; give one"),
        (("--public",), "--public goes with --push"),
        (("--dtype", "bfloat16"), "--dtype goes with --merge or --uniform"),
        (("--merge", "--dtype", "int8"), "int8 is none of float32, bfloat16, float16"),
        (("--push", "nowhere"), "'nowhere' is no name on the hub; give it as ORG/NAME"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(options, says, tmp_path) -> None:
    with pytest.raises(ExperimentError, match=says):
        exported(tmp_path, *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantised_base_is_merged_whole_and_the_card_says_so(runs, tmp_path) -> None:
    llm = write_llm(tmp_path / "llm", torch.bfloat16)
    encoder = foundation_folder("tiny-mllm") / "encoder"
    model = {"llm": str(llm), "encoder": str(encoder), "llm_lora": {"rank": 2}, "quantize": "8bit"}
    run = runs("quantised", rounds=1, method="fedavg-lora", model=model)
    exported(run, "--merge", "--out", tmp_path / "merged")
    merged, base = (
        AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32).state_dict()
        for p in (tmp_path / "merged" / "llm", llm)
    )
    config = json.loads((tmp_path / "merged" / "llm" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    factors = load_file(run / "model" / "llm" / "adapter_model.safetensors")
    A, B = (next(t for n, t in sorted(factors.items()) if f"lora_{f}" in n and "q_proj" in n) for f in "AB")
    name = next(n for n in sorted(base) if "q_proj" in n)
    scale = json.loads((run / "model" / "llm" / "adapter_config.json").read_text())
    change = scale["lora_alpha"] / scale["r"] * B @ A
    assert change.abs().max() > 0
    torch.testing.assert_close(merged[name], base[name] + change, atol=0, rtol=2**-8)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "beside a quantised base" in card
    assert "| base during training | quantised to 8 bits |" in card
