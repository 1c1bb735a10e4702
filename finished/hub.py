"""A finished BERT as a folder in the layout of the Hub, for programs that know transformers.

    python -m finished.hub outputs/bert_mini_pretrain/<folder>                        # into its hub/
    python -m finished.hub outputs/bert_sst2/<folder> --checkpoint best --out folder

``config.json``, ``model.safetensors`` and the vocabulary as ``vocab.txt`` and ``tokenizer.json``. Then
``transformers.AutoModel.from_pretrained(folder)`` reads it, and so does ``init_from=<folder>``.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save
from tokenizers import Tokenizer, processors

from datamodules.text.tokens import WordPieceDataModule
from foundation.checkpoints import weights_in
from foundation.errors import UserError, told_as_sentences
from foundation.places import inside
from foundation.protocols import HasReleasedLayout, serves
from foundation.security import split_trust, trusting
from launch.command_line import check_writable
from launch.initial_weights import CONFIG, SAFETENSORS
from launch.packed import folder_of
from launch.runs import load_on_device

NAME = "hub"


def export(run: Path, checkpoint: str = "last", out: Path | None = None) -> Path:
    """Write the folder; returns it."""
    folder = out or inside(run / NAME, run)
    check_writable("--out", folder.parent)
    finished = load_on_device(run, checkpoint, "cpu")
    module: Any = finished.module
    if not serves(module, HasReleasedLayout):
        raise UserError(
            f"{run} is a run of {type(module).__name__}, for which the Hub has no layout: name a BERT's run."
        )
    if not isinstance(finished.datamodule, WordPieceDataModule):
        raise UserError(
            f"The run's {type(finished.datamodule).__name__} has no vocabulary of word pieces to go with it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    told = {"experiment": finished.config["name"], "weights": weights_in(finished.checkpoint)}
    unfinished = folder / f"{SAFETENSORS}.unfinished"
    try:
        metadata = {"format": "pt"} | {key: str(it) for key, it in told.items()}
        unfinished.write_bytes(save(module.released_weights(), metadata))  # save_file's is for its owner alone
        os.replace(unfinished, folder / SAFETENSORS)
    finally:
        unfinished.unlink(missing_ok=True)
    write_json(folder / CONFIG, module.released_config() | {"pad_token_id": finished.datamodule.tokenizer.pad})
    write_vocabulary(folder, finished.datamodule)
    return folder


def write_vocabulary(folder: Path, data: WordPieceDataModule) -> None:
    tokenizer = data.tokenizer
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in tokenizer.pieces), encoding="utf-8")
    marked = Tokenizer.from_str(tokenizer.tokenizer.to_str())
    marked.post_processor = processors.BertProcessing(("[SEP]", tokenizer.sep), ("[CLS]", tokenizer.cls))
    marked.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "BertTokenizerFast", "model_max_length": data.max_length}
    write_json(folder / "tokenizer_config.json", told)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--checkpoint", default="last", help="a file of its checkpoints/ without .ckpt")
    parser.add_argument("--out", type=Path, help=f"the folder; unless given, {NAME} in the run's")
    names, words = split_trust(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(words)
    with trusting(names):
        print(export(folder_of(given.run), given.checkpoint, given.out))


if __name__ == "__main__":
    with told_as_sentences():
        main()
