"""What a step of BERT's pre-training costs, by one of the same network in transformers on the same batch.

    python -m benchmarks.bert_step --override trainer=cpu
    python -m benchmarks.bert_step --lengths lengths.txt      # of instances of a corpus of one's own, a number a line

Once with rows of the full length and once with a corpus's own. "padded" takes padding along, "head everywhere" guesses
at each token and not at the masked ones alone: what each of the two is worth. An example is a token here.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.turns import Turns, table
from foundation.errors import UserError, told_as_sentences
from launch.command_line import compose_job
from launch.runs import instantiate
from lightning_modules.bert import UNUSED
from lightning_modules.networks.bert_released import released_config, to_released
from lightning_modules.networks.precision import at_least_single

OURS, PADDED, EVERYWHERE, THEIRS = "ours", "ours, padded", "ours, head everywhere", "transformers"


def drawn_lengths(rows: int, longest: int) -> list[int]:
    """As documents give them that are cut into instances of the longest length: most are full, the last of each is not,
    and a tenth aims lower."""
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(rows, generator=generator)
    kind = torch.rand(rows, generator=generator)
    lengths = torch.where(kind > 0.4, longest, (longest * share).long().clamp(min=8))
    return lengths.tolist()


def batch_of(lengths: Sequence[int], longest: int, vocabulary_size: int, most: int) -> dict[str, Tensor]:
    """What the DataModules give, of drawn ids: 15 % of a row's tokens are masked, ``most`` at most."""
    generator = torch.Generator().manual_seed(0)
    of, places = torch.tensor(lengths), torch.arange(longest)
    is_token = places < of[:, None]
    ids = torch.randint(5, vocabulary_size, is_token.shape, generator=generator) * is_token
    positions = torch.zeros(len(of), most, dtype=torch.int64)
    masked = torch.full((len(of), most), UNUSED)
    for row, length in enumerate(lengths):
        count = min(most, max(1, round(0.15 * length)))
        chosen = (torch.randperm(length - 2, generator=generator)[:count] + 1).sort().values
        positions[row, : len(chosen)], masked[row, : len(chosen)] = chosen, ids[row, chosen]
    return {
        "index": torch.arange(len(of)), "input_ids": ids, "lengths": of, "masked_positions": positions,
        "masked_ids": masked, "segment_ids": ((places >= of[:, None] // 2) & is_token).long(),
        "is_random_next": torch.arange(len(of)) % 2,
    }  # fmt: skip


def everywhere(module: Any, batch: dict[str, Tensor]) -> Tensor:
    """The loss by a head that guesses at every token."""
    x, rows = module.encode(batch)
    labels = torch.full_like(batch["input_ids"], UNUSED).scatter(1, batch["masked_positions"], batch["masked_ids"])
    logits = at_least_single(module.token_head(x, module.network.embeddings.word.weight))
    mlm = cross_entropy(logits, rows.packed(labels), ignore_index=UNUSED)
    said = at_least_single(module.next_sentence(module.pooler(x, rows)))
    return mlm + cross_entropy(said, batch["is_random_next"])


def theirs(module: Any) -> Any:
    """The same network and weights in transformers."""
    from transformers import BertConfig, BertForPreTraining

    other = BertForPreTraining(BertConfig(**released_config(module.network)))
    other.load_state_dict(to_released(module.state_dict()), strict=False)
    other.tie_weights()
    return other


def their_loss(other: Any, batch: dict[str, Tensor]) -> Tensor:
    of, places = batch["lengths"], torch.arange(batch["input_ids"].shape[1]).to(batch["lengths"].device)
    labels = torch.full_like(batch["input_ids"], UNUSED).scatter(1, batch["masked_positions"], batch["masked_ids"])
    return other(
        batch["input_ids"], attention_mask=(places < of[:, None]).long(), token_type_ids=batch["segment_ids"],
        labels=labels, next_sentence_label=batch["is_random_next"],
    ).loss  # fmt: skip


def measure(
    title: str, lengths: Sequence[int], precision: str, overrides: list[str], rounds: int = 5, longest: int = 128
) -> Turns:
    """precision: 32-true or bf16-mixed."""
    config = compose_job("train", ["experiment=bert_mini_pretrain", *overrides])
    device = torch.device("cuda" if config["trainer"]["accelerator"] == "gpu" else "cpu")
    torch.manual_seed(0)
    module = instantiate(config["lightning_module"]).to(device).train()
    module._trainer = SimpleNamespace(world_size=1, strategy=SimpleNamespace(reduce=lambda it, reduce_op: it))
    other = theirs(module).to(device).train()
    made = batch_of(lengths, longest, module.vocabulary_size, most=-(-longest * 15 // 100))
    batch = module.host_inputs({name: it.to(device) for name, it in made.items()}, 0)

    def own(padding_free: bool) -> Tensor:
        module.network.padding_free = padding_free
        return module.loss(batch)["loss"]

    losses: dict[str, tuple[Any, Callable[[], Tensor]]] = {
        OURS: (module, lambda: own(True)),
        PADDED: (module, lambda: own(False)),
        EVERYWHERE: (module, lambda: (setattr(module.network, "padding_free", True), everywhere(module, batch))[1]),
        THEIRS: (other, lambda: their_loss(other, batch)),
    }
    # One optimiser for all, so that what is compared is the network.
    optimizers = {id(it): torch.optim.AdamW(it.parameters(), lr=1e-5, fused=True) for it in (module, other)}
    turns = Turns(f"{title}, {precision}", device, 1, sum(lengths), clock="cpu_s" if device.type == "cpu" else "wall_s")
    for _ in range(rounds + 1):
        for name, (network, loss) in losses.items():
            turns.start()
            optimizers[id(network)].zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                value = loss()
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizers[id(network)].step()
            turns.stop(name)
    return turns


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--override", action="append", default=[], help="of the experiment, such as trainer=gpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--lengths", type=Path, help="a file of a corpus's own; unless given, drawn ones")
    given = parser.parse_args([] if arguments is None else arguments)
    own = drawn_lengths(given.rows, 128) if given.lengths is None else read_lengths(given.lengths, given.rows)
    of = {"full rows": [128] * given.rows, "a corpus's lengths": own}
    return [
        measure(title, lengths, precision, given.override, given.rounds)
        for title, lengths in of.items()
        for precision in ("32-true", "bf16-mixed")
    ]


def read_lengths(path: Path, rows: int) -> list[int]:
    """The first ones of a file."""
    try:
        found = [min(int(line), 128) for line in path.read_text().split()[:rows]]
    except (OSError, ValueError) as reason:
        raise UserError(f"--lengths {path} cannot be read ({reason}): give a number of tokens a line.") from None
    if len(found) < rows or min(found) < 3:
        raise UserError(f"--lengths {path}: give {rows} numbers of tokens, 3 or more each.")
    return found


if __name__ == "__main__":
    import sys

    with told_as_sentences():
        found = main(sys.argv[1:])
        print(f"{torch.get_num_threads()} threads")
        print(table([row for turns in found for row in turns.rows(THEIRS)]))
