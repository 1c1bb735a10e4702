"""All benchmarks at their defaults, and one table: ``make bench``, or ``python -m benchmarks``."""

import torch

from benchmarks import loader, mean_average_precision, training_step
from benchmarks.turns import table
from foundation.errors import told_as_sentences

with told_as_sentences():
    steps, loaders, precisions = training_step.main([]), loader.main([]), mean_average_precision.main([])
    rows = [row for turns in steps for row in turns.rows(training_step.BARE)]
    rows += [row for turns in loaders for row in turns.rows(loader.PLATFORM)]
    rows += [row for turns in precisions for row in turns.rows(mean_average_precision.PLATFORM)]
    print(f"{torch.get_num_threads()} threads; a time is by that of the bare loop or of the platform's part", "")
    print(table(rows), "", *(it.overhead(training_step.PLATFORM, training_step.BARE) for it in steps), sep="\n")
