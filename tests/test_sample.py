"""sample.py on a run trained for two iterations, mostly in this process: starting Python with torch takes seconds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foundation.errors import UserError
from foundation.protocols import SamplesImages
from launch.command_line import check_command_line, compose_job
from launch.runs import load_run
from lightning_modules.infogan import InfoGAN
from sample import sample, with_free_codes
from tests.finished_runs import finished_run
from tests.lightning_modules.test_infogan import TINY

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"), "seed=7", *TINY["infogan_digits"])


def sampled(run: Path, *words: str) -> Path:
    """The folder that a command makes."""
    return sample(compose_job("sample", with_free_codes([f"run={run}", "accelerator=cpu", *words])))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def files(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: pixels(path) for path in sorted((folder / "images").iterdir())}


def as_pixels(images: torch.Tensor) -> np.ndarray:
    return images[:, 0].mul(255).add(0.5).to(torch.uint8).numpy().astype(int)


def assert_same(first: np.ndarray, second: np.ndarray) -> None:
    """Up to float rounding: one grey level."""
    assert first.shape == second.shape
    assert np.abs(first - second).max() <= 1


def test_a_grid_shows_what_the_run_s_own_pictures_show(run):
    folder = sampled(run, "count=4")
    # Two columns here, ten there: the four images one by one, 48 pixels and borders of 2.
    own = pixels(run / "images" / "samples-000002.png")
    grid = pixels(folder / "grid.png")
    assert grid.shape == (102, 102, 3)
    for index in range(4):
        row, column = divmod(index, 2)
        image = grid[row * 50 + 2 : row * 50 + 50, column * 50 + 2 : column * 50 + 50]
        assert_same(image, own[2:50, index * 50 + 2 : index * 50 + 50])
    assert sorted(path.name for path in folder.iterdir()) == ["grid.png", "samples.json"]


def test_files_are_named_by_their_sample_and_do_not_depend_on_start_count_or_batch_size(run):
    whole = files(sampled(run, "count=7", "output=both"))
    assert list(whole) == [f"{index:06d}.png" for index in range(7)]
    assert whole["000000.png"].shape == (8, 8)
    in_batches = files(sampled(run, "count=7", "batch_size=3", "output=files"))
    later = files(sampled(run, "count=4", "start=3", "output=files"))
    assert list(later) == list(whole)[3:]
    for name, image in (in_batches | later).items():
        assert_same(image, whole[name])
    assert in_batches.keys() == whole.keys()
    assert len({image.tobytes() for image in whole.values()}) == 7


def test_a_chosen_category_is_that_category_and_all_else_stays(run):
    folder = sampled(run, "count=5", "output=files", "codes.code0_categorical=3", "codes.code1_continuous1=-1.5")
    module, _, _ = load_run(run)
    noise, codes = module.latents(torch.arange(5))
    codes[0].fill_(3)
    codes[1][:, 1] = -1.5
    with torch.no_grad():
        expected = as_pixels(module.generate(noise, codes))
    assert_same(np.stack(list(files(folder).values())), expected)
    assert_same(
        as_pixels(module.sample_with_codes(torch.arange(5), {"code0_categorical": 3, "code1_continuous1": -1.5})),
        expected,
    )
    assert json.loads((folder / "samples.json").read_text())["codes"] == {
        "code0_categorical": 3,
        "code1_continuous1": -1.5,
    }


def test_codes_are_named_as_the_traversals_are(run):
    module, _, _ = load_run(run)
    pictures = {path.stem.removeprefix("traversal-") for path in (run / "images").glob("traversal-*")}
    assert module.code_ranges().keys() == pictures
    traversal = module.traversals(1)["code0_categorical"][0]  # row 0 shows category 0 elsewhere
    for category in range(10):
        chosen = module.sample_with_codes(torch.arange(1), {"code0_categorical": category})
        torch.testing.assert_close(chosen[0], traversal[category])


def test_null_leaves_a_code_as_drawn(run):
    module, _, _ = load_run(run)
    assert torch.equal(
        module.sample_with_codes(torch.arange(3), {"code0_categorical": None}), module.sample(torch.arange(3))
    )


def test_the_seed_is_the_run_s_unless_given(run):
    own, given, other = (files(sampled(run, "count=2", "output=files", *it)) for it in ([], ["seed=7"], ["seed=8"]))
    assert all((own[name] == given[name]).all() for name in own)
    assert all((own[name] != other[name]).any() for name in own)


def test_the_record_says_how_the_pictures_were_made(run):
    record = json.loads((sampled(run, "count=3", "start=2", "seed=5") / "samples.json").read_text())
    del record["command"]
    assert record == {
        "checkpoint": "last.ckpt",
        "iteration": 2,
        "seed": 5,
        "start": 2,
        "count": 3,
        "codes": {},
        "precision": "float32",
        "device": "cpu",
    }


MISTAKES = {
    "codes.code0=3": r"codes.code0: there is no such code; this model has code0_categorical \(a whole number from 0 to 9\), code1_continuous0",
    "codes.code0_categorical=10": "codes.code0_categorical is 10: give a whole number from 0 to 9, or null",
    "codes.code0_categorical=-1": "codes.code0_categorical is -1: give a whole number from 0 to 9",
    "codes.code0_categorical=2.5": "codes.code0_categorical is 2.5: give a whole number",
    "codes.code1_continuous0=[1,2]": r"codes.code1_continuous0 is \[1, 2\]: give a number, in training from -1 to 1",
    "codes.code1_continuous0=inf": "codes.code1_continuous0 is inf: give a number",
    "codes.code1_continuous0=true": "codes.code1_continuous0 is True: give a number",
    "codes=3": "codes is 3, which is not a mapping",
    "count=0": "count is 0: give 1 or more",
    "start=-1": "start is -1: give 0 or more",
    "batch_size=0": "batch_size is 0: give 1 or more",
    "seed=-1": "seed is -1: give a whole number from 0",
    "output=png": "output is 'png', which is not one of grid, files, both",
    "checkpoint=lst": "has no checkpoint 'lst'; did you mean 'last'",
    "accelerator=graphics": "accelerator=graphics: .*auto",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_its_sentence_and_makes_nothing(run, mistake):
    before = set((run / "samples").glob("*"))
    with pytest.raises(UserError, match=MISTAKES[mistake]):
        sampled(run, mistake)
    assert set((run / "samples").glob("*")) == before


def test_a_wrong_key_is_named_and_codes_are_not_taken_for_one():
    with pytest.raises(UserError, match="cout=3: there is no key 'cout'; did you mean 'count'"):
        check_command_line("sample", with_free_codes(["run=x", "codes.code0_categorical=3", "cout=3"]))
    with pytest.raises(UserError, match="trainer=cpu: sample.py has no key 'trainer'; known: accelerator"):
        check_command_line("sample", ["run=x", "trainer=cpu"])
    with pytest.raises(UserError, match="run has no value yet: add run=..."):
        check_command_line("sample", [])


def test_a_module_without_codes_takes_none_and_one_without_images_is_refused(run, monkeypatch):
    monkeypatch.setattr(InfoGAN, "capabilities", lambda self: {SamplesImages})
    with pytest.raises(UserError, match="is a run of InfoGAN, which has no codes to choose: leave out codes"):
        sampled(run, "codes.code0_categorical=1")
    sampled(run, "count=1")
    monkeypatch.setattr(InfoGAN, "capabilities", lambda self: set())
    with pytest.raises(UserError, match="is a run of InfoGAN, which makes no images"):
        sampled(run)


def test_a_run_from_elsewhere_is_held_to_what_configs_are_for(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "copied")
    path = copied / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace(str(run), "${paths.run_dir}"))
    sampled(copied, "count=1")
    path.write_text(path.read_text().replace("lightning_modules.networks.dcgan.Generator", "os.mkdir"))
    with pytest.raises(
        UserError, match="lightning_module.generator._target_ is 'os.mkdir', which a run's config may not"
    ):
        sampled(copied)


def test_the_command_makes_pictures_for_each_value_and_says_where(run, tmp_path):
    before = set((run / "samples").glob("*"))
    words = ["-m", f"run={run}", "count=2", "codes.code0_categorical=0,1", f"paths.output_dir={tmp_path}"]
    done = subprocess.run([sys.executable, "sample.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    made = sorted(set((run / "samples").glob("*")) - before)
    assert [json.loads((it / "samples.json").read_text())["codes"] for it in made] == [
        {"code0_categorical": 0},
        {"code0_categorical": 1},
    ]
    assert [line.strip() for line in done.stdout.splitlines() if line.endswith("grid.png")] == [
        f"{it}/grid.png" for it in made
    ]
    assert "codes.code0_categorical=0,1" in json.loads((made[0] / "samples.json").read_text())["command"]
