"""How near translations come to those of people: BLEU and chrF, as sacrebleu computes them."""

from collections.abc import Sequence
from typing import Any

from callbacks.instruments.outputs import OutputsMeasurement
from foundation.errors import UserError, did_you_mean, in_one_line


class Translation(OutputsMeasurement):
    """Logs ``<stage>/bleu`` and ``chrf``, 0 to 100, of texts as they are read, held against the references as they
    stand in the data. The record has sacrebleu's signatures: figures with another one are not comparable.

    Args:
        tokenize: sacrebleu's name of how BLEU cuts texts into words: ``13a``, ``zh``, ``ja-mecab``, ``none`` and so on.
        lowercase: capital and small letters are the same.
        outputs: see ``OutputsMeasurement``.
    """

    key = "translation"
    names = {"bleu": "max", "chrf": "max"}  # noqa: RUF012

    def __init__(self, folder: str, tokenize: str = "13a", lowercase: bool = False, shown: int = 10) -> None:
        super().__init__(folder, shown)
        from sacrebleu.metrics.bleu import BLEU

        if tokenize not in BLEU.TOKENIZERS:
            raise UserError(
                f"callbacks.translation.tokenize is {tokenize!r}: {did_you_mean(str(tokenize), BLEU.TOKENIZERS)}"
            )
        try:
            BLEU(tokenize=tokenize)
        except (RuntimeError, ImportError, OSError) as error:  # of packages and files that some need
            raise UserError(f"callbacks.translation.tokenize={tokenize} cannot be used: {in_one_line(error)}") from None
        self.tokenize, self.lowercase = tokenize, lowercase
        self.signatures: dict[str, str] = {}

    def scores(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        from sacrebleu.metrics import bleu, chrf

        most = max(map(len, references))
        streams: Any = [[it[place] if place < len(it) else None for it in references] for place in range(most)]
        found = {}
        for name, metric in {
            "bleu": bleu.BLEU(tokenize=self.tokenize, lowercase=self.lowercase),
            "chrf": chrf.CHRF(lowercase=self.lowercase),
        }.items():
            found[name] = metric.corpus_score(outputs, streams).score
            self.signatures[name] = str(metric.get_signature())
        return found

    def describe_for_record(self) -> dict[str, Any]:
        return {"sacrebleu": self.signatures} if self.signatures else {}
