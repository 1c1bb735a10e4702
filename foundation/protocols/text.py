"""What is asked of modules that read or write texts; those that classify them are with the other classifiers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


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
