"""IID dealing: everything is dealt once, groups stay whole, clients are of about one size."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.data.partition.iid import iid


@given(groups=st.lists(st.integers(0, 8), max_size=40), clients=st.integers(1, 5), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_groups_stay_whole_and_sizes_are_alike(groups: list[int], clients: int, seed: int) -> None:
    dealt = iid(groups, clients, seed, "x")
    assert sorted(i for part in dealt for i in part) == list(range(len(groups)))
    for group in set(groups):
        assert sum(any(groups[i] == group for i in part) for part in dealt) == 1
    sizes = [len(part) for part in dealt]
    assert max(sizes) - min(sizes) <= max((groups.count(g) for g in groups), default=0)
    assert dealt == iid(groups, clients, seed, "x")


def test_the_deal_depends_on_the_seed() -> None:
    assert iid(range(30), 3, 0, "x") != iid(range(30), 3, 1, "x")
