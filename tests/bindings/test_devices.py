"""pygan.device: which devices there are, and what they have in common."""

from __future__ import annotations

import pickle
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import pygan.device
from pygan.bindings.context import Context
from pygan.bindings.errors import ArgumentError, DeviceMemoryError
from pygan.device import DeviceError


@pytest.fixture(params=["numpy", "kernels"])
def device(request, context):
    return pygan.device.get("numpy" if request.param == "numpy" else context.name)


def test_arrays_look_the_same_everywhere(device) -> None:
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    array = device.from_numpy(host)
    host[...] = -1
    assert (array.shape, array.dtype, array.size, array.nbytes) == ((3, 4), np.float32, 12, 48)
    assert len(array) == 3
    array[1:2] = 5
    array.reshape(12)[0:1] = np.array([7], np.float32)
    expected = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected[1] = 5
    expected[0, 0] = 7
    np.testing.assert_array_equal(np.asarray(array), expected)
    zeros = device.zeros((2, 2), np.int32)
    assert np.asarray(zeros).tolist() == [[0, 0], [0, 0]]
    zeros.fill(3)
    device.synchronize()
    assert np.asarray(zeros).tolist() == [[3, 3], [3, 3]]
    assert device.empty(5).dtype == np.float32


def test_arenas_look_the_same_everywhere(device) -> None:
    arena = device.arena(2048)
    first, second = arena.view(0, (4, 4), np.float32), arena.view(1024, 6, np.uint8)
    first[...] = 1.5
    second[...] = 200
    assert np.asarray(first).tolist() == [[1.5] * 4] * 4
    assert np.asarray(second).tolist() == [200] * 6
    again = arena.view(0, 16, np.float32)
    again[0:4] = 0
    assert np.asarray(first)[0].tolist() == [0] * 4
    with pytest.raises(ValueError, match="multiple of 256"):
        arena.view(128, 1, np.float32)
    with pytest.raises(ValueError, match="do not fit into an arena of 2048"):
        arena.view(1024, 257, np.float32)


def test_an_arena_of_the_host_takes_its_memory_when_it_is_made() -> None:
    """What is promised and not taken is given to the next one too, and a pass is killed for it."""

    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.M)
        assert found
        return 1024 * int(found.group(1))

    nbytes = 64 << 20
    before = resident()
    arena = pygan.device.get("numpy").arena(nbytes)
    assert resident() - before > 0.9 * nbytes
    assert arena.nbytes == nbytes


def test_memory_and_description(device) -> None:
    free, total = device.memory_info()
    assert 0 < free <= total
    assert device.name in device.description
    assert device.name in repr(device)


def test_operators_have_one_interface(context) -> None:
    """Every kernel has a twin, and the reverse."""
    kernels, twins = (pygan.device.get(name).ops for name in (context.name, "numpy"))
    families = ("forward", "backward", "_update", "random_", "gather_", "_cursor")
    names = [name for name in dir(twins) if any(family in name for family in families)]
    assert len(names) > 30
    assert all(callable(getattr(kernels, name, None)) for name in [*names, "workspace_size"])


def test_a_device_is_made_once() -> None:
    assert pygan.device.get("numpy") is pygan.device.get("numpy")
    assert pygan.device.get("auto").name in ("numpy", "cuda")


def test_an_unknown_device_lists_the_choices() -> None:
    with pytest.raises(DeviceError, match="'gpu'; choose one of: auto, numpy, cpu, cuda"):
        pygan.device.get("gpu")
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES"):
        pygan.device.get("cuda:1")


def test_a_pickled_device_is_the_same_device(context) -> None:
    for device in (pygan.device.get("numpy"), pygan.device.get(context.name, check=context.check)):
        assert pickle.loads(pickle.dumps(device)) is device


def test_check_mode_belongs_to_cpu() -> None:
    with pytest.raises(DeviceError, match="'cpu', not 'numpy'"):
        pygan.device.get("numpy", check=True)


def test_check_mode_is_another_context(context) -> None:
    if context.name != "cpu":
        pytest.skip("check mode needs the CPU driver")
    plain, checked = pygan.device.get("cpu"), pygan.device.get("cpu", check=True)
    assert (plain.check, checked.check) == (False, True)
    assert plain.context is Context.get("cpu")
    assert checked.context is Context.get("cpu", check=True)
    array = plain.from_numpy(np.arange(3, dtype=np.float32))  # one driver: memory is shared
    copy = checked.empty(3)
    copy[...] = array
    assert np.asarray(copy).tolist() == [0, 1, 2]


def test_a_process_has_one_driver(context) -> None:
    other = "cuda" if context.name == "cpu" else "cpu"
    with pytest.raises(DeviceError, match=r"already uses device .*another process"):
        pygan.device.get(other)


def test_numpy_needs_nothing_of_cuda(run_python) -> None:
    done = run_python(
        "import pygan.device, sys; pygan.device.get('numpy').zeros(3);"
        "print([name for name in sys.modules if 'pycuda' in name or 'bindings' in name])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_environment_switches_check_mode_on(run_python, context) -> None:
    if context.name != "cpu":
        pytest.skip("check mode needs the CPU driver")
    script = "import pygan.device; print(pygan.device.get('cpu').check)"
    assert run_python(script, PYGAN_CPU_CHECK="1").stdout.strip() == "True"
    assert run_python(script, PYGAN_CPU_CHECK="0").stdout.strip() == "False"


def test_without_pycuda_the_message_says_what_to_do(run_python) -> None:
    script = (
        "import sys; sys.modules['pycuda'] = None\n"
        "import pygan.device\n"
        "try: pygan.device.get('cpu')\n"
        "except pygan.device.DeviceError as error: print(error)"
    )
    done = run_python(script)
    assert "pygan.bindings.build_pycuda" in done.stdout, done.stderr
    assert "numpy" in done.stdout


def test_a_cache_folder_that_cannot_be_made_is_named(run_python, tmp_path) -> None:
    (tmp_path / "file").touch()
    script = (
        "import pygan.device\n"
        "try: pygan.device.get('cpu')\n"
        "except pygan.device.DeviceError as error: print(error)"
    )
    done = run_python(script, PYGAN_CACHE=str(tmp_path / "file" / "cache"))
    assert "cannot create the cache folder" in done.stdout, done.stderr
    assert "set PYGAN_CACHE" in done.stdout


def test_numpy_has_no_launches_to_record() -> None:
    with pytest.raises(DeviceError, match="nothing that a CUDA graph could hold"):
        pygan.device.get("numpy").record(lambda: None)


def test_auto_falls_to_numpy_only_openly(run_python) -> None:
    done = run_python(
        "import pygan.device; d = pygan.device.get('auto'); print(d.name, '|', d.description)"
    )
    name, _, description = done.stdout.strip().partition(" | ")
    assert name in ("numpy", "cuda"), done.stderr
    assert name in description


@pytest.mark.parametrize(
    "ending",
    ["pass", "raise SystemExit(0)", "import gc; gc.collect()", "keep = np.from_dlpack(array)"],
)
def test_the_interpreter_ends_cleanly_with_arrays_alive(run_python, context, ending) -> None:
    if context.name != "cpu" and "dlpack" in ending:
        pytest.skip("numpy reads DLPack tensors of host memory")
    done = run_python(
        "import numpy as np, pygan.device\n"
        f"device = pygan.device.get({context.name!r})\n"
        "array = device.from_numpy(np.arange(5, dtype=np.float32)); view = array[1:3]\n"
        "class Cycle: pass\n"
        "cycle = Cycle(); cycle.me = cycle; cycle.array = device.zeros(9)\n"
        "arena = device.arena(512)\n"
        "kernel = array.context.kernel('elementwise.cu', 'fill')\n"
        f"print(np.asarray(array).sum()); {ending}\n"
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "10.0", "")


def test_this_process_has_not_mixed_contexts(context) -> None:
    assert "pycuda.autoinit" not in sys.modules


def in_a_thread(work):
    """What `work` returns, or the exception it raises, from another thread."""
    results: list = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def test_every_thread_can_work_on_a_device(device) -> None:
    array = device.zeros(10)

    def work():
        device.ops.fill(array, value=3.0)
        other = device.from_numpy(np.full(10, 2, np.float32))
        device.ops.multiply_forward(array, other, array)
        array[0:2] = 1
        device.synchronize()
        return np.asarray(array).tolist(), device.memory_info()

    values, (free, total) = in_a_thread(work)
    assert values == [1, 1] + [6] * 8
    assert 0 < free <= total
    assert np.asarray(array).tolist() == values


def test_errors_in_a_thread_are_the_same(context) -> None:
    device = pygan.device.get(context.name)
    assert isinstance(in_a_thread(lambda: device.empty(1 << 50)), DeviceMemoryError)
    kernel = context.kernel("elementwise.cu", "fill")
    assert isinstance(in_a_thread(lambda: kernel(1, 5000)), ArgumentError)


def test_memory_that_dies_in_another_thread_comes_back(context) -> None:
    """As where a garbage collection runs in the thread that draws a progress bar."""
    device = pygan.device.get(context.name)
    size = 1 << 24
    holder = [device.empty(size, np.uint8)]
    free, _ = device.memory_info()
    in_a_thread(holder.clear)
    device.empty(1)
    assert device.memory_info()[0] >= free + size // 2


def test_a_device_may_be_made_in_a_thread(run_python, context) -> None:
    done = run_python(
        "import threading, numpy as np\n"
        "def work():\n"
        "    global array\n"
        "    import pygan.device\n"
        f"    device = pygan.device.get({context.name!r})\n"
        "    array = device.zeros(3); device.ops.fill(array, value=2.0)\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "print(np.asarray(array).tolist())\n"
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[2.0, 2.0, 2.0]", "")
