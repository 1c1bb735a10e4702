"""Each oracle on points whose label and distance can be worked out; what an attack does stays where it may go."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.protocols import ClassifiesImages, MovesLatents, serves
from launch.command_line import compose_job
from launch.runs import build
from lightning_modules.attacks.auto_pgd import AutoPGD
from lightning_modules.attacks.gradient import Examples, FastGradient, ProjectedGradient
from lightning_modules.attacks.search import search
from lightning_modules.oracles.feature import FeatureOracle
from lightning_modules.oracles.invariance import InvarianceOracle
from lightning_modules.oracles.manifold import ManifoldOracle
from lightning_modules.oracles.norm import NormOracle
from lightning_modules.oracles.oracle import taken_for
from lightning_modules.oracles.synthetic import SyntheticOracle
from tests.lightning_modules import test_draw, test_improved_gan, test_infogan

SEEDED = torch.Generator().manual_seed(0)


def points(count: int = 20, size: int = 6) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def examples_of(inputs: Tensor, labels: Tensor | None = None, box: Any = None) -> Examples:
    count = len(inputs)
    return Examples(inputs, torch.zeros(count).long() if labels is None else labels, torch.arange(count), box)


class TestSynthetic:
    oracle = SyntheticOracle(2, 4)

    def test_label_and_distance_by_hand(self):
        x = torch.tensor([[1.0, -0.5, 9.0, 9.0, 9.0, 9.0], [-1.0, 0.5, 0.0, 0.0, 0.0, 0.0]])
        moved = x + torch.tensor([3.0, 4.0, 7.0, 7.0, 7.0, 7.0])
        assert self.oracle.label(x, torch.zeros(2)).tolist() == [1, 0]
        assert self.oracle.distance(moved, x).tolist() == [5.0, 5.0]
        assert self.oracle.null_dims is not None
        assert self.oracle.null_dims.tolist() == [2, 3, 4, 5]

    @pytest.mark.parametrize("delta", [0.0, 0.3, 5.0])
    def test_neighbours_and_what_is_projected_are_near_and_of_the_label(self, delta):
        x = points()
        drawn = self.oracle.draw(x.shape, torch.Generator().manual_seed(1)).double()
        for moved in (self.oracle.neighbours(x, delta, drawn), self.oracle.project(x + 3 * drawn, x, delta)):
            assert float(self.oracle.distance(moved, x).max()) <= delta * (1 + 1e-9)
            assert torch.equal(self.oracle.label(moved, x), self.oracle.label(x, x))
            assert not torch.equal(moved[:, 2:], x[:, 2:])
        moved = x + 3 * drawn
        assert bool(((self.oracle.project(moved, x, delta) - x).norm(dim=1) <= (moved - x).norm(dim=1) + 1e-9).all())

    def test_what_is_projected_is_no_farther_in_the_cube_either(self):
        """Back over the plane along its diagonal, (-1, -1, -1, 1) would become (-0.5, -0.5, -0.5, 1.5)."""
        x, moved = torch.zeros(1, 5, dtype=torch.float64), torch.tensor([[-1.0, -1, -1, 1, 0]], dtype=torch.float64)
        x[0, 0], oracle = 1e-9, SyntheticOracle(4, 1)
        assert float((oracle.project(x + moved, x, 9.0) - x).abs().max()) <= 1
        many = torch.randn(2000, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        ahead = 2 * torch.rand(2000, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 1
        after = (oracle.project(many + ahead, many, 9.0) - many).abs().amax(1)
        assert bool((after <= ahead.abs().amax(1) * (1 + 1e-9)).all())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_the_label_holds_where_rounding_would_decide_it(self, dtype):
        generator = torch.Generator().manual_seed(4)
        x = torch.randn(2000, 6, generator=generator)
        x[:1000, 1] = 1e-6 * torch.randn(1000, generator=generator) - x[:1000, 0]  # close to the boundary, or on it
        x = x.to(dtype)
        moved = self.oracle.project(x + 3 * torch.randn(2000, 6, generator=generator).to(dtype), x, 2.0)
        assert torch.equal(self.oracle.label(moved, x), self.oracle.label(x, x))

    def test_neighbours_fill_the_ball(self):
        x = torch.full((4000, 6), 10.0, dtype=torch.float64)
        moved = self.oracle.neighbours(x, 1.0, torch.randn(4000, 6, generator=SEEDED, dtype=torch.float64))
        radius = self.oracle.distance(moved, x)
        assert float((radius < 0.5).double().mean()) == pytest.approx(0.25, abs=0.03)  # of a disk's area

    @pytest.mark.parametrize("attack", [FastGradient("l2"), FastGradient("linf"), ProjectedGradient("l2", 5, restarts=2),
                                        ProjectedGradient("linf", 5), AutoPGD("l2", 10)])  # fmt: skip
    def test_every_iterate_of_an_attack_is_of_the_oracle_s_label_and_within_its_distance(self, attack):
        """The oracle itself as the net: what it is asked about is all that an attack looks at."""
        x, asked = points(), []
        weights = torch.tensor([[1.0, 1.0, 1.0, -1.0, 0.5, 2.0]], dtype=torch.float64)

        def logits_of(it: Tensor) -> Tensor:
            asked.append(it.detach().clone())
            return torch.cat([torch.zeros(len(it), 1), it @ weights.T], dim=1)

        labels = self.oracle.label(x, x)
        for delta in (0.0, 0.5):
            found = search(attack, logits_of, self.oracle.reachable(examples_of(x, labels), delta), [0.5, 1.0, 2.0], 2)
            assert bool(found.wrong.any())
            assert torch.equal(self.oracle.label(found.images, labels), labels)
            assert float(self.oracle.distance(found.images, x).max()) <= delta * (1 + 1e-6)
            assert len(asked) > 3
            for it in torch.cat(asked):  # of which example it is, its unmoved self tells
                nearest = (x[:, :2] - it[:2]).norm(dim=1)
                assert bool(((nearest <= delta * (1 + 1e-6)) & (labels == int(it[:2].sum() > 0))).any())
            asked.clear()

    def test_a_net_that_is_the_oracle_has_no_violation_whatever_the_budget(self):
        x = points()
        labels = self.oracle.label(x, x)

        def oracle_s(it: Tensor) -> Tensor:
            return torch.stack([-it[:, :2].sum(1), it[:, :2].sum(1)], dim=1)

        for delta in (0.0, 1.0, 100.0):
            reach = self.oracle.reachable(examples_of(x, labels), delta)
            assert not search(ProjectedGradient("l2", 10), oracle_s, reach, [1.0, 1000.0]).wrong.any()

    def test_one_that_changes_the_label_within_its_reach_is_a_bug_that_is_told(self):
        class Wrong(SyntheticOracle):
            def project(self, moved: Tensor, points: Tensor, delta: float) -> Tensor:
                return moved

        x = points()
        labels = self.oracle.label(x, x)
        reach = Wrong(2, 4).reachable(examples_of(x, labels), 1.0)
        with pytest.raises(AssertionError, match="the oracle's label has changed"):
            search(FastGradient("l2"), lambda it: torch.stack([-it.sum(1), it.sum(1)], 1), reach, [50.0])


class TestNorm:
    @pytest.mark.parametrize("norm", ["l2", "linf"])
    def test_neighbours_are_pixels_within_the_ball(self, norm):
        oracle = NormOracle(norm)
        x = torch.rand(30, 1, 4, 4, generator=SEEDED)
        moved = oracle.neighbours(x, 0.4, oracle.draw(x.shape, torch.Generator().manual_seed(2)))
        assert float(oracle.distance(moved, x).max()) <= 0.4 + 1e-6
        assert 0 <= float(moved.min()) <= float(moved.max()) <= 1
        assert float(oracle.distance(oracle.project(x + 3, x, 0.4), x).max()) <= 0.4 + 1e-6

    def test_wrong_words(self):
        with pytest.raises(UserError, match="norm of NormOracle is 'linff'; did you mean 'linf'"):
            NormOracle("linff")  # type: ignore
        for box in ([], [0.5], [1.0, 0.0]):
            with pytest.raises(UserError, match="box of NormOracle is .*: give the least and the largest value"):
                NormOracle("l2", box)  # type: ignore
        assert "set its box to null" in str(NormOracle("l2").refusal((64,)))
        assert NormOracle("l2", box=None).refusal((64,)) is None


def test_a_raised_label_is_the_largest_and_keeps_the_gradient():
    logits = torch.tensor([[1.0, 5.0, 2.0]], requires_grad=True)
    raised = taken_for(torch.tensor([2]), logits)
    assert raised.argmax(1).tolist() == [2]
    (gradient,) = torch.autograd.grad(raised[0, 2] - raised[0, 1], logits)
    assert gradient.tolist() == [[0.0, -1.0, 1.0]]


class Proxy(nn.Module):
    """Sees the first pixel alone; of class 1 where it is above a half."""

    image_shape, num_classes, class_names = (1, 2, 2), 2, None

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 1, bias=False)
        self.first.weight.data = torch.tensor([[2.0, 0.0, 0.0, 0.0]])

    def capabilities(self):
        return {ClassifiesImages}

    def class_logits(self, images):
        seen = self.first(images.flatten(1))
        return torch.cat([1 - seen, seen - 1], dim=1)


class TestFeature:
    oracle = FeatureOracle(Proxy(), layer="first", radius=0.5)
    images = torch.rand(10, 1, 2, 2, generator=torch.Generator().manual_seed(3))

    def test_distance_and_label_are_the_proxy_s(self):
        moved = self.images + 0.1
        torch.testing.assert_close(self.oracle.distance(moved, self.images), torch.full((10,), 0.2))
        expected = (self.images[:, 0, 0, 0] > 0.5).long()
        assert torch.equal(self.oracle.label(self.images, torch.zeros(10)), expected)

    @pytest.mark.parametrize("delta", [0.0, 0.1])
    def test_what_is_projected_is_near_for_the_proxy_and_lies_on_the_way(self, delta):
        moved = self.images + torch.tensor([[[[0.4, 0.1], [0.2, -0.3]]]])
        back = self.oracle.project(moved, self.images, delta)
        assert float(self.oracle.distance(back, self.images).max()) <= delta + 1e-6
        share = ((back - self.images) / (moved - self.images)).flatten(1)
        torch.testing.assert_close(share, share[:, :1].expand(-1, 4), rtol=1e-3, atol=1e-3)
        assert float(share.min()) >= 0.98 * delta / 0.8

    def test_neighbours_are_near(self):
        drawn = self.oracle.draw((10, 1, 2, 2), torch.Generator().manual_seed(0))
        moved = self.oracle.neighbours(self.images, 0.2, drawn)
        assert float(self.oracle.distance(moved, self.images).max()) <= 0.2 + 1e-6
        assert not torch.equal(moved, self.images)

    def test_what_changes_the_proxy_s_label_does_not_count(self):
        """A net that sees what the proxy sees, with the same boundary: every change of one is a change of the other."""
        net, labels = Proxy(), self.oracle.label(self.images, torch.zeros(10))
        reach = self.oracle.reachable(examples_of(self.images, labels, (0.0, 1.0)), 10.0)
        assert not search(ProjectedGradient("l2", 10), net.class_logits, reach, [1.0]).wrong.any()

    def test_wrong_words(self):
        with pytest.raises(UserError, match="layer of FeatureOracle: Proxy has no layer 'frist'; did you mean 'first'"):
            FeatureOracle(Proxy(), layer="frist")
        with pytest.raises(UserError, match="radius of FeatureOracle is 0"):
            FeatureOracle(Proxy(), radius=0)
        with pytest.raises(UserError, match="needs a classifier of images or of points, which Linear is not"):
            FeatureOracle(nn.Linear(2, 2))
        assert "reads inputs of shape (1, 2, 2)" in str(self.oracle.refusal((1, 8, 8)))


class TestInvariance:
    images = torch.zeros(3, 1, 6, 6, dtype=torch.float64)
    images[:, 0, 2:4, 2:4] = 0.5

    def test_what_is_done_to_an_image_by_hand(self):
        oracle = InvarianceOracle(shift=2, dimming=0.2, ground=0.4)
        numbers = torch.tensor([[0.5, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.5]]).double()
        right_and_up, bright, on_grey = oracle.moved(self.images, numbers)
        expected = torch.zeros(6, 6, dtype=torch.float64)
        expected[0:2, 3:5] = 0.5  # one to the right, two up
        torch.testing.assert_close(right_and_up[0], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(bright[0], 1.2 * self.images[0, 0], rtol=0, atol=1e-6)
        torch.testing.assert_close(on_grey[0], self.images[0, 0] + 0.2 * (1 - self.images[0, 0]), rtol=0, atol=1e-6)
        assert torch.equal(oracle.moved(self.images, torch.zeros(3, 4).double()), self.images)

    def test_attacks_search_along_the_orbit(self):
        """A net that looks at one pixel is fooled by a shift of one and not by a tenth of it."""
        oracle = InvarianceOracle(shift=1, dimming=0, ground=0)
        labels = torch.zeros(3).long()

        def logits_of(images: Tensor) -> Tensor:
            pixel = images[:, 0, 2, 2]
            return torch.stack([pixel - 0.24, 0.24 - pixel], 1)

        reach = oracle.reachable(examples_of(self.images, labels, (0.0, 1.0)), 0.0)
        found = search(ProjectedGradient("linf", 10), logits_of, reach, [0.1, 1.0], bisections=10)
        assert found.wrong.tolist() == [[False] * 3, [True] * 3]
        assert float(found.smallest.min()) >= 1 - 0.48**0.5 - 1e-6  # 0.5 (1 - s)^2 = 0.24 along the diagonal
        assert bool((logits_of(reach.reach.see(found.images)).argmax(1) == 1).all())  # type: ignore

    @pytest.mark.parametrize("given", [{"shift": -1}, {"dimming": 1.0}, {"ground": -0.1}, {"shift": float("nan")}])
    def test_wrong_words(self, given):
        (key,) = given
        with pytest.raises(UserError, match=f"{key} of InvarianceOracle is"):
            InvarianceOracle(**given)
        with pytest.raises(UserError, match="lets images do nothing"):
            InvarianceOracle(0, 0, 0)
        assert "moves images" in str(InvarianceOracle().refusal((4,)))
        assert "8x28 by up to 8 pixels, out of sight" in str(InvarianceOracle(shift=8).refusal((1, 8, 28)))
        assert InvarianceOracle(shift=8).refusal((1, 9, 28)) is None


GENERATORS = {"infogan_digits": test_infogan, "improved_gan_digits": test_improved_gan, "draw_digits": test_draw}


def generator_of(experiment: str, folder: Any) -> Any:
    tiny = GENERATORS[experiment].TINY[experiment]
    config = compose_job("train", [f"experiment={experiment}", "trainer=cpu", "logger=none", *tiny], str(folder))
    return build(config).module.eval()


class OfSize(Proxy):
    image_shape = (1, 8, 8)

    def __init__(self):
        nn.Module.__init__(self)
        self.first = nn.Linear(64, 1)


@pytest.mark.parametrize("experiment", list(GENERATORS))
class TestManifold:
    def test_points_are_codes_and_what_is_seen_their_images(self, experiment, tmp_path):
        module = generator_of(experiment, tmp_path)
        assert serves(module, MovesLatents)
        torch.manual_seed(0)
        judge = None if experiment == "infogan_digits" else OfSize()
        oracle, index = ManifoldOracle(module, judge, second_judge=OfSize()), torch.arange(3, 9)
        codes = oracle.draw_points(index)
        assert torch.equal(codes[2:4], oracle.draw_points(index[2:4]))
        torch.testing.assert_close(oracle.see(codes), module.sample(index).clamp(0, 1), rtol=1e-5, atol=1e-5)
        drawn = oracle.draw(codes.shape, torch.Generator().manual_seed(0))
        moved = oracle.neighbours(codes, 0.7, drawn)
        assert 0 < float(oracle.distance(moved, codes).max()) <= 0.7 + 1e-5
        assert oracle.disagrees(moved, codes).shape == (6,)
        if judge is None:
            assert torch.equal(oracle.label(moved, index), oracle.label(codes, index))
            assert torch.equal(moved[:, ~oracle.free], codes[:, ~oracle.free])
        if oracle.box is not None:
            numbers = moved[:, oracle.free]
            assert oracle.box[0] <= float(numbers.min()) <= float(numbers.max()) <= oracle.box[1]

    def test_an_attack_moves_codes(self, experiment, tmp_path):
        oracle = ManifoldOracle(
            generator_of(experiment, tmp_path), None if experiment == "infogan_digits" else OfSize()
        )
        codes = oracle.draw_points(torch.arange(4))
        reach = oracle.reachable(examples_of(codes, torch.tensor([0, 1, 0, 1]), oracle.box), 1.0)
        moved = ProjectedGradient("l2", 3)(reach.seen_by(OfSize().class_logits), reach, torch.full((4,), 1.0))
        assert float(oracle.distance(moved, codes).max()) <= 1 + 1e-5
        assert float((moved - codes).norm(dim=1).max()) <= 1 + 1e-5


def test_what_is_no_generator_and_a_judge_that_is_none_get_a_sentence(tmp_path):
    infogan = generator_of("infogan_digits", tmp_path)
    with pytest.raises(UserError, match="generator of ManifoldOracle is Proxy, which makes no images of codes"):
        ManifoldOracle(Proxy())
    with pytest.raises(UserError, match="judge of ManifoldOracle is Linear, which is no classifier of images"):
        ManifoldOracle(infogan, nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"second_judge of ManifoldOracle reads images of \(1, 2, 2\)"):
        ManifoldOracle(infogan, second_judge=Proxy())
    with pytest.raises(UserError, match="judge of ManifoldOracle is null, and Draw has no category"):
        ManifoldOracle(generator_of("draw_digits", tmp_path / "draw"))
    judge = Proxy()
    judge.image_shape = (1, 8, 8)
    with pytest.raises(UserError, match="second_judge of ManifoldOracle is the judge itself"):
        ManifoldOracle(infogan, judge, copy.deepcopy(judge))
    assert r"makes images of (1, 8, 8)" in str(ManifoldOracle(infogan).refusal((1, 28, 28)))
