"""Checkpoints: what is saved is what is read, whatever its memory looks like."""

import torch

from fedloom.federation.run_folder import Checkpoint, RunFolder
from fedloom.methods import State


def test_a_transposed_tensor_is_saved_by_its_values(tmp_path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    wide = torch.arange(12.0).reshape(3, 4)
    folder.save(Checkpoint(1, State({"llm/x.lora_B": wide.T}, {"own": wide[:, ::2]}), {"bytes_up": 3}))
    found = RunFolder(tmp_path / "run").last()
    assert found is not None
    assert torch.equal(found.state.shared["llm/x.lora_B"], wide.T)
    assert torch.equal(found.state.tensors["own"], wide[:, ::2])
    assert (found.round, found.totals) == (1, {"bytes_up": 3})
