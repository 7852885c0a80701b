"""What models are asked, when the files are written and when they are read; it imports no rscc_hf."""

import json
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor

ANSWERED = ("mmodalcc", "converted", "ccexpert", "adapters")
"""Folders of models, and adapters that are merged into one first."""

WORDS = 12


def unfolded(folder: Path, copy: Path) -> Path:
    """A copy of a folder of files, those that were left out beside their twins put back."""
    shutil.copytree(folder, copy)
    for name, twin in json.loads((copy / "twins.json").read_text(encoding="utf-8")).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(copy / twin, copy / name)
    return copy


def processor_name() -> str:
    """The name of this machine's processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine() -> dict[str, str]:
    """What the last bits of a sum depend on."""
    return {
        "torch": torch.__version__,
        "processor": processor_name(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
    }


def answers(folder: str | Path, **options: Any) -> dict[str, Any]:
    """Captions of the pairs in `images`, the first logits of each, and how near the second-best word ever was."""
    model = AutoModel.from_pretrained(folder, **options)
    processor = AutoProcessor.from_pretrained(folder, **options)
    names = sorted(path.name for path in Path("images/before").iterdir())

    def files(*dates: str) -> list[list[str]]:
        return [[f"images/{date}/{name}" for date in dates] for name in names]

    maps = (
        {"semantic_maps": files("semantic_before", "semantic_after")} if model.config.model_type == "mmodalcc" else {}
    )
    inputs = processor(images=files("before", "after"), return_tensors="pt", **maps)
    given = model.generate(
        **inputs, max_new_tokens=WORDS, num_beams=1, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    best = torch.stack(given.logits).topk(2).values
    return {
        "captions": processor.batch_decode(given.sequences, skip_special_tokens=True),
        "logits": given.logits[0][:, :6].tolist(),
        "gap": (best[..., 0] - best[..., 1]).min().item(),
    }
