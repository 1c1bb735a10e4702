"""The picture of a boundary, of one classifier and of several."""

import pytest
import torch
from PIL import Image

from callbacks.decision_boundary import DecisionBoundary, draw_boundaries
from finished.decision_boundaries import draw_decision_boundaries
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.runs import build
from tests.finished_runs import finished_run
from tests.lightning_modules.test_resnet import TINY as OF_RESNET
from tests.lightning_modules.test_wrm import TINY


def pixels(path):
    return torch.tensor(list(Image.open(path).convert("RGB").getdata())).reshape(-1, 3)


def test_a_line_stands_where_the_likeliest_class_changes(tmp_path):
    """Three classes along x: two boundaries, and no line for a class that is never likeliest."""
    points = torch.tensor([[-3.0, -1.0], [3.0, 1.0]])

    def logits(grid):
        x = grid[:, 0]
        return torch.stack([-x, torch.zeros_like(x) + 1, x, torch.full_like(x, -9)], dim=1)

    draw_boundaries({"three": logits}, points, torch.tensor([0, 1]), tmp_path / "three.png")
    draw_boundaries({"none": lambda grid: torch.stack([grid[:, 0] * 0, grid[:, 0] * 0 + 1], dim=1)}, points,
                    torch.tensor([0, 1]), tmp_path / "none.png")  # fmt: skip
    blue = torch.tensor([0x1F, 0x77, 0xB4])
    drawn = {name: int((pixels(tmp_path / f"{name}.png") == blue).all(1).sum()) for name in ("three", "none")}
    assert drawn["three"] > drawn["none"] + 500  # the legend has a line in both


def test_points_of_more_coordinates_are_refused():
    class Module:
        point_size = 3

    assert DecisionBoundary("x").refusal(Module()) == "it draws points of the plane, and these have 3 coordinates"


def test_a_run_draws_its_own_and_several_are_drawn_in_one_picture(tmp_path):
    tiny = ["experiment=wrm_synthetic", *TINY["wrm_synthetic"]]
    runs = [finished_run(tmp_path / it, *tiny, f"lightning_module.training={it}") for it in ("wrm", "erm")]
    for run in runs:
        (run / "metrics.csv").touch()  # as a longer run has it
    draw_decision_boundaries(runs, tmp_path / "both.png")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    run = build(compose_job("train", ["trainer=cpu", "logger=none", *tiny], str(tmp_path / "own")))
    run.trainer.test(run.module, run.datamodule, verbose=False)
    assert (tmp_path / "own" / "decision_boundary.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_images_are_refused(tmp_path):
    run = finished_run(tmp_path / "run", "experiment=resnet_digits", *OF_RESNET["resnet_digits"])
    (run / "metrics.csv").touch()
    with pytest.raises(UserError, match=r"classifies no points of the plane: ResNet on digits"):
        draw_decision_boundaries([run], tmp_path / "none.png")
