"""Run folders as commit d7f15d4 wrote them, when callbacks/ imported launch/ and each network had its own ``weights``.

A folder here holds a run's ``.hydra/`` and record, names and shapes of its checkpoint (``checkpoint.json``), and what
evaluate.py of that commit measured (``metrics.json``) with the weights that ``former_run`` makes of them. So today's code
is held against the former's numbers, and no binary file is kept.
"""

import json
import math
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent


def former_run(name: str, folder: Path) -> Path:
    """Such a run's folder with a checkpoint; ``judged`` names the classifier's beside it as its judge."""
    shutil.copytree(FOLDER / name, folder, ignore=shutil.ignore_patterns("checkpoint.json", "metrics.json"))
    for path in (folder / ".hydra").iterdir():
        path.write_text(path.read_text().replace("/former/", f"{folder.parent}/"))
    described = json.loads((FOLDER / name / "checkpoint.json").read_text())
    state = {key: made_up(key, *described["state_dict"][key]) for key in described["state_dict"]}
    (folder / "checkpoints").mkdir()
    torch.save(described | {"state_dict": state}, folder / "checkpoints" / "last.ckpt")
    return folder


def made_up(name: str, dtype: str, shape: list[int]) -> Tensor:
    """A weight that is a function of its name, of a size with which a network's answers differ with its inputs."""
    if not getattr(torch, dtype).is_floating_point:
        return torch.ones(shape, dtype=getattr(torch, dtype))
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))).to(
        getattr(torch, dtype)
    )
    if len(shape) > 1:
        return (drawn - 0.5) * math.sqrt(24 * shape[0] / drawn.numel())
    return (drawn - 0.5) / 5 if name.endswith(("bias", "mean")) else drawn + 0.5


def metrics_of(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name / "metrics.json").read_text())
