"""Two short real trainings on digits: the paper's point, and sane samples from running batch statistics."""

import math

import pytest
import torch

from foundation.evaluation import evaluating
from launch.command_line import compose_job
from launch.runs import build

# Small nets that learn fast: with each of three seeds 300 iterations are enough.
NETS = ["lightning_module.generator.hidden=[128]", "lightning_module.discriminator.channels=[16,32]",
        "lightning_module.discriminator.hidden=[64]", "lightning_module.optimizer_g.lr=2e-3",
        "lightning_module.optimizer_d.lr=5e-4", "datamodule.batch_size=64"]  # fmt: skip


def trained(folder, weight, steps):
    """InfoGAN of the paper (no terms on real images), and its last logged bound."""
    codes = f"lightning_module.codes=[{{kind:categorical,size:10,mutual_information_weight:{weight}}}]"
    sizes = ["lightning_module.generator.input_size=26", "lightning_module.discriminator.posterior_size=10"]
    settings = ["trainer=cpu", "logger=none", f"trainer.max_steps={steps}", "lightning_module.real_images=null"]
    settings += ["~callbacks.cluster_accuracy", "paper.metric=null"]
    run = build(compose_job("train", [codes, *sizes, *NETS, *settings], str(folder)))
    run.trainer.fit(run.module, datamodule=run.datamodule)
    return run, float(run.trainer.callback_metrics["train/mutual_information_categorical_nats"])


@pytest.fixture(scope="module")
def with_bound(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("with"), weight=1.0, steps=400)


def test_the_bound_rises_towards_log_10(with_bound):
    _, information = with_bound
    assert 2.0 < information < math.log(10)


def test_without_the_term_the_code_is_ignored(tmp_path):
    _, information = trained(tmp_path, weight=0.0, steps=200)
    assert information < 0.1


def test_samples_from_running_statistics_look_like_those_from_batch_statistics(with_bound):
    run, _ = with_bound
    module, real = run.module, run.datamodule.tables["train"].images / 255
    with evaluating(module):
        samples = module.sample(torch.arange(256))
        alone = module.sample(torch.tensor([7]))
    with torch.no_grad():
        module.train()
        batch_statistics = module.sample(torch.arange(256))
    torch.testing.assert_close(samples[7:8], alone, atol=1e-5, rtol=0)
    # The same noise and codes: image for image alike (0.997 on two seeds).
    assert float(torch.corrcoef(torch.stack([samples.flatten(), batch_statistics.flatten()]))[0, 1]) > 0.95
    assert float((samples.mean(0) - batch_statistics.mean(0)).abs().max()) < 0.15
    assert float(samples.std(dim=0).mean()) > 0.5 * float(real.std(dim=0).mean())  # not one image over and over
