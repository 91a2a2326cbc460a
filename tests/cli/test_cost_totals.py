"""Sums over clients and sizes of VeRA: the numbers of specifications uniflow 8 and fedlora 8 that no client's table holds."""

import pytest
import torch

from fedloom.cli.cost import PRESETS, TINYLLAMA, VICUNA, table
from fedloom.core.payload import Payload, group_of
from fedloom.models.lora.layers import LoRA, attach, frozen_pairs, named_factors

pytestmark = pytest.mark.identities


@pytest.fixture(scope="module")
def sizes():
    """UniFLoW's trained tensors at full size."""
    return PRESETS["uniflow"]()


def test_a_client_sends_the_trunks_that_it_holds(sizes) -> None:
    image, audio = (
        sum(s.numel() for n, s in sizes.items() if group_of(n) in (f"encoder.{m}", "llm", "projector"))
        for m in ("image", "audio")
    )
    assert (image, audio) == (40_374_272, 38_342_656)
    assert 10 * (image + audio) == 787_169_280
    payload = Payload({n: torch.empty(s, dtype=torch.bfloat16, device="meta") for n, s in sizes.items()})
    by_group = payload.nbytes_by_group()
    assert payload.nbytes / 1e6 == pytest.approx(87.24, abs=0.005)
    assert (payload.nbytes - by_group["projector"]) / 1e6 == pytest.approx(78.84, abs=0.005)


def test_a_dense_residual_of_a_7b_model_is_64_units(sizes) -> None:
    llm = {n: s for n, s in sizes.items() if group_of(n) == "llm"}
    shapes = [(s, llm[n.removesuffix("A") + "B"]) for n, s in llm.items() if n.endswith("lora_A")]
    dense = sum(b[0] * a[1] for a, b in shapes)
    assert dense == 2_147_483_648 == 64 * sum(s.numel() for s in llm.values())


def test_vera_of_roberta_large() -> None:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    with torch.device("meta"):
        model = RobertaModel(config, add_pooling_layer=False)
        wrapped = attach(model, LoRA(kind="vera", rank=256, targets=("query", "value")), "body", 0)
    count = {"lambda_d": 0, "lambda_b": 0}
    for name, parameter in named_factors(wrapped).items():
        count[name.rsplit(".", 1)[1]] += parameter.numel()
    assert count == {"lambda_d": 12_288, "lambda_b": 49_152}
    assert sum(count.values()) == 61_440
    layers = {
        n: m for n, m in wrapped.named_modules() if hasattr(m, "vera_A") and hasattr(m, "vera_lambda_d")
    }
    pairs = frozen_pairs(layers)
    assert len(pairs) == 2 * 48
    frozen = {n.rsplit(".", 1)[1]: t.shape for n, t in pairs.items()}
    assert frozen == {"vera_A": (256, 1024), "vera_B": (1024, 256)}
    assert sum(shape.numel() for shape in frozen.values()) == 524_288  # one pair, shared by all layers


@pytest.mark.parametrize(("config", "total"), [(VICUNA, 6_738_415_616), (TINYLLAMA, 1_100_048_384)])
def test_the_language_models_of_the_cost_tables_have_their_published_sizes(config, total) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**config))
    assert sum(p.numel() for p in model.parameters()) == total


def test_what_every_lora_method_sends_in_units() -> None:
    """The table "at a glance" of specification fedlora 2, for three clients; a unit is all A and B."""
    half, one = (0.5, 0.5), (1, 1)
    units = {
        "fedavg-lora": one,
        "feda2-lora": one,
        "lora-fair": one,
        "fedrot-lora": one,
        "flexlora": one,
        "hetlora": one,
        "feddpa-lora": one,
        "fdlora": one,
        "ffa-lora": half,
        "fedsa-lora": half,
        "fedsvd": (0.5, 1),
        "rolora": (0.5, 1),  # the paper's: half a unit down, too
        "fedex-lora": (1, 3),
        "flora": (1, 3),
        "fed-sb": (8 / 2048, 8 / 2048),  # r / 2 d
    }
    found = {c.method: (c.up / 786_432, c.down / 786_432) for c in table("roberta-large", 3)}
    assert {name: found[name] for name in units} == units
