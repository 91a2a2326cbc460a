"""The automatic cohort size: by the work of a layer call and by memory, the same on every run, with its reason."""

from typing import Any

import pytest

import fedloom.federation.cohort_size as rule
from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.models.training.kept_memory import kept_bytes

DATA = {"clients": {"image": 6}, "train": 8, "test": 1}


def chosen(federation: Any, most: int = 100) -> rule.CohortSize:
    model, names = federation.engine.model, list(federation.engine.model.tensors)
    samples = [s for client in federation.clients.values() for s in client.data.train[:4]]
    return rule.cohort_size(model, names, samples, federation.experiment.training, most)


def test_small_layers_train_together_and_the_run_says_so(quick, federate) -> None:
    federation = federate(quick(data=DATA))
    assert federation.engine.cohort == federation.experiment.engine.cohort == 6
    assert federation.engine.model.notes[-1] == "cohort 6: all 6 of a round"
    assert chosen(federation) == chosen(federation)


def test_a_client_that_keeps_the_cores_busy_trains_alone(quick, federate, monkeypatch) -> None:
    federation = federate(quick(data=DATA))
    layer = federation.engine.model.mllm.llm.get_base_model().model.layers[0].mlp.gate_proj
    layer.in_features, layer.out_features = 40_000, 50_000  # shapes alone are read
    alone = chosen(federation)
    assert alone.clients == 1
    assert alone.reason.endswith("million multiply-adds, and 100 are enough")
    monkeypatch.setattr(rule, "kept_bytes", lambda *args: pytest.fail("a forward pass that decides nothing"))
    chosen(federation)


def test_parts_of_a_batch_make_calls_smaller_and_cohorts_larger(quick, federate) -> None:
    whole = chosen(federate(quick(data=DATA, training={"batch_size": 6})))
    parts = chosen(federate(quick(data=DATA, training={"batch_size": 6, "accumulate": 6})))
    assert 1 < whole.clients < parts.clients <= 6 * whole.clients + 5


def test_memory_bounds_a_cohort_by_what_autograd_keeps(quick, federate, monkeypatch) -> None:
    federation = federate(quick(data=DATA))
    model = federation.engine.model
    batch = [e for c in federation.clients.values() for e in c.examples(model)][:6]
    trained = sum(4 * t.numel() for t in model.tensors.values())
    each = rule.SPARE * kept_bytes(model, batch, model.tensors) + rule.STACKS * trained
    monkeypatch.setattr(rule, "memory", lambda device: int(5.5 * each / rule.SHARE))
    bound = chosen(federation, 8)
    assert bound.clients == 4  # 5 fit; a power of two does not change with a few bytes
    assert bound.reason.startswith("no more fit into 50% of the memory available, ")
    sparing = federate(quick(data=DATA, engine={"checkpointing": True}))
    assert chosen(sparing, 8).clients == 8
    monkeypatch.setattr(rule, "memory", lambda device: 0)
    assert chosen(federation).clients == 1


def test_encoder_and_llm_count_where_both_are_trained(quick, federate) -> None:
    model = federate(quick(data=DATA)).engine.model
    clients = [model.prepare(s) for s in federate(quick(data=DATA)).clients["image-01"].data.train[:4]]
    llm = [n for n in model.tensors if n.startswith("llm")]
    assert kept_bytes(model, clients, model.tensors) > 1.1 * kept_bytes(model, clients, llm)
    assert not any(p.requires_grad for p in model.tensors.values())


def test_memory_is_what_is_available(tmp_path, monkeypatch) -> None:
    import torch

    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       24683520 kB\nMemAvailable:    2097152 kB\n", encoding="ascii")
    assert rule._read(str(file), "MemAvailable:", 1024) == 2**31
    assert rule._read(str(file), "SwapFree:", 1024) is None
    assert rule._read(str(tmp_path / "none"), "", 1) is None
    (tmp_path / "max").write_text("max\n", encoding="ascii")
    assert rule._read(str(tmp_path / "max"), "", 1) is None
    found = {"/proc/meminfo": 5000, "/sys/fs/cgroup/memory.max": 4000, "/sys/fs/cgroup/memory.current": 1000}
    monkeypatch.setattr(rule, "_read", lambda path, key, unit: found.get(path))
    assert rule.memory(torch.device("cpu")) == 3000


def test_off_is_read_as_it_is_written(tmp_path) -> None:
    for text, value in (("off", "off"), ("Off", None), ("false", "off"), ("3", 3), ("auto", "auto")):
        path = tmp_path / "run.yaml"
        path.write_text(f"method: fedavg-lora\nengine: {{cohort: {text}}}\n", encoding="utf-8")
        if value is None:
            with pytest.raises(ExperimentError, match=r"engine\.cohort: input should be 'auto' or 'off'"):
                load_rows(path)
        else:
            assert load_rows(path)[0].engine.cohort == value
        path.write_text("method: fedavg-lora\n", encoding="utf-8")
        if value is not None:
            assert load_rows(path, [f"engine.cohort={text}"])[0].engine.cohort == value
    again = Experiment.parse({"method": "fedavg-lora", "engine": {"cohort": False}}).as_dict()
    assert again["engine"]["cohort"] == "off"
    with pytest.raises(ExperimentError, match=r"engine\.cohort: should be auto, off or a number of clients"):
        Experiment.parse({"method": "fedavg-lora", "engine": {"cohort": True}})


def test_samples_that_fail_are_left_to_their_clients(quick, federate, monkeypatch) -> None:
    federation = federate(quick(data=DATA))

    def fails(*args: Any) -> int:
        raise ValueError("no such place\n")

    monkeypatch.setattr(rule, "kept_bytes", fails)
    assert chosen(federation) == rule.CohortSize(1, "the longest samples fail (no such place)")
