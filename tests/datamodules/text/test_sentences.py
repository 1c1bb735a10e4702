import gzip
from pathlib import Path

import pytest

from datamodules.text import sentences
from datamodules.text.sentences import TextFile, files_of, split_into_sentences
from foundation.errors import UserError


def read(path: Path, layout="lines") -> list[list[str]]:
    documents: list[list[str]] = [[]]
    for it in TextFile(path).documents(layout):
        documents.append([]) if it is None else documents[-1].append(it)
    return [it for it in documents if it]


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
def test_lines_are_sentences_and_blank_lines_part_documents(tmp_path, name):
    content = "\ufeffOne.\r\n  Two. \n\n \t\n\nThree.".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    file = TextFile(tmp_path / name)
    assert list(file.documents("lines")) == ["One.", "Two.", None, None, None, "Three.", None]
    assert file.done == file.size


def test_running_text_is_cut_by_rule_wherever_its_lines_end(tmp_path):
    text = 'It was\nlate. Mr. Smith asked:\n"Why?" He left!\n\nA HEADING\n\nThe end'
    (tmp_path / "book.txt").write_text(text)
    assert read(tmp_path / "book.txt", "running") == [
        ["It was late.", 'Mr. Smith asked: "Why?"', "He left!", "A HEADING", "The end"]
    ]


def test_a_paragraph_without_an_end_is_cut_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(sentences, "PARAGRAPH", 50)
    said = [f"This is sentence number {number}." for number in range(100)]
    words = " ".join(said).split(" ")
    (tmp_path / "book.txt").write_text("\n".join(words))
    assert read(tmp_path / "book.txt", "running") == [said]


@pytest.mark.parametrize(
    "parts",
    [
        ["Mr. and Mrs. Dursley were proud.", "They were normal."],
        ["J. R. R. Tolkien wrote it.", "When?"],
        ["It costs 3.50 today.", "Tomorrow it won't!"],
        ['"Stop!" she cried.', "He did."],
        ["(It rained.)", "Then e.g. Rome was wet."],
        ["Version 2.0 is out...", "Really?!", "Yes."],
        ["no end at all"],
        ["Он пришёл.", "Он ушёл."],
    ],
)
def test_sentences_are_found(parts):
    assert split_into_sentences(" ".join(parts)) == parts


def test_sentences_of_cjk_text_need_no_blanks():
    assert split_into_sentences("今日は晴れ。明日は！「雨。」はい") == ["今日は晴れ。", "明日は！", "「雨。」", "はい"]  # noqa: RUF001


def test_a_folder_s_files_come_in_the_order_of_their_paths_at_every_depth(tmp_path):
    for name in ("b.txt", "a/z.txt.gz", "a/.hidden.txt", "notes.md", "c.TXT"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = files_of([str(tmp_path / "b.txt"), str(tmp_path)])
    assert [it.relative_to(tmp_path).as_posix() for it in found] == ["b.txt", "a/z.txt.gz", "b.txt", "c.TXT"]


@pytest.mark.parametrize("layout", ["lines", "running"])
def test_a_line_that_is_no_utf_8_is_named(tmp_path, layout):
    (tmp_path / "bad.txt").write_bytes(b"good\nb\xffd\n")
    with pytest.raises(
        UserError, match=r"bad.txt, line 2 is no UTF-8 \(invalid start byte at byte 1\): save it as UTF-8"
    ):
        read(tmp_path / "bad.txt", layout)


def test_a_line_that_is_too_long_is_named(tmp_path):
    limit = sentences.LONGEST_LINE
    (tmp_path / "long.txt").write_bytes(b"short\n" + b"x" * (limit - 1) + b"\n")
    assert len(read(tmp_path / "long.txt")[0][1]) == limit - 1
    (tmp_path / "long.txt").write_bytes(b"short\n" + b"x" * (limit + 1))
    with pytest.raises(UserError, match=r"long.txt, line 2 is longer than 10 MB: break it into sentences"):
        read(tmp_path / "long.txt")


def test_what_cannot_be_unpacked_or_found_is_named(tmp_path):
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"words " * 1000)[:-20])
    (tmp_path / "plain.txt.gz").write_bytes(b"not packed")
    for name in ("cut.txt.gz", "plain.txt.gz"):
        with pytest.raises(UserError, match=f"{name} cannot be unpacked"):
            read(tmp_path / name)
    with pytest.raises(UserError, match=r"datamodule.files=.*none.txt is no file and no folder"):
        files_of(str(tmp_path / "none.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is a folder without .txt or .txt.gz"):
        files_of(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="names nothing"):
        files_of([])
