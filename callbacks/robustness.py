"""How wrong a classifier becomes when its images are perturbed: error over budgets, and the smallest perturbations."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.budgets import check_ascending
from callbacks.instruments.examples import evenly_chosen, places, wanted
from callbacks.instruments.measurement import Measurement
from callbacks.instruments.pictures import log_picture, log_table, save_figure, save_grid
from callbacks.instruments.tables import write_table
from foundation.errors import UserError, did_you_mean
from foundation.evaluation import evaluating
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import ClassifiesImages
from lightning_modules.attacks.gradient import Examples
from lightning_modules.attacks.norms import size
from lightning_modules.attacks.search import Attack, Found, search


class RobustnessMetric(Metric):
    """For one attack: how many examples were fooled at each budget, and each example's smallest perturbation.

    An example's figures stand at its place, so that they depend on neither batches nor ranks.
    """

    full_state_update = False
    wrong: Tensor
    examples: Tensor
    smallest: Tensor
    norms: Tensor

    def __init__(self, budgets: int, examples: int, **metric: Any) -> None:
        super().__init__(**metric)
        self.add_state("wrong", torch.zeros(budgets, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("examples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("smallest", torch.zeros(examples, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("norms", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, place: Tensor, found: Found, norms: Tensor) -> None:
        """place: numbers of the examples among those that are attacked; norms: their own. Both [B]."""
        self.wrong += found.wrong.sum(1)
        self.examples += len(place)
        self.smallest[place] += found.smallest.double()
        self.norms += norms.double().sum()

    def compute(self) -> dict[str, Any]:
        """``errors``, a fraction for each budget; ``clean``, that of the images as they are; ``median`` of the smallest
        perturbations, infinite where more than half are censored; ``censored``, the share for which none was found;
        ``mean_norm`` of the examples."""
        total = max(int(self.examples), 1)
        return {
            "errors": [int(it) / total for it in self.wrong],
            "clean": int((self.smallest == 0).sum()) / total,
            "median": float(self.smallest.sort().values[(total - 1) // 2]) if int(self.examples) else math.nan,
            "censored": int(self.smallest.isinf().sum()) / total,
            "mean_norm": float(self.norms) / total,
        }


class Robustness(Measurement):
    """Attacks test images; logs ``test/error_<attack>_<budget>`` and ``test/censored_<attack>``, the share of images
    for which no perturbation up to the largest budget was found.

    An attack's name holds its norm, steps and restarts. Writes ``robustness.csv`` (a row a budget, 0 first) and its
    picture; ``perturbations.csv`` (a row an image: the norm of the smallest perturbation by each attack; 0 where the
    image itself is taken for another class, inf where none was found); ``images/perturbations_<attack>.png``: images,
    with their smallest perturbation, and the difference magnified about grey. An error is what these attacks have
    found, no more.

    Args:
        folder: where tables and pictures go.
        attacks: by names of one's own; each of ``lightning_modules/attacks``.
        budgets: by norm, ``l2`` and ``linf``, in ascending order; of pixels in [0, 1].
        examples: how many test images, evenly spread; None: all.
        bisections: how often the gap between two budgets is halved for an image's smallest perturbation.
        shown: images of the picture.
    """

    requires = ClassifiesImages
    needs_labels = True

    def __init__(
        self,
        folder: str,
        attacks: Mapping[str, Attack],
        budgets: Mapping[str, Sequence[float]],
        examples: int | None = None,
        bisections: int = 4,
        shown: int = 8,
    ) -> None:
        self.folder, self.examples = Path(folder), examples
        self.attacks = list(attacks.values())
        self.budgets, self.bisections, self.shown = dict(budgets), bisections, shown
        check(self.attacks, self.budgets, examples)
        for key, value in {"bisections": bisections, "shown": shown}.items():
            if value < 0:
                raise UserError(f"callbacks.robustness.{key} is {value}: give 0 or more.")
        self.all_metrics: dict[str, RobustnessMetric] = {}
        self.pictured: dict[str, tuple[Tensor, Tensor]] = {}

    def metrics(self, module: Any, stage: str) -> Directions:
        if stage != "test":
            return {}
        names: dict[str, Direction] = {}
        for attack in self.attacks:
            names |= {error_at(attack, budget): "min" for budget in self.budgets[attack.norm]}
            names[f"censored_{attack.name}"] = "max"
        return in_stage(stage, names)

    def pictures(self, module: Any) -> set[str]:
        shown = {f"test/perturbations_{it.name}" for it in self.attacks} if self.shown else set()
        return {"test/robustness", *shown}

    def tables(self, module: Any) -> set[str]:
        return {"test/robustness_table"}

    def describe_for_record(self) -> dict[str, Any]:
        return {
            "robustness": {
                "images": "all" if self.examples is None else f"{self.examples:,} of the test, evenly spread"
            }
        }

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.total, device = len(trainer.test_dataloaders.dataset), trainer.strategy.root_device  # pyright: ignore
        size = wanted(self.total, self.examples)
        self.all_metrics = {
            it.name: RobustnessMetric(len(self.budgets[it.norm]), size).to(device) for it in self.attacks
        }
        self.pictured = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None: ...

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        chosen = evenly_chosen(batch["index"], self.total, self.examples)
        examples = Examples(batch["image"], batch["label"], batch["index"])[chosen]
        with evaluating(module, gradients=True):
            for attack in self.attacks:
                found = search(attack, module.class_logits, examples, self.budgets[attack.norm], self.bisections)
                norms = size(examples.images, attack.norm)
                place = places(examples.indices, self.total, self.examples)
                self.all_metrics[attack.name].update(place, found, norms)
                self._keep_for_picture(attack.name, examples.images, found.images)

    def _keep_for_picture(self, attack: str, clean: Tensor, perturbed: Tensor) -> None:
        """The first ones that this rank sees, of several batches where one has too few."""
        kept = self.pictured.setdefault(attack, (clean[:0], perturbed[:0]))
        more = self.shown - len(kept[0])
        both = zip(kept, (clean, perturbed), strict=True)
        self.pictured[attack] = tuple(torch.cat([it, new[:more]]) for it, new in both)  # pyright: ignore

    def figures(self) -> dict[str, float]:
        found = {}
        for attack in self.attacks:
            of = self.all_metrics[attack.name].compute()
            errors = zip(self.budgets[attack.norm], of["errors"], strict=True)
            found |= {error_at(attack, budget): error for budget, error in errors}
            found[f"censored_{attack.name}"] = of["censored"]
        return found

    def write(self, trainer: Trainer, module: Any) -> None:
        computed = {name: metric.compute() for name, metric in self.all_metrics.items()}
        smallest = {}
        for name, metric in self.all_metrics.items():
            with metric.sync_context():
                smallest[name] = metric.smallest.tolist()
        self._write(trainer, computed, smallest)

    @rank_zero_only
    def _write(self, trainer: Trainer, computed: dict[str, Any], smallest: dict[str, list[float]]) -> None:
        rows: list[list[Any]] = [COLUMNS]
        for attack in self.attacks:
            of = computed[attack.name]
            of_clean = [] if self.budgets[attack.norm][0] == 0 else [(0.0, of["clean"])]
            for budget, error in [*of_clean, *zip(self.budgets[attack.norm], of["errors"], strict=True)]:
                relative = budget / of["mean_norm"] if of["mean_norm"] else math.nan
                rows.append([attack.name, attack.norm, budget, relative, error, of["median"], of["censored"]])
        write_table(self.folder / "robustness.csv", rows)
        everything = torch.arange(self.total)
        index = everything[evenly_chosen(everything, self.total, self.examples)].tolist()
        by_image = [[number, *row] for number, *row in zip(index, *smallest.values(), strict=True)]
        write_table(self.folder / "perturbations.csv", [["index", *smallest], *by_image])
        draw_curves(rows[1:], self.folder / "robustness.png")
        log_picture(trainer, "test/robustness", self.folder / "robustness.png")
        log_table(trainer, "test/robustness_table", self.folder / "robustness.csv")
        for name, (clean, perturbed) in self.pictured.items():
            if not len(clean):
                continue  # shown is 0, or this rank has seen none
            difference = perturbed - clean
            path = self.folder / "images" / f"perturbations_{name}.png"
            largest = difference.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
            save_grid(torch.cat([clean, perturbed, 0.5 + difference / (2 * largest)]), path, columns=len(clean))
            log_picture(trainer, f"test/perturbations_{name}", path)


COLUMNS = ["attack", "norm", "budget", "budget_by_mean_norm", "error", "median_smallest", "censored"]


def error_at(attack: Attack, budget: float) -> str:
    return f"error_{attack.name}_{budget:g}"


def check(attacks: Sequence[Attack], budgets: Mapping[str, Sequence[float]], examples: int | None) -> None:
    """Raise a UserError for attacks and budgets that cannot be measured."""
    key = "callbacks.robustness"
    if not attacks:
        raise UserError(f"{key}.attacks is empty: name an attack, or remove it with ~{key}")
    names = [it.name for it in attacks]
    if doubled := {it for it in names if names.count(it) > 1}:
        raise UserError(f"{key}.attacks has {sorted(doubled)[0]} twice: give one of them other steps or restarts.")
    for norm, of_norm in budgets.items():
        if norm not in ("l2", "linf"):
            raise UserError(f"{key}.budgets has no norm '{norm}'; {did_you_mean(norm, ('l2', 'linf'))}")
        if not of_norm:
            raise UserError(f"{key}.budgets.{norm} is empty: give norms of perturbations, such as [0.5, 1.0].")
        check_ascending(f"{key}.budgets.{norm}", of_norm)
    for attack in attacks:
        if attack.norm not in budgets:
            raise UserError(f"{key}.budgets has none in {attack.norm}, which {attack.name} needs.")
    if examples is not None and examples < 1:
        raise UserError(f"{key}.examples is {examples}: give 1 or more, or null for all.")


def draw_curves(rows: Sequence[Sequence[Any]], path: Path) -> None:
    """A line an attack over budgets by the mean norm of the images, as the field draws them, so that norms share an
    axis. rows: of ``COLUMNS``."""
    with save_figure(path, width=7.0, height=4.5) as axes:
        for name in dict.fromkeys(row[0] for row in rows):
            of_attack = [row for row in rows if row[0] == name]
            label = f"{name}, to {of_attack[-1][2]:g}"
            axes.plot([it[3] for it in of_attack], [it[4] for it in of_attack], marker="o", markersize=3, label=label)
        axes.set(
            xlabel="budget by the mean norm of the images",
            ylabel="test error",
            ylim=(-0.02, 1.02),
            title="What these attacks have found",
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
