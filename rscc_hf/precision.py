"""Whether a 16-bit format pays on a device: tried, not looked up.

What decides is the processor, the library that multiplies for it, and the variables that restrict that library
(`ONEDNN_MAX_CPU_ISA`, `ATEN_CPU_CAPABILITY`, `MKL_ENABLE_INSTRUCTIONS`). On a CPU without instructions for bfloat16 a
product takes ten to twenty times as long as in float32, without a word. So one product and one convolution, forward
and backward, are run in both formats, about a tenth of a second in all. Their sizes are typical of a training step of
the small models that CPUs train; on other devices, where such work would only measure the start of kernels, they are
larger. A CPU is tried on one thread, by the time that the thread ran, so that other work on the machine counts little.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import torch
from torch.nn import functional

from rscc_hf.text import reason_of

_EMULATED = 1.25  # slower by more than this: no accident of the clock
_ROUNDS = 6
_ENOUGH_SECONDS = 0.03  # for one operation in both formats; two rounds are run in any case
_ROOM = 1.25  # float32 weights and what answering needs beside them
_CGROUPS = (  # the limits of a container, new and old: most, used, and what of it is given back on demand
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


@dataclass(frozen=True)
class Trial:
    """What one product and one convolution took in float32 and in a 16-bit format, forward and backward.

    Attributes:
        device: Where: `cpu`, `cuda:0`, ...
        dtype: The 16-bit format.
        product: Seconds of the matrix product in float32 and under autocast to `dtype`; 0 where `native` is true.
        convolution: The same of the convolution.
        native: Whether the device says that it has instructions for the format; None: it does not say.
        problem: Why the format cannot be used at all; None: it can.
    """

    device: str
    dtype: torch.dtype
    product: tuple[float, float]
    convolution: tuple[float, float]
    native: bool | None = None
    problem: str | None = None

    @property
    def factor(self) -> float:
        """Time in the 16-bit format by time in float32."""
        return (self.product[1] + self.convolution[1]) / (self.product[0] + self.convolution[0])

    @property
    def pays(self) -> bool:
        """Whether the format is quicker than float32."""
        if self.problem is not None:
            return False
        return self.factor < 1 if self.native is None else self.native

    @property
    def emulated(self) -> bool:
        """Whether the format is clearly slower than float32, or has no instructions."""
        return self.problem is None and (self.factor > _EMULATED if self.native is None else not self.native)

    @property
    def product_emulated(self) -> bool:
        """As `emulated`, of matrix products alone; also where the format cannot be used."""
        if self.problem is not None or self.native is not None:
            return not self.native
        return self.product[1] > _EMULATED * self.product[0]

    @property
    def name(self) -> str:
        """The format: bfloat16 or float16."""
        return _NAMES[self.dtype]

    @property
    def verdict(self) -> str:
        """Of a format that is emulated or fails: what it costs, with the times."""
        if self.problem is not None:
            return str(self)
        return f"{self.name} is emulated here and takes {self.factor:.1f} times as long as float32 ({self})"

    def __str__(self) -> str:
        if self.problem is not None:
            return f"{self.name} does not work on {self.device}: {self.problem}"
        if self.native:
            return f"{self.device} has instructions for {self.name}"
        single, half = (
            (product + kernel) * 1e3 for product, kernel in zip(self.product, self.convolution, strict=True)
        )
        return (
            f"a product and a convolution take {single:.1f} ms in float32 and {half:.1f} ms in {self.name} on "
            f"{self.device}"
        )


def try_dtype(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Trial:
    """Try a 16-bit format on a device; once a process for each device and format.

    Torch's random generators are not used, and its number of threads is what it was afterwards.

    Args:
        device: Where.
        dtype: `torch.bfloat16` or `torch.float16`.
    """
    return _tried("cpu" if device.type == "cpu" else str(device), dtype)  # some launchers number CPUs


@cache
def _tried(device: str, dtype: torch.dtype) -> Trial:
    return measure(torch.device(device), dtype)


def measure(device: torch.device, dtype: torch.dtype) -> Trial:
    """Measure for `try_dtype`, which keeps what this finds."""
    native = None
    if device.type == "cuda":
        # A V100 takes bfloat16 too, by emulation
        native = dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
        if native:
            return Trial(str(device), dtype, (0.0, 0.0), (0.0, 0.0), native)
    scale = 1 if device.type == "cpu" else 16
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    with torch.inference_mode(False), torch.enable_grad(), _one_thread(device):
        rows, matrix = leaf(512 * scale, 128), leaf(256, 128)
        maps, kernels = leaf(2 * scale, 32, 32, 32), leaf(32, 32, 3, 3)
        try:
            product = _clock(lambda: functional.linear(rows, matrix), device, dtype)
            convolution = _clock(lambda: functional.conv2d(maps, kernels, padding=1), device, dtype)
        except (RuntimeError, TypeError) as error:
            return Trial(str(device), dtype, (0.0, 0.0), (0.0, 0.0), native, reason_of(error))
    return Trial(str(device), dtype, product, convolution, native)


def quick_dtype(
    saved: torch.dtype, weight_bytes: Callable[[], float], device: torch.device
) -> tuple[torch.dtype, str]:
    """Choose the format to load weights in: theirs, or float32 where theirs is emulated and float32 fits into memory.

    Args:
        saved: The format in which the weights were saved.
        weight_bytes: Tells their size in it; asked only where it matters.
        device: Where they are to answer.

    Returns:
        The format, and half a sentence on why it is not the quicker or not the saved one; empty: nothing to say.
    """
    if saved not in _NAMES:
        return saved, ""
    trial = try_dtype(device, saved)
    if not trial.emulated and trial.problem is None:
        return saved, ""
    why = f"it is saved in {trial.name}, and {trial.verdict}"
    need, free = 2 * weight_bytes() * _ROOM, free_memory(device)
    if need <= free:
        return torch.float32, f"{why}: loaded in float32 (dtype {trial.name} loads it as it is saved)"
    size = "an unknown size" if math.isinf(need) else f"{need / 1e9:.1f} GB"
    return saved, f"{why}: float32 would need {size} and {free / 1e9:.1f} GB are free, so it is loaded as it is saved"


def free_memory(device: torch.device) -> float:
    """Count the bytes that can still be taken on a device; of the main memory where it has none of its own."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _left_to_container(Path("/sys/fs/cgroup")))


def _left_to_container(root: Path) -> float:
    """Count what a container may still take; infinity where there is no limit. psutil sees the whole machine."""
    for most, used, statistics, reclaimable in _CGROUPS:
        try:
            limit, taken = ((root / name).read_text().strip() for name in (most, used))
            given_back = dict(line.split() for line in (root / statistics).read_text().splitlines())
            return float("inf") if limit == "max" else int(limit) - int(taken) + int(given_back.get(reclaimable, 0))
        except (OSError, ValueError):
            continue
    return float("inf")


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    threads = torch.get_num_threads()
    if device.type == "cpu" and threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _clock(operation: Callable[[], torch.Tensor], device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Measure the least seconds in float32 and in `dtype`; the rounds take turns, so that other work hits both."""
    # Windows counts a thread's time in ticks of 16 ms, macOS multiplies in threads of its own
    now = time.thread_time if device.type == "cpu" and sys.platform == "linux" else time.perf_counter
    least = {False: float("inf"), True: float("inf")}
    begin = now()
    for number in range(_ROUNDS):
        for low in least:
            start = now()
            with torch.autocast(device.type, dtype=dtype, enabled=low):
                result = operation()
            result.float().sum().backward()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            least[low] = min(least[low], now() - start)
        if number and now() - begin > _ENOUGH_SECONDS:
            break
    return least[False], least[True]
