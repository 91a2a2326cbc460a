"""Workers on a Ray cluster of two nodes on this machine: the bits of one process, also when a node is killed in a round."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.federation import ray_pool
from fedloom.federation.progress import Progress
from tests.federation.test_process_pool import end, fields

needs_ray = pytest.mark.skipif(not ray_pool.installed(), reason="needs fedloom[ray]")


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """A head without room for workers, and two nodes with room for one each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found.nodes = [found.add_node(num_cpus=1) for _ in range(2)]
    found.wait_for_nodes()
    yield found
    found.shutdown()


def kill_a_node(cluster: Any) -> None:
    """Kill the one that this process is not connected through."""
    for node in cluster.nodes:
        try:
            cluster.remove_node(node, allow_graceful=False)
        except ValueError:  # this process's own
            continue
        return
    pytest.fail("no node was killed")


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_nodes_end_with_the_bits_of_one_process_also_when_one_is_killed(cluster, tmp_path) -> None:
    run(Experiment.parse(fields()), tmp_path / "local")
    want = end(tmp_path / "local")
    on_ray = Experiment.parse(fields(name="ray", address=cluster.address))
    run(on_ray, tmp_path / "ray")
    assert end(tmp_path / "ray") == want
    assert "tried again" not in (tmp_path / "ray" / "ledger.jsonl").read_text()

    answers: list[str] = []

    def observe(progress: Progress) -> None:
        if progress.client is not None:
            answers.append(progress.client)
            if len(answers) == 4:  # the first answer of round 2; both nodes have a cohort then
                kill_a_node(cluster)

    run(on_ray, tmp_path / "killed", observe=observe)
    assert end(tmp_path / "killed") == want
    assert (tmp_path / "killed" / "ledger.jsonl").read_text().count(
        "a worker of the Ray cluster was lost"
    ) <= 1
    assert len(answers) == 6


@needs_ray
@pytest.mark.slow
def test_more_workers_than_the_cluster_has_room_for_are_refused(cluster) -> None:
    on_ray = Experiment.parse(fields(name="ray", address=cluster.address, workers=3))
    with pytest.raises(
        ExperimentError, match="the Ray cluster has room for 2 workers of 1 CPUs and 0 GPUs, not for 3"
    ):
        run(on_ray)


@needs_ray
def test_no_cluster_at_an_address_is_one_sentence() -> None:
    with pytest.raises(
        ExperimentError, match=r"engine\.address: no Ray cluster can be reached at 127\.0\.0\.1:1"
    ):
        ray_pool.connect("127.0.0.1:1")


@pytest.mark.skipif(ray_pool.installed(), reason="Ray is installed")
def test_without_ray_a_run_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"engine\.name: ray needs the extra fedloom\[ray\]"):
        run(Experiment.parse(fields(name="ray")), tmp_path / "run")


@pytest.mark.parametrize("setting", ["address", "cpus_per_worker", "gpus_per_worker"])
def test_settings_of_ray_are_refused_without_it(setting) -> None:
    with pytest.raises(ExperimentError, match=rf"engine\.{setting} is read only with engine\.name: ray"):
        Experiment.parse(fields(**{setting: "auto" if setting == "address" else 1}))
