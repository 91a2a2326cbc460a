"""The first A of each client's own: what may be compared with the common model, and what may not."""

import pytest

IMAGES = {"clients": {"image": 2}, "train": 4, "test": 2}


@pytest.mark.parametrize(("start", "alike"), [("common", True), ("own", False)])
def test_a_change_from_a_first_a_of_ones_own_is_not_counted_from_the_common_one(
    start: str, alike: bool, quick, federate
) -> None:
    settings = {"data": IMAGES, "rounds": 2, "cohort": {"start": start}, "training": {"steps": 3}}
    federation = federate(quick("fedavg-lora", evaluation={"updates": True}, **settings))
    federation.run()
    first, second = ({m["name"] for m in federation.history if m["round"] == r} for r in (1, 2))
    assert ("cosine_change_A" in first) == alike
    assert "cosine_change_A" in second, "from the second round on all begin from the server's A"
    assert {"cosine_change_B", "cosine_change", "update/cosine"} <= first & second
