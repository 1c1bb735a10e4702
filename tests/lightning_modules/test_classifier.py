"""A classifier of what is no image: token ids, whose network is all that it takes."""

from functools import partial

import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from callbacks.classification import Classification
from foundation.protocols import ClassifiesText
from lightning_modules.classifier import Classifier


class Bag(nn.Module):
    """Logits of the mean of a text's embeddings."""

    num_classes = 2

    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(5, 8), nn.Linear(8, 2)

    def forward(self, ids, lengths):
        inside = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
        mean = (self.embedding(ids) * inside.unsqueeze(2)).sum(dim=1) / lengths.unsqueeze(1)
        return self.linear(mean)


class TextClassifier(Classifier):
    vocabulary_size, max_length = 5, None

    def class_logits(self, input_ids, lengths):
        return self.network(input_ids, lengths)

    def logits(self, batch):
        return self.class_logits(batch["input_ids"], batch["lengths"])


def texts(count):
    """Those of class 1 hold a 4."""
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        ids, label = torch.randint(4, (6,), generator=generator), index % 2
        ids[index % 3] = 4 if label else 0
        yield {"index": index, "input_ids": ids, "lengths": 3 + index % 4, "label": label}


def test_it_learns_texts_and_is_measured(tmp_path):
    torch.manual_seed(0)
    module = TextClassifier(Bag(), optimizer=partial(torch.optim.Adam, lr=0.1))
    assert isinstance(module, ClassifiesText)
    assert module.metrics("train") == {"train/loss": "min"}
    trainer = Trainer(accelerator="cpu", max_steps=40, logger=False, enable_progress_bar=False, log_every_n_steps=20,
                      enable_model_summary=False, enable_checkpointing=False,
                      callbacks=[Classification(str(tmp_path))])  # fmt: skip
    loader = DataLoader(list(texts(60)), batch_size=20)  # type: ignore
    trainer.fit(module, loader)
    trainer.test(module, loader, verbose=False)
    assert float(trainer.callback_metrics["test/accuracy"]) > 0.9
