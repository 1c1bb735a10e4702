"""What a resume changes: refused by name where it could not hold, since a record names no setting that did not.

What may change holds from the checkpoint's iteration on: ``callbacks/instruments/settings_of_now.py``.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import nn
from torch.optim import Optimizer

from foundation.errors import UserError
from foundation.records import differences

# Of a DataModule's settings those of evaluation, places and hardware, and what is drawn anew in each epoch.
FREE = "|".join(
    ["eval_batch_size", "num_workers", "augment", "flip", "pca_colour", "short_sides", "test_split", "test_short_side",
     "data_dir", "cache_dir", "folder", "files"]
)  # fmt: skip

KEPT = {
    r"name|experiment|(.*\.)?(\w+_)?seed": "a resumed run keeps its seeds and its experiment",
    rf"datamodule\.(?!({FREE})(\.|$)).*": "what it is trained on, and in which order, stays",
    r"trainer\.(accumulate_grad_batches|limit_train_batches)": "its place in the epoch is counted in batches of before",
    r"init_from(\..*)?|lightning_module\.(.*\.)?(weights|\w*init_std)": "it decides what a training begins with",
    r"callbacks\.\w+\.(monitor|mode|save_top_k|dirpath)": "what was the best so far was found by it",
}
OF_AN_AVERAGE = r"callbacks\.\w+\.(start|bias_corrected|parts)"


def refuse_changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> None:
    """Args: the run's config as it was so far, and as it is asked to be; what it would go on from."""
    problems = [
        f"{key} is {was} in this run, and {asked} cannot hold in a resume: {reason}. Start a new run for it."
        for key, (was, asked) in differences(before, now).items()
        if (reason := why_kept(key, was, asked, before, now, checkpoint))
    ]
    if problems:
        raise UserError("\n".join(problems))


def why_kept(
    key: str, was: Any, asked: Any, before: Mapping[str, Any], now: Mapping[str, Any], checkpoint: Mapping[str, Any]
) -> str | None:
    group, part = key.split(".")[0], key.split(".")[1:2]
    if key.endswith(".run") and Path(str(was)).name == Path(str(asked)).name:
        return None  # a run that was moved; launch.inputs sees whether it is what it was
    if group == "callbacks" and not (part[0] in before["callbacks"] and part[0] in now["callbacks"]):
        return None  # one that is added, or taken away
    if key.endswith(".mode") and None in (was, asked):
        return None  # the metric's own direction, which no other may contradict
    if group == "lightning_module" and below_a_run(key, before):
        return "a checkpoint has the weights that came from there"
    begun = bool(checkpoint.get("averaging_state", {}).get("n_averaged", 0))
    averages = group == "callbacks" and before["callbacks"][part[0]]["_target_"].endswith(".AveragedWeights")
    if begun and averages and re.fullmatch(OF_AN_AVERAGE, key):
        return "the average has begun"
    return next((reason for pattern, reason in KEPT.items() if re.fullmatch(pattern, key)), None)


def below_a_run(key: str, config: Any) -> bool:
    """Whether a key is of a node that stands for the weights of a finished run."""
    for word in key.split("."):
        if not isinstance(config, Mapping):
            return False
        if config.get("_target_") == "launch.runs.load_module":
            return True
        config = config.get(word)
    return False


def check_optimizers(module: LightningModule, states: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Whether a module's optimisers can go on from what a checkpoint holds of them."""
    made: Any = module.configure_optimizers()
    optimizers: list[Optimizer] = made[0]
    told = [[len(group["params"]) for group in it.param_groups] for it in optimizers]
    held = [[len(group["params"]) for group in it["param_groups"]] for it in states]
    if told != held:
        raise UserError(
            f"{path} holds optimizers of {held} parameters, and those of the run to go on move {told}: a resumed run "
            "keeps what it trains."
        )
    for optimizer, state in zip(optimizers, states, strict=True):
        if lacking := lacks(optimizer, state["state"]):
            raise UserError(
                f"{type(optimizer).__name__} as it is asked for now goes by {lacking} of each parameter, which {path} "
                "does not hold: keep the optimizer's _target_ and switches, or start a new run."
            )


def lacks(optimizer: Optimizer, states: Mapping[int, Mapping[str, Any]]) -> str | None:
    """What an optimiser asks for in vain among the states of one kind: tried on one number."""
    if not states:
        return None
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    tried = object.__new__(type(optimizer))
    tried.__dict__ = dict(optimizer.__dict__)  # copy.copy leaves out what a class adds to torch's own
    plain = {name: False for name in ("fused", "foreach", "capturable") if name in optimizer.defaults}
    tried.param_groups = [{**optimizer.param_groups[0], **plain, "params": [parameter]}]
    held = next(iter(states.values()))
    tried.state = defaultdict(dict, {parameter: {name: like(value) for name, value in held.items()}})
    try:
        type(optimizer).step(tried)
    except KeyError as missing:
        return str(missing.args[0])
    return None


def like(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return copy.deepcopy(value)
    return torch.zeros(1)
