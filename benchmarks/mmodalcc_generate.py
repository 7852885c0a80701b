"""What generation costs beside the encoder, and what the cache saves.

    python benchmarks/mmodalcc_generate.py            # prints
    python benchmarks/mmodalcc_generate.py --write    # also into benchmarks/results/

Full-size MModalCC (two ResNet-101, d=512, 500 words) with random weights, float32. Bars: `generate` takes at most 1.3
times as long as `get_encoder()` alone; what it adds is at least 5 times shorter than with `use_cache=False`. What it
adds is timed as `generate(encoder_outputs=...)`: the difference of two long times is mostly noise on a busy machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from _machine import facts, write_result

from rscc_hf import MModalCCConfig, MModalCCForConditionalGeneration

ENCODER_BAR = 1.3
CACHE_BAR = 5.0


def main() -> int:
    """Measure, print, and say by the exit code whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="rounds; medians of them are compared")
    parser.add_argument("--batch", type=int, default=8, help="pairs in a batch")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=20, help="new tokens, exactly")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/mmodalcc_generate.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = MModalCCForConditionalGeneration(MModalCCConfig()).eval()
    inputs = {
        "pixel_values": torch.rand(args.batch, 2, 3, 256, 256),
        "semantic_values": torch.rand(args.batch, 2, 3, 256, 256),
    }
    options = {"num_beams": args.beams, "min_new_tokens": args.tokens, "max_new_tokens": args.tokens}

    def decode(encoder_outputs: object, use_cache: bool) -> torch.Tensor:
        return model.generate(encoder_outputs=encoder_outputs, use_cache=use_cache, **options)

    with torch.inference_mode():
        encoder = model.get_encoder()
        encoded = encoder(**inputs)
        if not torch.equal(decode(encoded, True), decode(encoded, False)):
            print("cached and uncached captions differ", file=sys.stderr)
            return 1
        steps: dict[str, Callable[[], object]] = {
            "encoder": lambda: encoder(**inputs),
            "generate": lambda: model.generate(**inputs, **options),
            "decoding": lambda: decode(encoded, True),
            "decoding_without_cache": lambda: decode(encoded, False),
        }
        times = measure(steps, args.runs)

    seconds = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "parameters": model.num_parameters(),
        **vars(args),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "all_seconds": {name: [round(value, 3) for value in values] for name, values in times.items()},
        "generate_over_encoder": round(seconds["generate"] / seconds["encoder"], 3),
        "cache_speedup": round(seconds["decoding_without_cache"] / seconds["decoding"], 2),
    }
    result.pop("write")
    met = result["generate_over_encoder"] <= ENCODER_BAR and result["cache_speedup"] >= CACHE_BAR
    for name, value in {**result, "met": met}.items():
        print(f"{name:32} {value}")
    print(f"{'machine':32} {facts()}")
    if args.write:
        print(f"{'written':32} {write_result('mmodalcc_generate', result | {'met': met})}")
    return 0 if met else 1


def measure(steps: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each step in each round; rounds are interleaved, so that a busy moment falls on all of them."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(runs):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    raise SystemExit(main())
