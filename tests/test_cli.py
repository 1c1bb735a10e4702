"""The commands as a person types them: each once in a Python of its own, else in forks of one that has torch."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finished.run_in_words import places_in, summary
from tests.forks import run_in_fork
from tests.launch.test_wandb_run import of_kind, records
from tests.lightning_modules.test_infogan import TINY

ROOT = Path(__file__).resolve().parent.parent
SIZE = [
    "trainer=cpu",
    "logger=csv",
    "trainer.max_steps=12",
    "trainer.log_every_n_steps=5",
    *TINY["infogan_digits"],
    "callbacks.image_grid.every_n_steps=6",
]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short runs of the embedded default, seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("runs")
    done = command("train.py", "-m", "seed=0,1", *SIZE, f"paths.output_dir={folder}")
    assert done.returncode == 0, done.stderr
    assert "infogan_digits, seed 0: 12 iterations on 1 x cpu, 32-true" in done.stdout
    assert "test/cluster_accuracy" in done.stdout
    assert "test/kmeans_cluster_accuracy" in done.stdout
    assert done.stderr == ""
    (sweep,) = (folder / "sweeps" / "infogan_digits").iterdir()
    (folder / "printed.txt").write_text(done.stdout)
    return sweep


def test_a_run_folder_holds_pictures_metrics_checkpoint_config_and_record(sweep):
    names = {str(path.relative_to(sweep / "0")) for path in (sweep / "0").rglob("*") if path.is_file()}
    assert names == {
        ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "config.yaml", "metrics.csv", "record.json",
        "checkpoints/last.ckpt", "clusters.csv", "clusters.png", "images/samples-000006.png", "images/samples-000012.png",
        "images/traversal-code0_categorical.png", "images/traversal-code1_continuous0.png",
        "images/traversal-code1_continuous1.png",
    } | ({"diff.patch"} & names)  # fmt: skip
    assert "${" not in (sweep / "0" / "config.yaml").read_text()


def test_the_end_says_where_everything_lies(sweep):
    printed = (sweep.parent.parent.parent / "printed.txt").read_text()
    for place in ("images", "metrics.csv", "checkpoints/last.ckpt", "record.json"):
        (line,) = [it for it in printed.splitlines() if it.endswith(f"{sweep.name}/1/{place}")]
        assert (ROOT / line.split()[-1]).exists()


def test_a_record_answers_which_command_gave_this_number(sweep):
    record = json.loads((sweep / "1" / "record.json").read_text())
    assert record["status"] == "finished"
    assert (record["experiment"], record["seed"], record["iterations"]) == ("infogan_digits", 1, 12)
    assert "seed=1" in record["overrides"]
    assert "trainer.max_steps=12" in record["overrides"]
    assert record["data"] | {"sha256": ""} == {
        "name": "digits",
        "train": 1437,
        "val": 0,
        "test": 360,
        "split": "test",
        "sha256": "",
    }
    assert record["precision"] == record["config"]["trainer"]["precision"] == "32-true"
    assert record["config"]["lightning_module"]["seed"] == 1
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["wall_time_s"].keys() == {"fit", "test"}
    assert 0 < record["metrics"]["test/cluster_accuracy"] < 1
    assert "train/loss_g" in record["metrics"]


def test_seeds_differ(sweep):
    first, second = (json.loads((sweep / job / "record.json").read_text()) for job in "01")
    assert first["metrics"]["train/loss_g"] != second["metrics"]["train/loss_g"]
    assert first["data"] == second["data"]
    assert first["metrics"]["test/kmeans_cluster_accuracy"] == second["metrics"]["test/kmeans_cluster_accuracy"]


def test_metrics_csv_has_a_row_for_each_logged_iteration(sweep):
    header, *rows = (sweep / "0" / "metrics.csv").read_text().splitlines()
    steps = [row.split(",")[header.split(",").index("step")] for row in rows]
    assert steps == ["4", "9", "12"]  # counted from 0; the last row is the test's


def test_evaluate_measures_a_run_again(sweep):
    done = command("evaluate.py", f"run={sweep / '0'}", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    (folder,) = (sweep / "0" / "evaluations").iterdir()
    again = json.loads((folder / "metrics.json").read_text())
    record = json.loads((sweep / "0" / "record.json").read_text())
    for key, value in record["metrics"].items():
        if key.startswith("test/"):
            assert again[key] == pytest.approx(value, abs=1e-6)
    assert again["checkpoint"] == "last.ckpt"
    assert (folder / "clusters.csv").read_text() == (sweep / "0" / "clusters.csv").read_text()


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of 2,000 iterations that Ctrl-C stops and that goes on for 19; its folder and what stopping printed."""
    folder = tmp_path_factory.mktemp("stopped")
    words = [sys.executable, "train.py", *SIZE, "datamodule.batch_size=32", "trainer.max_steps=2000",
             f"paths.output_dir={folder}"]  # fmt: skip
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        while "200/2000 iterations" not in started.stdout.readline():
            assert started.poll() is None, "the run ended before it was interrupted"
        started.send_signal(signal.SIGINT)
        _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    (run,) = (folder / "infogan_digits").iterdir()
    assert json.loads((run / "record.json").read_text())["status"] == "interrupted"
    done = run_in_fork("train.py", "resume=latest", f"paths.output_dir={folder}", "datamodule.eval_batch_size=100",
                       f"trainer.max_steps={int(said.split()[2]) + 19}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [run] == list((folder / "infogan_digits").iterdir())
    return run, said


def test_ctrl_c_saves_and_says_how_to_go_on(resumed):
    run, said = resumed
    assert (
        said.split()
        == f"stopped after {said.split()[2]} iterations; go on with: python train.py resume={os.path.relpath(run, ROOT)}".split()
    )
    assert 200 <= int(said.split()[2]) < 2000


def test_a_resumed_run_is_one_run(resumed):
    run, said = resumed
    record = json.loads((run / "record.json").read_text())
    stopped = int(said.split()[2])
    assert (record["status"], record["iterations"]) == ("finished", stopped + 19)
    assert [it["from_iteration"] for it in record["resumes"]] == [stopped]
    assert "datamodule.batch_size=32" in record["overrides"]
    assert "datamodule.eval_batch_size=100" in record["overrides"]  # of the resume
    assert record["config"]["datamodule"]["eval_batch_size"] == 100
    assert record["data"]["test"] == 360
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[header.split(",").index("step")]) for row in rows]
    assert steps == [*range(4, stopped + 19, 5), stopped + 19]


def test_a_resume_leaves_the_first_command_and_notes_its_own(resumed):
    run, _ = resumed
    assert "eval_batch_size=100" not in (run / ".hydra" / "overrides.yaml").read_text()
    assert "eval_batch_size: 1000" in (run / ".hydra" / "config.yaml").read_text()
    assert "datamodule.eval_batch_size=100" in (run / "resumes" / "001.yaml").read_text()
    assert "eval_batch_size: 100\n" in (run / "config.yaml").read_text()


def test_a_failed_rank_fails_the_command_with_its_traceback(tmp_path):
    fail = "+callbacks.fail={_target_: tests.failing.FailOnRank, rank: 1, iteration: 3}"
    done = run_in_fork("train.py", "trainer=ddp_cpu", *TINY["infogan_digits"], "trainer.max_steps=9",
                       f"paths.output_dir={tmp_path}", "logger.wandb.offline=true", fail)  # fmt: skip
    assert done.returncode not in (0, None)
    assert "ArithmeticError: this rank was told to fail" in done.stderr
    (segment,) = tmp_path.rglob("offline-run-*")  # of both ranks, and ended as failed
    assert of_kind(records(segment), "exit")[0]["exit_code"] == 1
    (record,) = tmp_path.rglob("record.json")
    assert json.loads(record.read_text())["status"] == "failed"
    alive = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in alive


def test_evaluate_names_a_folder_that_is_no_run_and_writes_nothing_there(tmp_path):
    done = run_in_fork("evaluate.py", f"run={tmp_path / 'nothing'}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: {tmp_path / 'nothing'} is not a run: it has no .hydra/config.yaml. Give the folder that train.py printed."
    ]
    assert not (tmp_path / "nothing").exists()


def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(tmp_path):
    done = command("train.py", "experiment=infogan_mnst", "trainer.max_steps=1", f"paths.output_dir={tmp_path}/runs")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: experiment=infogan_mnst: there is no such choice; did you mean 'infogan_mnist'?"
    ]
    assert not (tmp_path / "runs").exists()


def test_missing_data_is_one_sentence(tmp_path):
    done = run_in_fork("train.py", "experiment=infogan_mnist", f"paths.data_dir={tmp_path}/file",
                       f"paths.output_dir={tmp_path}/runs")  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "set DATA_DIR or paths.data_dir" in done.stderr


def test_help_lists_groups_and_experiments():
    done = command("train.py", "--help")
    assert done.returncode == 0
    (experiments,) = [line for line in done.stdout.splitlines() if line.startswith("experiment: ")]
    assert {"infogan_digits", "infogan_mnist"} <= set(experiments.partition(": ")[2].split(", "))
    assert "trainer: auto, cpu, ddp, ddp_cpu, default, gpu" in done.stdout


def test_a_short_run_without_a_test_has_curves_and_says_what_can_be_typed_next(tmp_path):
    words = [*SIZE, "trainer.max_steps=3", "trainer.log_every_n_steps=50", "test=false", f"paths.output_dir={tmp_path}"]
    done = run_in_fork("train.py", *words)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "infogan_digits").iterdir()
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 3
    assert "test/" not in rows[0]
    assert json.loads((folder / "record.json").read_text())["status"] == "fitted"
    assert "3/3 iterations" in done.stdout
    assert "loss_g" in done.stdout
    last = done.stdout.splitlines()[-3:]
    assert last[0].startswith("  trained for ")
    for line, command in zip(last, ("make report RUN=", "make record RUN=", "python sample.py run="), strict=True):
        assert command in line


def test_at_the_end_it_is_said_where_everything_lies_that_a_callback_has_left(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("classes.png", "classes.csv", "sentences.csv", "metrics.csv", "record.json", "images/a.png"):
        (tmp_path / name).touch()
    assert places_in(tmp_path) == {
        "pictures": tmp_path / "images", "classes": tmp_path / "classes.png", "sentences": tmp_path / "sentences.csv",
        "metrics": tmp_path / "metrics.csv", "record": tmp_path / "record.json"}  # fmt: skip


def test_the_paper_s_figure_stands_beside_its_own_data_at_the_end(tmp_path):
    paper = {"metric": "test/cluster_accuracy", "value": 0.95, "data": "mnist", "split": "test"}
    config = {"name": "infogan_mnist", "seed": 0, "paper": paper}
    metrics = {"test/cluster_accuracy": 0.9, "val/cluster_accuracy": 0.8, "train/loss_g": 1.0}
    told = summary(config, metrics, tmp_path, "trained", {"name": "mnist", "split": "test"}).splitlines()
    assert told[1:] == ["infogan_mnist, seed 0:", f"  {'test/cluster_accuracy':<32}0.9000   (paper: 0.95)"]
    for data in ({"name": "image_folder", "split": "test"}, {"name": "mnist", "split": "test, 300 examples"}, {}):
        assert "paper" not in summary(config, metrics, tmp_path, "trained", data)
    on_training_data = summary(config, {"train_set/map": 0.7}, tmp_path, "averaged", {"name": "coco"}).splitlines()
    assert on_training_data[1:] == ["infogan_mnist, seed 0, weights averaged:", f"  {'train_set/map':<32}0.7000"]
