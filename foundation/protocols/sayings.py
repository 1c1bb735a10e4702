"""What parts say of themselves in plain words, and who asks for what is said."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, Protocol

from torch import Tensor

from foundation.errors import UserError
from foundation.metrics import STAGES, Direction, Directions


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
    pad_to_max_length: bool | None = None
    """Its batches of texts have one shape. None: it has no key for that."""
    val_size: int = 1
    """Examples of validation; 0: there is none."""
    num_labels: int | None = None
    """Labels that the streams keep. None: there are no streams."""
    unlabelled_because: str | None = None
    """Why its data have no labels, where that is known."""
    test_name: str = "test"
    """What is tested on, as papers call it."""
    test_decided_by: Sequence[str] = ()
    """Its keys that decide which examples are the test, where the data have no test of their own."""
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
