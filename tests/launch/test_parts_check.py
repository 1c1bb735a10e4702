"""Parts that are right by themselves and do not fit one another."""

from types import SimpleNamespace

import pytest
import torch

from callbacks.mean_average_precision import MeanAveragePrecision
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.parts_check import unfit_data, unfit_optimizers, unlabelled
from launch.runs import build

MISFITS = {
    "datamodule=mnist": r"built for images of .*\(1, 8, 8\), but datamodule mnist gives \(1, 28, 28\)",
    "optimized_metric=test/cluster_acuracy": "which nothing in this run logs: name another or set optimized_metric=null; did you mean 'test/cluster_accuracy'",
    "optimized_metric=val/cluster_accuracy": "datamodule.val_size=0 leaves no validation: set datamodule.val_size above 0",
    "experiment=resnet_digits lightning_module.network.num_classes=9": "The module tells 9 classes apart, and datamodule digits has 10: set the network's num_classes to 10",
    "paper.metric=test/accurracy": "paper.metric is test/accurracy, which nothing in this run logs",
    "callbacks=[default,best_checkpoint,cluster_accuracy]": "callbacks.best_checkpoint.monitor is val/nothing, but",
    "callbacks=[default,early_stopping,cluster_accuracy] optimized_metric=val/cluster_accuracy": "callbacks.early_stopping.monitor is val/cluster_accuracy, but datamodule.val_size=0 leaves no validation",
    "callbacks=[default,early_stopping,cluster_accuracy] optimized_metric=test/cluster_accuracy datamodule.val_size=9": "early_stopping.monitor is test/cluster_accuracy, which is measured after training",
    "trainer.max_steps=-1": "Nothing says how long to train: set trainer.max_steps",
    "+trainer.overfit_batches=1": "trainer.overfit_batches would replace the project's sampler",
    "+trainer.gradient_clip_val=1": "set lightning_module.gradient_clip_norm",
    "+trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches has no effect",
    "lightning_module.noise_size=17": "takes 28: set lightning_module.generator.input_size=29",
    "callbacks=[default,averaged_weights,cluster_accuracy] callbacks.averaged_weights.parts=[critic,generator]": "callbacks.averaged_weights.parts names critic, which InfoGAN has not: choose among generator, discriminator",
    "lightning_module.codes=[{kind:continuous,size:11}]": "callbacks.cluster_accuracy needs a module that is AssignsClusters",
    "experiment=draw_digits lightning_module.gradient_clip_norm=-1": "lightning_module.gradient_clip_norm is -1: give a norm above 0, or null",
    "experiment=draw_digits datamodule.binarize={seed:-1}": "datamodule.binarize.seed is -1: give 0 or more",
    "datamodule.batch_size=129 trainer=ddp_cpu": "cannot be cut among 2 ranks: choose a multiple of 2, such as 128",
    "callbacks.image_grid.samples=0": "callbacks.image_grid.samples is 0: give 1 or more",
    "callbacks.checkpoint.every_n_train_steps=0": "callbacks.checkpoint.every_n_train_steps is 0: give 1 or more",
    "trainer.log_every_n_steps=0": "trainer.log_every_n_steps is 0: give 1 or more",
    "datamodule.eval_batch_size=0": "datamodule.eval_batch_size is 0: give a number of examples",
    "lightning_module.optimizer_d.lr=-1": "optimisers or schedule cannot be made: Invalid learning rate: -1",
    "trainer.strategy=ddpp": "lightning.Trainer: .*ddpp",
    "lightning_module.q_optimizer=own": "teaches Q in D's turn, but with q_optimizer=own Q does not move there",
    "trainer=gpu": "Trainer: No supported gpu backend found",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISFITS)
def test_parts_that_do_not_fit_are_refused_when_built(mistake, tmp_path):
    if mistake == "trainer=gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    extra = (
        ["lightning_module.discriminator.posterior_size=22", "lightning_module.generator.input_size=27"]
        if "continuous" in mistake
        else []
    )
    if mistake.endswith("best_checkpoint,cluster_accuracy]"):
        extra.append("optimized_metric=val/nothing")
    config = compose_job("train", [*mistake.split(), *extra, "logger=none"], str(tmp_path))
    with pytest.raises(UserError, match=MISFITS[mistake]):
        build(config)


def test_what_is_only_measured_is_cut_among_any_number_of_ranks(tmp_path):
    """As evaluate.py does it: the batch size of training is the run's."""
    words = ["datamodule.batch_size=64", "trainer=ddp_cpu", "trainer.devices=3", "logger=none"]
    assert build(compose_job("train", words, str(tmp_path)), trains=False).trainer.world_size == 3


@pytest.mark.parametrize(("precision", "fused", "refused"), [("16-mixed", True, True), ("16-mixed", False, False),
                                                             ("bf16-mixed", True, False)])  # fmt: skip
def test_clipping_before_a_fused_optimizer_unscales(precision, fused, refused):
    weights = [torch.nn.Parameter(torch.zeros(1))]
    module = SimpleNamespace(
        gradient_clip_norm=1.0, configure_optimizers=lambda: ([torch.optim.Adam(weights, fused=fused)], [])
    )
    problems = list(unfit_optimizers(module, SimpleNamespace(precision=precision)))
    assert [problem.startswith("A fused optimizer unscales") for problem in problems] == [True] * refused


def test_what_needs_labels_is_refused_beside_data_without():
    learner, judge, other = SimpleNamespace(needs_labels=True), SimpleNamespace(needs_labels=True), SimpleNamespace()
    config = {"callbacks": {"judge": {}, "other": {}}}

    def told(**data) -> list[str]:
        return list(unlabelled(config, learner, SimpleNamespace(name="faces", **data), [judge, other]))

    assert told(num_classes=None) == [
        "SimpleNamespace needs labels, and datamodule faces has none as configured: choose another datamodule.",
        "callbacks.judge needs labels, and datamodule faces has none as configured: remove it with ~callbacks.judge",
    ]
    assert told(num_classes=2) == []
    assert told() == []  # data that knows no classes, such as text


def test_a_callback_that_needs_annotated_objects_beside_data_without(tmp_path):
    config, callbacks = {"callbacks": {"mean_average_precision": {}}}, [MeanAveragePrecision(str(tmp_path))]
    (problem,) = unfit_data(config, SimpleNamespace(name="digits"), callbacks)
    assert problem.startswith(
        "callbacks.mean_average_precision needs a datamodule that is AnnotatesObjects, which digits"
    )
    assert not list(unfit_data(config, SimpleNamespace(name="coco", coco_ground_truth=dict), callbacks))
