"""Against a straightforward writing of the released script's rules, and by counting."""

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chi2, chi2_contingency

from datamodules.text.corpus import Corpus
from datamodules.text.instances import InstanceTable, Masking, Pairing, instances_of, table_of, truncated
from foundation.randomness import keyed_generator

PAD, UNKNOWN, CLS, SEP, MASK, FIRST = 0, 1, 2, 3, 4, 5
VOCABULARY = 400
SURELY = 1e-4  # a test of many at fixed seeds


def corpus_of(lengths: list[list[int]]) -> tuple[Corpus, list[list[list[int]]]]:
    """Documents of sentences of these lengths, whose every token says where it is from (up to the vocabulary's size)."""
    numbers = iter(range(10**6))
    documents = [[[FIRST + next(numbers) for _ in range(length)] for length in document] for document in lengths]
    return Corpus.of(documents), documents


MIXED = [[4, 7, 2, 9, 5], [30], [3, 3, 3, 3, 3, 3, 3, 3, 3], [12, 1], [1, 6, 25, 2]]
Instance = tuple[tuple[int, ...], tuple[int, ...], bool]


def by_the_book(documents: list[list[list[int]]], room: int, short: float, rng: random.Random) -> list[Instance]:
    """All pairs of all documents once, drawn step by step."""
    made = []
    for own, document in enumerate(documents):
        target = rng.randint(2, room) if rng.random() < short else room
        position, chunk = 0, []
        while position < len(document):
            chunk.append(document[position])
            if position == len(document) - 1 or sum(map(len, chunk)) >= target:
                split = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
                a = [token for sentence in chunk[:split] for token in sentence]
                is_random = len(chunk) == 1 or rng.random() < 0.5
                if is_random:
                    other = rng.choice([it for it in range(len(documents)) if it != own])
                    b = []
                    for sentence in documents[other][rng.randrange(len(documents[other])) :]:
                        b += sentence
                        if len(b) >= target - len(a):
                            break
                    position -= len(chunk) - split
                else:
                    b = [token for sentence in chunk[split:] for token in sentence]
                while len(a) + len(b) > room:
                    longer = a if len(a) > len(b) else b
                    longer.pop(0 if rng.random() < 0.5 else -1)
                made.append((tuple(a), tuple(b), is_random))
                chunk = []
            position += 1
    return made


def ours(corpus: Corpus, pairing: Pairing, epoch: int) -> list[Instance]:
    found = instances_of(corpus, np.arange(len(corpus)), pairing, keyed_generator(0, "test", epoch))
    tokens = corpus.token_ids.tolist()
    return [
        (tuple(tokens[a : a + m]), tuple(tokens[b : b + n]), bool(r))
        for a, m, b, n, r in zip(
            *(found[key].tolist() for key in ("a_starts", "a_lengths", "b_starts", "b_lengths", "is_random_next")),
            strict=True,
        )
    ]


@pytest.fixture(
    scope="module", params=[(20, 0.1), (29, 0.5), (9, 0.0)], ids=lambda it: f"{it[0]} tokens, {it[1]} short"
)
def both(request) -> tuple[list[list[Instance]], list[list[Instance]]]:
    """Many epochs, made by the book and by us."""
    max_length, short = request.param
    corpus, documents = corpus_of(MIXED)
    pairing, rng = Pairing(max_length, short, True), random.Random(0)
    epochs = range(1500)
    return [by_the_book(documents, max_length - 3, short, rng) for _ in epochs], [
        ours(corpus, pairing, it) for it in epochs
    ]


@pytest.mark.parametrize(
    "seen",
    [
        lambda it: len(it[0]), lambda it: len(it[1]), lambda it: len(it[0]) + len(it[1]), lambda it: it[2],
        lambda it: it[0][0], lambda it: it[0][-1], lambda it: it[1][0], lambda it: it[1][-1],
        lambda it: (it[2], len(it[0]), len(it[1])),
    ],
    ids=["length of A", "length of B", "length", "random", "first of A", "last of A", "first of B", "last of B", "shape"],
)  # fmt: skip
def test_instances_are_distributed_as_the_released_script_s(both, seen: Callable[[Instance], object]):
    counts = [Counter(seen(it) for epoch in epochs for it in epoch) for epochs in both]
    assert p_value(*counts) > SURELY


def test_epochs_have_as_many_instances_as_the_released_script_s(both):
    assert p_value(*(Counter(map(len, epochs)) for epochs in both)) > SURELY


def p_value(one: Counter, other: Counter) -> float:
    """That two counts are of one distribution; rare values are put together."""
    keys = [it for it in one | other if one[it] + other[it] >= 20]
    table = [[it[key] for key in keys] for it in (one, other)]
    rest = [it.total() - sum(row) for it, row in zip((one, other), table, strict=True)]
    table = [[*row, it] for row, it in zip(table, rest, strict=True)] if sum(rest) >= 20 else table
    return chi2_contingency(table).pvalue if len(table[0]) > 1 else 1.0


def test_a_difference_would_be_seen(both):
    """As small as one in twenty of B being taken for no random one."""
    rng = random.Random(1)
    counts = [Counter(bool(it[2]) and not (change and rng.random() < 0.05) for epoch in epochs for it in epoch)
              for change, epochs in enumerate(both)]  # fmt: skip
    assert p_value(*counts) < SURELY


def test_every_instance_fits_and_has_two_sides_from_where_it_says(both):
    _, documents = corpus_of(MIXED)
    home = {token: number for number, document in enumerate(documents) for sentence in document for token in sentence}
    longest = max(len(a) + len(b) for epoch in both[0] for a, b, _ in epoch)
    for a, b, is_random in (it for epoch in both[1][:300] for it in epoch):
        assert a
        assert b
        assert list(a) == list(range(a[0], a[0] + len(a)))
        assert list(b) == list(range(b[0], b[0] + len(b)))
        assert (home[a[0]] != home[b[0]]) == is_random
        assert len(a) + len(b) <= longest


def test_what_a_pair_loses_is_what_it_loses_token_by_token():
    def one_by_one(a: int, b: int, most: int) -> tuple[int, int]:
        while a + b > most:
            a, b = (a - 1, b) if a > b else (a, b - 1)
        return a, b

    for most in range(2, 9):
        sizes = np.array([(a, b) for a in range(1, 14) for b in range(1, 14)])
        a_start, b_start = np.zeros(len(sizes), np.int64), np.full(len(sizes), 100)
        cut = truncated(a_start, sizes[:, 0], b_start, 100 + sizes[:, 1], most, keyed_generator(0, "test"))
        assert list(zip(cut[1].tolist(), cut[3].tolist(), strict=True)) == [
            one_by_one(*it, most) for it in sizes.tolist()
        ]
        for start, length, size, at in ((cut[0], cut[1], sizes[:, 0], 0), (cut[2], cut[3], sizes[:, 1], 100)):
            assert (start >= at).all()
            assert (start + length <= at + size).all()


@pytest.mark.parametrize("next_sentence", [True, False])
def test_a_corpus_of_one_document_comes_to_an_end(next_sentence):
    corpus, _ = corpus_of([[3, 40, 2, 2]])
    found = instances_of(corpus, np.arange(1), Pairing(16, 0.5, next_sentence), keyed_generator(0, "test"))
    assert len(found["a_starts"]) >= 2


def test_without_next_sentences_every_token_is_in_one_run_unless_it_is_cut_off():
    corpus, _ = corpus_of(MIXED)
    made = ours(corpus, Pairing(31, 0.0, False), 0)
    assert all(a and not b and not is_random for a, b, is_random in made)
    assert max(len(a) for a, _, _ in made) == 29
    seen = Counter(token for a, _, _ in made for token in a)
    assert set(seen.values()) == {1}
    assert len(corpus.token_ids) - len(seen) == (30 - 29) + (1 + 6 + 25 - 29)


def test_a_table_is_of_the_documents_that_it_is_asked_for():
    corpus, documents = corpus_of(MIXED)
    found = instances_of(corpus, np.array([1, 3]), Pairing(20, 0.1, True), keyed_generator(0, "test"))
    allowed = {token for number in (1, 3) for sentence in documents[number] for token in sentence}
    starts = np.concatenate([found["a_starts"], found["b_starts"]])
    assert set(corpus.token_ids[starts].tolist()) <= allowed


# --- masks -------------------------------------------------------------------------------------------------------


def masking(kind: str = "tokens", probability: float = 0.15, most: int = 20, continues=None) -> Masking:
    flags = np.zeros(VOCABULARY, bool) if continues is None else continues
    return Masking(kind, probability, most, MASK, VOCABULARY, (CLS, SEP, PAD), flags)


def table(
    masks: Masking, lengths=None, width: int | None = None, epoch: int = 0, max_length: int = 64
) -> InstanceTable:
    corpus, _ = corpus_of([[5, 9, 4, 12, 3]] * 11 if lengths is None else lengths)
    how = {"masking": masks, "marks": (CLS, SEP, PAD), "width": width}
    return table_of(corpus, np.arange(len(corpus)), Pairing(max_length, 0.1, True), (0, "test", epoch), **how)


def unmasked(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    ids = batch["input_ids"].clone()
    rows, columns = torch.nonzero(batch["masked_ids"] >= 0, as_tuple=True)
    ids[rows, batch["masked_positions"][rows, columns]] = batch["masked_ids"][rows, columns]
    return ids


def test_a_batch_is_laid_out_as_it_says():
    whole = table(masking())
    batch = whole[torch.tensor([3, 0, 7])]
    assert {key: it.dtype for key, it in batch.items()} == dict.fromkeys(batch, torch.int64)
    assert batch["index"].tolist() == [3, 0, 7]
    for row, (ids, length, segments) in enumerate(
        zip(unmasked(batch), batch["lengths"].tolist(), batch["segment_ids"], strict=True)
    ):
        a, b = (int(whole.columns[key][batch["index"][row]]) for key in ("a_lengths", "b_lengths"))
        assert length == a + b + 3
        assert [int(ids[0]), int(ids[a + 1]), int(ids[length - 1])] == [CLS, SEP, SEP]
        assert segments.tolist() == [0] * (a + 2) + [1] * (b + 1) + [0] * (len(ids) - length)
        assert set(ids[length:].tolist()) <= {PAD}
        assert (torch.isin(ids[:length], torch.tensor([CLS, SEP, PAD])).sum()) == 3
        told = batch["masked_ids"][row]
        number = min(20, max(1, round(0.15 * length)))
        assert told[number:].tolist() == [-100] * (20 - number)
        assert batch["masked_positions"][row, number:].tolist() == [0] * (20 - number)
        positions = batch["masked_positions"][row, :number]
        assert positions.tolist() == sorted(set(positions.tolist()))
    assert batch["input_ids"].shape[1] == int(batch["lengths"].max())
    assert table(masking(), width=70)[torch.tensor([3])]["input_ids"].shape == (1, 70)
    empty = whole[torch.tensor([], dtype=torch.int64)]
    assert (empty["input_ids"].shape, empty["masked_ids"].shape) == ((0, 0), (0, 20))


def test_half_a_token_is_rounded_to_the_even_number_and_the_most_is_kept_to():
    ids = np.full((5, 60), FIRST)
    lengths = np.array([10, 30, 3, 50, 60])  # 1.5, 4.5, 0.45, 7.5 and 9 of 0.15 each
    drawn = np.random.default_rng(0).random((5, masking(most=8).columns(60)))
    _, _, told = masking(most=8).apply(ids, lengths, drawn)
    assert (told >= 0).sum(axis=1).tolist() == [2, 4, 1, 8, 8]


def test_a_row_s_masks_depend_on_its_number_alone_and_are_others_in_another_epoch():
    whole = table(masking())
    together = whole[torch.arange(8)]
    for number in range(8):
        alone = whole[torch.tensor([number])]
        for key in ("masked_positions", "masked_ids"):
            assert torch.equal(alone[key][0], together[key][number])
        length = int(alone["lengths"])
        assert torch.equal(alone["input_ids"][0, :length], together["input_ids"][number, :length])
    assert not torch.equal(table(masking(), epoch=1)[torch.arange(8)]["masked_positions"], together["masked_positions"])


@pytest.mark.parametrize("kind", ["tokens", "whole_words"])
def test_of_the_chosen_eight_in_ten_are_masked_one_stays_and_one_is_any_token(kind):
    masks = masking(kind, continues=np.arange(VOCABULARY) % 3 == 2)
    lengths = [[5, 9, 4]] * 20  # 360 tokens, all below the vocabulary's size
    counts, drawn = Counter(), Counter()
    for epoch in range(150):
        whole = table(masks, lengths, epoch=epoch)
        batch = whole[torch.arange(len(whole))]
        told = batch["masked_ids"] >= 0
        read = batch["input_ids"].gather(1, batch["masked_positions"])[told]
        was = batch["masked_ids"][told]
        counts.update({"mask": int((read == MASK).sum()), "kept": int((read == was).sum()), "all": len(was)})
        drawn.update(read[(read != MASK) & (read != was)].tolist())
        untouched = torch.ones_like(batch["input_ids"], dtype=torch.bool).scatter(1, batch["masked_positions"], False)
        untouched[:, 0] = True
        assert not (batch["input_ids"][untouched] == MASK).any()
    # A token drawn at random is [MASK] or what was there once in 400 times each.
    chance = 0.1 / VOCABULARY
    assert binomtest(counts["mask"], counts["all"], 0.8 + chance).pvalue > SURELY
    assert binomtest(counts["kept"], counts["all"], 0.1 + chance).pvalue > SURELY
    others = [drawn[it] for it in range(VOCABULARY) if it != MASK]
    statistic = sum((it - np.mean(others)) ** 2 for it in others) / np.mean(others)
    assert chi2.sf(statistic, len(others) - 1) > SURELY
    assert drawn[PAD] + drawn[CLS] + drawn[SEP] + drawn[UNKNOWN] > 0


def test_every_token_is_chosen_as_often_as_any_other():
    ids = np.full((4000, 12), FIRST)
    masks = masking(probability=0.25)
    drawn = np.random.default_rng(0).random((4000, masks.columns(12)))
    ids[:, 0], ids[:, 5], ids[:, 9] = CLS, SEP, SEP
    _, positions, told = masks.apply(ids, np.full(4000, 10), drawn)
    counts = np.bincount(positions[told >= 0], minlength=12)
    assert counts[[0, 5, 9, 10, 11]].tolist() == [0] * 5
    seen = counts[[1, 2, 3, 4, 6, 7, 8]]
    assert seen.sum() == 4000 * 2
    assert chi2.sf(((seen - seen.mean()) ** 2 / seen.mean()).sum(), 6) > SURELY


def words_by_the_book(ids: list[int], length: int, order: np.ndarray, masks: Masking) -> list[int]:
    """Which places are chosen, word by word; order: of each word, in the row."""
    words: list[list[int]] = []
    for place in range(length):
        if ids[place] in masks.never:
            continue
        if words and masks.continues_word[ids[place]]:
            words[-1].append(place)
        else:
            words.append([place])
    most = min(masks.most, max(1, round(masks.probability * length)))
    chosen: list[int] = []
    for number in sorted(range(len(words)), key=lambda it: order[it]):
        if len(chosen) + len(words[number]) <= most:
            chosen += words[number]
    return sorted(chosen)


def test_whole_words_are_those_that_a_plain_writing_of_the_rule_chooses():
    rng = np.random.default_rng(0)
    masks = masking("whole_words", probability=0.3, most=7, continues=np.arange(VOCABULARY) % 2 == 1)
    ids = rng.integers(FIRST, VOCABULARY, (300, 30))
    lengths = rng.integers(3, 31, 300)
    ids[:, 0] = CLS
    for row, length in enumerate(lengths):
        ids[row, length - 1], ids[row, rng.integers(1, length - 1)], ids[row, length:] = SEP, SEP, PAD
    drawn = rng.random((300, masks.columns(30)))
    _, positions, told = masks.apply(ids, lengths, drawn)
    for row in range(300):
        expected = words_by_the_book(ids[row].tolist(), int(lengths[row]), drawn[row, 2 * masks.most :], masks)
        assert positions[row][told[row] >= 0].tolist() == expected


def test_a_chosen_word_is_never_split():
    continues = np.arange(VOCABULARY) % 3 != 0
    whole = table(masking("whole_words", continues=continues), [[9, 9, 9]] * 10)
    batch = whole[torch.arange(len(whole))]
    ids = unmasked(batch)
    for row, length in enumerate(batch["lengths"].tolist()):
        chosen = set(batch["masked_positions"][row][batch["masked_ids"][row] >= 0].tolist())
        for place in range(2, length - 1):
            if continues[ids[row, place]] and int(ids[row, place - 1]) not in (CLS, SEP):
                assert (place in chosen) == (place - 1 in chosen)


def test_without_masks_the_text_is_whole():
    batch = table(masking("none"))[torch.arange(6)]
    assert (batch["masked_ids"] == -100).all()
    assert not (batch["input_ids"] == MASK).any()


def test_a_text_s_own_special_tokens_are_never_chosen():
    ids = np.array([[CLS, SEP, MASK, CLS, PAD, SEP]])
    drawn = np.random.default_rng(0).random((1, masking().columns(6)))
    _, positions, told = masking(probability=1.0).apply(ids, np.array([6]), drawn)
    assert positions[told >= 0].tolist() == [2]
    _, _, told = masking(probability=1.0).apply(np.array([[CLS, SEP, SEP]]), np.array([3]), drawn[:, :-3])
    assert (told == -100).all()


def test_taken_rows_are_a_table_and_the_fingerprint_is_of_places_and_text():
    whole = table(masking())
    taken = whole.take(torch.tensor([4, 2]))
    assert torch.equal(unmasked(taken[torch.tensor([1])]), unmasked(whole[torch.tensor([2])]))
    assert taken.to(torch.device("cpu")) is taken
    content = [it.tolist() for it in whole.contents()]
    assert content[0] == list(bytes.fromhex(whole.corpus.sha256))
    assert len(content) == 1 + len(whole.columns)
    assert whole.lengths.tolist() == whole[torch.arange(len(whole))]["lengths"].tolist()
