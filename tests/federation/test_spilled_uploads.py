"""A round's uploads: held in memory up to a budget, in files beyond it, and never another figure."""

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.payload import Payload, Reply
from fedloom.core.tensor_files import PREFIX, Stored
from fedloom.federation.spilled_uploads import SpilledUploads
from fedloom.models.example_cache import ExampleCache, nbytes

TENSORS = {
    "llm/a": torch.arange(15.0).reshape(3, 5),
    "llm/half": torch.tensor([[1.5, -2.0], [0.0, 3.0]], dtype=torch.bfloat16),
    "llm/turned": torch.arange(6.0).reshape(2, 3).T,
    "llm/one": torch.tensor(7.0, dtype=torch.float64),
    "llm/none": torch.zeros(0, 4),
}


def learned(federation) -> dict[str, torch.Tensor]:
    found = {**federation.state.shared, **federation.state.tensors}
    for client in federation.clients.values():
        found |= {f"{client.name}:{n}": t for n, t in client.personal.items()}
    return found


def test_what_is_read_back_is_what_was_sent(tmp_path) -> None:
    uploads = SpilledUploads(0, tmp_path)
    taken = uploads.take(Reply("a", Payload(TENSORS, {"examples": 3})))
    assert isinstance(taken.payload.tensors, Stored)
    assert taken.payload.numbers == {"examples": 3}
    assert list(taken.payload.tensors) == list(TENSORS)
    for name, tensor in taken.payload.tensors.items():
        assert torch.equal(tensor, TENSORS[name])
        assert tensor.dtype == TENSORS[name].dtype
        tensor.zero_()
        assert torch.equal(taken.payload.tensors[name], TENSORS[name]), "each is read anew"
    with pytest.raises(KeyError):
        taken.payload.tensors["llm/other"]


def test_only_what_exceeds_the_budget_goes_to_a_file_and_clearing_removes_it(tmp_path) -> None:
    reply = Reply("a", Payload(TENSORS))
    uploads = SpilledUploads(2 * reply.payload.nbytes, tmp_path)
    kinds = [isinstance(uploads.take(reply).payload.tensors, Stored) for _ in range(4)]
    assert kinds == [False, False, True, True]
    assert len(list(tmp_path.glob(f"{PREFIX}*/*"))) == 2
    uploads.clear()
    assert list(tmp_path.iterdir()) == []
    assert not isinstance(uploads.take(reply).payload.tensors, Stored), "the next round has the whole budget"


def test_a_reply_that_is_an_error_is_passed_on(tmp_path) -> None:
    lost = Reply("a", error="raised KeyError: 'x'")
    assert SpilledUploads(0, tmp_path).take(lost) is lost


def test_a_disk_that_takes_no_more_is_one_sentence(tmp_path, monkeypatch) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedloom.federation.spilled_uploads.write_tensors", full)
    with pytest.raises(ExperimentError, match=r"No space left on device.*engine\.memory"):
        SpilledUploads(0, tmp_path).take(Reply("a", Payload(TENSORS)))


@pytest.mark.parametrize("method", ["fedavg-lora", "feda2-lora", "fedex-lora", "fedsa-lora"])
def test_a_run_whose_uploads_go_to_files_ends_in_the_same_bits(method, quick, federate) -> None:
    held = federate(quick(method), "held")
    stored = federate(quick(method, engine={"memory": 0}), "stored")
    kinds: list[bool] = []
    original = stored.uploads.take
    stored.uploads.take = lambda reply: (
        kinds.append(isinstance((taken := original(reply)).payload.tensors, Stored)) or taken
    )
    for federation in (held, stored):
        federation.run()
    assert kinds == [True] * 6
    one, two = learned(held), learned(stored)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[n], two[n]) for n in one)
    for name in ("metrics.jsonl",):
        assert (held.folder.path / name).read_bytes() == (stored.folder.path / name).read_bytes()
    assert held.folder.history("ledger.jsonl")[0]["bytes_up"] == stored.totals.bytes_up // 2
    assert not list(stored.folder.state.glob(f"{PREFIX}*"))


@pytest.mark.parametrize("method", ["feda2-lora", "fedex-lora"])
def test_aggregation_holds_one_layer_of_stored_uploads_at_a_time(
    method, quick, federate, monkeypatch
) -> None:
    federation = federate(
        quick(method, rounds=1, engine={"memory": 0}, data={"clients": {"image": 3}, "train": 6, "test": 1})
    )
    read: list[Any] = []
    alive: list[int] = []
    original = Stored.__getitem__

    def spy(self: Stored, name: str) -> torch.Tensor:
        tensor = original(self, name)
        read.append(weakref.ref(tensor))
        alive.append(sum(ref() is not None for ref in read[-100:]))
        return tensor

    monkeypatch.setattr(Stored, "__getitem__", spy)
    federation.run()
    assert max(alive) <= 2 * 3, "both factors of one layer at three clients"
    assert len(read) > 200


def test_samples_are_prepared_again_only_where_others_needed_the_memory() -> None:
    made: list[str] = []

    def make(client: str) -> list[torch.Tensor]:
        made.append(client)
        return [torch.zeros(1000)]

    prepared = ExampleCache(int(2.5 * nbytes([torch.zeros(1000)])))

    def ask(clients: str) -> Iterator[None]:
        return (prepared.of(c, lambda c=c: make(c)) for c in clients)

    list(ask("abab"))
    assert made == ["a", "b"]
    list(ask("acab"))  # c drives out b, which was asked longer ago than a
    assert made == ["a", "b", "c", "b"]
    none = ExampleCache(0)
    assert [len(none.of("a", lambda: make("a"))) for _ in range(2)] == [1, 1]
    assert made[-2:] == ["a", "a"]


@pytest.mark.parametrize("kind", ["flipped", "cut"])
def test_a_damaged_file_of_uploads_is_one_sentence(kind: str, tmp_path) -> None:
    uploads = SpilledUploads(0, tmp_path)
    taken = uploads.take(Reply("a", Payload(TENSORS, {})))
    assert isinstance(taken.payload.tensors, Stored)
    file = taken.payload.tensors.file
    data = bytearray(file.read_bytes())
    data[2] ^= 64
    file.write_bytes(data if kind == "flipped" else data[:3])
    with pytest.raises(DiskError, match="is damaged"):
        taken.payload.tensors["llm/a"]
