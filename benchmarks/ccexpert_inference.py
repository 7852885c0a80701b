"""Where the time of a CCExpert caption goes, and how much memory it takes.

    python benchmarks/ccexpert_inference.py                     # 0.5B, float32, two threads: the bars; prints
    python benchmarks/ccexpert_inference.py --write             # also into benchmarks/results/
    python benchmarks/ccexpert_inference.py --device cuda --dtype bfloat16 --size 7b --batches 1 8 32
    python benchmarks/ccexpert_inference.py --device cuda --dtype bfloat16 --train --peak-tflops 989

Shapes of the paper, random weights, a prompt of 30 words around two images, 20 new tokens, greedy. The parts are timed
inside of `generate`, by hooks. Bars (CPU, 0.5B, one pair, medians): the module takes at most 0.65 of the tower's time,
all at most 3.3 times the tower's, peak memory of the process at most 5.4 GB, and four pairs at most 4.2 times one.
"""

import argparse
import resource
import statistics
import sys
import time
from collections import defaultdict
from typing import Any

import torch
from _machine import facts, write_result
from torch.utils.flop_counter import FlopCounterMode

from rscc_hf import CCExpertConfig, CCExpertForConditionalGeneration
from rscc_hf.precision import try_dtype

MODULE_BAR, ALL_BAR, MEMORY_BAR, BATCH_BAR = 0.65, 3.3, 5.4, 4.2
PROMPT_WORDS = 30


class Stopwatch:
    """Adds up the seconds that parts of the model take, from hooks on them."""

    def __init__(self, model: CCExpertForConditionalGeneration):
        self.device = model.device
        self.spans: dict[str, list[float]] = defaultdict(list)
        parts = {"tower": model.vision_tower, "module": model.integration, "projector": model.projector}
        parts |= {"language_model": model.language_model, "head": model.lm_head}
        for name, part in parts.items():
            if part is not None:
                part.register_forward_pre_hook(lambda *_, name=name: self._start(name))
                part.register_forward_hook(lambda *_, name=name: self._stop(name))

    def now(self) -> float:
        """Seconds, with nothing left to do on the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _start(self, name: str) -> None:
        self.spans[name].append(-self.now())

    def _stop(self, name: str) -> None:
        self.spans[name][-1] += self.now()


def make_config(size: str) -> CCExpertConfig:
    """Build the paper's sizes, and `test`: a toy that only shows that this script runs."""
    if size != "test":
        return CCExpertConfig.preset(size)
    vision = {"model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 96, "image_size": 56}
    text = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "vocab_size": 500}
    return CCExpertConfig(
        vision_config={**vision, "num_hidden_layers": 6, "num_attention_heads": 4, "patch_size": 14},
        text_config={**text, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        vision_levels=[3, 4, 5, 6],
        image_token_id=499,
    )


def make_inputs(model: CCExpertForConditionalGeneration, batch: int) -> dict[str, torch.Tensor]:
    """Random pairs and a prompt."""
    config = model.config
    image = torch.full((config.tokens_per_image,), config.image_token_id)
    words = torch.randint(3, 400, (PROMPT_WORDS,))
    ids = torch.cat([words[:14], image, words[14:20], image, words[20:]]).expand(batch, -1).to(model.device)
    shape = (batch, 2, 3, config.image_size, config.image_size)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": (torch.rand(shape) * 2 - 1).to(model.device, model.dtype),
    }


def caption(
    model: CCExpertForConditionalGeneration, watch: Stopwatch, inputs: dict[str, torch.Tensor], tokens: int
) -> dict[str, float]:
    """Seconds of each part of one call of `generate`; also shown at once, because a round takes long on a CPU."""
    watch.spans.clear()
    start = watch.now()
    with torch.inference_mode():
        model.generate(**inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False)
    total = watch.now() - start
    spans = watch.spans
    prefill = spans["language_model"][0] + spans["head"][0]
    images = sum(sum(spans[name]) for name in ("tower", "module", "projector"))
    seconds = {
        "tower": sum(spans["tower"]),
        "module": sum(spans["module"]),
        "prefill": prefill,
        "first_token": images + prefill,
        "decode": total - images - prefill,  # what happens between the parts counts here
        "all": total,
    }
    batch = inputs["input_ids"].shape[0]
    shown = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    print(f"batch {batch}, {tokens} tokens: {shown} s", file=sys.stderr, flush=True)
    return {**seconds, "tokens_per_second": (tokens - 1) * batch / seconds["decode"]}


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Take the median of every number."""
    return {name: round(statistics.median(row[name] for row in rounds), 4) for name in rounds[0]}


def peak_gigabytes(device: torch.device) -> float:
    """Peak memory: of the whole process on a CPU, of the tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measure_inference(model: CCExpertForConditionalGeneration, args: argparse.Namespace) -> dict[str, Any]:
    """One pair, then the larger batches in turn with one pair."""
    watch = Stopwatch(model)
    one = make_inputs(model, args.batches[0])
    caption(model, watch, one, 2)  # warm up
    rounds = [caption(model, watch, one, args.tokens) for _ in range(args.runs)]
    result: dict[str, Any] = {f"batch_{args.batches[0]}": medians(rounds)}
    result["peak_gigabytes"] = round(peak_gigabytes(model.device), 2)
    result["all_rounds"] = [{name: round(value, 4) for name, value in row.items()} for row in rounds]
    seconds = result[f"batch_{args.batches[0]}"]
    result["module_over_tower"] = round(seconds["module"] / seconds["tower"], 3)
    result["all_over_tower"] = round(seconds["all"] / seconds["tower"], 3)
    for batch in args.batches[1:]:
        inputs = make_inputs(model, batch)
        pairs = [
            (caption(model, watch, one, args.tokens), caption(model, watch, inputs, args.tokens))
            for _ in range(args.batch_runs)
        ]
        result[f"batch_{batch}"] = medians([large for _, large in pairs])
        result[f"batch_{batch}_over_{args.batches[0]}"] = round(
            statistics.median(large["all"] / small["all"] for small, large in pairs), 3
        )
        result[f"batch_{batch}_peak_gigabytes"] = round(peak_gigabytes(model.device), 2)
    return result


def measure_training(model: CCExpertForConditionalGeneration, args: argparse.Namespace) -> dict[str, Any]:
    """Time a step of stage II: everything learns, gradient checkpointing, AdamW."""
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    result: dict[str, Any] = {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
    for batch in args.batches:
        inputs = make_inputs(model, batch)
        answer = torch.randint(3, 400, (batch, 20), device=model.device)
        ids = torch.cat([inputs["input_ids"], answer], dim=1)
        labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], dim=1)
        inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**inputs)
        flops = 3 * counter.get_total_flops()  # forward and backward; what checkpointing repeats is no use
        watch, seconds = Stopwatch(model), []
        for _ in range(args.runs + 1):
            start = watch.now()
            model(**inputs).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(watch.now() - start)
        step = statistics.median(seconds[1:])
        row = {"seconds": step, "pairs_per_second": batch / step, "tflops_per_second": flops / step / 1e12}
        if args.peak_tflops:
            row["model_flops_utilisation"] = row["tflops_per_second"] / args.peak_tflops
        row["peak_gigabytes"] = peak_gigabytes(model.device)
        result[f"train_batch_{batch}"] = {name: round(value, 4) for name, value in row.items()}
    return result


def main() -> int:
    """Measure, print, and say by the exit code whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="0.5b", choices=["0.5b", "7b", "72b", "test"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="the first is measured in full")
    parser.add_argument("--runs", type=int, default=5, help="rounds; medians of them are compared")
    parser.add_argument("--batch-runs", type=int, default=3, help="rounds of the larger batches")
    parser.add_argument("--tokens", type=int, default=20, help="new tokens, exactly")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train", action="store_true", help="a training step in place of captions")
    parser.add_argument("--peak-tflops", type=float, help="the device's, for model FLOPs utilisation")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/ccexpert_*.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.dtype != "float32":
        trial = try_dtype(torch.device(args.device), getattr(torch, args.dtype))
        if trial.emulated:
            print(f"Mind: {trial.verdict}.")
    torch.set_default_dtype(getattr(torch, args.dtype))
    with torch.device(args.device):
        model = CCExpertForConditionalGeneration(make_config(args.size)).eval()
    torch.set_default_dtype(torch.float32)

    result: dict[str, Any] = {"parameters": model.num_parameters(), **vars(args)}
    result.pop("write")
    result |= measure_training(model, args) if args.train else measure_inference(model, args)
    met = True
    if not args.train and args.device == "cpu" and args.size == "0.5b":
        met = (
            result["module_over_tower"] <= MODULE_BAR
            and result["all_over_tower"] <= ALL_BAR
            and result["peak_gigabytes"] <= MEMORY_BAR
            and result.get("batch_4_over_1", 0) <= BATCH_BAR
        )
        result["met"] = met
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else args.device
    result["device_name"] = device
    for name, value in result.items():
        print(f"{name:32} {value}")
    print(f"{'machine':32} {facts()}")
    if args.write:
        kind = "training" if args.train else "inference"
        where = "cpu" if args.device == "cpu" else "gpu"
        print(f"{'written':32} {write_result(f'ccexpert_{kind}_{args.size}_{where}', result)}")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
