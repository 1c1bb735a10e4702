"""Which batch fits, by bytes that are the same each time, and the rates that go with it."""

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from launch import batch_size
from launch.batch_size import Living, TooMuch, limit_of, rates, sizes
from launch.command_line import compose_job

KIB = 2**10


def test_tensors_count_as_long_as_they_live():
    layer = nn.Linear(256, 256, bias=False)  # 256 KiB
    with Living(2**30) as living:
        images = torch.zeros(128, 256)  # 128 KiB
        layer(images).sum().backward()  # activations of 128 KiB, ones of the sum, and a gradient of 256 KiB
        held = living.now
        view = images[:3].view(-1)
        assert living.now == held
        del images, view
    assert held == (256 + 128 + 256) * KIB
    assert living.now == (256 + 256) * KIB
    assert held < living.peak <= held + 2 * 128 * KIB + 64


def test_more_than_the_limit_ends_it_at_once():
    with pytest.raises(TooMuch), Living(100 * KIB):
        torch.zeros(1000, 1000)


def test_sizes_are_the_experiment_s_own_times_powers_of_two():
    assert [*sizes(128, small=True)][:5] == [16, 32, 64, 128, 256]
    assert [*sizes(100, small=True)][:3] == [25, 50, 100]
    assert next(sizes(4, small=True)) == 4
    assert [*sizes(600, small=False)][:2] == [600, 1200]
    assert [*sizes(128, small=True)][-1] == 64 * 128


def test_rates_go_linearly_for_sgd_and_by_the_square_root_for_others():
    node = {"a": {"_target_": "torch.optim.SGD", "lr": 0.1}, "b": {"c": {"_target_": "torch.optim.AdamW", "lr": 3e-4}},
            "d": {"_target_": "torch.optim.Adam"}, "e": {"_target_": "some.where.Else", "lr": 1.0}}  # fmt: skip
    assert [*rates(node, 4)] == [
        ("lightning_module.a.lr", 0.1, 0.4, "SGD"),
        ("lightning_module.b.c.lr", 3e-4, 6e-4, "AdamW"),
    ]


def test_a_limit_is_said_or_the_gpu_s(tmp_path):
    config = compose_job("train", ["experiment=resnet_digits", "trainer=cpu"], str(tmp_path))
    assert limit_of(config, 2.0) == 2 * 2**30
    with pytest.raises(UserError, match=r"^A CPU's memory is for all that runs there: say by memory=8"):
        limit_of(config, None)
    several = compose_job("train", ["experiment=resnet_digits", "trainer=ddp_cpu"], str(tmp_path))
    with pytest.raises(UserError, match=r"^trainer: name one process"):
        limit_of(several, 2.0)


def test_the_command_says_the_batch_the_rule_and_what_to_type(capsys):
    words = ["experiment=resnet_digits", "trainer=cpu", "datamodule.batch_size=16", "memory=0.02"]
    told = []
    for _ in range(2):
        batch_size.main(words)
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    *tried, found, rule, rest, command = told[0].splitlines()
    size = 16 * 2 ** (len(tried) - 1)
    assert 16 < size < 1024
    assert found.startswith(f"datamodule.batch_size={size} fits in 20.5 MiB, with ")
    assert found.endswith(f"batch_size={2 * size} needs more.")
    assert f"{size // 16} times the batch by the linear rule of SGD (Goyal et al. 2017" in rule
    assert "Nothing else is changed" in rest
    rate = 0.1 * size / 16
    chosen = f"datamodule.batch_size={size} lightning_module.optimizer.lr={rate:g}"
    assert command == f"python train.py experiment=resnet_digits trainer=cpu {chosen}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["memory=much"], "memory=much: give a number of GiB"),
        (["memory=0"], "memory=0: give a number of GiB"),
        (["memory=0.00001"], r"batch_size=16 needs more than 0.0 MiB, and no smaller batch is tried: give more, or"),
        (["memory=1", "seed=1,2", "-m"], "One job is asked for: leave out -m"),
        (["memory=1", "datamodule.batchsize=3"], "did you mean 'batch_size'"),
    ],
)
def test_what_cannot_be_asked_has_its_sentence(words, sentence):
    with pytest.raises(UserError, match=sentence):
        batch_size.main(["experiment=resnet_digits", "trainer=cpu", *words])
