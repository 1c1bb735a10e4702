"""Vocabularies of pieces that byte-pair encoding finds, by the ``tokenizers`` library."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datamodules.image_files import say
from datamodules.text.words import FIRST, MARKS, UNKNOWN
from foundation.errors import UserError

# Batches of texts are cut among threads by the library, which has none when Python forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class Subwords:
    """Pieces of words, each word with the blank before it, so that a text is what its pieces make side by side. A
    character that the texts have not is ``UNKNOWN``.

    Args:
        vocab: ids of pieces, those of the four marks first.
        merges: which two pieces become one, in their order.
        lowercase: texts are made lower case first.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], lowercase: bool) -> None:
        from tokenizers import Tokenizer, models

        self.vocab, self.merges, self.lowercase = dict(vocab), [(one, other) for one, other in merges], lowercase
        model = models.BPE(vocab=self.vocab, merges=self.merges, unk_token=MARKS[UNKNOWN], fuse_unk=True)
        self.tokenizer = prepared(Tokenizer(model), lowercase)
        self.pieces = sorted(self.vocab, key=self.vocab.__getitem__)

    @classmethod
    def of_texts(cls, texts: Iterable[str], pieces: int, lowercase: bool = False) -> "Subwords":
        """At most so many pieces, the four marks among them."""
        from tokenizers import Tokenizer, models, trainers

        tokenizer = prepared(Tokenizer(models.BPE(unk_token=MARKS[UNKNOWN])), lowercase)
        trainer = trainers.BpeTrainer(vocab_size=pieces, special_tokens=list(MARKS), show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        found = tokenizer.get_vocab()
        merges = [tuple(it) for it in json.loads(tokenizer.to_str())["model"]["merges"]]
        if len(found) > pieces or not merges:
            least = len(found) - len(merges)
            raise UserError(
                f"datamodule.pieces is {pieces}, and the texts have {least - FIRST} characters, which with the four "
                f"marks are {least} pieces before the first is made: give more."
            )
        return cls(found, merges, lowercase)

    @classmethod
    def cached(cls, texts: Sequence[str], pieces: int, lowercase: bool, cache_dir: Path) -> "Subwords":
        """The same, from a file of the folder where it was made of these texts before."""
        sha256 = hashlib.sha256(json.dumps([pieces, lowercase, version("tokenizers")]).encode())
        for text in texts:
            sha256.update(f"{text}\n".encode())
        path = cache_dir / f"bpe-{sha256.hexdigest()[:20]}.json"
        if path.is_file():
            try:
                return cls.of(json.loads(path.read_text(encoding="utf-8")))
            except Exception:  # the library raises plain Exceptions
                say(f"The cache {path} is damaged and is made again.")
        made = cls.of_texts(texts, pieces, lowercase)
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache_dir) as unfinished:
                (Path(unfinished) / "bpe").write_text(made.told(), encoding="utf-8")
                os.replace(Path(unfinished) / "bpe", path)
        except OSError as error:
            raise UserError(
                f"Pieces cannot be kept in {cache_dir} ({error.strerror or error}): set RELIGHT_CACHE or "
                "paths.cache_dir to a folder that you may write to."
            ) from None
        return made

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Subwords":
        """What ``told`` has said."""
        return cls(content["vocab"], content["merges"], content["lowercase"])

    def __len__(self) -> int:
        return len(self.pieces)

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        return [it.ids for it in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def text_of(self, ids: Iterable[int]) -> str:
        """A network may have more ids than the vocabulary: they are unknown, too."""
        pieces = [self.pieces[it if it < len(self.pieces) else UNKNOWN] for it in ids]
        return self.tokenizer.decoder.decode(pieces).strip()

    def told(self) -> str:
        content = {"vocab": self.vocab, "merges": self.merges, "lowercase": self.lowercase}
        return json.dumps(content, ensure_ascii=False, sort_keys=True)


def prepared(tokenizer: Any, lowercase: bool) -> Any:
    """How texts are cut before pieces are looked for, and how pieces become a text."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(behavior="isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer
