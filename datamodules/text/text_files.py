"""Files of text, as they come, to pretrain on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.text.corpus import Corpus, CorpusFiles
from datamodules.text.pretraining import PretrainingDataModule
from datamodules.text.sentences import LAYOUTS
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError, did_you_mean


class TextFilesDataModule(PretrainingDataModule):
    """A person's own text.

    Args:
        files: one file, one folder, or several of both; ``.txt`` and ``.txt.gz``.
        layout: ``lines``: one sentence a line, a blank line (or a file's end) between documents; ``running``: a
            file is a document, and a rule finds its sentences.
        vocabulary: a ``vocab.txt`` or ``tokenizer.json``.
        lowercase: of a ``vocab.txt``: text is made lower case without accents.
        cache_dir: where token ids are kept; a folder of it can be deleted at any time.
        name: what a record calls the data.
        pretraining: see ``PretrainingDataModule``.
    """

    def __init__(
        self,
        *,
        files: str | Sequence[str],
        vocabulary: str,
        cache_dir: str,
        layout: str = "lines",
        lowercase: bool = True,
        name: str = "text_files",
        **pretraining: Any,
    ) -> None:
        if layout not in LAYOUTS:
            known = "; ".join(f"{key} ({what})" for key, what in LAYOUTS.items())
            raise UserError(f"datamodule.layout is {layout!r}: {did_you_mean(str(layout), LAYOUTS)} There are {known}.")
        super().__init__(**pretraining)
        self.name, self.files, self.layout, self.cache_dir = name, files, layout, Path(cache_dir).expanduser()
        self.tokenizer = WordPiece.of_file(vocabulary, lowercase)

    def prepare_data(self) -> None:
        if not self.tables:
            self._files().load(quiet=self.trainer is not None and self.trainer.global_rank > 0)

    def load_corpus(self) -> Corpus:
        return self._files().load(quiet=self.trainer is not None and self.trainer.local_rank > 0)

    def _files(self) -> CorpusFiles:
        return CorpusFiles(self.name, self.files, self.layout, self.tokenizer, self.cache_dir)
