import json
import os
import signal
from pathlib import Path

import pytest

from datamodules.text.wordpiece import SPECIAL, WordPiece, cut_longest_first
from foundation.errors import UserError
from tests.interruption import in_a_fork

RELEASED = Path(os.environ.get("DATA_DIR", "data")) / "text" / "vocab" / "bert-base-uncased-vocab.txt"
PIECES = [*SPECIAL, "the", "cat", "##s", "sat", ".", "a", "##b", "東"]


@pytest.fixture
def small() -> WordPiece:
    return WordPiece.of_pieces(PIECES, "test")


@pytest.fixture(scope="module")
def released() -> WordPiece:
    if not RELEASED.exists():
        pytest.skip(f"needs {RELEASED}")
    return WordPiece.of_file(RELEASED)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("naïve CAFÉ's", "naive cafe ' s"),
        ("İstanbul", "istanbul"),
        ("x\xadyz", "x ##y ##z"),
        ("東京 tower", "東 京 tower"),
        ("ﬁne ½", "ﬁ ##ne ½"),
        ("a" * 120, "[UNK]"),
        ("Paris is the [MASK] of France.", "paris is the [MASK] of france ."),
        ("a\x00b\ufffdc\x07d", "abc ##d"),
        ("$5~", "$ 5 ~"),
        ("", ""),
        (" \t\n ", ""),
    ],
)
def test_a_text_is_cut_as_the_released_tokenizer_cuts_it(released, text, pieces):
    (ids,) = released.ids_of([text])
    assert " ".join(released.decode(ids)) == pieces


def test_the_golden_sentences_have_the_golden_ids(released):
    encoded, first = released.encode_pairs(
        ["The quick brown fox jumps over the lazy dog.", "Hello world"],
        ["This is sentence B.", "A much longer second sentence, with unaffable words!"],
        128,
    )
    golden = "101 1996 4248 2829 4419 14523 2058 1996 13971 3899 1012 102 2023 2003 6251 1038 1012 102"
    assert encoded[0] == [int(it) for it in golden.split()]
    assert encoded[1] == [
        int(it)
        for it in [
            "101",
            "7592",
            "2088",
            "102",
            "1037",
            "2172",
            "2936",
            "2117",
            "6251",
            "1010",
            "2007",
            "14477",
            "20961",
            "3468",
            "2616",
            "999",
            "102",
        ]
    ]
    assert first == [12, 4]
    assert (len(released), released.pad, released.unknown, released.cls, released.sep, released.mask) == (
        30522,
        0,
        100,
        101,
        102,
        103,
    )


def test_a_word_of_100_characters_is_read_and_one_of_101_is_unknown(small):
    long = "a" + "b" * 99
    assert small.decode(small.ids_of([long])[0]) == ["a", *["##b"] * 99]
    assert small.decode(small.ids_of([long + "b"])[0]) == ["[UNK]"]


def test_texts_and_pairs_are_put_together_and_cut(small):
    assert small.encode(["the cats sat.", "dog"], 6) == [[2, 5, 6, 7, 8, 3], [2, 1, 3]]
    encoded, first = small.encode_pairs(["the cats sat", "the"], ["a", "a cat sat . a"], 7)
    assert encoded == [[2, 5, 6, 7, 3, 10, 3], [2, 5, 3, 10, 6, 8, 3]]
    assert first == [5, 3]


def test_the_longer_one_is_cut_first_and_the_second_on_ties():
    def one_by_one(length: int, other: int, most: int) -> tuple[int, int]:
        while length + other > most:
            length, other = (length - 1, other) if length > other else (length, other - 1)
        return length, other

    sizes = range(12)
    assert all(cut_longest_first(a, b, most) == one_by_one(a, b, most) for a in sizes for b in sizes for most in sizes)


def test_case_and_accents_are_kept_where_they_are_asked_for():
    cased = WordPiece.of_pieces([*SPECIAL, "Café", "cafe"], "test", lowercase=False)
    assert cased.decode(cased.ids_of(["Café cafe"])[0]) == ["Café", "cafe"]


def test_a_tokenizer_json_is_read_without_its_padding_and_truncation(small, tmp_path):
    small.tokenizer.enable_padding(length=128)
    small.tokenizer.enable_truncation(2)
    (tmp_path / "tokenizer.json").write_text(small.tokenizer.to_str())
    read = WordPiece.of_file(tmp_path / "tokenizer.json")
    assert read.ids_of(["the cats sat ."]) == [[5, 6, 7, 8, 9]]
    assert read.pieces == small.pieces
    assert read.continues_word.tolist() == [it.startswith("##") for it in PIECES]


def test_a_vocabulary_has_one_fingerprint_wherever_it_comes_from(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    (tmp_path / "windows.txt").write_bytes("\r\n".join(PIECES).encode())
    found = {WordPiece.of_file(tmp_path / name).sha256 for name in ("vocab.txt", "windows.txt")}
    assert found == {WordPiece.of_pieces(PIECES, "test").sha256}
    assert WordPiece.of_pieces(PIECES, "test", lowercase=False).sha256 not in found


BAD = {
    "vocab.txt": ("\n".join(it for it in PIECES if it != "[MASK]").encode(), r"vocab.txt has no \[MASK\]"),
    "twice.txt": ("\n".join([*PIECES, "cat"]).encode(), r"has 'cat' in lines 14 and 7|has 'cat' in lines 7 and 14"),
    "bytes.txt": (b"[PAD]\n\xff\n", "line 2 is no UTF-8"),
    "tokenizer.json": (b"{}", "is no tokenizer.json"),
    "bpe.json": (
        json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}).encode(),
        "is a BPE tokenizer",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_vocabulary_that_cannot_be_used_is_told(tmp_path, name):
    content, told = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        WordPiece.of_file(tmp_path / name)


def test_a_file_that_is_missing_is_told_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(
        UserError, match=r"datamodule.vocabulary=.*none.txt is no file: .* python -m datamodules.text.vocabulary"
    ):
        WordPiece.of_file(tmp_path / "none.txt")


def test_a_process_that_was_forked_off_cuts_texts_too(small):
    """It has none of the threads that have done so before."""
    texts = ["the cats sat ."] * 1000
    expected = small.ids_of(texts)

    def again() -> None:
        signal.alarm(20)
        assert small.ids_of(texts) == expected

    assert in_a_fork(again) == 0
