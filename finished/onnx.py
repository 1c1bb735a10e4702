"""A finished run's network as an ONNX file, for programs that have no torch.

    make export RUN=outputs/resnet_mnist/<folder>
    python -m finished.onnx outputs/infogan_digits/<folder> --checkpoint best --out generator.onnx
    python -m finished.onnx outputs/bert_mini_pretrain/<folder> --output embeddings --out vectors.onnx

What goes in and comes out of each kind of run: docs/using_runs.md. Any batch size and length will do. The file says in
its metadata what it is. It gets its name only once onnxruntime has computed with it what the module computes.
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

from finished.card import card_of, for_others
from finished.onnx_detectors import write_detector
from foundation.checkpoints import read_checkpoint, weights_in
from foundation.errors import UserError, told_as_sentences
from foundation.places import inside
from foundation.protocols import (
    ClassifiesImages,
    ClassifiesText,
    DetectsObjects,
    DetectsObjectsInImages,
    EmbedsText,
    EstimatesNumbers,
    FillsMasks,
    FindsSpans,
    MapsLatents,
    TagsTokens,
    said,
    serves,
)
from foundation.records import read_record
from foundation.security import split_trust, trusting
from foundation.whole_files import write_whole
from launch.command_line import check_writable
from launch.packed import folder_of
from launch.runs import load_on_device

NAME = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-4
CHECKED_BATCHES = (1, 5)
OUTPUTS = ("predictions", "embeddings")


class Network(nn.Module):
    """One of a module's functions, which torch exports only as a forward."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor | tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.function(*inputs)
        return found if isinstance(found, tuple) else (found,)


@dataclass
class Exportable:
    """What becomes a file.

    inputs: their names, each with those of its axes that may have any size. outputs: the names of what comes out.
    draw: as many examples of the inputs, in that order. metadata: what the file says of itself beside where it comes
    from.
    """

    network: Network
    inputs: dict[str, dict[int, str]]
    outputs: list[str]
    draw: Callable[[int, torch.Generator], tuple[Tensor, ...]]
    metadata: dict[str, Any]

    def drawn(self, batch_size: int) -> tuple[Tensor, ...]:
        """The same in every call."""
        return self.draw(batch_size, torch.Generator().manual_seed(0))


def export(
    run: Path, checkpoint: str = "last", out: Path | None = None, output: str = "predictions"
) -> tuple[Path, float]:
    """Write the file, compare it with the module, and write a card beside it; returns the file and the largest
    absolute difference."""
    check_packages()
    path = out or inside(run / NAME, run)
    if path.is_dir():
        path /= NAME
    check_writable("--out", path.parent)
    finished = load_on_device(run, checkpoint, "cpu")
    detects = serves(finished.module, DetectsObjectsInImages) and output == OUTPUTS[0]
    exportable = None if detects else exportable_of(finished.module, run, output)
    of_run = {
        "experiment": finished.config["name"],
        "checkpoint": finished.checkpoint.name,
        "iteration": read_checkpoint(finished.checkpoint)["global_step"],
        "weights": weights_in(finished.checkpoint),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        if exportable is None:
            difference = write_detector(finished.module, of_run, unfinished)
        else:
            write(exportable, of_run | exportable.metadata, unfinished)
            difference = largest_difference(exportable, unfinished)
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"onnxruntime differs from the module by {difference:.1e}, more than {LARGEST_DIFFERENCE:.0e}, so no "
                "file is kept: try other versions of torch, onnxscript or onnxruntime."
            )
    write_whole(path.with_suffix(".md"), card_of(for_others(read_record(run)), use_of(path, difference)))
    return path, difference


def check_packages() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"make export needs {', '.join(missing)}, not installed here: pip install '.[export]'")


def exportable_of(module: Any, run: Path, output: str = "predictions") -> Exportable:
    """What a module's capabilities have to give; a UserError where that is nothing."""
    if output == "embeddings":
        if serves(module, EmbedsText):
            return of_texts(module, "embeddings", module.embed, "a vector of each text [batch, size]")
        raise UserError(f"{run} is a run of {type(module).__name__}, which makes no vectors of texts.")
    kinds: dict[type, Callable[[Any], Exportable]] = {
        ClassifiesImages: of_images,
        ClassifiesText: classifying,
        EstimatesNumbers: estimating,
        FillsMasks: of_masks,
        FindsSpans: finding_spans,
        TagsTokens: tagging,
        MapsLatents: of_latents,
    }
    for protocol, make in kinds.items():
        if serves(module, protocol):
            return make(module)
    if serves(module, EmbedsText):
        raise UserError(
            f"{run} is a run of {type(module).__name__}, which says nothing of a text as it was trained: give "
            "--output embeddings for its vectors."
        )
    if serves(module, DetectsObjects):
        raise UserError(
            f"{run} is a run of {type(module).__name__}, which looks for objects in regions that its data give, and an "
            "image comes without: name a run of a detector with an RPN."
        )
    raise UserError(
        f"{run} is a run of {type(module).__name__}, which neither classifies images or texts nor detects objects "
        "nor makes images of latents, so it cannot be exported."
    )


def of_images(module: Any) -> Exportable:
    return Exportable(
        Network(module, module.class_logits),
        {"images": {0: "batch"}},
        ["logits"],
        lambda size, generator: (torch.rand(size, *module.image_shape, generator=generator),),
        {"input": "images [batch, channels, height, width] in [0, 1]", **logits_of(module)},
    )


def of_texts(module: Any, output: str, function: Callable[..., Tensor], told: str, **more: Any) -> Exportable:
    """function: of ``input_ids``, ``lengths`` and, where the module ``reads_pairs``, ``segment_ids``."""
    pairs = said(module, "reads_pairs")

    def draw(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Longer texts in larger batches, so that several lengths are checked."""
        longest = module.max_length or 16
        lengths = torch.randint(1, min(size + 5, longest) + 1, (size,), generator=generator)
        ids = torch.randint(module.vocabulary_size, (size, int(lengths.max())), generator=generator)
        behind = torch.arange(ids.shape[1]) >= (lengths / 2).long().unsqueeze(1)
        return (ids, lengths, behind.long()) if pairs else (ids, lengths)

    both = {0: "batch", 1: "length"}
    words = f"token ids below {module.vocabulary_size}, input_ids [batch, length] and lengths [batch], "
    words += "both int64" if not pairs else "and segment_ids [batch, length], 0 in the first text of a pair, all int64"
    words += f"; a text has {module.max_length} tokens at most" if module.max_length else ""
    inputs = {"input_ids": both, "lengths": {0: "batch"}} | ({"segment_ids": both} if pairs else {})
    return Exportable(Network(module, function), inputs, [output], draw, {"input": words, "output": told, **more})


def classifying(module: Any) -> Exportable:
    it = of_texts(module, "logits", module.class_logits, "")
    it.metadata |= logits_of(module)
    return it


def estimating(module: Any) -> Exportable:
    return of_texts(module, "estimate", module.estimate, "a number for each text or pair [batch]")


def finding_spans(module: Any) -> Exportable:
    def scores(input_ids: Tensor, lengths: Tensor, segment_ids: Tensor) -> Tensor:
        return module.span_logits({"input_ids": input_ids, "lengths": lengths, "segment_ids": segment_ids})

    told = "span_logits [batch, 2, length], of a token being an answer's first and its last; the row's first: of none"
    return of_texts(module, "span_logits", scores, told)


def tagging(module: Any) -> Exportable:
    told = "logits [batch, length, classes]; a word's is that of its first piece"
    return of_texts(module, "logits", module.tag_logits, told, classes=names_of(module))


def of_masks(module: Any) -> Exportable:
    """What stands at some positions of each text, and whether its second part follows the first."""

    def guess(input_ids: Tensor, lengths: Tensor, segment_ids: Tensor, positions: Tensor) -> Any:
        tokens = module.token_logits(input_ids, lengths, positions, segment_ids)
        if not module.predicts_next_sentence:
            return tokens
        return tokens, module.next_sentence_logits(input_ids, lengths, segment_ids)

    told = "token_logits [batch, masks, vocabulary], which token stands at each position"
    if module.predicts_next_sentence:
        told += "; next_sentence_logits [batch, 2], that the second text follows the first, and that it is random"
    texts = of_texts(module, "token_logits", guess, told)

    def draw(size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        ids, lengths, segments = texts.draw(size, generator)
        places = torch.rand(size, 2 * size - 1, generator=generator) * lengths.unsqueeze(1)
        return ids, lengths, segments, places.long()

    inputs = {**texts.inputs, "positions": {0: "batch", 1: "masks"}}
    outputs = texts.outputs + ["next_sentence_logits"] * module.predicts_next_sentence
    texts.metadata["input"] += "; positions [batch, masks] int64, of the tokens that are asked for, such as [MASK]"
    return Exportable(texts.network, inputs, outputs, draw, texts.metadata)


def logits_of(module: Any) -> dict[str, Any]:
    return {"output": "logits [batch, classes]; their softmax gives probabilities", "classes": names_of(module)}


def names_of(module: Any) -> list[str]:
    return module.class_names or [str(number) for number in range(module.num_classes)]


def of_latents(module: Any) -> Exportable:
    layout = module.latent_layout()
    size = sum(part["size"] for part in layout)
    return Exportable(
        Network(module.generator, module.generator),
        {"latents": {0: "batch"}},
        ["images"],
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
            output_names=exportable.outputs,
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
        for found, it in zip(session.run(exportable.outputs, named), expected, strict=True):
            found = torch.from_numpy(found)  # scores of padding are -inf in both
            differences.append(torch.where(found == it, 0.0, (found - it).abs()).max())
    return float(torch.stack(differences).max())  # Python's own max would lose what is not a number


def use_of(path: Path, difference: float) -> str:
    """For a card: what goes in and comes out, as the file itself says."""
    import onnxruntime

    said_inside = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_modelmeta()
    inside = said_inside.custom_metadata_map
    lines = ["```python", f'onnxruntime.InferenceSession("{path.name}")', "```", ""]
    lines += [f"- {key}: {inside[key]}" for key in ("input", "output") if key in inside]
    return "\n".join([*lines, f"- differs from the run's own module by {difference:.1e} at most"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--checkpoint", default="last", help="a file of its checkpoints/ without .ckpt")
    parser.add_argument(
        "--output", choices=OUTPUTS, default=OUTPUTS[0], help="of a run that reads texts also its vectors"
    )
    parser.add_argument("--out", type=Path, help=f"the file, or a folder for {NAME}; unless given, the run's")
    names, words = split_trust(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(words)
    run = folder_of(given.run)
    with trusting(names):
        path, difference = export(run, given.checkpoint, given.out, given.output)
    card = path.with_suffix(".md").name
    print(f"{path}: differs from the module by {difference:.1e} at most; {card} beside it says what it is")


if __name__ == "__main__":
    with told_as_sentences():
        main()
