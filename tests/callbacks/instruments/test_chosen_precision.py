import json
from types import SimpleNamespace
from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from callbacks.instruments.chosen_precision import ChosenPrecision, keep_precision, measured_for


def trainer_with(asked: str, precision: str, milliseconds: Any = None) -> Any:
    callbacks: list[Any] = [ChosenPrecision(asked, milliseconds)]
    plain: Any = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(precision=precision, callbacks=callbacks, enable_model_summary=False, **plain)  # type: ignore


@pytest.mark.parametrize("of_first", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("own", ["bf16-mixed", "32-true"])
def test_every_rank_computes_as_the_first_one(monkeypatch, own, of_first):
    trainer = trainer_with("auto", own)
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda it: of_first)
    trainer.callbacks[0].setup(trainer, None, "fit")
    assert trainer.precision == of_first
    assert isinstance(trainer.precision_plugin, MixedPrecision) == (of_first == "bf16-mixed")


def test_what_was_asked_for_by_name_stays(monkeypatch):
    trainer = trainer_with("32-true", "32-true")
    monkeypatch.setattr(trainer.strategy, "broadcast", lambda it: "bf16-mixed")
    trainer.callbacks[0].setup(trainer, None, "fit")
    keep_precision(trainer, {"precision": "bf16-mixed"}, None)  # type: ignore
    assert trainer.precision == "32-true"


@pytest.mark.parametrize("chosen_now", ["bf16-mixed", "32-true"])
def test_a_resume_keeps_its_run_s_choice(tmp_path, chosen_now):
    for run_s in ("bf16-mixed", "32-true"):
        saved: dict[str, Any] = {}
        before = trainer_with("auto", run_s)
        before.callbacks[0].on_save_checkpoint(before, None, saved)
        trainer = trainer_with("auto", chosen_now)
        keep_precision(trainer, saved, tmp_path)
        assert trainer.precision == run_s


@pytest.mark.parametrize(
    ("record", "kept"),
    [({}, "32-true"), ({"precision": "bf16-mixed"}, "bf16-mixed"),
     ({"precision": "bf16-mixed", "resumes": [{}, {"precision": "32-true"}]}, "32-true"),
     ({"precision": "64-true"}, "32-true")],
)  # fmt: skip
def test_of_a_checkpoint_that_does_not_say_it_the_record_does(tmp_path, record, kept):
    (tmp_path / "record.json").write_text(json.dumps(record))
    trainer = trainer_with("auto", "32-true")
    keep_precision(trainer, {}, tmp_path)
    assert trainer.precision == kept


def test_the_record_has_what_was_measured_where_it_decided():
    found = {"linear": {"32-true": 2.0, "bf16-mixed": 1.0}}
    assert measured_for(trainer_with("auto", "bf16-mixed", found)) == {"precision_ms": found}
    assert measured_for(trainer_with("auto", "bf16-mixed")) == {}
    assert measured_for(SimpleNamespace(callbacks=[])) == {}
