from foundation.run_files import pictures_in, read_table, tables_in


def test_of_a_series_the_last_picture_is_shown_and_what_is_made_of_a_run_is_not(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("images/b.png", "images/a-000010.png", "images/a-000009.png", "images/c.GIF", "images/notes.txt",
                 "z.png", "curves-train-loss.png"):  # fmt: skip
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in pictures_in(tmp_path)] == [
        "images/a-000010.png", "images/b.png", "images/c.GIF", "z.png"]  # fmt: skip
    assert pictures_in(tmp_path / "nowhere") == []


def test_tables_are_all_but_the_platform_s_own(tmp_path):
    for name in ("metrics.csv", "sweep.csv", "classes.csv", "bleu.csv"):
        (tmp_path / name).touch()
    assert [path.name for path in tables_in(tmp_path)] == ["bleu.csv", "classes.csv"]


def test_columns_are_numbers_or_texts(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('word,count,share,mixed,empty\n"a, b",1,0.5,1,\nc,2,,x,\n\nd,3\n')
    assert read_table(path) == (
        ["word", "count", "share", "mixed", "empty"],
        [["a, b", 1, 0.5, "1", None], ["c", 2, None, "x", None], ["d", 3, None, "", None]],
    )


def test_an_empty_file_is_an_empty_table(tmp_path):
    (tmp_path / "t.csv").touch()
    assert read_table(tmp_path / "t.csv") == ([], [])
