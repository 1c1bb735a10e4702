"""Read before a test imports torch, by each process of ``pytest -n``; the commands that tests start inherit it."""

import os

# Tests' tensors are tiny: a second thread of torch only takes another process's core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a developer keeps for wandb would name the tests' runs, and send them.
for name in [it for it in os.environ if it.startswith("WANDB_")]:
    del os.environ[name]
