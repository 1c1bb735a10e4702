"""Commands run in forks of one process that has imported torch and Lightning: starting Python with them takes seconds.

That process never runs a backward pass, after which a fork fails where a GPU exists, so pytest's own will not do.
What only a start by itself can show (what an import prints, signals, sample.py for a person) gets one in its test.
"""

import atexit
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = ("launch.runs", "callbacks.run_record", "matplotlib.figure", "sklearn.cluster", "sklearn.datasets", "pytest")


def run_in_fork(*words: object) -> subprocess.CompletedProcess[str]:
    """What ``python <words>`` would do in the project's folder without a GPU; words begin with a script or -m."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        request = {"words": [str(it) for it in words], "outputs": [str(it) for it in outputs]}
        server = started()
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(request), file=server.stdin, flush=True)
        status = server.stdout.readline()
        assert status, "the process that forks has ended"
        return subprocess.CompletedProcess(request["words"], int(status), *(it.read_text() for it in outputs))


@cache
def started() -> subprocess.Popen[str]:
    """The process that forks; it ends with the one that asks."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forks"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},  # OpenMP's threads do not survive a fork
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            become(request["words"], request["outputs"])
            return
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)


def become(words: list[str], outputs: list[str]) -> None:
    """Run the command as the main program of this process, which ends with it."""
    for target, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), target)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    run_as_main(words)


def run_as_main(words: list[str]) -> None:
    """words: a script or -m and a module, and what it is given."""
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    serve()
