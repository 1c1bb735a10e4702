"""What is asked of a run, in three units."""

import pytest

from foundation.errors import UserError
from foundation.length import Length, clock, in_seconds


@pytest.mark.parametrize(
    ("trainer", "words", "given"),
    [
        ({"max_steps": 44, "max_epochs": None, "max_time": None}, "44 iterations", {"iterations": 44}),
        ({"max_steps": -1, "max_epochs": 1}, "1 epoch", {"epochs": 1}),
        ({"max_steps": -1, "max_epochs": -1, "max_time": "01:02:00:20"}, "01:02:00:20 of training", {"seconds": 93620}),
        ({"max_steps": -1, "max_time": {"minutes": 2}}, "00:00:02:00 of training", {"seconds": 120}),
        (
            {"max_steps": 44, "max_epochs": 2},
            "44 iterations or 2 epochs, whichever ends first",
            {"iterations": 44, "epochs": 2},
        ),
    ],
)
def test_a_length_is_read_from_a_trainer_and_told(trainer, words, given):
    length = Length.of(trainer)
    assert str(length) == words
    assert length.given() == given
    assert not list(length.problems())


@pytest.mark.parametrize(
    ("trainer", "sentence"),
    [
        ({"max_steps": -1}, "Nothing says how long to train: set trainer.max_steps, trainer.max_epochs or trainer.max_time."),
        ({"max_steps": 0}, "trainer.max_steps is 0, which trains nothing: give more than 0 iterations."),
        ({"max_steps": 5, "max_epochs": 0}, "trainer.max_epochs is 0, which trains nothing: give more than 0 epochs."),
        ({"max_steps": 5, "max_time": "00:00:00:00"}, "trainer.max_time is 0, which trains nothing: give more than 0 seconds."),
    ],
)  # fmt: skip
def test_what_trains_nothing_is_told(trainer, sentence):
    assert list(Length.of(trainer).problems()) == [sentence]


def test_the_first_limit_ends_a_run():
    asked = Length(iterations=44, epochs=2, seconds=60.0)
    assert asked.reached(Length(21, 1, 59.0)) is None
    assert asked.reached(Length(22, 2, 59.0)) == "epochs"
    assert asked.reached(Length(21, 1, 60.5)) == "seconds"
    assert Length(epochs=3).reached(Length(iterations=10**6)) is None  # a checkpoint that does not say its epochs
    assert asked.at_an_end(Length(21, 1, 59.0)) is None
    assert asked.at_an_end(Length(44, 1, 9.0)) == "after 44 iterations: set trainer.max_steps above 44."
    assert asked.at_an_end(Length(22, 2, 9.0)) == "after 2 epochs (22 iterations): set trainer.max_epochs above 2."
    assert asked.at_an_end(Length(21, 1, 61.2)) == (
        "after 00:00:01:01 of training (21 iterations): set trainer.max_time above 00:00:01:01."
    )


@pytest.mark.parametrize("time", ["20s", "00:00:20", {"fortnights": 1}, 3600])
def test_a_time_that_is_none_is_told(time):
    with pytest.raises(
        UserError, match=r"trainer.max_time is .*: give days, hours, minutes and seconds, such as 00:01:30"
    ):
        in_seconds(time)


def test_a_clock_counts_days():
    assert clock(86400 * 12 + 3600 + 62.9) == "12:01:01:02"
    assert in_seconds(clock(98765)) == 98765
