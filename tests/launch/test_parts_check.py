"""Parts that are right by themselves and do not fit one another."""

from types import SimpleNamespace

import pytest
import torch

from callbacks.mean_average_precision import MeanAveragePrecision
from foundation.errors import UserError
from foundation.protocols import AnnotatesObjects, Classifies, ClassifiesImages, ClassifiesText
from launch.command_line import compose_job
from launch.parts_check import (
    empty_weights,
    metrics_of_run,
    unfit_callbacks,
    unfit_data,
    unfit_inputs,
    unfit_metrics,
    unfit_optimizers,
    unfit_proposals,
    unfit_shapes,
    unfit_tokens,
    unfit_trainer,
    unkept_promises,
    unlabelled,
)
from launch.runs import build

MISFITS = {
    "datamodule=mnist": r"built for images of .*\(1, 8, 8\), but datamodule mnist gives \(1, 28, 28\)",
    "optimized_metric=test/cluster_acuracy": "which nothing in this run logs: name another or set optimized_metric=null; did you mean 'test/cluster_accuracy'",
    "optimized_metric=val/cluster_accuracy": "datamodule.val_size=0 leaves no validation: set datamodule.val_size above 0",
    "experiment=resnet_digits lightning_module.network.num_classes=9": "The module tells 9 classes apart, and datamodule digits has 10: set lightning_module.network.num_classes=10, or",
    "paper.metric=test/accurracy": "paper.metric is test/accurracy, which nothing in this run logs",
    "callbacks=[default,best_checkpoint,cluster_accuracy]": "callbacks.best_checkpoint.monitor is val/nothing, but",
    "callbacks=[default,early_stopping,cluster_accuracy] optimized_metric=val/cluster_accuracy": "callbacks.early_stopping.monitor is val/cluster_accuracy, but datamodule.val_size=0 leaves no validation",
    "callbacks=[default,early_stopping,cluster_accuracy] optimized_metric=test/cluster_accuracy datamodule.val_size=9": "early_stopping.monitor is test/cluster_accuracy, which is measured after training",
    "callbacks=[default,cluster_accuracy,best_checkpoint] optimized_metric=val/cluster_accuracy datamodule.val_size=9 callbacks.best_checkpoint.mode=min": "callbacks.best_checkpoint.mode is min, and of val/cluster_accuracy the larger is better: set callbacks.best_checkpoint.mode=max, or null, which follows the metric",
    "experiment=resnet_digits datamodule.val_size=9 optimized_metric=val/error callbacks=[default,classification,early_stopping] callbacks.early_stopping.mode=max": "callbacks.early_stopping.mode is max, and of val/error the smaller is better: set callbacks.early_stopping.mode=min",
    "optimized_metric=train/real_probability": "optimized_metric is train/real_probability, of which neither larger nor smaller is better: name another",
    "callbacks=[default,cluster_accuracy,early_stopping] optimized_metric=train/lr_d": "callbacks.early_stopping.monitor is train/lr_d, of which neither larger nor smaller is better",
    "trainer.max_steps=-1": "Nothing says how long to train: set trainer.max_steps",
    "+trainer.overfit_batches=1": "trainer.overfit_batches would replace the project's sampler",
    "+trainer.gradient_clip_val=1": "set lightning_module.gradient_clip_norm",
    "+trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches has no effect",
    "lightning_module.micro_batch_size=0": "lightning_module.micro_batch_size is 0: give a number of examples, or null",
    "lightning_module.micro_batch_size=33 trainer=ddp_cpu": "micro_batch_size=33 is of 2 ranks and cannot be cut among them: choose a multiple of 2, such as 32",
    "lightning_module.micro_batch_size=2 trainer=ddp_cpu": "micro_batch_size=2 leaves parts of one example on a rank, which batch norm cannot normalise: choose a larger one",
    "lightning_module.noise_size=17": "takes 28: set lightning_module.generator.input_size=29",
    "callbacks=[default,averaged_weights,cluster_accuracy] callbacks.averaged_weights.parts=[critic,generator]": "callbacks.averaged_weights.parts names critic, which InfoGAN has not: choose among generator, discriminator",
    "lightning_module.codes=[{kind:continuous,size:11}]": "callbacks.cluster_accuracy needs a module that is AssignsClusters",
    "experiment=resnet_digits callbacks=[default,certificate]": "callbacks.certificate needs a module that is PenalizesTransport, which ResNet is not",
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


class Reader:
    """A classifier of texts of up to 16 tokens out of 100."""

    num_classes, class_names, vocabulary_size, max_length = 2, None, 100, 16

    def capabilities(self) -> set[type]:
        return {ClassifiesText}

    def class_logits(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(input_ids), 2)


def test_a_callback_may_ask_for_the_base_of_what_a_module_serves():
    outputs_alone, images = SimpleNamespace(requires=Classifies), SimpleNamespace(requires=ClassifiesImages)
    config = {"callbacks": {"classification": {}, "saliency": {}}}
    assert list(unfit_callbacks(config, Reader(), [outputs_alone, images])) == [
        "callbacks.saliency needs a module that is ClassifiesImages, which Reader is not as configured: remove it with "
        "~callbacks.saliency"
    ]


def test_a_module_has_what_it_says_that_it_serves():
    class Forgetful(Reader):
        class_logits = property()  # type: ignore

    assert not list(unkept_promises(Reader()))
    assert list(unkept_promises(Forgetful())) == [
        "Forgetful says that it is ClassifiesText and has no class_logits: add it, as foundation/protocols/ says, or "
        "change capabilities()."
    ]


def test_images_for_a_reader_of_tokens_and_the_reverse():
    images = SimpleNamespace(name="digits", image_shape=(1, 8, 8))
    texts = SimpleNamespace(name="reviews", vocabulary_size=100, max_length=16)
    assert not list(unfit_inputs(Reader(), texts))
    (problem,) = unfit_inputs(Reader(), images)
    assert problem.startswith("Reader reads token ids, and datamodule digits gives images: choose a datamodule of tok")
    (problem,) = unfit_inputs(images, texts)
    assert problem.startswith("SimpleNamespace reads images, and datamodule reviews gives token ids: choose")
    (problem,) = unfit_inputs(SimpleNamespace(requires_data=AnnotatesObjects), texts)
    assert problem.startswith("SimpleNamespace needs a datamodule that is AnnotatesObjects, which reviews is not")


def test_images_of_any_size_for_a_module_of_one():
    photographs = SimpleNamespace(name="photographs", image_shape=None)
    (problem,) = unfit_shapes(SimpleNamespace(image_shape=(3, 32, 32)), photographs)
    assert problem.endswith("those of datamodule photographs have sizes of their own: choose another datamodule.")


def test_a_detector_without_an_rpn_beside_data_without_proposals():
    fast, data = SimpleNamespace(needs_proposals=True), SimpleNamespace(proposals=None)
    (problem,) = unfit_proposals(fast, data)
    assert problem.startswith("SimpleNamespace has no RPN as configured")
    assert 'load_proposals, run: <folder>}" to a run that has saved some' in problem
    assert [*unfit_proposals(fast, SimpleNamespace(name="digits"))] == [problem]
    given = SimpleNamespace(proposals=object())
    assert not [*unfit_proposals(SimpleNamespace(needs_proposals=True, takes_proposals=True), given)]
    assert not [*unfit_proposals(SimpleNamespace(), data)]
    (problem,) = unfit_proposals(SimpleNamespace(takes_proposals=False), given)
    assert problem.endswith("since its heads are null or fixed: set datamodule.proposals=null.")


@pytest.mark.parametrize(
    ("sizes", "refused"),
    [
        ({"vocabulary_size": 100, "max_length": 16}, []),
        ({"vocabulary_size": 99, "max_length": 3}, []),
        ({"vocabulary_size": 101}, ["Reader reads token ids below 100, and datamodule reviews's vocabulary has 101"]),
        ({"max_length": 17}, ["Reader reads texts of up to 16, and datamodule reviews's longest text has 17 tokens"]),
        ({"max_length": None}, []),
        ({"vocabulary_size": 101, "max_length": 17}, ["Reader reads token ids", "Reader reads texts"]),
    ],
)
def test_tokens_that_a_module_has_no_rows_for(sizes, refused):
    problems = list(unfit_tokens(Reader(), SimpleNamespace(name="reviews", **sizes)))
    assert [problem[: len(told)] for problem, told in zip(problems, refused, strict=True)] == refused


def test_a_paper_s_metric_may_be_measured_on_training_data_and_is_declared_as_such():
    """With ``datamodule.test_split=train`` as without."""
    module = SimpleNamespace(metrics=lambda stage: {f"{stage}/map": "max"} if stage == "test" else {})
    config = {"callbacks": {}, "optimized_metric": None}
    for on_training_data, key in {True: "train_set/map", False: "test/map"}.items():
        datamodule = SimpleNamespace(tests_on_training_data=on_training_data, val_size=0)
        assert metrics_of_run(module, datamodule, []) == {key: "max"}
        for metric in ("test/map", "train_set/map"):
            assert [*unfit_metrics(config | {"paper": {"metric": metric}}, module, datamodule, [])] == []
        other = {"test/map", "train_set/map"} - {key}
        (problem,) = unfit_metrics(config | {"optimized_metric": other.pop()}, module, datamodule, [])
        assert "which nothing in this run logs" in problem


def test_a_part_without_weights_is_named():
    with_none = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 0, bias=False))
    assert [it[:60] for it in empty_weights(with_none)] == [
        "lightning_module has no weights in 1.weight, of shape (0, 2):"[:60]
    ]
    assert [*empty_weights(with_none[0])] == []


def test_several_machines_are_asked_for_where_they_are_started(monkeypatch):
    trainer = SimpleNamespace(log_every_n_steps=1, overfit_batches=0)
    module, config = SimpleNamespace(automatic_optimization=True), {"trainer": {"num_nodes": 2}}
    for name in ("MASTER_ADDR", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "LSB_JOBID"):
        monkeypatch.delenv(name, raising=False)
    (problem,) = unfit_trainer(config, module, trainer)
    assert "start it on each with torchrun or srun" in problem
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    assert [*unfit_trainer(config, module, trainer)] == []
