"""The driver as a program meets it: forks, the command lines, the cache, its settings."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pygan.bindings.cpu_driver import build, nvcc_standin, settings, source_rewriter

pytest.importorskip("pycuda")

PROGRAM = """
import os, sys
import numpy as np
import pycuda.autoinit, pycuda.driver as drv
from pycuda.compiler import SourceModule

SOURCE = '''
__global__ void reduce(const float *x, float *sums) {
    __shared__ float s[256];
    s[threadIdx.x] = x[blockIdx.x * 256 + threadIdx.x];
    __syncthreads();
    for (int n = 128; n; n /= 2) {
        if (threadIdx.x < n) s[threadIdx.x] += s[threadIdx.x + n];
        __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = s[0];
}
'''
kernel = SourceModule(SOURCE).get_function("reduce")
x = np.random.default_rng(0).integers(0, 50, (400, 256)).astype(np.float32)

def right():
    sums = np.zeros(400, np.float32)
    kernel(drv.In(x), drv.Out(sums), grid=(400, 1), block=(256, 1, 1))
    return np.array_equal(sums, x.sum(1))
"""


def run(
    tmp_path: Path, program: str, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "program.py"
    path.write_text(program)
    return subprocess.run(
        [sys.executable, "-m", "pygan.bindings.cpu_driver", str(path), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | settings,
        timeout=300,
    )


def test_runner_hands_arguments_to_the_program(tmp_path: Path) -> None:
    result = run(tmp_path, PROGRAM + "print(right(), sys.argv[1:], __name__)", "one", "--two")
    assert result.stdout == "True ['one', '--two'] __main__\n", result.stderr


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PYGAN_CPU_THREADS", "0", "at least 1"),
        ("PYGAN_CPU_THREAD_ORDER", "descending", "ascending, or random:SEED"),
        ("PYGAN_CPU_GRAPH_ORDER", "first", "submitted, or last"),
        ("PYGAN_CPU_MEMORY", "4GB", "a whole number of bytes"),
        ("PYGAN_CPU_TIMEOUT", "soon", "a number of seconds"),
        ("PYGAN_CPU_TIMEOUT", "nan", "a number of seconds"),
        ("PYGAN_CPU_CHECK", "maybe", "1 for check mode"),
        ("PYGAN_CACHE_LIMIT", "2GB", "a whole number of megabytes"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    settings.check()
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} is '{value}'; it must be .*{allowed}"):
        settings.check()
    monkeypatch.setenv(name, "")
    settings.check()


def test_a_compiler_that_is_named_and_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYGAN_CXX", "no-such-compiler -O2")
    with pytest.raises(nvcc_standin.CompileError, match=r"PYGAN_CXX is 'no-such-compiler -O2'"):
        nvcc_standin.find_compiler()


def test_a_program_is_not_begun_with_such_a_setting(tmp_path: Path) -> None:
    done = run(tmp_path, "print('begun')", PYGAN_CPU_THREADS="many")
    assert done.returncode == 1 and "PYGAN_CPU_THREADS is 'many'" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


def test_forked_children_launch_on_threads_of_their_own(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + """
assert right()
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(right() for _ in range(20)) else 1)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
print(codes, right())
"""
    )
    result = run(tmp_path, program, PYGAN_CPU_THREADS="4")
    assert result.stdout == "[0, 0, 0] True\n", result.stderr


@pytest.mark.parametrize(
    "settings",
    [{"PYGAN_CPU_THREADS": "1"}, {"PYGAN_CPU_THREADS": "5"},
     {"PYGAN_CPU_THREAD_ORDER": "random:1"}, {"PYGAN_CPU_THREAD_ORDER": "random:2"}],
)  # fmt: skip
def test_results_do_not_depend_on_workers_or_thread_order(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    result = run(tmp_path, PROGRAM + "print(all(right() for _ in range(5)))", **settings)
    assert result.stdout == "True\n", result.stderr


def test_random_order_shows_a_missing_barrier(tmp_path: Path) -> None:
    program = PROGRAM.replace("        __syncthreads();\n    }", "    }") + "print(right())"
    assert run(tmp_path, program, PYGAN_CPU_THREAD_ORDER="random:7").stdout == "False\n"


SPIN = (
    PROGRAM
    + """
spin = SourceModule("__global__ void spin(volatile int *flag) { while (!*flag) { %s } }")
spin = spin.get_function("spin")
flag = drv.mem_alloc(4)
drv.memset_d32(flag, 0, 1)
import signal
signal.signal(signal.SIGINT, lambda number, frame: None)  # only the driver acts on Ctrl-C
print("spinning", flush=True)
try:
    spin(flag, grid=(4, 1), block=(64, 1, 1))
except drv.LaunchError as error:
    print(error, flush=True)
"""
)
# A launch that waits long for a processor may meet the limit too.
RIGHT_IN_TIME = """
for _ in range(100):
    try:
        print(right())
        break
    except drv.LaunchError:
        pass
"""
RIGHT_AFTER_A_LINE = """
sys.stdin.readline()
print(right())
"""


@pytest.mark.parametrize("inside", ["", "__syncthreads();"])
def test_endless_kernels_end_at_the_time_limit(tmp_path: Path, inside: str) -> None:
    result = run(tmp_path, SPIN % inside + RIGHT_IN_TIME, PYGAN_CPU_TIMEOUT="0.6")
    assert "kernel spin: block (" in result.stdout and "PYGAN_CPU_TIMEOUT" in result.stdout
    assert result.stdout.endswith("True\n"), result.stderr


def test_ctrl_c_ends_an_endless_kernel(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(SPIN % "" + RIGHT_AFTER_A_LINE)
    process = subprocess.Popen(
        [sys.executable, "-m", "pygan.bindings.cpu_driver", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "spinning\n"
    # A launch is watched once it is half a second old: until then Ctrl-C is Python's alone.
    ended = threading.Event()

    def interrupt() -> None:
        while not ended.wait(0.3) and process.poll() is None:
            process.send_signal(signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    said = process.stdout.readline()
    ended.set()
    interrupting.join()
    output, errors = process.communicate("\n", timeout=300)
    assert "kernel spin: block (" in said and "interrupted" in said, errors
    assert output == "True\n", errors


def test_portable_fibers_behave_as_the_assembly_ones(tmp_path: Path) -> None:
    """The form for processors without an assembly switch, built here on purpose."""
    library = build.library(("-DCPU_DRIVER_PORTABLE_FIBERS",))
    program = "\n".join(
        [
            "import ctypes, os",
            f"ctypes.CDLL({str(library)!r}, mode=ctypes.RTLD_GLOBAL)",
            f"os.environ['PATH'] = {str(build.nvcc_folder())!r} + ':' + os.environ['PATH']",
            PROGRAM,
            "print(all(right() for _ in range(5)))",
        ]
    )
    path = tmp_path / "portable.py"
    path.write_text(program)
    result = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert result.stdout == "True\n", result.stderr


def test_a_real_driver_in_the_process_is_an_error_not_a_mixture(tmp_path: Path) -> None:
    # Any library of that name will do: the driver must not load beside it.
    fake = tmp_path / "libcuda.so.1"
    source = tmp_path / "empty.c"
    source.write_text("int cuInit(unsigned f) { return 100; }\n")
    subprocess.run(
        [nvcc_standin.find_compiler(), "-shared", "-fPIC", "-o", str(fake), str(source)], check=True
    )
    program = f"""
import ctypes
ctypes.CDLL({str(fake)!r})
from pygan.bindings import cpu_driver
try:
    cpu_driver.activate()
except cpu_driver.DriverError as error:
    print(cpu_driver.is_active(), error)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout.startswith("False a CUDA driver is loaded already"), result.stderr
    assert str(fake) in result.stdout


# --- the stand-in for nvcc ------------------------------------------------------------------


def nvcc(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(build.nvcc_folder() / "nvcc"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | settings,
    )


def test_nvcc_command_lines(tmp_path: Path) -> None:
    (tmp_path / "inc").mkdir()
    (tmp_path / "inc" / "n.h").write_text("#define N 3\n")
    source = tmp_path / "kernel.cu"
    source.write_text(
        '#include "n.h"\n#ifdef EXTRA\n#define V (N + EXTRA)\n#endif\n'
        'extern "C" __global__ void f(int *x) { *x = V; }\n'
    )
    version = nvcc(tmp_path, "--version")
    assert version.returncode == 0 and "release 13.0" in version.stdout
    assert nvcc_standin.fingerprint() in version.stdout

    options = ["-arch", "sm_90", "-Iinc", "-DEXTRA=4", "-use_fast_math", "-Xptxas", "-v", "-O3"]
    for target in ("cubin", "fatbin", "ptx"):
        done = nvcc(tmp_path, f"--{target}", *options, "kernel.cu")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (tmp_path / f"kernel.{target}").read_bytes()[:4] == b"\x7fELF"
    done = nvcc(tmp_path, "-cubin", "-gencode=arch=compute_90,code=sm_90", *options, "--keep",
                "-o", "out.bin", "kernel.cu")  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "out.bin").exists()

    text = nvcc(tmp_path, "--preprocess", *options, str(source), "--compiler-options", "-P").stdout
    assert "*x = (3 + 4)" in text and "#" not in text

    wrong = nvcc(tmp_path, "--cubin", "-Iinc", "kernel.cu")
    assert wrong.returncode == 1 and "kernel.cu:5:" in wrong.stderr and "V" in wrong.stderr
    assert "one source file" in nvcc(tmp_path, "--cubin", "a.cu", "b.cu").stderr
    assert nvcc(tmp_path, "--cubin", "absent.cu").returncode == 1


def test_second_compile_takes_the_image_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYGAN_CACHE", str(tmp_path / "cache"))
    header = tmp_path / "value.h"
    header.write_text("#define VALUE 1\n")
    source = tmp_path / "k.cu"
    source.write_text('#include "value.h"\n__global__ void f(int *x) { *x = VALUE; }\n')
    compiled = []
    original = source_rewriter.rewrite

    def counted(*arguments: object, **options: object) -> object:
        compiled.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(source_rewriter, "rewrite", counted)
    first = nvcc_standin.compile_image(str(source), [])
    assert nvcc_standin.compile_image(str(source), []) == first and len(compiled) == 1
    header.write_text("#define VALUE 2\n")  # an include counts
    assert nvcc_standin.compile_image(str(source), []) != first and len(compiled) == 2
    nvcc_standin.compile_image(str(source), ["-DOTHER"])  # the source does not look at it
    assert len(compiled) == 2
    leftovers = [p for p in (tmp_path / "cache").rglob(".new-*")]
    assert leftovers == []


# --- which kernels run as plain loops -------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "plain"),
    [
        ("x[i] = 2 * x[i];", True),
        ("if (i < n) x[i] = helper(x[i]);", True),
        ("for (int k = i; k < n; k += blockDim.x * gridDim.x) x[k] = 0;", True),
        ("__syncthreads(); x[i] = 0;", False),
        ("waits(); x[i] = 0;", False),
        ("waits_too(); x[i] = 0;", False),
        ("MACRO; x[i] = 0;", False),
        ("__shared__ float s[32]; s[i] = x[i]; x[i] = s[i];", False),
        ("atomicAdd(x, 1.0f);", False),
        ("x[i] = __shfl_xor_sync(~0u, x[i], 1);", False),
        ("volatile float *v = x; v[i] = 1;", False),
    ],
)
def test_only_kernels_without_any_cooperation_become_plain_loops(
    tmp_path: Path, body: str, plain: bool
) -> None:
    source = tmp_path / "k.cu"
    source.write_text(
        "#define MACRO __syncwarp()\n"
        "__device__ float helper(float v) { return v > 0 ? v : 0.1f * v; }\n"
        "__device__ void deep() { __syncthreads(); }\n"
        "__device__ void waits() { deep(); }\n"
        "__global__ void other() { __syncthreads(); }\n"
        "__device__ void waits_too() { __syncthreads(); }\n"  # behind a kernel
        "__global__ void k(float *x, int n) {\n"
        f"  int i = blockIdx.x * blockDim.x + threadIdx.x; {body} }}\n"
    )
    expanded = nvcc_standin.preprocess(str(source), [], nvcc_standin.Build())
    kernels = {k.name: k for k in source_rewriter.rewrite(expanded).kernels}
    assert kernels["k"].plain is plain
    assert not kernels["other"].plain
    assert kernels["k"].parameters == ["x", "n"] and kernels["k"].line == 7


def test_plain_loop_and_fibers_give_the_same_bits(tmp_path: Path) -> None:
    program = """
import hashlib
import numpy as np
import pycuda.autoinit, pycuda.driver as drv
from pycuda.compiler import SourceModule

adam = SourceModule('''
__global__ void adam(float *w, const float *g, float *m, float *v, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        m[i] = 0.5f * m[i] + 0.5f * g[i];
        v[i] = 0.999f * v[i] + 0.001f * g[i] * g[i];
        w[i] -= 2e-4f * m[i] / (sqrtf(v[i]) + 1e-8f);
    }
}
''').get_function("adam")
rng = np.random.default_rng(0)
arrays = [rng.random(10007, np.float32) for _ in range(4)]
adam(*[drv.InOut(a) for a in arrays], np.int32(10007), grid=(13, 1), block=(96, 1, 1))
print(hashlib.sha256(np.concatenate(arrays).tobytes()).hexdigest())
"""
    plain = run(tmp_path, program)
    fibers = run(tmp_path, program, PYGAN_CPU_THREAD_ORDER="random:3")
    assert plain.returncode == 0 == fibers.returncode, plain.stderr
    assert plain.stdout == fibers.stdout


# x * x - y for x = 1 + 2^-12 and y its rounded square: only a fused sum sees what was rounded off.
FUSED = """
import numpy as np
import pycuda.autoinit, pycuda.driver as drv
from pycuda.compiler import SourceModule

source = '__global__ void k(float *r, float x, float y) { *r = x * x - y; r[1] = fmaf(x, x, -y); }'
for options in ([], ["-fmad=true"], ["-fmad=false"], ["--fmad", "false"]):
    x, r = np.float32(1 + 2**-12), np.empty(2, np.float32)
    kernel = SourceModule(source, options=options, cache_dir=False).get_function("k")
    kernel(drv.Out(r), x, x * x, grid=(1, 1), block=(1, 1, 1))
    print(*(int(v * 2**24) for v in r))
"""


def test_products_and_sums_are_fused_as_nvcc_is_told(tmp_path: Path) -> None:
    done = run(tmp_path, FUSED)
    assert done.returncode == 0, done.stderr
    features = nvcc_standin.processor_features().split()
    fuses = "fma" in features or platform.machine() not in ("x86_64", "AMD64")
    usual = "1 1" if fuses else "0 1"  # a processor without the instruction fuses fmaf alone
    assert done.stdout.split("\n")[:4] == [usual, usual, "0 1", "0 1"]
    wrong = nvcc(tmp_path, "--cubin", "-fmad=maybe", "kernel.cu")
    assert wrong.returncode == 1 and "-fmad is true or false, not 'maybe'" in wrong.stderr
