import os
from pathlib import Path
from typing import Any

import pytest

from datamodules.text.cmudict import CMUDictDataModule
from foundation.errors import UserError

SHARED = Path(os.environ.get("DATA_DIR", "data")) / "text" / "cmudict"

LINES = """;;; a comment of older releases
aalborg AO1 L B AO0 R G # place, danish
aalborg(2) AA1 L B AO0 R G
abate AH0 B EY1 T
abating AH0 B EY1 T IH0 NG
a AH0
A(2) EY1
a(3) AH1
"""


def write_tiny(data_dir: Path, monkeypatch: Any = None) -> None:
    (data_dir / "text" / "cmudict").mkdir(parents=True)
    words = "".join(f"a{first}{second} AH0 {first.upper()} T\n" for first in "bdfg" for second in "eiou")
    (data_dir / "text" / "cmudict" / "cmudict.dict").write_text(LINES + words)


def one_file(folder: Path, text: str = LINES) -> str:
    (folder / "tiny.dict").write_text(text)
    return str(folder / "tiny.dict")


def ready(file: str, **settings) -> CMUDictDataModule:
    datamodule = CMUDictDataModule(**{"file": file, "batch_tokens": 2048} | settings)
    datamodule.setup()
    return datamodule


def test_words_are_kept_together_and_have_every_way_to_say_them_without_stress(tmp_path):
    spoken = {}
    for seed in range(8):
        datamodule = ready(one_file(tmp_path), test_size=1, val_size=1, split_seed=seed, batch_tokens=50)
        for split in ("val", "test"):
            assert not set(datamodule.sources(split)) & set(datamodule.sources("train"))
            spoken |= dict(zip(datamodule.sources(split), datamodule.references(split), strict=True))
    assert spoken == {
        "aalborg": ("AO L B AO R G", "AA L B AO R G"),
        "abate": ("AH B EY T",),
        "abating": ("AH B EY T IH NG",),
        "a": ("AH", "EY"),  # that with stress is the first again
    }


@pytest.mark.skipif(not SHARED.exists(), reason="needs DATA_DIR with text/cmudict")
def test_the_dictionary_has_126052_words_and_39_phones():
    lines = list(CMUDictDataModule(file=str(SHARED / "cmudict.dict"), batch_tokens=2048)._lines())
    assert len(lines) == 135166
    assert len({word for word, _ in lines}) == 126052
    assert len({it for _, phones in lines for it in phones.split()}) == 39


@pytest.mark.parametrize("line", ["word", "word AH9 T", "word # AH", "word ah"])
def test_a_line_that_is_none_is_told(tmp_path, line):
    with pytest.raises(UserError, match=f"tiny.dict, line 9 is '{line}': give a word and its phones"):
        ready(one_file(tmp_path, f"{LINES}{line}\n"))
