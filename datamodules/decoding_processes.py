"""Many image files decoded by processes of their own, one on each core.

Of photographs threads would do, since PIL gives the interpreter up while it decodes; of small images most of the time
is Python's, so that all threads together keep one core busy. A process here imports no torch, and ends when its input
does, also where the one that started it is killed.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from datamodules.decoding import Decoded, Pixels, decode_files

ROOT = Path(__file__).resolve().parent.parent
MANY = 8192
"""Files from which on processes are started."""


@contextmanager
def decoder_of(pixels: Pixels, files: int, at_once: int) -> Iterator[Callable[[Sequence[Path]], Decoded]]:
    """What decodes some files of so many, called by up to ``at_once`` threads at a time."""
    if files < MANY or at_once == 1:
        yield partial(decode_files, pixels)
        return
    processes = [started(pixels) for _ in range(at_once)]
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def decode(paths: Sequence[Path]) -> Decoded:
        process = idle.get()
        try:
            return asked(process, paths)
        finally:
            idle.put(process)

    try:
        yield decode
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def started(pixels: Pixels) -> subprocess.Popen[bytes]:
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-m", __name__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    pickle.dump(pixels, process.stdin)
    return process


def asked(process: subprocess.Popen[bytes], paths: Sequence[Path]) -> Decoded:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump(list(paths), process.stdin)
        process.stdin.flush()
        return pickle.load(process.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        code = process.wait()
        raise RuntimeError(f"A process that decodes images ended with exit code {code}.") from None


def serve() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):  # a whole group gets what is for the one that started it
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    pixels = pickle.load(source)
    while True:
        try:
            paths = pickle.load(source)
        except EOFError:
            return
        pickle.dump(decode_files(pixels, paths), target)
        target.flush()


if __name__ == "__main__":
    serve()
