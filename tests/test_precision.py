"""The trial that says whether a 16-bit format pays on a device."""

import math
import time

import pytest
import torch

from rscc_hf import precision
from rscc_hf.precision import Trial, measure, try_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_trial_measures_and_leaves_no_trace(dtype):
    """Seconds are positive and finite; threads, random generators and autocast are as they were."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with torch.inference_mode():
        trial = measure(CPU, dtype)
    assert trial.problem is None and trial.native is None
    for single, half in (trial.product, trial.convolution):
        assert 0 < single < math.inf and 0 < half < math.inf
    assert 0.01 < trial.factor < 1000 and not (trial.pays and trial.emulated)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("factor", "pays", "emulated"), [(0.7, True, False), (1.1, False, False), (2.0, False, True), (15.0, False, True)]
)
def test_quicker_pays_and_clearly_slower_is_emulated(factor, pays, emulated):
    """Between the two, where the clock may err, nothing is chosen and nothing is said."""
    trial = Trial("cpu", torch.bfloat16, (0.002, 0.002 * factor), (0.004, 0.004 * factor))
    assert math.isclose(trial.factor, factor)
    assert (trial.pays, trial.emulated, trial.product_emulated) == (pays, emulated, emulated)


def test_a_device_that_says_so_is_believed():
    """Of CUDA it is known; the times of so small kernels would say little."""
    yes = Trial("cuda:0", torch.bfloat16, (0.0, 0.0), (0.0, 0.0), native=True)
    no = Trial("cuda:0", torch.bfloat16, (0.002, 0.001), (0.002, 0.001), native=False)
    assert yes.pays and not yes.emulated and not yes.product_emulated
    assert not no.pays and no.emulated and no.product_emulated
    assert str(yes) == "cuda:0 has instructions for bfloat16"


def test_a_format_that_fails_does_not_pay(monkeypatch):
    """MPS before macOS 14, say, refuses bfloat16."""

    def refuse(*given):
        raise TypeError("BFloat16 is not supported on MPS\nand more")

    monkeypatch.setattr(precision, "_clock", refuse)
    trial = measure(CPU, torch.bfloat16)
    assert not trial.pays and not trial.emulated and trial.product_emulated
    assert str(trial) == "bfloat16 does not work on cpu: BFloat16 is not supported on MPS"


def test_a_device_is_tried_once(monkeypatch, fake_trial):
    fake_trial(3.0)
    first = try_dtype(CPU)
    monkeypatch.setattr(precision, "measure", None)
    assert try_dtype(CPU) is first
    assert str(first) == "a product and a convolution take 2.0 ms in float32 and 6.0 ms in bfloat16 on cpu"


def test_the_rounds_end(monkeypatch):
    """Two rounds at least; slow ones are not repeated."""
    count = []

    def slow():
        count.append(1)
        time.sleep(0.02)
        return torch.zeros(1, requires_grad=True)

    monkeypatch.setattr(precision.time, "thread_time", time.perf_counter)
    precision._clock(slow, CPU, torch.bfloat16)
    assert len(count) == 4
