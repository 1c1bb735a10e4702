"""What is exchanged by hand; rounds on a planted artefact; a round that is killed in its middle; two ranks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from callbacks.filtering import example
from datamodules.text.multiple_choice import MultipleChoiceDataModule
from foundation.errors import UserError
from foundation.randomness import keyed_uniforms
from launch.command_line import compose_job
from launch.initial_weights import InitialWeights
from launch.runs import build
from lightning_modules.adversarial_filtering import (
    AdversarialFiltering,
    binary_accuracy,
    choice_accuracy,
    swap_easiest,
    swaps_allowed,
)
from lightning_modules.networks.bert import Bert
from lightning_modules.networks.bert_released import to_released
from tests.lightning_modules.networks.test_discriminators import SMALL as NETWORKS

NETWORK = "lightning_module.network"
SHORT = ["lightning_module.epochs_a_round=1", "lightning_module.optimizer.fused=false", "datamodule.val_size=5",
         "datamodule.eval_batch_size=20", "datamodule.batch_size=20"]  # fmt: skip
BERT = [f"{NETWORK}.network.{it}" for it in ("layers=1", "hidden_size=16", "heads=2", "max_length=64")]
MEMBERS = [f"{NETWORK}.members.features.hidden_size=16",
           *(f"+{NETWORK}.members.{it}.embedding_size=8" for it in ("bag_of_words", "convolutions", "lstm"))]  # fmt: skip
TINY = {
    "filtering_synthetic": [*SHORT, "datamodule.texts=50", "datamodule.candidates=6"],
    "filtering_hellaswag_weak": [*SHORT, f"{NETWORK}.embedding_size=8"],
    "filtering_hellaswag_features": [*SHORT, f"{NETWORK}.hidden_size=16"],
    "filtering_hellaswag_ensemble": [*SHORT, f"{NETWORK}.hidden_size=16", *MEMBERS],
    "filtering_hellaswag_strong": [*SHORT, "trainer.precision=32-true", "datamodule.max_length=48", *BERT],
}

# --- the step --------------------------------------------------------------------------------------------------------

SCORES = torch.tensor([
    [0.9, 0.1, 0.8, 0.2, 0.7, 0.3],  # of the assigned (0, 1, 3) 1 and 3 are easy, and 2 and 4 are adversarial
    [0.1, 0.2, 0.3, 0.4, 0.3, 0.2],  # nothing is adversarial
    [0.9, 0.8, 0.7, 0.6, 0.9, 0.9],  # nothing is easy
    [0.5, 0.4, 0.1, 0.5, 0.6, float("-inf")],  # equal to the right one is neither; one easy, one adversarial
])  # fmt: skip
RIGHT, ASSIGNED = torch.full((4,), 0.5), torch.tensor([[0, 1, 3], [0, 1, 2], [0, 1, 2], [0, 1, 3]])


def draws(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(keyed_uniforms(seed, "test", rows=torch.arange(rows).numpy(), columns=columns))


@pytest.mark.parametrize("weighted", [False, True])
def test_easy_ones_are_exchanged_for_adversarial_ones_as_many_as_there_are_of_both(weighted):
    found = swap_easiest(SCORES, RIGHT, ASSIGNED, 2, draws(4, 12), weighted)
    assert set(found.assignment[0].tolist()) == {0, 2, 4}
    assert found.assignment[0, 0] == 0
    assert found.came[0].tolist() == [False, True, True]
    assert torch.equal(found.assignment[1:3], ASSIGNED[1:3])
    assert found.assignment[3].tolist() == [0, 4, 3]
    assert found.came.sum(1).tolist() == [2, 0, 0, 1]
    one = swap_easiest(SCORES, RIGHT, ASSIGNED, 1, draws(4, 12), weighted)
    assert one.came.sum(1).tolist() == [1, 0, 0, 1]
    none = swap_easiest(SCORES, RIGHT, ASSIGNED, 0, draws(4, 12), weighted)
    assert torch.equal(none.assignment, ASSIGNED)
    assert torch.equal(swap_easiest(SCORES, RIGHT, ASSIGNED, 2, draws(4, 12), weighted).assignment, found.assignment)


def test_who_is_drawn_is_uniform_or_by_score():
    """Of candidates with scores 1, 2 and 3 above the right one's 0, one is taken for the easiest, -1 or -2."""
    rows = 20_000
    scores = torch.tensor([1.0, 2.0, 3.0, -1.0, -2.0]).repeat(rows, 1)
    assignment, right = torch.tensor([3, 4]).repeat(rows, 1), torch.zeros(rows)
    for weighted, comers, leavers in (
        (False, [1 / 3] * 3, [1 / 2] * 2),
        (True, torch.tensor([1.0, 2.0, 3.0]).softmax(0).tolist(), torch.tensor([1.0, 2.0]).softmax(0).tolist()),
    ):
        found = swap_easiest(scores, right, assignment, 1, draws(rows, 10), weighted)
        assert torch.equal(found.came.sum(1), torch.ones(rows, dtype=torch.int64))
        shares = found.assignment[found.came].bincount(minlength=3) / rows
        assert shares.tolist() == pytest.approx(comers, abs=0.015)
        assert (found.came.sum(0) / rows).tolist() == pytest.approx(leavers, abs=0.015)


def test_nothing_is_assigned_twice_and_what_is_missing_never():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(500, 8, generator=generator).masked_fill(torch.rand(500, 8, generator=generator) < 0.2, -1e30)
    scores[:, :4] = scores[:, :4].clamp(min=-5)
    scores = scores.masked_fill(scores == -1e30, float("-inf"))
    assignment = torch.rand(500, 4, generator=generator).argsort(1)
    for seed in range(3):
        assignment = swap_easiest(scores, torch.zeros(500), assignment, 2, draws(500, 16, seed), seed == 1).assignment
        assert all(len(set(row)) == 4 for row in assignment.tolist())
        assert scores.gather(1, assignment).isfinite().all()


@pytest.mark.parametrize("weighted", [False, True])
def test_where_all_candidates_are_assigned_nothing_is_exchanged(weighted):
    """Also where some texts have fewer than others, so that places are empty."""
    nothing = float("-inf")
    scores = torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.1, nothing]])
    assignment = torch.tensor([[2, 0], [0, 1]])
    found = swap_easiest(scores, torch.tensor([0.0, 0.5]), assignment, 2, draws(2, 6), weighted)
    assert torch.equal(found.assignment, assignment)
    every = torch.tensor([[0, 1, 2]])
    found = swap_easiest(scores[:1], torch.tensor([0.5]), every, 2, draws(1, 6), weighted)
    assert torch.equal(found.assignment, every)
    assert not found.came.any()


def test_accuracies_and_limits():
    assert binary_accuracy(SCORES, RIGHT, ASSIGNED) == pytest.approx((2 + 3 + 0 + 1) / 12)
    assert choice_accuracy(SCORES, RIGHT, ASSIGNED) == 1 / 4  # what is as good is not told
    allowed = [swaps_allowed(it, [0.525, 0.575], 2) for it in (0.4, 0.525, 0.53, 0.575, 0.58, 1.0)]
    assert allowed == [0, 0, 1, 1, 2, 2]
    assert swaps_allowed(0.1, [], 2) == 2


# --- rounds ----------------------------------------------------------------------------------------------------------


def fitted(folder: Path, *overrides: str, resume: bool = False) -> Any:
    learns = ["lightning_module.optimizer.lr=0.03", "datamodule.texts=300", "datamodule.candidates=8",
              "datamodule.val_size=40", "datamodule.batch_size=40", "lightning_module.epochs_a_round=3"]  # fmt: skip
    config = compose_job("train", ["experiment=filtering_synthetic", "trainer=cpu", "logger=none", *learns, *overrides],
                         str(folder))  # fmt: skip
    run = build(config, resumes=resume)
    run.trainer.fit(run.module, datamodule=run.datamodule, weights_only=True,
                    ckpt_path=str(folder / "checkpoints" / "last.ckpt") if resume else None)  # fmt: skip
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("filter") / "whole"
    run = fitted(folder, "trainer.max_epochs=12")
    return run, run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)[0], folder


def test_what_is_planted_is_filtered_out(whole):
    run, measured, folder = whole
    history = run.datamodule.history
    assert [it["round"] for it in history] == [0, 1, 2]
    assert history[0]["accuracy_before"] > 0.4
    assert all(it["accuracy_after"] < it["accuracy_before"] for it in history)
    marked = [sum("again ." in it for told in run.datamodule.outcome(first) for it in told["endings"])
              for first in (True, False)]  # fmt: skip
    assert marked[1] < 0.8 * marked[0]  # in three rounds
    assert measured["test/accuracy"] < history[0]["accuracy_before"]
    since, start = run.datamodule.since, run.datamodule._first_assignment()
    assert not (run.datamodule.assignment != start)[since == 0].any()  # each says since which round it is there
    assert int(since.max()) <= 3
    names = sorted(path.name for path in folder.iterdir())
    assert {"filtered.jsonl", "rounds.csv", "rounds.png", "examples.txt"} <= {*names}


def test_right_endings_stay_and_so_do_texts_that_a_round_has_learnt_from(whole):
    data = whole[0].datamodule
    for told, it in zip(data.outcome(), data.pool, strict=True):
        assert told["endings"][told["label"]] == it.ending
        assert told["endings"].count(it.ending) == 1
    assert all(len(set(row)) == data.negatives for row in data.assignment.tolist())
    rounds, last = set(data.since.unique().tolist()) - {0}, data.round
    assert rounds
    try:
        for since in rounds:
            data.round = since - 1
            changed = (data.since == since).any(1).nonzero().squeeze(1).tolist()
            assert set(changed) <= set(data.filtered.tolist())
    finally:
        data.round = last


def test_what_comes_out_is_read_as_multiple_choice(whole, tmp_path):
    _, _, folder = whole
    (tmp_path / "vocab.txt").write_text("\n".join(whole[0].datamodule.tokenizer.pieces) + "\n")
    how: dict[str, Any] = {"file": str(folder / "filtered.jsonl"), "context": "ctx", "endings": "endings", "batch_size": 4,
           "vocabulary": str(tmp_path / "vocab.txt"), "group": "activity_label"}  # fmt: skip
    tables = {}
    for name in ("", "only_endings", "shuffled_words"):
        read = MultipleChoiceDataModule(**(how | ({name: True} if name else {})))
        read.setup()
        tables[name] = read.tables["test"][torch.tensor([0])]
    assert tables[""]["input_ids"].shape[1] == 4
    assert tables["only_endings"]["segment_ids"].sum() == 0
    assert (tables["only_endings"]["lengths"] < tables[""]["lengths"]).all()
    same = [tables[name]["input_ids"][0, 0].sort().values.tolist() for name in ("", "shuffled_words")]
    assert same[0] == same[1]
    assert not torch.equal(tables[""]["input_ids"], tables["shuffled_words"]["input_ids"])
    told = {"ctx": "a", "endings": ["b", "c"], "label": 1, "origins": ["x", "right"], "rounds": [2, 0]}
    assert example(told, told).splitlines() == ["a", "  right: c", "  before:", "    b  (x, round 2)", "  after:",
                                                "    b  (x, round 2)"]  # fmt: skip


def test_where_all_are_marked_it_stalls(tmp_path):
    long = ["trainer.max_epochs=14", "lightning_module.epochs_a_round=7"]
    run = fitted(tmp_path, "datamodule.artefact=1", *long)
    assert run.datamodule.history[0]["accuracy_after"] > 0.9
    measured = run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)[0]
    assert measured["test/accuracy"] > 0.9


def test_killed_in_the_middle_of_a_round_it_goes_on_bit_for_bit(whole, tmp_path):
    run, _, _ = whole
    fitted(tmp_path, "trainer.max_steps=21", "trainer.max_epochs=12")  # of three steps an epoch: in the third round
    again = fitted(tmp_path, "trainer.max_epochs=12", resume=True)
    assert again.trainer.global_step == run.trainer.global_step
    for name, it in run.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], it), name
    for key in ("assignment", "since"):
        assert torch.equal(getattr(again.datamodule, key), getattr(run.datamodule, key))
    assert again.datamodule.history == run.datamodule.history


# --- what a round begins with ----------------------------------------------------------------------------------------


def test_a_round_begins_with_other_weights_but_for_those_from_elsewhere(tmp_path):
    torch.manual_seed(0)
    module = AdversarialFiltering(NETWORKS["bert"], choices=3, epochs_a_round=1, optimizer=torch.optim.Adam)
    torch.manual_seed(1)
    bert = Bert(50, 1, 8, 2)
    released = {"run": None, "weights": str(tmp_path / "model.safetensors")}
    save_file(to_released({f"network.{key}": it for key, it in bert.state_dict().items()}), released["weights"])
    line = InitialWeights(released, module, {}).begin(module)
    assert "weights begin with those of" in line
    module._trainer = SimpleNamespace(optimizers=[], global_step=0)  # type: ignore
    module.on_train_start()
    before = {key: it.clone() for key, it in module.network.state_dict().items()}
    assert module.pretrained.keys() == {key for key in before if key.startswith("network.")}
    module.begin_anew(1)
    now = module.network.state_dict()
    assert torch.equal(now["network.embeddings.word.weight"], bert.state_dict()["embeddings.word.weight"])
    assert not torch.equal(now["classifier.weight"], before["classifier.weight"])
    first = now["classifier.weight"].clone()
    module.begin_anew(2)
    assert not torch.equal(module.network.state_dict()["classifier.weight"], first)
    module.begin_anew(1)
    assert torch.equal(module.network.state_dict()["classifier.weight"], first)


@pytest.mark.parametrize(("settings", "told"), [
    ({"choices": 1}, "lightning_module.choices is 1: give 2 or more"),
    ({"epochs_a_round": 0}, "lightning_module.epochs_a_round is 0: give 1 or more"),
    ({"limits": [0.6, 0.5]}, r"lightning_module.limits is \[0.6, 0.5\]: give rising shares"),
])  # fmt: skip
def test_what_cannot_be_is_told(settings, told):
    with pytest.raises(UserError, match=told):
        AdversarialFiltering(NETWORKS["bag_of_words"], **({"choices": 3, "epochs_a_round": 1} | settings),
                             optimizer=torch.optim.Adam)  # fmt: skip
