"""All benchmarks at their defaults, and one table: ``make bench``, or ``python -m benchmarks``.

    python -m benchmarks --peer infogan=../InfoGAN-PyTorch --peer resnet=../pytorch_resnet_cifar10

With clones of other people's repositories there is a second table, of our steps against theirs (``benchmarks.peers``).
"""

import argparse
from importlib.util import find_spec

import torch

from benchmarks import bert_step, frechet_distance, loader, mean_average_precision, peers, text, training_step, wrm_step
from benchmarks.turns import table
from foundation.errors import told_as_sentences


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], help="METHOD=FOLDER")
    given = parser.parse_args(arguments)
    for it in given.peer:
        peers.named(it)  # a wrong folder is said before anything is timed
    steps, loaders, precisions = training_step.main([]), loader.main([]), mean_average_precision.main([])
    distances = frechet_distance.main([])
    ascents, texts = wrm_step.main([]), text.main([])
    berts = bert_step.main([]) if find_spec("transformers") else []  # it is for tests alone
    rows = [row for turns in steps for row in turns.rows(training_step.BARE)]
    rows += [row for turns in loaders for row in turns.rows(loader.PLATFORM)]
    rows += [row for turns in precisions for row in turns.rows(mean_average_precision.PLATFORM)]
    rows += [row for turns in distances for row in turns.rows(frechet_distance.PLATFORM)]
    rows += [row for turns in ascents for row in turns.rows(wrm_step.ERM)]
    rows += [row for turns in berts for row in turns.rows(bert_step.THEIRS)]
    by = "times are by those of the bare loop, of the platform's part, of the ERM step or of transformers"
    print(f"{torch.get_num_threads()} threads; {by}", "")
    overheads = [it.overhead(training_step.PLATFORM, training_step.BARE) for it in steps]
    print(table(rows), "", text.report(texts), "", *overheads, sep="\n")
    if given.peer:
        print("", "One thread each; their CPU time by ours", peers.report(peers.main(given.peer)), sep="\n")


if __name__ == "__main__":
    with told_as_sentences():
        main()
