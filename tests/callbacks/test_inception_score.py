"""The score by its definition, by hand, against torch-fidelity, on 1, 2 and 3 ranks, and through a trainer."""

import json
import math

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import TensorDataset
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from callbacks.inception_score import InceptionScore, InceptionScoreMetric
from callbacks.instruments.frechet_distance import GaussianMetric, frechet_distance
from callbacks.instruments.pictures import as_8_bit
from foundation.errors import UserError
from foundation.evaluation import evaluating
from launch.parts_check import unfit_judges, unfit_metrics
from tests.callbacks.scores_on_ranks import Glance, Sampler, Squares, score_by, trainer_with
from tests.forks import run_in_fork


def scored(logits, splits=10, order=None, batch_size=7):
    metric = InceptionScoreMetric(logits.shape[1], len(logits), splits)
    order = torch.arange(len(logits)) if order is None else order
    for index in order.split(batch_size):
        metric.update(logits[index], index)
    return metric.compute()


def random_logits(count=100, classes=8):
    return 3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(0))


def sure_of(classes):
    """Logits of which all but one class have a probability of exactly 0."""
    return 1e4 * torch.eye(10)[classes]


# --- the metric ----------------------------------------------------------------------------------------------


def test_sure_and_balanced_is_the_number_of_classes():
    found = scored(sure_of(torch.arange(10).repeat(7)), splits=1)
    assert found == {"": pytest.approx(10, rel=1e-14), "_std": 0, "_all": pytest.approx(10, rel=1e-14)}


@pytest.mark.parametrize("logits", [torch.zeros(40, 10), sure_of(torch.full((40,), 3))])
def test_always_the_same_is_one(logits):
    assert scored(logits) == {"": pytest.approx(1), "_std": pytest.approx(0, abs=1e-12), "_all": pytest.approx(1)}


def test_by_its_definition():
    logits = random_logits()
    metric = InceptionScoreMetric(8, 100, 7)
    p = logits.double().softmax(1)
    scores = []
    for split in [*range(7), None]:
        of_split = p if split is None else p[metric.split == split]
        scores.append(math.exp((of_split * (of_split / of_split.mean(0)).log()).sum(1).mean()))
    mean = sum(scores[:7]) / 7
    deviation = math.sqrt(sum((it - mean) ** 2 for it in scores[:7]) / 7)
    assert scored(logits, 7) == pytest.approx({"": mean, "_std": deviation, "_all": scores[7]}, rel=1e-12)
    assert metric.split.bincount().tolist() == [14, 14, 14, 15, 14, 14, 15]  # s N // S to (s + 1) N // S


def test_neither_batches_nor_order_change_it():
    logits = random_logits()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    for found in (scored(logits, batch_size=100), scored(logits, batch_size=1), scored(logits, order=order)):
        assert found == pytest.approx(scored(logits), rel=1e-13)


def test_images_that_come_sorted_by_class_do_not_collapse():
    found = scored(sure_of(torch.arange(10).repeat_interleave(200)))
    assert found["_all"] == pytest.approx(10)
    assert found[""] > 9.5  # in the order they came, each split would have one class and score 1


def test_each_image_counts_once():
    metric = InceptionScoreMetric(8, 4, 2)
    metric.update(random_logits(3), torch.arange(3))
    with pytest.raises(AssertionError, match="each image counts once"):
        metric.compute()
    with pytest.raises(UserError, match="3 images cannot be divided into 10 splits"):
        InceptionScoreMetric(8, 3)


def test_rounding_is_that_of_a_file_whatever_else_is_in_the_batch():
    image = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 1.0, 1.3]).view(1, 1, 1, 7)
    alone = as_8_bit(image)
    assert alone.flatten().tolist() == [0, 0, 0, 1, 128, 255, 255]
    assert torch.equal(as_8_bit(torch.cat([image, 0.1 * image]))[:1], alone)
    with pytest.raises(UserError, match="not finite"):
        as_8_bit(image * math.nan)


# --- torch-fidelity ------------------------------------------------------------------------------------------


class GlanceForFidelity(FeatureExtractorBase):
    """The same network as torch-fidelity wants it."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)
        self.judge = Glance()

    @staticmethod
    def get_provided_features_list():
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return {"isc": "logits", "fid": "features"}[metric]

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, images):
        logits, features = self.judge(images)
        found = {"logits": logits, "features": features}
        return tuple(found[it] for it in self.features_list)


class Images(TensorDataset):
    def __getitem__(self, index):
        return super().__getitem__(index)[0]


def test_score_and_distance_are_torch_fidelity_s():
    register_feature_extractor("glance", GlanceForFidelity)
    generator = torch.Generator().manual_seed(0)
    images, others = (torch.randint(256, (count, 1, 5, 5), generator=generator).byte() for count in (203, 111))
    judge, metric = Glance(), InceptionScoreMetric(4, 203)
    gaussians = GaussianMetric(6), GaussianMetric(6)
    for index in torch.arange(203).split(20):
        logits, features = judge(images[index])
        metric.update(logits, index)
        gaussians[0].update(features)
    gaussians[1].update(judge(others // 2)[1])
    in_our_order = metric.split.sort(stable=True).indices  # it takes the splits one after the other
    theirs = calculate_metrics(
        input1=Images(images[in_our_order]), input2=Images(others // 2), feature_extractor="glance", isc=True, fid=True,
        samples_shuffle=False, isc_splits=10, cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    ours = metric.compute()
    assert ours[""] == pytest.approx(theirs["inception_score_mean"], rel=1e-7)
    assert ours["_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-6)
    distance = frechet_distance(*(it.compute() for it in gaussians))
    assert distance == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert theirs["inception_score_mean"] > 1.1


# --- ranks ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = run_in_fork("-m", "tests.callbacks.scores_on_ranks", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_uneven_ranks_agree_to_the_last_digits(ranks):
    (alone,) = (json.loads(path.read_text()) for path in ranks.glob("metric1r*.json"))
    for world_size in (2, 3):
        found = [json.loads((ranks / f"metric{world_size}r{rank}.json").read_text()) for rank in range(world_size)]
        assert all(it == found[0] for it in found)
        assert found[0]["score"] == pytest.approx(alone["score"], rel=1e-14)
        assert found[0]["gaussian"][0] == 29
        assert torch.tensor(found[0]["gaussian"][1]).allclose(torch.tensor(alone["gaussian"][1]), rtol=1e-13, atol=0)
        assert torch.tensor(found[0]["gaussian"][2]).allclose(
            torch.tensor(alone["gaussian"][2]), rtol=1e-12, atol=1e-15
        )
        assert found[0]["confident"] == alone["confident"]


def test_a_test_under_ddp_logs_the_same_and_draws_the_same(ranks):
    alone = json.loads((ranks / "ddp1.json").read_text())
    assert alone.keys() == score_by(Glance(), ranks).metrics(None, "test").keys()
    assert alone["test/glance_score"] > 1.1
    for world_size in (2, 3):
        # Logged values are float32.
        assert json.loads((ranks / f"ddp{world_size}.json").read_text()) == pytest.approx(alone, rel=1e-6)
        pictures = [ranks / f"run{it}" / "confident_samples-glance_score.png" for it in (1, world_size)]
        assert pictures[0].read_bytes() == pictures[1].read_bytes()


# --- the callback --------------------------------------------------------------------------------------------


def logged(trainer):
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def test_it_logs_what_it_declares_and_leaves_the_module_as_it_was(tmp_path):
    callback, module = score_by(Glance(), tmp_path), Sampler()
    trainer = trainer_with(callback)
    statistics = {name: it.clone() for name, it in module.named_buffers()}
    trainer.validate(module, Squares(), verbose=False)
    assert logged(trainer).keys() == callback.metrics(None, "val").keys()
    assert callback.metrics(None, "val").keys() == {
        "val/glance_score", "val/glance_score_std", "val/glance_score_all", "val/glance_distance"}  # fmt: skip
    module.normalization.eval()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    trainer.test(module, Squares(), verbose=False)
    assert logged(trainer).keys() == callback.metrics(None, "test").keys()
    assert torch.equal(torch.rand(1), expected)
    assert not module.normalization.training
    assert all(torch.equal(it, statistics[name]) for name, it in module.named_buffers())
    assert callback.metrics(None, "train").keys() == set()


def test_figures_are_those_of_the_samples_and_of_the_data(tmp_path):
    callback, module, data, judge = score_by(Glance(), tmp_path), Sampler(), Squares(), Glance()
    trainer = trainer_with(callback)
    trainer.test(module, data, verbose=False)
    with evaluating(module):
        samples = judge(as_8_bit(module.sample(torch.arange(31))))
    real, reference = judge(data.tables["test"].images), judge(data.tables["train"].images)
    gaussians = GaussianMetric(6), GaussianMetric(6)
    gaussians[0].update(samples[1])
    gaussians[1].update(reference[1])
    expected = {f"test/glance_score{end}": value for end, value in scored(samples[0], 3).items()}
    expected |= {f"test/real_glance_score{end}": value for end, value in scored(real[0], 3).items()}
    expected["test/glance_distance"] = frechet_distance(*(it.compute() for it in gaussians))
    expected["test/real_glance_score_images"] = 23
    assert logged(trainer) == pytest.approx(expected, rel=1e-5)
    assert callback.describe_for_record() == {
        "glance_score": {"judge": {"network": "Glance"}, "images": {"test": 31, "real test": 23}, "splits": 3,
                         "distance_to": "37 images of train"}}  # fmt: skip


def test_the_score_of_real_images_says_of_how_many_and_may_be_of_training_images(tmp_path):
    callback, data, judge = score_by(Glance(), tmp_path, reference=None, real_images="train"), Squares(), Glance()
    trainer = trainer_with(callback)
    trainer.test(Sampler(), data, verbose=False)
    logits, _ = judge(data.tables["train"].images)
    expected = scored(logits, 3) | {"_images": 37}
    found = {key: value for key, value in logged(trainer).items() if key.startswith("test/real_")}
    assert found == pytest.approx({f"test/real_glance_score{end}": it for end, it in expected.items()}, rel=1e-5)
    assert callback.describe_for_record()["glance_score"]["images"] == {"test": 31, "real train": 37}
    assert callback.metrics(None, "test").keys() == logged(trainer).keys()


def test_the_reference_is_seen_once(tmp_path):
    judge, module = Glance(), Sampler()
    trainer_with(score_by(judge, tmp_path)).validate(module, Squares(), verbose=False)
    assert judge.seen == 20 + 37
    again, third = Glance(), Glance()
    trainer_with(score_by(again, tmp_path)).validate(module, Squares(), verbose=False)
    assert again.seen == 20  # from the cache
    other = Squares()
    other.tables["train"].images[0] = 255 - other.tables["train"].images[0]
    trainer_with(score_by(third, tmp_path)).validate(module, other, verbose=False)
    assert third.seen == 20 + 37


def test_without_a_reference_there_is_no_distance(tmp_path):
    callback = score_by(Glance(), tmp_path, reference=None, real_images=False)
    trainer = trainer_with(callback)
    trainer.test(Sampler(), Squares(), verbose=False)
    assert logged(trainer).keys() == callback.metrics(None, "test").keys()
    assert "test/glance_distance" not in callback.metrics(None, "test")


@pytest.mark.parametrize(("limit", "seen"), [(2, 8), (0.5, 15), (1.0, 31)])
def test_the_trainer_s_limits_hold(tmp_path, limit, seen):
    """``debug=steps`` would else generate 50,000 images."""
    callback = score_by(Glance(), tmp_path, real_images=False)
    trainer = trainer_with(callback, limit_test_batches=limit)
    trainer.test(Sampler(), Squares(), verbose=False)
    assert callback.measured == {"test": seen}


def test_the_sanity_check_generates_nothing(tmp_path):
    callback = score_by(Glance(), tmp_path)
    trainer = trainer_with(callback)
    trainer.sanity_checking = True
    callback.on_validation_epoch_end(trainer, Sampler())
    assert callback.measured == {}


def test_no_images_of_a_stage_mean_no_metrics(tmp_path):
    assert score_by(Glance(), tmp_path, val_images=0).metrics(None, "val").keys() == set()
    with pytest.raises(UserError, match=r"callbacks.glance_score.test_images is 2: give 3 or more, or 0 for none"):
        score_by(Glance(), tmp_path, test_images=2)
    with pytest.raises(UserError, match="batch_size is 0"):
        score_by(Glance(), tmp_path, batch_size=0)


# --- a judge that cannot be had ------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["lacking", "unfetched"])
def test_without_weights_one_line_says_so_and_the_run_goes_on(tmp_path, capsys, reason):
    callback = score_by(Glance(**{reason: "there is no network"}), tmp_path)
    known_before = reason == "lacking"
    assert bool(callback.metrics(None, "val").keys()) is not known_before
    trainer = trainer_with(callback)
    trainer.validate(Sampler(), Squares(), verbose=False)
    trainer.test(Sampler(), Squares(), verbose=False)
    assert capsys.readouterr().out.count("glance_score is left out: there is no network.\n") == 1
    assert callback.metrics(None, "val").keys() == callback.metrics(None, "test").keys() == set()
    assert logged(trainer) == {}
    assert callback.describe_for_record() == {"glance_score": {"left_out": "there is no network"}}


def test_what_goes_by_a_score_that_is_left_out_cannot_go_on(tmp_path):
    callback = score_by(Glance(unfetched="there is no network"), tmp_path)
    trainer = trainer_with(callback, EarlyStopping("val/glance_score"))
    with pytest.raises(UserError, match="EarlyStopping goes by val/glance_score, which is left out: there is no net"):
        trainer.validate(Sampler(), Squares(), verbose=False)


def problems(callback: InceptionScore, **config) -> list[str]:
    config = {"callbacks": {"glance_score": None}} | config
    return list(unfit_metrics(config, Sampler(), Squares(), [callback]))


def test_a_paper_s_metric_may_be_left_out_but_not_what_is_optimised(tmp_path):
    lacking = score_by(Glance(lacking="there are no weights"), tmp_path)
    assert problems(lacking, paper={"metric": "test/glance_score"}) == []
    (problem,) = problems(lacking, optimized_metric="val/glance_score")
    assert problem == "optimized_metric is val/glance_score, which is left out here: there are no weights."
    assert problems(score_by(Glance(), tmp_path), optimized_metric="val/glance_score") == []


def test_a_judge_that_looks_at_other_images_is_refused(tmp_path):
    module = Sampler()
    module.image_shape = (1, 6, 6)
    config = {"callbacks": {"glance_score": None}}
    (problem,) = unfit_judges(config, module, [score_by(Glance(), tmp_path)])
    assert problem == "callbacks.glance_score cannot judge Sampler: it looks at (1, 5, 5). Name another judge, or none."
    assert list(unfit_judges(config, Sampler(), [score_by(Glance(), tmp_path)])) == []
