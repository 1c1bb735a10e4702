"""Each task's head by hand and against another library, and what a batch of it has to hold."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from foundation.errors import UserError
from foundation.protocols import (
    Classifies,
    ClassifiesText,
    EmbedsText,
    EstimatesNumbers,
    FindsSpans,
    HasReleasedLayout,
    TagsTokens,
)
from lightning_modules.bert_fine_tuning import BertChooser, BertClassifier, BertRegressor, BertSpans, BertTagger
from lightning_modules.networks.bert import Bert
from lightning_modules.networks.bert_released import released_config, to_released
from lightning_modules.uncorrected_adam import UncorrectedAdam
from tests.lightning_modules.alone import alone, step_alone

NETWORK = "lightning_module.network"
SMALL = ["trainer.precision=32-true", "lightning_module.optimizer.fused=false", f"{NETWORK}.layers=1",
         f"{NETWORK}.hidden_size=16", f"{NETWORK}.heads=2", f"{NETWORK}.max_length=32", "datamodule.max_length=32",
         "datamodule.batch_size=4", "datamodule.eval_batch_size=8"]  # fmt: skip
TINY = {
    "bert_sst2": SMALL,
    "bert_cola": SMALL,
    "bert_rte": SMALL,
    "bert_stsb": SMALL,
    "bert_hellaswag": SMALL,
    "bert_squad": [*SMALL, "datamodule.max_question_length=8"],
    "bert_conll2003": [*SMALL, "lightning_module.num_classes=3"],
}
SIZES = {"vocabulary_size": 60, "layers": 2, "hidden_size": 16, "heads": 2, "max_length": 12}
LENGTHS = [9, 12, 4, 7]
TASKS: dict[str, Any] = {
    "classes": partial(BertClassifier, num_classes=3),
    "choices": partial(BertChooser, choices=4),
    "numbers": BertRegressor,
    "spans": BertSpans,
    "tags": partial(BertTagger, num_classes=5),
}


def made(task: str, device: str = "cpu", micro: int | None = None, **network: Any) -> Any:
    torch.manual_seed(0)
    net = Bert(**(SIZES | {"dropout": 0.0, "attention_dropout": 0.0} | network))
    head = {} if task == "spans" else {"dropout": 0.0}
    module = TASKS[task](net, optimizer=partial(UncorrectedAdam, lr=2e-3), micro_batch_size=micro, **head)
    return alone(module.to(device))


def batch_of(task: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (4, 4, 12) if task == "choices" else (4, 12)
    lengths = torch.tensor(LENGTHS) if len(shape) == 2 else torch.tensor(LENGTHS * 4).view(4, 4)
    places = torch.arange(12)
    is_token = places < lengths.unsqueeze(-1)
    batch = {
        "index": torch.arange(4), "input_ids": torch.randint(5, 60, shape, generator=generator) * is_token,
        "lengths": lengths, "segment_ids": ((places >= lengths.unsqueeze(-1) // 2) & is_token).long(),
    }  # fmt: skip
    if task == "numbers":
        return batch | {"label": torch.tensor([0.5, 3.0, 5.0, 1.0])}
    if task == "spans":
        return batch | {"start": torch.tensor([3, 0, 1, 6]), "end": torch.tensor([4, 0, 3, 6])}
    if task == "tags":
        tags = torch.randint(5, (4, 12), generator=generator)
        return batch | {"token_label": torch.where(is_token & (places % 3 > 0), tags, -100)}
    return batch | {"label": torch.tensor([0, 2, 1, 2])}


@pytest.mark.parametrize("task", TASKS)
def test_it_learns_a_batch_by_heart(task):
    module, batch = made(task), batch_of(task)
    losses = [step_alone(module, batch, it)["loss"].item() for it in range(80)]
    assert losses[-1] < 0.2 * losses[0]
    assert all(it.grad is not None for it in module.parameters())


@pytest.mark.parametrize("task", TASKS)
def test_with_sizes_of_the_shape_alone_no_value_is_read_on_the_host(task):
    module = made(task, device="meta", padding_free=False)
    told = step_alone(module, {key: it.to("meta") for key, it in batch_of(task).items()}, 3)
    assert all(it.is_meta and not it.requires_grad for it in told.values())


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(task):
    found = []
    for micro in (None, 2):
        module = made(task, micro=micro)
        step_alone(module, batch_of(task))
        found.append({name: it.grad for name, it in module.named_parameters()})
    for name, it in found[0].items():
        torch.testing.assert_close(found[1][name], it, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("padding_free", [True, False])
def test_logits_of_a_classifier_and_of_spans_are_the_reference_library_s(padding_free):
    from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

    mask = torch.arange(12) < torch.tensor(LENGTHS)[:, None]
    for task, kind in {"classes": BertForSequenceClassification, "spans": BertForQuestionAnswering}.items():
        module, batch = made(task, padding_free=padding_free).eval(), batch_of(task)
        for it in module.parameters():
            nn.init.normal_(it, std=0.3)
        more = {"num_labels": 3} if task == "classes" else {}
        other = kind(BertConfig(**released_config(module.network), attn_implementation="eager", **more)).eval()
        lacking, unknown = other.load_state_dict(to_released(module.state_dict()), strict=False)
        assert (lacking, unknown) == ([], [])
        theirs = other(batch["input_ids"], attention_mask=mask.long(), token_type_ids=batch["segment_ids"])
        if task == "classes":
            found = module.class_logits(batch["input_ids"], batch["lengths"], batch["segment_ids"])
            torch.testing.assert_close(found, theirs.logits, atol=1e-5, rtol=1e-5)
        else:
            found = module.span_logits(batch)
            assert found.mT[~mask].max() == float("-inf")
            for number, logits in enumerate((theirs.start_logits, theirs.end_logits)):
                torch.testing.assert_close(found[:, number][mask], logits[mask], atol=1e-5, rtol=1e-5)


def test_each_choice_gets_a_score_by_itself():
    module, batch = made("choices").eval(), batch_of("choices")
    scores = module.logits(batch)
    assert scores.shape == (4, 4)
    for choice in range(4):
        alone = module.scores(
            batch["input_ids"][:, choice], batch["lengths"][:, choice], batch["segment_ids"][:, choice]
        )
        torch.testing.assert_close(scores[:, choice], alone.squeeze(1))


def test_tags_are_weighed_by_words_and_not_by_rows():
    module, batch = made("tags").eval(), batch_of("tags")
    logits = module.scores(batch)
    expected = cross_entropy(logits.flatten(0, 1), batch["token_label"].flatten())
    assert module.loss(module.host_inputs(batch, 0))["loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    told = module.validation_step(batch, 0)
    assert torch.equal(told["tags"], logits.argmax(2))
    assert torch.equal(
        module.tag_logits(batch["input_ids"], batch["lengths"]),
        module.scores({name: batch[name] for name in ("input_ids", "lengths")}),
    )


def test_capabilities_are_those_of_the_task():
    found = {task: made(task).capabilities() - {HasReleasedLayout} for task in TASKS}
    assert found == {
        "classes": {ClassifiesText, EmbedsText}, "choices": {Classifies}, "numbers": {EstimatesNumbers, EmbedsText},
        "spans": {FindsSpans}, "tags": {TagsTokens},
    }  # fmt: skip


def test_a_dropout_that_is_no_share_is_refused():
    with pytest.raises(UserError, match="lightning_module.dropout is 1.0: give a share from 0 to below 1"):
        BertClassifier(Bert(**SIZES), num_classes=2, dropout=1.0, optimizer=UncorrectedAdam)


def test_a_network_that_texts_go_through_is_not_compiled():
    with pytest.raises(UserError, match="compile_mode is default, and texts are of lengths that change"):
        BertClassifier(Bert(**SIZES), num_classes=2, compile_mode="default", optimizer=UncorrectedAdam)
