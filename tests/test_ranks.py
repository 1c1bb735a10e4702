"""One process or several: the same measurement, the same training."""

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.forks import run_in_fork
from tests.lightning_modules import test_draw

TRAINED = ["infogan_digits", "resnet_digits", "draw_digits", "wrm_digits", "oracle_digits", "bert_tiny_text",
           "filtering_synthetic"]  # fmt: skip


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = run_in_fork("-m", "tests.ranks", folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return folder, {key: {int(size): values for size, values in of.items()} for key, of in found.items()}


def test_metrics_are_exactly_the_same(ranks):
    found = ranks[1]["infogan_digits"]
    assert found[1]["metrics"].keys() == {
        "test/cluster_accuracy",
        "test/cluster_information_nats",
        "test/cluster_purity",
        "test/kmeans_cluster_accuracy",
    }
    assert found[2]["metrics"] == found[1]["metrics"]
    assert found[3]["metrics"] == found[1]["metrics"]


def test_all_ranks_validate_the_first_one_s_running_statistics(ranks):
    apart = json.loads((ranks[0] / "statistics.json").read_text())
    assert apart["trained"] > 1e-4
    assert apart["validated"] == 0


@pytest.mark.parametrize("size", [41, 2])
def test_the_metric_meets_once_and_keeps_each_rank_s_own_counts(ranks, size):
    """41 is divided by neither 2 nor 3; with 2 examples the third rank has none."""
    folder, _ = ranks
    (alone,) = (json.loads(path.read_text()) for path in folder.glob(f"metric{size}x1r*.json"))
    assert alone["own"] == size
    for world_size in (2, 3):
        shares = [json.loads(path.read_text()) for path in folder.glob(f"metric{size}x{world_size}r*.json")]
        assert [share["values"] for share in shares] == [alone["values"]] * world_size
        assert sum(share["own"] for share in shares) == size


def test_classification_is_exactly_the_same(ranks):
    """But for the cross-entropy, whose addends are summed in another order."""
    found = ranks[1]["resnet_digits"]
    assert found[1]["metrics"].keys() == {"test/accuracy", "test/error", "test/cross_entropy_nats"}
    assert 0 < found[1]["metrics"]["test/accuracy"] < 1
    for measured in ("metrics", "few"):
        for world_size in (2, 3):
            assert found[world_size][measured] == pytest.approx(found[1][measured], rel=1e-12)
            assert found[world_size][measured]["test/accuracy"] == found[1][measured]["test/accuracy"]
    for world_size in (2, 3):
        assert found[world_size]["trained"]["train/error"] == found[1]["trained"]["train/error"]


def test_the_bound_is_the_same(ranks):
    """But for the last digits of what is added up in another order."""
    found = ranks[1]["draw_digits"]
    assert found[1]["metrics"].keys() == {
        "test/nll_bound_nats", "test/reconstruction_nats", "test/kl_nats", "test/nll_importance_2_nats"}  # fmt: skip
    assert found[1]["metrics"]["test/kl_nats"] > 0
    for measured in ("metrics", "few", "trained"):
        for world_size in (2, 3):
            # Logged values are float32.
            assert found[world_size][measured] == pytest.approx(found[1][measured], rel=1e-6)


def test_certificate_robustness_and_deepcloak_are_the_same(ranks):
    """But for the last digits of what is added up in another order; logged values are float32."""
    found = ranks[1]["wrm_digits"]
    assert found[1]["metrics"].keys() > {"test/phi", "test/certificate_gap", "test/inner_gap", "test/censored_fgm_l2"}
    assert found[1]["metrics"]["test/rho_hat"] > 0
    for measured in ("metrics", "few", "trained"):
        for world_size in (2, 3):
            assert found[world_size][measured] == pytest.approx(found[1][measured], rel=1e-6)


def test_the_features_that_are_masked_are_the_same(ranks):
    """Scores of 100 training images, which no rank has all of."""
    tables = []
    for size in (1, 2, 3):
        with (ranks[0] / f"wrm_digits{size}" / "deepcloak_features.csv").open(newline="") as file:
            tables.append([(int(row["feature"]), float(row["mean_distance"])) for row in csv.DictReader(file)])
    order, distances = zip(*tables[0], strict=True)
    assert distances[0] > distances[-1]
    errors = {key for key in ranks[1]["wrm_digits"][1]["metrics"] if "masked" in key}
    for table in tables[1:]:
        assert [number for number, _ in table] == list(order)
        assert [distance for _, distance in table] == pytest.approx(list(distances), rel=1e-9)
    for size in (2, 3):
        of = ranks[1]["wrm_digits"]
        assert {key: of[size]["metrics"][key] for key in errors} == {key: of[1]["metrics"][key] for key in errors}
    assert len(errors) == 3 * 4


def test_what_is_found_against_an_oracle_is_the_same(ranks):
    """To the bit, since an example's figures stand at its place; of two examples that are wrong no rate is known."""
    found = ranks[1]["oracle_digits"]
    keys = {"test/arc_pgd3x1_l2_d2", "test/violation_rate_pgd3x1_l2_d1", "test/arc_paper_fgm_linf_t2_u8"}
    assert found[1]["metrics"].keys() > keys
    assert 0 < found[1]["metrics"]["test/arc_pgd3x1_l2_d2"] < 2
    own = {it for it in found[1]["metrics"] if it != "test/cross_entropy_nats"}
    for world_size in (2, 3):
        assert {it: found[world_size]["metrics"][it] for it in own} == {it: found[1]["metrics"][it] for it in own}
        for measured in ("few", "trained"):
            assert found[world_size][measured] == pytest.approx(found[1][measured], rel=1e-6, nan_ok=True)


def test_masks_and_next_sentences_are_told_the_same(ranks):
    """But for the last digits of what is added up in another order; rows of a batch differ in their number of masks."""
    found = ranks[1]["bert_tiny_text"]
    assert found[1]["metrics"].keys() == {
        "test/mlm_nats", "test/mlm_accuracy", "test/mlm_unigram_nats", "test/nsp_accuracy"}  # fmt: skip
    for measured in ("metrics", "few", "trained"):
        for world_size in (2, 3):
            assert found[world_size][measured] == pytest.approx(found[1][measured], rel=1e-6)
    assert found[3]["metrics"]["test/mlm_accuracy"] == found[1]["metrics"]["test/mlm_accuracy"]


def test_a_filter_exchanges_the_same_endings(ranks):
    """What the last exchange tells depends on all before it, and is scored by three ranks in shares of other sizes."""
    found = ranks[1]["filtering_synthetic"]
    told = found[1]["trained"]
    assert sum(found[1]["swaps"][:-1]) > 0
    for measured in ("metrics", "few", "trained"):
        for world_size in (2, 3):
            assert found[world_size][measured] == pytest.approx(found[1][measured], rel=1e-6)
    for world_size in (2, 3):
        assert {it: found[world_size]["trained"][it] for it in told if "accuracy_" in it} == {
            it: told[it] for it in told if "accuracy_" in it}  # fmt: skip


def test_a_rank_without_an_example_changes_nothing(ranks):
    found = ranks[1]["infogan_digits"]
    assert found[1]["few"].keys() == {"test/cluster_accuracy", "test/cluster_purity", "test/cluster_information_nats"}
    assert found[3]["few"] == found[2]["few"] == found[1]["few"]


def test_the_ranks_shares_are_the_same_samples(ranks):
    found = ranks[1]["infogan_digits"]
    assert len(set(found[1]["samples"])) == 7
    assert found[2]["samples"] == pytest.approx(found[1]["samples"], rel=1e-12)
    assert found[3]["samples"] == pytest.approx(found[1]["samples"], rel=1e-12)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("experiment", TRAINED)
def test_twenty_steps_lead_to_the_same_weights(ranks, experiment, world_size):
    folder, found = ranks
    assert found[experiment][world_size]["dtype"] == found[experiment][1]["dtype"] == "torch.float64"
    alone, together = torch.load(folder / f"{experiment}1.pt"), torch.load(folder / f"{experiment}{world_size}.pt")
    assert float((alone - together).abs().max()) < 1e-8


@pytest.mark.parametrize("experiment", TRAINED)
def test_micro_batches_on_two_ranks_lead_to_the_same_weights(ranks, experiment):
    """Each rank's share in three parts against the whole batch on one rank."""
    folder, _ = ranks
    whole, cut = torch.load(folder / f"{experiment}1.pt"), torch.load(folder / f"{experiment}cut.pt")
    assert float((whole - cut).abs().max()) < 1e-8
    assert not torch.equal(whole, cut)  # added up in another order: it was cut


@pytest.mark.slow
def test_two_machines_are_one_run(tmp_path):
    """Two launches of torchrun on the loopback address give one process's figures, one folder and one record."""
    words = ["train.py", "experiment=draw_digits", *test_draw.TINY["draw_digits"], "logger=csv", "trainer.max_steps=6"]  # fmt: skip
    alone = subprocess.run([sys.executable, *words, "trainer=cpu", f"paths.output_dir={tmp_path / 'alone'}"],
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launches = []
    for rank in range(2):
        where = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}", "--master-addr=127.0.0.1"]
        asked = ["trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2", f"paths.output_dir={tmp_path / 'both'}"]
        command = [sys.executable, "-m", "torch.distributed.run", *where, f"--master-port={port}", *words, *asked]
        launches.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    ends = [(*launch.communicate(timeout=300), launch.returncode) for launch in launches]
    assert [code for *_, code in ends] == [0, 0], ends
    (alone_s,), (both_s,) = ([*(tmp_path / it).glob("*/*")] for it in ("alone", "both"))
    assert files_in(both_s) == files_in(alone_s)
    records = [json.loads(path.read_text()) for path in (alone_s / "record.json", both_s / "record.json")]
    one, two = records
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert (one["status"], two["status"]) == ("finished", "finished")
    assert one["iterations"] == two["iterations"] == 6
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-6)  # logged values are float32
    assert two["data"] == one["data"]


def files_in(folder: Path) -> set[str]:
    return {str(it.relative_to(folder)) for it in folder.rglob("*") if it.name != "diff.patch"}
