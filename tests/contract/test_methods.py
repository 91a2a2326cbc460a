"""The contract that every method keeps, on the shipped foundation: one matrix, all methods through all properties."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fedloom.core.payload import Payload, Reply, group_of
from fedloom.experiment.build import build
from fedloom.experiment.export.export import export
from fedloom.experiment.finished_run import load
from fedloom.experiment.run import finish, run
from fedloom.federation import LocalEngine
from fedloom.federation.loop import Federation
from fedloom.federation.run_folder import RunFolder
from fedloom.methods import METHODS
from fedloom.models.mllm.trainable import AdaptedMLLM
from tests.models.readers import READERS, apply

every_method = pytest.mark.parametrize("method", sorted(METHODS))


def everything(federation: Federation) -> dict[str, torch.Tensor]:
    """All that a federation has learned: shared and personal tensors, and the method's own."""
    found = {**federation.state.shared, **federation.state.tensors}
    for client in federation.clients.values():
        found |= {f"{client.name}:{n}": t for n, t in client.personal.items()}
    return found


def assert_same_bits(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def trained_groups(federation: Federation) -> set[str]:
    """The groups that a method on the multimodal LLM trains: all four of the package's own, by its scope of another's."""
    if type(federation.method).__module__.startswith("fedloom."):
        return {"encoder.audio", "encoder.image", "llm", "projector"}
    scope = federation.method.scope
    return {group_of(n) for n in federation.engine.model.tensors if scope.role(n) != "frozen"}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def created(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    return folder


class Tampered(LocalEngine):
    """A local engine whose replies pass through `change` first, and which can ask clients in reverse."""

    change: Any = staticmethod(lambda reply: reply)
    reverse = False

    def ask(self, method: Any, task: str, payloads: Mapping[str, Payload], *rest: Any) -> list[Reply]:
        order = sorted(payloads, reverse=self.reverse)
        replies = super().ask(method, task, {c: payloads[c] for c in order}, *rest)
        return [changed for r in replies if (changed := self.change(r)) is not None]


def tamper(federation: Federation, change: Any = None, reverse: bool = False) -> Federation:
    federation.engine.__class__ = Tampered
    federation.engine.reverse = reverse
    if change is not None:
        federation.engine.change = change
    return federation


@every_method
def test_one_seed_gives_one_result_whatever_the_clients_order_and_the_wire(method, quick, federate) -> None:
    """Determinism, client-order invariance, and payloads through their bytes, against one run that moves the model."""
    backward = tamper(federate(quick(method)), reverse=True)
    runs = [federate(quick(method)), backward, federate(quick(method, engine={"wire": True}))]
    start = everything(runs[0])
    for federation in runs:
        federation.run()
    assert_same_bits(everything(runs[0]), everything(runs[1]))
    assert_same_bits(everything(runs[0]), everything(runs[2]))
    moved = [n for n, t in everything(runs[0]).items() if n not in start or not torch.equal(t, start[n])]
    aside = {"anchors", "experts", "mine", "last", "fusion", *SAID}
    groups = {group_of(n.rpartition(":")[2]) for n in moved} - aside
    assert groups == GROUPS.get(method, trained_groups(runs[0]))
    if not groups:
        return
    other = federate(quick(method, seed=1, rounds=1))
    other.run()
    assert any(
        t.shape != (here := everything(runs[0])[n]).shape or not torch.equal(t, here)
        for n, t in everything(other).items()
    )


SAID = {"public", "prompted", "vote"}
"""Public items and what is said about them, which state and clients keep."""
OWN = {"tiny-resnet", "tiny-vit", "tiny-bert"}
"""The architectures of three clients with models of their own."""
GROUPS = {
    "fedmmkt": OWN | {"denoiser"},
    "fedmd": OWN,
    "creamfl": OWN,
    "feddf": OWN,
    "zero-shot": set(),
    "promptfl": {"prompt"},
    "cocoop-fedavg": {"prompt", "meta"},
    "fedpgp": {"prompt", "lowrank"},
    "fedotp": {"prompt", "own"},
    "pfedmoap": {"prompt", "gate"},
    "pfedmma": {"adapter"},
    "mma": {"adapter"},
}
"""What methods train that are not for a multimodal LLM."""
ZOO = {name for name, method in METHODS.items() if method.public_items}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


MOMENTS = {
    "inside the first round": lambda told: told.client is not None and told.round == 1,
    "inside the second round": lambda told: told.client is not None and told.round == 2,
    "after the last round": lambda told: told.client is None and told.round == told.rounds,
}


@every_method
def test_a_run_cut_off_anywhere_and_resumed_ends_in_the_same_bytes(method, quick, tmp_path) -> None:
    experiment = quick(method)
    whole = run(experiment, tmp_path / "whole")
    for begun, (moment, now) in enumerate(MOMENTS.items()):

        def stop(told: Any, now: Any = now) -> None:
            if now(told):
                raise Killed

        with pytest.raises(Killed):
            run(experiment, tmp_path / "cut", resume=begun > 0, observe=stop)
        assert not (tmp_path / "cut" / "summary.json").exists(), moment
    again = run(experiment, tmp_path / "cut", resume=True)
    assert files(tmp_path / "cut" / "model") == files(tmp_path / "whole" / "model")
    strip = {"seconds"}
    assert {k: v for k, v in again.summary.items() if k not in strip} == {
        k: v for k, v in whole.summary.items() if k not in strip
    }
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_bytes()


@every_method
def test_a_missing_client_is_in_the_ledger_and_in_the_status(method, quick, tmp_path) -> None:
    experiment = quick(method)
    federation = build(experiment, created(tmp_path), lambda p: None)
    gone = sorted(federation.clients)[0]
    tamper(federation, lambda reply: None if reply.client == gone else reply)
    federation.run()
    ledger = federation.folder.history("ledger.jsonl")
    first = [next(e for e in ledger if e["round"] == r) for r in range(1, experiment.rounds + 1)]
    assert [entry["refused"] for entry in first] == [{gone: "missing: no reply"}] * experiment.rounds
    assert all(gone in entry["asked"] for entry in first)
    assert not any(gone in entry["answered"] for entry in ledger)
    assert f"{experiment.rounds} of" in federation.totals.status()


def spoil(reply: Reply, how: str) -> Reply:
    """The reply with one thing wrong in it."""
    tensors, numbers = dict(reply.payload.tensors), dict(reply.payload.numbers)
    if how == "nan":
        name = sorted(tensors)[0]
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    elif how == "shape":
        name = sorted(tensors)[0]
        tensors[name] = tensors[name][None]
    elif how == "inflated":
        numbers["examples"] = 10**9
    elif how == "raised":
        return Reply(reply.client, error="raised RuntimeError: disk on fire")
    return dataclasses.replace(reply, payload=Payload(tensors, numbers))


REASONS = {
    "raised": "raised RuntimeError",
    "nan": "not finite",
    "shape": "shape",
    "inflated": "weight: claims 1000000000",
}


@every_method
def test_bad_clients_are_refused_by_name_and_change_nothing(method, quick, tmp_path) -> None:
    """Four clients, each bad in its own way, against the same run without them."""
    data = {"clients": {"image": 4, "audio": 2, "both": 2}, "train": 8, "test": 2}
    experiment = quick(method, rounds=1, data=data, training={"batch_size": 4})
    spoiled = build(experiment, created(tmp_path), lambda p: None)
    absent = build(experiment, None, lambda p: None)
    travels = METHODS[method].shares.shared != ()
    bad = dict(zip(sorted(spoiled.clients), REASONS if travels else ("raised", "inflated"), strict=False))
    if METHODS[method].pooled:
        bad = {}  # one client holds everything: without it there is nothing to compare
    tamper(spoiled, lambda reply: spoil(reply, bad[reply.client]) if reply.client in bad else reply).run()
    tamper(absent, lambda reply: None if reply.client in bad else reply).run()
    (entry,) = spoiled.folder.history("ledger.jsonl")
    assert sorted(entry["refused"]) == sorted(bad)
    assert all(entry["refused"][client].startswith(REASONS[how]) for client, how in bad.items())
    assert_same_bits(
        {**spoiled.state.shared, **spoiled.state.tensors}, {**absent.state.shared, **absent.state.tensors}
    )
    assert spoiled.totals.status().startswith(f"complete, but {len(bad)} of" if bad else "complete")


@pytest.mark.parametrize("how", list(REASONS))
def test_the_only_client_being_bad_changes_nothing(how, quick, tmp_path) -> None:
    federation = build(quick("centralised", rounds=1), created(tmp_path), lambda p: None)
    start = dict(federation.state.shared)
    tamper(federation, lambda reply: spoil(reply, how)).run()
    (entry,) = federation.folder.history("ledger.jsonl")
    assert entry["refused"]["pooled"].startswith(REASONS[how])
    assert_same_bits(dict(federation.state.shared), start)


@every_method
def test_ledger_bytes_are_the_sizes_of_the_tensors_in_the_messages(method, quick, federate) -> None:
    federation = federate(quick(method), "ledger")
    seen = {"up": 0, "down": 0}
    original = federation.engine._ask_one

    def spy(client: Any, method: Any, task: str, payload: Payload, at: Any) -> Reply:
        seen["down"] += sum(t.numel() * t.element_size() for t in payload.tensors.values())
        held = {f"encoder.{m}" for m in client.data.holds} | {"llm", "projector"}
        held = GROUPS.get(method.name, held) | {"experts", "public", "knowledge"}
        assert {group_of(n) for n in payload.tensors} <= held
        reply = original(client, method, task, payload, at)
        seen["up"] += sum(t.numel() * t.element_size() for t in reply.payload.tensors.values())
        return reply

    federation.engine._ask_one = spy
    federation.run()
    ledger = federation.folder.history("ledger.jsonl")
    assert sum(e["bytes_up"] for e in ledger) == seen["up"] == federation.totals.bytes_up
    assert sum(e["bytes_down"] for e in ledger) == seen["down"] == federation.totals.bytes_down
    assert (seen["up"] > 0) == bool(METHODS[method].shares.shared or METHODS[method].public_items)
    for entry in ledger:
        assert sum(entry["groups_up"].values()) == entry["bytes_up"]


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(GROUPS)))
def test_the_saved_model_loads_in_peft_and_in_fedloom_with_equal_logits(method, quick, federate) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from fedloom.models.mllm.load import foundation_folder

    federation = federate(quick(method), "saved")
    federation.folder.write_experiment(federation.experiment.as_dict())
    federation.run()
    finish(federation)
    folder = federation.folder.path
    client = None if federation.global_model() else sorted(federation.clients)[-1]
    own = federation.client_model(federation.clients[client]).tensors if client else federation.global_model()
    federation.engine.model.load(own)
    adapters = folder / "model" if client is None else folder / "model" / "clients" / client
    ids = torch.tensor([[1, 5, 9, 20, 33]])
    with torch.no_grad():
        wanted = federation.engine.model.mllm.llm(input_ids=ids).logits
        fedloom_model = load(folder, client)
        base = AutoModelForCausalLM.from_pretrained(
            foundation_folder(federation.experiment.model.foundation) / "llm", dtype=torch.float32
        )
        plain = base(input_ids=ids).logits
        peft_model = PeftModel.from_pretrained(base, adapters / "llm").eval()
        assert torch.equal(fedloom_model.mllm.llm(input_ids=ids).logits, wanted)
        if any(
            "merged" in name for name in own
        ):  # merged into the weight here, further ranks of the adapter there
            torch.testing.assert_close(peft_model(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(peft_model(input_ids=ids).logits, wanted)
    assert not torch.equal(plain, wanted)
    assert_same_bits(
        AdaptedMLLM.read_adapters(adapters), {n: p.detach() for n, p in fedloom_model.exported().items()}
    )
    close = {"rtol": 1e-4, "atol": 1e-4}
    export(folder, folder / "uniform", client=client, form="uniform")
    export(folder, folder / "whole", client=client, form="merged", dtype="float32")
    llm = foundation_folder(federation.experiment.model.foundation) / "llm"
    with torch.no_grad():
        for place in (adapters, folder / "uniform"):
            for rank in READERS.values():
                read = apply(
                    AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32), place / "llm", rank
                )
                torch.testing.assert_close(read.eval()(input_ids=ids).logits, wanted, **close)
        whole = AutoModelForCausalLM.from_pretrained(folder / "whole" / "llm").eval()
        torch.testing.assert_close(whole(input_ids=ids).logits, wanted, **close)
    trunk = load_file(adapters / "encoder.image" / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.") for key in trunk)


@pytest.mark.parametrize("method", sorted(set(GROUPS) - ZOO))
def test_the_saved_part_of_clip_gives_equal_logits_on_an_untouched_clip(method, quick, federate) -> None:
    federation = federate(quick(method), "saved")
    federation.folder.write_experiment(federation.experiment.as_dict())
    federation.run()
    finish(federation)
    client = None if federation.global_model() else sorted(federation.clients)[-1]
    of = federation.clients[client] if client else None
    tensors = federation.client_model(of).tensors if of else federation.global_model()
    model, folder = federation.engine.model, federation.folder.path
    model.load(tensors)
    examples = federation.evaluator.tests.examples
    with torch.no_grad():
        wanted = model.logits(examples, None, "base")
        again = load(folder, client)
        assert torch.equal(again.logits(examples, None, "base"), wanted)
        model.load({})
        assert torch.equal(model.logits(examples, None, "base"), wanted) == (method == "zero-shot")
    adapters = folder / "model" if client is None else folder / "model" / "clients" / client
    assert_same_bits(
        type(again).read_adapters(adapters), {n: p.detach() for n, p in again.exported().items()}
    )
    from transformers import CLIPModel

    assert_same_bits(
        CLIPModel.from_pretrained(federation.experiment.model.clip).state_dict(),
        model.towers.clip.state_dict(),
    )


@pytest.mark.parametrize("method", sorted(ZOO))
def test_saved_clients_load_in_transformers_and_in_fedloom_and_the_generator_in_diffusers(
    method, quick, federate
) -> None:
    from diffusers import UNet2DConditionModel
    from transformers import AutoModel

    federation = federate(quick(method), "saved")
    federation.folder.write_experiment(federation.experiment.as_dict())
    federation.run()
    finish(federation)
    folder, model = federation.folder.path / "model", federation.engine.model
    for client in federation.clients.values():
        model.load(federation.client_model(client).tensors)
        examples = client.examples(model)[:3]
        with torch.no_grad():
            logits, _ = model.outputs(examples)
            own = [next(iter(e.inputs.values())) for e in examples]  # of the client's architecture alone
            inputs = {n: torch.stack([one[n] for one in own]) for n in own[0]}
            plain = AutoModel.from_pretrained(folder / "clients" / client.name / "encoder").eval()
            mine = model.current.net.encoder(**inputs).last_hidden_state
            assert torch.equal(plain(**inputs).last_hidden_state, mine)
            again = load(federation.folder.path, client.name)
            prepared = [again.prepare(sample, client.name) for sample in client.data.train[:3]]
            assert torch.equal(again.outputs(prepared)[0], logits)
    unet = UNet2DConditionModel.from_pretrained(folder / "generator" / "unet").state_dict()
    saved = {f"denoiser/{n}": t for n, t in unet.items()}
    start = dict(federation.tools.synthesis.start)
    assert_same_bits(saved, {**start, **{n: t for n, t in federation.state.tensors.items() if n in start}})


def test_one_copy_of_the_foundation_serves_all_clients(quick, federate) -> None:
    federation = federate(quick("feda2-lora", data={"clients": {"image": 4}, "train": 6, "test": 2}))
    federation.run()
    assert len({id(federation.engine.model)}) == 1
    assert not any(
        isinstance(v, torch.nn.Module) for c in federation.clients.values() for v in vars(c).values()
    )
    base = [
        p
        for n, p in federation.engine.model.mllm.named_parameters()
        if "lora_" not in n and "projector" not in n
    ]
    assert all(p.grad is None and not p.requires_grad for p in base)


def test_ledger_lines_are_plain_json(quick, federate) -> None:
    federation = federate(quick("fedavg-lora"), "plain")
    federation.run()
    for line in (federation.folder.path / "ledger.jsonl").read_text().splitlines():
        assert set(json.loads(line)) >= {
            "round",
            "request",
            "asked",
            "answered",
            "refused",
            "bytes_up",
            "bytes_down",
        }
