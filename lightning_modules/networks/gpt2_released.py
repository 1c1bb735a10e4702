"""A decoder's weights under the names that released GPT-2's have, and back again."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from lightning_modules.networks.language_models import TransformerLanguageModel

LAYER = {
    "attention_norm": "ln_1", "qkv": "attn.c_attn", "out": "attn.c_proj", "norm": "ln_2", "rise": "mlp.c_fc",
    "fall": "mlp.c_proj",
}  # fmt: skip
OUTER = {"word": "wte", "position": "wpe", "norm": "ln_f"}
PREFIX, HEAD = "transformer.", "lm_head.weight"
NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias")
"""Ends of the names of what old files hold beside weights: which token sees which."""
ACTIVATION_NAMES = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
USUAL = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
"""What a ``config.json`` may say otherwise, and our decoder cannot do."""


def to_released(network: TransformerLanguageModel) -> dict[str, Tensor]:
    own = dict(network.named_parameters())
    return {
        f"{PREFIX}{theirs}": (own[name].T if turned else own[name]).detach().contiguous().clone()
        for name, (theirs, turned) in released_names(network).items()
    }


def from_released(state: Mapping[str, Tensor], network: TransformerLanguageModel, where: str) -> dict[str, Tensor]:
    """The network's weights out of a released file's, as float32."""
    plain = {name.removeprefix(PREFIX): it for name, it in state.items() if not name.endswith(NOT_WEIGHTS)}
    head, word = plain.pop(HEAD, None), plain.get("wte.weight")
    if head is not None and word is not None and not torch.equal(head, word):
        raise UserError(f"{where}: {HEAD} is not wte.weight: a GPT-2 guesses tokens by its embeddings.")
    own, ours = dict(network.named_parameters()), {}
    for name, (theirs, turned) in released_names(network).items():
        if (it := plain.pop(theirs, None)) is None:
            raise UserError(f"{where} has no {theirs}, which a GPT-2 of the sizes in its config.json has.")
        it = it.T if turned and it.ndim == 2 else it
        if it.shape != own[name].shape:
            found, expected = (tuple(one.T.shape if turned else one.shape) for one in (it, own[name]))
            raise UserError(f"{where}: {theirs} is {found}, and by its config.json it would be {expected}.")
        ours[name] = it.float()
    if plain:
        raise UserError(f"{where} has {min(plain)}, which no GPT-2 of the sizes in its config.json has.")
    return ours


def released_names(network: TransformerLanguageModel) -> dict[str, tuple[str, bool]]:
    """The network's parameters by name: each with its released name, and whether it lies the other way round there, as
    the matrices of products do."""
    names = {}
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Linear | nn.Embedding | nn.LayerNorm):
            continue
        *owner, part = name.split(".")
        theirs = f"h.{owner[1]}.{LAYER[part]}" if owner else OUTER[part]
        for kind, _ in layer.named_parameters():
            names[f"{name}.{kind}"] = (f"{theirs}.{kind}", isinstance(layer, nn.Linear) and kind == "weight")
    return names


def sizes_of(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of ``TransformerLanguageModel`` that a released ``config.json`` gives."""
    kind = config.get("model_type")
    if kind != "gpt2":
        raise UserError(f"{where} says model_type {kind!r}, not 'gpt2': give the folder of a GPT-2.")
    for key, usual in USUAL.items():
        if config.get(key, usual) != usual:
            raise UserError(f"{where}: {key} is {config[key]}, and only {usual}, as GPT-2 has it, can be loaded.")
    activation = config.get("activation_function", "gelu_new")
    if activation not in ACTIVATION_NAMES:
        raise UserError(f"{where}: activation_function is {activation!r}; known are {', '.join(ACTIVATION_NAMES)}.")
    named = {
        "vocabulary_size": "vocab_size", "layers": "n_layer", "hidden_size": "n_embd", "heads": "n_head",
        "max_length": "n_positions",
    }  # fmt: skip
    sizes: dict[str, Any] = {ours: config.get(theirs) for ours, theirs in named.items()}
    for ours, theirs in named.items():
        if not isinstance(sizes[ours], int) or isinstance(sizes[ours], bool) or sizes[ours] < 1:
            raise UserError(f"{where}: {theirs} is {sizes[ours]!r}, and a GPT-2 has 1 or more of it.")
    if sizes["hidden_size"] % sizes["heads"]:
        raise UserError(f"{where}: n_embd is {sizes['hidden_size']}, which n_head, {sizes['heads']}, does not divide.")
    epsilon, inner = config.get("layer_norm_epsilon", 1e-5), config.get("n_inner")
    if not isinstance(epsilon, float) or not 0 < epsilon < math.inf:
        raise UserError(f"{where}: layer_norm_epsilon is {epsilon!r}: it is a number above 0.")
    if inner is not None and (not isinstance(inner, int) or inner < 1):
        raise UserError(f"{where}: n_inner is {inner!r}, and a GPT-2 has 1 or more of it, or null.")
    return sizes | {
        "intermediate_size": inner, "activation": ACTIVATION_NAMES[activation], "layer_norm_epsilon": epsilon,
        "dropout": 0.0,
    }  # fmt: skip


def released_config(network: TransformerLanguageModel) -> dict[str, Any]:
    """``config.json`` of a network."""
    sizes = network.sizes
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": sizes["vocabulary_size"],
        "n_layer": sizes["layers"],
        "n_embd": sizes["hidden_size"],
        "n_head": sizes["heads"],
        "n_inner": sizes["intermediate_size"],
        "n_positions": sizes["max_length"],
        "activation_function": {"gelu": "gelu", "gelu_tanh": "gelu_new"}[sizes["activation"]],
        "layer_norm_epsilon": network.norm.eps,
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": True,
    }
