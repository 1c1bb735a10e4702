"""What a run says of texts: a class, a number, the words behind masks, whether one follows another, a vector."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.text.tokens import TokenTable, WordPieceDataModule
from datamodules.text.wordpiece import MASK, WordPiece
from finished.predictions import LIKELIEST, Likeliest, Predictions
from finished.texts import Texts, batches, check_like_training, encoded, finite, looked_at, record_of
from foundation.errors import UserError
from foundation.evaluation import evaluating
from launch.runs import Finished

EMBEDDINGS = "embeddings.npy"


def classify_texts(finished: Finished, asked: Texts, config: Mapping[str, Any]) -> Predictions:
    """The likeliest classes of each text or pair: with few classes all of them."""
    module = looked_at(finished, config)
    check_like_training(finished, asked)
    table, likeliest = encoded(finished, asked), Likeliest(module)
    for _, batch in batches(module, table, config["batch_size"]):
        with evaluating(module):
            likeliest.add(module.class_logits(**batch))
    record = record_of(finished, table) | {"predicted": likeliest.counts()}
    return Predictions(asked.table(likeliest.rows()), likeliest.captions(), record)


def estimate_numbers(finished: Finished, asked: Texts, config: Mapping[str, Any]) -> Predictions:
    module = looked_at(finished, config)
    check_like_training(finished, asked)
    table, found = encoded(finished, asked), []
    for _, batch in batches(module, table, config["batch_size"]):
        with evaluating(module):
            found += finite(module.estimate(**batch)).tolist()
    rows = asked.table([["estimate"], *([f"{it:.6g}"] for it in found)])
    return Predictions(rows, [f"{it:.4g}" for it in found], record_of(finished, table))


def embed_texts(finished: Finished, asked: Texts, config: Mapping[str, Any]) -> Predictions:
    """A vector for each text, in a file of NumPy's: [N, H] float32."""
    module = looked_at(finished, config)
    table, found = encoded(finished, asked), []
    for _, batch in batches(module, table, config["batch_size"]):
        with evaluating(module):
            found.append(finite(module.embed(**batch)).float())
    vectors = torch.cat(found).numpy()

    def write(folder: Path) -> None:
        np.save(folder / EMBEDDINGS, vectors)

    size = vectors.shape[1]
    norms = np.linalg.norm(vectors, axis=1)
    captions = [f"{size} numbers, length {it:.3g}" for it in norms]
    return Predictions(asked.table([[], *([] for _ in asked.texts)]), captions,
                       record_of(finished, table) | {"embedding_size": size}, write, "texts.csv")  # fmt: skip


# --- masks and next sentences ----------------------------------------------------------------------------------------


def fill_masks(finished: Finished, asked: Texts, config: Mapping[str, Any]) -> Predictions:
    """The five likeliest tokens of each ``[MASK]``, and of a pair how likely its second text follows the first."""
    module = looked_at(finished, config)
    data = finished.datamodule
    if not isinstance(data, WordPieceDataModule):
        raise UserError(f"The run's {type(data).__name__} has no vocabulary of word pieces to fill masks with.")
    table = encoded(finished, asked)
    check_masks(asked, table, data, module.predicts_next_sentence)
    heading, best = ["mask"], min(LIKELIEST, data.vocabulary_size)
    heading += [it for place in range(1, best + 1) for it in (numbered("token", place), numbered("probability", place))]
    heading += ["next_sentence_probability"] * (asked.of_pairs and module.predicts_next_sentence)
    rows, of, captions = [heading], [], []
    for positions, batch in batches(module, table, config["batch_size"]):
        with evaluating(module):
            guessed, follows = guesses(module, batch, data.tokenizer, best), following(module, batch)
        for number, told, share in zip(positions.tolist(), guessed, follows, strict=True):
            is_pair = asked.others[number] is not None and module.predicts_next_sentence
            last = [f"{share:.6g}" if is_pair else ""] if heading[-1].startswith("next") else []
            masks = [[(data.tokenizer.pieces[token], value) for token, value in it] for it in told]
            for place, tokens in enumerate(masks, start=1):
                rows.append([str(place), *(cell for token, value in tokens for cell in (token, f"{value:.6g}")), *last])
            if not masks:
                rows.append([""] * (1 + 2 * best) + last)
            of += [number] * max(len(masks), 1)
            filled = [", ".join(f"{token} {value:.1%}" for token, value in tokens) for tokens in masks]
            captions.append("; ".join(filled + [f"follows: {share:.1%}"] * is_pair))
    record = record_of(finished, table) | {"masks": sum(row[0] != "" for row in rows[1:])}
    return Predictions(asked.table(rows, of), captions, record)


def numbered(what: str, place: int) -> str:
    return what if place == 1 else f"{what}_{place}"


def check_masks(asked: Texts, table: TokenTable, data: WordPieceDataModule, next_sentence: bool) -> None:
    """Each text has something to be told of."""
    ids = table.token_ids.split(table.known_lengths.tolist())
    for number, (text, other) in enumerate(zip(asked.texts, asked.others, strict=True)):
        masks, read = f"{text} {other or ''}".count(MASK), int((ids[number] == data.tokenizer.mask).sum())
        if not masks and (other is None or not next_sentence):
            also = ", or two texts with a tab between them for whether one follows the other" if next_sentence else ""
            raise asked.refused(number, f"has no {MASK}, in capital letters, which this run would fill: put one in "
                                f"place of a word{also}")  # fmt: skip
        if read < masks:
            raise asked.refused(number, f"has a {MASK} behind its first {data.max_length} tokens, which are all that "
                                "this run reads: give a shorter text")  # fmt: skip


def guesses(
    module: Any, batch: dict[str, Tensor], tokenizer: WordPiece, best: int
) -> list[list[list[tuple[int, float]]]]:
    """Of each text, of each of its masks, the likeliest token ids with their probabilities.

    A network may have room for more tokens than its vocabulary has; these have a share, and no text.
    """
    is_mask = batch["input_ids"] == tokenizer.mask
    counts = is_mask.sum(1).tolist()
    if not max(counts):
        return [[] for _ in counts]
    positions = (~is_mask).long().argsort(dim=1, stable=True)[:, : max(counts)]
    logits = module.token_logits(positions=positions, **batch)
    values, tokens = logits.softmax(2)[..., : len(tokenizer)].topk(best, dim=2)
    values = finite(values)
    return [
        [[*zip(tokens[row, place].tolist(), values[row, place].tolist(), strict=True)] for place in range(count)]
        for row, count in enumerate(counts)
    ]


def following(module: Any, batch: dict[str, Tensor]) -> list[float]:
    """How likely each second text follows the first; not a number where the module was not trained on it."""
    if not module.predicts_next_sentence:
        return [float("nan")] * len(batch["lengths"])
    return finite(module.next_sentence_logits(**batch).softmax(1))[:, 0].tolist()
