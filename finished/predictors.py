"""Who predicts with a run, by what its module can do. Another kind of module is a line of ``PREDICTORS``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from finished.answers import answer_questions, read_questions, read_words, tag_words
from finished.images import classify, detect, find_images
from finished.predictions import Predictions
from finished.texts import read_texts
from finished.translations import translate
from finished.words import classify_texts, embed_texts, estimate_numbers, fill_masks
from foundation.errors import UserError
from foundation.protocols import (
    Classifies,
    ClassifiesImages,
    ClassifiesText,
    DetectsObjects,
    DetectsObjectsInImages,
    EmbedsText,
    EstimatesNumbers,
    FillsMasks,
    FindsSpans,
    TagsTokens,
    Translates,
    serves,
)
from launch.runs import Finished


@dataclass(frozen=True)
class Predictor:
    """What serves a kind of module. unit: of what it is asked about."""

    unit: str
    read: Callable[[str, Finished], Any]
    """What ``input=`` names -> what is asked about; has ``names``."""
    predict: Callable[[Finished, Any, Mapping[str, Any]], Predictions]


PREDICTORS: dict[str, dict[type, Predictor]] = {
    "predictions": {
        ClassifiesImages: Predictor("image", find_images, classify),
        DetectsObjectsInImages: Predictor("image", find_images, detect),
        ClassifiesText: Predictor("text", read_texts, classify_texts),
        EstimatesNumbers: Predictor("text", read_texts, estimate_numbers),
        FillsMasks: Predictor("text", read_texts, fill_masks),
        FindsSpans: Predictor("question", read_questions, answer_questions),
        TagsTokens: Predictor("sentence", read_words, tag_words),
        Translates: Predictor("text", read_texts, translate),
    },
    "embeddings": {EmbedsText: Predictor("text", read_texts, embed_texts)},
}
"""By ``output=``, and by the protocol that the module serves."""


def predictor_of(module: Any, run: str, output: str = "predictions") -> Predictor:
    """What predicts with a module, by what the module can do."""
    for protocol, predictor in PREDICTORS[output].items():
        if serves(module, protocol):
            return predictor
    what = f"{run} is a run of {type(module).__name__}, which"
    if output == "embeddings":
        raise UserError(f"{what} makes no vectors of texts: leave out output=embeddings, or name a BERT's run.")
    if serves(module, EmbedsText):
        raise UserError(f"{what} says nothing of a text as it was trained: output=embeddings gives its vectors.")
    if serves(module, Classifies):
        raise UserError(
            f"{what} tells classes of what is neither an image nor a text or a pair, such as endings of a text or "
            "points: evaluate.py measures it on its own data."
        )
    if serves(module, DetectsObjects):
        raise UserError(
            f"{what} looks for objects in regions that its data give, and images of your own come without: name a run "
            "of a detector with an RPN. evaluate.py measures it on its own data."
        )
    raise UserError(
        f"{what} does not tell what is in an image or a text: give a classifier's or a detector's run, such as one of "
        "experiment=resnet_digits or faster_rcnn_shapes, or a BERT's."
    )
