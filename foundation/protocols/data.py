"""What is asked of DataModules."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class HoldsTables(Protocol):
    """Asked of a DataModule."""

    tables: dict[str, Any]
    """Its splits once it is set up: ``tables[split][positions]`` is a batch as it is stored, not augmented."""
    eval_batch_size: int


@runtime_checkable
class KnowsWords(Protocol):
    """Asked of a DataModule."""

    continues_word: Any
    """bool [vocabulary_size], an array: whether a token goes on with the word that the one before began."""


@runtime_checkable
class HoldsTokens(HoldsTables, Protocol):
    """Asked of a DataModule."""

    tokenizer: Any
    """``decode`` gives the pieces of ids, of which there are len() (a module may have room for more), and ``sep`` is
    the id of what ends a text."""


@runtime_checkable
class FiltersEndings(Protocol):
    """Asked of a DataModule."""

    history: list[dict[str, float]]
    """A row for each round that has exchanged endings, of the same numbers each."""
    shown: int

    def outcome(self, first: bool = False) -> Iterator[dict[str, Any]]:
        """Each text with the endings that are shown, or were at first, in HellaSwag's layout, with ``origins`` and the
        ``rounds`` since which each is there."""
        ...


@runtime_checkable
class OffersEndings(Protocol):
    """Asked of a DataModule. A batch holds, beside ``label`` [B], ``letters`` [B, C] int64: of each ending as it stands
    in the data, spaces among them, without what all begin with."""

    only_endings: bool
    """Contexts are left out."""
    shuffled_words: bool
    """Words stand in a drawn order."""


@runtime_checkable
class HoldsQuestions(Protocol):
    """Asked of a DataModule."""

    max_question_length: int
    tables: dict[str, Any]
    """As of ``HoldsTables``. Each has ``questions``, with the ``answers`` of each as texts, and says by ``span(window,
    start, end)`` what stands from one token of a window to another; a batch has ``question`` [B], the number of each
    window's question, and ``may_start`` [B, L], where its answer may begin."""


@runtime_checkable
class HoldsReferences(Protocol):
    """Asked of a DataModule whose examples are texts to be made of texts."""

    target_vocabulary_size: int

    def sources(self, split: str) -> Sequence[str]:
        """The text of each example, by its ``index``, as it stands in the data."""
        ...

    def references(self, split: str) -> Sequence[Sequence[str]]:
        """What may be made of it, one text or more, as they stand in the data."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of target ids."""
        ...


@runtime_checkable
class HoldsImages(Protocol):
    """Asked of a DataModule."""

    image_shape: tuple[int, ...]
    """Channels, height, width."""
    tables: dict[str, Any]
    """As of ``HoldsTables``; ``tables[split][positions]["image"]`` is uint8 [B, C, H, W]."""


@runtime_checkable
class ShowsViews(HoldsImages, Protocol):
    """Asked of a DataModule."""

    def viewed(self, split: str, views: Any, batches: Sequence[Tensor]) -> Iterable[dict[str, Any]]:
        """Each of these batches of examples with ``index``, ``label`` and ``groups``, the views of its images
        (``datamodules.views``)."""
        ...

    def unfit_views(self, views: Any) -> str | None:
        """Why it has no such views; None where it has."""
        ...


@runtime_checkable
class AnnotatesObjects(Protocol):
    """Asked of a DataModule."""

    def coco_ground_truth(self, stage: str) -> dict[str, Any]:
        """The split of ``val`` or ``test`` in COCO's format, whole and the same on every rank:

        - images: id, height, width, and file_name where there is one,
        - annotations: image_id, category_id, bbox (left, top, width, height), area (of the object, which is less than
          the box's), iscrowd (0 where it is missing), and segmentation where masks are measured,
        - categories: id, name.
        """
        ...


@runtime_checkable
class GoesThroughImages(AnnotatesObjects, Protocol):
    """Asked of a DataModule."""

    tables: dict[str, Any]
    """Its splits once it is set up, each with the ``image_ids``, int64 [N], and ``sizes``, [N, 2], of its images."""

    def in_order(self, split: str) -> Iterator[dict[str, Any]]:
        """This rank's share of the batches of a split, on its device and as an evaluation has them, also of
        ``train``."""
        ...
