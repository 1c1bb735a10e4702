"""BERT's weights under the names that released files have, and back again.

A folder from the Hub holds ``config.json`` and ``model.safetensors``, whose names begin with ``bert.`` where there are
heads. Files of before 2019 say ``gamma`` and ``beta`` where a layer norm has a weight and a bias.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foundation.errors import UserError
from lightning_modules.networks.bert import THE_PAPER_S

PARTS = {
    "embeddings.word_embeddings": "network.embeddings.word",
    "embeddings.position_embeddings": "network.embeddings.position",
    "embeddings.token_type_embeddings": "network.embeddings.segment",
    "embeddings.LayerNorm": "network.embeddings.norm",
    "encoder.layer.{}.attention.output.dense": "network.layers.{}.attention.out",
    "encoder.layer.{}.attention.output.LayerNorm": "network.layers.{}.attention_norm",
    "encoder.layer.{}.intermediate.dense": "network.layers.{}.rise",
    "encoder.layer.{}.output.dense": "network.layers.{}.fall",
    "encoder.layer.{}.output.LayerNorm": "network.layers.{}.norm",
    "pooler.dense": "pooler.dense",
    "cls.predictions.transform.dense": "token_head.dense",
    "cls.predictions.transform.LayerNorm": "token_head.norm",
    "cls.predictions": "token_head",
    "cls.seq_relationship": "next_sentence",
    "classifier": "classifier",
    "qa_outputs": "spans",
}
"""Released names of layers and ours; a number stands at {}. All but queries, keys and values, which are one here."""
FUSED = ("query", "key", "value")
APART, TOGETHER = "encoder.layer.{}.attention.self", "network.layers.{}.attention.qkv"
OUTSIDE_OF_BERT = ("cls.", "classifier.", "qa_outputs.")
OLD = {"gamma": "weight", "beta": "bias"}
NOT_WEIGHTS = ("embeddings.position_ids",)
HEAD_S_COPIES = {"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
                 "cls.predictions.decoder.bias": "cls.predictions.bias"}  # fmt: skip
ACTIVATION_NAMES = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def is_released(names: Mapping[str, Any]) -> bool:
    """Whether weights have the names of a released BERT's."""
    return any(name.endswith("embeddings.word_embeddings.weight") for name in names)


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Ours, as of a module with a ``network``, and a ``pooler``, ``token_head``, ``next_sentence``, ``classifier`` or
    ``spans`` where there are such; what has no counterpart keeps its name."""
    plain = {plain_name(name): it for name, it in state.items()}
    for copy, original in HEAD_S_COPIES.items():
        if copy in plain:
            it = plain.pop(copy)
            if not torch.equal(plain.setdefault(original, it), it):
                raise UserError(
                    f"{copy} is not {original}: a head with embeddings of its own is no BERT's, and cannot be loaded."
                )
    ours: dict[str, Tensor] = {}
    for name, it in plain.items():
        if name in NOT_WEIGHTS:
            continue
        part, _, kind = name.rpartition(".")
        owner, _, projection = part.rpartition(".")
        fused = translated(owner, {APART: TOGETHER}) if projection in FUSED else None
        if fused is None:
            ours[f"{translated(part, PARTS) or part}.{kind}"] = it
        elif projection == FUSED[0] and (of_all := [plain.get(f"{owner}.{each}.{kind}") for each in FUSED]):
            if missing := [each for each, one in zip(FUSED, of_all, strict=True) if one is None]:
                raise UserError(f"There is {name}, and no {owner}.{missing[0]}.{kind}: the file is not whole.")
            ours[f"{fused}.{kind}"] = torch.cat([one for one in of_all if one is not None])
    return ours


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's weights by released names, ``bert.`` before those of the encoder."""
    back = {ours: theirs for theirs, ours in PARTS.items()}
    released: dict[str, Tensor] = {}
    for name, it in state.items():
        part, _, kind = name.rpartition(".")
        if apart := translated(part, {TOGETHER: APART}):
            released |= {f"{apart}.{each}.{kind}": one for each, one in zip(FUSED, it.chunk(3), strict=True)}
        elif theirs := translated(part, back):
            released[f"{theirs}.{kind}"] = it
    return {
        (name if name.startswith(OUTSIDE_OF_BERT) else f"bert.{name}"): it.contiguous().clone()
        for name, it in released.items()
    }


def plain_name(name: str) -> str:
    """Without ``bert.``, and with today's names of a layer norm's weights."""
    part, dot, kind = name.removeprefix("bert.").rpartition(".")
    return part + dot + (OLD.get(kind, kind) if part.endswith("LayerNorm") else kind)


def translated(part: str, names: Mapping[str, str]) -> str | None:
    """A layer's name by a table of them; None where it is not in there."""
    numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", part)
    found = names.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", part))
    return None if found is None else found.format(*numbers)


def sizes_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of ``networks.bert.Bert`` that a released ``config.json`` gives."""
    kind = config.get("model_type", "bert")
    if kind != "bert":
        raise UserError(f"{where} is a model of type {kind}, not bert: give a BERT's folder.")
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UserError(f"{where}: position_embedding_type is {positions}; only BERT's own, absolute, can be loaded.")
    if config.get("type_vocab_size", 2) != 2:
        raise UserError(f"{where}: type_vocab_size is {config['type_vocab_size']}; a BERT has 2 segments.")
    activation = config.get("hidden_act", "gelu")
    if activation not in ACTIVATION_NAMES:
        raise UserError(f"{where}: hidden_act is {activation}; known are {', '.join(ACTIVATION_NAMES)}.")
    named = {
        "vocabulary_size": "vocab_size", "layers": "num_hidden_layers", "hidden_size": "hidden_size",
        "heads": "num_attention_heads", "intermediate_size": "intermediate_size",
        "max_length": "max_position_embeddings",
    }  # fmt: skip
    if missing := [it for it in named.values() if it not in config]:
        raise UserError(f"{where} does not say {', '.join(missing)}: it is no BERT's.")
    sizes = {ours: config[theirs] for ours, theirs in named.items()}
    return sizes | {"activation": ACTIVATION_NAMES[activation]} | THE_PAPER_S


def sizes_in(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same as far as weights of ours tell them, of a module with a ``network``; none where it is no BERT."""
    word, position = (state.get(f"network.embeddings.{it}.weight") for it in ("word", "position"))
    rise, fall = (state.get(f"network.layers.0.{it}.weight") for it in ("rise", "fall"))
    if word is None or rise is None or fall is None:
        return {}
    numbers = [int(it[1]) for name in state if (it := re.match(r"network\.layers\.(\d+)\.", name))]
    return {
        "vocabulary_size": len(word),
        "layers": max(numbers) + 1,
        "hidden_size": word.shape[1],
        "intermediate_size": len(rise),
        "norm_first": "network.norm.weight" in state,
        "gated": len(rise) != fall.shape[1],
        "biases": "network.layers.0.rise.bias" in state,
    } | ({"positions": "sinusoidal"} if position is None else {"positions": "learned", "max_length": len(position)})


def released_config(network: Any, **more: Any) -> dict[str, Any]:
    """``config.json`` of a network; more: of a task."""
    return {
        "model_type": "bert",
        "vocab_size": network.vocabulary_size,
        "num_hidden_layers": len(network.layers),
        "hidden_size": network.hidden_size,
        "num_attention_heads": network.heads,
        "intermediate_size": network.intermediate_size,
        "max_position_embeddings": network.max_length,
        "hidden_act": {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}[network.activation],
        "layer_norm_eps": network.layer_norm_epsilon,
        "type_vocab_size": 2,
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
        "initializer_range": 0.02,
    } | more
