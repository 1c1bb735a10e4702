"""Where a classifier changes its mind and an oracle does not (Wang, Gao & Qi 2016): what searches have found of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from callbacks.instruments.budgets import check_ascending
from callbacks.instruments.examples import evenly_chosen, places, wanted
from callbacks.instruments.measurement import Measurement
from callbacks.instruments.per_example import PerExample
from callbacks.instruments.pictures import log_picture, log_table, save_grid
from callbacks.instruments.planes import draw_plane
from callbacks.instruments.tables import write_table
from callbacks.instruments.violations import (
    Modulus,
    NullGradient,
    PaperArc,
    Probe,
    Seen,
    Unconstrained,
    probes_of,
)
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import Classifies, ClassifiesImages, ClassifiesPoints, said, serves
from lightning_modules.attacks.gradient import Examples
from lightning_modules.attacks.search import Attack
from lightning_modules.oracles.layers import features_and_logits, layer_named
from lightning_modules.oracles.oracle import Oracle

KEY = "callbacks.oracle_violations"


class OracleViolations(Measurement):
    """Searches test examples for inputs that the classifier takes for another class and the oracle does not.

    Logs after a test, by attack (whose name holds its steps, restarts and norm), the oracle's distance d and, where the
    oracle does not see every difference, the budget b in the input's norm:

    - ``violation_rate_<attack>_d<delta>[_b<budget>]``: of the examples that it gets right the share with a violation.
      What is left is no proof: no violation was found;
    - ``arc_...``, ``arca_...``: the mean of the smallest distance found, and that times accuracy; ``censored_...``: the
      share for which none was found, which counts as the largest delta;
    - ``input_arc_...``, ``input_censored_...``: the same in the input's norm, for an oracle that does not see every
      difference, and at whose distance 0 the others would be 0;
    - ``omega_<ascent>_d<delta>``: the farthest features of pairs within delta. omega at 0 above 0 proves a feature that
      the oracle lacks;
    - ``null_gradient_share``: of the margin's gradient, on coordinates that the oracle cannot see;
    - ``arc_paper_<attack>_t<tau>``, ``arca_paper_...``: the paper's own (eq. 4.2, 4.3), of images;
    - with ``unconstrained``: the smallest change without an oracle, and how many times as large those within reach are,
      in the same norm; the share of those of which a second judge says that the label has changed.

    Writes ``oracle_violations.csv`` (a row a figure), ``oracle_distances.csv`` (a row an example) and pictures.

    Args:
        folder: where these go.
        oracle: of ``lightning_modules/oracles``.
        attacks: by names of one's own; each of ``lightning_modules/attacks``.
        deltas: distances of the oracle, in ascending order.
        budgets: of the input's norm, in ascending order; None where the oracle's distance is a norm of the points.
        examples: how many test examples, evenly spread; None: all.
        bisections: how often the gap between two budgets is halved for an example's smallest change.
        layer: where the features end, by the module's path, such as ``network.layers.3``; None: at the logits.
        omega: ``steps`` and ``restarts`` of its ascent; None leaves it out.
        paper: ``tau``, its ``unit`` in 255ths and ``attacks``; None leaves it out, as it is for points.
        unconstrained: ``attack`` and ``budgets``; None leaves it out.
        shown: images of the picture.
    """

    metric: PerExample  # pyright: ignore[reportIncompatibleVariableOverride]
    requires = Classifies
    needs_labels = True

    def __init__(
        self,
        folder: str,
        oracle: Oracle,
        attacks: Mapping[str, Attack],
        deltas: Sequence[float],
        budgets: Sequence[float] | None = None,
        examples: int | None = None,
        bisections: int = 4,
        layer: str | None = None,
        omega: Mapping[str, int] | None = None,
        paper: Mapping[str, Any] | None = None,
        unconstrained: Mapping[str, Any] | None = None,
        shown: int = 8,
    ) -> None:
        self.folder, self.oracle, self.examples, self.shown = Path(folder), oracle, examples, shown
        self.attacks, self.deltas, self.budgets = list(attacks.values()), list(deltas), budgets and list(budgets)
        for key, given, words in (
            ("omega", omega, ("steps", "restarts")),
            ("paper", paper, ("tau", "unit", "attacks")),
            ("unconstrained", unconstrained, ("attack", "budgets")),
        ):
            check_words(f"{KEY}.{key}", given, words)
        self.layer, self.paper = layer, dict(paper) if paper else None
        check(self.oracle, self.attacks, self.deltas, self.budgets, examples, bisections, shown)
        check_paper(self.paper)
        self.searches = probes_of(oracle, self.attacks, self.deltas, self.budgets, bisections)
        self.others: list[Probe] = []
        if unconstrained:
            free = unconstrained["budgets"]
            check_ascending(f"{KEY}.unconstrained.budgets", free)
            check_attacks(f"{KEY}.unconstrained", [unconstrained["attack"]])
            names = [it.name for it in self.attacks]
            self.others.append(Unconstrained(oracle, unconstrained["attack"], free, bisections, names))
        if omega:
            for key, count in omega.items():
                if not isinstance(count, int) or count < 1:
                    raise UserError(f"{KEY}.omega.{key} is {count}: give 1 or more.")
            norm = oracle.norm or self.attacks[0].norm
            largest = self.budgets[-1] if self.budgets else None
            self.others.append(Modulus(oracle, norm, self.deltas, largest, omega["steps"], omega["restarts"]))
        if oracle.null_dims is not None:
            self.others.append(NullGradient(oracle))

    def probes(self, module: Any) -> list[Probe]:
        of_images = self.paper is not None and not self.oracle.own_points and serves(module, ClassifiesImages)
        attacks = self.paper["attacks"].values() if of_images and self.paper else ()
        papers = [PaperArc(it, self.paper["tau"], self.paper["unit"]) for it in attacks] if self.paper else []
        return [*self.searches, *self.others, *papers]

    # --- what it says of itself ------------------------------------------------------------------------------

    def refusal(self, module: Any) -> str | None:
        if not serves(module, ClassifiesImages) and not serves(module, ClassifiesPoints):
            return "it moves images or points"
        size = said(module, "point_size")
        return self.oracle.refusal(tuple(said(module, "image_shape")) or (size,))

    def metrics(self, module: Any, stage: str) -> Directions:
        if stage != "test":
            return {}
        layer_named(module, self.layer, f"{KEY}.layer")
        names: dict[str, Direction] = {}
        for probe in self.probes(module):
            names |= probe.directions()
        return in_stage(stage, names)

    def pictures(self, module: Any) -> set[str]:
        if serves(module, ClassifiesPoints):
            return {"test/oracle_plane"} if self.oracle.null_dims is not None else set()
        return {f"test/oracle_violations_{it.name}" for it in self.attacks} if self.shown else set()

    def tables(self, module: Any) -> set[str]:
        return {"test/oracle_violations_table"}

    def describe_for_record(self) -> dict[str, Any]:
        count = "all" if self.examples is None else f"{self.examples:,} of the test, evenly spread"
        return {"oracle_violations": {"oracle": self.oracle.describe(), "examples": count}}

    # --- a test ----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None: ...

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.total, device = len(trainer.test_dataloaders.dataset), trainer.strategy.root_device  # pyright: ignore
        self.oracle.to(device)
        self.all_probes = self.probes(pl_module)
        columns = ["correct", *(column for probe in self.all_probes for column in probe.columns)]
        self.metric = PerExample(columns, wanted(self.total, self.examples)).to(device)
        self.pictured: dict[str, tuple[Tensor, Tensor]] = {}
        self.images = serves(pl_module, ClassifiesImages)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        chosen = evenly_chosen(batch["index"], self.total, self.examples)
        index, label = batch["index"][chosen], batch["label"][chosen]
        inputs = batch["image" if self.images else "point"][chosen]
        with evaluating(module, gradients=True):
            seen, correct = self.look_at(module, inputs, label, index)
            of: dict[str, Tensor] = {"correct": correct}
            for number, probe in enumerate(self.all_probes):
                of |= probe.measure(seen)
                if number < len(self.attacks):
                    self._keep_for_picture(self.attacks[number].name, seen)
            self.metric.update(places(index, self.total, self.examples), of)

    def look_at(self, module: Any, inputs: Tensor, label: Tensor, index: Tensor) -> tuple[Seen, Tensor]:
        """The oracle's points with the labels that the classifier is held to, and whether it gives them, [B] bool."""
        oracle, of_inputs = self.oracle, (0.0, 1.0) if self.images else None
        box = of_inputs
        if oracle.own_points:
            inputs, box = oracle.draw_points(index).to(inputs), oracle.box
        with torch.no_grad():
            decided = module.class_logits(oracle.see(inputs)).argmax(1)
            wanted = label
            if oracle.own_points:
                wanted = oracle.label(inputs, label) if oracle.judges_class else decided
        layer = layer_named(module, self.layer, f"{KEY}.layer")

        def features_of(it: Tensor) -> Tensor:
            return features_and_logits(module.class_logits, layer, it)[0]

        examples = Examples(inputs, wanted, index, box)
        return Seen(module.class_logits, features_of, examples, of_inputs), decided == wanted

    def _keep_for_picture(self, attack: str, seen: Seen) -> None:
        """The first ones of which one was found that this rank sees."""
        if not self.images:
            return
        with torch.no_grad():
            clean, moved = self.oracle.see(seen.examples.images), self.oracle.see(seen.found[-1][2])
        changed = (clean != moved).flatten(1).any(1)
        kept = self.pictured.setdefault(attack, (clean[:0], moved[:0]))
        more = self.shown - len(kept[0])
        both = zip(kept, (clean[changed], moved[changed]), strict=True)
        self.pictured[attack] = tuple(torch.cat([it, new[:more]]) for it, new in both)  # pyright: ignore

    def figures(self) -> dict[str, float]:
        of, told = self.metric.by_example(), {}
        for probe in self.all_probes:
            told |= probe.figures(of)
        return told

    def write(self, trainer: Trainer, module: Any) -> None:
        of, figures = self.metric.by_example(), self.figures()
        self._write(trainer, module, of, figures)

    @rank_zero_only
    def _write(self, trainer: Trainer, module: Any, of: dict[str, Tensor], figures: dict[str, float]) -> None:
        declared = self.metrics(module, "test")
        told = [[name, value] for name, value in figures.items() if f"test/{name}" in declared]
        write_table(self.folder / "oracle_violations.csv", [["figure", "value"], *told])
        everything = torch.arange(self.total)
        index = everything[evenly_chosen(everything, self.total, self.examples)].tolist()
        by_example = [list(row) for row in zip(index, *(it.tolist() for it in of.values()), strict=True)]
        write_table(self.folder / "oracle_distances.csv", [["index", *of], *by_example])
        log_table(trainer, "test/oracle_violations_table", self.folder / "oracle_violations.csv")
        for name, (clean, moved) in self.pictured.items():
            if not len(clean):
                continue  # shown is 0, or nothing was found
            difference = moved - clean
            path = self.folder / "images" / f"oracle_violations_{name}.png"
            largest = difference.flatten(1).abs().amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
            save_grid(torch.cat([clean, 0.5 + difference / (2 * largest), moved]), path, columns=len(clean))
            log_picture(trainer, f"test/oracle_violations_{name}", path)
        if not self.images and self.oracle.null_dims is not None:
            path = self.folder / "oracle_plane.png"
            with evaluating(module):
                draw_plane(module.class_logits, self.oracle, trainer.datamodule.tables["test"], path, module)  # pyright: ignore
            log_picture(trainer, "test/oracle_plane", path)


def check(
    oracle: Oracle, attacks: Sequence[Attack], deltas: Sequence[float], budgets: Sequence[float] | None,
    examples: int | None, bisections: int, shown: int,
) -> None:  # fmt: skip
    """Raise a UserError for what cannot be measured."""
    name = type(oracle).__name__
    if not attacks:
        raise UserError(f"{KEY}.attacks is empty: name an attack, or remove it with ~{KEY}")
    check_attacks(f"{KEY}.attacks", attacks)
    check_ascending(f"{KEY}.deltas", deltas)
    if oracle.norm is not None:
        if budgets is not None:
            raise UserError(f"{KEY}.budgets is given, and the distance of {name} is a norm itself: set it to null.")
        if deltas[0] <= 0:
            raise UserError(
                f"{KEY}.deltas begins with {deltas[0]:g}, where {name} leaves a point alone: begin above 0."
            )
        for it in attacks:
            if it.norm != oracle.norm:
                raise UserError(
                    f"{KEY}.attacks has {it.name}, which moves in {it.norm}; {name} measures in {oracle.norm}."
                )
    elif budgets is None:
        raise UserError(f"{KEY}.budgets is null, and {name} does not see every difference: give norms of the input.")
    else:
        check_ascending(f"{KEY}.budgets", budgets)
        if budgets[0] <= 0:
            raise UserError(f"{KEY}.budgets begins with {budgets[0]:g}: begin above 0.")
        if len({it.norm for it in attacks}) > 1:
            raise UserError(
                f"{KEY}.attacks move in l2 and in linf, and the budgets are of one norm: choose one of them."
            )
    for key, value in {"bisections": bisections, "shown": shown}.items():
        if value < 0:
            raise UserError(f"{KEY}.{key} is {value}: give 0 or more.")
    if examples is not None and examples < 1:
        raise UserError(f"{KEY}.examples is {examples}: give 1 or more, or null for all.")


def check_attacks(key: str, attacks: Sequence[Any]) -> None:
    """Whether they are attacks, and no two of one name, which their figures would share."""
    for it in attacks:
        if not hasattr(it, "norm"):
            raise UserError(f"{key} has {it!r}, which is no attack: name one of lightning_modules/attacks.")
    names = [it.name for it in attacks]
    if doubled := {it for it in names if names.count(it) > 1}:
        raise UserError(f"{key} has {sorted(doubled)[0]} twice: give one of them other steps or restarts.")


def check_words(key: str, given: Mapping[str, Any] | None, words: Sequence[str]) -> None:
    """Whether what was given by name has these names and no others; nothing at all is as good."""
    if not given:
        return
    if not isinstance(given, Mapping) or set(given) != set(words):
        raise UserError(f"{key} is {given!r}: give {', '.join(words[:-1])} and {words[-1]}, or set it to null.")


def check_paper(paper: Mapping[str, Any] | None) -> None:
    if paper is None:
        return
    for key in ("tau", "unit"):
        value = paper[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{KEY}.paper.{key} is {value}: give a whole number, 1 or more, or set {KEY}.paper=null.")
    if paper["tau"] * paper["unit"] > 255:
        raise UserError(f"{KEY}.paper: {paper['tau']} steps of {paper['unit']} / 255 go beyond a pixel's whole range.")
    if not isinstance(paper["attacks"], Mapping) or not paper["attacks"]:
        raise UserError(f"{KEY}.paper.attacks is {paper['attacks']!r}: name attacks of linf, or set {KEY}.paper=null.")
    check_attacks(f"{KEY}.paper.attacks", list(paper["attacks"].values()))
    for it in paper["attacks"].values():
        if it.norm != "linf":
            raise UserError(f"{KEY}.paper.attacks has {it.name}, which moves in {it.norm}: ARC_inf is of linf.")
