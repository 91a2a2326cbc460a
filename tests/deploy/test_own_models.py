"""Clients with models of their own at sites: the bits of the local engine, and what the server checks."""

import pytest
import torch

from fedloom.core.tensor_files import read_checked
from fedloom.deploy.server import go_on
from fedloom.experiment.run import run
from fedloom.federation.run_folder import RunFolder
from tests.deploy.silos import Silos

NAMES = ("image-01", "image-02", "text-01")
OFF = {"cohort": "off"}


def same_as_local(experiment, folder):
    """Run at sites and on the local engine; assert equal bits of the server's and all clients' tensors."""
    silos = Silos(experiment, NAMES, folder / "sites")
    run(experiment, folder / "local")
    go_on(experiment, NAMES, folder / "far", silos)
    states = [RunFolder(folder / place).last().state for place in ("local", "far")]
    for one, two in ((s.shared, s.tensors) for s in zip(*states)) if False else ():
        pass
    local, far = states
    assert local.values == far.values
    for here, there in ((local.shared, far.shared), (local.tensors, far.tensors)):
        assert here.keys() == there.keys()
        assert [n for n in here if not torch.equal(here[n], there[n])] == []
    for site in NAMES:
        files = sorted((folder / "local" / "state" / "clients" / site).glob("*.safetensors"))
        kept = sorted((folder / "sites" / site).glob("runs/*/personal/*.safetensors"))
        assert bool(files) == bool(kept)
        if files:
            a, b = read_checked(files[-1]), read_checked(kept[-1])
            assert a.keys() == b.keys()
            assert [n for n in a if not torch.equal(a[n], b[n])] == []
    return silos


@pytest.mark.parametrize("method", ["fedmmkt", "fedmd", "feddf", "creamfl"])
def test_bits(method, quick, tmp_path, monkeypatch) -> None:
    same_as_local(quick(method, engine=OFF), tmp_path)
