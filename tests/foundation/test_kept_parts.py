"""Parts that were kept are there again, also behind a line that a kill has cut."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.kept_parts import KeptParts

OF = {"seed": 1, "texts": "abc"}


def kept(out: Path, *more: object, of: Mapping[str, object] = OF) -> list[object]:
    with KeptParts(out, of) as parts:
        for it in more:
            parts.add(it)
        return parts.parts


def test_wherever_it_is_cut_whole_parts_are_there_again(tmp_path):
    out = tmp_path / "new" / "pool.jsonl"
    assert kept(out, {"a": "é"}, [2, 0.1]) == [{"a": "é"}, [2, 0.1]]
    begun = tmp_path / "new" / "pool.jsonl.begun"
    content = begun.read_bytes()
    ends = [place + 1 for place, it in enumerate(content) if it == ord("\n")]
    for length in range(len(content) + 1):
        begun.write_bytes(content[:length])
        whole = max(sum(it <= length for it in ends) - 1, 0)
        assert len(kept(out)) == whole
        assert kept(out, *[{"a": "é"}, [2, 0.1]][whole:]) == [{"a": "é"}, [2, 0.1]]
        assert begun.read_bytes() == content
    assert not out.exists()
    with KeptParts(out, OF) as parts:
        parts.done()
    assert not begun.exists()


def test_what_is_of_something_else_damaged_or_busy_is_refused(tmp_path):
    out = tmp_path / "pool.jsonl"
    kept(out, 1)
    with pytest.raises(UserError, match=r"pool.jsonl.begun was begun with another seed \(1, and now 2\): ask for the"):
        kept(out, of=OF | {"seed": 2})
    with pytest.raises(UserError, match=r"begun with another batch \(None, and now 4\)"):
        kept(out, of=OF | {"batch": 4})
    with KeptParts(out, OF), pytest.raises(UserError, match="is being written by another process"):
        kept(out)
    (tmp_path / "pool.jsonl.begun").write_text('{"seed": 1, "texts": "abc"}\n{"a\n1\n')
    with pytest.raises(UserError, match="pool.jsonl.begun, line 2, is damaged: delete the file"):
        kept(out)
