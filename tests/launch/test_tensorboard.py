"""TensorBoard through Lightning's logger, read back by TensorBoard's own reader."""

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foundation.errors import UserError
from launch.tensorboard import TensorBoard
from relight import train
from tests.lightning_modules import test_resnet


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return events.Reload()


def test_a_run_shows_figures_pictures_and_tables_beside_metrics_csv(tmp_path):
    small = [*test_resnet.TINY["resnet_digits"], "trainer=cpu", "logger=tensorboard", "trainer.max_steps=3"]
    metrics = train("resnet_digits", [*small, f"paths.output_dir={tmp_path}"])
    events = read(metrics.folder)
    assert [it.step for it in events.Scalars("train/loss")] == [1, 2, 3]
    assert [(it.step, it.value) for it in events.Scalars("test/error")] == [(3, pytest.approx(metrics["test/error"]))]
    assert events.Tags()["images"] == ["test/classes"]
    assert events.Tags()["tensors"] == ["test/classes_table/text_summary"]
    assert (metrics.folder / "metrics.csv").exists()


def test_pictures_and_tables_are_those_of_the_files(tmp_path):
    logger = TensorBoard(str(tmp_path))
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "it.gif", save_all=True, append_images=frames[1:])
    logger.log_video("moving", [str(tmp_path / "it.gif")], 5)
    logger.log_table("table", ["a|b", "c"], [["x\ny", 0.123456789], [None, 3]], 5)
    logger.log_metrics({"train/loss": torch.tensor(2.0)}, 4)
    logger.finalize("success")
    events = read(tmp_path)
    (picture,) = events.Images("moving")
    assert (picture.step, picture.width, picture.height) == (5, 4, 3)
    (text,) = events.Tensors("table/text_summary")
    assert text.tensor_proto.string_val[0].decode().splitlines()[2:] == ["| x y | 0.123457 |", "|  | 3 |"]
    assert [(it.step, it.value) for it in events.Scalars("train/loss")] == [(5, 2.0)]


def test_without_the_package_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(UserError, match=r"pip install '.\[tensorboard\]'"):
        TensorBoard(str(tmp_path))
