"""A foundation in bfloat16 with adapters in float32, and compiled blocks: the same run, up to what they round."""

from typing import Any

import pytest
import torch

from fedloom.models.base import Trainable
from fedloom.models.precision import settle

IMAGES = {"clients": {"image": 2}, "train": 6, "test": 3}
TEXT = {"source": "text", "clients": {"text": 2}, "train": 6, "test": 2, "task": "entailment"}
VERA = {"llm_lora": {"kind": "vera", "rank": 16}, "encoder_lora": {"kind": "vera", "rank": 16}}


@pytest.fixture
def trained(quick, federate):
    def run(engine: dict[str, Any], data: dict[str, Any], **settings: Any) -> Any:
        training = {"batch_size": 3, **({} if data is TEXT else {"tau": 0.5})}
        federation = federate(
            quick("fedavg-lora", data=data, rounds=1, training=training, engine=engine, **settings)
        )
        federation.run()
        return federation

    return run


def moved(federation: Any) -> torch.Tensor:
    start = federation.engine.model.start
    return torch.cat([(t - start[n]).flatten() for n, t in sorted(federation.state.shared.items())])


@pytest.mark.parametrize(
    ("data", "settings"),
    [(IMAGES, {}), (IMAGES, {"model": VERA}), (TEXT, {"model": {}})],
    ids=["mllm", "vera", "classifier"],
)
def test_a_bfloat16_foundation_trains_float32_adapters_alike_alone_and_together(
    data, settings, trained
) -> None:
    full = trained({"cohort": 2}, data, **settings)
    for cohort in ("off", 2):
        half = trained({"cohort": cohort, "dtype": "bfloat16"}, data, **settings)
        model: Trainable = half.engine.model
        own = {id(t) for t in model.tensors.values()}
        kinds = {p.dtype for p in model.root.parameters() if id(p) not in own}
        assert kinds == {torch.bfloat16}
        assert {t.dtype for t in (*model.tensors.values(), *half.state.shared.values())} == {torch.float32}
        assert half.totals.refused == 0
        cosine = torch.nn.functional.cosine_similarity(moved(half), moved(full), dim=0)
        assert float(cosine) > 0.8, "it goes the same way, as far as three digits tell"
        for name in ("train/loss", "global/loss"):
            if name in full.last_metrics:
                assert half.last_metrics[name] == pytest.approx(full.last_metrics[name], rel=0.03)


@pytest.mark.parametrize("cohort", ["off", 2])
def test_compiled_blocks_give_the_same(cohort, trained, quick, federate) -> None:
    plain = trained({"cohort": cohort}, IMAGES)
    federation = federate(
        quick(
            "fedavg-lora",
            data=IMAGES,
            rounds=1,
            training={"batch_size": 3, "tau": 0.5},
            engine={"cohort": cohort},
        )
    )
    model = federation.engine.model
    layers = model.mllm.llm.config.num_hidden_layers
    count = model.compile_frozen(backend="eager")
    assert count >= layers + 3, "the MLPs of the LLM and of the trunk"
    assert all(getattr(layer, "_compiled_call_impl", None) is None for layer in model.layers.values())
    federation.run()
    for name, tensor in plain.state.shared.items():
        torch.testing.assert_close(tensor, federation.state.shared[name], rtol=1e-5, atol=1e-5)


def test_a_batch_norm_computes_in_the_dtype_of_its_weights() -> None:
    tower = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    picture = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = tower(picture)
    settle(tower, torch.bfloat16)
    assert tower[1].num_batches_tracked.dtype == torch.int64
    assert torch.allclose(tower(picture.bfloat16()).float(), wanted, atol=0.05)
