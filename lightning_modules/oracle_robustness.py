"""Robustness against an oracle (Wang, Gao & Qi 2016, arXiv:1612.00334): trainings that should make a net see what the
oracle sees, and no more.

    python train.py experiment=oracle_synthetic        # points, seconds on a CPU
    python train.py experiment=oracle_synthetic lightning_module.training=siamese
    python train.py -m sweep=oracle_training

An adversarial example is an input whose label changes although the oracle's does not. A net f1 = c1 o g1 has none where
what is near for the oracle is near for g1 (eq. 3.3), which one feature suffices to break that the oracle does not see.
Whether it holds is for ``callbacks/oracle_violations.py`` to look at, which finds violations and proves no absence.
What is reached and where it departs from the paper: docs/methods/oracle_robustness.md.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from foundation.errors import UserError
from foundation.evaluation import in_mode
from foundation.metrics import Directions
from foundation.protocols import ClassifiesImages, ClassifiesPoints
from foundation.randomness import keyed_generator
from lightning_modules.across_ranks import share
from lightning_modules.attacks.gradient import Examples, ProjectedGradient, uphill, within
from lightning_modules.attacks.norms import Norm, spread
from lightning_modules.classifier import Classifier
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.precision import at_least_single
from lightning_modules.optimized import Batch
from lightning_modules.oracles.layers import features_and_logits, layer_named
from lightning_modules.oracles.oracle import Oracle
from lightning_modules.turns import Told

FeaturesOf = Callable[[Tensor], Tensor]
"""Inputs [B, ...] -> features [B, F]."""
Training = Literal["erm", "siamese", "worst", "stability", "pgd", "mask"]
ASKS_AN_ORACLE = ("siamese", "worst", "mask")


def feature_distance(features: Tensor, others: Tensor) -> Tensor:
    """d1(x, x') = ||g1(x) - g1(x')||_2, not squared, as in the paper's Siamese loss. Both: [B, F]; result: [B]."""
    return (features - others).flatten(1).norm(dim=1)


def modulus(distances: Tensor, oracle_distances: Tensor, delta: float) -> Tensor:
    """omega(delta) = max of d1 over pairs with d2 <= delta; eq. 3.3 asks that it goes to 0 with delta. Both: [N].

    Of the pairs that were found: a lower bound. omega(0) > 0 proves that g1 has a feature that the oracle lacks.
    """
    near = oracle_distances <= delta
    return torch.where(near, distances, 0.0).amax() if len(distances) else distances.new_zeros(())


def paper_arc(first: Tensor, tau: int) -> Tensor:
    """ARC_inf = sum over i = 1..tau of i P(||x - x'||_inf = i) + (tau + 1) P(none within tau) (eq. 4.2).

    first: [N] int64, in steps of 1/255 the smallest i at which x' is of another class, tau + 1 where none is.
    """
    return first.double().mean() if len(first) else first.new_full((), torch.nan, dtype=torch.float64)


def paper_arca(accuracy: float, arc: float, tau: int) -> float:
    """ARCA = accuracy ARC_inf / (tau + 1), in [0, 1] (eq. 4.3)."""
    return accuracy * arc / (tau + 1)


def stability_loss(logits: Tensor, noisy: Tensor) -> Tensor:
    """KL(f(x) || f(x + noise)) in nats (Zheng et al. 2016, arXiv:1604.04326, eq. 7), [B]. Both: [B, K]."""
    return kl_div(log_softmax(noisy, 1), log_softmax(logits, 1), reduction="none", log_target=True).sum(1)


def ascend_distance(
    features_of: FeaturesOf, see: FeaturesOf, examples: Examples, norm: Norm, budget: Tensor, steps: int, start: Tensor
) -> tuple[Tensor, Tensor]:
    """The farthest for the features, and how far, that ``steps`` gradients find within reach of the examples.

    features_of: of inputs; see: makes inputs of what moves; start: [B, ...], where d1 is above 0 and so has a gradient.
    """
    with torch.no_grad():
        features = features_of(see(examples.images))
    moved = within(examples, start, norm, budget)
    best, farthest = moved, torch.full_like(budget, -1.0)
    for step in range(steps + 1):
        with torch.enable_grad():
            moved = moved.detach().requires_grad_(True)
            distance = feature_distance(features_of(see(moved)), features)
            (gradient,) = torch.autograd.grad(distance.sum(), moved)
        moved, distance = moved.detach(), distance.detach().to(farthest.dtype)
        farther = distance > farthest
        best, farthest = torch.where(spread(farther, moved), moved, best), torch.maximum(distance, farthest)
        if step < steps:
            ahead = spread(2.5 / steps * budget, moved) * uphill(examples, gradient.to(moved.dtype), norm)
            moved = within(examples, moved + ahead, norm, budget)
    return best, farthest


class OracleRobustness(Classifier):
    """A classifier of images or of points, trained on labels and on what an oracle cannot see.

    Args:
        network: inputs -> logits [B, num_classes]; has ``image_shape`` (then inputs are ``image`` [B, C, H, W] in
            [0, 1], and it owns their normalisation) or ``point_size`` (``point`` [B, size]).
        training: ``erm``, the labels alone; ``siamese``, the paper's: L1 + alpha D(g1(x), g1(x')), x' a random
            neighbour for the oracle; ``worst``, the same with the neighbour that an ascent on D finds; ``stability``,
            Zheng et al.'s: L1 + alpha KL(f(x) || f(x + noise)); ``pgd``, on the inputs within ``budget`` whose loss is
            worst; ``mask``, with the coordinates that the oracle cannot see set to 0, now and ever after.
        oracle: of ``siamese``, ``worst`` and ``mask``.
        delta: how far a neighbour is for the oracle, at most: the paper's p where it is a norm.
        alpha: the weight of what is beside L1.
        layer: where g1 ends, by the module's path in ``network``; None: at the logits.
        alone: of ``siamese`` and ``worst``: D without L1, on a net that is trained already (``init_from``).
        norm, budget: of ``pgd``; also of ``worst`` how far points move beside d2 <= delta, where the oracle's distance
            is not a norm.
        noise: of ``stability``, the standard deviation of each coordinate's.
        steps: gradients of ``worst`` and ``pgd``.
        classifier: see ``Classifier``.
    """

    mask: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        training: Training = "erm",
        oracle: Oracle | None = None,
        delta: float = 0.0,
        alpha: float = 1.0,
        layer: str | None = None,
        alone: bool = False,
        norm: Norm = "l2",
        budget: float = 0.5,
        noise: float = 0.1,
        steps: int = 10,
        **classifier: Any,
    ) -> None:
        super().__init__(network, **classifier)
        if hasattr(network, "image_shape"):
            self.image_shape: tuple[int, ...] = tuple(network.image_shape)  # pyright: ignore
            self.input, self.box, self.input_shape = "image", (0.0, 1.0), self.image_shape
        else:
            size: Any = network.point_size
            self.point_size: int | None = size
            self.input, self.box, self.input_shape = "point", None, (int(size),)
        self.trained_on, self.oracle, self.delta, self.alpha = training, oracle, delta, alpha
        self.norm: Norm = norm
        self.alone, self.limit, self.noise, self.steps = alone, budget, noise, steps
        self.layer_path = layer
        self.needs_find_unused_parameters = alone and layer is not None  # what lies behind the layer
        self.layers_part = [layer_named(network, layer, "lightning_module.layer")]  # in a list: not a part twice
        self._check()
        keep = torch.ones(self.input_shape)
        if training == "mask":
            assert oracle is not None
            assert oracle.null_dims is not None
            keep.view(-1)[oracle.null_dims] = 0
        self.register_buffer("mask", keep, persistent=False)

    def _check(self) -> None:
        key = "lightning_module"
        positive = {"steps": self.steps, "budget": self.limit, "noise": self.noise, "alpha": self.alpha}
        for name, value in positive.items():
            if not 0 < value < float("inf"):
                raise UserError(f"{key}.{name} is {value}: give a number above 0.")
        if not 0 <= self.delta < float("inf"):
            raise UserError(f"{key}.delta is {self.delta}: give a distance, 0 or more.")
        if self.layer_path is not None and self.compile_mode is not None:
            raise UserError(f"{key}.layer is not read where the network is compiled: set {key}.compile_mode=null.")
        if self.alone and self.trained_on not in ("siamese", "worst"):
            raise UserError(f"{key}.alone leaves training={self.trained_on} nothing to learn from: set it to false.")
        if self.trained_on in ASKS_AN_ORACLE:
            self._check_oracle(key)

    def _check_oracle(self, key: str) -> None:
        oracle = self.oracle
        if oracle is None:
            raise UserError(
                f"{key}.training={self.trained_on} needs {key}.oracle: name one of lightning_modules/oracles."
            )
        if reason := oracle.refusal(self.input_shape):
            raise UserError(f"{key}.oracle: {reason}.")
        if self.trained_on == "mask" and (oracle.null_dims is None or oracle.own_points):
            raise UserError(
                f"{key}.training=mask needs an oracle that knows what it cannot see, which {type(oracle).__name__} "
                "does not: choose another training."
            )
        if self.trained_on != "mask" and self.delta == 0 and not oracle.pseudometric:
            raise UserError(
                f"{key}.delta is 0, where {type(oracle).__name__} has no neighbours: give a distance above 0."
            )

    def class_logits(self, inputs: Tensor) -> Tensor:
        """[B, ...] -> [B, num_classes] float32 (or double)."""
        if self.trained_on == "mask":
            inputs = inputs * self.mask
        return at_least_single(self.network(inputs))

    forward = class_logits

    def logits(self, batch: Batch) -> Tensor:
        return self.class_logits(batch[self.input])

    def features(self, inputs: Tensor) -> Tensor:
        """g1, [B, F]."""
        return features_and_logits(self.class_logits, self.layers_part[0], inputs)[0]

    # --- training ----------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        if self.oracle is not None:
            self.oracle.to(self.device)

    def draws(self, iteration: int, size: int) -> Inputs:
        """What moves a batch: ``noise``, or what neighbours are made with."""
        shape, generator = (size, *self.input_shape), keyed_generator(self.seed, self.trained_on, iteration)
        if self.trained_on == "stability":
            return {"noise": self._of_rank(torch.randn(shape, generator=generator))}
        if self.trained_on in ("siamese", "worst"):
            assert self.oracle is not None
            if not self.oracle.own_points:
                return {"drawn": self._of_rank(self.oracle.draw(shape, generator))}
        return {}

    def host_inputs(self, batch: Batch, iteration: int) -> Inputs:
        """Beside the batch and its draws, points that are the oracle's: a network joins them, where that lies."""
        inputs = super().host_inputs(batch, iteration)
        if self.oracle is not None and self.oracle.own_points and self.trained_on in ("siamese", "worst"):
            size = len(batch["index"]) * self.trainer.world_size
            points = self.oracle.draw_points(torch.arange(iteration * size, (iteration + 1) * size))
            drawn = self.oracle.draw(points.shape, keyed_generator(self.seed, self.trained_on, iteration))
            inputs = inputs | {"points": self._of_rank(points), "drawn": self._of_rank(drawn)}
        return inputs

    def _of_rank(self, drawn: Tensor) -> Tensor:
        return share(self.trainer, drawn).to(self.dtype)  # pyright: ignore[reportArgumentType]

    def loss(self, inputs: Inputs) -> Told:
        x, label = inputs[self.input], inputs["label"]
        told: Told = {}
        if self.trained_on == "pgd":
            with in_mode(self.network, training=False):  # so that an example is moved as it would be alone
                x = self.moved_by_pgd(x, label, inputs["index"])
        if self.trained_on in ("siamese", "worst"):
            logits, beside = self.siamese_loss(inputs)
            told["feature_distance"] = beside
        elif self.trained_on == "stability":
            logits = self.class_logits(x)
            beside = stability_loss(logits, self.class_logits(x + self.noise * inputs["noise"])).mean()
            told["stability_nats"] = beside
        else:
            logits, beside = self.class_logits(x), None
        of_labels = cross_entropy(logits, label, label_smoothing=self.label_smoothing)
        loss = of_labels if beside is None else self.alpha * beside + (0 if self.alone else of_labels)
        return told | {"loss": loss, "index": inputs["index"], "logits": logits, "label": label}

    def siamese_loss(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Logits of the examples, and D between points and their neighbours for the oracle, on average."""
        assert self.oracle is not None
        x, oracle = inputs[self.input], self.oracle
        points = inputs["points"] if oracle.own_points else x
        if self.trained_on == "worst":
            with in_mode(self.network, training=False):
                near = self.worst_neighbours(points, inputs)
        else:
            near = oracle.see(oracle.neighbours(points, self.delta, inputs["drawn"]))
        features, logits = features_and_logits(self.class_logits, self.layers_part[0], x)
        if oracle.own_points:
            features = self.features(oracle.see(points))
        return logits, feature_distance(features, self.features(near)).mean()

    def worst_neighbours(self, points: Tensor, inputs: Inputs) -> Tensor:
        """The farthest that an ascent from a random one finds, as the classifier sees them."""
        assert self.oracle is not None
        box = None if self.oracle.own_points else self.box
        examples = self.oracle.reachable(Examples(points, inputs["label"], inputs["index"], box), self.delta)
        assert examples.reach is not None
        start = self.oracle.start(points, self.delta, inputs["drawn"])
        norm, limit = (self.norm, self.limit) if self.oracle.norm is None else (self.oracle.norm, self.delta)
        budget = torch.full((len(points),), limit, device=points.device, dtype=points.dtype)
        see = examples.reach.see
        farthest, _ = ascend_distance(self.features, see, examples, norm, budget, self.steps, start)
        with torch.no_grad():
            return see(farthest)

    def moved_by_pgd(self, x: Tensor, label: Tensor, index: Tensor) -> Tensor:
        attack = ProjectedGradient(self.norm, self.steps, 2.5 / self.steps, random_start=False, keep="last")
        budget = torch.full((len(x),), self.limit, device=x.device, dtype=x.dtype)
        return attack(self.class_logits, Examples(x, label, index, self.box), budget)

    def metrics(self, stage: str) -> Directions:
        beside = {"siamese": "feature_distance", "worst": "feature_distance", "stability": "stability_nats"}
        own: Directions = {}
        if stage == "train" and self.trained_on in beside:
            own = {f"train/{beside[self.trained_on]}": "min"}
        return {**super().metrics(stage), **own}

    # --- what callbacks ask ------------------------------------------------------------------------------------

    def refuses_to_begin(self, taken: set[str]) -> str | None:
        if not self.alone or taken:
            return None
        return (
            "lightning_module.alone leaves out the labels, so that a net that is not trained yet learns nothing: set "
            "init_from to a finished run, or alone to false."
        )

    def capabilities(self) -> set[type]:
        return {ClassifiesImages if self.input == "image" else ClassifiesPoints}
