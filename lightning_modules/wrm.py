"""WRM: certifiable distributional robustness (Sinha, Namkoong, Volpi & Duchi 2018, arXiv:1710.10571).

    python train.py experiment=wrm_synthetic           # points of the plane, under a minute on two cores
    python train.py experiment=wrm_mnist trainer=gpu
    python train.py experiment=wrm_mnist lightning_module.training=erm

Each example is moved to where its loss is worst, at a price for how far: the penalty gamma c(z, z0). Trained on what
that finds, a net is robust to a shift of the distribution, and gamma rho + E[phi] bounds its loss within a Wasserstein
distance rho, where the penalised loss is concave. That depends on the net: ``test/concave_share`` and
``test/lzz_bound`` say what is known of it, and where it is not proved the bound is an estimate. The paper's baselines
differ in what they are trained on alone (``training``). What it reaches and where it departs from the paper:
docs/methods/wrm.md.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datamodules.splits import Table
from foundation.errors import UserError
from foundation.evaluation import in_mode
from foundation.metrics import Directions
from foundation.protocols import ClassifiesImages, ClassifiesPoints, HoldsTables, PenalizesTransport, said
from lightning_modules.attacks.gradient import Examples, FastGradient, IteratedFastGradient, ProjectedGradient
from lightning_modules.attacks.norms import Norm, near_in_linf, size, spread
from lightning_modules.classifier import Classifier
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.precision import at_least_single
from lightning_modules.networks.smooth import Chain, operator_norms
from lightning_modules.optimized import Batch
from lightning_modules.turns import Told

LossesOf = Callable[[Tensor], Tensor]
"""Inputs [B, ...] -> each example's loss, [B]."""
Training = Literal["wrm", "erm", "fgm", "ifgm", "pgd"]
MOVES_WITHIN_A_BUDGET = ("fgm", "ifgm", "pgd")


def transport_cost(moved: Tensor, inputs: Tensor, norm: Norm = "l2") -> Tensor:
    """c(z, z0) = ||x - x0||^2; labels never move. Both: [B, ...]; result: [B].

    In L2 it is 2-strongly convex, so that what the paper says of gamma > L holds here of 2 gamma > L.
    """
    return size(moved - inputs, norm).square()


def robust_surrogate(losses: Tensor, costs: Tensor, gamma: float | Tensor) -> Tensor:
    """phi_gamma = sup_z l(theta; z) - gamma c(z, z0) (eq. 2b), where ``losses`` and ``costs`` are of the maximiser.

    Of any other z it is a lower bound. All: [B].
    """
    return losses - gamma * costs


def certificate(rho: float, gamma: float, mean_surrogate: float) -> float:
    """gamma rho + E[phi_gamma], the bound of theorem 3 on the worst expected loss within a Wasserstein distance rho,
    without its term for the sample's size."""
    return gamma * rho + mean_surrogate


def input_gradient(losses_of: LossesOf, inputs: Tensor) -> Tensor:
    """The gradient of each example's loss by its own input, [B, ...]; parameters get none."""
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(losses_of(inputs).sum(), inputs)
    return gradient.to(inputs.dtype)


def step_shares(steps: int) -> list[float]:
    """By 1 / (2 gamma), as in the released code: 1, and then 1 by the root of 2, 3, ..., ``steps`` of these."""
    return [1.0, *(1 / math.sqrt(number + 2) for number in range(steps))]


def ascend(
    losses_of: LossesOf,
    inputs: Tensor,
    gamma: float | Tensor,
    steps: int = 15,
    norm: Norm = "l2",
    start: Tensor | None = None,
) -> Tensor:
    """The inner maximisation of algorithm 1: z -> l(z) - gamma c(z, z0) rises by steps + 1 gradients. [B, ...].

    In L2 a step of size a is z + a (grad l - 2 gamma (z - z0)); of the L-infinity cost, which has no gradient where
    several coordinates are largest, it is proximal. An example's z does not depend on its batch.
    """
    moved = inputs if start is None else start
    for share in step_shares(steps):
        uphill = share / (2 * gamma) * input_gradient(losses_of, moved)
        away = moved - inputs
        further = (1 - share) * away + uphill if norm == "l2" else near_in_linf(away + uphill, share)
        moved = inputs + further
    return moved


def largest_curvature(losses_of: LossesOf, inputs: Tensor, start: Tensor, iterations: int = 20) -> Tensor:
    """The largest eigenvalue of each example's Hessian by its own input, [B], by Lanczos' method from ``start``.

    It comes from below: of the directions that ``iterations`` products with the Hessian reach, the steepest.
    """
    reached, products = [unit(start)], []
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(losses_of(inputs).sum(), inputs, create_graph=True)
        if not gradient.requires_grad:  # a loss that bends nowhere
            return torch.zeros(len(inputs)).to(inputs)
        for _ in range(min(iterations, inputs[0].numel() if len(inputs) else 1)):
            along = (gradient * reached[-1]).sum()
            (product,) = torch.autograd.grad(along, inputs, retain_graph=True, materialize_grads=True)
            products.append(product)
            reached.append(unit(without(product, reached)))
    basis, images = torch.stack(reached[:-1], 1).flatten(2), torch.stack(products, 1).flatten(2)
    within = basis.double() @ images.double().mT  # the Hessian among these directions, [B, iterations, iterations]
    empty = basis.double().square().sum(2) < 0.5  # nothing was left to go along
    within = torch.where(empty.unsqueeze(1) | empty.unsqueeze(2), 0.0, (within + within.mT) / 2)
    lowest = within[:, :1, 0]  # a value that is reached: rows of zeros would add an eigenvalue of 0
    within = within + torch.diag_embed(torch.where(empty, lowest, 0.0))
    return torch.linalg.eigvalsh(within).amax(1).to(inputs.dtype)


def without(vector: Tensor, directions: list[Tensor]) -> Tensor:
    """What is left of ``vector`` besides orthogonal ``directions``, all [B, ...]; 0 where that is rounding alone."""
    left = vector
    for _ in range(2):  # the second time takes away what rounding has left
        for it in directions:
            left = left - spread((left * it).flatten(1).sum(1), left) * it
    small = size(left, "l2") <= 1e3 * torch.finfo(vector.dtype).eps * size(vector, "l2")
    return torch.where(spread(small, left), 0.0, left)


def unit(direction: Tensor) -> Tensor:
    return direction / spread(size(direction, "l2"), direction).clamp_min(1e-12)


def curvature_bound(operator_norms: list[float], slopes: list[float], curvatures: list[float]) -> float:
    """An upper bound on L_zz of the cross-entropy of a chain of layers (proposition 5 and corollary 4 of the paper).

    Of each layer the norm of its linear map, and of the activation behind it how steep (L_0) and how curved (L_1) it
    may be; 1 and 0 behind the last. alpha is the Lipschitz constant up to a layer, beta that of its Jacobian.
    """
    alpha, beta = 1.0, 0.0
    for norm, slope, curvature in zip(operator_norms, slopes, curvatures, strict=True):
        alpha *= slope * norm
        beta = slope * norm * beta + curvature / slope**2 * alpha**2
    return math.sqrt(2) * beta + alpha**2


@dataclass(frozen=True)
class Gamma:
    """The price of transport: a number, or a share of E||X||_2 of the training data."""

    absolute: float | None = None
    relative: float | None = None

    def __post_init__(self) -> None:
        if (self.absolute is None) == (self.relative is None):
            raise UserError("lightning_module.gamma takes one of absolute and relative: set the other to null.")
        value = self.absolute if self.relative is None else self.relative
        if value is None or not 0 < value < math.inf:
            raise UserError(f"lightning_module.gamma is {value}: give a number above 0.")


@dataclass(frozen=True)
class Budget:
    """How far fgm, ifgm and pgd may move an example: a norm, or a squared one such as a WRM run's rho_hat."""

    absolute: float | None = None
    rho: float | None = None
    run: str | None = None
    """Where ``rho`` was taken from; changes nothing."""

    def norm(self) -> float | None:
        """None where neither is given."""
        return math.sqrt(self.rho) if self.rho is not None else self.absolute

    def __post_init__(self) -> None:
        for key, value in {"absolute": self.absolute, "rho": self.rho}.items():
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"lightning_module.budget.{key} is {value}: give a number above 0.")
        if self.absolute is not None and self.rho is not None:
            raise UserError("lightning_module.budget takes one of absolute and rho: set the other to null.")


class WRM(Classifier):
    """min over theta of E[phi_gamma(theta; Z)] (eq. 2), for a classifier of images or of points.

    Args:
        network: inputs -> logits [B, num_classes]; has ``image_shape`` (then inputs are ``image`` [B, C, H, W] in
            [0, 1], and it owns their normalisation) or ``point_size`` (``point`` [B, size]).
        gamma: ``absolute`` or ``relative``.
        cost: of transport, the squared norm of this kind.
        steps: of the ascent behind its first; each costs a gradient.
        training: on what: ``wrm``, or the paper's baselines ``erm`` (the data as they are), ``fgm``, ``ifgm`` and
            ``pgd``, which move an example as far as ``budget`` lets them. The penalty is measured in any case.
        budget: ``absolute`` or ``rho``; of the norm of ``cost``.
        classifier: see ``Classifier``.
    """

    mean_norm: Tensor
    """E||X||_2 of the training data; not a number before a fit has computed it."""

    def __init__(
        self,
        network: nn.Module,
        *,
        gamma: Gamma | Mapping[str, Any],
        cost: Norm = "l2",
        steps: int = 15,
        training: Training = "wrm",
        budget: Budget | Mapping[str, Any] | None = None,
        **classifier: Any,
    ) -> None:
        super().__init__(network, **classifier)
        self.price = gamma if isinstance(gamma, Gamma) else Gamma(**gamma)
        self.budget = budget if isinstance(budget, Budget) else Budget(**(budget or {}))
        if steps < 0:
            raise UserError(f"lightning_module.steps is {steps}: give 0 or more.")
        if training in MOVES_WITHIN_A_BUDGET and self.budget.norm() is None:
            raise UserError(
                f"lightning_module.training={training} needs lightning_module.budget: set its absolute, or its rho to "
                f"what a run of training=wrm has reached (test/rho_hat), which +lightning_module/training={training} "
                "lightning_module.budget.run=<folder> looks up."
            )
        self.cost: Norm = cost
        self.steps, self.trained_on = steps, training
        if hasattr(network, "image_shape"):
            self.image_shape: tuple[int, ...] = tuple(network.image_shape)  # pyright: ignore
            self.input, self.box = "image", (0.0, 1.0)
        else:
            self.input, self.box = "point", None
            self.point_size: int | None = network.point_size  # pyright: ignore
        self.register_buffer("mean_norm", torch.tensor(math.nan))
        self.mean_norm_is_known = False

    @property
    def gamma(self) -> float | Tensor:
        """The price of transport, above 0."""
        return self.price.relative * self.mean_norm if self.price.absolute is None else self.price.absolute  # pyright: ignore

    def class_logits(self, inputs: Tensor) -> Tensor:
        """[B, ...] -> [B, num_classes] float32 (or double)."""
        return at_least_single(self.network(inputs))

    forward = class_logits

    def logits(self, batch: Batch) -> Tensor:
        return self.class_logits(batch[self.input])

    # --- training ----------------------------------------------------------------------------------------------

    def loss(self, inputs: Inputs) -> Told:
        """Of the moved examples alone, as in the released code; phi and rho_hat are of them, too."""
        x, label = inputs[self.input], inputs["label"]
        with in_mode(self.network, training=False):  # so that an example is moved as it would be alone
            moved = self.moved_for_training(x, label, inputs["index"])
        logits = self.class_logits(moved)
        losses = self.losses(logits, label)
        costs = transport_cost(moved, x, self.cost)
        phi = robust_surrogate(losses, costs, self.gamma).mean()
        told = {"loss": losses.mean(), "rho_hat": costs.mean(), "phi": phi}
        if self.mean_norm_is_known:
            told |= {"mean_norm": self.mean_norm, "gamma": self.gamma + 0 * self.mean_norm}
        return told | {"index": inputs["index"], "logits": logits, "label": label}

    def losses(self, logits: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(logits, label, reduction="none", label_smoothing=self.label_smoothing)

    def moved_for_training(self, x: Tensor, label: Tensor, index: Tensor) -> Tensor:
        """What a step is trained on, as of ``training``; the attacks take as many gradients as the ascent."""
        if self.trained_on == "erm":
            return x
        if self.trained_on == "wrm":
            return ascend(self.losses_of(label), x, self.gamma, self.steps, self.cost)
        steps = self.steps + 1
        attack = {
            "fgm": FastGradient(self.cost),
            "ifgm": IteratedFastGradient(self.cost, steps),
            "pgd": ProjectedGradient(self.cost, steps, 2.5 / steps, random_start=False, keep="last"),
        }[self.trained_on]
        budget = torch.full((len(x),), self.budget.norm() or 0.0, device=x.device, dtype=x.dtype)
        return attack(self.class_logits, Examples(x, label, index, self.box), budget)

    def metrics(self, stage: str) -> Directions:
        own: Directions = {"train/rho_hat": None, "train/phi": "min", "train/mean_norm": None, "train/gamma": None}
        return {**super().metrics(stage), **(own if stage == "train" else {})}

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
            table = table_in_memory(data)
            if table is None and self.price.absolute is None:
                raise UserError(
                    f"lightning_module.gamma.relative needs training data that lie in memory, which those of "
                    f"{said(data, 'name')} do not: set lightning_module.gamma.absolute."
                )
            self.mean_norm_is_known = table is not None
            if table is not None:
                self.mean_norm.fill_(mean_norm_of(table, self.input))

    # --- what callbacks ask ------------------------------------------------------------------------------------

    def capabilities(self) -> set[type]:
        return {ClassifiesImages if self.input == "image" else ClassifiesPoints, PenalizesTransport}

    def inputs_of(self, batch: Batch) -> Tensor:
        return batch[self.input]

    def losses_of(self, label: Tensor) -> LossesOf:
        return lambda x: self.losses(self.class_logits(x), label)

    @property
    def knows_curvature_bound(self) -> bool:
        return isinstance(self.network, Chain) and math.isfinite(self.network.activation.curvature)

    def curvature_bound(self) -> float | None:
        if not self.knows_curvature_bound:
            return None
        network: Any = self.network
        shape: Any = self.image_shape if self.input == "image" else (self.point_size,)
        norms = operator_norms(network, shape)
        behind = len(norms) - 1  # the last layer has no activation
        slopes, curvatures = [network.activation.slope] * behind, [network.activation.curvature] * behind
        return curvature_bound(norms, [*slopes, 1.0], [*curvatures, 0.0])


def table_in_memory(data: Any) -> Table | None:
    """A DataModule's training examples; None where each is read from a disk, which takes hours of a million images."""
    table = data.tables["train"] if isinstance(data, HoldsTables) else None
    return table if isinstance(table, Table) else None


def mean_norm_of(table: Table, column: str) -> float:
    """E||X||_2 of all rows, pixels counted from 0 to 1."""
    total = 0.0
    for positions in torch.arange(len(table)).split(1000):
        rows = table[positions][column]
        scaled = rows.double() / (1 if rows.is_floating_point() else 255)
        total += float(size(scaled, "l2").sum())
    return total / len(table)
