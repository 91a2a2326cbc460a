"""Messages through a pipe: bits, types and shapes arrive, small and large tensors alike, and share no memory."""

from multiprocessing import Pipe
from threading import Thread

import torch

from fedloom.core.tensor_messages import SMALL, receive, send


def test_an_object_with_tensors_arrives_as_it_is() -> None:
    large = torch.randn(SMALL // 4 + 1)
    message = {
        "large": large,
        "again": [large, "text", None],
        "small": [torch.randn(3, 5), torch.randn(2, 7).bfloat16(), torch.tensor([True]), torch.tensor(4)],
        "odd": torch.arange(3, dtype=torch.uint8),
        "after": torch.randn(2, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "strided": torch.randn(4, 6).T,
    }
    here, there = Pipe()
    sender = Thread(target=send, args=(here, message))
    sender.start()
    found = receive(there)
    sender.join()
    assert found["large"] is found["again"][0]
    assert found["again"][1:] == ["text", None]
    for name in ("large", "odd", "after", "empty", "strided"):
        assert torch.equal(found[name], message[name])
        assert found[name].dtype == message[name].dtype
    for one, other in zip(found["small"], message["small"], strict=True):
        assert torch.equal(one, other)
        assert one.shape == other.shape
        assert one.untyped_storage().nbytes() == one.numel() * one.element_size(), "no other tensor's memory"


def test_an_object_without_tensors_arrives() -> None:
    here, there = Pipe()
    send(here, None)
    assert receive(there) is None
