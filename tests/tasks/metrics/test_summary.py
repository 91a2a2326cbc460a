import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from fedloom.tasks.metrics import EvaluationRecord, score_samples, summarise


def record(client, kind, prediction, reference="red cube", tokens=2, correct=1) -> EvaluationRecord:
    return EvaluationRecord(
        client, kind, f"{client}-{kind}-{prediction}", reference, prediction, tokens, correct
    )


RECORDS = [
    record("c1", "image", "a red cube", tokens=4, correct=4),
    record("c1", "image", "blue cube", tokens=2, correct=1),
    record("c2", "image", "", tokens=3, correct=0),
    record("c2", "audio", "red cube", tokens=1, correct=1),
    record("c3", "audio", None, tokens=6, correct=3),
]


class Letters:
    """The vector of a word is its first letter's place in the alphabet, on a line."""

    name = "letters:0"

    def embed(self, texts):
        return [torch.tensor([[1.0, ord(w[0]) - 97.0] for w in t.split()]).reshape(-1, 2) for t in texts]


def test_numbers_worked_by_hand() -> None:
    found = summarise(RECORDS).metrics
    assert found["global/image/token_accuracy"] == pytest.approx(5 / 9)
    assert found["global/image/token_accuracy_sample_mean"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["global/image/token_accuracy_sample_median"] == 0.5
    assert found["global/image/exact_match"] == pytest.approx(1 / 3)
    assert found["global/image/f1"] == pytest.approx((1 + 0.5 + 0) / 3)
    # three words for two: precision 2/3, recall 1, F 4/5
    assert found["global/image/rouge_l"] == pytest.approx((0.8 + 0.5 + 0) / 3)
    assert found["global/image/samples"] == 3
    assert found["worst_client/image/token_accuracy"] == 0
    assert found["mean_client/image/token_accuracy"] == pytest.approx((5 / 6 + 0) / 2)
    assert found["worst_client/image/f1"] == 0
    assert found["mean_client/image/f1"] == pytest.approx(0.375)
    assert found["worst_client/audio/token_accuracy"] == 0.5


def test_empty_scores_zero_but_ungenerated_is_not_scored() -> None:
    found = summarise(RECORDS).metrics
    assert found["global/audio/exact_match"] == 1
    assert (found["global/audio/samples"], found["global/audio/generated"]) == (2, 1)
    assert found["global/image/generated"] == 3
    assert found["mean_client/audio/exact_match"] == 1
    only = summarise([record("c1", "image", None)])
    assert sorted(only.clients[0]) == sorted(
        [
            "client",
            "generated",
            "kind",
            "samples",
            "token_accuracy",
            "token_accuracy_sample_mean",
            "token_accuracy_sample_median",
            "tokens",
        ]
    )
    assert only.notes == {}


def test_client_rows_and_the_worst_clients_name() -> None:
    summary = summarise(RECORDS)
    keys = [(row["client"], row["kind"]) for row in summary.clients]
    assert keys == [("c2", "audio"), ("c3", "audio"), ("c1", "image"), ("c2", "image")]
    assert summary.clients[2]["token_accuracy"] == pytest.approx(5 / 6)
    assert summary.worst["worst_client/image/token_accuracy"] == "c2"
    assert summary.worst["worst_client/audio/token_accuracy"] == "c3"
    for name, client in summary.worst.items():
        _, kind, metric = name.split("/")
        (row,) = [r for r in summary.clients if (r["client"], r["kind"]) == (client, kind)]
        assert row[metric] == summary.metrics[name]


def test_both_scopes_fit_into_one_mapping() -> None:
    shared, own = summarise(RECORDS).metrics, summarise(RECORDS, "local").metrics
    assert not set(shared) & set(own)
    assert len(shared) == len(own)
    assert own["local/worst_client/image/token_accuracy"] == shared["worst_client/image/token_accuracy"]
    assert own["local/image/f1"] == shared["global/image/f1"]


def test_bertscore_is_per_sample_and_in_every_table() -> None:
    summary = summarise(RECORDS, embedder=Letters())
    name = "bertscore_f[letters:0]"
    assert [row.get(name) for row in summary.samples][2:] == [0, pytest.approx(1), None]
    p, r, f = (summary.metrics[f"global/image/bertscore_{x}[letters:0]"] for x in "prf")
    assert 0 < f <= (p + r) / 2
    assert summary.worst[f"worst_client/image/{name}"] == "c2"
    assert "letters:0" in summary.notes["bertscore"]
    kept = [r.scores.get(name) for r in summary.records]
    assert kept == [row.get(name) for row in summary.samples], (
        "the records carry what their texts do not give again"
    )
    assert [replace(r, scores={}) for r in summary.records] == list(RECORDS)
    assert summarise(RECORDS).records == list(RECORDS)
    assert "tok:13a" in summary.notes["bleu"]


def test_bleu_is_of_the_corpus_not_a_mean_of_samples() -> None:
    long = "the cat sat on the mat"
    records = [record("c1", "text", long, long), record("c2", "text", "", long)]
    found = summarise(records).metrics
    assert found["global/text/bleu"] == pytest.approx(2.718281828 ** (1 - 12 / 6))
    assert found["global/text/sentence_bleu"] == pytest.approx(0.5)
    assert found["mean_client/text/bleu"] == pytest.approx(0.5)


def test_what_cannot_be_measured_is_left_out_and_not_zero() -> None:
    records = [record("c1", "text", "red", ""), record("c1", "text", "red"), record("c2", "text", "red", " ")]
    summary = summarise(records, embedder=Letters())
    found = summary.metrics
    assert found["global/text/exact_match"] == 0  # of the one answer that has a reference
    assert found["global/text/f1"] == pytest.approx(2 / 3)
    assert found["worst_client/text/f1"] == pytest.approx(2 / 3)
    assert summary.worst["worst_client/text/f1"] == "c1"
    assert not [n for n in summary.samples[0] if n not in ("client", "kind", "uid", "token_accuracy")]
    assert not [name for name in found if name.endswith("/bleu")]  # no reference has four words
    assert not [name for row in summary.clients if row["client"] == "c2" for name in row if "f1" in name]


def test_order_of_records_changes_no_bit() -> None:
    shuffled = RECORDS * 3
    random.Random(3).shuffle(shuffled)
    left, right = summarise(RECORDS * 3, embedder=Letters()), summarise(shuffled, embedder=Letters())
    assert left.metrics == right.metrics
    assert left.clients == right.clients
    assert left.worst == right.worst


def test_a_sample_counts_once_per_record_and_keeps_its_place() -> None:
    rows = score_samples(RECORDS)
    assert [row["token_accuracy"] for row in rows] == [1, 0.5, 0, 1, 0.5]
    assert [row.get("exact_match") for row in rows] == [1, 0, 0, 1, None]
    samples = summarise(RECORDS).samples
    assert [(s["client"], s["kind"], s["uid"]) for s in samples] == [
        (r.client, r.kind, r.uid) for r in RECORDS
    ]


def test_no_records_give_no_numbers() -> None:
    summary = summarise([])
    assert (dict(summary.metrics), list(summary.clients), list(summary.samples)) == ({}, [], [])


def test_importing_the_package_imports_no_metric_library() -> None:
    names = ["transformers", "nltk", "sacrebleu", "rouge_score", "torchmetrics"]
    code = f"import sys, fedloom.tasks.metrics; print([m for m in {names} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
