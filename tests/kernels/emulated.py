"""Builds the CUDA kernels' text for the CPU (`emulator.h`) and launches it."""

import ctypes
import functools
import pathlib
import re
import struct
import subprocess

import torch

HERE = pathlib.Path(__file__).resolve().parent
CUDA = HERE.parents[1] / "daemon/kernels/cuda"
NAMES = {
    "attention.cu": ["rotate_and_store", "attend"],
    "attention_mma.cu": ["rotate_and_attend_4", "rotate_and_attend_8"],
    "draw.cu": ["draw"],
    "few.cu": [f"{what}_{rows}" for what in ["normed", "plain", "gated", "added"] for rows in [1, 2, 4]],
    "merge.cu": ["merge"],
    "latent.cu": ["store_latent", "rotate_query", "attend_latent"],
    "latent_mma.cu": ["attend_latent_mma"],
    "router.cu": ["route", "sort_by_expert", "combine"],
    "experts.cu": ["gate_any", "down_any"],
    "experts_mma.cu": ["gate_3", "gate_4", "down_3", "down_4"],
    "train.cu": ["add_rms_norm", "rms_norm_backward", "sum_parts", "silu_mul_rows"]
    + ["silu_mul_backward", "rotate_heads", "rotate_heads_backward"],
    "logprobs.cu": ["logprobs", "logits_gradient"],
}
DTYPES = {1: torch.bfloat16, 0: torch.float32}


def builder(folder):
    """A function that builds a file of kernels under definitions, once, and opens the library."""

    @functools.cache
    def build(name, bfloat16, **definitions):
        text = (CUDA / "common.cuh").read_text() + (CUDA / name).read_text()
        # Memory that a launch gives a size to.
        text = re.sub(
            r"extern __shared__ (?:__align__\(16\) )?([\w ]+) (\w+)\[\];",
            r"\1 *\2 = (\1 *)dynamic_shared;",
            text,
        )
        launches = "\n".join(
            f'extern "C" void launch_{kernel}(const int *grid, int threads, const uint64_t *slots) '
            f"{{ launch({kernel}, grid, threads, slots); }}"
            for kernel in NAMES[name]
        )
        values = "-".join(map(str, definitions.values()))
        source = folder / f"{name}-{bfloat16}-{values}.cpp"
        source.write_text(f'#include "{HERE}/emulator.h"\n{text}\n{launches}\n')
        library = source.with_suffix(".so")
        defined = {"BFLOAT16": bfloat16, **definitions}
        # Shared memory is static variables, which must stay each library's own.
        options = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-fno-gnu-unique"]
        command = ["g++", *options, *[f"-D{name}={value}" for name, value in defined.items()]]
        subprocess.run([*command, source, "-o", library], check=True)
        return ctypes.CDLL(str(library))

    return build


def launch(library, kernel, grid, threads, *arguments):
    """A tensor is passed by its address, None as a null pointer."""
    slots = (ctypes.c_uint64 * len(arguments))()
    for at, argument in enumerate(arguments):
        if isinstance(argument, torch.Tensor):
            assert argument.is_contiguous()
            slots[at] = argument.data_ptr()
        elif isinstance(argument, float):
            slots[at] = struct.unpack("I", struct.pack("f", argument))[0]
        else:
            slots[at] = (argument or 0) & 0xFFFFFFFFFFFFFFFF
    getattr(library, f"launch_{kernel}")((ctypes.c_int * 3)(*grid), threads, slots)


def noise(*shape, seed=0, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def off(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()
