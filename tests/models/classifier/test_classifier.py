"""The adapted classifier: counts, one head, groups and dropout, labels, and folders that plain PEFT reads."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.data.sources.text import LABELS, text_clients
from fedloom.models.classifier.checkpoint import load_checkpoint
from fedloom.models.classifier.load import load_classifier
from fedloom.models.classifier.trainable import AdaptedClassifier
from fedloom.models.load import shipped
from fedloom.models.lora.uniform import make_uniform
from fedloom.models.pretraining.roberta import FOLDER
from fedloom.models.settings import ClassifierLoRA as LoRA
from fedloom.models.settings import Foundation
from fedloom.tasks.frozen_llm import embedder_of
from tests.models.readers import READERS, apply, trained

ENTAILMENT = LABELS["entailment"]
ROBERTA_LARGE = RobertaConfig(
    vocab_size=50265,
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    max_position_embeddings=514,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
    bos_token_id=0,
    pad_token_id=1,
    eos_token_id=2,
)


def fresh(labels: tuple[str, ...] = ENTAILMENT, **settings: Any) -> AdaptedClassifier:
    return load_classifier(Foundation(**settings), labels, "cpu", 0)


def shaken(model: AdaptedClassifier, seed: int = 1) -> AdaptedClassifier:
    """The model with random adapters and head."""
    stream = torch.Generator().manual_seed(seed)
    model.load({n: 0.3 * torch.randn(t.shape, generator=stream) for n, t in model.tensors.items()})
    return model


def examples(model: AdaptedClassifier, count: int = 6) -> list[Any]:
    (client,) = text_clients("entailment", 1, count, 3, None, 0)
    return [model.prepare(s) for s in client.train]


@pytest.mark.parametrize(("labels", "head"), [(2, 1_051_650), (3, 1_052_675)])
def test_roberta_large_has_the_published_counts(labels: int, head: int) -> None:
    config = RobertaConfig(**{**ROBERTA_LARGE.to_dict(), "num_labels": labels})
    words = tuple(f"label {i}" for i in range(labels))
    with torch.device("meta"):
        empty = RobertaForSequenceClassification(config)
    tokenizer = SimpleNamespace(pad_token_id=1, model_max_length=512)
    spec = LoRA(rank=8, alpha=16, targets=("query", "value"))
    model = AdaptedClassifier(empty, tokenizer, spec, words, seed=0)
    count = {
        g: sum(p.numel() for n, p in model.tensors.items() if n.startswith(g)) for g in ("body/", "head/")
    }
    assert count == {"body/": 786_432, "head/": head}
    assert sum(p.numel() for p in model.model.parameters()) - sum(count.values()) == 354_310_144
    assert {n for n in model.tensors if n.startswith("head/")} == {
        f"head/classifier.{layer}.{kind}" for layer in ("dense", "out_proj") for kind in ("weight", "bias")
    }
    assert len(model.layers) == 48


@pytest.mark.parametrize("targets", [("query", "value"), ("dense",)])
def test_the_head_stands_once_and_has_no_adapter(targets: tuple[str, ...]) -> None:
    model = fresh(body_lora=LoRA(rank=4, targets=targets))
    of_head = [n for n, _ in model.model.named_parameters() if n.startswith("classifier.")]
    assert {f"head/{n}" for n in of_head} == {n for n in model.tensors if n.startswith("head/")}
    assert len(of_head) == 4
    assert not any("modules_to_save" in n for n, _ in model.model.named_modules())


def test_only_the_named_tensors_train_and_dropout_follows_their_groups() -> None:
    model = fresh(body_lora=LoRA(rank=4, dropout=0.5, targets=("query", "value")))
    batch = examples(model)

    def noisy() -> bool:
        return not torch.equal(model.logits(batch), model.logits(batch))

    shaken(model)
    assert not noisy()
    for group in ("body", "head"):
        names = [n for n in model.tensors if n.startswith(f"{group}/")]
        parameters = model.begin(names)
        assert [id(p) for p in parameters] == [id(model.tensors[n]) for n in names]
        assert noisy()
        active = {n for n, m in model.model.named_modules() if isinstance(m, torch.nn.Dropout) and m.training}
        assert active
        assert all(("lora_dropout" in n) == (group == "body") for n in active)
        model.loss(batch).backward()
        trained = {n for n, p in model.tensors.items() if p.grad is not None and p.grad.any()}
        assert trained == set(names)
    assert all(
        p.grad is None
        for n, p in model.model.named_parameters()
        if "lora_" not in n and "classifier" not in n
    )
    model.rest()
    assert not noisy()
    assert not any(p.requires_grad for p in model.model.parameters())
    assert model.groups(()) == {"body", "head"}


def test_answers_do_not_depend_on_batch_mates_and_agree_with_each_other() -> None:
    model = shaken(fresh())
    model.model.double()  # float32 rounds by machine
    batch = examples(model, 12)
    joint = model.logits(batch)
    single = torch.cat([model.logits([e]) for e in batch])
    assert torch.allclose(joint, single, atol=1e-10)
    targets = torch.tensor([e.label for e in batch])
    assert model.loss(batch).item() == pytest.approx(
        torch.nn.functional.cross_entropy(single, targets).item(), abs=1e-10
    )
    assert model.generate(batch, 1) == [ENTAILMENT[i] for i in joint.argmax(-1)]
    assert model.score(batch) == [
        (1, int(g == e.label)) for g, e in zip(joint.argmax(-1), batch, strict=True)
    ]
    assert model.features(batch) == [{}] * 12


def test_a_pair_is_read_by_the_models_own_tokenizer_and_cut_with_a_flag() -> None:
    model = fresh()
    sample = Sample("x", {}, "a red ball", "neutral", {"pair": "the ball is red", "labels": list(ENTAILMENT)})
    example = model.prepare(sample)
    assert (
        model.tokenizer.decode(example.inputs["input_ids"]) == "<s> a red ball </s> </s> the ball is red </s>"
    )
    assert (example.label, example.truncated) == (2, False)
    long = Sample("y", {}, "a red ball " * 60, "neutral", sample.meta)
    assert model.prepare(long).truncated
    assert len(model.prepare(long).inputs["input_ids"]) == 128
    assert model.score([model.prepare(long)])[0][0] == 1


def test_a_text_that_spells_a_special_token_adds_none() -> None:
    model = fresh()
    labels = list(ENTAILMENT)
    plain, spelled = (
        model.prepare(
            Sample("x", {}, f"a red{end} ball", "neutral", {"pair": f"the{end} ball", "labels": labels})
        )
        for end in ("", " </s> <mask>")
    )
    special = {model.tokenizer.eos_token_id, model.tokenizer.mask_token_id}
    ids = [[i for i in e.inputs["input_ids"] if i in special] for e in (plain, spelled)]
    assert ids[0] == ids[1]
    assert len(spelled.inputs["input_ids"]) > len(plain.inputs["input_ids"])


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (Sample("x", {}, "a", "b", {}), "is no labelled text"),
        (
            Sample("x", {"image": torch.zeros(3, 2, 2)}, "a", "b", {"labels": list(ENTAILMENT)}),
            "is no labelled text",
        ),
        (
            Sample("x", {}, "a", "neutral", {"labels": ["entailment", "neutral"]}),
            "the model's labels are entailment",
        ),
        (Sample("x", {}, "a", "neutral", {"labels": sorted(ENTAILMENT)}), "in this order"),
        (Sample("x", {}, "a", "maybe", {"labels": list(ENTAILMENT)}), "'maybe'"),
    ],
)
def test_samples_that_do_not_fit_are_refused(sample: Sample, says: str) -> None:
    with pytest.raises(ExperimentError, match=says):
        fresh().prepare(sample)


def test_folders_are_what_plain_peft_reads(tmp_path: Path) -> None:
    model = shaken(fresh(body_lora=LoRA(rank=4, alpha=16, rslora=True, targets=("query", "value"))))
    batch = examples(model)
    model.save_adapters(tmp_path / "a")
    model.save_adapters(tmp_path / "b")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert [str(f) for f in files] == [
        "body/adapter_config.json",
        "body/adapter_model.safetensors",
        "fedloom.json",
        "head.safetensors",
    ]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert json.loads((tmp_path / "a" / "body" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"

    base = AutoModelForSequenceClassification.from_pretrained(FOLDER, num_labels=3, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, tmp_path / "a" / "body").eval().double()
    model.model.double()
    with torch.no_grad():
        outputs = torch.cat([plain(input_ids=torch.tensor([e.inputs["input_ids"]])).logits for e in batch])
        assert torch.allclose(outputs, model.logits(batch), atol=1e-10)
    model.model.float()

    head = {f"head/{n}": t for n, t in load_file(tmp_path / "a" / "head.safetensors").items()}
    assert head.keys() == {n for n in model.tensors if n.startswith("head/")}
    assert all(torch.equal(t, model.tensors[n]) for n, t in head.items())
    again = fresh(body_lora=LoRA(rank=4, alpha=16, rslora=True, targets=("query", "value")))
    tensors = AdaptedClassifier.read_adapters(tmp_path / "a")
    assert tensors.keys() == again.tensors.keys()
    again.load(tensors)
    assert torch.equal(again.logits(batch), model.logits(batch))


@pytest.mark.parametrize("kind", ["lora", "vera"])
def test_the_merged_and_the_uniform_classifier_give_the_logits_of_what_was_trained(
    kind: str, tmp_path: Path
) -> None:
    shape = {"kind": kind, "rank": 4} | ({"rslora": True} if kind == "lora" else {})
    model = fresh(body_lora=LoRA(**shape))
    model.load(trained(model, merged=kind == "lora", size=0.1))
    batch = examples(model)
    ids = [torch.tensor([e.inputs["input_ids"]]) for e in batch]
    want = model.logits(batch)
    model.save_adapters(tmp_path / "a")
    pairs = {f"roberta.{n.removeprefix('body/')}": t for n, t in model.frozen.items()}
    make_uniform(tmp_path / "a" / "body", pairs)
    for rank in READERS.values():
        read = AutoModelForSequenceClassification.from_pretrained(FOLDER, num_labels=3, dtype=torch.float32)
        apply(read, tmp_path / "a" / "body", rank).eval()
        with torch.no_grad():
            torch.testing.assert_close(torch.cat([read(i).logits for i in ids]), want, atol=1e-4, rtol=1e-4)
    model.save_merged(tmp_path / "whole", {"": torch.float32})
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole").eval()
    assert [whole.config.id2label[i] for i in range(3)] == list(ENTAILMENT)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([whole(i).logits for i in ids]), want, atol=1e-4, rtol=1e-4)
    again = fresh(classifier=str(tmp_path / "whole"), body_lora=LoRA(rank=4))
    torch.testing.assert_close(again.logits(examples(again)), want, atol=1e-4, rtol=1e-4)


def test_a_fresh_head_comes_from_the_seed_and_adapters_begin_at_nothing() -> None:
    state = torch.get_rng_state()
    one, same, other = fresh(), fresh(), load_classifier(Foundation(), ENTAILMENT, "cpu", 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, same.tensors[n]) for n, t in one.tensors.items())
    name = "head/classifier.dense.weight"
    assert not torch.equal(one.tensors[name], other.tensors[name])
    with one._body.disable_adapter():
        without = one.logits(examples(one))
    assert torch.equal(one.logits(examples(one)), without)


def test_a_checkpoints_head_is_kept_where_its_labels_are_the_tasks(tmp_path: Path) -> None:
    model, tokenizer = load_checkpoint(FOLDER, ENTAILMENT, 0)
    torch.nn.init.constant_(model.classifier.dense.weight, 0.5)
    for name, id2label in (
        ("ours", dict(enumerate(ENTAILMENT))),
        ("loud", {i: label.upper() for i, label in enumerate(ENTAILMENT)}),
        ("unnamed", {i: f"LABEL_{i}" for i in range(3)}),
        ("sorted", dict(enumerate(sorted(ENTAILMENT)))),
    ):
        model.config.id2label = id2label
        model.config.label2id = {label: i for i, label in id2label.items()}
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)

    def kept(name: str, labels: tuple[str, ...]) -> bool:
        loaded, _ = load_checkpoint(tmp_path / name, labels, 0)
        assert list(loaded.config.id2label.values()) == list(labels)
        return bool((loaded.classifier.dense.weight == 0.5).all())

    assert kept("ours", ENTAILMENT)
    assert kept("loud", ENTAILMENT)
    assert kept("unnamed", ENTAILMENT)
    assert not kept("sorted", ENTAILMENT)
    assert not kept("ours", ("warm", "cold"))


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="is the language model of a multimodal LLM"):
        embedder_of("world", fresh())
    with pytest.raises(ExperimentError, match=r"model\.classifier: .*nowhere cannot be loaded"):
        fresh(classifier=str(tmp_path / "nowhere"))
    with pytest.raises(
        ExperimentError, match="q_proj names no linear layer; body has dense, key, query, value"
    ):
        fresh(body_lora=LoRA(targets=("q_proj",)))
    model, tokenizer = load_checkpoint(FOLDER, ENTAILMENT, 0)
    with pytest.raises(ExperimentError, match="has 3 outputs and the task 2 labels"):
        AdaptedClassifier(model, tokenizer, LoRA(targets=("query",)), ("a", "b"), seed=0)


def test_a_second_adapter_is_personal_and_travels_by_name(tmp_path: Path) -> None:
    model = load_classifier(Foundation(), ENTAILMENT, "cpu", 0, second=True)
    batch = examples(model)
    assert {n.rsplit(".", 1)[1] for n in model.tensors if n.startswith("body/")} == {
        "lora_A", "lora_B", "local_A", "local_B"
    }  # fmt: skip
    states = model.prompt_states(batch)
    assert states.shape == (6, 64)
    shaken(model)
    assert torch.equal(model.prompt_states(batch), states)
    before = model.score(batch)
    model.load({**{n: t.clone() for n, t in model.tensors.items()}, "anchors/prompts": states[:2]})
    model.score(batch)
    model.save_adapters(tmp_path)
    tensors = AdaptedClassifier.read_adapters(tmp_path)
    assert torch.equal(tensors["anchors/prompts"], states[:2])
    assert tensors.keys() - {"anchors/prompts"} == model.tensors.keys()
    assert len(before) == 6


def test_vera_trains_two_vectors_per_layer() -> None:
    model = fresh(body_lora=LoRA(kind="vera", rank=16, targets=("query", "value")))
    assert {n.rsplit(".", 1)[1] for n in model.tensors if n.startswith("body/")} == {"lambda_d", "lambda_b"}
    model.begin(list(model.tensors))
    model.loss(examples(model)).backward()
    assert model.tensors["body/encoder.layer.0.attention.self.value.lambda_b"].grad.any()


def test_the_tiny_roberta_ships_small() -> None:
    ((_, size, folder),) = [entry for entry in shipped() if entry[0] == "tiny-roberta"]
    assert size < 1_200_000
    assert folder == FOLDER
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}


def test_a_checkpoint_of_other_files_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ExperimentError, match="cannot be loaded"):
        load_checkpoint(tmp_path, ENTAILMENT, 0)
