"""A row's score depends on that row alone, and on none of its padding."""

from functools import partial
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from lightning_modules.bert_fine_tuning import BertChooser
from lightning_modules.networks.bert import Bert
from lightning_modules.networks.discriminators import (
    BagOfWords,
    BertScorer,
    BiLstm,
    Convolutions,
    Ensemble,
    FeatureScorer,
)

TOKENS = {"vocabulary_size": 50, "embedding_size": 6}
FEATURES = partial(FeatureScorer, 3, hidden_size=8)
SMALL: dict[str, Any] = {
    "features": FEATURES,
    "bag_of_words": partial(BagOfWords, **TOKENS, hidden_size=5),
    "convolutions": partial(Convolutions, **TOKENS, widths=(2, 3), filters=4),
    "lstm": partial(BiLstm, **TOKENS, hidden_size=5),
    "bert": partial(BertScorer, partial(Bert, 50, 1, 8, 2)),
}
SMALL["ensemble"] = partial(Ensemble, {name: it for name, it in SMALL.items() if name != "bert"}, hidden_size=7)


def ends_of(longest: int = 9) -> dict[str, torch.Tensor]:
    lengths = torch.tensor([9, 6, 4])
    places = torch.arange(longest)
    ids = torch.randint(5, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    ids = torch.nn.functional.pad(ids, (0, longest - 9), value=7)
    segments = ((places >= 3) & (places < lengths[:, None])).long()
    return {"input_ids": ids, "segment_ids": segments, "lengths": lengths, "features": torch.randn(3, 3)}


@pytest.mark.parametrize("name", SMALL)
def test_a_score_is_of_a_row_without_its_padding(name):
    torch.manual_seed(0)
    network = SMALL[name]().eval()
    ends = ends_of()
    found = network(ends)
    assert found.shape == (3, network.heads)
    wider = ends_of(12) | {"features": ends["features"]}
    torch.testing.assert_close(network(wider), found, atol=1e-5, rtol=1e-4)
    alone = {key: it[1:2] for key, it in ends.items()} | {"input_ids": ends["input_ids"][1:2, :6],
                                                          "segment_ids": ends["segment_ids"][1:2, :6]}  # fmt: skip
    torch.testing.assert_close(network(alone), found[1:2], atol=1e-5, rtol=1e-4)
    if name != "features":
        other = network(ends | {"segment_ids": torch.zeros_like(ends["segment_ids"])})
        assert not torch.allclose(other[:, -1], found[:, -1])


def test_bert_scores_as_in_fine_tuning():
    network = SMALL["bert"]().eval()
    chooser = BertChooser(network.network, choices=3, optimizer=torch.optim.Adam).eval()
    chooser.pooler.load_state_dict(network.pooler.state_dict())
    chooser.classifier.load_state_dict(network.classifier.state_dict())
    ends = ends_of()
    scores = chooser.scores(ends["input_ids"], ends["lengths"], ends["segment_ids"])
    torch.testing.assert_close(network(ends), scores)


def test_what_is_missing_is_told():
    with pytest.raises(UserError, match=r"network.features is 3, and the pool gives 2: 2 lengths, and 4 more where"):
        FEATURES()(ends_of() | {"features": torch.zeros(3, 2)})
    with pytest.raises(UserError, match=r"network.members is empty"):
        Ensemble({})
