"""The CUDA kernels compile for Hopper, on a machine without a GPU: NVRTC comes with torch's wheel.

The definitions are those that daemon/kernels/src/decode.rs writes for models in use."""

import ctypes
import pathlib
import re
import sysconfig

import pytest

KERNELS = pathlib.Path(__file__).resolve().parents[2] / "daemon/kernels"
# The definitions of each file: those of attention are (head_dim, query heads of one key head that a
# block takes), those of latent attention (latent, rotary dimensions).
HEADS = [(64, 7), (128, 8), (128, 6), (256, 8), (16, 2)]
HEADS_MMA = [(64, 7), (64, 1), (64, 8), (128, 8), (128, 6)]
LATENTS = [(512, 64), (128, 64), (48, 16)]
EXPERTS = [8, 64, 160, 256]
CASES = [("attention.cu", dict(HEAD_DIM=d, GROUP=group)) for d, group in HEADS]
CASES += [("attention_mma.cu", dict(HEAD_DIM=d, GROUP=group)) for d, group in HEADS_MMA]
CASES += [("latent.cu", dict(LATENT=latent, ROPE=rope)) for latent, rope in LATENTS]
CASES += [("latent_mma.cu", dict(LATENT=latent, ROPE=64)) for latent in (512, 128)]
CASES += [("router.cu", dict(EXPERTS=experts)) for experts in EXPERTS]
REST = ["layer.cu", "few.cu", "threshold.cu", "draw.cu", "merge.cu", "experts.cu", "experts_mma.cu"]
REST += ["train.cu", "logprobs.cu", "fp8.cu", "routed.cu", "adamw.cu"]
CASES += [(name, {}) for name in REST]
# Registers that spill to memory would cost more than the kernel does.
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores")


def nvrtc():
    folder = pathlib.Path(sysconfig.get_paths()["purelib"]) / "nvidia/cu13/lib"
    # It opens its builtins by name alone.
    for builtins in folder.glob("libnvrtc-builtins.so.13.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(folder / "libnvrtc.so.13"))


def compile_kernel(library, text, name, definitions):
    """The compiler's status and messages."""
    program = ctypes.c_void_p()
    created = library.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), name.encode(), 0, None, None
    )
    assert created == 0
    options = ["--gpu-architecture=sm_90a", "--std=c++17", "--ptxas-options=-v"]
    options += [f"--define-macro={one}" for one in definitions]
    array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    status = library.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    assert library.nvrtcGetProgramLogSize(program, ctypes.byref(size)) == 0
    log = ctypes.create_string_buffer(size.value)
    assert library.nvrtcGetProgramLog(program, log) == 0
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode()


@pytest.mark.parametrize("bfloat16", [1, 0])
@pytest.mark.parametrize("name, defined", CASES)
def test_a_kernel_compiles_without_spills(name, defined, bfloat16):
    files = ["ptx.cuh", "common.cuh", name]
    text = "\n".join((KERNELS / "cuda" / file).read_text() for file in files)
    definitions = [f"{name}={value}" for name, value in [("BFLOAT16", bfloat16), *defined.items()]]
    status, log = compile_kernel(nvrtc(), text, name, definitions)
    assert status == 0, log
    spills = [int(stores) for _, stores in SPILL.findall(log)]
    # In float32 nothing is for the tensor cores.
    assert spills or ((name.endswith("_mma.cu") or name == "fp8.cu") and not bfloat16)
    assert max(spills, default=0) == 0, log
