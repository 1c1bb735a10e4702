"""A bound on the loss within a Wasserstein distance of the training data, held against the worst case found on test
data (Sinha et al. 2018, section 4)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torchmetrics import Metric

from callbacks.instruments.examples import evenly_chosen
from callbacks.instruments.measurement import Measurement
from callbacks.instruments.pictures import log_picture, log_table, save_figure
from callbacks.instruments.tables import write_table
from callbacks.progress import counted
from datamodules.batches import GlobalBatches
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import HoldsTables, PenalizesTransport
from foundation.randomness import keyed_generator
from lightning_modules.attacks.norms import spread
from lightning_modules.wrm import ascend, certificate, largest_curvature, robust_surrogate, transport_cost

KINKED = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.SELU, nn.Threshold, nn.Hardtanh, nn.Hardsigmoid,
    nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d,
)  # fmt: skip


def has_kink(layer: nn.Module) -> bool:
    return isinstance(layer, KINKED) or (isinstance(layer, nn.ELU) and layer.alpha != 1)


class TransportMetric(Metric):
    """Sums over examples of loss, cost and surrogate where an ascent has ended, in double precision."""

    full_state_update = False
    sums: Tensor
    examples: Tensor

    def __init__(self, **metric: Any) -> None:
        super().__init__(**metric)
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("examples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, costs: Tensor, gamma: float) -> None:
        """losses, costs: [B]; gamma: of the surrogate, whatever the ascent's was."""
        losses, costs = losses.double(), costs.double()
        surrogates = robust_surrogate(losses, costs, gamma)
        self.sums += torch.stack([it.sum() for it in (losses, costs, surrogates, surrogates.square())])
        self.examples += len(losses)

    def compute(self) -> dict[str, float]:
        """``loss``, ``rho`` and ``phi``, means over ``examples``, and the ``standard_error`` of phi."""
        total = max(int(self.examples), 1)
        loss, rho, phi, square = (self.sums / total).tolist()
        standard_error = math.sqrt(max(square - phi**2, 0.0) / total)
        return {"loss": loss, "rho": rho, "phi": phi, "standard_error": standard_error, "examples": int(self.examples)}


class MeanMetric(Metric):
    """The mean of what examples say, in double precision."""

    full_state_update = False
    total: Tensor
    examples: Tensor

    def __init__(self, **metric: Any) -> None:
        super().__init__(**metric)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("examples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        self.total += values.double().sum()
        self.examples += len(values)

    def compute(self) -> float:
        return float(self.total) / int(self.examples) if int(self.examples) else math.nan


class Certificate(Measurement):
    """Logs ``val/phi`` and ``val/rho_hat``; after a test the certificate of the final weights, over all training data:

    - ``test/phi``, ``test/rho_hat``: E[phi_gamma] and E[c] of training examples, which make the line gamma rho + phi;
    - ``test/certificate_gap``: the least by which that line is above the worst losses found on test examples, over a
      sweep of gammas. Below 0 by more than the sampling error (two ``standard_error`` of the table), what is drawn is
      no bound for what the test examples were drawn from;
    - ``test/inner_gap``: by how much phi rises on average with many steps and several starts: what the line lacks;
    - ``test/concave_share``: of sampled points, those whose loss bends upwards by less than 2 gamma (of the L2 cost);
    - ``test/lzz_bound``: an upper bound on that bend, where the network is a chain of smooth layers. Where it is below
      2 gamma the certificate is proved; else it is estimated, and says so.

    All of the module's own loss, label smoothing included. Writes ``certificate.csv`` (a row a gamma of the sweep) and
    ``certificate.png``.

    Args:
        folder: where these go.
        sweep: the gammas of the worst cases, by the module's own.
        sweep_examples, gap_examples, curvature_examples: how many test examples, evenly spread; None: all.
        gap_steps, gap_starts: of the longer ascent.
    """

    requires = PenalizesTransport
    requires_data = HoldsTables
    needs_labels = True

    def __init__(
        self,
        folder: str,
        sweep: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0),
        sweep_examples: int | None = 2000,
        gap_examples: int | None = 1000,
        gap_steps: int = 400,
        gap_starts: int = 3,
        curvature_examples: int | None = 100,
    ) -> None:
        if not sweep or not all(0 < it < math.inf for it in sweep):
            raise UserError(f"callbacks.certificate.sweep is {list(sweep)}: give numbers above 0, such as [0.5, 1, 2].")
        counts = {
            "sweep_examples": sweep_examples,
            "gap_examples": gap_examples,
            "gap_steps": gap_steps,
            "gap_starts": gap_starts,
            "curvature_examples": curvature_examples,
        }
        for key, count in counts.items():
            if count is not None and count < 1:
                raise UserError(f"callbacks.certificate.{key} is {count}: give 1 or more.")
        self.folder, self.sweep = Path(folder), sorted(sweep)
        self.sweep_examples, self.gap_examples = sweep_examples, gap_examples
        self.gap_steps, self.gap_starts, self.curvature_examples = gap_steps, gap_starts, curvature_examples
        self.kinks_are_told = False

    def metrics(self, module: Any, stage: str) -> Directions:
        if stage == "train":
            return {}
        names: dict[str, Direction] = {"phi": "min", "rho_hat": None}
        if stage == "test":
            names |= {"certificate_gap": None, "inner_gap": "min"}
            names |= {"concave_share": "max"} if module.cost == "l2" else {}
            names |= {"lzz_bound": "min"} if module.knows_curvature_bound else {}
        return in_stage(stage, names)

    def pictures(self, module: Any) -> set[str]:
        return {"test/certificate"}

    def tables(self, module: Any) -> set[str]:
        return {"test/certificate_table"}

    def describe_for_record(self) -> dict[str, Any]:
        counts = {
            "sweep": self.sweep_examples,
            "inner_gap": self.gap_examples,
            "concave_share": self.curvature_examples,
        }
        return {
            "certificate": {"phi_of": "training examples", "test_examples": counts, "sweep": self.sweep}
            | {"inner_gap_steps": self.gap_steps, "inner_gap_starts": self.gap_starts}
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        device = trainer.strategy.root_device
        self.metric = TransportMetric().to(device)
        self.of_sweep = [TransportMetric().to(device) for _ in self.sweep]
        self.inner_gap, self.concave = MeanMetric().to(device), MeanMetric().to(device)
        kinks = sorted({type(it).__name__ for it in pl_module.modules() if has_kink(it)})
        if kinks and trainer.is_global_zero and not self.kinks_are_told:
            told = "has kinks" if len(kinks) == 1 else "have kinks"
            print(
                f"certificate: {' and '.join(kinks)} {told}, so that no gamma makes the penalised loss concave: it "
                "cannot be more than an estimate.",
                flush=True,
            )
        self.kinks_are_told = True

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metric.reset()
        self.tests = False

    # --- evaluation ------------------------------------------------------------------------------------------

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for metric in (self.metric, self.inner_gap, self.concave, *self.of_sweep):
            metric.reset()
        self.tests, self.looks_at_curvature = True, pl_module.cost == "l2"  # which the price is of
        self.total = len(trainer.test_dataloaders.dataset)  # pyright: ignore

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        with evaluating(module, gradients=True):
            if not trainer.testing:
                self.metric.update(*worst_case(module, batch), float(module.gamma))
                return
            of_sweep = self._some(batch, self.sweep_examples)
            for share, metric in zip(self.sweep, self.of_sweep, strict=True):
                metric.update(*worst_case(module, of_sweep, share), float(module.gamma))
            self.inner_gap.update(self._inner_gap(module, self._some(batch, self.gap_examples)))
            if self.looks_at_curvature:
                for concave in concave_where(module, self._some(batch, self.curvature_examples)):
                    self.concave.update(concave.double())

    def _some(self, batch: Any, count: int | None) -> dict[str, Tensor]:
        chosen = evenly_chosen(batch["index"], self.total, count)
        return {key: value[chosen] for key, value in batch.items()}

    def _inner_gap(self, module: Any, batch: Any) -> Tensor:
        """By how much the longer ascent finds phi larger, [B], 0 or more.

        Its first start is where the module's own ascent has ended; the others lie about the example, at random.
        """
        gamma, x, losses_of = float(module.gamma), module.inputs_of(batch), module.losses_of(batch["label"])
        own = ascend(losses_of, x, gamma, module.steps, module.cost)
        best = short = surrogate_at(module, batch, own, gamma)
        distances = transport_cost(own, x, "l2").sqrt()
        for number in range(self.gap_starts):
            start = x + spread(distances, x) * drawn_like(x, batch["index"], number) if number else own
            moved = ascend(losses_of, x, gamma, self.gap_steps, module.cost, start)
            best = torch.maximum(best, surrogate_at(module, batch, moved, gamma))
        return best - short

    # --- after a test ------------------------------------------------------------------------------------------

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_training_data(trainer, pl_module)
        self.gamma, self.bound = float(pl_module.gamma), pl_module.curvature_bound()  # pyright: ignore
        self.proved = pl_module.cost == "l2" and self.bound is not None and self.bound < 2 * self.gamma
        super().on_test_epoch_end(trainer, pl_module)

    def _show_training_data(self, trainer: Any, module: Any) -> None:
        """E over the whole training set; of the test set the bound would hold trivially."""
        datamodule, device = trainer.datamodule, trainer.strategy.root_device
        table = datamodule.tables["train"]
        shares = {"rank": trainer.global_rank, "world_size": trainer.world_size}
        batches = list(GlobalBatches(len(table), datamodule.eval_batch_size, seed=None, **shares))
        with evaluating(module, gradients=True):
            for positions in counted(trainer, batches, "the certificate on training data"):
                batch = {key: value.to(device) for key, value in table[positions].items()}
                batch = datamodule.on_after_batch_transfer(batch, 0)
                self.metric.update(*worst_case(module, batch), float(module.gamma))

    def figures(self) -> dict[str, float]:
        line = self.metric.compute()
        found = {"phi": line["phi"], "rho_hat": line["rho"]}
        if self.tests:
            found["certificate_gap"] = min(line["phi"] - it.compute()["phi"] for it in self.of_sweep)
            found["inner_gap"] = self.inner_gap.compute()
            found |= {"concave_share": self.concave.compute()} if self.looks_at_curvature else {}
            found |= {} if self.bound is None else {"lzz_bound": self.bound}
        return found

    @rank_zero_only
    def write(self, trainer: Trainer, module: Any) -> None:
        line, of_sweep = self.metric.compute(), [it.compute() for it in self.of_sweep]
        word = "proved" if self.proved else "estimated"
        rows: list[list[Any]] = [["gamma_of_worst_case", "rho", "test_loss", "standard_error", "certificate", "status"]]
        for share, it in zip(self.sweep, of_sweep, strict=True):
            bound, error = certificate(it["rho"], self.gamma, line["phi"]), error_of_gap(line, it)
            rows.append([share * self.gamma, it["rho"], it["loss"], error, bound, word])
        write_table(self.folder / "certificate.csv", rows)
        about = f"; concave at {self.concave.compute():.0%} of sampled points" if self.looks_at_curvature else ""
        title = f"Certificate, {word}{about}"
        draw_certificate(self.gamma, line, of_sweep, word, title, self.folder / "certificate.png")
        log_picture(trainer, "test/certificate", self.folder / "certificate.png")
        log_table(trainer, "test/certificate_table", self.folder / "certificate.csv")


def worst_case(module: Any, batch: Any, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Losses and costs, each [B], where the module's own ascent ends at this share of its gamma."""
    x, losses_of = module.inputs_of(batch), module.losses_of(batch["label"])
    moved = ascend(losses_of, x, share * float(module.gamma), module.steps, module.cost)
    return losses_of(moved).detach(), transport_cost(moved, x, module.cost)


def surrogate_at(module: Any, batch: Any, moved: Tensor, gamma: float) -> Tensor:
    """[B] in double precision."""
    losses = module.losses_of(batch["label"])(moved).detach().double()
    return robust_surrogate(losses, transport_cost(moved, module.inputs_of(batch), module.cost).double(), gamma)


def concave_where(module: Any, batch: Any) -> list[Tensor]:
    """Whether the penalised loss is concave at the examples, and where the ascent from them ends: twice [B] bool."""
    gamma, x, losses_of = float(module.gamma), module.inputs_of(batch), module.losses_of(batch["label"])
    start = drawn_like(x, batch["index"], 0)
    points = (x, ascend(losses_of, x, gamma, module.steps))
    return [largest_curvature(losses_of, point, start) < 2 * gamma for point in points]


def drawn_like(x: Tensor, index: Tensor, number: int) -> Tensor:
    """Normal directions of norm about 1, [B, ...], each drawn from (index, number) alone."""
    shape = tuple(x.shape[1:])
    drawn = [torch.randn(shape, generator=keyed_generator(0, "certificate", int(it), number)) for it in index]
    return torch.stack(drawn).to(x) / math.sqrt(math.prod(shape)) if drawn else torch.zeros_like(x)


def error_of_gap(line: dict[str, float], point: dict[str, float]) -> float:
    """The standard error of how far a point is below the line, gamma rho + phi - loss: both are means over samples."""
    return math.hypot(line["standard_error"], point["standard_error"])


def in_view(of_sweep: list[dict[str, float]], reached: float) -> list[dict[str, float]]:
    """Points up to four times the distance reached, where line and worst case meet; a low price is far beyond, and
    drawn with the others it would make one dot of them. The table has them all."""
    return [it for it in of_sweep if it["rho"] <= 4 * reached] or of_sweep


def draw_certificate(
    gamma: float, line: dict[str, float], of_sweep: list[dict[str, float]], word: str, title: str, path: Path
) -> None:
    """The line, and the worst cases that were found; word: whether it is proved or estimated."""
    total, of_sweep = len(of_sweep), in_view(of_sweep, line["rho"])
    rhos, losses = [it["rho"] for it in of_sweep], [it["loss"] for it in of_sweep]
    errors = [2 * error_of_gap(line, it) for it in of_sweep]
    with save_figure(path, width=7.0, height=4.5) as axes:
        ends = [0.0, max(rhos)]
        label = f"certificate ({word}): {gamma:.3g} rho + {line['phi']:.3g}"
        axes.plot(ends, [certificate(it, gamma, line["phi"]) for it in ends], color="tab:blue", label=label)
        beyond = f"; {total - len(of_sweep)} further right" if len(of_sweep) < total else ""
        label = f"worst case found on test data, 2 standard errors{beyond}"
        axes.errorbar(rhos, losses, yerr=errors, color="tab:red", marker="o", markersize=4, capsize=2, label=label)
        label = f"reached on training data: {line['rho']:.3g}"
        axes.axvline(line["rho"], color="grey", linestyle=":", label=label)
        axes.set(xlabel="rho, squared transport distance", ylabel="expected loss", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
