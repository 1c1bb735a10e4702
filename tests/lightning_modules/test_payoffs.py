"""P(e) against tables and against all targets there are; samples against the distribution they are drawn from."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from foundation.randomness import keyed_uniforms, keyed_uniforms_on_device
from lightning_modules.payoffs import (
    Draws,
    all_substitution_sums,
    chosen_among,
    distance_probabilities,
    edited,
    importance_weights,
    log_edit_counts,
    near,
    options_of,
    price_of_edit,
    sentence_bleu,
    substitution_sums,
    substitutions_among,
    with_spans_replaced,
)

FIRST = 4
TABLES = {
    ("hamming", 3, 3, 0.7, False): [0.308908, 0.444181, 0.212897, 0.034014],
    ("hamming", 5, 4, 0.5, False): [0.181997, 0.369459, 0.300005, 0.121804, 0.024727, 0.002008],
    ("hamming", 5, 4, 1.0, False): [0.024274, 0.13395, 0.295664, 0.326306, 0.180062, 0.039745],
    ("hamming", 10, 10_000, 0.85, True): [0.554719, 0.336716, 0.091974, 0.014888, 0.001581],
    ("hamming", 10, 40, 0.9, True): [0.1379, 0.302156, 0.297926, 0.174078, 0.066749],
    ("hamming", 6, 40, 0.6, True): [0.906884, 0.089365, 0.003669],
    ("edit_distance", 20, 61, 0.6, True): [0.6084],
    ("edit_distance", 20, 61, 0.7, True): [0.1908, 0.3219, 0.2653, 0.1426],
    ("edit_distance", 20, 61, 0.8, True): [0.0177, 0.0746, 0.1531, 0.2050],
    ("edit_distance", 20, 61, 0.9, True): [0.0003, 0.0030, 0.0124, 0.0338, 0.0676, 0.106, 0.137, 0.149, 0.141, 0.118],
}


def probabilities(distance, m, words, tau, rescaled):
    return distance_probabilities(distance, m, words, tau, rescaled)[m]


def texts(*rows: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Letters are words: a is the first."""
    width = max(map(len, rows))
    ids = [[ord(it) - ord("a") + FIRST for it in row] + [0] * (width - len(row)) for row in rows]
    return torch.tensor(ids, dtype=torch.int64).view(len(rows), width), torch.tensor([len(it) for it in rows])


def as_text(ids, length: int) -> str:
    return "".join(chr(it - FIRST + ord("a")) for it in ids[: int(length)])


def levenshtein(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for number, it in enumerate(one, 1):
        diagonal, row[0] = row[0], number
        for place, that in enumerate(other, 1):
            diagonal, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, diagonal + (it != that))
    return row[-1]


def fits(counts: Counter, expected: dict) -> bool:
    """Pearson's test at 1 in 10,000; what is expected less than five times is taken together."""
    total, rest, statistic, cells = sum(counts.values()), [0.0, 0], 0.0, 0
    assert counts.keys() <= expected.keys()
    for value, probability in expected.items():
        if probability * total < 5:
            rest = [rest[0] + probability * total, rest[1] + counts[value]]
            continue
        statistic, cells = statistic + (counts[value] - probability * total) ** 2 / (probability * total), cells + 1
    if rest[0] > 0.5:
        statistic, cells = statistic + (rest[1] - rest[0]) ** 2 / rest[0], cells + 1
    return statistic < chi2.ppf(0.9999, cells - 1)


# --- P(e) ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "expected"), TABLES.items(), ids=str)
def test_the_tables(setting, expected):
    """To the digits that they have."""
    found = probabilities(*setting)
    digits = max(len(str(it).partition(".")[2]) for it in expected)
    places = [
        3 if setting[3] == 0.9 and setting[0] == "edit_distance" and e >= 5 else digits for e in range(len(expected))
    ]
    assert [round(it, place) for it, place in zip(found, places, strict=False)] == expected
    assert found.sum() == pytest.approx(1)


def test_all_targets_there_are():
    """V = 3, m = 3: eq. 4 over 27 targets, by their distance."""
    found = Counter()
    for target in itertools.product(range(3), repeat=3):
        e = sum(one != other for one, other in zip(target, (0, 1, 2), strict=True))
        found[e] += math.exp(-e / 0.7)
    expected = np.array([found[e] for e in range(4)]) / sum(found.values())
    np.testing.assert_allclose(probabilities("hamming", 3, 3, 0.7, False), expected, rtol=1e-12)


def test_the_counts_of_edits_are_the_paper_s_sum():
    counts = log_edit_counts(7)
    for m in range(8):
        for e in range(2 * m + 1):
            expected = sum(math.comb(m, s) * math.comb(m + e - 2 * s, e - s) for s in range(min(m, e) + 1))
            assert math.exp(counts[m, e]) == pytest.approx(expected, rel=1e-12)
    assert math.exp(counts[7, 1]) == pytest.approx(2 * 7 + 1)  # as the text says below eq. 11
    assert np.isneginf(counts[2, 5:]).all()


@pytest.mark.parametrize("tau", [0.6, 0.7, 0.8, 0.9, 1.0])
def test_the_printed_weights_contradict_the_text_on_their_figure(tau):
    """It says that more than 60 % are intact at tau = .6; by eq. 11 as printed all tokens are edited, and more put in."""
    assert probabilities("edit_distance", 20, 61, tau, False).argmax() == 40
    assert probabilities("edit_distance", 20, 61, 0.6, True)[0] > 0.6


def test_with_its_true_size_a_vocabulary_leaves_no_word_where_it_was():
    assert probabilities("hamming", 10, 10_000, 0.85, False)[10] == pytest.approx(0.997, abs=5e-4)


def test_a_row_does_not_depend_on_how_long_the_longest_is():
    for distance in ("hamming", "edit_distance"):
        short, long = (distance_probabilities(distance, longest, 40, 0.8, True) for longest in (9, 30))
        assert np.array_equal(long[:10, : short.shape[1]], short)


# --- samples ---------------------------------------------------------------------------------------------------------


def drawn(distance: str, row: str, count: int, words: int, tau: float, rescaled: bool, seed: int = 0):
    ids, lengths = texts(row)
    draws = Draws.of(seed, 0, torch.arange(count), 1)
    return near(draws, distance, ids.expand(count, -1), lengths.expand(count), words, tau, rescaled)


@pytest.mark.parametrize(("tau", "rescaled"), [(0.7, False), (0.8, True)])
def test_replaced_words_are_drawn_from_the_payoff_distribution(tau, rescaled):
    """All 27 targets of three words out of three, each against its own probability."""
    ids, lengths, edits = drawn("hamming", "abc", 20_000, 3, tau, rescaled)
    found = Counter(as_text(row, length) for row, length in zip(ids.tolist(), lengths, strict=True))
    of_distance = probabilities("hamming", 3, 3, tau, rescaled)
    expected = {}
    for it in map("".join, itertools.product("abc", repeat=3)):
        e = sum(one != other for one, other in zip(it, "abc", strict=True))
        expected[it] = of_distance[e] / (math.comb(3, e) * 2**e)
    assert fits(found, expected)
    assert all(e == hamming(row, "abc") for row, e in zip(map(as_text, ids.tolist(), lengths), edits, strict=True))


def hamming(one: str, other: str) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_how_many_edits_there_are_is_drawn_from_theirs(tau):
    _, lengths, edits = drawn("edit_distance", "abcdef", 20_000, 10, tau, True)
    assert fits(Counter(edits.tolist()), dict(enumerate(probabilities("edit_distance", 6, 10, tau, True))))
    assert int(lengths.min()) >= 0
    assert int(lengths.max()) <= 18


def test_of_as_many_edits_each_way_to_make_them_is_equally_likely():
    """Two edits of two words out of two: what stands in the place of a word, or nothing, and where new ones come in."""
    ways = Counter()
    for s in range(3):
        for places in itertools.combinations(range(2), s):
            for choice in itertools.product([0, 1], repeat=s):  # nothing, or the other word
                for arrangement in set(itertools.permutations("k" * (2 - s) + "n" * (2 - s))):
                    for new in itertools.product("ab", repeat=2 - s):
                        ways[made(places, choice, arrangement, new)] += 1
    total = sum(ways.values())
    assert total == round(math.exp(log_edit_counts(2)[2, 2])) * 2**2
    count = 20_000
    ids, lengths = texts("ab")
    uniform = Draws.of(3, 0, torch.arange(count), 1).uniform
    edits, lengths = torch.full((count,), 2), lengths.expand(count)
    s = substitutions_among(edits, lengths, 2, uniform("a", 1)[:, 0])
    out, after = edited(ids.expand(count, -1), lengths, edits, s, uniform("b", 4), uniform("c", 8), 2)
    found = Counter(as_text(row, length) for row, length in zip(out.tolist(), after, strict=True))
    assert fits(found, {it: number / total for it, number in ways.items()})


def test_long_targets_have_the_same_shares_of_substitutions_without_a_table():
    lengths, edits = torch.tensor([3, 0, 7, 64]), torch.tensor([4, 0, 14, 100])
    kept = all_substitution_sums(64, torch.device("cpu"))[lengths, edits]
    torch.testing.assert_close(substitution_sums(lengths, edits, 64), kept, rtol=1e-12, atol=0)
    ids, lengths = texts("abcdefgh" * 9, "abc")
    out, after, edits = near(Draws.of(0, 0, torch.arange(2), 1), "edit_distance", ids, lengths, 8, 1.0, True)
    assert levenshtein(as_text(out[0], after[0]), "abcdefgh" * 9) <= edits[0] > 0


def made(places, choice, arrangement, new) -> str:
    """What two words become; what is substituted comes before the new words of its gap."""
    kept = [it for it in range(2) if it not in places]
    other = dict(zip(places, choice, strict=True))
    gaps, new = [[] for _ in range(len(kept) + 1)], list(new)
    gap = 0
    for it in arrangement:
        if it == "k":
            gap += 1
        else:
            gaps[gap].append(new.pop(0))
    text, gap = "", 0
    for place in range(2):
        if place in other:
            text += {0: "ba"[place], 1: ""}[other[place]]
        else:
            text += "".join(gaps[gap]) + "ab"[place]
            gap += 1
    return text + "".join(gaps[gap])


@pytest.mark.parametrize("distance", ["hamming", "edit_distance"])
def test_samples_are_words_at_most_as_far_away_and_nothing_else_is_touched(distance):
    rows = ["", "a", "ab", "abcdefgh", "aaaa", "hgfedcba"] * 40
    ids, lengths = texts(*rows)
    draws = Draws.of(0, 2, torch.arange(len(rows)), 1)
    out, after, edits = near(draws, distance, ids, lengths, 8, 1.0, True)
    assert (out[torch.arange(out.shape[1]) >= after[:, None]] == 0).all()
    within = out[torch.arange(out.shape[1]) < after[:, None]]
    assert within.min() >= FIRST
    assert within.max() < FIRST + 8
    for row, ids_of, length, e in zip(rows, out.tolist(), after, edits.tolist(), strict=True):
        found = as_text(ids_of, length)
        if distance == "hamming":
            assert hamming(found, row) == e
        else:
            assert levenshtein(found, row) <= e <= 2 * len(row)
    assert (edits > 0).sum() > 40
    assert len(set(after.tolist())) > 4
    assert (after[::6] == 0).all()  # nothing to edit
    none = near(Draws.of(0, 0, torch.arange(2), 1), distance, ids[:2, :0], lengths[::6][:2], 8, 1.0, True)
    assert [it.tolist() for it in none] == [[[], []], [0, 0], [0, 0]]


def test_an_unknown_word_may_become_any_word_and_is_never_drawn():
    ids = torch.full((4000, 1), 1)
    draws = Draws.of(0, 0, torch.arange(4000), 1)
    for distance in ("hamming", "edit_distance"):
        out, after, edits = near(draws, distance, ids, torch.ones(4000, dtype=torch.int64), 3, 5.0, False)
        replaced = out[(edits > 0) & (after == 1), 0]
        assert set(replaced.tolist()) - {1} == {4, 5, 6}
        assert (out[edits == 0, 0] == 1).all()


@pytest.mark.parametrize("distance", ["hamming", "edit_distance"])
def test_near_zero_every_sample_is_the_target(distance):
    ids, lengths = texts(*["abcdefgh", "a", ""] * 500)
    out, after, edits = near(Draws.of(0, 0, torch.arange(1500), 1), distance, ids, lengths, 10_000, 0.01, True)
    assert torch.equal(out, ids)
    assert torch.equal(after, lengths)
    assert not edits.any()


@pytest.mark.parametrize("distance", ["hamming", "edit_distance"])
def test_a_sample_is_a_function_of_seed_epoch_and_example(distance):
    """Whatever the batch it is in, how wide that is padded, and how many samples are drawn."""
    rows = ["abcdefgh", "abc", "hgfe", "b"]
    ids, lengths = texts(*rows)

    def of(seed, epoch, numbers, samples=1):
        numbers = torch.tensor(numbers)
        width = int(lengths[numbers].max())
        given = ids[numbers][:, :width].repeat_interleave(samples, 0), lengths[numbers].repeat_interleave(samples)
        out, after, _ = near(Draws.of(seed, epoch, 70 + numbers, samples), distance, *given, 8, 1.2, True)
        return [as_text(row, length) for row, length in zip(out.tolist(), after, strict=True)]

    whole = of(5, 3, [0, 1, 2, 3])
    assert of(5, 3, [2, 1]) + of(5, 3, [3, 0]) == [whole[it] for it in (2, 1, 3, 0)]
    assert of(5, 3, [0, 1, 2, 3], 3)[::3] == whole
    assert len({*of(5, 3, [0], 20)}) > 5
    assert of(5, 4, [0, 1, 2, 3]) != whole
    assert of(6, 3, [0, 1, 2, 3]) != whole


def test_numbers_on_a_device_are_those_of_the_host():
    rows = np.array([0, 1, 2**40 + 5, -1])
    expected = keyed_uniforms(7, "stream", 3, rows=rows, columns=5)
    found = keyed_uniforms_on_device(7, "stream", 3, rows=torch.from_numpy(rows), columns=5)
    assert np.array_equal(found.numpy(), expected)


# --- other rewards ---------------------------------------------------------------------------------------------------


def test_importance_weights_make_samples_of_one_distribution_those_of_another():
    """The mean distance under exp(r / tau), r being BLEU, by samples of the rescaled Hamming distribution. With the
    denominator of the released code, exp(-e / tau), it is another one."""
    tau, count = 2.0, 20_000
    target, everything = texts("abc"), texts(*map("".join, itertools.product("abc", repeat=3)))
    of = target[0].expand(27, -1), target[1].expand(27)
    exact = (sentence_bleu(*everything, *of) / tau).softmax(0)
    expected = float((exact * (everything[0] != of[0]).sum(1)).sum())
    ids, lengths, edits = drawn("hamming", "abc", count, 3, tau, True)
    rewards = sentence_bleu(ids, lengths, target[0].expand(count, -1), target[1].expand(count))[None]
    price = price_of_edit(options_of("hamming", 3), tau, rescaled=True)
    weights = importance_weights(rewards, -price * edits[None], tau)
    assert weights.sum().item() == pytest.approx(1)
    assert float((weights * edits).sum()) == pytest.approx(expected, abs=0.02)
    theirs = importance_weights(rewards, -edits[None] / tau, tau)
    assert abs(float((theirs * edits).sum()) - expected) > 0.05


def plain_bleu(text: str, reference: str) -> float:
    log = 0.0
    for n in range(1, 5):
        own, theirs = (Counter(it[i : i + n] for i in range(len(it) - n + 1)) for it in (text, reference))
        matches, total = sum((own & theirs).values()), max(len(text) - n + 1, 0)
        more = int(n > 1)
        log += math.log((matches + more) / (total + more)) / 4 if matches + more else -math.inf
    return math.exp(log + min(0.0, 1 - len(reference) / len(text)))


def test_bleu_is_that_of_counted_n_grams():
    pairs = [
        ("abcd", "abcd"),
        ("abab", "aabb"),
        ("a", "a"),
        ("aaaaa", "a"),
        ("abcdef", "abxdefgh"),
        ("x", "y"),
        ("bcd", "abcd"),
    ]
    ids, lengths = texts(*(one for one, _ in pairs))
    reference, reference_lengths = texts(*(other for _, other in pairs))
    found = sentence_bleu(ids, lengths, reference, reference_lengths)
    assert found.tolist() == pytest.approx([plain_bleu(*pair) for pair in pairs])
    assert found[0] == 1
    none = torch.zeros(2, dtype=torch.int64)
    assert sentence_bleu(ids[:2], none, ids[:2], torch.tensor([0, 4])).tolist() == [1, 0]


def test_one_span_of_a_candidate_is_replaced_and_never_the_last_word():
    rows = ["abcdefg", "ab", "a", ""] * 300
    ids, lengths = texts(*rows)
    out, size = with_spans_replaced(Draws.of(0, 0, torch.arange(len(rows)), 1), ids, lengths, 7)
    sizes, first = Counter(size[::4].tolist()), out[::4] != ids[::4]
    assert set(sizes) == {1, 2, 3, 4}
    assert min(sizes.values()) > 40
    assert (first.sum(1) == size[::4]).all()
    places = first.long().argmax(1)
    assert all(row[place : place + n].all() for row, place, n in zip(first, places, size[::4], strict=True))
    assert not first[:, 6].any()
    assert first[:, :6].any(0).all()
    assert (size[1::4] == 1).all()
    assert torch.equal(out[2::4], ids[2::4])
    assert not size[2::4].any()
    assert not size[3::4].any()


def test_candidates_are_chosen_by_their_rewards():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(20_000, 1)
    found = chosen_among(Draws.of(0, 0, torch.arange(20_000), 1), logits)
    assert fits(Counter(found.flatten().tolist()), dict(enumerate(logits[0].softmax(0).tolist())))
