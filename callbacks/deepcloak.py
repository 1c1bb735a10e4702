"""What masking the features that an attack moves most does to a classifier's error, clean and under attack (DeepCloak,
Gao et al. 2017): under the attack that was made for the unmasked net, and under attacks on the masked one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.examples import evenly_chosen
from callbacks.instruments.measurement import Measurement
from callbacks.instruments.pictures import log_picture, log_table, save_panels
from callbacks.instruments.tables import write_table
from callbacks.progress import counted
from datamodules.batches import GlobalBatches
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import ClassifiesImages, HoldsTables
from lightning_modules.attacks.gradient import Examples, FastGradient, LogitsOf
from lightning_modules.attacks.search import Attack, fooled, search
from lightning_modules.networks.deepcloak import (
    features_of,
    layer_that_reads_features,
    masking,
    most_sensitive,
    sensitivity,
)

REPLAYED = FastGradient("linf")  # the paper's attack, which also finds the features
KEY = "callbacks.deepcloak"


class SensitivityMetric(Metric):
    """The sum over images of how far an attack moves each feature, in double precision."""

    full_state_update = False
    scores: Tensor
    examples: Tensor

    def __init__(self, features: int, **metric: Any) -> None:
        super().__init__(**metric)
        self.add_state("scores", torch.zeros(features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("examples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, features: Tensor, attacked: Tensor) -> None:
        """Both [B, ...]."""
        self.scores += sensitivity(features, attacked)
        self.examples += len(features)

    def compute(self) -> Tensor:
        """By image, [features]: in the order of the paper's scores."""
        return self.scores / self.examples.clamp_min(1)


class MaskedErrorsMetric(Metric):
    """How many test images are taken for another class, for each share that is masked and each way to attack."""

    full_state_update = False
    wrong: Tensor
    examples: Tensor

    def __init__(self, shares: int, ways: int, **metric: Any) -> None:
        super().__init__(**metric)
        self.add_state("wrong", torch.zeros(shares, ways, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("examples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, wrong: Tensor) -> None:
        """wrong: bool [shares, ways, B]."""
        self.wrong += wrong.sum(2)
        self.examples += wrong.shape[2]

    def compute(self) -> Tensor:
        """Errors, fractions, [shares, ways]."""
        return self.wrong.double() / self.examples.clamp_min(1)


class DeepCloak(Measurement):
    """Masks the features that FGM moves most and logs, for each share that is masked, 0 % first:

    - ``test/error_masked<percent>``: of the images as they are;
    - ``test/error_masked<percent>_transfer_fgm_linf_<power>of255``: of those that FGM has made for the unmasked net, as
      in the released code;
    - ``test/error_masked<percent>_<attack>_<power>of255``: attacked anew, with the mask in place. The attack's name
      holds its steps and restarts.

    An image is wrong under attack where it is taken for another class as it is, or as that attack of that power alone
    has moved it. An error is what these attacks have found, no more. Writes ``deepcloak.csv`` (a row a share, attack
    and power; ``gain`` is the error without a mask minus this one), its picture, and ``deepcloak_features.csv`` (a row
    a feature: how far the attack moves it on average, the largest first).

    Args:
        folder: where these go.
        attacks: by names of one's own, on the masked net; each of ``lightning_modules/attacks``, in ``linf``.
        layer: the path of the layer whose input is masked, such as ``network.linear``; None: the last linear one.
        shares: of the features, in percent, in ascending order; rounded up to whole features. 0 is always measured.
        powers: of attacks on test images, in 255ths of a pixel's range as the paper counts.
        score_power: of FGM on training images, by which features are chosen.
        score_examples: how many training images, evenly spread, not augmented; None: all.
        examples: how many test images, evenly spread; None: all.
    """

    metric: MaskedErrorsMetric
    sensitivity: SensitivityMetric
    requires = ClassifiesImages
    requires_data = HoldsTables
    needs_labels = True

    def __init__(
        self,
        folder: str,
        attacks: Mapping[str, Attack],
        layer: str | None = None,
        shares: Sequence[float] = (1, 2, 5, 10, 25, 50),
        powers: Sequence[float] = (2, 10),
        score_power: float = 10,
        score_examples: int | None = None,
        examples: int | None = None,
    ) -> None:
        self.folder, self.layer, self.attacks = Path(folder), layer, list(attacks.values())
        check(self.attacks, shares, powers, score_power, {"score_examples": score_examples, "examples": examples})
        self.shares, self.powers, self.score_power = [0.0, *(it for it in shares if it)], list(powers), score_power
        self.score_examples, self.examples = score_examples, examples
        self.ways = [
            ("", None),
            *((f"transfer_{REPLAYED.name}", power) for power in self.powers),
            *((attack.name, power) for attack in self.attacks for power in self.powers),
        ]
        self.reads: str | None = None

    def metrics(self, module: Any, stage: str) -> Directions:
        names: dict[str, Direction] = {key_of(share, *way): "min" for share in self.shares for way in self.ways}
        return in_stage(stage, names) if stage == "test" else {}

    def pictures(self, module: Any) -> set[str]:
        return {"test/deepcloak"}

    def tables(self, module: Any) -> set[str]:
        return {"test/deepcloak_table"}

    def describe_for_record(self) -> dict[str, Any]:
        training = "all" if self.score_examples is None else f"{self.score_examples:,}"
        return {
            "deepcloak": {
                "masked": self.reads and f"what {self.reads} reads",
                "scores": f"{training} training images, {REPLAYED.name} of {self.score_power:g}/255",
                "images": "all" if self.examples is None else f"{self.examples:,} of the test, evenly spread",
            }
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The layer is looked for before anything begins."""
        weights: Tensor = next(pl_module.parameters())
        shape: Any = pl_module.image_shape
        with looking_at(pl_module, gradients=False):
            images = torch.zeros(2, *shape, dtype=weights.dtype, device=weights.device)
            logits_of: Any = pl_module.class_logits
            self.reads, layer = layer_that_reads_features(pl_module, logits_of, images, self.layer, f"{KEY}.layer")
            self.size = features_of(layer, logits_of, images)[0].numel()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None: ...

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    # --- before the test: which features ----------------------------------------------------------------------------

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        device = trainer.strategy.root_device
        self.total = len(trainer.test_dataloaders.dataset)  # pyright: ignore
        self.metric = MaskedErrorsMetric(len(self.shares), len(self.ways)).to(device)
        self.sensitivity = SensitivityMetric(self.size).to(device)
        self._look_at_training_images(trainer, pl_module)
        scores = self.sensitivity.compute()
        self.masks = [most_sensitive(scores, share) for share in self.shares]

    def _look_at_training_images(self, trainer: Any, module: Any) -> None:
        datamodule, device = trainer.datamodule, trainer.strategy.root_device
        table = datamodule.tables["train"]
        everything = torch.arange(len(table))
        chosen = everything[evenly_chosen(everything, len(table), self.score_examples)]
        shares = {"rank": trainer.global_rank, "world_size": trainer.world_size}
        batches = list(GlobalBatches(len(chosen), datamodule.eval_batch_size, seed=None, **shares))
        layer, budget = module.get_submodule(self.reads), self.score_power / 255
        with looking_at(module):
            for numbers in counted(trainer, batches, "features that an attack moves"):
                batch = {key: value.to(device) for key, value in table[chosen[numbers]].items()}
                examples = examples_of(datamodule.on_after_batch_transfer(batch, 0))
                attacked = made_to_be_replayed(module.class_logits, examples, budget)
                self.sensitivity.update(
                    features_of(layer, module.class_logits, examples.images),
                    features_of(layer, module.class_logits, attacked),
                )

    # --- the test ---------------------------------------------------------------------------------------------------

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        examples = examples_of(batch)[evenly_chosen(batch["index"], self.total, self.examples)]
        layer, logits_of = module.get_submodule(self.reads), module.class_logits
        with looking_at(module):
            replayed = [made_to_be_replayed(logits_of, examples, power / 255) for power in self.powers]
            wrong = []
            for masked in self.masks:
                with masking(layer, masked):
                    wrong.append(torch.stack(list(self._wrong(logits_of, examples, replayed))))
        self.metric.update(torch.stack(wrong))

    def _wrong(self, logits_of: Any, examples: Examples, replayed: Sequence[Tensor]) -> Iterator[Tensor]:
        """[B] bool for each of ``ways``."""
        clean = fooled(logits_of, examples.images, examples.labels)
        yield clean
        for images in replayed:
            yield clean | fooled(logits_of, images, examples.labels)
        for attack in self.attacks:
            for power in self.powers:
                yield search(attack, logits_of, examples, [power / 255]).wrong[0]

    def figures(self) -> dict[str, float]:
        errors = self.metric.compute().tolist()
        rows = zip(self.shares, errors, strict=True)
        return {key_of(share, *way): it for share, row in rows for way, it in zip(self.ways, row, strict=True)}

    def write(self, trainer: Trainer, module: Any) -> None:
        self._write(trainer, self.figures(), self.sensitivity.compute())

    @rank_zero_only
    def _write(self, trainer: Trainer, errors: Mapping[str, float], scores: Tensor) -> None:
        rows: list[list[Any]] = []
        for share, masked in zip(self.shares, self.masks, strict=True):
            for way in self.ways:
                error = errors[key_of(share, *way)]
                rows.append([share, int(masked.sum()), *way, error, round(errors[key_of(0, *way)] - error, 12)])
        write_table(self.folder / "deepcloak.csv", [COLUMNS, *rows])
        order = scores.argsort(descending=True, stable=True).tolist()
        features = [["feature", "mean_distance"], *([number, float(scores[number])] for number in order)]
        write_table(self.folder / "deepcloak_features.csv", features)
        draw_curves(rows, self.powers, self.folder / "deepcloak.png")
        log_picture(trainer, "test/deepcloak", self.folder / "deepcloak.png")
        log_table(trainer, "test/deepcloak_table", self.folder / "deepcloak.csv")


COLUMNS = ["masked_percent", "masked_features", "attack", "power_of_255", "error", "gain"]


@contextmanager
def looking_at(module: Any, gradients: bool = True) -> Iterator[None]:
    """Evaluation of the layers as they are written: a compiled network would pass by a mask that was put in later."""
    is_compiled = any(it._compiled_call_impl is not None for it in module.modules())
    as_written = torch.compiler.set_stance("force_eager") if is_compiled else nullcontext()
    with evaluating(module, gradients=gradients), as_written:
        yield


def examples_of(batch: Mapping[str, Tensor]) -> Examples:
    return Examples(batch["image"], batch["label"], batch["index"])


def made_to_be_replayed(logits_of: LogitsOf, examples: Examples, budget: float) -> Tensor:
    """The images that FGM makes within a budget, [B, C, H, W]; a rank may have none."""
    images = examples.images
    return REPLAYED(logits_of, examples, images.new_full((len(examples),), budget)) if len(examples) else images


def key_of(share: float, attack: str, power: float | None) -> str:
    return f"error_masked{share:g}" + (f"_{attack}_{power:g}of255" if power is not None else "")


def check(
    attacks: Sequence[Attack], shares: Sequence[float], powers: Sequence[float], score_power: float,
    counts: Mapping[str, int | None],
) -> None:  # fmt: skip
    """Raise a UserError for what cannot be measured."""
    if not attacks:
        raise UserError(f"{KEY}.attacks is empty: name one on the masked net, or remove the callback with ~{KEY}")
    names = [it.name for it in attacks]
    if doubled := {it for it in names if names.count(it) > 1}:
        raise UserError(f"{KEY}.attacks has {sorted(doubled)[0]} twice: give one of them other steps or restarts.")
    if unfit := [it.name for it in attacks if it.norm != "linf"]:
        raise UserError(f"{KEY}.attacks has {unfit[0]}, and powers are of linf: give it norm=linf.")
    limits = (("shares", shares, 100), ("powers", powers, 255), ("score_power", [score_power], 255))
    for name, values, at_most in limits:
        given, least = (values[0] if name == "score_power" else values), "0" if name == "shares" else "above 0"
        numbers = [it for it in values if is_number(it)] if isinstance(values, list | tuple) else []
        unfit = [it for it in numbers if not 0 <= it <= at_most or (it == 0 and name != "shares")]
        if not numbers or len(numbers) < len(values) or unfit:
            what = "a number" if name == "score_power" else "a list of numbers"
            raise UserError(f"{KEY}.{name} is {given}: give {what} from {least} to {at_most}.")
        if numbers != sorted(numbers) or len({f"{it:g}" for it in numbers}) < len(numbers):
            raise UserError(f"{KEY}.{name} is {given}: give numbers in ascending order that differ in six digits.")
    for name, count in counts.items():
        if count is not None and not (isinstance(count, int) and count >= 1):
            raise UserError(f"{KEY}.{name} is {count}: give a whole number of 1 or more, or null for all.")


def is_number(it: Any) -> bool:
    return isinstance(it, int | float) and not isinstance(it, bool)


def draw_curves(rows: Sequence[Sequence[Any]], powers: Sequence[float], path: Path) -> None:
    """A panel a power, a line a way to attack, over the shares that are masked, which stand at equal distances.

    rows: of ``COLUMNS``.
    """
    shares = list(dict.fromkeys(row[0] for row in rows))
    with save_panels(path, [f"power {power:g} / 255" for power in powers]) as panels:
        for axes, power in zip(panels, powers, strict=True):
            shown = [row for row in rows if row[3] in (None, power)]
            for attack in dict.fromkeys(row[2] for row in shown):
                line = [row[4] for row in shown if row[2] == attack]
                dashed = {"linestyle": "--", "zorder": 3} if attack.startswith("transfer") else {}  # may lie on another
                axes.plot(range(len(shares)), line, marker="o", markersize=3, label=attack or "no attack", **dashed)
            axes.set_xticks(range(len(shares)), [f"{it:g}" for it in shares])
            axes.set(xlabel="features masked, percent", ylim=(-0.02, 1.02))
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("test error")
        panels[0].legend(fontsize=8)
