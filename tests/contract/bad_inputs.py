"""Every key of an experiment's config with what it cannot mean: a command answers in sentences, or with a sound run.

    python -m tests.contract.bad_inputs 300      # that many of them, by chance; prints what was no answer

The keys come from the composed configs themselves, so that a new method's are among them. A command runs in a fork, as
a person would start it, for two steps on embedded data.
"""

import importlib
import json
import os
import resource
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from launch.command_line import compose_job

EXPERIMENTS = (
    "infogan_digits", "improved_gan_digits", "draw_digits", "resnet_digits", "faster_rcnn_shapes", "wrm_synthetic",
    "oracle_synthetic", "bert_tiny_text",
)  # fmt: skip
"""One of each method, on data that need no file."""
HUGE = "1000000000000"
VALUES = ("null", "0", "-1", "0.5", HUGE, "1e30", "nan", "text", "[]", "[1,a]", "{}", "no/such/path",
          "true")  # fmt: skip
IMPORTED = ("launch.runs", "callbacks.run_record", "matplotlib.figure", "sklearn.cluster", "sklearn.datasets", "scipy")
LONGEST_S = 30  # of one core: a hang is one on any machine, however busy
MOST_MEMORY = 10 * 2**30  # of addresses: what asks for more is refused by the system, as on a machine that has less


@dataclass(frozen=True)
class Answer:
    words: tuple[str, ...]
    status: int
    """The command's, negative where a signal ended it."""
    told: str
    """What it wrote to stderr."""
    record: str | None
    """The status in the run's record."""

    @property
    def is_sentence(self) -> bool:
        lines = [it for it in self.told.splitlines() if it.startswith("error: ")]
        return self.status == 2 and bool(lines) and "Traceback" not in self.told

    @property
    def is_sound_run(self) -> bool:
        ended = "fitted" if self.words[-1] == "trainer.limit_test_batches=0" else "finished"
        return self.status == 0 and "Traceback" not in self.told and self.record == ended

    @property
    def is_asked_for(self) -> bool:
        """Still at work on as much as it was asked for."""
        return self.words[-1].endswith(HUGE) and self.status == -signal.SIGKILL and "Traceback" not in self.told


def keys_of(node: Any, path: str = "") -> Iterator[str]:
    """All keys of a config, groups and leaves, dotted."""
    if isinstance(node, Mapping):
        for key, below in node.items():
            here = f"{path}.{key}" if path else str(key)
            yield here
            yield from keys_of(below, here)


def tiny(experiment: str) -> list[str]:
    """Its method's overrides for a run of seconds."""
    target = compose_job("train", [f"experiment={experiment}"])["lightning_module"]["_target_"]
    words = importlib.import_module(f"tests.lightning_modules.test_{target.split('.')[1]}").TINY[experiment]
    return ["trainer=cpu", "logger=csv", "trainer.max_steps=2", "trainer.log_every_n_steps=1", *words]


def cases(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """Experiments with the words of their commands, drawn by chance; one override replaces a tiny one of its key."""
    draw, made = Random(seed), []
    words_of = {it: tiny(it) for it in EXPERIMENTS}
    keys = {it: sorted(keys_of(compose_job("train", [f"experiment={it}", *words_of[it]]))) for it in EXPERIMENTS}
    while len(made) < count:
        experiment = draw.choice(EXPERIMENTS)
        key, value = draw.choice(keys[experiment]), draw.choice(VALUES)
        if (key.startswith("paths.") and "path" not in value) or key.endswith(
            ("run_dir", ".folder", "_dir", ".dirpath")
        ):
            continue  # a run is put where it is asked to, wherever that is
        others = [it for it in words_of[experiment] if it.lstrip("+").partition("=")[0] != key]
        bad = f"~{key}" if value == "null" and draw.random() < 0.3 else f"{key}={value}"
        made.append((experiment, [f"experiment={experiment}", *others, bad]))
    return made


def answer_to(words: list[str], folder: Path) -> Answer:
    """What ``train.py <words>`` does, with its output below ``folder``."""
    placed = [f"hydra.run.dir={folder}/run", f"paths.cache_dir={folder}/cache"]
    status, told = run_in_fork(["train.py", *words, *placed], folder)
    record = folder / "run" / "record.json"
    kept = json.loads(record.read_text()).get("status") if record.exists() else None
    return Answer(tuple(words), status, told, kept)


def run_in_fork(command: list[str], folder: Path) -> tuple[int, str]:
    """Status and stderr of ``python <command>`` in a fork of this process, which has imported torch."""
    told = folder / "stderr"
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        used = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + LONGEST_S, used + LONGEST_S))
        os.dup2(os.open(folder / "stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        run_as_command(command)
    return waited_for(child), told.read_text()


def run_as_command(command: list[str]) -> None:
    """Ends this process as the command would."""
    status = 1
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # what Python itself would print at its end
        sys.excepthook(*sys.exc_info())  # pyright: ignore
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def waited_for(child: int) -> int:
    ends = time.monotonic() + 10 * LONGEST_S  # of one that waits, and computes nothing
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def unanswered(count: int, seed: int) -> Iterator[tuple[list[str], Answer]]:
    """What is neither; how many of which is printed."""
    sentences = runs = 0
    for name in IMPORTED:
        importlib.import_module(name)
    for _, words in cases(count, seed):
        with tempfile.TemporaryDirectory() as folder:
            answer = answer_to(words, Path(folder))
        sentences += answer.is_sentence
        runs += answer.is_sound_run
        if not (answer.is_sentence or answer.is_sound_run or answer.is_asked_for):
            yield words, answer
    print(f"{count} commands: {sentences} answered in sentences, {runs} sound runs")


if __name__ == "__main__":
    total, begin = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    faults = 0
    for words, answer in unanswered(total, begin):
        faults += 1
        print(f"== {words[-1]}   {' '.join(words)}\nstatus {answer.status}, record {answer.record}", flush=True)
        print(answer.told[-1500:], flush=True)
    sys.exit(faults > 0)
