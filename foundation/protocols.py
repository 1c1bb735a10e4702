"""What a callback asks of a module; how it leaves the module afterwards is in ``foundation.evaluation``.

What a module can do may depend on its config (InfoGAN on faces has no category), so it answers
``capabilities()`` with the protocols that it serves as configured; ``launch.parts_check`` refuses a callback
whose ``requires`` is not among them, nor the base of one, before anything starts.

A protocol names what goes in: images, token ids, latents. Where only what comes out matters, there is a base without
an input (``Classifies``), and one heir for each kind of input; who calls a module's functions asks for the heir.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from foundation.errors import UserError
from foundation.metrics import STAGES, Direction, Directions


@runtime_checkable
class SamplesImages(Protocol):
    seed: int
    """The run's, until it is set to another."""

    def sample(self, indices: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1]; image i depends on the seed and indices[i] alone."""
        ...


@runtime_checkable
class ChoosesCodes(Protocol):
    def code_ranges(self) -> dict[str, range | None]:
        """The codes by the names of their traversals: a category's values, None for a number."""
        ...

    def sample_with_codes(self, indices: Tensor, codes: Mapping[str, Any]) -> Tensor:
        """The images of ``sample``, with the codes that are named set to a value in all of them.

        A code that is None stays as drawn. A name or value that does not exist is a UserError (``check_codes``).
        """
        ...


@runtime_checkable
class MapsLatents(Protocol):
    generator: nn.Module
    """Latents [B, size] -> images [B, C, H, W] in [0, 1]."""

    def latent_layout(self) -> list[dict[str, Any]]:
        """The parts of a latent vector in their order: ``name``, ``size``, and ``values`` in words."""
        ...


@runtime_checkable
class MovesLatents(Protocol):
    """Whose images move smoothly with the numbers that they are made of."""

    image_shape: tuple[int, ...]
    """Channels, height, width."""

    def draw_latents(self, indices: Tensor) -> Tensor:
        """What the images of ``sample`` are made of, [B, size]; that of index i depends on (seed, i) alone."""
        ...

    def images_of_latents(self, latents: Tensor) -> Tensor:
        """[B, size] -> [B, C, H, W] in [0, 1], with gradient."""
        ...

    def free_latents(self) -> Tensor:
        """[size] bool: which of them are numbers that can move; the others are a category, one-hot."""
        ...

    def latent_range(self) -> tuple[float, float] | None:
        """Where those that can move lie in training; None: anywhere."""
        ...


@runtime_checkable
class TraversesLatents(Protocol):
    def traversals(self, rows: int) -> dict[str, Tensor]:
        """For each code, by name, images [rows, columns, C, H, W] in [0, 1]: in a row only that code varies."""
        ...


@runtime_checkable
class AssignsClusters(Protocol):
    """Its validation and test steps return ``index`` [B], ``label`` [B] and ``cluster`` [B, number of categorical
    codes], all int64."""

    num_clusters: list[int]
    """The number of clusters of each categorical code."""


@runtime_checkable
class WeighsClustersOfImages(AssignsClusters, Protocol):
    def assign_clusters(self, images: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> [B, number of categorical codes] int64."""
        ...

    def cluster_probabilities(self, images: Tensor) -> list[Tensor]:
        """images: [B, C, H, W] in [0, 1] -> for each categorical code [B, K], rows that sum to one."""
        ...


@runtime_checkable
class Classifies(Protocol):
    """Its training, validation and test steps return ``index`` [B], ``logits`` [B, num_classes] and ``label`` [B]."""

    num_classes: int
    class_names: list[str] | None
    """Of the data that it was trained on, where they are known."""


@runtime_checkable
class ClassifiesImages(Classifies, Protocol):
    image_shape: tuple[int, ...]
    """Channels, height, width."""

    def class_logits(self, images: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> [B, num_classes]; a softmax of them is the classes' probabilities."""
        ...


@runtime_checkable
class ClassifiesPoints(Classifies, Protocol):
    point_size: int | None
    """Coordinates of a point."""

    def class_logits(self, points: Tensor) -> Tensor:
        """points: [B, point_size] -> [B, num_classes]."""
        ...


@runtime_checkable
class ClassifiesText(Classifies, Protocol):
    vocabulary_size: int
    """Token ids lie below it."""
    max_length: int | None
    """Tokens of the longest text that it can read; None: any length."""

    def class_logits(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """input_ids: [B, L] int64, row i a text of lengths[i] tokens; lengths: [B] int64 -> [B, num_classes].

        What lies behind a text's end changes nothing. One that ``reads_pairs`` takes ``segment_ids`` [B, L], too."""
        ...


@runtime_checkable
class PredictsTokens(Protocol):
    """A language model. Its validation and test steps return, for up to P tokens of each of B texts,

    - index: [B],
    - token_ids: [B, P] int64, the ids that are guessed, -100 in places that are not used,
    - token_nats: [B, P] float32 or finer, -log of each one's probability, 0 where not used,
    - likeliest_ids: [B, P] int64, the guesses,

    and where it ``predicts_next_sentence`` also ``is_random_next`` [B] int64 and ``next_sentence_logits`` [B, 2].
    """

    guess: str
    """What its metrics are called by: ``mlm`` where tokens are masked, ``lm`` where they are the next ones."""
    predicts_next_sentence: bool
    vocabulary_size: int


@runtime_checkable
class ContinuesText(Protocol):
    """A language model that reads from the left."""

    seed: int
    vocabulary_size: int
    max_length: int | None

    def ending_nats(self, input_ids: Tensor, lengths: Tensor, endings: Tensor, ending_lengths: Tensor) -> Tensor:
        """-log of the probability of each token of the K endings of each of B texts, by all before it: [B, K, L]
        float32 or finer, 0 behind an ending's last; their sum is -log p(ending | text).

        input_ids: [B, C] int64, row i a text of lengths[i] tokens, one or more; endings: [B, K, L], of which the first
        ending_lengths [B, K] are tokens. The sum of both lengths is within ``max_length``."""
        ...

    def continuations(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        keys: Sequence[int],
        count: int,
        *,
        longest: int,
        ends: Sequence[int],
        never: Sequence[int] = (),
        p: float = 1.0,
        temperature: float = 1.0,
    ) -> list[list[list[int]]]:
        """``count`` endings of each of B texts, each at most ``longest`` tokens and up to the first of ``ends``, which
        is kept. Ending j of a text depends on the seed, the text, its key (a number, such as its place in a file) and
        j alone.

        never: ids that are not written. p: of ``top_p_choice``."""
        ...


@runtime_checkable
class FillsMasks(Protocol):
    predicts_next_sentence: bool
    vocabulary_size: int
    max_length: int | None

    def token_logits(
        self, input_ids: Tensor, lengths: Tensor, positions: Tensor, segment_ids: Tensor | None = None
    ) -> Tensor:
        """input_ids, segment_ids: [B, L]; lengths: [B]; positions: [B, P] in a row -> [B, P, vocabulary_size]."""
        ...

    def next_sentence_logits(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor) -> Tensor:
        """[B, 2]: that the second segment follows the first, and that it is random. Asked where it
        ``predicts_next_sentence``."""
        ...

    def attention(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """[layers, B, heads, L, L] float32: how much each token looks at each; rows of a text's tokens sum to one."""
        ...


@runtime_checkable
class HasReleasedLayout(Protocol):
    """It can be written down as the folders of the Hub are."""

    def released_weights(self) -> dict[str, Tensor]:
        """By the names that they have there."""
        ...

    def released_config(self) -> dict[str, Any]:
        """Of ``config.json``."""
        ...


@runtime_checkable
class EmbedsText(Protocol):
    vocabulary_size: int
    max_length: int | None

    def embed(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """A vector for each text, [B, size] float32."""
        ...


@runtime_checkable
class EstimatesNumbers(Protocol):
    """Its validation and test steps return ``index`` [B], ``estimate`` [B] and ``label`` [B], both of them numbers."""

    vocabulary_size: int
    max_length: int | None

    def estimate(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """[B] float32, of texts as ``ClassifiesText`` reads them."""
        ...


@runtime_checkable
class FindsSpans(Protocol):
    """Its validation and test steps return ``index`` [B] and ``span_logits`` [B, 2, L], of each token being an answer's
    first and its last, -inf in the padding; of the first token together that there is no answer."""

    vocabulary_size: int
    max_length: int | None

    def span_logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[B, 2, L] of a batch's ``input_ids``, ``lengths`` and ``segment_ids``."""
        ...


@runtime_checkable
class TagsTokens(Protocol):
    """Its validation and test steps return ``index`` [B], ``tags`` [B, L] and ``token_label`` [B, L] int64, -100 where
    no word begins."""

    vocabulary_size: int
    max_length: int | None
    num_classes: int
    """Of tags."""
    class_names: list[str] | None
    """The tags of the data that it was trained on, where they are known."""

    def tag_logits(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """[B, L, num_classes] float32, of texts as ``ClassifiesText`` reads them."""
        ...


@runtime_checkable
class Translates(Protocol):
    """It makes texts of texts. Its validation and test steps return

    - index: [B],
    - output_ids: [B, T] int64, what it made of each source, without begin and end, zeros behind,
    - output_lengths: [B] int64,
    - nll: [B] float32 or finer, -log of the probability of the target and its end in nats,
    - target_lengths: [B] int64, tokens of the target without its end.
    """

    vocabulary_size: int
    target_vocabulary_size: int

    def translate(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """input_ids: [B, S] int64, padded behind with 0; lengths: [B] -> ids [B, T] without begin and end, zeros
        behind, and lengths [B]; a text's do not depend on the others of its batch."""
        ...


@runtime_checkable
class EditsTargets(Protocol):
    """It is trained on targets that were edited at random."""

    tau: float
    """The temperature that decides how much."""

    def edit_probabilities(self, longest: int) -> Any:
        """P(e) of e edits in targets of m tokens, a float64 array by m = 0..longest and e = 0, 1, ...; rows that sum to
        one. P(0) is the share of targets that stay as they are. Of the vocabulary that is known: that of the data once
        training has been set up."""
        ...


@runtime_checkable
class PenalizesTransport(Protocol):
    """A classifier whose loss under perturbation is measured at a price for how far inputs move."""

    gamma: Any
    """The price, a number or a tensor of one."""
    cost: Any
    """The kind of norm, ``l2`` or ``linf``, whose square the price is of."""
    steps: int
    """Of its own ascent to the worst input."""

    def inputs_of(self, batch: Mapping[str, Any]) -> Tensor:
        """What moves, [B, ...]."""
        ...

    def losses_of(self, label: Tensor) -> Callable[[Tensor], Tensor]:
        """From inputs [B, ...] to each one's loss, [B], for these labels [B]."""
        ...

    knows_curvature_bound: bool

    def curvature_bound(self) -> float | None:
        """An upper bound on the largest eigenvalue of the loss's Hessian by its input, wherever that is; None where
        none is known. It takes seconds, and is another one after each step of training."""
        ...


@runtime_checkable
class BoundsLikelihood(Protocol):
    """Its validation and test steps return ``index`` [B], ``reconstruction_nats`` [B] and ``kl_nats`` [B, steps]:
    what adds up to an upper bound on -log p(x) of each example."""

    steps: int


@runtime_checkable
class BoundsLikelihoodOfImages(BoundsLikelihood, Protocol):
    def importance_weighted_log_likelihood(self, images: Tensor, indices: Tensor, samples: int) -> Tensor:
        """Estimates of log p(x) in nats, [B], from that many samples of each image's latents; example i's depends on
        the seed and indices[i] alone. images: [B, C, H, W] in [0, 1]."""
        ...


@dataclass(frozen=True)
class Drawing:
    """Images as they come about. A window is left, top, right, bottom and blur in pixels, pixel 0's centre being 0."""

    canvases: Tensor
    """After each step: [T, B, C, H, W] in [0, 1]."""
    read_windows: Tensor | None
    """[T, B, 5]; None where nothing is read, or without attention."""
    write_windows: Tensor | None


@runtime_checkable
class DrawsStepwise(Protocol):
    def drawing(self, indices: Tensor) -> Drawing:
        """How the images of ``sample`` come about."""
        ...

    def redrawing(self, images: Tensor, indices: Tensor) -> Drawing:
        """How these images are drawn again, with noise that indices decide. images: [B, C, H, W] in [0, 1]."""
        ...


@runtime_checkable
class DetectsObjects(Protocol):
    """Its evaluation steps return ``image_id``, [B] int64 of the data set, and ``detections``, for each image a dict of

    - boxes: [N, 4] float, left, top, right, bottom in pixels of the image as it is on disk,
    - scores: [N] float32 or finer, since scores that are rounded to ties have no order,
    - labels: [N] int64, category ids of the data set, which may have gaps (COCO's 80 lie in 1..90),
    - masks, where the module makes them: [N, H, W] bool, or N run-length encodings as COCO's tools make them.
    """

    num_classes: int
    category_ids: list[int]
    """The data set's numbers of the classes."""
    class_names: list[str] | None
    """In the same order, where they are known."""


@runtime_checkable
class DetectsObjectsInImages(DetectsObjects, Protocol):
    def detect_objects(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Images, each [C, H, W] in [0, 1] -> the detections in each."""
        ...


@runtime_checkable
class ProposesRegions(Protocol):
    """Its evaluation steps return ``image_id``, [B] int64 of the data set, and ``proposals``, for each image a dict of

    - boxes: [N, 4] float, where objects may be, the likeliest first: left, top, right, bottom in pixels of the image as
      it is on disk,
    - scores: [N] float32 or finer.
    """


@runtime_checkable
class ProposesRegionsInImages(ProposesRegions, Protocol):
    def propose_regions(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Images, each [C, H, W] in [0, 1] -> the proposals in each."""
        ...


@runtime_checkable
class WholeIteration(Protocol):
    """A training step in three parts, of which the second can be taken as a whole: captured once on a GPU and replayed.

    ``training_step`` is ``after_iteration(device_step(host_inputs(batch, iteration)))``, what the host has drawn going
    to the device in between. What each part may do: docs/contributing.md.
    """

    def host_inputs(self, batch: dict[str, Any], iteration: int) -> dict[str, Any]:
        """All that changes from one iteration to the next: the batch, keyed draws (on the host), weights of terms.

        Tensors, and dicts of them, of the same names, types and shapes each time; rows are examples, and a number
        without a dimension holds for all of them. iteration: how many are finished.
        """
        ...

    def device_step(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Zero gradients, forward, backward, clip, step, of every optimiser: detached numbers and rows of the batch.

        A replay runs no Python. So nothing is read back from the device, and there is no branch and no Python number
        that another iteration would have otherwise, nothing logged, nothing drawn on the host.
        """
        ...

    def after_iteration(self, outputs: dict[str, Tensor]) -> Any:
        """Counts, steps schedules, logs; returns what callbacks get."""
        ...


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


class Says:
    """What modules, DataModules and callbacks say of themselves to whom they do not know, and what holds for a part
    that does not say it. Written down here and nowhere else; whoever asks, asks through ``said``.

    Parts need not inherit from this class: those of other libraries say nothing.
    """

    # --- a module and a DataModule, about what goes from one to the other ----------------------------------------

    image_shape: tuple[int, ...] | None = ()
    """Channels, height, width. (): it reads or gives no images; None: images that have sizes of their own."""
    point_size: int | None = None
    """Coordinates of a point. None: it reads or gives none."""
    vocabulary_size: int | None = None
    """Token ids lie below it. None: it reads or gives none."""
    target_vocabulary_size: int | None = None
    """The same of the texts that it makes, or gives to be made."""
    max_length: int | None = None
    """Tokens of the longest text that it reads or gives. None: any length, or no texts."""
    num_classes: int | None = 0
    """Labels lie below it. 0: it knows no classes; None: its data has no labels."""
    class_names: Sequence[str] | None = None
    """In the order of their labels, where they are known."""

    # --- a module ------------------------------------------------------------------------------------------------

    def capabilities(self) -> set[type]:
        """The protocols that it serves as configured."""
        return set()

    def optimizer_names(self) -> list[str]:
        """Of its optimisers in their order. []: it has but one, without a name."""
        return []

    reads_pairs: bool = False
    """Its functions of texts take ``segment_ids`` [B, L] int64, too: 0 in the first text of a pair, 1 in the second."""
    needs_proposals: bool = False
    """The regions that it looks at come with the images, from ``datamodule.proposals``."""
    takes_proposals: bool = False
    """It looks at them where they come, in training at least."""
    needs_streams: bool = False
    """It learns from few labels and many images: from the three streams that ``datamodule.num_labels`` makes."""
    needs_find_unused_parameters: bool = False
    """Under DDP not every parameter has a gradient in every backward."""
    gradient_clip_norm: float | None = None
    """It clips its gradients itself, to this norm."""
    micro_batch_size: int | None = None
    """Examples over all ranks whose gradient it takes at once; None: a batch's."""

    def training_figures(self) -> dict[str, Callable[[Any], tuple[Tensor, int]]]:
        """What a schedule may go by in training, by its name behind ``train/``: of what ``training_step`` returned the
        sum over this rank's examples, without a dimension, and how many these are."""
        return {}

    def not_capturable(self) -> str | None:
        """Why a ``WholeIteration`` as it is configured could not be recorded and replayed; None where it can."""
        return None

    initial_prefixes: Sequence[tuple[str, str]] = (("", "network."),)
    """How names of weights from elsewhere (``init_from``) may begin there, each with how theirs begin in it."""

    def from_elsewhere(self, weights: dict[str, Tensor], config: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """All weights of a file or a run (``init_from``), renamed and put together as its own are where they are of a
        kind that it knows. config: the ``config.json`` beside a file, None where there is none; of a run that of its
        ``lightning_module``."""
        return weights

    def adopted(self, weights: dict[str, Tensor], file: str, class_names: Sequence[str] | None) -> dict[str, Tensor]:
        """Weights from elsewhere (``init_from``) under its names, as its own would be. file: the name of theirs;
        class_names: of the classes that they tell apart, where they say them."""
        return weights

    begun: str | None = None
    """What it has made of the weights that it ``adopted``, in words for the line that tells of them."""

    def refuses_to_begin(self, taken: set[str]) -> str | None:
        """Why training cannot begin with these of its weights from elsewhere, the others at their start."""
        return None

    # --- a DataModule ----------------------------------------------------------------------------------------------

    name: str | None = None
    batch_size: int | None = None
    """Of the global batch of training."""
    pad_to_max_length: bool = False
    """Its batches of texts have one shape."""
    val_size: int = 1
    """Examples of validation; 0: there is none."""
    num_labels: int | None = None
    """Labels that the streams keep. None: there are no streams."""
    unlabelled_because: str | None = None
    """Why its data have no labels, where that is known."""
    test_name: str = "test"
    """What is tested on, as papers call it."""
    tests_on_training_data: bool = False
    """What a test measures is then called ``train_set/...`` (``foundation.published``)."""
    proposals: Any = None
    """Boxes of every image that it gives beside them (``datamodules.proposals``)."""
    pixels: Any = None
    """How anybody's image file becomes an image that it gives (``datamodules.decoding.Pixels``)."""
    bits: int | None = None
    """Of a pixel that 16-bit files use, where it reads such."""

    def describe(self) -> dict[str, Any]:
        """What a record says of the data."""
        return {"name": type(self).__name__}

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first batch of an epoch of training, for tables that are another one in each."""

    def tested_on(self) -> dict[str, Any]:
        """``name`` and ``split`` of what a test's figures are of."""
        return {}

    # --- a module or a callback --------------------------------------------------------------------------------------

    def metrics(self, *of: Any) -> Directions:
        """The keys that it logs in a stage, each with the direction that is better. A contract test holds them against
        what is logged. A module is asked with ``metrics(stage)``, a callback with ``metrics(module, stage)``."""
        return {}

    requires_data: type | None = None
    """The protocol that the DataModule has to serve."""
    needs_labels: bool = False

    # --- a callback ------------------------------------------------------------------------------------------------

    requires: type | None = None
    """The protocol that the module has to serve, or the base of one that it serves."""
    for_training_only: bool = False
    """It makes a run and measures nothing: ``evaluate.py`` leaves it out."""
    monitor: str | None = None
    """The metric that it goes by."""
    mode: str | None = None
    """The direction of ``monitor`` that it takes for the better one."""
    averaged_parts: Sequence[str] | None = None
    """The module's parts whose weights it averages."""
    unavailable_because: str | None = None
    """Why it can measure nothing here; the run goes on without it."""

    def unavailable_metrics(self, module: Any, stage: str) -> Directions:
        """The keys that it therefore does not log."""
        return {}

    def refusal(self, module: Any) -> str | None:
        """Why it cannot look at what the module makes; None where it can."""
        return None

    def pictures(self, module: Any) -> set[str]:
        """The keys of the pictures that it shows in a logger."""
        return set()

    def tables(self, module: Any) -> set[str]:
        """The same of tables."""
        return set()

    def describe_for_record(self) -> dict[str, Any]:
        """By whom its figures were made, and of what: a record's ``judges``."""
        return {}


def said(part: Any, word: str) -> Any:
    """What a part says by a word of ``Says``, or what holds where it says nothing."""
    default = vars(Says)[word]
    if hasattr(part, word):
        return getattr(part, word)
    return partial(default, part) if isinstance(default, FunctionType) else default


def capabilities_of(module: Any) -> set[type]:
    return said(module, "capabilities")()


def serves(module: Any, protocol: type) -> bool:
    """Whether a module is capable of a protocol, or of an heir of it."""
    return any(protocol in it.__mro__ for it in capabilities_of(module))


def declared_metrics(module: Any, callbacks: Iterable[Any], stages: Sequence[str] = STAGES) -> dict[str, Direction]:
    """Every key that a module and callbacks log in these stages, with the direction that is better."""
    declared: dict[str, Direction] = {}
    for stage in stages:
        for part, of in [(module, (stage,)), *((it, (module, stage)) for it in callbacks)]:
            found = said(part, "metrics")(*of)
            name = type(part).__name__
            if not isinstance(found, Mapping) or not set(found.values()) <= {"max", "min", None}:
                raise UserError(
                    f"{name}.metrics gives {found!r} for {stage}: give the keys that it logs, each with max, min or "
                    "None, whichever is better."
                )
            for key in found.keys() & declared.keys():
                if found[key] != declared[key]:
                    raise UserError(
                        f"{name} declares {key} as {found[key]}, and another part as {declared[key]}: give one of them "
                        "another key."
                    )
            declared |= found
    return declared


def members_of(protocol: type) -> set[str]:
    """What a protocol asks for, by name: its own attributes and functions and those of its bases."""
    protocols = [it for it in protocol.__mro__ if getattr(it, "_is_protocol", False) and it is not Protocol]
    names = {name for it in protocols for name in (*inspect.get_annotations(it), *vars(it))}
    return {name for name in names if not name.startswith("_")}


def check_codes(codes: Mapping[str, Any], ranges: Mapping[str, range | None]) -> None:
    """Raise a UserError that names the first code or value that does not exist, and all that do."""
    known = [f"{name} ({describe_range(values)})" for name, values in ranges.items()]
    for name, value in codes.items():
        if name not in ranges:
            raise UserError(f"codes.{name}: there is no such code; this model has {', '.join(known)}.")
        values = ranges[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not (is_number if values is None else is_number and value in values):
            raise UserError(f"codes.{name} is {value!r}: give {describe_range(values)}, or null to leave it as drawn.")


def describe_range(values: range | None) -> str:
    return f"a whole number from {values[0]} to {values[-1]}" if values else "a number, in training from -1 to 1"
