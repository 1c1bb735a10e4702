"""A finished run's network as an ONNX file, for programs that have no torch.

    make export RUN=outputs/resnet_mnist/<folder>
    python -m finished.onnx outputs/infogan_digits/<folder> --checkpoint best --out generator.onnx

A classifier maps ``images`` [batch, C, H, W] in [0, 1], or ``input_ids`` [batch, length] and ``lengths`` [batch], to
``logits`` [batch, classes], its normalisation included; a generator maps ``latents`` [batch, size] to ``images`` in
[0, 1]. Any batch size and length will do. The file says in its metadata what it is. It gets its name only once
onnxruntime has computed with it what the module computes.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundation.checkpoints import read_checkpoint, weights_in
from foundation.errors import UserError, told_as_sentences
from foundation.places import inside
from foundation.protocols import ClassifiesImages, ClassifiesText, MapsLatents, serves
from foundation.security import split_trust, trusting
from launch.command_line import check_writable
from launch.runs import load_on_device

NAME = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-4
CHECKED_BATCHES = (1, 5)


class Network(nn.Module):
    """One of a module's functions, which torch exports only as a forward."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


@dataclass
class Exportable:
    """What becomes a file.

    inputs: their names, each with those of its axes that may have any size. draw: as many examples of them, in that
    order. metadata: what the file says of itself beside where it comes from.
    """

    network: Network
    inputs: dict[str, dict[int, str]]
    output: str
    draw: Callable[[int, torch.Generator], tuple[Tensor, ...]]
    metadata: dict[str, Any]

    def drawn(self, batch_size: int) -> tuple[Tensor, ...]:
        """The same in every call."""
        return self.draw(batch_size, torch.Generator().manual_seed(0))


def export(run: Path, checkpoint: str = "last", out: Path | None = None) -> tuple[Path, float]:
    """Write the file and compare it with the module; returns it and the largest absolute difference."""
    check_packages()
    path = out or inside(run / NAME, run)
    if path.is_dir():
        path /= NAME
    check_writable("--out", path.parent)
    finished = load_on_device(run, checkpoint, "cpu")
    exportable = exportable_of(finished.module, run)
    of_run = {
        "experiment": finished.config["name"],
        "checkpoint": finished.checkpoint.name,
        "iteration": read_checkpoint(finished.checkpoint)["global_step"],
        "weights": weights_in(finished.checkpoint),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        write(exportable, of_run | exportable.metadata, unfinished)
        difference = largest_difference(exportable, unfinished)
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"onnxruntime differs from the module by {difference:.1e}, more than {LARGEST_DIFFERENCE:.0e}, so no "
                "file is kept: try other versions of torch, onnxscript or onnxruntime."
            )
    return path, difference


def check_packages() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"make export needs {', '.join(missing)}, not installed here: pip install '.[export]'")


def exportable_of(module: Any, run: Path) -> Exportable:
    """What a module's capabilities have to give; a UserError where that is nothing."""
    if serves(module, ClassifiesImages):
        return of_images(module)
    if serves(module, ClassifiesText):
        return of_texts(module)
    if serves(module, MapsLatents):
        return of_latents(module)
    raise UserError(
        f"{run} is a run of {type(module).__name__}, which neither classifies images or texts nor makes images of "
        "latents, so it cannot be exported."
    )


def of_images(module: Any) -> Exportable:
    return Exportable(
        Network(module, module.class_logits),
        {"images": {0: "batch"}},
        "logits",
        lambda size, generator: (torch.rand(size, *module.image_shape, generator=generator),),
        {"input": "images [batch, channels, height, width] in [0, 1]", **logits_of(module)},
    )


def of_texts(module: Any) -> Exportable:
    longest = module.max_length or 16

    def draw(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Longer texts in larger batches, so that several lengths are checked."""
        lengths = torch.randint(1, min(size + 5, longest) + 1, (size,), generator=generator)
        ids = torch.randint(module.vocabulary_size, (size, int(lengths.max())), generator=generator)
        return ids, lengths

    told = f"token ids below {module.vocabulary_size}, input_ids [batch, length] and lengths [batch], both int64"
    told += f"; a text has {module.max_length} tokens at most" if module.max_length else ""
    return Exportable(
        Network(module, module.class_logits),
        {"input_ids": {0: "batch", 1: "length"}, "lengths": {0: "batch"}},
        "logits",
        draw,
        {"input": told, **logits_of(module)},
    )


def logits_of(module: Any) -> dict[str, Any]:
    names = module.class_names or [str(number) for number in range(module.num_classes)]
    return {"output": "logits [batch, classes]; their softmax gives probabilities", "classes": names}


def of_latents(module: Any) -> Exportable:
    layout = module.latent_layout()
    size = sum(part["size"] for part in layout)
    return Exportable(
        Network(module.generator, module.generator),
        {"latents": {0: "batch"}},
        "images",
        lambda count, generator: (2 * torch.rand(count, size, generator=generator) - 1,),
        {
            "input": f"latents [batch, {size}], the parts of latent_layout one after the other",
            "output": "images [batch, channels, height, width] in [0, 1]",
            "latent_layout": layout,
        },
    )


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what becomes the file if nothing fails, and else leaves nothing."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write(exportable: Exportable, metadata: Mapping[str, Any], path: Path) -> None:
    """Weights and graph in one file. Metadata that are no texts are JSON."""
    named = sorted({name for axes in exportable.inputs.values() for name in axes.values()})
    sizes = {name: torch.export.Dim(name) for name in named}
    axes = tuple({axis: sizes[name] for axis, name in it.items()} for it in exportable.inputs.values())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name: .* shares the same shape")  # inputs have one batch size
        program = torch.onnx.export(
            exportable.network.eval(),
            exportable.drawn(2),
            input_names=list(exportable.inputs),
            output_names=[exportable.output],
            dynamic_shapes=(axes,),  # of *inputs
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # it would tell where the source lies on this machine
    for key, value in metadata.items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    program.save(str(path), external_data=False)


def largest_difference(exportable: Exportable, path: Path) -> float:
    """Between what onnxruntime makes of the file and the module of its weights, over batches of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for batch_size in CHECKED_BATCHES:
        inputs = exportable.drawn(batch_size)
        with torch.no_grad():
            expected = exportable.network(*inputs)
        named = {name: values.numpy() for name, values in zip(exportable.inputs, inputs, strict=True)}
        (found,) = session.run([exportable.output], named)
        differences.append((torch.from_numpy(found) - expected).abs().max())
    return float(torch.stack(differences).max())  # Python's own max would lose what is not a number


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--checkpoint", default="last", help="a file of its checkpoints/ without .ckpt")
    parser.add_argument("--out", type=Path, help=f"the file, or a folder for {NAME}; unless given, the run's")
    names, words = split_trust(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(words)
    with trusting(names):
        path, difference = export(given.run, given.checkpoint, given.out)
    print(f"{path}: differs from the module by {difference:.1e} at most")


if __name__ == "__main__":
    with told_as_sentences():
        main()
