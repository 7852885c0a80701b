"""Measure time and peak memory of converting a CCExpert release of several gigabytes.

    python benchmarks/convert_ccexpert.py --gigabytes 8 --parts 4 --write

Makes a release in the authors' format (the 7B's widths with as many layers of the language model as the size takes,
the vision tower and the module at full size, random numbers in bfloat16), converts it with `rscc convert ccexpert` in
a process of its own, and prints that process's seconds and peak resident memory, what it has mapped of files included,
with the ratio to the largest file. Needs twice the size on the disk, and removes it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _machine import write_result
from safetensors.torch import save_file
from transformers import Qwen2Config

from rscc_hf.modeling import CCExpertConfig, CCExpertForConditionalGeneration

# Ours -> the authors', as far as names differ.
NAMES = (
    ("vision_tower.model.", "model.vision_tower.vision_tower.vision_model."),
    ("integration.expert.change_feature_init.", "model.vision_resampler.expert_change_feature_extractor_model."),
    ("integration.expert.layers.", "model.vision_resampler.layers."),
    (".change_self_attention.", ".change_self_attn."),
    (".change_to_images.", ".cross_attn_change_to_imageABC."),
    (".images_to_change.", ".cross_attn_imageAB_to_change."),
    (".before_flag", ".image_a_flag_embed.weight"),
    (".after_flag", ".image_b_flag_embed.weight"),
    (".change_flag", ".change_flag_embed.weight"),
    ("integration.adjustment.linear_1.", "model.vision_resampler.ChangeAwareTokenReduce.feature_map_level_gate.0."),
    ("integration.adjustment.linear_2.", "model.vision_resampler.ChangeAwareTokenReduce.feature_map_level_gate.2."),
    ("projector.linear_1.", "model.mm_projector.0."),
    ("projector.linear_2.", "model.mm_projector.2."),
    ("language_model.", "model."),
)
# A process of its own, so that nothing but the command's memory is counted: a child starts with its parent's peak.
METER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
unit = 1 if sys.platform == "darwin" else 1024
seconds = time.perf_counter() - start
print(json.dumps({"status": status, "seconds": round(seconds, 1), "peak": usage.ru_maxrss * unit,
                  "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1)}))
"""


def release_config(layers: int) -> dict[str, Any]:
    """`config.json` of a release with the 7B's widths."""
    return {
        **{"model_type": "llava_qwen_cc", "hidden_size": 3584, "intermediate_size": 18944},
        **{"num_hidden_layers": layers, "num_attention_heads": 28, "num_key_value_heads": 4, "rope_theta": 1e6},
        **{"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
        **{"bos_token_id": 151643, "eos_token_id": 151645, "mm_vision_tower": "google/siglip-so400m-patch14-384"},
        **{"mm_projector_type": "mlp2x_gelu", "mm_resampler_type": "cc_expert"},
        **{"mm_vision_select_layer": "[-11,-8,-5,-2]"},
        "cc_expert_args": {"downsample_ratio": 1, "per_expert_depth": 2},
    }


def release_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Shapes by the authors' names; their tower has one more layer, which is never used."""
    text = Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=layers,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
    )
    with torch.device("meta"):
        state = CCExpertForConditionalGeneration(CCExpertConfig(text_config=text)).state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, tensor in state.items():
        name = ours
        for old, new in NAMES:
            name = name.replace(old, new)
        shapes[name] = (1, *tensor.shape) if ours.endswith("_flag") else tuple(tensor.shape)
    last = ".encoder.layers.25."
    shapes |= {name.replace(last, ".encoder.layers.26."): shape for name, shape in shapes.items() if last in name}
    return shapes


def write_release(folder: Path, layers: int, parts: int, kind: str) -> dict[str, float]:
    """Write the release; gives sizes in gigabytes of all, of its largest file and of its largest weight."""
    shapes = release_shapes(layers)
    numbers = torch.randn(2**24, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    sizes = {name: 2 * torch.Size(shape).numel() for name, shape in shapes.items()}
    total, stem = sum(sizes.values()), {"safetensors": "model", "bin": "pytorch_model"}[kind]
    weight_map: dict[str, str] = {}
    part: dict[str, torch.Tensor] = {}
    done, number = 0, 1
    for index, (name, shape) in enumerate(shapes.items()):
        count = torch.Size(shape).numel()
        start = index * 997 % 4096  # so that no two weights are the same
        enough = numbers if start + count <= len(numbers) else numbers.repeat(count // len(numbers) + 2)
        part[name] = enough[start : start + count].reshape(shape).clone()
        del enough
        done += sizes[name]
        if done >= total * number / parts or index == len(shapes) - 1:
            file = f"{stem}-{number:05d}-of-{parts:05d}.{kind}"
            save_file(part, folder / file) if kind == "safetensors" else torch.save(part, folder / file)
            weight_map |= dict.fromkeys(part, file)
            part, number = {}, number + 1
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(release_config(layers)))
    files = [path.stat().st_size for path in folder.glob(f"*.{kind}")]
    return {
        "release_gb": round(sum(files) / 1e9, 3),
        "largest_file_gb": round(max(files) / 1e9, 3),
        "largest_weight_gb": round(max(sizes.values()) / 1e9, 3),
    }


def measure(work: Path, layers: int, parts: int, kind: str) -> dict[str, Any]:
    """Make, convert and remove one release."""
    release, out = work / "release", work / "out"
    release.mkdir()
    sizes = write_release(release, layers, parts, kind)
    command = [sys.executable, "-m", "rscc_hf.commands.app", "convert", "ccexpert", str(release), str(out)]
    done = subprocess.run([sys.executable, "-c", METER, *command], stdout=subprocess.PIPE, text=True, check=True)
    used = json.loads(done.stdout)
    if used["status"]:
        raise SystemExit("the conversion failed; see above.")
    written = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    shutil.rmtree(release)
    shutil.rmtree(out)
    peak = used["peak"] / 1e9
    return {
        **{"kind": kind, "parts": parts, "language_layers": layers, **sizes},
        "written_gb": round(written / 1e9, 3),
        "seconds": used["seconds"],
        "cpu_seconds": used["cpu_seconds"],
        "peak_gb": round(peak, 3),
        "peak_over_largest_file": round(peak / sizes["largest_file_gb"], 3),
        "allowed_gb": round(1.2 * sizes["largest_file_gb"] + 1, 3),
    }


def main() -> None:
    """Read the options, make a release, convert it and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=8, help="size of the release")
    parser.add_argument("--parts", type=int, default=4, help="number of its weight files")
    parser.add_argument("--kinds", nargs="+", choices=["safetensors", "bin"], default=["safetensors", "bin"])
    parser.add_argument("--work", type=Path, help="folder with room for twice the size")
    parser.add_argument("--write", action="store_true", help="write results/convert_ccexpert.json")
    arguments = parser.parse_args()
    sizes = [2 * sum(torch.Size(shape).numel() for shape in release_shapes(layers).values()) for layers in (1, 2)]
    layers = max(1, round((arguments.gigabytes * 1e9 - sizes[0]) / (sizes[1] - sizes[0])) + 1)
    runs = []
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory(dir=arguments.work) as work:
            run = measure(Path(work), layers, arguments.parts, kind)
        print(
            f"{kind}: {run['release_gb']:.2f} GB in {run['parts']} files, largest {run['largest_file_gb']:.2f} GB: "
            f"{run['seconds']:.0f} s, peak {run['peak_gb']:.2f} GB, {run['peak_over_largest_file']:.2f} of the "
            f"largest file; allowed are {run['allowed_gb']:.2f} GB"
        )
        runs.append(run)
    if arguments.write:
        print(write_result("convert_ccexpert", {"runs": runs}))


if __name__ == "__main__":
    main()
