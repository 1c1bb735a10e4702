"""Endings scored a second, by our networks and by the same networks and weights in transformers on the same batches.

    python -m benchmarks.ending_scores

Texts and endings have lengths as HellaSwag's. A decoder says how likely each ending is behind its text: ours reads a
text once for all of its endings and guesses at their tokens alone; a row of the other is text and ending, padded, and
its logits are of every token. A bidirectional network gives each row a score (``BertForMultipleChoice``), by ours
without padding and with the products that a filter takes (``networks/products.py``). An example is an ending.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.turns import Turns, table
from foundation.errors import told_as_sentences
from launch.command_line import compose_job
from launch.runs import instantiate
from lightning_modules.networks import gpt2_released
from lightning_modules.networks.bert_released import released_config, to_released
from lightning_modules.networks.products import as_in_training

OURS, THEIRS = "ours", "transformers"
TEXT, ENDING = (15, 75), (5, 40)
"""Fewest and most tokens."""


def drawn(rows: int, between: tuple[int, int], vocabulary: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ids with zeros behind, and lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(between[0], between[1] + 1, (rows,), generator=generator)
    ids = torch.randint(5, vocabulary, (rows, int(lengths.max())), generator=generator)
    return ids * (torch.arange(ids.shape[1]) < lengths[:, None]), lengths


def whole_rows(texts: Tensor, of_texts: Tensor, endings: Tensor, of_endings: Tensor) -> tuple[Tensor, Tensor]:
    """Each text with each of its endings behind it, [B K, L]; and their lengths."""
    number = len(endings) // len(texts)
    before = of_texts.repeat_interleave(number)
    lengths = before + of_endings
    rows = torch.zeros(len(endings), int(lengths.max()), dtype=torch.int64)
    for row, (text, start, end) in enumerate(zip(texts.repeat_interleave(number, 0), before, lengths, strict=True)):
        rows[row, :start], rows[row, start:end] = text[:start], endings[row, : end - start]
    return rows, lengths


def decoder_scores(texts: int, endings: int, overrides: list[str]) -> dict[str, Callable[[], Tensor]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    node = compose_job("train", ["experiment=language_model_hellaswag", *overrides])["lightning_module"]
    module: Any = instantiate(node).eval()
    other: Any = GPT2LMHeadModel(GPT2Config(**gpt2_released.released_config(module.network))).eval()
    other.load_state_dict(gpt2_released.to_released(module.network), strict=False)
    other.tie_weights()
    vocabulary = module.vocabulary_size
    contexts, of_contexts = drawn(texts, TEXT, vocabulary, 0)
    flat, of_flat = drawn(texts * endings, ENDING, vocabulary, 1)
    rows, lengths = whole_rows(contexts, of_contexts, flat, of_flat)

    def ours() -> Tensor:
        return module.ending_nats(contexts, of_contexts, flat.view(texts, endings, -1), of_flat.view(texts, -1)).sum(2)

    def theirs() -> Tensor:
        places = torch.arange(rows.shape[1])
        logits = other(rows, attention_mask=(places < lengths[:, None]).long()).logits[:, :-1]
        nats = cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1)
        asked = (places[1:] >= of_contexts.repeat_interleave(endings)[:, None]) & (places[1:] < lengths[:, None])
        return (nats * asked).sum(1).view(texts, endings)

    return {OURS: ours, THEIRS: theirs}


def chooser_scores(texts: int, endings: int, overrides: list[str]) -> dict[str, Callable[[], Tensor]]:
    from transformers import BertConfig, BertForMultipleChoice

    node = compose_job("train", ["experiment=bert_hellaswag", *overrides])["lightning_module"]
    module: Any = instantiate(node).eval()
    other: Any = BertForMultipleChoice(BertConfig(**released_config(module.network))).eval()
    other.load_state_dict(to_released(module.state_dict()), strict=False)
    vocabulary = module.vocabulary_size
    contexts, of_contexts = drawn(texts, TEXT, vocabulary, 0)
    flat, of_flat = drawn(texts * endings, ENDING, vocabulary, 1)
    rows, lengths = whole_rows(contexts, of_contexts, flat, of_flat)
    places, before = torch.arange(rows.shape[1]), of_contexts.repeat_interleave(endings)
    is_token = places < lengths[:, None]
    segments = ((places >= before[:, None]) & is_token).long()

    def ours() -> Tensor:
        with as_in_training():  # as a filter scores its pool
            return module.scores(rows, lengths, segments).view(texts, endings)

    def theirs() -> Tensor:
        shape = (texts, endings, -1)
        return other(
            rows.view(shape), attention_mask=is_token.long().view(shape), token_type_ids=segments.view(shape)
        ).logits

    return {OURS: ours, THEIRS: theirs}


KINDS = {"decoder": decoder_scores, "bidirectional": chooser_scores}


@torch.no_grad()
def measure(kind: str, overrides: list[str], rounds: int = 5, texts: int = 4, endings: int = 16) -> Turns:
    torch.manual_seed(0)
    contestants = KINDS[kind](texts, endings, overrides)
    first, other = (it() for it in contestants.values())
    torch.testing.assert_close(first, other, atol=1e-5 * float(other.abs().max().clamp(min=1)), rtol=0)
    title = f"{kind}, {texts} texts with {endings} endings"
    turns = Turns(title, torch.device("cpu"), 1, texts * endings, clock="cpu_s")
    for _ in range(rounds + 1):
        for name, score in contestants.items():
            turns.start()
            score()
            turns.stop(name)
    return turns


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--override", action="append", default=[], help="of the experiments, such as a network's size")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args([] if arguments is None else arguments)
    return [measure(kind, given.override, given.rounds) for kind in KINDS]


if __name__ == "__main__":
    import sys

    with told_as_sentences():
        found = main(sys.argv[1:])
        print(f"{torch.get_num_threads()} threads")
        print(table([row for turns in found for row in turns.rows(OURS)]))
