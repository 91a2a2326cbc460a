"""What Fed-SB promises beyond the contract matrix, on the shipped foundation."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fedloom.cli.cost import table
from fedloom.core.errors import ExperimentError
from fedloom.core.payload import group_of
from fedloom.models.lora import peft_files
from fedloom.models.lora.square import directions, make_square
from fedloom.models.lora.uniform import make_uniform
from fedloom.models.merged import merge
from tests.contract.test_family import IMAGES, listen

pytestmark = pytest.mark.identities


def test_34_only_r_travels_and_its_mean_is_the_mean_of_the_products(quick, federate, tmp_path) -> None:
    federation = federate(quick("fed-sb", data=IMAGES))
    rounds = listen(federation)
    federation.run()
    model, state = federation.engine.model, federation.state.shared
    ranks = {"llm": 4, "encoder.image": 3}
    replies = [up.payload.tensors for _, up in rounds[-1].values()]
    for payload in (*replies, next(iter(rounds[-1].values()))[0].tensors):
        adapters = {n: t for n, t in payload.items() if not n.startswith("projector")}
        assert adapters
        assert all(n.endswith(".lora_R") for n in adapters)
        assert all(t.shape == (ranks[group_of(n)],) * 2 for n, t in adapters.items())
    model.load(state)
    for name in (n for n in replies[0] if n.endswith(".lora_R")):
        layer = model.layers[name.removesuffix(".lora_R")]
        U, V = layer.lora_B["default"].weight.double(), layer.lora_A["default"].frozen.double()
        eye = torch.eye(len(V), dtype=V.dtype)
        torch.testing.assert_close(V @ V.T, eye, rtol=0, atol=1e-5)
        torch.testing.assert_close(U.T @ U, eye, rtol=0, atol=1e-5)
        wanted = torch.stack([U @ reply[name].double() @ V for reply in replies]).mean(0)
        now = U @ layer.lora_A["default"].weight.double()
        assert float(wanted.norm()) > 0
        torch.testing.assert_close(now, wanted, rtol=1e-5, atol=1e-8)
    model.save_adapters(tmp_path)
    factors = peft_files.read(tmp_path / "llm", factors=True)
    assert {n.rsplit(".", 1)[1] for n in factors} == {"lora_A", "lora_B"}
    place = next(n.removesuffix(".lora_A") for n in factors if n.endswith(".lora_A"))
    assert torch.equal(factors[f"{place}.lora_A"], model.layers[f"llm/{place}"].lora_A["default"].weight)

    layer, R = model.layers[f"llm/{place}"], state[f"llm/{place}.lora_R"].double()
    U, V = layer.lora_B["default"].weight.double(), layer.lora_A["default"].frozen.double()
    update = model.scales["llm"] * U @ R @ V
    assert make_uniform(tmp_path / "llm", {}) == 4
    plain = peft_files.read(tmp_path / "llm")
    product = plain[f"{place}.lora_B"].double() @ plain[f"{place}.lora_A"].double()
    torch.testing.assert_close(product, update, rtol=1e-5, atol=1e-8)
    before = layer.get_base_layer().weight.double().clone()
    merge(model)
    moved = layer.get_base_layer().weight.double() - before
    assert float((moved - update).norm() / update.norm()) < 1e-3


def test_the_directions_are_the_leading_ones_with_one_sign() -> None:
    g = torch.Generator().manual_seed(3)
    left = torch.linalg.qr(torch.randn(40, 40, generator=g)).Q
    right = torch.linalg.qr(torch.randn(30, 30, generator=g)).Q
    W = left[:, :30] @ torch.diag(0.7 ** torch.arange(30.0)) @ right.T
    U, V = directions(W, 4)
    torch.testing.assert_close(U @ U.T, left[:, :4] @ left[:, :4].T, rtol=0, atol=1e-4)
    torch.testing.assert_close(V.T @ V, right[:, :4] @ right[:, :4].T, rtol=0, atol=1e-4)
    assert bool((V.gather(1, V.abs().argmax(1, keepdim=True)) > 0).all())
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    again = directions(W, 4)
    assert torch.equal(torch.rand(1), before)
    assert torch.equal(again[0], U)
    assert torch.equal(again[1], V)


def test_a_quantised_weight_is_refused_in_one_sentence() -> None:
    base = nn.Linear(4, 3)
    base.weight = nn.Parameter(torch.zeros(3, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ExperimentError, match="the weight of llm q_proj, which is quantised"):
        make_square(SimpleNamespace(get_base_layer=lambda: base), "llm q_proj")


def test_a_start_of_ones_own_is_refused(quick) -> None:
    with pytest.raises(ExperimentError, match=r"cohort\.start is own; set cohort\.start: common"):
        quick("fed-sb", cohort={"start": "own"})


def test_roberta_large_sends_r_squared_numbers_per_matrix() -> None:
    row = next(c for c in table("roberta-large", 3) if c.method == "fed-sb")
    assert (row.up, row.down) == (48 * 8 * 8, 48 * 8 * 8)
    assert row.trained == 48 * 8 * 8 + row.head
