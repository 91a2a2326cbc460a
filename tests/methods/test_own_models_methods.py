"""Asking a client's own model after a run."""

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.experiment.finished_run import load
from fedloom.experiment.run import finish


def test_a_clients_model_names_what_its_modality_shows(quick, federate, monkeypatch) -> None:
    monkeypatch.setattr("fedloom.tasks.own_models.GeneratorEvaluator.of", lambda *told: None)
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
    federation = federate(quick("fedmd", rounds=1), "run")
    federation.folder.write_experiment(federation.experiment.as_dict())
    federation.run()
    finish(federation)
    folder = federation.folder.path
    with pytest.raises(ExperimentError, match=r"has no common model; name a client with .* such as image-01"):
        load(folder)
    picture = federation.clients["image-01"].data.train[0].modalities["image"]
    seeing, reading = load(folder, "image-01"), load(folder, "text-01")
    federation.engine.model.load(federation.client_model(federation.clients["image-01"]).tensors)
    assert seeing.classify({"image": picture}) == federation.engine.model.classify({"image": picture})
    assert reading.classify({"text": "no loop, a roof"}) in reading.names
    with pytest.raises(ExperimentError, match="of the modality text; give --question alone"):
        reading.classify({"image": picture})
    with pytest.raises(ExperimentError, match="of the modality image; give --image alone"):
        seeing.classify({"image": picture, "text": "a loop"})
