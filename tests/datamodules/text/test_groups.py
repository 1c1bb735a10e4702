import pytest

from datamodules.text.groups import split_by_group
from foundation.errors import UserError

GROUPS = ["a", "b", "a", "c", "d", "d", "e", "f", "b", "g"]


def test_no_group_is_in_two_splits_and_each_split_has_as_many_rows_as_it_is_asked_for():
    rows = split_by_group(GROUPS, {"test": 2, "val": 3}, 0, "data", "group")
    assert sorted(sum((it.tolist() for it in rows.values()), [])) == list(range(10))
    assert all(it.tolist() == sorted(it.tolist()) for it in rows.values())
    of_splits = [{GROUPS[row] for row in it.tolist()} for it in rows.values()]
    assert sum(map(len, of_splits)) == len(set(GROUPS))
    assert len(rows["test"]) >= 2
    assert len(rows["val"]) >= 3
    assert split_by_group(GROUPS, {"val": 0}, 0, "data", "group")["val"].tolist() == []
    assert {
        tuple(split_by_group(GROUPS, {"test": 2}, seed, "data", "group")["test"].tolist()) for seed in range(9)
    } != {tuple(rows["test"].tolist())}


def test_too_few_groups_are_told():
    with pytest.raises(
        UserError, match="datamodule.test_size=1 leaves no article of data to train on: it has 3 rows in 1 of them"
    ):
        split_by_group("aaa", {"test": 1}, 0, "data", "article")
