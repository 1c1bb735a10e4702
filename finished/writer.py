"""A language model that writes endings, or says how likely given ones are: of a run, or released.

A run's folder is loaded as everywhere. A released GPT-2's has ``config.json``, ``model.safetensors`` and
``tokenizer.json``, or ``vocab.json`` and ``merges.txt``; so has what ``finished.hub`` writes of a run.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.text.marked import Marked, MarkedPieces, of_folder
from datamodules.text.tokens import WordPieceDataModule
from foundation.checkpoints import fingerprint
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.protocols import ContinuesText, serves
from launch.initial_weights import CONFIG, SAFETENSORS, config_beside, state_in
from launch.packed import folder_of
from launch.runs import device_of, load_on_device
from lightning_modules.language_model import LanguageModel
from lightning_modules.networks.gpt2_released import from_released, sizes_of
from lightning_modules.networks.language_models import TransformerLanguageModel

LONGEST = 100
AT_ONCE = 512
"""Endings that are scored by themselves together."""


class Writer:
    """A language model with its vocabulary.

    Args:
        module: serves ``ContinuesText``, in evaluation mode, on its device.
        vocabulary: its own.
        name: what a pool calls it.
        data: the run's DataModule, not set up; None where there is no run.
        longest, shortest: tokens of an ending; None: 100, or half of what the module reads.
    """

    def __init__(
        self, module: Any, vocabulary: Marked, name: str, data: Any = None, *, longest: int | None = None,
        shortest: int = 1,
    ) -> None:  # fmt: skip
        self.module, self.vocabulary, self.name, self.data = module, vocabulary, name, data
        self.shortest = shortest
        self.read_endings_of(min(LONGEST, self.longest_possible) if longest is None else longest)

    @property
    def longest_possible(self) -> int:
        """Tokens of an ending that leave as many for its text."""
        return 2**31 if self.module.max_length is None else self.module.max_length // 2

    def read_endings_of(self, longest: int) -> None:
        """Endings have so many tokens at most; of a text that leaves no room for them and a mark, the end is read."""
        self.longest = longest
        self.room = math.inf if self.module.max_length is None else self.module.max_length - longest - 1
        if self.room < 1:
            raise UserError(f"--longest is {longest}, and the run reads {self.module.max_length} tokens: give fewer.")

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.vocabulary.ids_of_texts(texts)

    def ids_of_endings(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each at least one, and at most ``longest``."""
        ids = self.vocabulary.ids_of_endings(texts)
        return [it[: self.longest] or [self.vocabulary.unknown] for it in ids]

    def context(self, ids: Sequence[int]) -> list[int]:
        """With the mark of a beginning; of a long text its end."""
        room = self.room - len(self.vocabulary.begin)
        return self.vocabulary.start(ids if len(ids) <= room else ids[len(ids) - int(room) :])

    def write(
        self, contexts: Sequence[list[int]], keys: Sequence[int], count: int, **how: Any
    ) -> list[list[list[int]]]:
        """Those of ``count`` drawn endings that came to an end, without its mark, each once and none too short."""
        end, stops = self.vocabulary.end, self.vocabulary.stops
        never = [*self.vocabulary.never, *range(len(self.vocabulary), self.module.vocabulary_size)]
        with evaluating(self.module):
            drawn = self.module.continuations(
                *padded(contexts, self.module.device), keys, count, longest=self.longest + 1, ends=[end, *stops],
                never=never, **how,
            )  # fmt: skip
        found = []
        for rows in drawn:
            ended = [tuple(row[:-1] if row[-1] == end else row) for row in rows if row[-1] in (end, *stops)]
            kept = [list(row) for row in dict.fromkeys(ended) if self.shortest <= len(row) <= self.longest]
            found.append(kept)
        return found

    def nats(self, contexts: Sequence[list[int]], endings: Sequence[list[list[int]]]) -> list[list[list[float]]]:
        """Of each ending behind its text, by itself, and of the mark of its end behind both."""
        marked = [[[*it, self.vocabulary.end] for it in of_text] for of_text in endings]
        behind, lengths = self.behind(contexts, marked)
        ends = behind.gather(2, lengths.unsqueeze(2) - 1).squeeze(2)
        with evaluating(self.module):
            alone = iter(list(self.alone([it for of_text in marked for it in of_text])))
        given, ends = (behind.sum(2) - ends).tolist(), ends.tolist()
        return [
            [[given[row][place], next(alone), ends[row][place]] for place in range(len(of_text))]
            for row, of_text in enumerate(endings)
        ]

    def nats_given_texts(self, contexts: Sequence[list[int]], endings: Sequence[list[list[int]]]) -> list[list[float]]:
        """Of each ending behind its text, -log p(ending | text)."""
        behind, _ = self.behind(contexts, endings)
        return [row[: len(of_text)] for row, of_text in zip(behind.sum(2).tolist(), endings, strict=True)]

    def behind(self, contexts: Sequence[list[int]], endings: Sequence[list[list[int]]]) -> tuple[Tensor, Tensor]:
        """The nats of each token [B, K, L], and lengths [B, K]; K is the largest number of a text's endings."""
        most = max(map(len, endings))
        filled = [[*of_text, *[[self.vocabulary.end]] * (most - len(of_text))] for of_text in endings]
        ids, lengths = padded([it for of_text in filled for it in of_text], self.module.device)
        shape = (len(contexts), most)
        with evaluating(self.module):
            found = self.module.ending_nats(
                *padded(contexts, self.module.device), ids.view(*shape, -1), lengths.view(shape)
            )
        return found, lengths.view(shape)

    def alone(self, marked: Sequence[list[int]]) -> Iterator[float]:
        """The nats of endings that go on with nothing, without their marks."""
        start = torch.tensor([self.vocabulary.start([])], device=self.module.device)
        for first in range(0, len(marked), AT_ONCE):
            ids, lengths = padded(marked[first : first + AT_ONCE], self.module.device)
            of_tokens = self.module.ending_nats(start, torch.ones_like(start[0]), ids[None], lengths[None])[0]
            yield from (of_tokens.sum(1) - of_tokens.gather(1, lengths.unsqueeze(1) - 1).squeeze(1)).tolist()

    def of_texts(self, contexts: Sequence[list[int]]) -> list[float]:
        """The nats of texts themselves."""
        before = len(self.vocabulary.begin)
        with evaluating(self.module):
            return list(self.alone([[*it[before:], self.vocabulary.end] for it in contexts]))

    def spelling(self, ids: Sequence[int]) -> str:
        return self.vocabulary.spelling(ids)

    def decides(self) -> dict[str, Any]:
        """What of it decides what it writes and says, by name."""
        return {
            "weights": fingerprint(self.module.state_dict()), "vocabulary": self.vocabulary.sha256,
            "longest": self.longest, "shortest": self.shortest,
        }  # fmt: skip


def writer_of(folder: Path, checkpoint: str, accelerator: str, **endings: Any) -> Writer:
    """Of the folder of a run, or of a released GPT-2. endings: see ``Writer``."""
    folder = folder_of(folder)
    if (folder / ".hydra").is_dir():
        return of_run(folder, checkpoint, accelerator, **endings)
    if (folder / CONFIG).is_file():
        return of_released(folder, accelerator, **endings)
    raise UserError(
        f"{folder} is neither a run, which has .hydra/config.yaml, nor a released GPT-2, which has {CONFIG}, "
        f"{SAFETENSORS} and tokenizer.json (or vocab.json and merges.txt): name the folder of one."
    )


def of_run(folder: Path, checkpoint: str, accelerator: str, **endings: Any) -> Writer:
    finished = load_on_device(folder, checkpoint, accelerator)
    if not serves(finished.module, ContinuesText):
        raise UserError(
            f"{folder} is a run of {type(finished.module).__name__}, which writes no endings: give a language model's, "
            "such as one of experiment=language_model_hellaswag."
        )
    data = finished.datamodule
    assert isinstance(data, WordPieceDataModule)
    name = f"{finished.config['name']} {folder.name}"
    return Writer(finished.module, MarkedPieces(data.tokenizer), name, data, **endings)


def of_released(folder: Path, accelerator: str, **endings: Any) -> Writer:
    config = config_beside(folder / SAFETENSORS)
    assert config is not None
    sizes = sizes_of(config, str(folder / CONFIG))
    if not (weights := folder / SAFETENSORS).is_file():
        raise UserError(f"{folder} has no {SAFETENSORS}: download it, or convert other weights to it.")
    vocabulary = of_folder(folder)
    if len(vocabulary) > sizes["vocabulary_size"]:
        raise UserError(
            f"{folder}: the vocabulary has {len(vocabulary):,} tokens, and by {CONFIG} there are "
            f"{sizes['vocabulary_size']:,}: they are of two models."
        )
    with torch.device("meta"):
        network = TransformerLanguageModel(**sizes)
    network.load_state_dict(from_released(state_in(weights)[0], network, str(weights)), assign=True)
    module = LanguageModel(network, optimizer=torch.optim.SGD).eval().to(device_of(accelerator))
    return Writer(module, vocabulary, f"gpt2 {folder.resolve().name}", **endings)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """[N, L] with zeros behind, and the lengths."""
    lengths = torch.tensor([len(it) for it in rows], dtype=torch.int64)
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for row, it in zip(ids, rows, strict=True):
        row[: len(it)] = torch.tensor(it, dtype=torch.int64)
    return ids.to(device), lengths.to(device)
