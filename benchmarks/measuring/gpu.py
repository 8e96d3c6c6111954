"""Timing on an NVIDIA GPU, and what the device could issue at most, measured on it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

FMA = """
extern "C" __global__ void __launch_bounds__(256) chain(float *out, int rounds, float a, float b) {
    float x[16];
    #pragma unroll
    for (int k = 0; k < 16; ++k) x[k] = threadIdx.x + k;
    #pragma unroll 1
    for (int r = 0; r < rounds; ++r)
        #pragma unroll
        for (int t = 0; t < 8; ++t)
            #pragma unroll
            for (int k = 0; k < 16; ++k) x[k] = fmaf(x[k], a, b);
    float s = 0;
    #pragma unroll
    for (int k = 0; k < 16; ++k) s += x[k];
    if (s == 1.2345f) out[0] = s;
}
"""


def seconds(cupy: Any, run: Callable[[], Any]) -> Callable[[int], float]:
    """`run` as the `seconds` of a contestant: between two events on the current stream."""

    def measure(calls: int) -> float:
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3

    return measure


def issue_rate(cupy: Any) -> float:
    """Lane-instructions/s of multiply-add chains that fill the device: 32 times the issue slots/s. Best of ten."""
    kernel = cupy.RawKernel(FMA, "chain")
    processors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    blocks, rounds = processors * 8, 4000
    out = cupy.zeros(1, cupy.float32)
    arguments = (out, cupy.int32(rounds), cupy.float32(0.999), cupy.float32(0.001))
    once = seconds(cupy, lambda: kernel((blocks,), (256,), arguments))
    once(1)
    # a round is 128 multiply-adds and about three instructions of the loop
    return blocks * 256 * rounds * 131 / min(once(1) for _ in range(10))


def facts(cupy: Any) -> dict[str, Any]:
    """The device, its clocks, and the versions that ran; ready for JSON."""
    device = cupy.cuda.Device()
    properties = cupy.cuda.runtime.getDeviceProperties(device.id)
    return {
        "device": properties["name"].decode(),
        "capability": int(device.compute_capability),
        "processors": device.attributes["MultiProcessorCount"],
        "memory_GiB": round(properties["totalGlobalMem"] / 2**30, 1),
        "smi": _smi(device.id),
        "cupy": cupy.__version__,
        "cuda_runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "cuda_driver": cupy.cuda.runtime.driverGetVersion(),
    }


def _smi(ordinal: int) -> dict[str, str]:
    fields = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu")
    command = ["nvidia-smi", f"--id={ordinal}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(fields, (value.strip() for value in line.split(",")), strict=False))
