"""Names in tags against cases by hand and against what the package seqeval 1.2.2 says of the same tags."""

from random import Random

import pytest

from callbacks.instruments.entities import counted, entities, f1, kinds_of

CASES = {
    "O O": [],
    "B-PER I-PER O B-LOC": [("PER", 0, 2), ("LOC", 3, 4)],
    "I-PER I-PER O I-LOC": [("PER", 0, 2), ("LOC", 3, 4)],  # IOB1, as CoNLL's own files are
    "I-PER B-PER I-PER": [("PER", 0, 1), ("PER", 1, 3)],
    "B-PER I-LOC I-LOC": [("PER", 0, 1), ("LOC", 1, 3)],
    "B-PER E-PER S-LOC I-LOC": [("PER", 0, 2), ("LOC", 2, 3), ("LOC", 3, 4)],
    "B-M-X I-M-X": [("M-X", 0, 2)],
    "NN NN VB O NN": [("NN", 0, 2), ("VB", 2, 3), ("NN", 4, 5)],
}


@pytest.mark.parametrize("tags", CASES)
def test_names_begin_and_end_as_by_conll_s_script(tags):
    assert entities(tags.split()) == CASES[tags]


def test_counts_and_f1_are_the_other_package_s():
    draw = Random(7)
    tags = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in ("PER", "LOC"))]
    are = [[draw.choice(tags) for _ in range(12)] for _ in range(40)]
    told = [[tag if draw.random() < 0.7 else draw.choice(tags) for tag in sentence] for sentence in are]
    sums = {"has": 0, "told": 0, "right": 0}
    for one, other in zip(are, told, strict=True):
        for what, counts in counted(one, other).items():
            sums[what] += counts.total()
    assert sums == {"has": 255, "told": 263, "right": 189}
    assert f1(**sums) == pytest.approx(0.7297297297297298)
    assert kinds_of(tags) == ["LOC", "PER"]


def test_where_nothing_is_right_f1_is_zero():
    assert f1(0, 0, 0) == f1(3, 0, 0) == f1(2, 2, 0) == 0.0
