"""What a run folder of somebody else, a name or a link could have written elsewhere."""

import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import finished.report
from datamodules.mnist import archive
from finished.tables import record
from foundation import places, security
from foundation.errors import UserError
from foundation.places import check_download, inside, is_cache, is_one_name, lies_in, refuse_ways_out_of
from foundation.security import check_foreign
from launch.command_line import check_command_line, compose_job
from launch.resume import prepare
from launch.saved_config import saved_config
from tests.launch.test_resume import write_run


def test_a_path_is_where_its_links_lead(tmp_path):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "images").symlink_to(outside)
    (folder / "again").symlink_to(folder)
    (tmp_path / "by a link").symlink_to(folder)
    assert lies_in(folder / "new" / "x.png", folder)
    assert lies_in(folder / "again" / "x.png", folder)
    assert lies_in(tmp_path / "by a link" / "x", folder)
    assert lies_in(folder, tmp_path / "by a link")
    for path in (folder / "images" / "x.png", folder / ".." / "x", tmp_path / "run2", Path("/etc/x")):
        assert not lies_in(path, folder)
        with pytest.raises(UserError, match="is not written: it lies outside of"):
            inside(path, folder)
    with pytest.raises(UserError, match="run/images is a link to"):
        refuse_ways_out_of(folder)


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", "..", ".", "", "a\\b", "a\0b", None, 3])
def test_a_name_of_several_folders_is_none(name):
    assert not is_one_name(name)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/../../b", ".."])
def test_the_command_line_names_no_folder_elsewhere(name):
    with pytest.raises(UserError, match="name is .*, which is no name of one folder"):
        check_command_line("train", [f"name={name}"])


@pytest.mark.parametrize("of", ["experiment", "seed", "commit"])
def test_a_record_names_no_file_elsewhere(tmp_path, of):
    told = {"experiment": "a", "seed": 0, "commit": "abcdef0", "status": "finished", "clean": True, "overrides": []}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text(json.dumps(told | {of: "../../x/"}))
    with pytest.raises(UserError, match="which is no name of a file|which is not a whole number"):
        record(tmp_path / "run", tmp_path / "deep" / "results")
    assert sorted(it.name for it in tmp_path.rglob("*")) == ["record.json", "run"]


def test_a_record_is_not_written_through_a_link(tmp_path):
    told = {"experiment": "a", "seed": 0, "commit": "abcdef0", "status": "finished", "clean": True, "overrides": []}
    (tmp_path / "run").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a-0-abcdef0.json").symlink_to(tmp_path / "victim")
    (tmp_path / "run" / "record.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="is not written"):
        record(tmp_path / "run", tmp_path / "results")


BEST = [
    "callbacks=[default,cluster_accuracy,image_grid,best_checkpoint]",
    "optimized_metric=val/cluster_accuracy",
    "datamodule.val_size=9",
]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("callbacks.best_checkpoint.filename", "../../x"), ("callbacks.best_checkpoint.filename", "/tmp/x"),
        ("callbacks.best_checkpoint.dirpath", "/tmp"), ("callbacks.checkpoint.folder", "{run}/../x"),
        ("callbacks.checkpoint.folder", "~/x"), ("callbacks.image_grid.folder", "{run}/linked/images"),
        ("trainer.default_root_dir", ".."), ("callbacks.deep", [{"folder": "/tmp/x"}]),
    ],
)  # fmt: skip
def test_a_place_elsewhere_is_refused(tmp_path, place, value):
    run = write_run(tmp_path / "run", overrides=["callbacks=[default,image_grid,best_checkpoint]", *BEST[1:]])
    path = run / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    value = value.replace("{run}", str(run)) if isinstance(value, str) else value
    if place.endswith("deep"):
        place, value = "callbacks.checkpoint.deep", value
    OmegaConf.update(config, place, value, force_add=True)
    OmegaConf.save(config, path)
    if "linked" in str(value):
        (tmp_path / "elsewhere").mkdir()
        (run / "linked").symlink_to(tmp_path / "elsewhere")
    for read in (saved_config, lambda folder: prepare(str(folder), [])):
        with pytest.raises(UserError, match="outside"):
            read(run)


def test_what_conf_has_is_inside(tmp_path):
    run = write_run(tmp_path / "run", overrides=BEST)
    assert saved_config(run)["callbacks"]["best_checkpoint"]["filename"] == "best"


@pytest.mark.parametrize("name", ["images", "checkpoints/last.ckpt.unfinished", "report.html", "evaluations", "wandb"])
def test_a_folder_with_a_link_out_of_it_is_refused(tmp_path, name):
    run = write_run(tmp_path / "run")
    (run / name).symlink_to(tmp_path / "victim")
    for read in (saved_config, lambda folder: prepare(str(folder), [])):
        with pytest.raises(UserError, match="is a link to .*victim, outside of the run's folder"):
            read(run)


@pytest.mark.parametrize("name", ["wandb_id", "metrics.csv", "checkpoints/best.ckpt", "resumes/001.yaml"])
def test_a_pipe_in_a_run_folder_is_told_and_not_waited_for(tmp_path, name):
    run = write_run(tmp_path / "run")
    (run / name).parent.mkdir(exist_ok=True)
    os.mkfifo(run / name)
    with pytest.raises(UserError, match=f"{name} (is a pipe or a device|is no file)"):
        prepare(str(run), [])


def test_links_that_stay_and_those_of_wandb_s_own_are_none_of_these(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "checkpoints" / "newest.ckpt").symlink_to("last.ckpt")
    (run / "wandb" / "run-1" / "logs").mkdir(parents=True)
    (run / "wandb" / "run-1" / "logs" / "debug-core.log").symlink_to(tmp_path / "elsewhere")
    saved_config(run)


def test_a_report_is_not_written_through_a_link(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "victim").write_text("dear")
    (run / "report.html").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="report.html is not written"):
        finished.report.main([str(run)])
    assert (tmp_path / "victim").read_text() == "dear"


def test_a_cache_elsewhere_becomes_this_machine_s(tmp_path, monkeypatch):
    monkeypatch.setenv("RELIGHT_CACHE", str(tmp_path / "own"))
    places = [
        "datamodule=image_folder",
        "datamodule.name=a",
        "datamodule.folder=b",
        f"paths.cache_dir={tmp_path / 'victim'}",
    ]
    run = write_run(tmp_path / "run", overrides=["experiment=infogan_digits"])
    config = OmegaConf.create(compose_job("train", [*places, "experiment=infogan_celeba"], str(run)))
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    config = saved_config(run)
    assert config["paths"]["cache_dir"] == config["datamodule"]["cache_dir"] == str(tmp_path / "own")
    (tmp_path / "victim").mkdir()
    assert not is_cache(tmp_path / "victim")
    (tmp_path / "victim" / "celeba-0123456789abcdef0123.npy").touch()  # one's own of before
    assert is_cache(tmp_path / "victim")
    assert saved_config(run)["datamodule"]["cache_dir"] == str(tmp_path / "victim")


def test_a_resume_takes_the_cache_of_its_command(tmp_path):
    run = write_run(tmp_path / "run")
    config, _ = prepare(str(run), [f"paths.cache_dir={tmp_path / 'mine'}"])
    assert config["paths"]["cache_dir"] == str(tmp_path / "mine")
    assert not os.path.exists(tmp_path / "mine")


def test_nothing_is_downloaded_to_where_a_run_of_somebody_else_says(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "mine"))
    monkeypatch.setattr(places, "NAMED_BY_A_RUN", set())
    monkeypatch.setattr(security, "NAMED_BY_A_RUN", places.NAMED_BY_A_RUN)
    theirs = tmp_path / "theirs"
    config = {
        "paths": {"run_dir": str(tmp_path / "run")},
        "datamodule": {"data_dir": str(theirs)},
        "callbacks": {"score": {"weights": str(theirs / "judge" / "w.pth")}},
    }
    check_foreign(config, "a run", data_dirs=[str(theirs)])  # which a person has typed
    check_download(theirs / "MNIST" / "file.gz")
    check_foreign(config, "a run")
    for path in (theirs / "MNIST" / "file.gz", theirs / "judge" / "w.pth"):
        with pytest.raises(UserError, match="is not downloaded there, since a run's folder names"):
            check_download(path)
    with pytest.raises(UserError, match="is not downloaded there"):
        archive("train-images-idx3-ubyte.gz").fetch(theirs)
    assert not theirs.exists()
    check_download(tmp_path / "mine" / "MNIST" / "file.gz")
