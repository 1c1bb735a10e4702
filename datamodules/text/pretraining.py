"""Text without labels for masked language models: a corpus, of which each epoch has instances of its own."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch

from datamodules.text.corpus import Corpus
from datamodules.text.instances import InstanceTable, Masking, Pairing, table_of
from datamodules.text.tokens import WordPieceDataModule
from foundation.errors import UserError, did_you_mean
from foundation.randomness import keyed_generator

MASKINGS = ("tokens", "whole_words", "none")
SHARE = 20  # one in so many documents is the test's where nobody says how many instances


class PretrainingDataModule(WordPieceDataModule):
    """Instances of a corpus, as BERT's were made (``instances.py``); a batch is as ``InstanceTable`` says.

    Those of an epoch are a function of (seed, epoch), and their number differs a little from one to the next.
    Validation and test have documents of their own, whose instances and masks are the same for every seed.

    Args:
        max_length: tokens of an instance, at most; [CLS] and both [SEP] count.
        next_sentence: pairs whose B may be from another document; else single runs of sentences.
        masking: of ``tokens``, of ``whole_words`` or ``none``, where a module makes targets of its own.
        masked_lm_prob, max_predictions_per_seq: the share of tokens, and how many of an instance, that are to be told.
        short_seq_prob: of a document that is cut into shorter instances.
        pad_to_max_length: batches of one shape; else a batch is as wide as its longest instance.
        test_size: instances of the test, for which whole documents are held out; None: all of a twentieth of the
            documents.
        splits: see ``SplitDataModule``. ``val_size`` counts instances of held-out documents, too.
    """

    num_classes = None

    def __init__(
        self,
        *,
        max_length: int = 128,
        next_sentence: bool = True,
        masking: str = "tokens",
        masked_lm_prob: float = 0.15,
        max_predictions_per_seq: int = 20,
        short_seq_prob: float = 0.1,
        pad_to_max_length: bool = False,
        test_size: int | None = None,
        **splits: Any,
    ) -> None:
        super().__init__(max_length=max_length, **splits)
        if masking not in MASKINGS:
            raise UserError(f"datamodule.masking is {masking!r}: {did_you_mean(str(masking), MASKINGS)}")
        for key, share in {"masked_lm_prob": masked_lm_prob, "short_seq_prob": short_seq_prob}.items():
            if not 0 <= share <= 1:
                raise UserError(f"datamodule.{key} is {share}: give a share from 0 to 1.")
        if max_predictions_per_seq < 1:
            raise UserError(f"datamodule.max_predictions_per_seq is {max_predictions_per_seq}: give 1 or more.")
        if test_size is not None and test_size < 1:
            raise UserError(f"datamodule.test_size is {test_size}: give a number of instances, 1 or more, or null.")
        self.pairing = Pairing(max_length, short_seq_prob, next_sentence)
        self.masking, self.masked_lm_prob, self.max_predictions_per_seq = (
            masking,
            masked_lm_prob,
            max_predictions_per_seq,
        )
        self.pad_to_max_length, self.test_size, self.epoch = pad_to_max_length, test_size, 0

    @abstractmethod
    def load_corpus(self) -> Corpus: ...

    @cached_property
    def how(self) -> dict[str, Any]:
        """What an ``InstanceTable`` makes rows by."""
        it = self.tokenizer
        marks = (it.cls, it.sep, it.pad)
        masking = Masking(self.masking, self.masked_lm_prob, self.max_predictions_per_seq, it.mask, len(it), marks,
                          it.continues_word)  # fmt: skip
        return {"masking": masking, "marks": marks, "width": self.max_length if self.pad_to_max_length else None}

    def load(self) -> dict[str, InstanceTable]:
        self.corpus = corpus = self.load_corpus()
        self._refuse_too_few()
        order = torch.randperm(len(corpus), generator=keyed_generator(self.split_seed, "held-out documents")).numpy()
        test, order = self._held_out("test", order, self.test_size)
        val, order = self._held_out("val", order, self.val_size)
        if len(order) < self.documents_needed:
            raise UserError(
                f"datamodule.test_size={self.test_size} and datamodule.val_size={self.val_size} take so many of the "
                f"{len(corpus):,} documents of {self.name} that {len(order)} are left to train on: choose smaller ones."
            )
        self.trained_on = np.sort(order)
        tables = {"train": self._of_epoch(), "val": val, "test": test}
        self.first_sizes = {split: len(table) for split, table in tables.items()}
        return tables

    def cut(self, loaded: dict[str, InstanceTable]) -> dict[str, InstanceTable]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return loaded

    @property
    def documents_needed(self) -> int:
        """By each split: a random B is from another document of the same split."""
        return 2 if self.pairing.next_sentence else 1

    def _refuse_too_few(self) -> None:
        number, needed = len(self.corpus), self.documents_needed * (2 + bool(self.val_size))
        if number >= needed:
            return
        why = "held-out documents, and B of pairs from others" if self.pairing.next_sentence else "held-out documents"
        also = " A corpus of one file's running text is one document." if number == 1 else ""
        or_else = ", or set datamodule.next_sentence=false" if self.pairing.next_sentence and number > 1 else ""
        raise UserError(
            f"{self.name} is {number} document{'s' * (number > 1)}, and {needed} are the fewest ({why}): put a blank "
            f"line between documents{or_else}.{also}"
        )

    def _held_out(self, split: str, order: np.ndarray, size: int | None) -> tuple[InstanceTable, np.ndarray]:
        """Instances of the first of these documents, ``size`` of them, and the documents that are left."""
        key = (self.split_seed, f"{split} pretraining", 0)
        if size is None:
            number = max(len(self.corpus) // SHARE, self.documents_needed)
            return table_of(self.corpus, order[:number], self.pairing, key, **self.how), order[number:]
        tokens = np.cumsum(self.corpus.tokens_of_documents[order])
        number = int(np.searchsorted(tokens, size * self.pairing.room)) + 1 if size else 0
        while True:
            number = min(max(number, self.documents_needed * bool(size)), len(order))
            table = table_of(self.corpus, order[:number], self.pairing, key, **self.how)
            if len(table) >= size:
                break
            if number == len(order):
                raise UserError(
                    f"datamodule.{split}_size={size}: {self.name} has {len(self.corpus):,} documents, too few to hold "
                    "that many instances out. Choose a smaller number."
                )
            number += max(number // 4, 1)
        chosen = torch.randperm(len(table), generator=keyed_generator(*key[:2]))[:size].sort().values
        return table.take(chosen), order[number:]

    # --- what changes from epoch to epoch ------------------------------------------------------------------------

    def _of_epoch(self) -> InstanceTable:
        return table_of(self.corpus, self.trained_on, self.pairing, (self.seed, "pretraining", self.epoch), **self.how)

    def begin_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.epoch = epoch
            self.replace("train", self._of_epoch())

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "corpus_sha256": self.corpus.sha256}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["corpus_sha256"] != self.corpus.sha256:
            raise UserError(
                f"{self.name} is another text than the run was trained on, or in another vocabulary (its sha256 is "
                f"{self.corpus.sha256[:12]}..., the run's {state_dict['corpus_sha256'][:12]}...): give its own files."
            )
        self.begin_epoch(state_dict["epoch"])

    # --- what a record says of it --------------------------------------------------------------------------------

    def sizes(self) -> dict[str, int]:
        """Of training in the first epoch."""
        return self.first_sizes

    def describe(self) -> dict[str, Any]:
        """Also what the corpus has and how instances are made; the fingerprint is that of the corpus."""
        return super().describe() | {
            **self.corpus.sizes(),
            "sha256": self.corpus.sha256,
            "next_sentence": self.pairing.next_sentence,
            "masking": self.masking,
            "masked_lm_prob": self.masked_lm_prob,
            "max_predictions_per_seq": self.max_predictions_per_seq,
            "short_seq_prob": self.pairing.short_seq_prob,
        }
