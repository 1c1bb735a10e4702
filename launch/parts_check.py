"""Do the built parts of a job fit one another? Asked before anything is downloaded or trained."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from foundation.errors import UserError, did_you_mean
from foundation.protocols import capabilities_of, members_of, serves

STAGES = ("train", "val", "test")
NAMED = 10  # classes in a sentence


def check_run(
    config: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Any], trainer: Any, trains: bool = True
) -> None:
    """Shapes, capabilities, watched metrics and batch sizes of the built parts of a job."""
    problems = [
        *unkept_promises(module),
        *unfit_inputs(module, datamodule),
        *unfit_shapes(module, datamodule),
        *unfit_tokens(module, datamodule),
        *unfit_classes(module, datamodule),
        *unfit_callbacks(config, module, callbacks),
        *unfit_judges(config, module, callbacks),
        *unfit_averages(config, module, callbacks),
        *unfit_data(config, datamodule, callbacks),
        *unlabelled(config, module, datamodule, callbacks),
        *unfit_streams(module, datamodule),
        *unfit_metrics(config, module, datamodule, callbacks),
        *(uncut_batches(datamodule, trainer) if trains else []),
        *unfit_trainer(config, module, trainer),
        *unfit_optimizers(module, trainer),
    ]
    if problems:
        raise UserError("\n".join(problems))


def unkept_promises(module: Any) -> Iterator[str]:
    """Protocols that ``capabilities()`` names although the module lacks what they ask for."""
    for protocol in sorted(capabilities_of(module), key=lambda it: it.__name__):
        if lacking := sorted(name for name in members_of(protocol) if not hasattr(module, name)):
            yield (
                f"{type(module).__name__} says that it is {protocol.__name__} and has no {', '.join(lacking)}: add "
                f"{'it' if len(lacking) == 1 else 'them'}, as foundation/protocols.py says, or change capabilities()."
            )


def unfit_inputs(module: Any, datamodule: Any) -> Iterator[str]:
    """Images where token ids are read, and the reverse."""
    reads, holds = kind_of_input(module), kind_of_input(datamodule)
    if reads and holds and reads != holds:
        yield (
            f"{type(module).__name__} reads {reads}, and datamodule {datamodule.name} gives {holds}: choose a "
            f"datamodule of {reads} or another lightning_module."
        )
    required = getattr(module, "requires_data", None)
    if required is not None and not isinstance(datamodule, required):
        yield (
            f"{type(module).__name__} needs a datamodule that is {required.__name__}, which {datamodule.name} is not: "
            "choose another datamodule."
        )


def kind_of_input(part: Any) -> str | None:
    """What a module reads or a DataModule gives, told by the sizes that it names; None where it names none."""
    if getattr(part, "vocabulary_size", None):
        return "token ids"
    return "images" if getattr(part, "image_shape", None) else None


def unfit_shapes(module: Any, datamodule: Any) -> Iterator[str]:
    wanted, given = getattr(module, "image_shape", None), getattr(datamodule, "image_shape", None)
    if wanted and given is None and hasattr(datamodule, "image_shape"):
        yield (
            f"The module is built for images of (channels, height, width) {tuple(wanted)}, but those of datamodule "
            f"{datamodule.name} have sizes of their own: choose another datamodule."
        )
    if wanted and given and tuple(wanted) != tuple(given):
        yield (
            f"The module is built for images of (channels, height, width) {tuple(wanted)}, but datamodule "
            f"{datamodule.name} gives {tuple(given)}: choose another datamodule or change the networks' sizes."
        )


def unfit_tokens(module: Any, datamodule: Any) -> Iterator[str]:
    """Token ids and texts that a module's tables have no rows for. Rows that no token uses do no harm."""
    units = {"vocabulary_size": ("token ids below", "vocabulary"), "max_length": ("texts of up to", "longest text")}
    for key, (what, name) in units.items():
        most, given = getattr(module, key, None), getattr(datamodule, key, None)
        if most and given and given > most:
            yield (
                f"{type(module).__name__} reads {what} {most}, and datamodule {datamodule.name}'s {name} has {given} "
                f"tokens: set the network's {key} to {given} or more, or choose a smaller datamodule.{key}."
            )


def unfit_classes(module: Any, datamodule: Any) -> Iterator[str]:
    told, given = getattr(module, "num_classes", None), getattr(datamodule, "num_classes", None)
    if told and given and told != given:
        names = [str(it) for it in getattr(datamodule, "class_names", None) or ()]
        named = f" ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})" if names else ""
        yield (
            f"The module tells {told} classes apart, and datamodule {datamodule.name} has {given}{named}: set the "
            f"network's num_classes to {given} or choose another datamodule."
        )


def unfit_callbacks(config: Mapping[str, Any], module: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        required = getattr(callback, "requires", None)
        if required is not None and not serves(module, required):
            yield (
                f"callbacks.{name} needs a module that is {required.__name__}, which {type(module).__name__} is not "
                f"as configured: remove it with ~callbacks.{name}"
            )


def unfit_judges(config: Mapping[str, Any], module: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """Callbacks that cannot look at the module's images."""
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        reason = callback.refusal(module) if hasattr(callback, "refusal") else None
        if reason is not None:
            yield f"callbacks.{name} cannot judge {type(module).__name__}: {reason}. Name another judge, or none."


def unfit_averages(config: Mapping[str, Any], module: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """Parts to be averaged that the module has not."""
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        own = dict(module.named_children())
        if unknown := set(getattr(callback, "parts", None) or []) - own.keys():
            yield (
                f"callbacks.{name}.parts names {', '.join(sorted(unknown))}, which {type(module).__name__} has not: "
                f"choose among {', '.join(own)}."
            )


def unfit_data(config: Mapping[str, Any], datamodule: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """Callbacks whose ``requires_data`` the DataModule does not serve."""
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        required = getattr(callback, "requires_data", None)
        if required is not None and not isinstance(datamodule, required):
            yield (
                f"callbacks.{name} needs a datamodule that is {required.__name__}, which {datamodule.name} is not: "
                f"remove it with ~callbacks.{name}"
            )


def unlabelled(config: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """What says ``needs_labels`` beside data without (``num_classes`` is None)."""
    if getattr(datamodule, "num_classes", 0) is not None:
        return
    reason = getattr(datamodule, "lack_of_labels", None)
    data = f"labels, and datamodule {datamodule.name} has none as configured{f', since {reason}' if reason else ''}"
    if getattr(module, "needs_labels", False):
        yield f"{type(module).__name__} needs {data}: choose another datamodule."
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        if getattr(callback, "needs_labels", False):
            yield f"callbacks.{name} needs {data}: remove it with ~callbacks.{name}"


def unfit_streams(module: Any, datamodule: Any) -> Iterator[str]:
    """A module that learns from few labels and many images says ``needs_streams``; ``num_labels`` makes them."""
    num_labels = getattr(datamodule, "num_labels", None)
    if not getattr(module, "needs_streams", False):
        if num_labels is not None:
            yield (
                f"datamodule.num_labels={num_labels} makes streams of labelled and unlabelled images, which "
                f"{type(module).__name__} does not learn from: set datamodule.num_labels=null."
            )
    elif num_labels is None:
        yield (
            f"{type(module).__name__} learns from few labels and many images: set datamodule.num_labels to the number "
            "of labels, 0 for none, of a datamodule of images."
        )
    elif num_labels == 0 and getattr(module, "needs_labels", False):
        yield (
            f"datamodule.num_labels=0 leaves {type(module).__name__} no labels: choose more, or set "
            "lightning_module.labelled_weight=0."
        )


def declared_metrics(module: Any, datamodule: Any, callbacks: Sequence[Any]) -> set[str]:
    """Every key that a run will log; none of ``val/`` where no validation data is set aside."""
    stages = [stage for stage in STAGES if stage != "val" or getattr(datamodule, "val_size", 1) > 0]
    speakers = [it for it in (module, *callbacks) if hasattr(it, "metrics")]
    keys = set().union(*(speaker.metrics(stage) for speaker in speakers for stage in stages))
    of_modules = [it for it in callbacks if hasattr(it, "metrics_of")]  # whose keys depend on the module
    return keys.union(*(it.metrics_of(module, stage) for it in of_modules for stage in stages))


def unfit_metrics(config: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    watched = {
        "optimized_metric": config.get("optimized_metric"),
        "paper.metric": (config.get("paper") or {}).get("metric"),
    }
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        monitor = watched[f"callbacks.{name}.monitor"] = getattr(callback, "monitor", None)
        if monitor is not None and monitor.startswith("test/"):
            yield (
                f"callbacks.{name}.monitor is {monitor}, which is measured after training: name a val/ metric, with "
                "datamodule.val_size above 0."
            )
    declared = declared_metrics(module, datamodule, callbacks)
    lacking = [it for it in callbacks if getattr(it, "lack", None)]
    missing = {metric: it.lack for it in lacking for stage in STAGES for metric in it.left_out(stage)}
    for key, metric in watched.items():
        if metric is None or metric in declared or (key == "paper.metric" and metric in missing):
            continue
        if metric in missing:
            yield f"{key} is {metric}, which is left out here: {missing[metric]}."
            continue
        if metric.startswith("val/") and getattr(datamodule, "val_size", 1) == 0:
            yield f"{key} is {metric}, but datamodule.val_size=0 leaves no validation: set datamodule.val_size above 0."
        else:
            hint = did_you_mean(metric, declared)
            yield f"{key} is {metric}, which nothing in this run logs: name another or set {key}=null; {hint}"


def uncut_batches(datamodule: Any, trainer: Any) -> Iterator[str]:
    """Of training alone: evaluation is cut unevenly."""
    batch_size, ranks = getattr(datamodule, "batch_size", None), trainer.world_size
    if batch_size is not None and batch_size % ranks:
        near = max(batch_size // ranks, 1) * ranks
        yield (
            f"datamodule.batch_size={batch_size} is the global batch and cannot be cut among {ranks} ranks: "
            f"choose a multiple of {ranks}, such as {near}."
        )


def unfit_trainer(config: Mapping[str, Any], module: Any, trainer: Any) -> Iterator[str]:
    if trainer.max_steps == -1 and trainer.max_epochs in (None, -1) and not config["trainer"].get("max_time"):
        yield "Nothing says how long to train: set trainer.max_steps."
    if trainer.log_every_n_steps < 1:
        yield f"trainer.log_every_n_steps is {trainer.log_every_n_steps}: give 1 or more."
    if trainer.overfit_batches:
        yield "trainer.overfit_batches would replace the project's sampler: use trainer.limit_train_batches instead."
    if (norm := getattr(module, "gradient_clip_norm", None)) is not None and norm <= 0:
        yield f"lightning_module.gradient_clip_norm is {norm}: give a norm above 0, or null to leave gradients alone."
    if not module.automatic_optimization:
        if trainer.gradient_clip_val:
            yield "trainer.gradient_clip_val has no effect on this module: set lightning_module.gradient_clip_norm."
        if trainer.accumulate_grad_batches != 1:
            yield "trainer.accumulate_grad_batches has no effect on this module: set datamodule.batch_size."


def unfit_optimizers(module: Any, trainer: Any) -> Iterator[str]:
    """Optimisers and schedules are partial nodes, whose values only their making judges."""
    try:
        made = module.configure_optimizers()
    except (ValueError, TypeError) as error:
        yield f"lightning_module's optimisers or schedule cannot be made: {error}."
        return
    optimizers = made[0] if isinstance(made, tuple) else []
    clipped = getattr(module, "gradient_clip_norm", None) is not None
    if clipped and trainer.precision == "16-mixed" and any(it.defaults.get("fused") for it in optimizers):
        yield (
            "A fused optimizer unscales 16-bit gradients inside its step, after they would be clipped: set "
            "trainer.precision=bf16-mixed, or lightning_module.gradient_clip_norm=null, or fused to false in "
            "lightning_module's optimizers."
        )
