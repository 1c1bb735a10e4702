import os
import pickle
import signal
import zipfile
from contextlib import suppress

import pytest
import torch
from torch import nn

from foundation.checkpoints import WholeCheckpoints, check_finite, check_fits, checkpoint_path, read_checkpoint
from foundation.errors import UserError

CHECKPOINT = {"state_dict": {"weight": torch.arange(3.0)}, "loops": {}, "optimizer_states": [], "global_step": 1}


class Executes:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_what_is_saved_is_read_again(tmp_path):
    WholeCheckpoints().save_checkpoint(CHECKPOINT, tmp_path / "deep" / "last.ckpt")
    found = WholeCheckpoints().load_checkpoint(tmp_path / "deep" / "last.ckpt")
    assert torch.equal(found["state_dict"]["weight"], torch.arange(3.0))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("moment", ["save", "fsync", "replace"])
def test_a_kill_while_writing_leaves_the_former_one(tmp_path, monkeypatch, moment):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint(CHECKPOINT, path)
    child = os.fork()
    if child == 0:

        def die(*arguments, **settings):
            if moment == "save":
                arguments[1].write(b"half of it")
                arguments[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(torch if moment == "save" else os, moment, die)
        WholeCheckpoints().save_checkpoint(CHECKPOINT | {"global_step": 2}, path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert read_checkpoint(path)["global_step"] == 1


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save(CHECKPOINT, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{path} cannot be read .* the file is truncated or no checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [{"weight": torch.zeros(2)}, torch.zeros(2), {"state_dict": {}}, CHECKPOINT | {"state_dict": 3}]
)
def test_a_file_of_something_else_is_named(tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="is no checkpoint of a training run"):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    "write", [lambda it, path: torch.save(it, path), lambda it, path: path.write_bytes(pickle.dumps(it))]
)
def test_a_checkpoint_that_would_execute_code_is_refused(tmp_path, write):
    path, trace = tmp_path / "last.ckpt", tmp_path / "executed"
    write(CHECKPOINT | {"extra": Executes(trace)}, path)
    with pytest.raises(UserError, match="last.ckpt is refused"):
        read_checkpoint(path)
    assert not trace.exists()


def test_weights_of_another_model_are_named(tmp_path):
    module = nn.Linear(2, 3)
    check_fits(module, module.state_dict(), tmp_path)  # type: ignore
    with pytest.raises(UserError, match=r"weight is \(3, 4\) in the file and \(3, 2\) in the model"):
        check_fits(module, module.state_dict() | {"weight": torch.zeros(3, 4)}, tmp_path)  # type: ignore
    with pytest.raises(UserError, match=r"bias is missing in the file and \(3,\) in the model"):
        check_fits(module, {"weight": module.weight}, tmp_path)  # type: ignore


def test_a_missing_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match="has no checkpoint 'lst'; did you mean 'last'"):
        checkpoint_path(tmp_path, "lst")


# --- what is in it is what was written -------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_in_the_weights_is_told(tmp_path):
    path = tmp_path / "last.ckpt"
    weights = torch.rand(500, generator=torch.Generator().manual_seed(0))
    WholeCheckpoints().save_checkpoint(CHECKPOINT | {"state_dict": {"weight": weights}}, path)
    content = path.read_bytes()
    start = content.index(weights.numpy().tobytes())
    for place in range(start, start + 2000, 97):
        for bit in (0, 7):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            for read in (read_checkpoint, WholeCheckpoints().load_checkpoint):
                with pytest.raises(UserError, match=r"last.ckpt is damaged: \S+ in it is not what was written"):
                    read(path)
    path.write_bytes(content)
    assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], weights)


def test_a_flipped_bit_elsewhere_never_ends_in_other_weights_or_a_traceback(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint(CHECKPOINT, path)
    content = path.read_bytes()
    for place in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        with suppress(UserError):
            assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], torch.arange(3.0)), place


def test_a_file_of_before_checksums_is_read_with_a_sentence(tmp_path, capsys):
    torch.save(CHECKPOINT, tmp_path / "last.ckpt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 1
    assert "last.ckpt carries no checksum: whether it is as it was written cannot be told" in capsys.readouterr().out


def test_a_checkpoint_that_would_unpack_to_any_size_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(10**7))
    with pytest.raises(
        UserError, match=r"^\S+ is refused: archive/data/0 in it is compressed, and could unpack to any size\.$"
    ):
        read_checkpoint(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="it is no file"):
        read_checkpoint(path)


def test_weights_that_are_no_numbers_are_named(tmp_path):
    module = nn.BatchNorm1d(2)
    state = module.state_dict()
    check_finite(module, state | {"running_var": torch.tensor([torch.inf, 1])}, tmp_path)
    with pytest.raises(UserError, match=r"the run's weights are not finite \(weight and 1 more\)"):
        check_finite(
            module, state | {"weight": torch.full((2,), torch.nan), "bias": torch.tensor([1, torch.inf])}, tmp_path
        )  # type: ignore
