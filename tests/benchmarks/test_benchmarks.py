"""Each benchmark runs; how long anything takes is no test's matter."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import DeviceType

from benchmarks import (
    capture_check,
    detection_loop,
    detection_shapes,
    device_work,
    ending_scores,
    frechet_distance,
    launches,
    loader,
    loops,
    mean_average_precision,
    peers,
    raml_step,
    same_numbers,
    scaling,
    step_arithmetic,
    sweep,
    training_step,
    waits,
    wrm_step,
)
from benchmarks import text as text_files
from benchmarks.losses import Bounds, loss_of
from benchmarks.peer_loops import PEERS
from benchmarks.turns import Spent, Turns, table
from benchmarks.usual_draw import UsualDraw
from foundation.errors import UserError
from tests.forks import run_in_fork
from tests.lightning_modules import (
    test_adversarial_filtering,
    test_bert,
    test_draw,
    test_faster_rcnn,
    test_improved_gan,
    test_raml,
    test_resnet,
    test_wrm,
)
from tests.lightning_modules.test_faster_rcnn import THIN
from tests.lightning_modules.test_infogan import TINY

CPU = torch.device("cpu")


def test_a_training_step_is_measured_against_both_loops():
    turns = training_step.measure("infogan_digits", ["trainer=cpu", *TINY["infogan_digits"]], iterations=2, rounds=1)
    assert {name: len(spent) for name, spent in turns.turns.items()} == {"platform": 2, "bare loop": 2, "usual loop": 2}
    assert "platform over bare loop" in training_step.report([turns])


def test_a_gpu_s_work_is_told_by_its_spans():
    """Two overlap, one lies inside another, one stands apart: 30 + 5 us of 45 in all; of two iterations."""
    work = device_work.work_of([(100.0, 105.0), (0.0, 20.0), (10.0, 30.0)], 2)
    assert (work.launches, work.kernel_ms, work.busy_ms) == (1.5, pytest.approx(0.0225), pytest.approx(0.0175))
    assert device_work.work_of([(0.0, 20.0), (5.0, 10.0)], 1).busy_ms == pytest.approx(0.02)
    assert work.idle_share(0.07) == pytest.approx(0.75)
    assert work.idle_share(0.01) == 0
    assert device_work.row("it", "platform", 0.07, work) == ["it", "platform", "0.070", "2", "0.022", "75 %"]
    assert device_work.watched_device(CPU) is None
    assert device_work.watched_device(torch.device("cuda")) == DeviceType.CUDA


def test_waits_are_counted_by_where_they_come_from():
    """What was made on the host may be read; what stands for the device's own costs a wait."""
    with waits.Waits(same_numbers.ROOT) as counted:
        of_device, mask = torch.rand(4, device="cpu"), torch.tensor([True, False, True, True], device="cpu")
        of_device[mask] = 0.0  # filled where the mask is, whatever their number
        assert torch.tensor(3).log2().item() > 1
        order = torch.randperm(4)[:2].to("cpu")
        found = of_device[order], of_device[mask], of_device[[1, 0]], torch.where(mask), of_device.tolist()
        torch.ops.torchvision.nms(torch.rand(2, 4, device="cpu"), found[0], 0.5)
    here = {kind: number for (_, kind), number in counted.found.items()}
    assert here == {"copies": 3, "asks how many": 2, "reads": 1, "NMS": 1}
    assert {place for place, _ in counted.found} == {
        f"test_benchmarks.{test_waits_are_counted_by_where_they_come_from.__name__}"
    }


@pytest.mark.slow
def test_a_detector_s_waits_are_counted_in_a_run_of_its_own():
    found = waits.counted_in(same_numbers.ROOT, "faster_rcnn_shapes", [1, 3], [])
    assert found == {it: {("torchvision boxes.nms", "NMS"): it} for it in (1, 3)}
    assert waits.table({"": found}, [1, 3]).splitlines()[-1] == "| all | | 1 | 3 |"


def test_the_experiment_on_sizes_is_rehearsed(capsys):
    """Every part has its line, and one for which no time is left is said."""
    tiny = [it for override in ["trainer=cpu", *THIN] for it in ("--override", override)]
    lines = detection_shapes.main(["--side", "32", "--iterations", "2", "--batch", "1", "--workers", "0", *tiny])
    assert [it.split(",")[0] for it in lines[:7]] == [
        "A", "B", "B", "C", "D", "E", "F",
    ], lines  # fmt: skip
    assert "2 sizes: " in lines[1]
    assert "aten::" in lines[7]
    assert capsys.readouterr().out.splitlines()[:7] == lines[:7]
    late = detection_shapes.main(["--side", "32", "--iterations", "1", "--batch", "1", "--seconds", "-1", *tiny])
    assert late[0] == "one_batch: left out, -1 s are over"
    assert len(late) == 6


def test_a_detector_is_measured_from_files_against_the_reference_loop(capsys):
    arguments = ["faster_rcnn_coco_mobilenet", "--side", "32", "--iterations", "1", "--rounds", "1", "--workers", "0",
                 "--batch", "2", "--photographs", "8", "--override", "trainer=cpu",
                 "--override", "trainer.precision=32-true"]  # fmt: skip
    (turns,) = detection_loop.main(arguments)
    assert {name: len(spent) for name, spent in turns.turns.items()} == {"platform": 2, "reference": 2}
    assert "faster_rcnn_coco_mobilenet, 32-true, 32 pixels, 2 images" in capsys.readouterr().out


def test_a_captured_loop_and_the_device_s_work_stand_beside_the_others():
    """On a CPU, whose own operations stand in for kernels: a rehearsal trains the same as the bare loop."""
    overrides = ["trainer=cpu", *TINY["infogan_digits"]]
    turns = training_step.measure(
        "infogan_digits", overrides, iterations=2, rounds=1, rehearse=True, watched=DeviceType.CPU
    )
    contestants = ["platform", "bare loop", "usual loop", "captured loop"]
    assert {name: len(spent) for name, spent in turns.turns.items()} == dict.fromkeys(contestants, 2)
    assert list(turns.works) == contestants
    for work in turns.works.values():
        assert work.launches > 100
        assert 0 < work.busy_ms < work.kernel_ms  # on a CPU operations lie inside others
    told = training_step.report([turns])
    assert "platform over captured loop" in told
    assert "GPU idle" in told


def test_a_captured_loop_is_the_bare_one_number_for_number(tmp_path):
    run = training_step.prepared("draw_digits", ["trainer=cpu", *DRAW], str(tmp_path))
    data, losses = training_step.training_data(run), []
    for make in (loops.bare_loop, loops.captured_loop):
        torch.manual_seed(0)  # which batches
        loop = make(run, data)
        assert loop is not None
        losses.append(torch.stack(loop(4)))
    assert torch.equal(*losses)
    unfused = [*DRAW, "lightning_module.optimizer.fused=false"]
    run = training_step.prepared("draw_digits", ["trainer=cpu", *unfused], str(tmp_path))
    assert loops.captured_loop(run, data) is None


DRAW = [it for it in test_draw.TINY["draw_digits"] if not it.startswith("callbacks.")]


def test_draw_is_measured_against_its_usual_form():
    overrides = ["trainer=cpu", *test_draw.TINY["draw_digits"]]
    overrides = [it for it in overrides if not it.startswith("callbacks.")]
    turns = training_step.measure("draw_digits", overrides, iterations=2, rounds=1)
    assert turns.turns.keys() == {"platform", "bare loop", "usual loop"}


def test_improved_gan_is_measured_against_its_usual_form():
    overrides = ["trainer=cpu", *test_improved_gan.TINY["improved_gan_digits"]]
    overrides = [it for it in overrides if not it.startswith("callbacks.")]
    turns = training_step.measure("improved_gan_digits", overrides, iterations=2, rounds=1)
    assert turns.turns.keys() == {"platform", "bare loop", "usual loop"}


@pytest.mark.parametrize(
    ("experiment", "method", "captured"),
    [("wrm_synthetic", test_wrm, True), ("bert_tiny_text", test_bert, False), ("raml_copy", test_raml, False),
     ("filtering_synthetic", test_adversarial_filtering, False)],
)  # fmt: skip
def test_texts_and_points_are_measured_over_batches_of_their_loader(experiment, method, captured):
    """A captured loop where all batches have one form."""
    tiny = [it for it in method.TINY[experiment] if not it.startswith("callbacks.")]
    overrides = ["trainer=cpu", "trainer.precision=32-true", *tiny]
    turns = training_step.measure(experiment, overrides, iterations=2, rounds=1, rehearse=True)
    assert turns.turns.keys() == {"platform", "bare loop", *(["captured loop"] if captured else [])}
    assert turns.batch_size > 1


def test_a_detector_is_measured_against_torchvision_s():
    """On one scene of 32 pixels; nothing is read or downloaded."""
    network = "lightning_module.network"
    overrides = ["trainer=cpu", "trainer.precision=32-true", "datamodule.batch_size=1", "datamodule.size=32",
                 "datamodule.digit_sizes=[10,20]", f"{network}.min_size=32", f"{network}.max_size=32",
                 f"{network}.rpn.proposals=[2000,150]"]  # fmt: skip
    turns = training_step.measure("faster_rcnn_coco_mobilenet", overrides, iterations=1, rounds=1)
    assert {name: len(spent) for name, spent in turns.turns.items()} == {"platform": 2, "bare loop": 2, "usual loop": 2}


def test_captured_numbers_are_held_against_usual_ones(tmp_path):
    """With a graph on a GPU, rehearsed on a CPU."""
    out = tmp_path / "found.jsonl"
    tiny = [f"--override={it}" for it in test_resnet.TINY["resnet_digits"]]
    capture_check.main(["resnet", "no_such", "--seconds=0.1", *tiny, f"--out={out}"])
    lines = list(map(json.loads, out.read_text().splitlines()))
    watched, compared, timed = (it for it in lines if it["name"] == "resnet")
    failed = [it for it in lines if it["name"] == "no_such"]
    assert lines[-2:] == [timed, failed[-1]]  # the times of all come after the numbers of all
    assert watched["waits"] is None
    assert watched["kernels"] > 0
    assert compared["differs"]["tensors"] == compared["differs_resumed"]["tensors"] == 0 < compared["differs"]["of"]
    assert min(timed["ms"]["usual"] + timed["ms"]["captured"]) > 0
    assert all("no_such" in it["failed"] for it in failed)
    assert len(failed) == 3
    capture_check.main(["resnet:timed", "--minutes=0", f"--out={out}"])
    assert json.loads(out.read_text().splitlines()[-1]) == {"name": "resnet", "left_out": "timed"}


@pytest.mark.parametrize("name", capture_check.CASES)
def test_every_family_that_is_checked_can_be_captured(name, tmp_path):
    experiment, *words = capture_check.CASES[name]
    run = capture_check.prepared(experiment, "rehearse", tmp_path, 2, ["trainer=cpu", *words])
    assert run.captured == "rehearsed"


def test_operations_are_counted_on_a_cpu_and_as_on_a_gpu():
    with launches.Operations() as counted:
        x = torch.ones(2, 3)  # 1
        y = (x.view(3, 2).T + 1).T  # 1: views cost nothing
        y.sum()  # 1
    assert counted.total == 3
    cases = {"steps": ["draw_digits", "lightning_module.network.steps=2"],
             "more": ["draw_digits", "lightning_module.network.steps=4"]}  # fmt: skip
    found = launches.counted_in(same_numbers.ROOT, cases)
    (two_on_cpu, two), (four_on_cpu, four) = found["steps"], found["more"]
    assert two is not None
    assert four is not None
    assert 0 < four - two < 2 * 46 < four_on_cpu - two_on_cpu  # 46 a step are less than 3,000 of 64
    assert "| steps | 9 | " in launches.table({"steps": (9, None)}, {"steps": found["steps"]})
    with pytest.raises(UserError, match="--only drew is in no case's name: give a part of one of resnet"):
        launches.main(["--only", "drew"])


def test_text_is_measured_against_the_library_alone():
    tokenising, instances = text_files.main(
        ["--documents", "20", "--rounds", "1", "--batches", "2", "--batch-size", "4"]
    )
    assert tokenising.turns.keys() == {"platform", "encode_batch"}
    assert instances.turns.keys() == {"tokens", "whole words"}
    assert "whole words" in text_files.report([tokenising, instances])


def test_a_step_of_raml_is_measured_against_one_of_maximum_likelihood():
    network = "lightning_module.network"
    small = ["trainer=cpu", f"{network}.hidden_size=8", f"{network}.embedding_size=4"]
    training = raml_step.measure_training("raml_cmudict", small, rounds=1, iterations=1, tokens=40)
    assert {name: len(spent) for name, spent in training.turns.items()} == dict.fromkeys(raml_step.OBJECTIVES, 2)
    assert training.batch_size == 5 * 8
    search = raml_step.measure_search("raml_cmudict", small, rounds=1, rows=3)
    assert search.turns.keys() == {"1 beam", "5 beams"}


def test_a_step_of_wrm_is_measured_against_one_of_erm():
    network = [
        "lightning_module.network.convolutions=[{channels: 4, kernel: 8, stride: 4}, {channels: 4, kernel: 6, stride: 1}]"
    ]
    turns = wrm_step.measure("32-true", ["trainer=cpu", *network], rounds=1, batch_size=4)
    assert {name: len(spent) for name, spent in turns.turns.items()} == dict.fromkeys(
        [wrm_step.ERM, wrm_step.WRM, wrm_step.USUAL], 2
    )
    inputs = torch.randn(3, 2)
    expected = wrm_step.ascend(lambda x: torch.sin(x).sum(1), inputs, wrm_step.GAMMA, 4)
    torch.testing.assert_close(wrm_step.usual_ascent(lambda x: torch.sin(x).sum(1), inputs, 4), expected)


@pytest.mark.parametrize(("read_size", "write_size"), [(2, 3), (None, None)])
def test_the_usual_draw_has_a_loss_of_the_same_kind(read_size, write_size):
    """Its parts are other ones, but nothing has been learned in either: an empty canvas, and latents near the prior."""
    torch.manual_seed(0)
    usual = UsualDraw((1, 8, 8), 3, 16, 4, read_size, write_size)
    loss = usual.loss(torch.rand(20, 1, 8, 8).round())
    loss.backward()
    assert all(it.grad is not None for it in usual.parameters())
    assert float(loss.detach()) == pytest.approx(64 * math.log(2), abs=10)


def test_float32_stands_beside_what_auto_chooses():
    experiment, overrides = "infogan_digits", ["trainer=cpu", *TINY["infogan_digits"]]
    overrides = [it for it in overrides if not it.startswith("trainer.precision")]
    both = training_step.precisions(experiment, overrides)
    assert both[0] == "32-true"
    assert both[1:] in ([], ["bf16-mixed"])
    assert training_step.precisions(experiment, [*overrides, "trainer.precision=64-true"]) == ["64-true"]


@pytest.mark.parametrize("loss", [math.nan, math.inf, 50.1])
def test_a_contestant_that_diverges_ends_the_benchmark(loss):
    bounds = Bounds("the usual loop")
    bounds.check([5.0, 4.0])
    bounds.check([49.0])
    with pytest.raises(UserError, match="the usual loop diverges: .* in iteration 2 of a turn and may be 50"):
        bounds.check([5.0, loss])


def test_an_iteration_s_loss_is_that_of_all_players_without_signs():
    told = {"loss_d": torch.tensor(-1.5), "loss_g": torch.tensor(2.0), "real_probability": torch.tensor(0.5)}
    assert float(loss_of(told)) == 3.5


def test_a_diverging_loop_is_noticed_on_either_side(monkeypatch):
    overrides = ["trainer=cpu", *TINY["infogan_digits"]]
    monkeypatch.setattr(
        training_step, "usual_loop", lambda *_: lambda count: [torch.tensor(10.0**it) for it in range(count)]
    )
    with pytest.raises(UserError, match="infogan_digits, 32-true, usual loop diverges"):
        training_step.measure("infogan_digits", overrides, iterations=4, rounds=1)
    overrides += ["lightning_module.optimizer_d.lr=1e30"]
    with pytest.raises(UserError, match="infogan_digits, 32-true, platform diverges"):
        training_step.measure("infogan_digits", overrides, iterations=4, rounds=1)


CLONE = {
    "resnet.py": "from torch import nn\ndef resnet20():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))\n",
    "trainer.py": "",
}


@pytest.mark.slow
def test_a_peer_s_clone_is_timed_in_a_process_of_its_own(tmp_path):
    for name, text in CLONE.items():
        (tmp_path / name).write_text(text)
    ((peer, clone),) = peers.named(f"resnet={tmp_path}")
    overrides = [*test_resnet.TINY["resnet_cifar10"], "trainer.precision=32-true", f"paths.data_dir={tmp_path}"]
    turns = peers.measure(peer, clone, overrides, rounds=1, iterations=1)
    assert {name: len(spent) for name, spent in turns.turns.items()} == {
        "peer": 2, "peer, PIL loader": 2, "platform, 32-true": 2,
    }  # fmt: skip
    assert peers.report([turns]).count("resnet_cifar10 / akamaster") == 2
    (tmp_path / "resnet.py").write_text("resnet20 = 1 / 0\n")
    with pytest.raises(UserError, match="peer ended with exit code 1: ZeroDivisionError"):
        peers.measure(peer, clone, overrides, rounds=1, iterations=1)


def test_a_folder_that_is_no_known_clone_is_said(tmp_path):
    for word, said in {
        f"infogn={tmp_path}": "did you mean 'infogan'",
        str(tmp_path): "give a method and a clone's folder",
        f"draw={tmp_path}/none": "there is no folder",
        f"draw={tmp_path}": "no clone that this benchmark knows for draw: kamenbliznashki's has draw.py and utils.py",
    }.items():
        with pytest.raises(UserError, match=said):
            peers.named(word)


def test_every_peer_names_an_experiment_that_there_is():
    for it in PEERS:
        assert training_step.compose_job("train", [f"experiment={it.experiment}"])


def test_the_frechet_distance_is_measured_against_torch_fidelity():
    statistics, distances = frechet_distance.measure(images=60, features=8, rounds=1)
    assert len(statistics.turns["platform"]) == len(distances.turns["torch-fidelity"]) == 2


def test_random_images_stand_in_for_missing_files_and_everything_can_be_left_in(tmp_path, capsys):
    overrides = ["trainer=cpu", *TINY["infogan_mnist"], f"paths.data_dir={tmp_path}", "trainer.val_check_interval=2"]
    turns = training_step.measure("infogan_mnist", overrides, iterations=2, rounds=1, everything=True)
    assert turns.turns.keys() == {"platform", "bare loop", "usual loop"}
    assert "Random images stand in for mnist" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_the_loaders_are_measured():
    turns = loader.measure(size=16, batch_size=8, rounds=1, workers=0)
    assert turns.iterations == 2
    assert "usual loader" in loader.report([turns])


def test_mean_average_precision_is_measured():
    """In a process of its own, where no backward pass has run before it forks."""
    done = run_in_fork("-m", "tests.benchmarks.test_benchmarks")
    assert done.returncode == 0, done.stderr
    rounds, *report = done.stdout.splitlines()
    assert json.loads(rounds) == [{"platform": 2, "torchmetrics": 2},
                                  {"platform": 2, "faster_coco_eval": 2, "torchmetrics": 2}]  # fmt: skip
    assert sum("mAP, whole" in line for line in report) == 3


def main() -> None:
    measured = mean_average_precision.measure(images=4, detections=3, rounds=1, start_method="fork")
    print(json.dumps([{name: len(spent) for name, spent in turns.turns.items()} for turns in measured]))
    print(mean_average_precision.report(measured))


def test_ratios_are_within_a_round_and_the_first_round_warms_up():
    turns = Turns("it", CPU, iterations=2, batch_size=10)
    turns.turns = {
        "a": [Spent(9, 9), Spent(0.2, 0.4), Spent(0.8, 0.4), Spent(0.4, 0.4)],
        "b": [Spent(1, 1), Spent(0.1, 0.1), Spent(0.2, 0.1), Spent(0.2, 0.1)],
    }
    assert turns.milliseconds("a") == 200
    assert turns.examples_per_cpu_second("a") == 50
    assert turns.ratio("a", "b") == 2
    assert turns.overhead("a", "b") == "it: a over b +100.000 ms an iteration, +100.0 %"
    assert table(turns.rows("b")).splitlines()[2].split() == ["it", "a", "200.000", "50", "50", "2.000", "(2.00-4.00)"]
    turns.clock = "cpu_s"
    assert turns.ratio_and_range("a", "b") == "4.000 (4.00-4.00)"


def test_a_jobs_overhead_is_its_share_of_the_time_without_fit_and_test():
    measured = sweep.Measured("joblib", at_once=2, wall_s=20.0, fit_s=[4.0, 6.0], test_s=[1.0, 1.0])
    assert measured.overhead_s() == 14
    assert (
        "2 at once, 2 jobs:    20.0 s in all, a job   5.00 s fit +  1.00 s test + 14.00 s overhead" in measured.line()
    )


if __name__ == "__main__":
    main()


def test_scaling_by_hand():
    """16 devices on 2 nodes: 30 steps, 2 of them between; 8.4 + 28 * 3.4 + 2 * 9.6 = 122.8 us, and 30/16 of the bytes."""
    links = scaling.Links()
    assert links.seconds(0, 1) == 0
    assert links.seconds(450_000_000, 2) == pytest.approx((8.4 + 2 * 3.4) * 1e-6 + 1e-3)
    assert links.seconds(12_500_000, 16) == pytest.approx(122.8e-6 + 30 / 16 * 1e-3)
    assert scaling.efficiency(1e-3, 12_500_000, 1, links, overlap=0) == 1
    assert scaling.efficiency(2e-3, 450_000_000, 2, links, overlap=0) == pytest.approx(2 / 3.0152)
    assert scaling.efficiency(2e-3, 450_000_000, 2, links, overlap=0.6) == 1


def test_what_an_operation_takes_is_counted_by_hand():
    with step_arithmetic.Counted() as counted:
        (torch.ones(2, 3) @ torch.ones(3, 4)).view(8)  # ones twice, the product of 24 multiplications and additions
    assert counted.operations[-1] == (48, 4 * (6 + 12 + 8))
    weights = [nn.Parameter(torch.zeros(10))]
    adam, momentum, plain = torch.optim.Adam(weights), torch.optim.SGD(weights, momentum=0.9), torch.optim.SGD(weights)
    assert [step_arithmetic.of_optimizer(it) for it in (adam, momentum, plain)] == [(0, 280), (0, 200), (0, 120)]


def test_a_step_is_as_long_as_the_longer_of_host_and_kernels():
    """1e12 operations at half of 1,000 TFLOP/s and 1e9 bytes at half of 1 TB/s: 2 ms each, one after the other."""
    work = step_arithmetic.Work(((1e12, 1.0), (1.0, 1e9)), 4)
    device = step_arithmetic.Device(peak_tflops=1000, rate_tb_s=1, share=0.5, operation_us=1000)
    assert step_arithmetic.step_s(work, device) == pytest.approx(4e-3)
    assert step_arithmetic.step_s(work, replace(device, operation_us=3000)) == pytest.approx(6e-3)
    assert step_arithmetic.step_s(work.times(3), device) == pytest.approx(12e-3)
    assert step_arithmetic.row("it", work.times(3), device)[1:3] == ["12", "2"]


@pytest.mark.parametrize(
    ("experiment", "method"),
    [("resnet_digits", test_resnet), ("raml_copy", test_raml), ("faster_rcnn_shapes", test_faster_rcnn),
     ("improved_gan_digits", test_improved_gan)],
)  # fmt: skip
def test_an_iteration_of_each_kind_is_counted(experiment, method):
    """Without values, on the CPU, of a detector, of streams."""
    work = step_arithmetic.work_of(experiment, [it for it in method.TINY[experiment] if not it.startswith("callbacks")])
    assert work.examples > 1
    assert work.flops > 1e4
    assert work.moved > 1e4
    assert len(work.operations) > 50


def test_each_step_that_was_measured_is_predicted_by_the_others(monkeypatch):
    """10 ms by 100 operations and 20 by 100: the other's 200 us make 20 of 10, and 10 of 20."""
    measured = {name: step_arithmetic.Measured(ms, 50, 100) for name, ms in {"a": 10, "b": 20}.items()}
    monkeypatch.setattr(step_arithmetic, "MEASURED", measured)
    monkeypatch.setattr(step_arithmetic, "BY_HOST", ("a", "b"))
    of_a, of_b = step_arithmetic.held_against_measured(step_arithmetic.Device()).splitlines()[2:]
    assert of_a == "| a | 100 | 50 | 10 ms | 0.5 ms | 20.0 ms (200 us) | +100% |"
    assert of_b.endswith("| 10.0 ms (100 us) | -50% |")
    assert step_arithmetic.calibrated(step_arithmetic.Device()).operation_us == pytest.approx(1e5 * 2**0.5 / 1e3)


def test_a_prediction_says_that_it_is_one():
    told = scaling.main(["resnet_cifar10", "--step-ms=10", "--gpus-per-node=4"])
    assert "not a measurement: not run on several GPUs" in told
    assert "| resnet_cifar10 | 128 | 10 ms | given | 1.1 MB | 100% |" in told  # 269,722 parameters
    assert "| 2,048 tokens | 10 ms |" in scaling.main(["raml_multi30k", "--step-ms=10"])
    for wrong in (["resnet_cifar10", "--overlap=2", "--step-ms=1"], [], ["a", "b", "--step-ms=1"], ["a", "--all"],
                  ["resnet_cifar10", "--step-ms=1", "--share=2"]):  # fmt: skip
        with pytest.raises(UserError):
            scaling.main(wrong)


@pytest.mark.slow
def test_the_form_of_an_all_reduce_is_held_against_processes_of_this_machine(monkeypatch):
    monkeypatch.setattr(scaling, "SIZES", (2**10, 2**16))
    lines = scaling.check(rounds=2).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["1,024", "65,536"]


@pytest.mark.parametrize("kind", ending_scores.KINDS)
def test_endings_are_scored_as_by_the_other_library(kind):
    """That the scores are the same is held before anything is timed."""
    small = [f"lightning_module.network.{it}" for it in ("vocabulary_size=60", "hidden_size=16", "heads=2", "layers=1")]
    turns = ending_scores.measure(kind, small, rounds=1, texts=2, endings=3)
    assert {name: len(spent) for name, spent in turns.turns.items()} == {"ours": 2, "transformers": 2}
