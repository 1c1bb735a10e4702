import csv

import pytest
import torch

from callbacks.likelihood_bound import LikelihoodBound, LikelihoodBoundMetric
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.runs import build
from tests.lightning_modules.test_draw import TINY


def parts(size=7, steps=3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, generator=generator) * 100, torch.rand(size, steps, generator=generator)


def test_means_are_over_examples_whatever_the_batches():
    reconstruction, kl = parts()
    whole, cut = LikelihoodBoundMetric(3, 5), LikelihoodBoundMetric(3, 5)
    whole.update(reconstruction, kl, -reconstruction)
    for positions in torch.arange(7).split(3):  # the last batch has one example
        cut.update(reconstruction[positions], kl[positions], -reconstruction[positions])
    cut.update(torch.empty(0), torch.empty(0, 3), torch.empty(0))
    expected = {
        "nll_bound_nats": float((reconstruction.double() + kl.double().sum(1)).mean()),
        "reconstruction_nats": float(reconstruction.double().mean()),
        "kl_nats": float(kl.double().sum(1).mean()),
        "nll_importance_5_nats": float(reconstruction.double().mean()),
    }
    assert whole.compute() == pytest.approx(expected, rel=1e-14)
    assert cut.compute() == pytest.approx(expected, rel=1e-14)
    assert cut.kl_of_steps() == pytest.approx(kl.double().mean(0).tolist(), rel=1e-14)


def test_the_number_of_samples_is_checked(tmp_path):
    with pytest.raises(UserError, match="importance_samples is 0: give 1 or more, or null"):
        LikelihoodBound(str(tmp_path), importance_samples=0)
    assert LikelihoodBound(str(tmp_path)).metrics(None, "test") == {
        "test/nll_bound_nats": "min", "test/reconstruction_nats": "min", "test/kl_nats": None}  # fmt: skip
    named = LikelihoodBound(str(tmp_path), importance_samples=50)
    assert named.metrics(None, "test").keys() - LikelihoodBound(str(tmp_path)).metrics(None, "test").keys() == {
        "test/nll_importance_50_nats"}  # fmt: skip
    assert "val/nll_importance_50_nats" not in named.metrics(None, "val")
    assert LikelihoodBoundMetric(3).compute().keys() == {"nll_bound_nats", "reconstruction_nats", "kl_nats"}


def test_a_run_s_figures_are_those_of_its_examples(tmp_path):
    words = [
        "experiment=draw_digits",
        "trainer=cpu",
        "logger=none",
        *TINY["draw_digits"],
        "datamodule.eval_batch_size=50",
    ]
    run = build(compose_job("train", words, str(tmp_path)))
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    table = run.datamodule.tables["test"]  # type: ignore
    images, index = table.images / 255, torch.arange(len(table))
    seen = run.module.test_step({"image": images, "index": index}, 0)  # type: ignore
    bound = float((seen["reconstruction_nats"] + seen["kl_nats"].sum(1)).double().mean())
    logged = {key: float(value) for key, value in run.trainer.callback_metrics.items()}
    assert logged["test/nll_bound_nats"] == pytest.approx(bound, rel=1e-6)
    tighter = -run.module.importance_weighted_log_likelihood(images, index, 2).mean()  # type: ignore
    assert logged["test/nll_importance_2_nats"] == pytest.approx(float(tighter), rel=1e-6)
    with open(tmp_path / "kl_steps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert sum(float(row["kl_nats"]) for row in rows) == pytest.approx(logged["test/kl_nats"], rel=1e-6)
    assert (tmp_path / "kl_steps.png").exists()
    for name in ("drawing", "redrawing"):
        assert (tmp_path / "images" / f"{name}.png").exists()
        assert (tmp_path / "images" / f"{name}.gif").exists()
