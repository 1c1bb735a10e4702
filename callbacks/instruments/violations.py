"""What is looked for about a classifier and an oracle, and what it is called: a probe a question.

A probe measures examples, a number a column, and makes figures of all of them. Means are over what the classifier gets
right; they are of what was found, so that a better search makes distances smaller and rates larger.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from foundation.metrics import Direction
from foundation.randomness import keyed_generator
from lightning_modules.attacks.gradient import Examples, LogitsOf
from lightning_modules.attacks.norms import Norm, size
from lightning_modules.attacks.search import Attack, search
from lightning_modules.oracle_robustness import (
    FeaturesOf,
    ascend_distance,
    feature_distance,
    modulus,
    paper_arc,
    paper_arca,
)
from lightning_modules.oracles.oracle import Oracle

ROUNDING = 1 + 1e-5  # of a norm that was cut to a budget


@dataclass
class Seen:
    """Examples that are looked at."""

    logits_of: LogitsOf
    features_of: FeaturesOf
    examples: Examples
    """Of the oracle's points, with the labels that the classifier is held to."""
    box: tuple[float, float] | None = (0.0, 1.0)
    """The least and largest value of the classifier's inputs; None: these have no bounds."""
    box: tuple[float, float] | None = (0.0, 1.0)
    """The least and largest value of the classifier's inputs; None where they have no bounds."""
    found: list[tuple[str, float, Tensor]] = field(default_factory=list)
    """By attack and the oracle's distance that it kept to, in ascending order, points; the examples' own where it has
    found none."""


class Probe(Protocol):
    columns: list[str]

    def directions(self) -> dict[str, Direction]: ...

    def measure(self, seen: Seen) -> dict[str, Tensor]:
        """By column, [B]."""
        ...

    def figures(self, of: Mapping[str, Tensor]) -> dict[str, float]:
        """of: by column, [examples]; ``correct``, 0 or 1, is among them."""
        ...


def mean(values: Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan


def right(of: Mapping[str, Tensor], column: str) -> Tensor:
    """A column of the examples that the classifier gets right."""
    return of[column][of["correct"] > 0]


def arc(smallest: Tensor, limit: float) -> float:
    """The mean of the smallest distances found, [N]; one that was not found counts as the limit of the search."""
    return mean(smallest.clamp_max(limit))


def arca(correct: Tensor, of_right: float) -> float:
    """The same mean over all examples, those that the classifier gets wrong counted as 0: accuracy times ``arc``."""
    return mean(correct) * of_right if bool((correct > 0).any()) else 0.0


def censored(smallest: Tensor) -> float:
    return mean(smallest.isinf().double())


class WithinDistance:
    """Changes of the decision within a distance that is a norm of the points, the oracle's label unchanged."""

    def __init__(self, oracle: Oracle, attack: Attack, deltas: Sequence[float], bisections: int) -> None:
        self.oracle, self.attack, self.deltas, self.bisections = oracle, attack, list(deltas), bisections
        self.name, self.columns = attack.name, [f"{attack.name}_distance"]

    def rate_at(self, delta: float) -> str:
        return f"violation_rate_{self.name}_d{delta:g}"

    def directions(self) -> dict[str, Direction]:
        of: dict[str, Direction] = {self.rate_at(delta): "min" for delta in self.deltas}
        of |= {f"{key}_{self.name}_d{self.deltas[-1]:g}": "max" for key in ("arc", "censored")}
        if self.oracle.judges_class:
            of[f"arca_{self.name}_d{self.deltas[-1]:g}"] = "max"
        return of

    def measure(self, seen: Seen) -> dict[str, Tensor]:
        examples = self.oracle.reachable(seen.examples, self.deltas[-1])
        found = search(self.attack, seen.logits_of, examples, self.deltas, self.bisections)
        seen.found.append((self.name, self.deltas[-1], found.images))
        return {self.columns[0]: found.smallest}

    def figures(self, of: Mapping[str, Tensor]) -> dict[str, float]:
        smallest, limit = right(of, self.columns[0]), self.deltas[-1]
        told = {self.rate_at(delta): mean((smallest <= delta * ROUNDING).double()) for delta in self.deltas}
        told[f"arc_{self.name}_d{limit:g}"] = arc(smallest, limit)
        told[f"arca_{self.name}_d{limit:g}"] = arca(of["correct"], arc(smallest, limit))
        return told | {f"censored_{self.name}_d{limit:g}": censored(smallest)}


class WithinBudget:
    """The same where the oracle does not see every difference: delta for it, and a budget in the input's norm."""

    def __init__(
        self, oracle: Oracle, attack: Attack, deltas: Sequence[float], budgets: Sequence[float], bisections: int
    ) -> None:
        self.oracle, self.attack, self.deltas, self.budgets = oracle, attack, list(deltas), list(budgets)
        self.bisections, self.name = bisections, attack.name
        self.columns = [f"{self.name}_d{delta:g}_{key}" for delta in deltas for key in ("norm", "distance")]

    def rate_at(self, delta: float, budget: float) -> str:
        return f"violation_rate_{self.name}_d{delta:g}_b{budget:g}"

    def directions(self) -> dict[str, Direction]:
        of: dict[str, Direction] = {}
        for delta in self.deltas:
            of |= {self.rate_at(delta, budget): "min" for budget in self.budgets}
            of |= {
                f"{key}_{self.name}_d{delta:g}_b{self.budgets[-1]:g}": "max" for key in ("input_arc", "input_censored")
            }
        if self.deltas[-1] > 0:
            of |= {f"{key}_{self.name}_d{self.deltas[-1]:g}_b{self.budgets[-1]:g}": "max"
                   for key in ("arc", "arca", "censored")}  # fmt: skip
        return of

    def measure(self, seen: Seen) -> dict[str, Tensor]:
        told = {}
        for delta in self.deltas:
            examples = self.oracle.reachable(seen.examples, delta)
            found = search(self.attack, seen.logits_of, examples, self.budgets, self.bisections)
            assert examples.reach is not None
            moved = examples.reach.see(found.images)
            distance = self.oracle.distance(moved, seen.examples.images)
            told[f"{self.name}_d{delta:g}_norm"] = found.smallest
            told[f"{self.name}_d{delta:g}_distance"] = torch.where(found.smallest.isinf(), torch.inf, distance)
            seen.found.append((self.name, delta, moved))
        return told

    def figures(self, of: Mapping[str, Tensor]) -> dict[str, float]:
        """What was found at a smaller distance counts at a larger one, too."""
        told, limit = {}, self.budgets[-1]
        smallest = distance = torch.full_like(right(of, "correct"), torch.inf)
        for delta in self.deltas:
            smallest = torch.minimum(smallest, right(of, f"{self.name}_d{delta:g}_norm"))
            distance = torch.minimum(distance, right(of, f"{self.name}_d{delta:g}_distance"))
            told |= {self.rate_at(delta, it): mean((smallest <= it * ROUNDING).double()) for it in self.budgets}
            told[f"input_arc_{self.name}_d{delta:g}_b{limit:g}"] = arc(smallest, limit)
            told[f"input_censored_{self.name}_d{delta:g}_b{limit:g}"] = censored(smallest)
        end = f"{self.name}_d{self.deltas[-1]:g}_b{limit:g}"
        own = arc(distance, self.deltas[-1])
        return told | {
            f"arc_{end}": own,
            f"arca_{end}": arca(of["correct"], own),
            f"censored_{end}": censored(distance),
        }


class Modulus:
    """omega(delta): how far apart for the net what is at most delta apart for the oracle was found to be."""

    def __init__(
        self, oracle: Oracle, norm: Norm, deltas: Sequence[float], budget: float | None, steps: int, restarts: int
    ) -> None:
        self.norm: Norm = norm
        self.oracle, self.budget, self.steps, self.restarts = oracle, budget, steps, restarts
        self.deltas = [it for it in deltas if it > 0 or oracle.pseudometric]
        self.columns = [f"omega_d{delta:g}" for delta in self.deltas]

    def key(self, delta: float) -> str:
        beside = "" if self.budget is None else f"_b{self.budget:g}"
        return f"omega_ascent{self.steps}x{self.restarts}_{self.norm}_d{delta:g}{beside}"

    def directions(self) -> dict[str, Direction]:
        return {self.key(delta): "min" for delta in self.deltas}

    def measure(self, seen: Seen) -> dict[str, Tensor]:
        points = seen.examples.images
        clean = seen.features_of(self.oracle.see(points)).detach()
        told = {}
        for delta in self.deltas:
            farthest = torch.zeros(len(points), device=points.device, dtype=clean.dtype)
            for restart in range(self.restarts):
                farthest = torch.maximum(farthest, self._ascend(seen, delta, restart).to(farthest.dtype))
            for _, kept_to, moved in seen.found:
                if kept_to == delta:
                    with torch.no_grad():
                        found = feature_distance(seen.features_of(self.oracle.see(moved)), clean)
                    farthest = torch.maximum(farthest, found)
            told[f"omega_d{delta:g}"] = farthest
        return told

    def _ascend(self, seen: Seen, delta: float, restart: int) -> Tensor:
        examples = self.oracle.reachable(seen.examples, delta)
        like = examples.images
        rows = [self.oracle.draw((1, *seen.examples.images.shape[1:]), keyed_generator(0, "modulus", int(it), restart))
                for it in examples.indices]  # fmt: skip
        drawn = torch.cat(rows).to(like) if rows else torch.zeros_like(like)
        start = self.oracle.start(seen.examples.images, delta, drawn)
        budget = torch.full(
            (len(like),), delta if self.budget is None else self.budget, device=like.device, dtype=like.dtype
        )
        assert examples.reach is not None
        return ascend_distance(seen.features_of, examples.reach.see, examples, self.norm, budget, self.steps, start)[1]

    def figures(self, of: Mapping[str, Tensor]) -> dict[str, float]:
        farthest = torch.stack([of[f"omega_d{delta:g}"] for delta in self.deltas])
        kept_to = torch.tensor(self.deltas, dtype=farthest.dtype).unsqueeze(1).expand_as(farthest)
        return {self.key(it): float(modulus(farthest.flatten(), kept_to.flatten(), it)) for it in self.deltas}


class PaperArc:
    """ARC and ARCA as the paper has them (eq. 4.2, 4.3): steps of the L-infinity norm up to tau."""

    def __init__(self, attack: Attack, tau: int, unit: int) -> None:
        self.attack, self.tau, self.unit = attack, tau, unit
        self.end = f"{attack.name}_t{tau}" + (f"_u{unit}" if unit != 1 else "")
        self.columns = [f"{attack.name}_first_step"]

    def directions(self) -> dict[str, Direction]:
        return {f"arc_paper_{self.end}": "max", f"arca_paper_{self.end}": "max"}

    def measure(self, seen: Seen) -> dict[str, Tensor]:
        budgets = [step * self.unit / 255 for step in range(1, self.tau + 1)]
        found = search(self.attack, seen.logits_of, seen.examples, budgets)
        return {self.columns[0]: 1 + (~found.wrong).sum(0)}

    def figures(self, of: Mapping[str, Tensor]) -> dict[str, float]:
        found, accuracy = float(paper_arc(right(of, self.columns[0]), self.tau)), mean(of["correct"])
        told = paper_arca(accuracy, found, self.tau) if accuracy > 0 else 0.0  # where none is right there is no ARC
        return {f"arc_paper_{self.end}": found, f"arca_paper_{self.end}": told}


class NullGradient:
    """The share of the margin's gradient (sum of magnitudes) on coordinates that the oracle cannot see."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle, self.columns = oracle, ["null_gradient_share"]

    def directions(self) -> dict[str, Direction]:
        return {"null_gradient_share": "min"}

    def measure(self, seen: Seen) -> dict[str, Tensor]:
        points, labels = seen.examples.images.detach().requires_grad_(True), seen.examples.labels.unsqueeze(1)
        with torch.enable_grad():
            logits = seen.logits_of(self.oracle.see(points))
            others = logits.scatter(1, labels, -torch.inf).amax(1)
            (gradient,) = torch.autograd.grad((logits.gather(1, labels).squeeze(1) - others).sum(), points)
        masses = gradient.abs().flatten(1).double()
        assert self.oracle.null_dims is not None
        unseen, total = masses[:, self.oracle.null_dims].sum(1), masses.sum(1)
        return {"null_gradient_share": torch.where(total > 0, unseen / total.clamp_min(1e-300), 0.0)}

    def figures(self, of: Mapping[str, Tensor]) -> dict[str, float]:
        return {"null_gradient_share": mean(of["null_gradient_share"])}


class Unconstrained:
    """The smallest change of the decision without an oracle, in the inputs' norm, beside those within its reach."""

    def __init__(
        self, oracle: Oracle, attack: Attack, budgets: Sequence[float], bisections: int, of: Sequence[str]
    ) -> None:
        self.oracle, self.attack, self.budgets, self.bisections = oracle, attack, list(budgets), bisections
        self.norm: Norm = attack.norm
        self.free, self.names = f"unconstrained_{attack.name}", list(of)
        self.columns = [self.free, *(f"{it}_moved_{self.norm}" for it in self.names)]
        self.asks = oracle.second_opinion
        self.columns += [f"{it}_disagrees" for it in self.names] if self.asks else []

    def directions(self) -> dict[str, Direction]:
        of: dict[str, Direction] = {f"{self.free}_median": None}
        for name in self.names:
            of |= {f"moved_{self.norm}_{name}_median": None, f"times_unconstrained_{name}_median": None}
            of |= {f"second_judge_disagrees_{name}": None} if self.asks else {}
        return of

    def measure(self, seen: Seen) -> dict[str, Tensor]:
        points, of = seen.examples.images, seen.examples
        inputs = self.oracle.see(points).detach()
        examples = Examples(inputs, of.labels, of.indices, seen.box)
        told = {self.free: search(self.attack, seen.logits_of, examples, self.budgets, self.bisections).smallest}
        at_largest = {name: moved for name, _, moved in seen.found}
        for name in self.names:
            moved = at_largest[name]
            changed = size(self.oracle.see(moved).detach() - inputs, self.norm)
            told[f"{name}_moved_{self.norm}"] = changed
            if self.asks:
                told[f"{name}_disagrees"] = self.oracle.disagrees(moved, points).double()
        return told

    def figures(self, of: Mapping[str, Tensor]) -> dict[str, float]:
        """Of those for which both were found; beside them stands the share that is censored."""
        told, free = {}, right(of, self.free)
        told[f"{self.free}_median"] = median(free[free.isfinite()])
        for name in self.names:
            moved = right(of, f"{name}_moved_{self.norm}")
            both = (moved > 0) & free.isfinite() & (free > 0)
            told[f"moved_{self.norm}_{name}_median"] = median(moved[both])
            told[f"times_unconstrained_{name}_median"] = median(moved[both] / free[both])
            if self.asks:
                told[f"second_judge_disagrees_{name}"] = mean(right(of, f"{name}_disagrees")[moved > 0])
        return told


def median(values: Tensor) -> float:
    """The lower of the two in the middle."""
    return float(values.sort().values[(len(values) - 1) // 2]) if len(values) else math.nan


def probes_of(
    oracle: Oracle, attacks: Sequence[Attack], deltas: Sequence[float], budgets: Sequence[float] | None, bisections: int
) -> list[WithinDistance | WithinBudget]:
    if budgets is None:
        return [WithinDistance(oracle, it, deltas, bisections) for it in attacks]
    return [WithinBudget(oracle, it, deltas, budgets, bisections) for it in attacks]
