"""Run folders: what is saved is what is read, whatever its memory looks like and its texts hold."""

import torch

from fedloom.experiment.report.predictions import predictions
from fedloom.federation.run_folder import Checkpoint, RunFolder
from fedloom.methods import State
from fedloom.tasks.metrics import EvaluationRecord


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


def test_an_answer_may_hold_any_line_break_of_unicode(tmp_path) -> None:
    answer = "one\u2028two\u0085three\x1cfour\rfive"
    folder = RunFolder(tmp_path)
    folder.write_predictions("start", [EvaluationRecord("ann", "image", "ann/1", "red", answer, 1, 1)])
    assert "scores" not in folder.records("start")[0]
    folder.write_common("end", {"base": {("", "p1"): 0.5}, "novel": {}, "image": {("ann", "p1"): 1.0}})
    lines = (folder.path / "predictions-common-end.jsonl").read_text().splitlines()
    assert lines == [
        '{"right": 0.5, "set": "base", "uid": "p1"}',
        '{"client": "ann", "right": 1.0, "set": "image", "uid": "p1"}',
    ]
    assert folder.predictions("start") == {"ann/1": answer}
    assert predictions(tmp_path, "start")["ann", "ann/1"].prediction == answer
    folder.append("ledger.jsonl", [{"note": answer}])
    assert folder.history("ledger.jsonl") == [{"note": answer}]
