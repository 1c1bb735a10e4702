"""It stops where the metric no longer becomes better, whichever direction that is."""

import pytest

from callbacks.early_stopping import EarlyStopping
from foundation.protocols import said
from tests.callbacks.test_best_checkpoint import Follows, loader, trainer_with


@pytest.mark.parametrize(("metric", "stopped_after"), [("val/error", 3), ("val/accuracy", 2)])
def test_it_stops_where_the_metric_no_longer_becomes_better(metric, stopped_after):
    """Of 0.5, 0.2, 0.9 and 0.4 the error has fallen and then rises, the accuracy falls at once."""
    trainer = trainer_with(EarlyStopping(metric, patience=1))
    trainer.fit(Follows(), loader(), loader())
    assert trainer.global_step == stopped_after


def test_a_smallest_difference_counts_in_the_metric_s_direction():
    """An error that falls by 0.3 falls by less than 0.35."""
    trainer = trainer_with(EarlyStopping("val/error", patience=1, min_delta=0.35))
    trainer.fit(Follows(), loader(), loader())
    assert trainer.global_step == 2


def test_it_says_what_it_goes_by_and_that_it_measures_nothing():
    assert (said(EarlyStopping("val/error"), "monitor"), said(EarlyStopping("val/error"), "mode")) == (
        "val/error",
        None,
    )
    assert said(EarlyStopping, "for_training_only")
