"""What one training step of the demos costs, as the machine is and as a processor without AVX-512 would take it.

    python benchmarks/demo_step.py                  # prints
    python benchmarks/demo_step.py --write          # also into benchmarks/results/
    python benchmarks/demo_step.py --part mmodalcc --precision no bf16

Each measurement trains the demo's own recipe (model, batch, size and optimiser as `rscc demo` takes them) on a small
synthetic data set in a process of its own: once with the environment as it is, once with the variables that keep
oneDNN, ATen and MKL to AVX2. Bars on two cores, MModalCC: 0.25 s as the machine is where it has AVX-512 bf16, 0.35 s
with AVX2. A step is told by its parts: reading the batch, the forward pass and what it calls, the backward pass, and
the rest, which is the optimiser with the limits of the gradients.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _machine import facts, write_result

from rscc_hf.data.loading import captions_of, load_pairs
from rscc_hf.demo.onevision import SmallOneVision, make_tokenizer, write_new, write_trained
from rscc_hf.demo.run_ccexpert import stage_recipe
from rscc_hf.demo.run_mmodalcc import demo_recipe
from rscc_hf.synthetic.dataset import synthesize
from rscc_hf.training.aids.land_cover import LandCoverRecipe, LandCoverTask
from rscc_hf.training.engine.loop import train
from rscc_hf.training.systems.ccexpert.recipe import CCExpertRecipe, Stage1Recipe, Stage2Recipe
from rscc_hf.training.systems.ccexpert.task import CCExpertTask, train_ccexpert
from rscc_hf.training.systems.mmodalcc.task import MModalCCTask

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
BARS = {"mmodalcc": {"machine": 0.25, "avx2": 0.35}}
"""Seconds a step on two cores."""
INSIDE = {
    "mmodalcc": ("encoder.rgb_backbone", "encoder.semantic_backbone", "encoder.enhancement", "decoder"),
    "tower": (),
    "stage0": ("vision_tower", "projector", "language_model"),
    "stage1": ("vision_tower", "integration", "projector", "language_model"),
    "stage2": ("vision_tower", "integration", "projector", "language_model"),
}
"""The parts that are measured, and the modules whose forward pass is told."""


class StepClock:
    """Times the steps of `train` and what they consist of; everything on a CPU runs where it is called.

    Args:
        warm_up: Steps at the start that are not counted.
        inside: Names of the model's modules whose forward pass is told.
    """

    def __init__(self, warm_up: int, inside: tuple[str, ...]):
        self.warm_up, self.inside = warm_up, inside
        self.steps: list[dict[str, float]] = []
        self.current: dict[str, float] = defaultdict(float)
        self.started: float | None = None
        self.seen = 0

    def watching(self, build: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that makes a task, with clocks in what it makes."""

        def built(recipe: Any, accelerator: Any) -> Any:
            task = build(recipe, accelerator)
            task.loss = self._timed("forward", task.loss, first=True)
            accelerator.backward = self._timed("backward", accelerator.backward)
            for name in self.inside:
                module = task.model.get_submodule(name)
                module.forward = self._timed(f"forward: {name}", module.forward)
            self.precision = accelerator.mixed_precision
            return task

        return built

    def on_step(self, *_: Any) -> None:
        """End a step."""
        now = time.perf_counter()
        self.seen += 1
        if self.started is not None and self.seen > self.warm_up:
            self.current["step"] = now - self.started
            known = sum(self.current[name] for name in ("reading", "forward", "backward"))
            self.current["optimiser"] = self.current["step"] - known
            self.steps.append(dict(self.current))
        self.current.clear()
        self.started = now

    def medians(self) -> dict[str, float]:
        """Median seconds of the step and of its parts."""
        names = sorted({name for step in self.steps for name in step}, key=lambda name: name != "step")
        return {name: round(statistics.median(step.get(name, 0) for step in self.steps), 4) for name in names}

    def _timed(self, name: str, call: Callable[..., Any], first: bool = False) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            if first and self.started is not None:
                self.current["reading"] = start - self.started
            result = call(*args, **kwargs)
            self.current[name] += time.perf_counter() - start
            return result

        return timed


def measure(part: str, folder: Path, steps: int, warm_up: int, precision: str | None) -> dict[str, Any]:
    """Trains one of the demos' recipes for a few steps.

    Args:
        part: A key of `INSIDE`.
        folder: Has what `prepare` wrote; gets the run.
        steps: Steps that are counted.
        warm_up: Steps before them.
        precision: In place of the recipe's `mixed_precision`.

    Returns:
        Median seconds a step and of its parts, and the precision.
    """
    clock = StepClock(warm_up, INSIDE[part])
    out = Path(tempfile.mkdtemp(dir=folder, prefix="run_"))
    limits = {"max_steps": steps + warm_up, "max_epochs": None, "logging_steps": 10**6}
    if precision is not None:
        limits["mixed_precision"] = precision
    if part == "mmodalcc":
        train(demo_recipe(folder / "data", out, 1, **limits), clock.watching(MModalCCTask), on_step=clock.on_step)
    else:
        kind, task = (LandCoverRecipe, LandCoverTask) if part == "tower" else (_STAGES[part], CCExpertTask)
        recipe = stage_recipe(kind, part, folder / "data", out, folder / _STARTS[part], 1, **limits)
        train(recipe, clock.watching(task), on_step=clock.on_step)
    return {"precision": clock.precision, "steps": len(clock.steps), "seconds": clock.medians()}


_STAGES = {"stage0": CCExpertRecipe, "stage1": Stage1Recipe, "stage2": Stage2Recipe}
_STARTS = {"tower": "new", "stage0": "new", "stage1": "onevision", "stage2": "stage1"}


def prepare(folder: Path, pairs: int, parts: list[str]) -> None:
    """Write the scenes, and for CCExpert's stages what they start from (trained for a step)."""
    synthesize(folder / "data", pairs, 1)
    if parts == ["mmodalcc"]:
        return
    tokenizer = make_tokenizer(captions_of(load_pairs(str(folder / "data"), "train")), SmallOneVision().vocab_size)
    write_new(folder / "new", tokenizer, SmallOneVision(), 1)
    short = {"max_steps": 3, "max_epochs": None, "mixed_precision": "no", "global_batch_size": 2}
    short["per_device_batch_size"] = 2
    for part, kind in (("stage0", CCExpertRecipe), ("stage1", Stage1Recipe)):
        start = folder / _STARTS[part]
        result = train_ccexpert(stage_recipe(kind, part, folder / "data", folder / part, start, 1, **short))
        if part == "stage0":
            write_trained(folder / "onevision", folder / "new", result.task.model, tokenizer)


def measure_in_child(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """`measure` in a process of its own, since the libraries read these variables when they are loaded."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    """Measure, print, and say by the exit code whether the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=INSIDE, default=["mmodalcc", "stage1", "stage2"])
    parser.add_argument("--environment", nargs="+", choices=("machine", "avx2"), default=["machine", "avx2"])
    parser.add_argument("--precision", nargs="+", help="mixed_precision in place of the recipes', by environment")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=400, help="in all splits; the size of an epoch, not of a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the scenes and starts here, or take those of an earlier run")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/demo_step.json")
    parser.add_argument("--child", choices=INSIDE, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        logging.disable(logging.WARNING)
        precision = args.precision[0] if args.precision else None
        print(json.dumps(measure(args.child, args.folder, args.steps, args.warm_up, precision)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "data").exists():
            prepare(folder, args.pairs, args.part)
        results: dict[str, Any] = {}
        met = True
        for part in args.part:
            for place, name in enumerate(args.environment):
                options = ["--child", part, "--folder", str(folder), "--steps", str(args.steps)]
                options += ["--warm-up", str(args.warm_up), "--threads", str(args.threads)]
                if args.precision:
                    options += ["--precision", args.precision[min(place, len(args.precision) - 1)]]
                result = measure_in_child(options, AVX2 if name == "avx2" else {})
                bar = BARS.get(part, {}).get(name)
                if bar is not None:
                    result |= {"bar": bar, "met": result["seconds"]["step"] <= bar}
                    met = met and result["met"]
                results[f"{part} {name}"] = result
                print(f"{part} {name}: {result}", flush=True)
    print(f"machine: {facts()}")
    if args.write:
        settings = {name: getattr(args, name) for name in ("steps", "warm_up", "pairs", "threads")}
        print(f"written: {write_result('demo_step', {**settings, 'results': results, 'met': met})}")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
