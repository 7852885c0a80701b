"""A CCExpert in the authors' format, of some thousand parameters with random weights, in files of any kind."""

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]
VISION, TEXT, WORDS, SIDE = 16, 32, 60, 28
TOWER = "model.vision_tower.vision_tower.vision_model"
MODULE = "model.vision_resampler"


def release_config(words: int = WORDS, **changes: Any) -> dict[str, Any]:
    """`config.json` as the authors' code writes it."""
    config = {
        "model_type": "llava_qwen_cc", "architectures": ["LlavaQwenCCForCausalLM"], "transformers_version": "4.40.1",
        "_name_or_path": "/home/somebody/checkpoints/stage3", "hidden_act": "silu", "hidden_size": TEXT,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": words, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
        "use_sliding_window": False, "mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_hidden_size": VISION,
        "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": "cc_expert", "mm_vision_select_layer": "[-3,-2]",
        "cc_expert_args": {"downsample_ratio": 1, "per_expert_depth": 1},
        "vision_tower_config": {
            "hidden_size": VISION, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": 14, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        },
    }  # fmt: skip
    return {name: value for name, value in (config | changes).items() if value is not None}


def release_weights(dtype: torch.dtype = torch.bfloat16, *, tied: bool = False, words: int = WORDS) -> Weights:
    """Weights by official name; the last encoder layer and a few others are never used."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, TEXT)}

    def linear(name: str, into: int, out: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (into, out)
        if bias:
            shapes[f"{name}.bias"] = (into,)

    def norm(name: str, width: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (width,)
        if bias:
            shapes[f"{name}.bias"] = (width,)

    for layer in (f"model.layers.{index}" for index in range(2)):
        for part, into, bias in (("q", TEXT, True), ("k", 16, True), ("v", 16, True), ("o", TEXT, False)):
            linear(f"{layer}.self_attn.{part}_proj", into, TEXT, bias)
        for part, into, out in (("gate", 64, TEXT), ("up", 64, TEXT), ("down", TEXT, 64)):
            linear(f"{layer}.mlp.{part}_proj", into, out, False)
        norm(f"{layer}.input_layernorm", TEXT, False)
        norm(f"{layer}.post_attention_layernorm", TEXT, False)
    norm("model.norm", TEXT, False)
    if not tied:
        shapes["lm_head.weight"] = (words, TEXT)
    shapes[f"{TOWER}.embeddings.patch_embedding.weight"] = (VISION, 3, 14, 14)
    shapes[f"{TOWER}.embeddings.patch_embedding.bias"] = (VISION,)
    shapes[f"{TOWER}.embeddings.position_embedding.weight"] = (4, VISION)
    for layer in (f"{TOWER}.encoder.layers.{index}" for index in range(3)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{layer}.self_attn.{part}", VISION, VISION)
        linear(f"{layer}.mlp.fc1", 24, VISION)
        linear(f"{layer}.mlp.fc2", VISION, 24)
        norm(f"{layer}.layer_norm1", VISION)
        norm(f"{layer}.layer_norm2", VISION)
    norm(f"{TOWER}.post_layernorm", VISION)
    linear(f"{MODULE}.expert_change_feature_extractor_model.linear_mapping", VISION, 2 * VISION)
    linear(f"{MODULE}.expert_change_feature_extractor_model.proj", VISION, 3 * VISION)
    for attention in ("change_self_attn", "cross_attn_change_to_imageABC", "cross_attn_imageAB_to_change"):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{MODULE}.layers.0.{attention}.{part}", VISION, VISION)
    for number in (1, 2, 3, 4):  # the fourth is never used
        norm(f"{MODULE}.layers.0.norm{number}", VISION)
    linear(f"{MODULE}.layers.0.mlp.lin1", 4 * VISION, VISION)
    linear(f"{MODULE}.layers.0.mlp.lin2", VISION, 4 * VISION)
    for flag in ("image_a", "image_b", "change"):
        shapes[f"{MODULE}.layers.0.{flag}_flag_embed.weight"] = (1, VISION)
    gate = f"{MODULE}.ChangeAwareTokenReduce"
    linear(f"{gate}.feature_map_level_gate.0", VISION, 3 * VISION)
    linear(f"{gate}.feature_map_level_gate.2", 1, VISION)
    linear(f"{gate}.change_for_key_proj", VISION, VISION)
    linear("model.mm_projector.0", TEXT, VISION)
    linear("model.mm_projector.2", TEXT, TEXT)
    shapes["model.image_newline"] = (TEXT,)
    generator = torch.Generator().manual_seed(0)
    return {name: (torch.randn(shape, generator=generator) * 0.3).to(dtype) for name, shape in shapes.items()}


def cut(weights: Weights, parts: int) -> list[Weights]:
    """As many runs of about as many weights."""
    names = list(weights)
    ends = [round(len(names) * part / parts) for part in range(parts + 1)]
    return [{name: weights[name] for name in names[a:b]} for a, b in itertools.pairwise(ends)]


def write_release(
    folder: Path, weights: Weights, config: dict[str, Any] | None = None, *, parts: int = 1, kind: str = "safetensors"
) -> Path:
    """A folder as the authors give it out.

    Args:
        folder: to make.
        weights: by official name.
        config: `release_config()` by default.
        parts: number of weight files; several have an index.
        kind: `safetensors` or `bin`.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(release_config() if config is None else config))
    stem = "model" if kind == "safetensors" else "pytorch_model"
    weight_map: dict[str, str] = {}
    for number, part in enumerate(cut(weights, parts), start=1):
        name = f"{stem}.{kind}" if parts == 1 else f"{stem}-{number:05d}-of-{parts:05d}.{kind}"
        write_weights(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    if parts > 1:
        write_index(folder / f"{stem}.{kind}.index.json", weight_map)
    return folder


def write_weights(path: Path, weights: Weights) -> None:
    """One weight file, of the kind that its name says."""
    if path.suffix == ".bin":
        torch.save(weights, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path, metadata={"format": "pt"})


def write_index(path: Path, weight_map: dict[str, Any]) -> None:
    """An index beside weight files."""
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
