"""Nothing tells the right ending but the artefact."""

import pytest

from datamodules.text.planted import MARK, PlantedDataModule
from foundation.errors import UserError


def made(**settings) -> PlantedDataModule:
    return PlantedDataModule(**({"texts": 200, "candidates": 8, "batch_size": 4, "filtered": 0.25} | settings))


def test_a_share_of_candidates_is_marked_and_no_right_ending():
    pool = made(artefact=0.5).load_pool()
    marked = [f" {MARK} ." in it for text in pool for it in text.candidates]
    assert 0.45 < sum(marked) / len(marked) < 0.55
    assert not any(MARK in text.ending for text in pool)
    origins = [it == "grammar, marked" for text in pool for it in text.generators]
    assert origins == marked
    assert all(len(set(text.candidates) | {text.ending}) == 9 for text in pool)
    assert all(MARK in it for text in made(artefact=1).load_pool() for it in text.candidates)


def test_a_text_is_a_function_of_its_number():
    assert made(texts=5).load_pool() == made(texts=9).load_pool()[:5]
    assert made(data_seed=1, texts=5).load_pool() != made(texts=5).load_pool()
    datamodule = made()
    datamodule.setup()
    assert datamodule.tokenizer.unknown not in datamodule.ends.token_ids.tolist()
    with pytest.raises(UserError, match="datamodule.artefact is 2"):
        made(artefact=2)
