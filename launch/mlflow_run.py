"""MLflow beside metrics.csv: Lightning's own logger, to which pictures and tables are given too."""

import csv
import io
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from foundation.errors import UserError
from foundation.published import TESTED
from foundation.whole_files import write_whole

ID_FILE = "mlflow_id"  # in the run folder
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
OURS = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # which MLflow no longer develops, and which needs no server and no database
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MLflow(MLFlowLogger):
    """A run in MLflow: figures and pictures against iterations done, tables as CSV files, on rank 0 alone.

    Whether the store can be reached is found out before training. One that fails later costs a line, not the training.
    A resumed run goes on as the same run of MLflow.

    Args:
        save_dir: the run folder, which keeps the id of MLflow's run.
        store: the folder of the file store, which is used where there is no ``tracking_uri``.
        experiment_name: what MLflow gathers runs under.
        run_name: what it shows of this one.
        tracking_uri: a server or database, as MLflow writes it; None or empty: the file store.
    """

    def __init__(
        self, save_dir: str, store: str, experiment_name: str, run_name: str, tracking_uri: str | None = None
    ) -> None:
        for variable, value in (OURS | PATIENCE).items():
            os.environ.setdefault(variable, value)
        self.folder, self.works = Path(save_dir), True
        self.asked = f"logger.mlflow.{f'tracking_uri={tracking_uri}' if tracking_uri else f'store={store}'}"
        kept = self.folder / ID_FILE
        uri = tracking_uri or Path(store).absolute().as_uri()
        try:
            super().__init__(
                experiment_name, run_name, uri, run_id=kept.read_text().strip() if kept.exists() else None,
                synchronous=True,
            )  # fmt: skip
            self._reach()
        except ModuleNotFoundError as error:
            raise UserError(told_as_missing(error, self.asked)) from None
        except Exception as error:  # whatever the store that was named raises
            raise self._unreachable(error) from None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """MLflow's client; Lightning asks for it before training, and MLflow's run begins here."""
        if not self._initialized:
            try:
                self._make_experiment()
                _ = MLFlowLogger.experiment.fget(self)  # pyright: ignore[reportOptionalCall]
            except Exception as error:
                raise self._unreachable(error) from None
            write_whole(self.folder / ID_FILE, f"{self._run_id}\n")
        return self._mlflow_client

    @property
    def name(self) -> str:
        return self._experiment_name

    @property
    def version(self) -> str | None:
        """The run's id in MLflow, None before it has begun."""
        return self._run_id

    def _make_experiment(self) -> None:
        from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports] (an extra)

        if self._run_id is None and self._mlflow_client.get_experiment_by_name(self._experiment_name) is None:
            with suppress(MlflowException):  # another run has just made it
                self._mlflow_client.create_experiment(self._experiment_name)

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"{self.asked} cannot be reached ({first_line(error)}): name another by logger.mlflow.tracking_uri or "
            "MLFLOW_TRACKING_URI, or leave mlflow out of logger=."
        )

    @rank_zero_only
    def _reach(self) -> None:
        """Before training; no run is made yet."""
        if self._run_id is not None:
            self._mlflow_client.get_run(self._run_id)
        else:
            self._mlflow_client.get_experiment_by_name(self._experiment_name)

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...  # config.yaml has them

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # Lightning counts steps from 0, but a test's from 1: it is logged when the last iteration is counted.
        tested = any(key.startswith(TESTED) for key in metrics)
        iteration = step if tested or step is None else step + 1
        figures = {key: float(value) for key, value in metrics.items()}
        self._do(lambda: super(MLflow, self).log_metrics(figures, iteration))

    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        """Image files, shown under one key after ``step`` iterations."""
        for number, path in enumerate(images):
            name = key if len(images) == 1 else f"{key}/{number}"
            with Image.open(path) as image:
                self._do(lambda name=name, image=image: self._show(name, image.convert("RGB"), step))

    @rank_zero_only
    def log_video(self, key: str, videos: list[str], step: int | None = None) -> None:
        """GIF files, as they are."""
        for path in videos:
            self._do(lambda path=path: self.experiment.log_artifact(self.run_id, path, key))

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        """A table with a row for each list of ``data``, which MLflow shows as one."""
        file = io.StringIO()
        csv.writer(file).writerows([columns, *data])
        name = f"{key}.csv" if step is None else f"{key}-{step}.csv"
        self._do(lambda: self.experiment.log_text(self.run_id, file.getvalue(), name))

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        self._do(lambda: super(MLflow, self).finalize(status))

    def _show(self, key: str, image: Image.Image, step: int | None) -> None:
        self.experiment.log_image(self.run_id, image, key=key, step=step, synchronous=True)

    def _do(self, action: Callable[[], Any]) -> None:
        if not self.works:
            return
        try:
            action()
        except Exception as error:  # whatever a dying store raises: the training goes on, metrics.csv is complete
            print(f"mlflow: it has failed ({first_line(error)}); from here on this run is logged to files alone.",
                  flush=True)  # fmt: skip
            self.works = False


def told_as_missing(error: ModuleNotFoundError, asked: str) -> str:
    if (error.name or "mlflow").partition(".")[0] == "mlflow":
        return "logger=mlflow needs MLflow, which is not installed: pip install '.[mlflow]'"
    return f"{asked} needs {error.name}, which is not installed: pip install mlflow"


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
