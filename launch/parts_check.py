"""Do the built parts of a job fit one another? Asked before anything is downloaded or trained."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.nn import BatchNorm1d
from torch.nn.parameter import UninitializedParameter as Lazy

from foundation.errors import UNFIT_VALUES, UserError, did_you_mean, in_one_line
from foundation.metrics import IN_WORDS, STAGES, Direction
from foundation.protocols import capabilities_of, declared_metrics, members_of, said, serves
from foundation.published import chosen, key_for, key_in
from launch.inputs import of_another_split
from launch.length_check import OF_SCHEDULE, monitors_of_validation, unfit_lengths

NAMED = 10  # classes in a sentence


def check_run(
    config: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Any], trainer: Any, trains: bool = True
) -> None:
    """Shapes, capabilities, watched metrics and batch sizes of the built parts of a job."""
    unfit = [*unkept_promises(module), *unfit_callbacks(config, module, callbacks), *empty_weights(module)]
    problems = [
        *unfit,
        *unfit_inputs(module, datamodule),
        *unfit_shapes(module, datamodule),
        *unfit_points(module, datamodule),
        *unfit_tokens(module, datamodule),
        *unfit_classes(config, module, datamodule),
        *unfit_averages(config, module, callbacks),
        *unfit_data(config, datamodule, callbacks),
        *unlabelled(config, module, datamodule, callbacks),
        *unfit_streams(module, datamodule),
        *unfit_proposals(module, datamodule),
        *of_another_split(config, datamodule, trains),
        *unfit_trainer(config, module, trainer),
    ]
    if not unfit:  # what callbacks say of a module rests on what they require of it
        problems += [
            *unfit_judges(config, module, callbacks),
            *unfit_metrics(config, module, datamodule, callbacks),
        ]
    if trains:
        problems += [
            *unfit_lengths(config, trainer, monitors_of_validation(config, callbacks)),
            *uncut_batches(datamodule, trainer),
            *unfit_micro_batches(module, datamodule, trainer),
            *unfit_optimizers(module, trainer),
            *([] if unfit else unfit_schedule(config, module, datamodule, callbacks)),
        ]
    if problems:
        raise UserError("\n".join(problems))


def unkept_promises(module: Any) -> Iterator[str]:
    """Protocols that ``capabilities()`` names although the module lacks what they ask for."""
    for protocol in sorted(capabilities_of(module), key=lambda it: it.__name__):
        if lacking := sorted(name for name in members_of(protocol) if not hasattr(module, name)):
            yield (
                f"{type(module).__name__} says that it is {protocol.__name__} and has no {', '.join(lacking)}: add "
                f"{'it' if len(lacking) == 1 else 'them'}, as foundation/protocols/ says, or change capabilities()."
            )


def empty_weights(module: Any) -> Iterator[str]:
    """Parts that compute nothing, which a size of 0 makes."""
    empty = [(name, it) for name, it in module.named_parameters() if not isinstance(it, Lazy) and it.numel() == 0]
    for name, parameter in empty[:1]:
        yield (
            f"lightning_module has no weights in {name}, of shape {tuple(parameter.shape)}: give every width and every "
            "number of channels and classes as 1 or more."
        )


def unfit_inputs(module: Any, datamodule: Any) -> Iterator[str]:
    """Images where token ids are read, points where images are, and the like."""
    reads, holds = kind_of_input(module), kind_of_input(datamodule)
    if reads and holds and reads != holds:
        yield (
            f"{type(module).__name__} reads {reads}, and datamodule {datamodule.name} gives {holds}: choose a "
            f"datamodule of {reads} or another lightning_module."
        )
    required = said(module, "requires_data")
    if required is not None and not isinstance(datamodule, required):
        yield (
            f"{type(module).__name__} needs a datamodule that is {required.__name__}, which {datamodule.name} is not: "
            "choose another datamodule."
        )


def kind_of_input(part: Any) -> str | None:
    """What a module reads or a DataModule gives, told by the sizes that it names; None where it names none."""
    if said(part, "vocabulary_size"):
        return "token ids"
    if said(part, "point_size"):
        return "points"
    return "images" if said(part, "image_shape") else None


def unfit_shapes(module: Any, datamodule: Any) -> Iterator[str]:
    wanted, given = said(module, "image_shape"), said(datamodule, "image_shape")
    if wanted and given is None:
        yield (
            f"The module is built for images of (channels, height, width) {tuple(wanted)}, but those of datamodule "
            f"{datamodule.name} have sizes of their own: choose another datamodule."
        )
    if wanted and given and tuple(wanted) != tuple(given):
        yield (
            f"The module is built for images of (channels, height, width) {tuple(wanted)}, but datamodule "
            f"{datamodule.name} gives {tuple(given)}: choose another datamodule or change the networks' sizes."
        )


def unfit_points(module: Any, datamodule: Any) -> Iterator[str]:
    wanted, given = said(module, "point_size"), said(datamodule, "point_size")
    if wanted and given and wanted != given:
        yield (
            f"The module is built for points of {wanted} coordinates, but datamodule {datamodule.name} gives {given}: "
            "choose another datamodule or change the network's sizes."
        )


def unfit_tokens(module: Any, datamodule: Any) -> Iterator[str]:
    """Token ids and texts that a module's tables have no rows for. Rows that no token uses do no harm."""
    units = {
        "vocabulary_size": ("token ids below", "vocabulary"),
        "target_vocabulary_size": ("target ids below", "target vocabulary"),
        "max_length": ("texts of up to", "longest text"),
    }
    for key, (what, name) in units.items():
        most, given = said(module, key), said(datamodule, key)
        if most and given and given > most:
            smaller = f", or choose a smaller datamodule.{key}" if key == "max_length" else ""
            yield (
                f"{type(module).__name__} reads {what} {most}, and datamodule {datamodule.name}'s {name} has {given} "
                f"tokens: set the network's {key} to {given} or more{smaller}."
            )


def unfit_classes(config: Mapping[str, Any], module: Any, datamodule: Any) -> Iterator[str]:
    told, given = said(module, "num_classes"), said(datamodule, "num_classes")
    if told and given and told != given:
        names = [str(it) for it in said(datamodule, "class_names") or ()]
        named = f" ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''})" if names else ""
        keys = list(keys_of("num_classes", config.get("lightning_module"), "lightning_module"))
        cure = f"set {' and '.join(f'{key}={given}' for key in keys)}" if keys else "choose another network"
        yield (
            f"The module tells {told} classes apart, and datamodule {datamodule.name} has {given}{named}: {cure}, or "
            "choose another datamodule."
        )


def keys_of(name: str, node: Any, above: str) -> Iterator[str]:
    """Where in a config keys of that name stand."""
    for key, below in node.items() if isinstance(node, Mapping) else ():
        if key == name:
            yield f"{above}.{key}"
        yield from keys_of(name, below, f"{above}.{key}")


def unfit_callbacks(config: Mapping[str, Any], module: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        required = said(callback, "requires")
        if required is not None and not serves(module, required):
            yield (
                f"callbacks.{name} needs a module that is {required.__name__}, which {type(module).__name__} is not "
                f"as configured: remove it with ~callbacks.{name}"
            )


def unfit_judges(config: Mapping[str, Any], module: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """Callbacks that cannot look at the module's images."""
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        reason = said(callback, "refusal")(module)
        if reason is not None:
            yield f"callbacks.{name} cannot judge {type(module).__name__}: {reason}. Name another judge, or none."


def unfit_averages(config: Mapping[str, Any], module: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """Parts to be averaged that the module has not."""
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        own = dict(module.named_children())
        if unknown := set(said(callback, "averaged_parts") or []) - own.keys():
            yield (
                f"callbacks.{name}.parts names {', '.join(sorted(unknown))}, which {type(module).__name__} has not: "
                f"choose among {', '.join(own)}."
            )


def unfit_data(config: Mapping[str, Any], datamodule: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """Callbacks whose ``requires_data`` the DataModule does not serve."""
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        required = said(callback, "requires_data")
        if required is not None and not isinstance(datamodule, required):
            yield (
                f"callbacks.{name} needs a datamodule that is {required.__name__}, which {datamodule.name} is not: "
                f"remove it with ~callbacks.{name}"
            )


def unlabelled(config: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """What says ``needs_labels`` beside data without (``num_classes`` is None)."""
    if said(datamodule, "num_classes") is not None:
        return
    reason = said(datamodule, "unlabelled_because")
    data = f"labels, and datamodule {datamodule.name} has none as configured{f', since {reason}' if reason else ''}"
    if said(module, "needs_labels"):
        yield f"{type(module).__name__} needs {data}: choose another datamodule."
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        if said(callback, "needs_labels"):
            yield f"callbacks.{name} needs {data}: remove it with ~callbacks.{name}"


def unfit_proposals(module: Any, datamodule: Any) -> Iterator[str]:
    """A module that proposes nothing itself beside data that give no proposals either, and proposals for nobody."""
    given = said(datamodule, "proposals") is not None
    if said(module, "needs_proposals") and not given:
        yield (
            f"{type(module).__name__} has no RPN as configured and looks at regions that come with the images: set "
            '"datamodule.proposals={_target_: launch.runs.load_proposals, run: <folder>}" to a run that has saved some.'
        )
    if given and not said(module, "takes_proposals"):
        yield (
            f"{type(module).__name__} as configured looks at no regions that come with the images, since its heads are "
            "null or fixed: set datamodule.proposals=null."
        )


def unfit_streams(module: Any, datamodule: Any) -> Iterator[str]:
    """A module that learns from few labels and many images says ``needs_streams``; ``num_labels`` makes them."""
    num_labels = said(datamodule, "num_labels")
    if not said(module, "needs_streams"):
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
    elif num_labels == 0 and said(module, "needs_labels"):
        yield (
            f"datamodule.num_labels=0 leaves {type(module).__name__} no labels: choose more, or set "
            "lightning_module.labelled_weight=0."
        )


def unfit_metrics(config: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """Metrics that somebody goes by and nobody logs, or that have no better; and who takes the worse for the better."""
    named = dict(zip(config["callbacks"], callbacks, strict=True))
    monitors = {f"callbacks.{name}.monitor": said(it, "monitor") for name, it in named.items()}
    goes_by = {"optimized_metric": config.get("optimized_metric"), **monitors}
    told = {"paper.metric": (config.get("paper") or {}).get("metric")}
    for key, metric in monitors.items():
        if metric is not None and metric.startswith("test/"):
            yield (
                f"{key} is {metric}, which is measured after training: name a val/ metric, with datamodule.val_size "
                "above 0."
            )
    declared = metrics_of_run(module, datamodule, callbacks)
    missing = {
        metric: said(it, "unavailable_because")
        for it in callbacks
        for stage in STAGES
        for metric in said(it, "unavailable_metrics")(module, stage)
    }
    for key, metric in (goes_by | told).items():
        if metric is None or (key in told and (metric in missing or key_in(declared, metric) in declared)):
            continue  # of what is told: left out, or measured on other examples
        if metric not in declared:
            yield unlogged(key, metric, declared, missing, datamodule)
        elif key in goes_by and declared[metric] is None:
            yield (
                f"{key} is {metric}, of which neither larger nor smaller is better: name another, or set {key}=null."
            )
    for name, callback in named.items():
        yield from against_direction(f"callbacks.{name}", callback, declared)


def unfit_schedule(config: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    """A schedule that goes by what nobody measures, or by that of which larger is better."""
    metric = chosen(config, OF_SCHEDULE)
    if metric is None:
        return
    told = {f"train/{name}" for name in said(module, "training_figures")()}
    declared = metrics_of_run(module, datamodule, callbacks)
    if metric not in told and not (metric.startswith("val/") and metric in declared):
        known = {it for it in declared if it.startswith("val/")} | told
        without = metric.startswith("val/") and said(datamodule, "val_size") == 0
        cure = "set datamodule.val_size above 0, or name one of train/." if without else did_you_mean(metric, known)
        yield f"{OF_SCHEDULE} is {metric}, by which no schedule of this run can go: {cure}"
    elif declared.get(metric, "min") != "min":
        yield f"{OF_SCHEDULE} is {metric}, of which smaller is not better: name one of which it is, such as an error."


def metrics_of_run(module: Any, datamodule: Any, callbacks: Sequence[Any]) -> dict[str, Direction]:
    """Every key that a run will log; none of ``val/`` where no validation data is set aside."""
    stages = [stage for stage in STAGES if stage != "val" or said(datamodule, "val_size") > 0]
    declared = declared_metrics(module, callbacks, stages)
    return {key_for(key, datamodule): direction for key, direction in declared.items()}


def unlogged(key: str, metric: str, declared: Mapping[str, Any], missing: Mapping[str, str], datamodule: Any) -> str:
    if metric in missing:
        return f"{key} is {metric}, which is left out here: {missing[metric]}."
    if metric.startswith("val/") and said(datamodule, "val_size") == 0:
        return f"{key} is {metric}, but datamodule.val_size=0 leaves no validation: set datamodule.val_size above 0."
    hint = did_you_mean(metric, declared)
    return f"{key} is {metric}, which nothing in this run logs: name another or set {key}=null; {hint}"


def against_direction(name: str, callback: Any, declared: Mapping[str, Direction]) -> Iterator[str]:
    """A mode that keeps the worst. One that is left open follows the metric."""
    metric, mode = said(callback, "monitor"), said(callback, "mode")
    better = declared.get(metric)
    if mode is not None and better is not None and mode != better:
        yield (
            f"{name}.mode is {mode}, and of {metric} the {IN_WORDS[better]}: set {name}.mode={better}, or null, which "
            "follows the metric."
        )


def uncut_batches(datamodule: Any, trainer: Any) -> Iterator[str]:
    """Of training alone: evaluation is cut unevenly."""
    batch_size, ranks = said(datamodule, "batch_size"), trainer.world_size
    if batch_size is not None and batch_size % ranks:
        near = max(batch_size // ranks, 1) * ranks
        yield (
            f"datamodule.batch_size={batch_size} is the global batch and cannot be cut among {ranks} ranks: "
            f"choose a multiple of {ranks}, such as {near}."
        )


def unfit_micro_batches(module: Any, datamodule: Any, trainer: Any) -> Iterator[str]:
    """A part of a batch that the ranks cannot share, or that leaves batch norm nothing to normalise by."""
    size, ranks = said(module, "micro_batch_size"), trainer.world_size
    examples = (said(datamodule, "batch_size") or 0) // ranks
    if size is None or not examples:
        return
    key = f"lightning_module.micro_batch_size={size}"
    if size % ranks:
        near = max(size // ranks, 1) * ranks
        yield f"{key} is of {ranks} ranks and cannot be cut among them: choose a multiple of {ranks}, such as {near}."
        return
    smallest = examples // -(-examples // (size // ranks))
    if smallest == 1 < examples and any(isinstance(it, BatchNorm1d) for it in module.modules()):
        yield f"{key} leaves parts of one example on a rank, which batch norm cannot normalise: choose a larger one."


def unfit_trainer(config: Mapping[str, Any], module: Any, trainer: Any) -> Iterator[str]:
    if config["trainer"].get("num_nodes", 1) > 1 and not is_started_on_several():
        yield (
            f"trainer.num_nodes={config['trainer']['num_nodes']} waits for the other machines for ever when it is "
            "started by hand on one: start it on each with torchrun or srun, as docs/running.md says."
        )
    if trainer.log_every_n_steps < 1:
        yield f"trainer.log_every_n_steps is {trainer.log_every_n_steps}: give 1 or more."
    if trainer.overfit_batches:
        yield "trainer.overfit_batches would replace the project's sampler: use trainer.limit_train_batches instead."
    if (norm := said(module, "gradient_clip_norm")) is not None and norm <= 0:
        yield f"lightning_module.gradient_clip_norm is {norm}: give a norm above 0, or null to leave gradients alone."
    if not module.automatic_optimization:
        if trainer.gradient_clip_val:
            yield "trainer.gradient_clip_val has no effect on this module: set lightning_module.gradient_clip_norm."
        if trainer.accumulate_grad_batches != 1:
            yield (
                "trainer.accumulate_grad_batches has no effect on this module: set datamodule.batch_size to the whole "
                "batch, and lightning_module.micro_batch_size to what fits into memory."
            )


def is_started_on_several() -> bool:
    """Whether torchrun, SLURM or a person by hand has said where the first machine is."""
    return any(os.environ.get(it) for it in ("MASTER_ADDR", "SLURM_JOB_ID", "OMPI_COMM_WORLD_SIZE", "LSB_JOBID"))


def unfit_optimizers(module: Any, trainer: Any) -> Iterator[str]:
    """Optimisers and schedules are partial nodes, whose values only their making judges."""
    try:
        made = module.configure_optimizers()
    except UNFIT_VALUES as error:
        yield f"lightning_module's optimisers or schedule cannot be made: {in_one_line(error)}."
        return
    optimizers = made[0] if isinstance(made, tuple) else []
    clipped = said(module, "gradient_clip_norm") is not None
    if clipped and trainer.precision == "16-mixed" and any(it.defaults.get("fused") for it in optimizers):
        yield (
            "A fused optimizer unscales 16-bit gradients inside its step, after they would be clipped: set "
            "trainer.precision=bf16-mixed, or lightning_module.gradient_clip_norm=null, or fused to false in "
            "lightning_module's optimizers."
        )
