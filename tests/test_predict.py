"""predict.py on runs trained for a few iterations, mostly in this process: starting Python with torch takes seconds."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import predict
from callbacks.instruments.coco_evaluation import encode
from datamodules.coco import CocoDataModule
from datamodules.decoding import whole_image
from evaluate import evaluate
from finished.images import Images, as_coco
from finished.onnx import export
from foundation.errors import UserError
from foundation.protocols import ClassifiesImages, ClassifiesText
from launch.command_line import check_command_line, compose_job, readable
from launch.runs import load_run
from lightning_modules.resnet import ResNet
from sample import sample
from tests.finished_runs import finished_run
from tests.lightning_modules import test_faster_rcnn
from tests.lightning_modules.test_infogan import TINY

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["experiment=resnet_digits", "trainer.precision=32-true", "lightning_module.network.width=4",
         "lightning_module.network.depth=8", "lightning_module.scheduler.warmup=1"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes without names of their own, 8x8 grey."""
    return finished_run(tmp_path_factory.mktemp("run"), *SMALL, "trainer.max_steps=20")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 classes that are folders, 6x6 colour out of the 8x8 at the centre; the folders are gone."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(22):
        for copy in range(2):
            write(folder / "images" / f"kind {number:02d}" / f"{copy}.png", noise(number, (10, 12, 3)))
    trained = finished_run(
        folder / "run", *SMALL, "datamodule=image_folder", f"datamodule.folder={folder}/images", "datamodule.size=6",
        "datamodule.channels=3", "datamodule.crop=8", "datamodule.batch_size=8", f"paths.cache_dir={folder}/cache",
        "lightning_module.network.image_shape=[3,6,6]", "lightning_module.network.num_classes=22",
    )  # fmt: skip
    shutil.rmtree(folder / "images")
    return trained


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images, one of them a folder deeper."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(6):
        write(folder / f"{number}.png", noise(number, (8, 8)))
    write(folder / "below" / "deeper" / "6.png", noise(6, (8, 8)))
    return folder


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def predicted(run: Path, source: Path | str, *words: str) -> Path:
    """The folder that a command makes."""
    given = readable("predict", [f"run={run}", f"input={source}", "accelerator=cpu", *words], ["run", "input"])
    return predict.predict(compose_job("predict", given))


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def probabilities(folder: Path) -> np.ndarray:
    """[N, 10], those of the digits."""
    return np.array([[float(row[f"probability_{number}"]) for number in range(10)] for row in table(folder)])


def of_module(run: Path, pixels: np.ndarray) -> np.ndarray:
    """pixels: uint8 [N, C, H, W] -> [N, K], by the module itself."""
    module, _, _ = load_run(run)
    with torch.no_grad():
        return module.class_logits(torch.from_numpy(pixels) / 255).softmax(dim=1).numpy()  # type: ignore


def test_the_table_says_what_the_module_says(run, images):
    rows = table(folder := predicted(run, images))
    names = ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png", "below/deeper/6.png"]
    assert [row["path"] for row in rows] == [f"{images}/{name}" for name in names]
    expected = of_module(run, np.stack([noise(number, (8, 8)) for number in range(7)])[:, None])
    np.testing.assert_allclose(probabilities(folder), expected, rtol=1e-4, atol=1e-7)
    assert len(set(expected.argmax(axis=1))) > 1
    assert [row["label"] for row in rows] == [str(number) for number in expected.argmax(axis=1)]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected.max(axis=1), rtol=1e-4)
    assert list(rows[0]) == ["path", "label", "probability", *(f"probability_{number}" for number in range(10))]


def test_an_image_s_row_depends_on_neither_the_others_nor_the_batch_size(run, images):
    whole = probabilities(predicted(run, images))
    np.testing.assert_allclose(probabilities(predicted(run, images, "batch_size=3")), whole, rtol=1e-4, atol=1e-7)
    alone = predicted(run, images / "4.png")
    np.testing.assert_allclose(probabilities(alone), whole[4:5], rtol=1e-4, atol=1e-7)
    assert [row["path"] for row in table(alone)] == [f"{images}/4.png"]


def test_inverted_images_are_read_as_their_negatives(run, images, tmp_path):
    write(tmp_path / "negative.png", 255 - noise(2, (8, 8)))
    inverted = predicted(run, tmp_path, "invert=true")
    np.testing.assert_array_equal(probabilities(inverted), probabilities(predicted(run, images / "2.png")))
    assert (probabilities(predicted(run, tmp_path)) != probabilities(inverted)).any()
    assert json.loads((inverted / "predictions.json").read_text())["pixels"]["invert"] is True


def test_files_become_pixels_as_the_run_s_data_did_and_need_none_of_them(many, tmp_path):
    photo = noise(3, (10, 12, 3))
    write(tmp_path / "photo.png", photo)
    (row,) = table(predicted(many, tmp_path))
    centre = Image.fromarray(photo[1:9, 2:10]).resize((6, 6), Image.Resampling.BILINEAR)
    expected = of_module(many, np.asarray(centre).transpose(2, 0, 1)[None].copy())[0]
    places = np.argsort(-expected)[:5]
    assert [row[key] for key in ("label", "label_2", "label_3", "label_4", "label_5")] == [
        f"kind {place:02d}" for place in places
    ]
    given = [row[key] for key in ("probability", *(f"probability_{place}" for place in range(2, 6)))]
    np.testing.assert_allclose([float(it) for it in given], expected[places], rtol=1e-4)
    assert len(row) == 11


def test_a_wide_colour_image_becomes_a_grey_square_of_its_centre(run, tmp_path):
    colour = np.full((8, 20, 3), 77, dtype=np.uint8)
    colour[:, 6:14] = noise(1, (8, 8))[..., None]
    write(tmp_path / "colour.png", colour)
    expected = of_module(run, noise(1, (8, 8))[None, None])
    np.testing.assert_allclose(probabilities(predicted(run, tmp_path)), expected, rtol=1e-4, atol=1e-7)


def test_the_record_says_how_it_was_made(run, images):
    folder = predicted(run, images)
    record = json.loads((folder / "predictions.json").read_text())
    labels = [row["label"] for row in table(folder)]
    del record["command"]
    assert record == {
        "checkpoint": "last.ckpt",
        "iteration": 20,
        "weights": "trained",
        "input": str(images),
        "images": 7,
        "precision": "float32",
        "device": "cpu",
        "pixels": {"size": 8, "channels": 1, "crop": None, "bits": None, "invert": False},
        "predicted": {label: labels.count(label) for label in sorted(set(labels))},
    }


def test_the_picture_shows_the_first_images_in_rows_of_six(run, images, tmp_path):
    assert Image.open(predicted(run, images) / "predictions.png").size == (1056, 440)  # 6 x 2 of 1.6 x 2 inches
    for number in range(40):
        write(tmp_path / f"{number:02d} $x^$ and a name too long to stand below an image.png", noise(number, (8, 8)))
    folder = predicted(run, tmp_path, "batch_size=7")
    assert Image.open(folder / "predictions.png").size == (1056, 1320)
    assert len(table(folder)) == 40
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.csv", "predictions.json", "predictions.png"]


def test_bad_files_are_all_named_and_nothing_is_written(run, images, tmp_path):
    copied = shutil.copytree(images, tmp_path / "images")
    (copied / "1.png").write_bytes(b"no image")
    (copied / "5.png").write_bytes((images / "5.png").read_bytes()[:60])
    before = set((run / "predictions").glob("*"))
    with pytest.raises(
        UserError, match=r"2 of 7 images in .*: 1.png \(is no image that PIL reads\), 5.png \(.+\)\. Repair"
    ):
        predicted(run, copied, "batch_size=2")
    assert set((run / "predictions").glob("*")) == before


MISTAKES = {
    "batch_size=0": "batch_size is 0: give 1 or more",
    "input=nowhere": "input=nowhere: there is no such file or folder. Give an image, a folder of images",
    "input=launch": "input=launch holds no image: looked for .jpg, .jpeg",
    "run=tests": "tests is not a run: it has no .hydra/config.yaml",
    "checkpoint=lst": "has no checkpoint 'lst'; did you mean 'last'",
    "accelerator=graphics": "accelerator=graphics: .*auto",
    "invert=5": "invert is 5, which is not true or false",
    "min_score=2": "min_score is 2: give a score from 0 to 1",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_its_sentence_and_makes_nothing(run, images, mistake):
    before = set((run / "predictions").glob("*"))
    with pytest.raises(UserError, match=MISTAKES[mistake]):
        predicted(run, images, mistake)
    assert set((run / "predictions").glob("*")) == before


def test_a_wrong_or_missing_key_is_named():
    with pytest.raises(UserError, match="inverted=true: there is no key 'inverted'; did you mean 'invert'"):
        check_command_line("predict", ["run=x", "input=y", "inverted=true"])
    with pytest.raises(UserError, match="input has no value yet: add input=..."):
        check_command_line("predict", ["run=x"])


def test_a_run_of_a_generator_is_refused(tmp_path, images):
    run = finished_run(tmp_path / "run", *TINY["infogan_digits"])
    with pytest.raises(UserError, match="is a run of InfoGAN, which does not tell what is in an image or a text: give"):
        predicted(run, images)


def test_a_module_of_another_kind_is_not_taken_for_a_classifier(run, images, monkeypatch):
    monkeypatch.setattr(ResNet, "capabilities", lambda self: {ClassifiesText})
    with pytest.raises(UserError, match="input=.*: this run reads texts. Give a file of them, one a line."):
        predicted(run, images)
    monkeypatch.setattr(ResNet, "capabilities", lambda self: {ClassifiesImages})
    assert len(table(predicted(run, images))) == 7


def changed(run: Path, folder: Path, **content: object) -> Path:
    """A copy of a run whose checkpoint says something else."""
    shutil.copytree(run, folder)
    path = folder / "checkpoints" / "last.ckpt"
    torch.save(torch.load(path, weights_only=True) | content, path)
    config = folder / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace(str(run), "${paths.run_dir}"))
    return folder


def test_class_names_come_from_the_checkpoint_and_numbers_stand_in(run, images, tmp_path):
    names = [f"digit {number}" for number in range(10)]
    named = table(predicted(changed(run, tmp_path / "named", class_names=names), images))
    numbered = table(predicted(changed(run, tmp_path / "unnamed", class_names=None), images))
    assert [row["label"] for row in named] == [f"digit {row['label']}" for row in numbered]
    with pytest.raises(UserError, match="last.ckpt is of another model .*: its class_names are no 10 names"):
        predicted(changed(run, tmp_path / "wrong", class_names=names[:9]), images)


def test_weights_that_are_not_finite_are_told(run, images, tmp_path):
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    state["network.linear.bias"].fill_(torch.nan)
    with pytest.raises(UserError, match=r"the run's weights are not finite \(network.linear.bias\): name another"):
        predicted(changed(run, tmp_path / "broken", state_dict=state), images)


def test_a_run_from_elsewhere_is_held_to_what_configs_are_for(run, images, tmp_path):
    foreign = changed(run, tmp_path / "foreign")
    predicted(foreign, images)
    path = foreign / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("datamodules.digits.DigitsDataModule", "os.mkdir"))
    with pytest.raises(UserError, match="datamodule._target_ is 'os.mkdir', which a run's config may not name"):
        predicted(foreign, images)


def test_the_command_tells_what_it_found_and_where_it_lies(run, images, tmp_path):
    odd = shutil.copytree(images, tmp_path / "photos (1)")
    before = set((run / "predictions").glob("*"))
    words = ["predict.py", f"run={run}", f"input={odd}", "accelerator=cpu"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (made,) = set((run / "predictions").glob("*")) - before
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:7]] == [
        [row["path"].removeprefix(f"{odd}/"), row["label"]] for row in table(made)
    ]
    assert lines[7] == f"7 images by {run}/checkpoints/last.ckpt:"
    assert [line.strip() for line in lines[8:]] == [f"{made}/predictions.{it}" for it in ("csv", "json", "png")]


# --- detectors -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hardly trained, so that it sees many things, none of them likely."""
    return finished_run(tmp_path_factory.mktemp("detector"), "experiment=faster_rcnn_shapes",
                        *test_faster_rcnn.TINY["faster_rcnn_shapes"], "lightning_module.network.heads.min_score=0.0",
                        "lightning_module.network.heads.max_detections=7")  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide colour image, and a high grey one a folder deeper."""
    folder = tmp_path_factory.mktemp("photos")
    write(folder / "wide.png", noise(0, (40, 90, 3)))
    write(folder / "below" / "high.png", noise(1, (60, 30)))
    return folder


def test_a_detector_s_boxes_are_in_the_image_s_pixels_and_in_coco_s_format(detector, photos):
    folder = predicted(detector, photos, "min_score=0.0")
    written = json.loads((folder / "detections.json").read_text())
    assert written["images"] == [
        {"id": 1, "file_name": "below/high.png", "height": 60, "width": 30},
        {"id": 2, "file_name": "wide.png", "height": 40, "width": 90},
    ]
    assert written["categories"] == [{"id": number + 1, "name": str(number)} for number in range(10)]
    module, _, _ = load_run(detector)
    pixels = torch.from_numpy(noise(0, (40, 90, 3))).permute(2, 0, 1) / 255
    (expected,) = module.detect_objects([pixels])  # type: ignore
    mine = [it for it in written["annotations"] if it["image_id"] == 2]
    assert 0 < len(mine) <= 7
    assert [it["score"] for it in mine] == pytest.approx(sorted(expected["scores"].tolist(), reverse=True))
    left, top, width, height = np.array([it["bbox"] for it in mine]).T
    np.testing.assert_allclose(np.stack([left, top, left + width, top + height], 1)[0], expected["boxes"][0], rtol=1e-5)
    rows = table(folder)
    assert [row["path"] for row in rows[-len(mine) :]] == [f"{photos}/wide.png"] * len(mine)
    assert [float(row["score"]) for row in rows] == pytest.approx(
        [it["score"] for it in written["annotations"]], rel=1e-4
    )
    assert float(rows[-1]["right"]) <= 90
    assert Image.open(folder / "images" / "wide.png.png").size == (630, 280)
    assert Image.open(folder / "images" / "below" / "high.png.png").size == (330, 660)
    record = json.loads((folder / "predictions.json").read_text())
    assert sum(record["detected"].values()) == len(rows)


@pytest.mark.parametrize("masks", [False, True])
def test_what_is_written_can_be_trained_on(detector, photos, tmp_path, masks):
    """Also a photograph that its EXIF data turn by half, so that its size does not tell."""
    (tmp_path / "train2017" / "below").mkdir(parents=True)
    for name in ("wide.png", "below/high.png"):
        shutil.copy(photos / name, tmp_path / "train2017" / name)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(noise(2, (30, 50, 3))).save(tmp_path / "train2017" / "turned.png", exif=exif)
    folder = predicted(detector, tmp_path / "train2017", "min_score=0.0")
    written = json.loads((folder / "detections.json").read_text())
    if masks:
        of_images = {number: [it for it in written["annotations"] if it["image_id"] == number] for number in (1, 2, 3)}
        found = [as_found(it, of_images[it["id"]]) for it in written["images"]]
        images = Images(tmp_path / "train2017", [it["file_name"] for it in written["images"]])
        written = as_coco(images, found, {it["id"]: it["name"] for it in written["categories"]})
    (tmp_path / "annotations").mkdir()
    shutil.copytree(tmp_path / "train2017", tmp_path / "val2017")  # the same files would be refused as a test
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(written))
    datamodule = CocoDataModule(str(tmp_path), batch_size=1, masks=masks)
    datamodule.setup()
    truth = datamodule.coco_ground_truth("test")
    assert [it["file_name"] for it in truth["images"]] == ["below/high.png", "turned.png", "wide.png"]
    assert len(truth["annotations"]) == len(written["annotations"]) > 0
    for position, name in enumerate(["below/high.png", "turned.png", "wide.png"]):
        example = datamodule.tables["test"].example(position)
        assert np.array_equal(example.image, whole_image(tmp_path / "train2017" / name))
        mine = [it["bbox"] for it in written["annotations"] if it["image_id"] == position + 1]
        left, top, right, bottom = example.boxes.T.numpy()
        np.testing.assert_allclose(np.stack([left, top, right - left, bottom - top], 1), mine, atol=1e-4)
        if masks:
            assert example.masks is not None
            expected = as_found(truth["images"][position], of_images[position + 1], encoded=False)["masks"]
            assert torch.equal(example.masks, expected)


def as_found(image: dict[str, Any], annotations: list[dict[str, Any]], encoded: bool = True) -> dict[str, Any]:
    """What ``objects_in`` gives where each object fills its box, which the image has one of at least."""
    boxes = torch.tensor([it["bbox"] for it in annotations]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = torch.zeros(len(boxes), image["height"], image["width"], dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[min(top, len(mask) - 1) : max(bottom, top + 1), min(left, mask.shape[1] - 1) : max(right, left + 1)] = 1
    return {
        "boxes": boxes,
        "scores": torch.tensor([it["score"] for it in annotations]),
        "labels": torch.tensor([it["category_id"] for it in annotations]),
        "masks": encode(masks) if encoded else masks,
        "size": [image["height"], image["width"]],
    }


def test_what_is_unlikely_is_written_and_not_drawn(detector, photos, tmp_path):
    folder = predicted(detector, photos / "wide.png", "min_score=1.0")
    assert len(table(folder)) > 0
    drawn = np.asarray(Image.open(folder / "images" / "wide.png.png").convert("RGB"))
    np.testing.assert_array_equal(drawn[3::7, 3::7], noise(0, (40, 90, 3)))


def test_an_image_s_objects_do_not_depend_on_the_others(detector, photos):
    together = [row for row in table(predicted(detector, photos)) if row["path"].endswith("high.png")]
    alone = table(predicted(detector, photos / "below" / "high.png"))
    assert together == alone


def test_files_that_a_detector_cannot_read_are_all_named(detector, photos, tmp_path):
    copied = shutil.copytree(photos, tmp_path / "photos")
    (copied / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 3 images in .*: bad.jpg \(is no image that PIL reads\)"):
        predicted(detector, copied)


def test_a_detector_is_measured_again_and_refused_where_images_are_asked_for(detector, tmp_path):
    copied = changed(detector, tmp_path / "run")
    folder = copied / "evaluations" / "again"
    measured = evaluate(compose_job("evaluate", [f"run={copied}", "trainer=cpu"], str(folder)), folder)
    assert {"test/map", "test/map_50"} <= measured.keys()
    assert (folder / "detections.json").exists()
    assert (folder / "images" / "test_detections.png").exists()
    with pytest.raises(UserError, match="is a run of FasterRCNN, which makes no images"):
        sample(compose_job("sample", [f"run={detector}", "accelerator=cpu"]))


def test_a_detector_s_onnx_file_finds_what_the_run_finds_in_images_of_other_sizes(detector, tmp_path):
    path, difference = export(detector, out=tmp_path / "detector.onnx")
    assert difference <= 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    module: Any = load_run(detector)[0]
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["labels"]) == module.category_ids
    assert json.loads(told["classes"]) == module.class_names
    module.network.roi_heads.score_thresh = 0.0
    for size in ((40, 90), (111, 64)):
        image = torch.rand(3, *size)
        (expected,) = module.detect_objects([image])
        assert len(expected["scores"])
        given = {"image": image.numpy(), "min_score": np.array(0, np.float32)}
        boxes, scores, labels = session.run(["boxes", "scores", "labels"], given)
        np.testing.assert_allclose(scores, expected["scores"], atol=1e-5)
        np.testing.assert_allclose(boxes, expected["boxes"], atol=1e-2)
        assert labels.tolist() == expected["labels"].tolist()
        assert len(session.run(["boxes"], given | {"min_score": np.array(0.99, np.float32)})[0]) < len(boxes)


def test_masks_are_in_a_detector_s_onnx_file(tmp_path):
    folder = finished_run(tmp_path, "experiment=faster_rcnn_shapes", *test_faster_rcnn.TINY["faster_rcnn_shapes"],
                          "lightning_module.network.heads.masks=true", "datamodule.masks=true",
                          "lightning_module.network.heads.min_score=0.0",
                          "lightning_module.network.heads.max_detections=7")  # fmt: skip
    path, difference = export(folder, out=tmp_path / "detector.onnx")
    assert difference <= 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert "masks [detections, height, width]" in session.get_modelmeta().custom_metadata_map["output"]
    module: Any = load_run(folder)[0]
    for size in ((40, 90), (111, 64)):
        image = torch.rand(3, *size)
        (expected,) = module.detect_objects([image])
        given = {"image": image.numpy(), "min_score": np.array(0, np.float32)}
        masks, labels = session.run(["masks", "labels"], given)
        assert masks.shape == (len(expected["labels"]), *size)
        assert labels.tolist() == expected["labels"].tolist()
        assert 0 <= masks.min() <= masks.max() <= 1
        assert np.mean((masks > 0.5) != expected["masks"].numpy()) < 1e-3
