"""Files that are there whole or not at all; a full disk is /dev/full, which every write fails to."""

import pytest
import torch

from foundation.checkpoints import WholeCheckpoints
from foundation.errors import not_written, told_as_sentences
from foundation.whole_files import whole, write_whole


def test_the_former_file_stays_until_the_new_one_is_there(tmp_path):
    path = tmp_path / "made" / "table.csv"
    write_whole(path, "before")
    with whole(path) as unfinished:
        unfinished.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    with pytest.raises(ArithmeticError), whole(path) as unfinished:
        unfinished.write_text("half")
        raise ArithmeticError
    assert [it.name for it in path.parent.iterdir()] == ["table.csv"]
    assert path.read_text() == "after"


@pytest.mark.parametrize("size", [10, 10**6])  # torch tells of the second kind in an error of its own
def test_a_full_disk_is_told_with_the_file_and_leaves_the_former_one(tmp_path, capsys, size):
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"weight": torch.ones(3)}, path)
    (tmp_path / "last.ckpt.unfinished").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as ended, told_as_sentences():
        WholeCheckpoints().save_checkpoint({"weight": torch.ones(size)}, path)
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {path} could not be written: no space left on device.\n"
    assert [it.name for it in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.equal(torch.load(path, weights_only=True)["weight"], torch.ones(3))


def test_other_errors_are_not_a_disk_s():
    assert not_written(FileNotFoundError(2, "no such file", "x")) is None
    assert not_written(RuntimeError("shape mismatch")) is None
