import numpy as np
import torch
from PIL import Image

from callbacks.instruments.confident_samples import ConfidentSamples, draw_confident
from tests.callbacks.scores_on_ranks import Sampler


def surest(logits, pictures, order=None, batch_size=5):
    metric = ConfidentSamples(logits.shape[1], pictures)
    order = torch.arange(len(logits)) if order is None else order
    for index in order.split(batch_size):
        metric.update(logits[index], index)
    return metric.compute()


def test_of_few_classes_each_has_its_surest_first():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 3, generator=generator)
    logits[logits.argmax(1) == 2] *= torch.tensor([1, 1, -1])  # none is of the last class
    probabilities, predicted = logits.double().softmax(1).max(1)
    expected = torch.full((3, 4), -1)
    for row in range(3):
        members = [it for it in range(40) if predicted[it] == row]
        best = sorted(members, key=lambda it: -probabilities[it])[:4]
        expected[row, : len(best)] = torch.tensor(best, dtype=torch.int64)
    found = surest(logits, pictures=12)
    assert torch.equal(found, expected)
    assert torch.equal(surest(logits, 12, torch.randperm(40, generator=generator), batch_size=7), found)


def test_what_rounds_to_certainty_is_told_apart_and_ties_go_by_number():
    logits = torch.tensor([[60.0, 0.0], [80.0, 0.0], [70.0, 0.0], [80.0, 0.0], [0.0, 90.0]])
    assert surest(logits, 6, torch.tensor([3, 4, 1, 0, 2])).tolist() == [[1, 3, 2], [4, -1, -1]]


def test_of_many_classes_all_stand_together():
    logits = torch.eye(30)[torch.arange(50) % 30] * torch.arange(50).unsqueeze(1)
    assert surest(logits, pictures=4).tolist() == [[49, 48, 47, 46]]


def test_places_without_an_image_are_grey(tmp_path):
    class Logger:
        def log_image(self, key, images, step):
            self.shown = key, images, step

    trainer, module = type("", (), {"loggers": [Logger()], "global_step": 7})(), Sampler().eval()
    path = tmp_path / "confident_samples-glance_score.png"
    with torch.no_grad():
        draw_confident(trainer, module, torch.tensor([[3, 1, 2], [4, -1, -1]]), path)  # type: ignore
    picture = np.asarray(Image.open(path).convert("L"))
    side = picture.shape[1] // 3
    assert picture.shape == (2 * side + 2, 3 * side + 2)
    assert (picture[side + 4 :, side + 4 :] == 128).all()
    assert picture[side + 4 :, :side].std() > 10
    assert trainer.loggers[0].shown == ("images/confident_samples-glance_score", [str(path)], 7)  # type: ignore
