"""``init_from``: training that begins with weights from elsewhere.

    init_from=outputs/resnet_mnist/<folder>                 # a finished run's last checkpoint
    init_from=weights.pt                                    # a state_dict or a checkpoint; .safetensors where installed
    init_from=<a folder from the Hub>                       # its config.json and model.safetensors
    init_from=torchvision:resnet50/IMAGENET1K_V1            # or torchvision:ResNet50_Weights.IMAGENET1K_V1
    init_from={run: <folder>, checkpoint: best, parts: {network.trunk: discriminator.trunk}}
    init_from={weights: weights.pt, parts: {network: .}}

Without ``parts`` all weights begin there whose name and shape exist there, names that the module knows in another form
(``initial_prefixes``) included. ``parts`` names parts of the module, each with the part there whose weights it gets,
"." being all of it. What began there, what did not and why is told in a line
and stands among the ``inputs`` of the record. A checkpoint that a run goes on from has its way: nothing is read then.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.hub import get_dir
from torchvision.models import get_model_weights, get_weight, list_models

from callbacks.instruments.downloads import check_hash, fetch, once_a_machine
from foundation.checkpoints import fingerprint, load_plain
from foundation.errors import UserError, did_you_mean
from foundation.protocols import said
from foundation.security import places_alone
from launch.config_check import plain
from launch.inputs import Origin, no_such_part, origin_of_checkpoint, weights_of
from launch.saved_config import run_config

WHOLE = "."
PUBLISHED = "torchvision:"
NESTED = ("state_dict", "model_state_dict", "model")  # where a file may hold a state_dict beside other things
NAMED = 4  # names of weights in a line
CONFIG, SAFETENSORS = "config.json", "model.safetensors"  # of a folder from the Hub


@dataclass(frozen=True)
class Source:
    """Where weights come from, and which parts of the module get which of them."""

    run: str | None
    weights: str | None
    checkpoint: str
    parts: Mapping[str, str]

    @property
    def url(self) -> str | None:
        """Of torchvision's weights."""
        name = self.weights or ""
        return published(name.removeprefix(PUBLISHED)).url if name.startswith(PUBLISHED) else None

    @property
    def path(self) -> Path:
        """Of the file of weights; those of torchvision lie where torch keeps them."""
        url = self.url
        return Path(str(self.weights)) if url is None else Path(get_dir()) / "checkpoints" / url.rpartition("/")[2]


@dataclass
class Match:
    """What of a module begins elsewhere."""

    taken: dict[str, Tensor] = field(default_factory=dict)
    other_shape: dict[str, list[list[int]]] = field(default_factory=dict)  # here and there
    not_there: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


class InitialWeights(Callback):
    """Loads what ``init_from`` names before the first iteration; no part of a config.

    What is on this machine is read and held against the module at once, so that nobody waits to hear that it does not
    fit. The rest is downloaded in ``setup``, once a machine. Weights are put in place after the module's own ``setup``.

    Args:
        asked: the value of ``init_from``.
        inputs: where the origin is noted.
    """

    def __init__(self, asked: Any, module: LightningModule, inputs: dict[str, Origin]) -> None:
        self.source, self.inputs = source_of(asked), inputs
        self.state: dict[str, Tensor] = {}
        self.origin: Origin = {}
        self.class_names: list[str] | None = None
        if self.source is None:
            refuse(module, set())
        elif self.source.url is None or self.source.path.exists():
            self.state, self.origin, self.class_names = read(self.source)
            refuse(module, self._matched(module).taken.keys())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self.source is None or self.state or trainer.ckpt_path is not None:
            return
        url, path = str(self.source.url), self.source.path
        if reason := once_a_machine(partial(fetch, url, path), trainer):
            raise UserError(
                f"init_from: {url} could not be downloaded ({reason}). Fetch it by hand and put it into {path.parent}, "
                "or set init_from.weights to where it lies."
            )
        self.state, self.origin, self.class_names = read(self.source)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.source is not None and trainer.ckpt_path is None:
            line = self.begin(pl_module)
            if trainer.is_global_zero:
                print(line, flush=True)
        self.state = {}

    def begin(self, module: LightningModule) -> str:
        """Put the weights in place; returns what is to be told."""
        assert self.source is not None
        match = self._matched(module)
        refuse(module, match.taken.keys())
        module.load_state_dict(match.taken, strict=False)
        whole = self.source.parts == {WHOLE: WHOLE}
        found = {"taken": len(match.taken), "of": len(module.state_dict()), "other_shape": match.other_shape,
                 "not_there": match.not_there, "unused": match.unused}  # fmt: skip
        begun = {"classes": it} if (it := said(module, "begun")) else {}
        self.inputs["init_from"] = self.origin | ({} if whole else {"parts": dict(self.source.parts)}) | found | begun
        return told_in_a_line(self.inputs["init_from"])

    def _matched(self, module: LightningModule) -> Match:
        assert self.source is not None
        return matched(self.source, self.state, self.origin, module, self.class_names)


def refuse(module: LightningModule, taken: Iterable[str]) -> None:
    if reason := said(module, "refuses_to_begin")(set(taken)):
        raise UserError(reason)


# --- where weights come from -------------------------------------------------------------------------------------


def source_of(asked: str | Mapping[str, Any] | None) -> Source | None:
    """A text means a run where it names a folder of one, else weights; None where nothing is asked."""
    if asked is None:
        return None
    if isinstance(asked, str):
        is_run = Path(asked).is_dir() and not (Path(asked) / CONFIG).is_file()
        asked = {"run" if is_run else "weights": asked}
    run, weights, parts = (asked.get(it) for it in ("run", "weights", "parts"))
    if run and weights:
        raise UserError(f"init_from names a run, {run}, and weights, {weights}: leave one of them out.")
    if not run and not weights:
        raise UserError("init_from names neither a run nor weights: give one of them, or init_from=null.")
    if parts is not None and not parts:
        raise UserError("init_from.parts is empty: name parts of the module, or null for all that is there.")
    named = parts if isinstance(parts, Mapping) else {it: it for it in parts or [WHOLE]}
    if not all(isinstance(it, str) and it for pair in named.items() for it in pair):
        raise UserError(f"init_from.parts is {parts}: name parts of the module, each with a part there.")
    source = Source(run, weights, asked.get("checkpoint", "last"), named)
    if weights and Path(weights).is_dir():
        return replace(source, weights=str(safetensors_in(Path(weights))))
    if weights and source.url is None and not source.path.is_file():
        raise UserError(
            f"init_from: there is neither a run nor a file {weights}. Weights of torchvision are named as "
            "torchvision:resnet50/IMAGENET1K_V1."
        )
    return source


def safetensors_in(folder: Path) -> Path:
    """The weights of a folder as the Hub has them."""
    if (path := folder / SAFETENSORS).is_file():
        return path
    pickled = sorted(it.name for it in folder.glob("*.bin"))
    hint = f" Its {pickled[0]} can be named itself: it is read as tensors, nothing in it runs." if pickled else ""
    raise UserError(f"init_from: {folder} is no run, and has no {SAFETENSORS} as a folder from the Hub does.{hint}")


def config_of(source: Source) -> dict[str, Any] | None:
    """What stands beside weights: a run's own config of its module, or a released file's."""
    if source.run is None:
        return config_beside(source.path)
    with places_alone():
        return plain(run_config(source.run)).get("lightning_module")


def config_beside(path: Path) -> dict[str, Any] | None:
    """What a released file of weights says of its sizes; None where nothing lies beside it."""
    if not (file := path.parent / CONFIG).is_file():
        return None
    try:
        found = json.loads(file.read_text())
    except ValueError as reason:
        raise UserError(f"init_from: {file} is no JSON ({reason}): download it once more.") from None
    if not isinstance(found, dict):
        raise UserError(f"init_from: {file} holds no config: download it once more.")
    return found


def published(name: str) -> Any:
    """torchvision's own description of ``resnet50/IMAGENET1K_V1`` or ``ResNet50_Weights.IMAGENET1K_V1``."""
    model, slash, weights = name.partition("/")
    if not slash:
        try:
            return get_weight(name)
        except (ValueError, KeyError, AttributeError):
            raise UserError(
                f"init_from: torchvision has no weights '{name}'; name them as torchvision:resnet50/IMAGENET1K_V1 or "
                "torchvision:ResNet50_Weights.IMAGENET1K_V1."
            ) from None
    known = list_models()
    if model not in known:
        raise UserError(f"init_from: torchvision has no model '{model}'; {did_you_mean(model, known)}")
    choices: Any = get_model_weights(model)
    if weights not in choices.__members__:
        hint = did_you_mean(weights, choices.__members__)
        raise UserError(f"init_from: torchvision has no weights '{weights}' of {model}; {hint}")
    return choices[weights]


def read(source: Source) -> tuple[dict[str, Tensor], Origin, list[str] | None]:
    """Weights by their names there, what a record says of where they come from, and the names of their classes."""
    try:
        if source.run is not None:
            origin, content = origin_of_checkpoint(source.run, source.checkpoint)
            names = names_in(content)
            return finite(content["state_dict"], origin["run"]), origin | weights_of(content), names
        if source.url is not None:
            check_hash(source.url, source.path)
        state, names = state_in(source.path)
    except UserError as mistake:
        raise UserError(f"init_from: {mistake}") from None
    return state, {"file": source.path.name, "weights_sha256": fingerprint(state)}, names


def names_in(content: Any) -> list[str] | None:
    """Of the classes, where a checkpoint says them."""
    names = content.get("class_names") if isinstance(content, Mapping) else None
    return names if isinstance(names, list) and all(isinstance(it, str) for it in names) else None


def state_in(path: Path) -> tuple[dict[str, Tensor], list[str] | None]:
    """The tensors of a file by their names, and the names of its classes. Nothing in it is executed."""
    if path.suffix == ".safetensors":
        if find_spec("safetensors") is None:
            raise UserError(f"{path} needs a package that is not installed: pip install safetensors")
        from safetensors import SafetensorError
        from safetensors.torch import load_file  # pyright: ignore[reportMissingImports]

        try:
            state = load_file(path)
        except (SafetensorError, ValueError, KeyError) as reason:
            raise UserError(f"{path} cannot be read ({reason}): the file is truncated or no safetensors.") from None
        return finite(state, path), None
    content = load_plain(path)
    names = names_in(content)
    if isinstance(content, Mapping):
        content = next((content[it] for it in NESTED if isinstance(content.get(it), Mapping)), content)
    state = {name: it for name, it in content.items() if isinstance(it, Tensor)} if isinstance(content, Mapping) else {}
    if not state:
        raise UserError(f"{path} holds no weights by their names: give a state_dict or a checkpoint.")
    return finite(state, path), names


def finite(state: dict[str, Tensor], source: Any) -> dict[str, Tensor]:
    if bad := [name for name, it in state.items() if not bool(it.isfinite().all())]:
        raise UserError(f"{source} has weights that are not finite, such as {bad[0]}: nothing can begin there.")
    return state


# --- what of a module begins there -------------------------------------------------------------------------------


def matched(
    source: Source, state: Mapping[str, Tensor], origin: Origin, module: LightningModule,
    class_names: Sequence[str] | None = None,
) -> Match:  # fmt: skip
    """Raises a UserError where a part does not exist, or nothing of one begins there. class_names: of the weights."""
    own = {name: it for name, it in module.state_dict().items() if isinstance(it, Tensor)}
    state = said(module, "from_elsewhere")(dict(state), config_of(source))
    if source.parts == {WHOLE: WHOLE}:
        state = {own_name(name, own, said(module, "initial_prefixes")): it for name, it in state.items()}
    match = Match()
    for part, other in source.parts.items():
        here, there = below(part, own), below(other, state)
        for names, word, owner in ((own, part, type(module).__name__), (state, other, name_of(origin))):
            if not below(word, names):
                raise UserError(f"init_from.parts: {no_such_part(word, names, owner)}")
        named = {here[rest]: state[there[rest]] for rest in here if rest in there}
        given = said(module, "adopted")(named, origin.get("file", ""), class_names)
        fitting = {name: it for name, it in given.items() if it.shape == own[name].shape}
        if not fitting:
            raise UserError(nothing_begins(source, part, other, own, state, module, origin))
        match.taken |= fitting
        match.other_shape |= {
            name: [list(own[name].shape), list(it.shape)] for name, it in given.items() if name not in fitting
        }
        match.not_there += [here[rest] for rest in here if rest not in there]
        counted = ("num_batches_tracked",)  # of batch norm, which a frozen one does not keep
        match.unused += [there[rest] for rest in there if rest not in here and not rest.endswith(counted)]
    return match


def own_name(name: str, own: Mapping[str, Tensor], prefixes: Iterable[tuple[str, str]]) -> str:
    """What the module calls the weight of that name elsewhere; the same name where it has none like it."""
    like_it = (here + name.removeprefix(there) for there, here in prefixes if name.startswith(there))
    return next((it for it in (name, *like_it) if it in own), name)


def below(part: str, names: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of a part's weights by what follows the part."""
    if part == WHOLE:
        return {name: name for name in names}
    return {name[len(part) + 1 :]: name for name in names if name == part or name.startswith(f"{part}.")}


def nothing_begins(
    source: Source, part: str, other: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor],
    module: LightningModule, origin: Origin,
) -> str:  # fmt: skip
    """Why, and the two parts that have the most in common."""
    where = f"of {type(module).__name__}" if part == WHOLE else f"of {type(module).__name__}'s {part}"
    there = name_of(origin) if other == WHOLE else f"{name_of(origin)}'s {other}"
    sentence = f"init_from: no weight {where} begins with those of {there}: none has a name and shape of there"
    pairs = Counter(
        (one, another)
        for rest, these in by_rest(own).items()
        for one, shape in these
        for another, other_shape in by_rest(state).get(rest, [])
        if shape == other_shape
    )
    if not pairs:
        return f"{sentence}."
    (one, another), count = pairs.most_common(1)[0]
    key = "run" if source.run else "weights"
    asked = f"init_from={{{key}: {source.run or source.weights}, parts: {{{one}: {another}}}}}"
    return f"{sentence}. {count} weights would by {asked}"


def by_rest(names: Mapping[str, Tensor], deepest: int = 3) -> dict[str, list[tuple[str, torch.Size]]]:
    """For each end of a name the parts that have it: for ``net.fc.bias`` also ``net`` under ``fc.bias``."""
    found: dict[str, list[tuple[str, torch.Size]]] = {}
    for name, it in names.items():
        words = name.split(".")
        for depth in range(min(len(words) - 1, deepest) + 1):
            part = ".".join(words[:depth]) or WHOLE
            found.setdefault(".".join(words[depth:]), []).append((part, it.shape))
    return found


# --- what is told ------------------------------------------------------------------------------------------------


def name_of(origin: Origin) -> str:
    return origin.get("file") or f"the run {origin['run']}"


def told_in_a_line(found: Origin) -> str:
    shapes = [f"{name} {here} here and {there} there" for name, (here, there) in found["other_shape"].items()]
    left = {"of another shape": shapes, "not there": found["not_there"], "there and unused": found["unused"]}
    told = [f"{len(names)} {why} ({in_short(names)})" for why, names in left.items() if names]
    begun = f"init_from: {found['taken']} of {found['of']} weights begin with those of {name_of(found)}"
    classes = [found["classes"]] if "classes" in found else []
    return "; ".join([begun, *classes, *told]) + "."


def in_short(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
