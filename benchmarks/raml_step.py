"""What a step of RAML costs by one of maximum likelihood on the same batch, and how fast a beam search writes.

    python -m benchmarks.raml_step --override trainer=cpu

An example is a token of a true target, its end among them; of the search a token that it writes. Samples by edit
distance are longer than their targets, so two rows stand for them: "near 0" draws them and changes nothing, which is
what the drawing costs, and at the experiment's temperature the longer targets are computed as well.
"""

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks.turns import Turns, table
from foundation.errors import told_as_sentences
from launch.command_line import compose_job
from launch.runs import instantiate

ML = "maximum likelihood"
OBJECTIVES: dict[str, dict[str, Any]] = {
    ML: {"objective": "ml"},
    "RAML, substitutions": {"objective": "raml", "proposal": "hamming"},
    "RAML, edits near 0": {"objective": "raml", "proposal": "edit_distance", "tau": 0.01},
    "RAML, edits": {"objective": "raml", "proposal": "edit_distance"},
    "label smoothing": {"objective": "label_smoothing"},
    "scheduled sampling": {"objective": "scheduled_sampling", "truth_decay": 1.0},
}
LENGTHS = {"raml_cmudict": (8, 7), "raml_multi30k": (13, 13)}
"""The experiments, with the usual length of a source and of a target."""


def batch_of(module: Any, rows: int, source: int, target: int, device: torch.device) -> dict[str, Tensor]:
    """Drawn ids of one length, as batches have nearly."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"input_ids": (module.vocabulary_size, source), "target_ids": (module.target_vocabulary_size, target)}
    ids = {key: torch.randint(4, size, (rows, length), generator=generator) for key, (size, length) in sizes.items()}
    lengths = {"lengths": torch.full((rows,), source), "target_lengths": torch.full((rows,), target)}
    return {key: it.to(device) for key, it in {"index": torch.arange(rows), **ids, **lengths}.items()}


class Contestant:
    """A module in training beside its optimiser, all with the same weights at first."""

    def __init__(self, experiment: str, overrides: list[str], device: torch.device, **settings: Any) -> None:
        choices = [f"lightning_module.{key}={value}" for key, value in settings.items()]
        node = compose_job("train", [f"experiment={experiment}", *overrides, *choices])["lightning_module"]
        torch.manual_seed(0)
        self.module: Any = instantiate(node).to(device).train()
        self.optimizer = self.module.optimizer(self.module.parameters())

    def step(self, batch: dict[str, Tensor], iteration: int) -> None:
        others = batch | {"index": batch["index"] + iteration * len(batch["index"])}  # so that other samples are drawn
        inputs = self.module.inputs_of(others, iteration, (batch["target_lengths"] + 1).sum())
        self.optimizer.zero_grad()
        self.module.loss(inputs)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 5.0)
        self.optimizer.step()


def device_of(overrides: list[str]) -> torch.device:
    config = compose_job("train", ["experiment=raml_copy", *overrides])
    return torch.device("cuda" if config["trainer"]["accelerator"] == "gpu" else "cpu")


def measure_training(experiment: str, overrides: list[str], rounds: int, iterations: int, tokens: int) -> Turns:
    device, (source, target) = device_of(overrides), LENGTHS[experiment]
    contestants = {name: Contestant(experiment, overrides, device, **it) for name, it in OBJECTIVES.items()}
    batch = batch_of(contestants[ML].module, max(tokens // (target + 1), 2), source, target, device)
    counted = int((batch["target_lengths"] + 1).sum())
    clock = "cpu_s" if device.type == "cpu" else "wall_s"
    turns = Turns(f"{experiment}, training", device, iterations, counted, clock)
    for turn in range(rounds + 1):
        for name, contestant in contestants.items():
            turns.start()
            for number in range(iterations):
                contestant.step(batch, turn * iterations + number)
            turns.stop(name)
    return turns


def measure_search(experiment: str, overrides: list[str], rounds: int, rows: int) -> Turns:
    """Untrained, a network ends where it happens to: here at twice the usual length, all at once."""
    device, (source, target) = device_of(overrides), LENGTHS[experiment]
    module = Contestant(experiment, overrides, device).module.eval()
    with torch.no_grad():
        module.network.output.bias[3] = -1e3
    module.output_factor, module.output_extra = 0.0, 2 * target
    batch = batch_of(module, rows, source, target, device)
    clock = "cpu_s" if device.type == "cpu" else "wall_s"
    turns = Turns(f"{experiment}, search", device, 1, rows * 2 * target, clock)
    for _ in range(rounds + 1):
        for beam in (1, 5):
            turns.start()
            module.searched(batch["input_ids"], batch["lengths"], beam)
            turns.stop(f"{beam} beam{'s' * (beam > 1)}")
    return turns


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--override", action="append", default=[], help="of the experiments, such as trainer=gpu")
    parser.add_argument("--experiment", choices=LENGTHS, help="one of them alone")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=5, help="of training in a turn")
    parser.add_argument("--tokens", type=int, default=1024, help="of a batch")
    given = parser.parse_args([] if arguments is None else arguments)
    found = []
    for experiment in [given.experiment] if given.experiment else LENGTHS:
        found.append(measure_training(experiment, given.override, given.rounds, given.iterations, given.tokens))
        found.append(measure_search(experiment, given.override, given.rounds, rows=max(given.tokens // 10, 1)))
    return found


if __name__ == "__main__":
    import sys

    with told_as_sentences():
        found = main(sys.argv[1:])
        print(f"{torch.get_num_threads()} threads")
        print(table([row for turns in found for row in turns.rows(next(iter(turns.turns)))]))
