import gzip
from pathlib import Path
from typing import Any

import pytest

from datamodules.text.parallel import ParallelTextDataModule
from datamodules.text.subwords import Subwords
from datamodules.text.words import FIRST, MARKS, vocabulary_of
from foundation.errors import UserError

GERMAN = [f"Der Hund {it} läuft." for it in "abcdefgh"]
ENGLISH = [f"The dog {it} is running." for it in "abcdefgh"]


def write_tiny(data_dir: Path, monkeypatch: Any = None) -> None:
    """Twelve pairs a split, in the layouts of Multi30k and of IWSLT14."""
    for folder, splits in {
        "multi30k": ("train", "val", "test_2016_flickr"),
        "iwslt14": ("train", "valid", "test"),
    }.items():
        (data_dir / "text" / folder).mkdir(parents=True)
        for number, split in enumerate(splits):
            for language, lines in {"de": GERMAN, "en": ENGLISH}.items():
                text = "".join(f"{it} {number}\n" for it in [*lines, *lines[:4]])
                (data_dir / "text" / folder / f"{split}.{language}").write_text(text)


def two_files(folder: Path) -> list[str]:
    (folder / "tiny.de").write_text("\n".join(GERMAN) + "\n")
    (folder / "tiny.en.gz").write_bytes(gzip.compress(("\r\n".join(ENGLISH)).encode()))
    return [str(folder / "tiny.de"), str(folder / "tiny.en")]


def ready(folder: Path, **settings) -> ParallelTextDataModule:
    given = {"train": two_files(folder), "cache_dir": str(folder / "cache"), "batch_tokens": 50, "test_size": 2}
    datamodule = ParallelTextDataModule(**given | settings)
    datamodule.setup()
    return datamodule


def pairs_of(datamodule: ParallelTextDataModule, split: str) -> set[tuple[str, str]]:
    return {(one, it[0]) for one, it in zip(datamodule.sources(split), datamodule.references(split), strict=True)}


def test_lines_of_two_files_are_pairs_and_the_vocabulary_is_that_of_training(tmp_path):
    datamodule = ready(tmp_path, min_count=1, val_size=1)
    assert [len(datamodule.tables[it]) for it in ("train", "val", "test")] == [5, 1, 2]
    every = set().union(*(pairs_of(datamodule, it) for it in ("train", "val", "test")))
    assert every == set(zip(GERMAN, ENGLISH, strict=True))
    assert datamodule.vocabulary_size == FIRST + len({"Der", "Hund", "läuft", "."}) + 5
    assert datamodule.target_vocabulary_size == FIRST + len({"The", "dog", "is", "running", "."}) + 5
    assert ready(tmp_path, min_count=2).vocabulary_size == FIRST + 4
    joint = ready(tmp_path, min_count=2, joint=True, lowercase=True)
    assert (
        joint.vocabulary_size == joint.target_vocabulary_size == FIRST + 8 + 6
    )  # words of both sides, and letters that both have
    assert joint.sources("test")[0].startswith("Der")


def test_a_table_of_two_columns_says_the_same(tmp_path):
    rows = "".join(f"{number}\t{de}\t{en}\n" for number, (de, en) in enumerate(zip(GERMAN, ENGLISH, strict=True)))
    (tmp_path / "pairs.tsv").write_text(f"id\tde\ten\n{rows}")
    told = ready(tmp_path, train=str(tmp_path / "pairs.tsv"), columns=["de", "en"], header=True).describe()
    assert told == ready(tmp_path).describe()


def test_pieces_are_found_the_same_each_time_kept_and_put_together_again(tmp_path, capsys):
    settings = {"vocabulary": "bpe", "pieces": 60, "joint": True}
    datamodule = ready(tmp_path, **settings)
    made = datamodule.vocabularies["target"]
    assert isinstance(made, Subwords)
    assert made.pieces[:FIRST] == list(MARKS)
    assert made.told() == Subwords.of_texts([*datamodule.sources("train"), *made_of(datamodule)], 60).told()
    assert vocabulary_of(made.told()).told() == made.told()
    for text in made_of(datamodule):
        assert datamodule.decode(made.ids_of([text])[0]) == text
    assert all(it >= FIRST or it == 1 for it in made.ids_of(["<s> </s> <pad> Σ"])[0])
    (kept,) = (tmp_path / "cache").glob("bpe-*.json")
    kept.write_text("{")
    assert ready(tmp_path, **settings).vocabularies["target"].told() == made.told()
    assert "is damaged and is made again" in capsys.readouterr().err
    with pytest.raises(UserError, match="datamodule.pieces is 10, and the texts have"):
        ready(tmp_path, vocabulary="bpe", pieces=10)


def made_of(datamodule: ParallelTextDataModule) -> list[str]:
    return [it[0] for it in datamodule.references("train")]


def test_files_that_are_no_pairs_are_told_by_their_lines(tmp_path, capsys):
    two_files(tmp_path)

    def told(train: str | list[str], **settings) -> str:
        with pytest.raises(UserError) as error:
            ready(tmp_path, train=train, **settings)
        return str(error.value).replace(f"{tmp_path}/", "")

    def file(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    de, en = str(tmp_path / "tiny.de"), str(tmp_path / "tiny.en")
    short = file("short.en", "\n".join(ENGLISH[:5]).encode())
    assert told([de, short]).startswith("short.en ends with line 5, and tiny.de has 8 lines: line i of one")
    assert told([short, de]).startswith("short.en ends with line 5, and tiny.de has 8 lines: line i of one")
    latin = file("latin.de", "\n".join(GERMAN).encode("latin-1"))
    assert told([latin, en]).startswith("latin.de, line 1 is no UTF-8")
    assert told([de, f"{tmp_path}/no.en"]).startswith("datamodule.train=no.en is no file")
    assert told([de, en, en]).startswith("datamodule.train names 3 files: give two")
    assert told([file("a", b"\n"), file("b", b"\n")]).endswith("there are no pairs of texts.")
    gap = file("gap.en", "\n".join([*ENGLISH[:2], " ", *ENGLISH[3:]]).encode())
    assert told([de, en], test=[de, gap], test_size=None).startswith("tiny.de and gap.en, line 3: a text is empty")
    capsys.readouterr()
    assert sum(map(len, ready(tmp_path, train=[de, gap]).tables.values())) == 7
    assert "1 pairs with an empty text are left out of training." in capsys.readouterr().err
    assert told([de, en], min_count=99).startswith("datamodule.min_count=99 leaves no word of parallel_text")
    assert told([de, en], vocabulary="bp") == "datamodule.vocabulary is 'bp': did you mean 'bpe'?"
