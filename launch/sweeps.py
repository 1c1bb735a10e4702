"""The jobs of a sweep (``-m``): what each runs in, what becomes of a failed one, and a study that goes on.

A job on one rank runs in the process that its launcher gave it, unless an earlier one had its threads set otherwise. A
job on several ranks gets a process of its own, started with the job's own command: Lightning starts the other ranks by
repeating the command, which of a sweep would be the whole sweep again, and it kills this process when a rank fails.
"""

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from foundation.errors import UserError, told_as_sentences
from foundation.metrics import IN_WORDS
from foundation.published import key_in
from foundation.records import read_record
from launch.composition import SEARCHPATH, in_quotes
from launch.goes_on import is_finished, job_is_begun, told_as_finished
from launch.processes import ASKED_TO_STOP, SWEEP
from launch.sweep_table import jobs_in, metric_of, tell

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
TRACEBACK_LINES = 200
SEVERAL = "several"  # stands in a folder's name for that of an experiment
OPTUNA_S_WORDS = {"max": "maximize", "min": "minimize"}
FLUSHED_HERE: set[bool] = set()  # flush_denormals of this process's jobs: threads that they left stay so
HARDWARE = ("launcher", "trainer", "logger", "sweep", "debug", "paths")  # may differ within a study


class JobFailed(RuntimeError):
    """What Optuna is told of a job without a metric: its sweeper ends with an error at NaN."""


# --- a job ------------------------------------------------------------------------------------------------------


def run_job(train: Callable[..., float | None], config: dict[str, Any]) -> float | None:
    """Train, and in a sweep give the metric that it is about; a job that fails is recorded and gives NaN."""
    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return train(config)
    folder, words = Path(config["paths"]["run_dir"]), list(job.overrides.task)
    goes_on = job_is_begun(folder, words)
    take_threads()
    try:
        places = [it for it in job.overrides.hydra if it.startswith(f"{SEARCHPATH}=")]
        with own_command([*places, *words]):
            flush = config.get("flush_denormals", False)
            if goes_on and is_finished(folder):
                print(told_as_finished(folder), flush=True)
            elif on_several_ranks(config["trainer"]) or (not flush) in FLUSHED_HERE:
                train_in_own_process(folder)
            else:
                FLUSHED_HERE.add(flush)
                train(*prepared(folder)) if goes_on else train(config)
        value = final_metric(folder, metric_of(config))
    except Exception as error:  # whatever it is, the other jobs run
        record_failure(config, folder, error)
        value = math.nan
    if job.sweeper.get("storage") and (value is None or math.isnan(value)):
        raise JobFailed(f"{folder} failed")
    return value


def prepared(folder: Path) -> tuple[dict[str, Any], Path]:
    from launch.resume import prepare  # which imports torch

    return prepare(str(folder), [])


def take_threads() -> None:
    """As many threads as the launcher set, which torch reads only once, maybe before."""
    import torch

    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))


@contextmanager
def own_command(overrides: Sequence[str]) -> Iterator[None]:
    """``sys.argv`` as of this job alone: what its record calls its command, and what repeats it."""
    before = sys.argv
    sys.argv = [str(TRAIN), *job_arguments(overrides)]
    try:
        yield
    finally:
        sys.argv = before


def job_arguments(overrides: Sequence[str]) -> list[str]:
    """Arguments of train.py for one job; a file of conf/sweep would make a sweep of it again."""
    kept = [it for it in overrides if not it.startswith("launcher=")]
    return [*kept, "hydra.mode=RUN"] if any(it.startswith("sweep=") for it in kept) else kept


def on_several_ranks(trainer: Mapping[str, Any]) -> bool:
    """Whether Lightning may start other ranks; where it then does not, the job merely has its own process."""
    return trainer["strategy"] != "auto" or trainer["devices"] not in (1, "1") or trainer["num_nodes"] != 1


def final_metric(folder: Path, metric: str | None) -> float | None:
    """The metric in a run's record, None where its judge was left out, which the run has said.

    A metric or a figure of training that is no number is a failure; other figures may have nothing to measure, such as
    the precision of large objects where there are none.
    """
    record = read_record(folder)
    metrics, judges = record.get("metrics", {}), record.get("judges", {})
    for key, value in metrics.items():
        if math.isnan(value) and (key == metric or key.startswith("train/")):
            raise ArithmeticError(f"{key} is not a number at the end of the job")
    metric = metric and key_in(metrics, metric)
    if metric is not None and metric not in metrics:
        if any("left_out" in it for it in judges.values()):
            return None
        raise UserError(f"{folder} has not measured {metric}, which the sweep is about.")
    return metrics[metric] if metric else None


def record_failure(config: Mapping[str, Any], folder: Path, error: Exception) -> None:
    """Into the job's record, also where the job failed before it had one."""
    from callbacks.run_record import describe_run, mark_failed, write_json

    if isinstance(error, OwnProcessFailed):
        reason = read_record(folder).get("error") or error.last_line
        trace = error.said
    elif isinstance(error, UserError):
        reason = trace = str(error)
        print(f"error: {reason}", file=sys.stderr, flush=True)
    else:
        reason, trace = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
        print(trace, file=sys.stderr, flush=True)
    if not (folder / "record.json").exists():
        about = {"experiment": config["name"], "seed": config["seed"], "metrics": {}, "wall_time_s": {}}
        write_json(folder / "record.json", about | describe_run(folder) | {"config": dict(config)})
    mark_failed(folder, reason, trace)


# --- a job on several ranks ---------------------------------------------------------------------------------------


class OwnProcessFailed(RuntimeError):
    """Of a job in a process of its own; ``said`` is the end of what its ranks wrote to stderr."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"exit code {code}")
        self.said = said
        self.last_line = said.strip().splitlines()[-1] if said.strip() else f"exit code {code}"


def train_in_own_process(folder: Path) -> None:
    """Run the command in ``sys.argv`` into the job's folder; asked to stop, it stops the sweep as well."""
    # The sweep has already written .hydra/ into the folder.
    command = [sys.executable, *sys.argv, f"hydra.run.dir={in_quotes(str(folder))}", "hydra.output_subdir=null"]
    lines: deque[str] = deque(maxlen=TRACEBACK_LINES)
    process = subprocess.Popen(
        command,
        env=os.environ | {SWEEP: str(os.getpid())},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C reaches the sweep alone, which hands it on once
    )
    with process, signals_handed_to(process):
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            lines.append(line)
    if process.returncode in ASKED_TO_STOP:
        sys.exit(process.returncode)
    if process.returncode:
        raise OwnProcessFailed(process.returncode, "".join(lines))


@contextmanager
def signals_handed_to(process: subprocess.Popen[str]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in the main thread alone
        return
    before = {
        it: signal.signal(it, lambda signum, frame: process.send_signal(signum))
        for it in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


# --- the sweep ----------------------------------------------------------------------------------------------------


class SweepStart(Callback):
    """Hydra tells it where a sweep begins; see conf/hydra/default.yaml."""

    folder: Path | None = None
    first_job: dict[str, Any] | None = None
    """The config of one, composed while Hydra was not yet running."""
    names: frozenset[str] = frozenset()
    """What the jobs' experiments are called."""
    former: Mapping[Path, int] = MappingProxyType({})
    """Jobs that an earlier command has left, with the time at which they began."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder = keep_together(config, self.names)
        folder.mkdir(parents=True, exist_ok=True)
        SweepStart.former = begun_at(folder)
        with told_as_sentences():  # Hydra makes a warning of any other exception
            if "direction" in config.hydra.sweeper and SweepStart.first_job is not None:
                follow_metric(config, SweepStart.first_job)
            if config.hydra.sweeper.get("storage"):
                go_on_with_study(config)
        signal.signal(signal.SIGTERM, leave)  # between jobs it would end the sweep without its table
        SweepStart.folder = folder


def keep_together(config: DictConfig, names: Collection[str]) -> Path:
    """The sweep's folder, the same for all of its jobs, though their experiments' names may be part of it."""
    with changeable(config, config.hydra.sweep, config.hydra.overrides):
        if names:
            config.name = next(iter(names)) if len(names) == 1 else SEVERAL
        folder = str(config.hydra.sweep.dir)
        config.hydra.sweep.dir = folder
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={in_quotes(folder)}")  # jobs are composed anew
    return Path(folder)


@contextmanager
def changeable(*nodes: Any) -> Iterator[None]:
    """Parts of a config that Hydra has closed; from 1.4 on some are closed by themselves."""
    with ExitStack() as open_ones:
        for node in nodes:
            open_ones.enter_context(read_write(node))
            open_ones.enter_context(open_dict(node))
        yield


def begun_at(sweep: Path) -> dict[Path, int]:
    """Jobs, with the time at which Hydra wrote what they are asked."""
    return {job.folder: (job.folder / ".hydra" / "overrides.yaml").stat().st_mtime_ns for job in jobs_in(sweep)}


def leave(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)


@contextmanager
def ending_with_a_table(configs: Sequence[dict[str, Any]] = ()) -> Iterator[None]:
    """Round Hydra's main: a sweep ends with the table of its jobs, and as a failure where one of them failed.

    configs: of what the command asks for.
    """
    SweepStart.first_job = configs[0] if configs else None
    SweepStart.names = frozenset(it["name"] for it in configs)
    stopped: SystemExit | None = None
    try:
        yield
    except SystemExit as asked:
        stopped = asked
    except KeyboardInterrupt:
        if SweepStart.folder is None:
            raise
        stopped = SystemExit(128 + signal.SIGINT)
    if SweepStart.folder is not None:
        jobs = jobs_in(SweepStart.folder)
        tell(jobs, SweepStart.folder)
        begun = begun_at(SweepStart.folder)
        # What an earlier command has left, such as the trial in which it was killed, is not this one's failure.
        own = [it for it in jobs if begun[it.folder] != SweepStart.former.get(it.folder)]
        if not (stopped and stopped.code) and any(it.status != "finished" for it in own):
            stopped = SystemExit(1)
    if stopped is not None:
        raise stopped


def follow_metric(config: DictConfig, job: dict[str, Any]) -> None:
    """Let Optuna look for the better values of the metric, as a job's parts declare; another direction is refused."""
    from launch.declared import Parts
    from launch.parts_check import unfit_callbacks, unfit_metrics

    parts, metric = Parts.of(job), job["optimized_metric"]
    unfit = list(unfit_callbacks(job, parts.module, parts.callbacks))
    if problems := unfit or list(unfit_metrics(job, parts.module, parts.datamodule, parts.callbacks)):
        raise UserError("\n".join(problems))
    better = parts.direction(metric)
    assert better is not None, "a search has a metric with a direction"
    wanted, asked = OPTUNA_S_WORDS[better], config.hydra.sweeper.direction
    asked = asked.name if isinstance(asked, Enum) else asked  # of Optuna's own
    if asked not in (None, wanted):
        raise UserError(
            f"hydra.sweeper.direction is {asked}, and of {metric} the {IN_WORDS[better]}: set hydra.sweeper.direction="
            f"{wanted}, or null, which follows the metric."
        )
    with changeable(config, config.hydra.sweeper):
        config.hydra.sweeper.direction = wanted


def go_on_with_study(config: DictConfig) -> None:
    """Let a study that was there before make only the trials that it lacks."""
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)
    sweeper = config.hydra.sweeper
    try:
        study = optuna.load_study(study_name=sweeper.study_name, storage=sweeper.storage)
    except KeyError:
        return
    if (begun := study.direction.name.lower()) != sweeper.direction:
        raise UserError(
            f"Study {sweeper.study_name} was begun to {begun} its metric, and now it is to {sweeper.direction} it: "
            "give this one a name, hydra.sweeper.study_name=..."
        )
    done = [it for it in study.trials if it.state.is_finished()]  # a kill leaves one running for ever
    if not done:
        return
    check_same_study(sweeper.study_name, done[-1].user_attrs, OmegaConf.to_container(config.hydra.overrides.task))
    print(f"Study {sweeper.study_name}: {len(done)} of {sweeper.n_trials} trials are done", flush=True)
    with changeable(config, sweeper, sweeper.sampler):
        sweeper.n_trials = max(sweeper.n_trials - len(done), 0)
        if sweeper.sampler.get("seed") is not None:
            sweeper.sampler.seed += len(done)  # with the same one it would draw the first trials again


def check_same_study(name: str, before: Mapping[str, Any], overrides: Any) -> None:
    """Trials of one study differ in what it searches, and in nothing else but hardware.

    Args:
        before: what an earlier trial had fixed; Optuna's sweeper keeps it as the trial's attributes.
        overrides: of this command, the search's among them.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    now = {it.get_key_element(): it.get_value_element_as_str() for it in parsed if not it.is_sweep_override()}
    searched = {it.get_key_element() for it in parsed if it.is_sweep_override()}
    for key in sorted((before.keys() | now.keys()) - searched):
        is_hardware = key.lstrip("+~").partition(".")[0] in HARDWARE
        if not is_hardware and before.get(key) != now.get(key):
            raise UserError(
                f"Study {name} was begun with {key}={before.get(key, '(not given)')}, and now it is "
                f"{now.get(key, '(not given)')}: give this one a name, hydra.sweeper.study_name=..."
            )
