"""The equations by hand, trainings step by step, and what each training does to what the oracle cannot see."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from foundation.errors import UserError
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import build
from lightning_modules.attacks.gradient import Examples
from lightning_modules.oracle_robustness import (
    ascend_distance,
    feature_distance,
    modulus,
    paper_arc,
    paper_arca,
    stability_loss,
)
from lightning_modules.oracles.layers import features_and_logits, layer_named
from lightning_modules.oracles.norm import NormOracle
from lightning_modules.oracles.synthetic import SyntheticOracle

# Overrides with which each experiment of this method runs in seconds (tests/contract).
SEARCHES = [
    "callbacks.oracle_violations={examples: 6, bisections: 1, omega: {steps: 2, restarts: 1}}",
    "callbacks.oracle_violations.attacks.pgd.steps=3",
    "callbacks.oracle_violations.paper.tau=2",
    "callbacks.oracle_violations.paper.attacks.pgd.steps=2",
]
SMALL = ["datamodule.batch_size=8", "trainer.precision=32-true", "lightning_module.steps=2", *SEARCHES]
TINY = {
    "oracle_synthetic": [*SMALL, "datamodule.train_size=60", "datamodule.test_size=40"],
    "oracle_digits": SMALL,
    "oracle_mnist": SMALL,
    "oracle_mnist_manifold": [*SMALL, "oracle@callbacks.oracle_violations.oracle=norm"],
    "oracle_cifar10": [*SMALL, "lightning_module.network.network={depth: 11, width: 2}"],
}


class TestEquations:
    def test_the_paper_s_arc_by_hand(self):
        """Four examples: fooled at 1, at 3, at 10, and never up to tau = 10: (1 + 3 + 10 + 11) / 4 = 6.25 (eq. 4.2)."""
        arc = float(paper_arc(torch.tensor([1, 3, 10, 11]), tau=10))
        assert arc == 6.25
        assert paper_arca(0.88, arc, tau=10) == pytest.approx(0.88 * 6.25 / 11)  # eq. 4.3

    def test_the_paper_s_arc_at_its_ends(self):
        assert float(paper_arc(torch.full((5,), 11), tau=10)) == 11
        assert paper_arca(1.0, 11.0, tau=10) == 1
        assert math.isnan(float(paper_arc(torch.zeros(0, dtype=torch.int64), tau=10)))

    def test_the_distance_is_not_squared(self):
        features, others = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        assert feature_distance(features, others).tolist() == [5.0, 0.0]
        same = torch.ones(1, 3, requires_grad=True)
        (gradient,) = torch.autograd.grad(feature_distance(same, torch.ones(1, 3)).sum(), same)
        assert gradient.tolist() == [[0.0, 0.0, 0.0]]

    def test_the_modulus_is_of_the_pairs_that_are_near(self):
        distances, of_oracle = torch.tensor([5.0, 1.0, 2.0]), torch.tensor([3.0, 0.0, 1.0])
        assert [float(modulus(distances, of_oracle, it)) for it in (0.0, 0.5, 1.0, 3.0)] == [1.0, 1.0, 2.0, 5.0]

    def test_stability_is_the_divergence_from_the_clean_decision(self):
        """KL((1/2, 1/2) || (3/4, 1/4)) = log 2 - log(3) / 2, by hand."""
        clean, noisy = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
        assert float(stability_loss(clean, noisy)) == pytest.approx(math.log(2) - math.log(3) / 2, abs=1e-6)
        assert float(stability_loss(noisy, noisy)) == pytest.approx(0, abs=1e-7)

    def test_of_linear_features_the_ascent_finds_the_farthest_neighbour(self):
        """||A d|| over ||d|| <= delta is delta times the largest singular value."""
        matrix = torch.tensor([[3.0, 0.0], [0.0, 0.3]], dtype=torch.float64)
        points = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        oracle, delta = NormOracle("l2", box=None), 0.5
        examples = oracle.reachable(Examples(points, torch.zeros(5).long(), torch.arange(5), None), delta)
        start = oracle.neighbours(points, delta, oracle.draw((5, 2), torch.Generator().manual_seed(1)).double())
        moved, distance = start, torch.zeros(5)
        for _ in range(3):  # each goes on where the former has ended
            moved, distance = ascend_distance(
                lambda x: x @ matrix, oracle.see, examples, "l2", torch.full((5,), delta).double(), 100, moved
            )
        torch.testing.assert_close(distance, torch.full((5,), 1.5).double(), rtol=1e-3, atol=0)
        torch.testing.assert_close(oracle.distance(moved, points), torch.full((5,), delta).double())


class TestLayers:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def test_features_are_what_a_layer_puts_out(self):
        inputs = torch.randn(5, 3)
        features, logits = features_and_logits(self.network, layer_named(self.network, "1", "layer"), inputs)
        torch.testing.assert_close(features, self.network[:2](inputs))
        torch.testing.assert_close(logits, self.network(inputs))
        at_the_end, logits = features_and_logits(self.network, None, inputs)
        assert at_the_end is logits
        assert not any(it._forward_hooks for it in self.network)

    def test_one_that_is_not_there(self):
        with pytest.raises(
            UserError, match=r"lightning_module.layer: Sequential has no layer '11'; did you mean '1'\?"
        ):
            layer_named(self.network, "11", "lightning_module.layer")

    def test_a_list_of_layers_puts_out_nothing(self):
        listed = nn.Module()
        listed.layers = nn.ModuleList([nn.Linear(2, 2)])
        with pytest.raises(UserError, match=r"has no layer 'layers'; did you mean 'layers.0'\?"):
            layer_named(listed, "layers", "layer")


# --- training ---------------------------------------------------------------------------------------------------------

POINTS = ["experiment=oracle_synthetic", "datamodule.train_size=2000", "datamodule.test_size=200", "trainer=cpu",
          "logger=none", "callbacks=[classification]", "~callbacks.oracle_violations", "paper.metric=null", "trainer.log_every_n_steps=5",
          "trainer.precision=32-true"]  # fmt: skip
TRAININGS = ["erm", "siamese", "worst", "stability", "pgd", "mask"]


def trained(tmp_path, *overrides: str, steps: int = 10) -> Any:
    run = build(compose_job("train", [*POINTS, f"trainer.max_steps={steps}", *overrides], str(tmp_path)))
    run.trainer.fit(run.module, run.datamodule)
    return run


def weights(run: Any) -> torch.Tensor:
    return torch.cat([it.detach().flatten() for it in run.module.network.parameters()])


def test_an_iteration_of_siamese_training_is_that_of_its_loss(tmp_path):
    """L1 + alpha D, written out with the same neighbours, from the same weights and batch."""
    overrides = [*POINTS, "trainer.max_steps=1", "lightning_module.training=siamese", "lightning_module.alpha=0.7",
                 "lightning_module.layer=layers.1"]  # fmt: skip
    run = build(compose_job("train", overrides, str(tmp_path)))
    run.datamodule.prepare_data()
    run.datamodule.setup("fit")
    batch = next(iter(run.datamodule.train_dataloader()))
    network = build(compose_job("train", overrides, str(tmp_path))).module.network
    network.load_state_dict(run.module.network.state_dict())
    run.trainer.fit(run.module, run.datamodule)
    drawn = run.module.host_inputs(batch, 0)["drawn"]
    x, moved = batch["point"], torch.cat([batch["point"][:, :4], drawn[:, 4:]], dim=1)
    apart = (network.layers[:2](x) - network.layers[:2](moved)).norm(dim=1).mean()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    (cross_entropy(network(x), batch["label"]) + 0.7 * apart).backward()
    optimizer.step()
    expected = torch.cat([it.detach().flatten() for it in network.parameters()])
    torch.testing.assert_close(weights(run), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", TRAININGS)
def test_each_training_moves_the_net_its_own_way_and_logs_what_it_declares(tmp_path, training):
    run = trained(tmp_path, f"lightning_module.training={training}")
    logged = {it for it in run.trainer.callback_metrics if it.startswith("train/") and "error" not in it}
    assert set(run.module.metrics("train")) <= logged
    assert (training == "erm") == torch.equal(weights(run), weights(trained(tmp_path)))


@pytest.mark.parametrize("training", ["siamese", "worst", "stability"])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, training):
    given = [f"lightning_module.training={training}", "datamodule.batch_size=250", "callbacks=[classification,checkpoint]",
             "callbacks.checkpoint.every_n_train_steps=5", "lightning_module.steps=2"]  # fmt: skip
    whole = trained(tmp_path / "whole", *given, steps=12)
    trained(tmp_path / "part", *given, steps=5)
    run = build(compose_job("train", [*POINTS, "trainer.max_steps=12", *given], str(tmp_path / "rest")))
    run.trainer.fit(run.module, run.datamodule, ckpt_path=tmp_path / "part/checkpoints/last.ckpt", weights_only=True)
    assert run.trainer.global_step == 12
    assert torch.equal(weights(whole), weights(run))


def test_alone_the_labels_teach_nothing(tmp_path):
    """The layer behind the features does not move."""
    given = ["lightning_module.training=siamese", "lightning_module.alone=true", "lightning_module.layer=layers.1"]
    begun = build(compose_job("train", POINTS, str(tmp_path)))
    torch.save(begun.module.state_dict(), tmp_path / "weights.pt")
    run = trained(tmp_path, *given, f"init_from={tmp_path}/weights.pt")
    torch.testing.assert_close(run.module.network.layers[2].weight, begun.module.network.layers[2].weight)
    assert not torch.equal(run.module.network.layers[0].weight, begun.module.network.layers[0].weight)


@pytest.mark.parametrize("training", ["siamese", "worst"])
@pytest.mark.parametrize(
    ("oracle", "beside"), [("invariance", []), ("norm", ["lightning_module.delta=0.5"])], ids=["invariance", "norm"]
)
def test_the_oracles_of_images_train(tmp_path, training, oracle, beside):
    given = ["experiment=oracle_digits", *TINY["oracle_digits"], "callbacks=[classification]", "trainer=cpu", "logger=none",
             "~callbacks.oracle_violations", f"oracle@lightning_module.oracle={oracle}", "trainer.max_steps=3", "trainer.log_every_n_steps=1",
             f"lightning_module.training={training}", "lightning_module.norm=linf", *beside]  # fmt: skip
    given = [it for it in given if not it.startswith("callbacks.oracle_violations")]
    run = build(compose_job("train", given, str(tmp_path)))
    before = weights(run)
    run.trainer.fit(run.module, run.datamodule)
    assert not torch.equal(before, weights(run))
    assert float(run.trainer.callback_metrics["train/feature_distance"]) > 0


def test_what_is_masked_changes_no_logit(tmp_path):
    run = trained(tmp_path, "lightning_module.training=mask")
    points = torch.randn(6, 64)
    moved = SyntheticOracle(4, 60).neighbours(points, 0.0, torch.randn(6, 64))
    assert not torch.equal(points, moved)
    assert torch.equal(run.module.class_logits(points), run.module.class_logits(moved))


class TestWrongWords:
    @pytest.mark.parametrize(
        ("override", "sentence"),
        [
            ("lightning_module.training=siames", "lightning_module.training is 'siames', which is not one of erm"),
            ("lightning_module.alpha=-1", "lightning_module.alpha is -1: give a number above 0"),
            ("lightning_module.delta=-0.5", "lightning_module.delta is -0.5: give a distance, 0 or more"),
            ("lightning_module.budget=0", "lightning_module.budget is 0: give a number above 0"),
            ("lightning_module.steps=0", "lightning_module.steps is 0"),
            ("lightning_module.noise=-1", "lightning_module.noise is -1"),
            ("lightning_module.layer=layer.1", r"SmoothPerceptron has no layer 'layer.1'; did you mean 'layers.1'\?"),
            ("lightning_module.alone=true", "alone leaves training=erm nothing to learn from"),
            ("lightning_module.oracle.necessary=5", "SyntheticOracle knows points of 65 coordinates, and the network reads 64"),
            ("lightning_module.oracle.unnecessary=0", "unnecessary of SyntheticOracle is 0"),
            ("lightning_module.oracle=null", "training=siamese needs lightning_module.oracle"),
            ("lightning_module.oracle={_target_: lightning_modules.oracles.norm.NormOracle, norm: l2, box: null}",
             "delta is 0, where NormOracle has no neighbours"),
            ("datamodule.leak=-1", "datamodule.leak is -1"),
            ("datamodule.unnecessary=10", "points of 64 coordinates, but datamodule features gives 14"),
        ],
    )  # fmt: skip
    def test_each_gets_a_sentence(self, override, sentence, tmp_path):
        oracle = "training=siamese" if "oracle" in override else "training=erm"
        given = [*POINTS, f"lightning_module.{oracle}", *(
            ["~lightning_module.oracle", f"+{override}"] if "oracle={" in override else [override]
        )]  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            config = compose_job("train", given, str(tmp_path))
            check_config(config, TrainConfig)
            build(config)

    def test_alone_asks_for_a_net_that_is_trained(self, tmp_path):
        given = [*POINTS, "lightning_module.training=siamese", "lightning_module.alone=true"]
        with pytest.raises(UserError, match="set init_from to a finished run, or alone to false"):
            build(compose_job("train", given, str(tmp_path)))

    def test_a_mask_needs_to_know_what_is_not_seen(self, tmp_path):
        given = [*POINTS, "lightning_module.training=mask", "~lightning_module.oracle",
                 "+lightning_module.oracle={_target_: lightning_modules.oracles.norm.NormOracle, norm: l2, box: null}"]  # fmt: skip
        with pytest.raises(UserError, match="mask needs an oracle that knows what it cannot see"):
            build(compose_job("train", given, str(tmp_path)))
