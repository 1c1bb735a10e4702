"""A decoder's weights under the names that released GPT-2's have."""

from typing import Any

from torch import Tensor, nn

from lightning_modules.networks.language_models import TransformerLanguageModel

LAYER = {
    "attention_norm": "ln_1", "qkv": "attn.c_attn", "out": "attn.c_proj", "norm": "ln_2", "rise": "mlp.c_fc",
    "fall": "mlp.c_proj",
}  # fmt: skip
OUTER = {"word": "wte", "position": "wpe", "norm": "ln_f"}


def to_released(network: TransformerLanguageModel) -> dict[str, Tensor]:
    """Their products are stored the other way round."""
    released: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Linear | nn.Embedding | nn.LayerNorm):
            continue
        *owner, part = name.split(".")
        theirs = f"h.{owner[1]}.{LAYER[part]}" if owner else OUTER[part]
        for kind, it in layer.named_parameters():
            turned = it.T if isinstance(layer, nn.Linear) and kind == "weight" else it
            released[f"transformer.{theirs}.{kind}"] = turned.detach().contiguous().clone()
    return released


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
