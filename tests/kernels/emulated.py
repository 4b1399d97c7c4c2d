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
# Rows of x that a block of a product in FP8 takes.
FP8_TILES = [8, 16]
NAMES = {
    "attention.cu": ["rotate_and_store", "attend"],
    "attention_mma.cu": ["rotate_and_attend_4", "rotate_and_attend_8"],
    "draw.cu": ["draw"],
    "few.cu": [f"{what}_{rows}" for what in ["normed", "plain", "gated", "added"] for rows in [1, 2, 4]],
    "fp8.cu": ["round_rows", "rms_norm_rounded", "silu_mul_rounded"]
    + [f"{product}_{rows}" for product in ("product", "gated") for rows in FP8_TILES],
    "layer.cu": ["embed", "rms_norm", "silu_mul"],
    "merge.cu": ["merge"],
    "latent.cu": ["store_latent", "rotate_query", "attend_latent"],
    "latent_mma.cu": ["attend_latent_mma"],
    "router.cu": ["route", "sort_by_expert", "combine"],
    "experts.cu": ["gate_any", "down_any"],
    "experts_mma.cu": ["gate_3", "gate_4", "down_3", "down_4"],
    "train.cu": ["add_rms_norm", "rms_norm_backward", "sum_parts", "silu_mul_rows"]
    + ["silu_mul_backward", "rotate_heads", "rotate_heads_backward", "rotate_tails"]
    + ["rotate_tails_backward", "expand_latent", "expand_latent_backward"],
    "routed.cu": ["count_pairs", "place_pairs", "spread_rows", "sum_rows", "weigh_rows"]
    + ["weigh_rows_backward", "weigh_experts", "weigh_experts_backward"],
    "adamw.cu": ["adamw", "square_sums"],
    "logprobs.cu": ["logprobs", "logits_gradient"],
}
DTYPES = {1: torch.bfloat16, 0: torch.float32}
# Tokens of a page of the cache.
PAGE = 64


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


class Paged:
    """Caches of rows, [rows, heads, places, width] each, in pages that lie in a mixed order. What no
    row has is NaN, and behind the pages of a row stands one that is none."""

    def __init__(self, *caches):
        rows, _, self.places, _ = caches[0].shape
        self.count = -(-self.places // PAGE)
        pages = torch.randperm(rows * self.count + 3, generator=torch.Generator().manual_seed(7))
        self.order, self.spare = pages[:-3], pages[-3:]
        none = torch.full((rows, 1), 1 << 30)
        self.table = torch.cat([self.order.view(rows, -1), none], 1).int().contiguous()
        self.row_pages = self.count + 1
        self.memory = [self.paged(cache, len(pages)) for cache in caches]
        self.addresses = torch.tensor([memory.data_ptr() for memory in self.memory])

    def paged(self, cache, pages):
        rows, heads, _, width = cache.shape
        memory = torch.full((pages, heads, PAGE, width), float("nan"), dtype=cache.dtype)
        whole = torch.full((rows, heads, self.count * PAGE, width), float("nan"), dtype=cache.dtype)
        whole[:, :, : self.places] = cache
        split = whole.view(rows, heads, self.count, PAGE, width).transpose(1, 2)
        memory[self.order] = split.reshape(-1, heads, PAGE, width)
        return memory

    def caches(self):
        """The rows' caches as they are now."""
        found = []
        for memory in self.memory:
            assert memory[self.spare].isnan().all(), "a page of no row was written"
            _, heads, _, width = memory.shape
            split = memory[self.order].view(-1, self.count, heads, PAGE, width).transpose(1, 2)
            whole = split.reshape(-1, heads, self.count * PAGE, width)
            assert whole[:, :, self.places :].isnan().all(), "a place behind the last was written"
            found.append(whole[:, :, : self.places].contiguous())
        return found


def noise(*shape, seed=0, dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def off(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()
