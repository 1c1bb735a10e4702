"""wandb, which asks nothing and stops no training."""

import hashlib
import netrc
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from foundation.errors import UserError
from foundation.protocols import said
from foundation.published import TESTED
from foundation.run_files import pictures_in, read_table, series_of, tables_in
from foundation.source_tree import git
from foundation.whole_files import write_whole
from foundation.yaml_files import read_yaml, value_at

START_S = 20.0  # for wandb to answer
END_S = 60.0  # to send the rest
FAILING_END_S = 5.0  # the same where the process is about to leave
PROJECT = "relight"
LONGEST = 128  # characters of a project, name, group or id; wandb's service takes no more
LONGEST_TAG = 64
FORBIDDEN = {"project": "/\\#?%:", "id": "/\\#?%:;,'"}
MODES = {"": None, "online": "online", "run": "online", "offline": "offline", "dryrun": "offline",
         "disabled": "disabled"}  # fmt: skip
VARIABLES = {"project": "WANDB_PROJECT", "name": "WANDB_NAME", "group": "WANDB_RUN_GROUP", "id": "WANDB_RUN_ID",
             "tags": "WANDB_TAGS", "mode": "WANDB_MODE"}  # fmt: skip
KILLED = 255  # the exit code by which wandb knows a run that was stopped by hand


class WandbRun(Logger):
    """One run in wandb: metrics and pictures against ``iteration``, on rank 0 alone.

    Online where a key is configured, else offline, said in one line with the command that sends it. A network or
    service that does not answer costs a line, not the training. The run's id is kept in the run folder, so that a
    resumed run goes on as the same wandb run. What wandb would not take is refused when this is built; an empty text,
    as an empty variable of the environment gives it, stands for None.

    Args:
        save_dir: the run folder.
        group: None for the sweep's folder name where the run is a job of a sweep, and no group elsewhere.
        tags: beside experiment, method and data set: a list, or a text with commas.
        id: None for one of its own. What the run folder has kept comes first.
        dir: where wandb makes its ``wandb/``; None for the run folder.
        mode: ``online``, ``offline`` or ``disabled``; None for online where a key is configured, else offline.
        offline: True for ``mode="offline"``.
    """

    def __init__(
        self,
        project: str,
        save_dir: str,
        name: str | None = None,
        group: str | None = None,
        offline: bool = False,
        entity: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] | str | None = None,
        notes: str | None = None,
        id: str | None = None,
        dir: str | None = None,
        mode: str | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.project = Path(save_dir), project or PROJECT
        self.run_name, self.group, self.id = name or None, group or None, id or None
        self.tags = [it.strip() for it in (tags.split(",") if isinstance(tags, str) else tags or []) if it.strip()]
        self.texts = {"entity": entity or None, "job_type": job_type or None, "notes": notes or None}
        self.place = Path(dir or save_dir).expanduser()
        mode = mode or os.environ.get("WANDB_MODE")  # of a config from before it was a key
        self.mode = "offline" if offline else MODES.get(mode or "", mode)
        self.asked = "logger.wandb.offline is true" if offline else asked_as("mode", mode).replace("=", " is ")
        self.wandb: Any = None
        self.run: Any = None
        self.started = False
        self.shown: set[Any] = set()  # files of pictures, contents of tables
        if problems := [*self.problems()]:
            raise UserError("\n".join(problems))

    def problems(self) -> Iterator[str]:
        """One sentence for each thing that wandb would not take, after which it would log nothing."""
        if self.mode not in (None, *MODES.values()):
            yield f"{asked_as('mode', self.mode)} is none of wandb's modes: give online, offline or disabled."
        if self.mode == "disabled":
            return
        texts = {"project": self.project, "name": self.run_name, "group": self.group, "id": self.id}
        for key, text in texts.items():
            if text is not None and len(text) > LONGEST:
                yield f"{asked_as(key, text)} has {len(text)} characters, and wandb takes {LONGEST}: shorten it."
        for key, text in {"project": self.project, "id": self.id}.items():
            if found := sorted({*(text or "")} & {*FORBIDDEN[key]}):
                yield f"{asked_as(key, text)} holds {' '.join(found)}, which wandb does not take: leave it out."
        if self.id is not None and self.id != self.id.strip():
            yield f"{asked_as('id', self.id)} begins or ends with a blank, which wandb does not take: leave it out."
        for tag in self.tags:
            if len(tag) > LONGEST_TAG:
                yield f"{asked_as('tags', tag)} has {len(tag)} characters, and wandb takes {LONGEST_TAG}: shorten it."
        if self.id is not None and sweep_of(self.folder):
            yield f"{asked_as('id', self.id)} would make one wandb run of all jobs of the sweep: leave it out."

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str | None:
        """The run's id in wandb, None before it has started."""
        kept = self.folder / "wandb_id"
        return kept.read_text().strip() if kept.exists() else None

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @property
    def experiment(self) -> Any:
        """wandb's own object; None where the run goes without wandb, and on other ranks than 0."""
        self.start({}, [])
        return self.run

    # --- start and end -----------------------------------------------------------------------------------------

    @rank_zero_only
    def start(self, config: dict[str, Any], tags: list[str]) -> None:
        """Open the wandb run, once."""
        if self.started:
            return
        self.started = True
        mode, reason = choose_mode(self.mode, self.asked)
        if mode == "disabled":
            return
        try:
            self.run, reason = self._open(mode, reason, config, tags)
        except Exception as error:  # an install or service that is broken in whatever way
            tell(f"it does not start ({first_line(error)}), so this run is logged to files alone.")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "wandb_id", f"{self.run.id}\n")
        if reason:
            place = shlex.quote(str(self.place / "wandb"))
            # A segment for each start; a place of its own may hold those of other runs.
            which = "" if self.place == self.folder else f"-{self.run.id}"
            sync = f"wandb sync {place}/offline-run-*{which}"
            tell(f"{reason}, so this run is kept offline; `{sync}` sends it.")

    def _open(self, mode: Any, reason: str, config: dict[str, Any], tags: list[str]) -> tuple[Any, str]:
        """The wandb run, and why it is offline where it is."""
        import wandb  # takes a second, which other commands need not wait

        self.wandb = wandb
        # Without the viewer it does not ask twice who one is before it finds that nobody answers.
        wandb.setup(wandb.Settings(show_info=False, show_warnings=False, x_disable_viewer=True))
        for folder in (self.folder, self.place):
            folder.mkdir(parents=True, exist_ok=True)
        group = self.group or sweep_of(self.folder)
        if self.id not in (None, self.version or self.id):
            tell(f"this run goes on as {self.version}, as it began, and not as {self.id}.")
        how: dict[str, Any] = {"project": self.project, "name": self.run_name, "group": group, **self.texts,
                               "tags": [*dict.fromkeys([*map(cut_aloud, tags), *self.tags])], "dir": str(self.place),
                               "id": self.version or self.id, "resume": "allow", "config": config,
                               "reinit": "create_new"}  # fmt: skip
        settings = wandb.Settings(init_timeout=START_S, finish_timeout=END_S, finish_timeout_raises=True)
        try:
            run = wandb.init(**how, mode=mode, settings=settings)
        except (wandb.Error, ValueError, OSError) as error:
            if mode == "offline":
                raise
            reason = f"it cannot be reached ({first_line(error)})"
            run = wandb.init(**how, mode="offline", settings=settings)
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration", step_sync=True)
        return run, reason

    @rank_zero_only
    def finish(self, status: str, exit_code: int) -> None:
        """End the wandb run as finished (0), failed or stopped by hand; what was logged is sent before."""
        run = self.run
        if run is None:
            return
        self._do(lambda run: run.summary.update({"status": status}))
        self.run = None
        try:
            run.finish(exit_code=exit_code)
        except Exception as error:  # the training is done, whatever has become of the network
            sync = f"wandb sync --include-online {shlex.quote(str(Path(run.dir).parent))}"
            tell(f"not all of the run was sent ({first_line(error)}); `{sync}` sends the rest.")

    # --- what callbacks and modules log ------------------------------------------------------------------------

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any) -> None:
        self._do(lambda run: run.config.update(dict(params), allow_val_change=True))

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        # Lightning counts steps from 0, but a test's from 1: it is logged when the last iteration is counted.
        tested = any(key.startswith(TESTED) for key in metrics)
        iteration = step if tested or step is None else step + 1
        self._do(lambda run: run.log(dict(metrics) | at(iteration)))

    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        """PNG files, shown under one key after ``step`` iterations."""
        self.shown |= {Path(it).absolute() for it in images}
        self._do(lambda run: run.log({key: [self.wandb.Image(it) for it in images]} | at(step)))

    @rank_zero_only
    def log_video(self, key: str, videos: list[str], step: int | None = None) -> None:
        """GIF files, shown under one key after ``step`` iterations."""
        self.shown |= {Path(it).absolute() for it in videos}
        self._do(lambda run: run.log({key: [self.wandb.Video(it, format="gif") for it in videos]} | at(step)))

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        """A table with a row for each list of ``data``."""
        self.shown.add(content_of(columns, data))
        self._do(lambda run: run.log({key: self.wandb.Table(columns=columns, data=data)} | at(step)))

    @rank_zero_only
    def show_the_rest(self) -> None:
        """What callbacks have left in the run's folder and not shown, as ``images/<name>`` and ``tables/<name>``."""
        for path in pictures_in(self.folder):
            if path.absolute() not in self.shown:
                show = self.log_video if path.suffix.lower() == ".gif" else self.log_image
                show(f"images/{series_of(path)}", [str(path)])
        for path in tables_in(self.folder):
            columns, rows = read_table(path)
            if content_of(columns, rows) not in self.shown:
                self.log_table(f"tables/{path.stem}", columns, rows)

    def _do(self, action: Callable[[Any], Any]) -> None:
        self.start({}, [])
        if self.run is None:
            return
        try:
            action(self.run)
        except Exception as error:  # whatever a dying service raises: the training goes on, metrics.csv is complete
            tell(f"it has failed ({first_line(error)}); from here on this run is logged to files alone.")
            self.run = None


def content_of(columns: list[str], rows: list[list[Any]]) -> str:
    """What tells a table from another."""
    return hashlib.sha256(repr((columns, rows)).encode()).hexdigest()


def at(iteration: int | None) -> dict[str, int]:
    return {} if iteration is None else {"iteration": iteration}


@contextmanager
def wandb_run(run: Any) -> Iterator[None]:
    """The wandb run of a job, where it has one: described at the start, and ended however the job ends."""
    config = run.config | {"commit": git("rev-parse", "HEAD")}
    method = config["lightning_module"]["_target_"].split(".")[-2]
    tags = [config["name"], method, said(run.datamodule, "name") or type(run.datamodule).__name__]
    loggers = wandb_runs(run.trainer)
    for logger in loggers:
        logger.start(config, list(dict.fromkeys(tags)))
    status, code = "failed", 1
    try:
        yield
        for logger in loggers:
            logger.show_the_rest()
        status, code = "finished", 0
    except (SystemExit, KeyboardInterrupt):
        status, code = "interrupted", KILLED
        raise
    finally:
        for logger in loggers:
            logger.finish(status, code)


def end_as_failed(trainer: Any) -> None:
    """Called where the process is about to leave at once: seconds for wandb to hear of it, and no more."""
    for logger in wandb_runs(trainer):
        last = Thread(target=logger.finish, args=("failed", 1), daemon=True)
        last.start()
        last.join(FAILING_END_S)


def wandb_runs(trainer: Any) -> list[WandbRun]:
    return [it for it in trainer.loggers if isinstance(it, WandbRun)] if trainer.is_global_zero else []


def choose_mode(asked: str | None, how: str) -> tuple[str, str]:
    """online, offline or disabled; and why offline. how: the mode was asked for, in words."""
    if asked == "offline":
        return "offline", how
    if asked == "disabled":
        return "disabled", ""
    return ("online", "") if has_key() else ("offline", "no key is configured")


def asked_as(key: str, value: str | None) -> str:
    """How a value was asked for: by wandb's variable in the environment, or by the config's key."""
    variable = VARIABLES[key]
    from_environment = value and value in os.environ.get(variable, "")
    return f"{variable if from_environment else f'logger.wandb.{key}'}={value}"


def cut_aloud(tag: str) -> str:
    """A tag that the project makes itself, of what may be called as one likes."""
    if len(tag) > LONGEST_TAG:
        tell(f"the tag {tag} is cut after {LONGEST_TAG} characters, as many as wandb takes.")
    return tag[:LONGEST_TAG]


def has_key() -> bool:
    """Whether wandb would find a key without asking: in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def sweep_of(folder: Path) -> str | None:
    """The name of the sweep's folder, where Hydra has started the run as a job of one."""
    path = folder / ".hydra" / "hydra.yaml"
    mode = value_at(read_yaml(path), "hydra", "mode") if path.exists() else None
    return folder.absolute().parent.name if str(mode).endswith("MULTIRUN") else None


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def tell(what: str) -> None:
    print(f"wandb: {what}", flush=True)
