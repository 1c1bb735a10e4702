import pytest

from datamodules.text.letters import LettersDataModule
from foundation.errors import UserError


def letters(**settings) -> LettersDataModule:
    return LettersDataModule(**{"rows": 100, "batch_tokens": 100, "test_size": 10} | settings)


@pytest.mark.parametrize(
    ("rule", "made"), [("copy", lambda it: it), ("reverse", lambda it: it[::-1]), ("double", lambda it: [x for x in it for _ in range(2)])]
)  # fmt: skip
def test_each_row_is_made_by_the_rule(rule, made):
    texts = letters(rule=rule, shortest=2, longest=5).texts["train"]
    rows = [source.split() for source in texts.sources]
    assert {len(row) for row in rows} == {2, 3, 4, 5}
    assert [target.split() for target in texts.targets] == [made(row) for row in rows]


def test_rows_are_a_function_of_their_own_seed():
    assert letters(seed=1).texts["train"].sources == letters().texts["train"].sources
    assert letters(data_seed=1).texts["train"].sources != letters().texts["train"].sources


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rule": "copyy"}, "datamodule.rule is 'copyy': did you mean 'copy'?"),
        ({"letters": 1}, "datamodule.letters is 1: give 2 to 26"),
        ({"shortest": 4, "longest": 3}, "datamodule.shortest=4 and datamodule.longest=3"),
        ({"rows": 2}, "datamodule.rows is 2: give a number of rows, 3 or more"),
    ],
)
def test_what_makes_no_rows_is_told(settings, told):
    with pytest.raises(UserError) as error:
        letters(**settings)
    assert told in str(error.value)
