from foundation.records import differences, latest_of_each_key


def test_differences_of_configs_are_told_by_key_with_both_values():
    before = {"a": 1, "b": {"c": [1], "d": {"e": None}}, "f": None, "same": {"x": 0}, "h": {"i": 1}}
    now = {"a": 1, "b": {"c": [2], "d": {"e": 5}}, "f": {"g": 3}, "same": {"x": 0}, "h": "file"}
    assert differences(before, now) == {
        "b.c": ([1], [2]), "b.d.e": (None, 5), "f.g": (None, 3), "h": ({"i": 1}, "file"),
    }  # fmt: skip
    assert differences(now, before)["f.g"] == (3, None)
    assert differences(before, before) == {}


def test_the_latest_override_of_a_key_holds():
    given = ["a=1", "+x@callbacks=b", "~a", "+x@callbacks=c", "+d=2"]
    assert latest_of_each_key(given) == ["~a", "+x@callbacks=b", "+x@callbacks=c", "+d=2"]
