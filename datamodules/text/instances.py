"""BERT's pretraining instances (Devlin et al. 2018, section 3.1), equal in distribution to the released script's.

That script (``create_pretraining_data.py`` of google-research/bert) goes through each document, draws as it goes, and
writes what it has made ten times over. Here an epoch's instances are drawn at its start, as places in the corpus: all
documents are gone through at once, each a step further with each instance. Their masks are drawn with each batch.

One thing differs: the script tries ten times to find another document for a random B, and takes the same one after
that. Here B is of another one wherever there are two.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.splits import Table
from datamodules.text.corpus import Corpus
from foundation.randomness import keyed_generator, keyed_uniforms

Draws = torch.Generator


@dataclass(frozen=True)
class Pairing:
    """How documents become instances.

    Args:
        max_length: tokens of an instance, [CLS] and [SEP] among them, at most.
        short_seq_prob: of a document whose instances aim at a length drawn from 2 to the longest.
        next_sentence: an instance is a pair, [CLS] A [SEP] B [SEP], and B goes on with A or is from elsewhere; else it
            is [CLS] A [SEP].
    """

    max_length: int
    short_seq_prob: float
    next_sentence: bool

    @property
    def room(self) -> int:
        """Tokens that are no [CLS] or [SEP]."""
        return self.max_length - (3 if self.next_sentence else 2)


def instances_of(corpus: Corpus, among: np.ndarray, pairing: Pairing, draws: Draws) -> dict[str, np.ndarray]:
    """Every instance of some documents, in no order that matters: where A and B lie in the tokens.

    A random B is of these documents, too. ``a_starts``, ``b_starts`` int64 [N], ``a_lengths``, ``b_lengths`` int32 [N],
    ``is_random_next`` int8 [N]. among: numbers of documents, int64.
    """
    parts = list(walked(corpus, among, pairing, draws))
    names = ("a_starts", "a_lengths", "b_starts", "b_lengths", "is_random_next")
    kinds = (np.int64, np.int32, np.int64, np.int32, np.int8)
    columns = zip(*parts, strict=True) if parts else [[np.empty(0)]] * len(names)
    return {name: np.concatenate(column).astype(kind) for name, column, kind in zip(names, columns, kinds, strict=True)}


def walked(corpus: Corpus, among: np.ndarray, pairing: Pairing, draws: Draws) -> Iterator[tuple[np.ndarray, ...]]:
    """The next instance of each document that has one left, until none has."""
    begins = np.asarray(corpus.sentences)
    first, behind = np.asarray(corpus.documents[among]), np.asarray(corpus.documents[among + 1])
    own, here = np.arange(len(among)), first.copy()  # of ``among``; the sentence that each has come to
    target = np.full(len(among), pairing.room)  # tokens that an instance of each aims at
    is_short = uniform(draws, len(among)) < pairing.short_seq_prob
    target[is_short] = whole(draws, 2, np.full(is_short.sum(), pairing.room))
    while len(here):
        end = np.minimum(np.searchsorted(begins, begins[here] + target), behind[own])
        if not pairing.next_sentence:
            starts, lengths, _, _ = truncated(begins[here], begins[end], begins[end], begins[end], pairing.room, draws)
            yield starts, lengths, starts, np.zeros_like(lengths), np.zeros_like(lengths)
            here = end
        else:
            number = end - here  # of sentences, of which A has the first
            a_end = here + whole(draws, 1, np.maximum(number - 1, 1))
            is_random = (number == 1) | (uniform(draws, len(here)) < 0.5)
            b_start, b_end = a_end.copy(), end.copy()
            some = np.flatnonzero(is_random)
            another = other_document(own[some], len(among), draws)
            b_start[some] = whole(draws, first[another], behind[another] - 1)
            wanted = begins[b_start[some]] + target[some] - (begins[a_end[some]] - begins[here[some]])
            enough = np.maximum(np.searchsorted(begins, wanted), b_start[some] + 1)
            b_end[some] = np.minimum(enough, behind[another])
            cut = truncated(begins[here], begins[a_end], begins[b_start], begins[b_end], pairing.room, draws)
            yield *cut, is_random
            here = np.where(is_random, a_end, end)  # what a random B took the place of is put back
        left = here < behind[own]
        own, here, target = own[left], here[left], target[left]


def other_document(own: np.ndarray, number: int, draws: Draws) -> np.ndarray:
    """Uniform among the others; the same where there is but one."""
    if number == 1:
        return own
    found = whole(draws, 0, np.full(len(own), number - 2))
    return found + (found >= own)


def truncated(
    a_start: np.ndarray, a_end: np.ndarray, b_start: np.ndarray, b_end: np.ndarray, most: int, draws: Draws
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Starts and lengths of A and B once the longer one (B on ties) has lost a token, from the front or from behind
    with the same chance, until both together have ``most``."""
    a, b = a_end - a_start, b_end - b_start
    is_long, shorter = a + b > most, np.minimum(a, b)
    is_even = 2 * shorter >= most  # both are cut, in turns
    kept_a = np.where(is_even, most - most // 2, np.where(a <= b, a, most - b))
    kept_a = np.where(is_long, kept_a, a)
    kept_b = np.where(is_long, most - kept_a, b)
    return a_start + of_coins(a - kept_a, draws), kept_a, b_start + of_coins(b - kept_b, draws), kept_b


def of_coins(thrown: np.ndarray, draws: Draws) -> np.ndarray:
    """How many of so many coins show heads."""
    heads = np.zeros_like(thrown)
    some = np.flatnonzero(thrown)
    counts = torch.from_numpy(thrown[some]).double()
    heads[some] = torch.binomial(counts, torch.full_like(counts, 0.5), generator=draws).numpy()
    return heads


def uniform(draws: Draws, size: int) -> np.ndarray:
    return torch.rand(size, dtype=torch.float64, generator=draws).numpy()


def whole(draws: Draws, least: Any, greatest: np.ndarray) -> np.ndarray:
    """Whole numbers from ``least`` to ``greatest``, both among them; int64, of the shape of ``greatest``."""
    return least + (uniform(draws, len(greatest)) * (greatest - least + 1)).astype(np.int64)


@dataclass(frozen=True)
class Masking:
    """Which tokens of a row are to be told, and what stands in their place (Devlin et al. 2018, section 3.1, A.1).

    Args:
        kind: ``tokens``, ``whole_words``, or ``none``: then nothing is masked and nothing is to be told.
        probability: of tokens, [CLS] and [SEP] counted, that are chosen.
        most: of a row.
        mask, vocabulary_size: the id of [MASK], and how many ids there are.
        never: ids that are never chosen.
        continues_word: bool [vocabulary_size], which pieces belong to the word of the piece before.
    """

    kind: str
    probability: float
    most: int
    mask: int
    vocabulary_size: int
    never: tuple[int, ...]
    continues_word: np.ndarray

    def columns(self, width: int) -> int:
        """Numbers that a row of ``width`` tokens is masked by; in a wider batch the first ones are the same."""
        return 2 * self.most + width

    def apply(
        self, ids: np.ndarray, lengths: np.ndarray, drawn: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ids as they are read, [B, L], and ``masked_positions``, ``masked_ids`` [B, most].

        Of the chosen 80 % become [MASK], 10 % stay, 10 % become any id of the vocabulary. drawn: [B, columns(L)] in
        [0, 1).
        """
        is_text = np.arange(ids.shape[1]) < lengths[:, None]
        may_be = is_text & ~np.isin(ids, self.never)
        count = np.clip(np.round(lengths * self.probability), 1, self.most).astype(np.int64)
        by_what, by_which, order = np.split(drawn, [self.most, 2 * self.most], axis=1)
        choose = chosen_words if self.kind == "whole_words" else chosen_tokens
        is_chosen = choose(may_be, count, order, self.continues_word[ids])
        rows, places = np.nonzero(is_chosen)  # in the order of the places
        found = is_chosen.sum(axis=1)
        number = np.arange(len(rows)) - np.repeat(found.cumsum() - found, found)
        positions = np.zeros((len(ids), self.most), np.int64)
        told = np.full((len(ids), self.most), -100, np.int64)
        positions[rows, number], told[rows, number] = places, ids[rows, places]
        any_id = (by_which[rows, number] * self.vocabulary_size).astype(np.int64)
        what = by_what[rows, number]
        masked = ids.copy()
        masked[rows, places] = np.where(what < 0.8, self.mask, np.where(what < 0.9, ids[rows, places], any_id))
        return masked, positions, told


def chosen_tokens(may_be: np.ndarray, count: np.ndarray, order: np.ndarray, _: np.ndarray) -> np.ndarray:
    """bool [B, L]: ``count`` of those that may be, or all of them."""
    rank = np.where(may_be, order, 2).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return may_be & (rank < count[:, None])


def chosen_words(may_be: np.ndarray, count: np.ndarray, order: np.ndarray, continues: np.ndarray) -> np.ndarray:
    """bool [B, L]: whole words in an order that is drawn, each unless it has more tokens than are still wanted.

    As in the released script a continuing piece belongs to the last one before it that may be chosen, also where that
    is in front of a [SEP] since the beginning of its word was cut away.
    """
    begins = may_be & ~continues
    begins[np.arange(len(may_be)), may_be.argmax(axis=1)] |= may_be.any(axis=1)
    word = np.cumsum(begins, axis=1) - 1  # of each token; -1 in front of the first
    rows = np.broadcast_to(np.arange(len(may_be))[:, None], word.shape)
    size = np.zeros(word.shape, np.int64)
    np.add.at(size, (rows[may_be], word[may_be]), 1)
    sequence = np.where(size > 0, order, 2).argsort(axis=1, kind="stable")
    is_taken = np.zeros(word.shape, bool)
    left = count.copy()
    every = np.arange(len(may_be))
    for words in sequence.T[: (size > 0).sum(axis=1).max(initial=0)]:
        fits = (size[every, words] > 0) & (size[every, words] <= left)
        left -= np.where(fits, size[every, words], 0)
        is_taken[every, words] = fits
        if not left.any():
            break
    return may_be & is_taken[rows, np.maximum(word, 0)]


class InstanceTable(Table):
    """Instances of a corpus. Rows are made on the host when they are wanted, out of the tokens that are mapped there.

    A batch has, all int64: ``input_ids`` [B, L], ``lengths`` [B], ``segment_ids`` [B, L] (0 through the first [SEP],
    then 1, and 0 in the padding), ``masked_positions`` [B, P] (0 where unused), ``masked_ids`` [B, P] (-100 where
    unused) and ``is_random_next`` [B].

    Args:
        columns: of ``instances_of``.
        corpus: where they lie.
        masking: what a row's masks are.
        key: seed, stream and more that with a row's number decides what is drawn for it.
        marks: the ids of [CLS], [SEP] and what stands behind a text.
        width: L of every batch; None: the longest of each.
    """

    def __init__(
        self,
        columns: Mapping[str, Tensor],
        corpus: Corpus,
        masking: Masking,
        key: tuple[int, str, int],
        marks: tuple[int, int, int],
        width: int | None,
    ) -> None:
        super().__init__(columns)
        self.corpus, self.masking, self.key, self.marks, self.width = corpus, masking, key, marks, width

    @property
    def lengths(self) -> Tensor:
        """Tokens of each, int64 [N]."""
        a, b = self.columns["a_lengths"], self.columns["b_lengths"]
        return (a + b + 2 + (b > 0)).long()

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        positions = positions.cpu()
        rows = {name: column[positions].numpy().astype(np.int64) for name, column in self.columns.items()}
        ids, lengths, segments = self.unmasked(rows)
        masking = self.masking
        if masking.kind != "none":
            seed, stream, *key = self.key
            drawn = keyed_uniforms(seed, stream, *key, rows=positions.numpy(), columns=masking.columns(ids.shape[1]))
            ids, places, told = masking.apply(ids, lengths, drawn)
        else:
            places = np.zeros((len(ids), masking.most), np.int64)
            told = places - 100
        batch = {"input_ids": ids, "lengths": lengths, "segment_ids": segments, "masked_positions": places,
                 "masked_ids": told, "is_random_next": rows["is_random_next"]}  # fmt: skip
        return {"index": positions} | {name: torch.from_numpy(it) for name, it in batch.items()}

    def unmasked(self, rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids [B, L], lengths [B] and segments [B, L] of rows of the columns."""
        cls, sep, pad = self.marks
        a, b = rows["a_lengths"][:, None], rows["b_lengths"][:, None]
        lengths = a + b + 2 + (b > 0)
        places = np.arange(self.width or lengths.max(initial=0))
        in_b, is_text = places > a + 1, places < lengths
        source = np.where(in_b, rows["b_starts"][:, None] + places - a - 2, rows["a_starts"][:, None] + places - 1)
        is_mark = (places == 0) | (places == a + 1) | (places == lengths - 1)
        ids = self.corpus.token_ids[np.where(is_text & ~is_mark, source, 0)].astype(np.int64)
        ids[is_mark] = sep
        ids[:, :1] = cls
        ids[~is_text] = pad
        return ids, lengths[:, 0], (in_b & is_text).astype(np.int64)

    def with_columns(self, columns: Mapping[str, Tensor]) -> "InstanceTable":
        return InstanceTable(columns, self.corpus, self.masking, self.key, self.marks, self.width)

    def to(self, device: torch.device) -> "InstanceTable":
        """Itself: what is mapped from a disk stays there, and a batch is small."""
        return self

    def contents(self) -> Iterator[Tensor]:
        yield torch.tensor(list(bytes.fromhex(self.corpus.sha256)))
        yield from self.columns.values()


def table_of(
    corpus: Corpus, among: np.ndarray, pairing: Pairing, key: tuple[int, str, int], **how: Any
) -> InstanceTable:
    """The instances of some documents that a key decides. how: see ``InstanceTable``."""
    seed, stream, *more = key
    found = instances_of(corpus, among, pairing, keyed_generator(seed, f"{stream} instances", *more))
    return InstanceTable({name: torch.from_numpy(it) for name, it in found.items()}, corpus, key=key, **how)
