"""A finished run as one file, to be handed on: weights, config, record, pictures and a card.

    python -m finished.packing outputs/infogan_digits/<folder>                      # writes <folder>.zip beside it
    python -m finished.packing outputs/resnet_mnist/<folder> --out resnet_mnist.zip

Every command takes the file where it takes a run's folder, ``run=resnet_mnist.zip``, under the rules for runs from
other people (docs/running.md). What it names of this machine, folders and its name, stays here.
"""

import argparse
import json
import os
import shlex
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from finished.card import card_of, cleaned, for_others, usual_places, without_places
from foundation.errors import UserError, told_as_sentences
from foundation.places import refuse_ways_out_of
from foundation.records import read_record
from foundation.run_files import own_files, pictures_in, tables_in
from foundation.yaml_files import read_yaml
from launch.command_line import check_writable

USE = """\
```
python predict.py run={name}    # or sample.py, evaluate.py, make report, whichever suits it
```

`init_from=` takes the folder that it is unpacked into, `from relight import load` the file itself."""


def pack(run: Path, out: Path | None = None) -> Path:
    """Write the file; returns it."""
    if not (run / ".hydra" / "config.yaml").exists():
        raise UserError(f"{run} is not a run: it has no .hydra/config.yaml. Give the folder that train.py printed.")
    refuse_ways_out_of(run)
    checkpoints = sorted(own_files(run, (run / "checkpoints").glob("*.ckpt")))
    if not checkpoints:
        raise UserError(f"{run} has no checkpoint to hand on: train it first.")
    target = out or run.with_name(f"{run.name}.zip")
    if target.suffix.lower() != ".zip":
        raise UserError(f"--out {target}: give a name that ends in .zip, by which commands know it.")
    check_writable("--out", target.parent)
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in texts_of(run, target.name):
                archive.writestr(name, text)
            for path in (*checkpoints, *pictures_in(run), *tables_in(run), run / "metrics.csv"):
                if path.is_file():
                    archive.write(path, path.relative_to(run).as_posix())
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def texts_of(run: Path, name: str) -> Iterator[tuple[str, str]]:
    """What is written anew, without what is this machine's own."""
    config: Any = read_yaml(run / ".hydra" / "config.yaml")
    config["paths"] = usual_places()
    yield ".hydra/config.yaml", OmegaConf.to_yaml(OmegaConf.create(without_places(config)))
    overrides: Any = read_yaml(run / ".hydra" / "overrides.yaml") if (run / ".hydra/overrides.yaml").exists() else []
    yield ".hydra/overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(cleaned(overrides or [])))
    if record := for_others(read_record(run)):
        yield "record.json", json.dumps(record, indent=2)
    yield "README.md", card_of(record, USE.format(name=shlex.quote(name)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--out", type=Path, help="the file; by default <folder>.zip beside the folder")
    asked = parser.parse_args(arguments)
    print(pack(asked.run, asked.out))


if __name__ == "__main__":
    with told_as_sentences():
        sys.exit(main())
