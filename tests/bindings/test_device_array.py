"""Arrays in device memory: views, writes, copies, lifetimes, interchange."""

from __future__ import annotations

import gc
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygan.bindings.array import Arena, DeviceArray
from pygan.bindings.errors import DeviceMemoryError

DTYPES = ["float32", "float64", "int32", "uint8", "uint32", "uint64"]


def numbers(shape, dtype="float32"):
    return np.arange(1, np.prod(shape, dtype=int) + 1).astype(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4, 5), (0,), (3, 0, 2)])
def test_there_and_back(context, dtype, shape) -> None:
    host = numbers(shape, dtype)
    array = DeviceArray.from_numpy(context, host)
    assert (array.shape, array.dtype, array.size) == (host.shape, host.dtype, host.size)
    assert (array.nbytes, array.ndim) == (host.nbytes, host.ndim)
    if host.size:
        assert array.strides == host.strides
    back = np.asarray(array)
    assert back.dtype == host.dtype
    np.testing.assert_array_equal(back, host)
    host[...] = 0  # the device has a copy of its own
    if host.size:
        assert np.asarray(array).any()


def test_other_layouts_are_made_contiguous(context) -> None:
    host = numbers((4, 6))
    for view in (
        host.T,
        host[::2, ::-1],
        np.asfortranarray(host),
        np.broadcast_to(host[0], (3, 6)),
    ):
        np.testing.assert_array_equal(np.asarray(DeviceArray.from_numpy(context, view)), view)


@given(data=st.data())
def test_slices_are_numpys(context, data) -> None:
    rows = data.draw(st.integers(0, 6))
    bound = st.one_of(st.none(), st.integers(-8, 8))
    key = slice(data.draw(bound), data.draw(bound))
    host = numbers((rows, 3))
    array = DeviceArray.from_numpy(context, host)
    np.testing.assert_array_equal(np.asarray(array[key]), host[key])
    array[key] = 0.5
    host[key] = 0.5
    np.testing.assert_array_equal(np.asarray(array), host)


def test_views_share_memory(context) -> None:
    array = DeviceArray.from_numpy(context, np.zeros((4, 6), np.float32))
    array[1][2:4] = 7
    array[-1] = np.arange(6)
    array.reshape(-1)[0:2] = [1, 2]
    array.reshape(2, 12)[1].reshape((2, 6))[0] = -1
    expected = np.zeros((4, 6), np.float32)
    expected[0, :2] = 1, 2
    expected[1, 2:4] = 7
    expected[2] = -1
    expected[3] = np.arange(6)
    np.testing.assert_array_equal(np.asarray(array), expected)


def test_iteration_and_length(context) -> None:
    array = DeviceArray.from_numpy(context, numbers((3, 2)))
    assert len(array) == 3
    assert [row.tolist() for row in array] == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(TypeError):
        len(array[0][0])


@pytest.mark.parametrize(
    "key", [np.s_[::2], np.s_[:, 1], np.s_[1, 2], [0, 1], "a", None, np.ones(4, bool)]
)
def test_what_is_no_contiguous_part_is_refused(context, key) -> None:
    array = DeviceArray.from_numpy(context, numbers((4, 6)))
    with pytest.raises(IndexError, match="contiguous part"):
        array[key]


def test_indices_and_shapes_that_do_not_fit(context) -> None:
    array = DeviceArray.from_numpy(context, numbers((4, 6)))
    for index in (4, -5):
        with pytest.raises(IndexError, match="axis 0 with size 4"):
            array[index]
    for shape in ((5, 5), (-1, 5), (-1, -1), (24, 0)):
        with pytest.raises(ValueError, match="cannot reshape"):
            array.reshape(shape)
    with pytest.raises(ValueError, match="broadcast"):
        array[0] = np.zeros(5)
    with pytest.raises(ValueError, match=r"\(6,\).*\(4, 6\)"):
        array[...] = array[0]
    with pytest.raises(ValueError, match=r"float64.*float32"):
        array[...] = DeviceArray.from_numpy(context, numbers((4, 6), "float64"))
    with pytest.raises(TypeError, match=r"complex64.*float32"):
        DeviceArray.empty(context, 3, np.complex64)
    with pytest.raises(ValueError, match="not a shape"):
        DeviceArray.empty(context, (3, -1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 1, 255, 100.0, np.float64(3)])
def test_fills(context, dtype, value) -> None:
    array = DeviceArray.from_numpy(context, numbers((5, 3), dtype))
    array[1:3] = value
    expected = numbers((5, 3), dtype)
    expected[1:3] = value
    np.testing.assert_array_equal(np.asarray(array), expected)


def test_special_values(context) -> None:
    array = DeviceArray.empty(context, 5)
    array.fill(np.nan)
    assert np.isnan(np.asarray(array)).all()
    array.fill(-0.0)
    assert np.signbit(np.asarray(array)).all()
    state = DeviceArray.empty(context, 2, np.uint64)
    state[...] = np.array([2**64 - 1, 2**40 + 1], np.uint64)
    assert state.tolist() == [2**64 - 1, 2**40 + 1]
    state[0:1] = 2**63 + 5
    assert state.tolist() == [2**63 + 5, 2**40 + 1]
    with pytest.raises(OverflowError):
        state[...] = 2**64


def test_device_to_device(context) -> None:
    a = DeviceArray.from_numpy(context, numbers((4, 3)))
    b = a.copy()
    a.fill(0)
    np.testing.assert_array_equal(np.asarray(b), numbers((4, 3)))
    a[1:3] = b[0:2]
    a[...] = a
    np.testing.assert_array_equal(np.asarray(a)[1:3], numbers((4, 3))[:2])
    b[1:] = b[:-1]  # overlapping, as numpy does it
    expected = numbers((4, 3))
    expected[1:] = expected[:-1].copy()
    np.testing.assert_array_equal(np.asarray(b), expected)


def test_reading_into_and_scalars(context) -> None:
    array = DeviceArray.from_numpy(context, numbers((2, 3)))
    out = np.zeros((2, 3), np.float32)
    assert array.get(out) is out
    np.testing.assert_array_equal(out, numbers((2, 3)))
    with pytest.raises(ValueError, match=r"float32 with shape \(2, 3\)"):
        array.get(np.zeros((3, 2), np.float32))
    assert float(array[1][2]) == 6.0
    assert int(array[0:1][0][1]) == 2
    assert np.asarray(array, dtype=np.float64).dtype == np.float64
    assert not DeviceArray.from_numpy(context, np.zeros(1))
    with pytest.raises(ValueError, match="without a copy"):
        np.array(array, copy=False)


def test_views_keep_memory_alive(context) -> None:
    arena = Arena(context, 4096)
    view = arena.view(256, (4, 4), np.float32)
    row = view.reshape(16)[4:8]
    row.fill(3)
    del arena, view
    gc.collect()
    others = [DeviceArray.from_numpy(context, np.zeros(1024, np.float32)) for _ in range(8)]
    assert np.asarray(row).tolist() == [3] * 4
    assert others


def test_memory_comes_back(context) -> None:
    size = 1 << 24
    free, _ = context.memory_info()
    arrays = [DeviceArray.empty(context, size, np.uint8) for _ in range(2)]
    assert context.memory_info()[0] <= free - 2 * size
    del arrays
    gc.collect()
    assert context.memory_info()[0] >= free - size


def test_arena_views(context) -> None:
    arena = Arena(context, 1000)
    first, second = arena.view(0, (8, 8), np.float32), arena.view(256, 93, np.float64)
    assert (first.ptr % 256, second.ptr - first.ptr) == (0, 256)
    first.fill(1)
    second.fill(2)
    assert (np.asarray(first) == 1).all()
    for offset, shape, said in (
        (4, 1, "multiple of 256"),
        (768, 59, "do not fit"),
        (-256, 1, "do not fit"),
    ):
        with pytest.raises(ValueError, match=said):
            arena.view(offset, shape, np.float32)
    with pytest.raises(ValueError, match="-1 bytes"):
        Arena(context, -1)
    assert np.asarray(Arena(context, 0).view(0, (0, 3), np.float32)).shape == (0, 3)


def test_out_of_memory_says_how_much(context) -> None:
    _, total = context.memory_info()
    for make in (
        lambda: DeviceArray.empty(context, (total, 16), np.float32),
        lambda: Arena(context, 64 * total),
    ):
        with pytest.raises(DeviceMemoryError, match=r"needs [\d,.]+ MiB .* are free") as caught:
            make()
        assert caught.value.needed_bytes == 64 * total
        assert 0 < caught.value.free_bytes <= caught.value.total_bytes == total
    DeviceArray.empty(context, 10)  # and work goes on


def test_other_byte_orders_and_pickles_give_the_same_array(context) -> None:
    host = numbers((2, 3))
    array = DeviceArray.from_numpy(context, host.astype(">f4"))
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, host)
    restored = pickle.loads(pickle.dumps(array))
    assert restored.context is context and restored.ptr != array.ptr
    np.testing.assert_array_equal(restored, host)


def test_cuda_array_interface(context) -> None:
    array = DeviceArray.from_numpy(context, numbers((2, 3), "int32"))
    interface = array.__cuda_array_interface__
    assert interface["version"] == 3
    assert interface["shape"] == (2, 3)
    assert interface["typestr"] == "<i4"
    assert interface["data"] == (array.ptr, False)
    assert interface["strides"] is None
    assert interface["stream"] not in (0, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_shares_memory(context, dtype) -> None:
    if context.name != "cpu":
        pytest.skip("numpy reads DLPack tensors of host memory")
    array = DeviceArray.from_numpy(context, numbers((3, 4), dtype))
    shared = np.from_dlpack(array[1:])
    np.testing.assert_array_equal(shared, numbers((3, 4), dtype)[1:])
    array.fill(9)
    assert (shared == 9).all()
    del array
    gc.collect()
    others = [DeviceArray.from_numpy(context, np.zeros((3, 4), dtype)) for _ in range(8)]
    assert (shared == 9).all(), "the tensor must keep the memory"
    assert others


def test_dlpack_lets_go(context) -> None:
    from pygan.bindings import dlpack

    array = DeviceArray.from_numpy(context, numbers((3, 4)))
    before = len(dlpack._exported)
    capsule = array.__dlpack__()  # never consumed
    assert len(dlpack._exported) == before + 1
    del capsule
    if context.name == "cpu":
        shared = np.from_dlpack(array)
        assert len(dlpack._exported) == before + 1
        del shared
    gc.collect()
    assert len(dlpack._exported) == before
    with pytest.raises(BufferError, match="copy"):
        array.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="exported where it is"):
        array.__dlpack__(dl_device=(7, 0))


def test_torch_reads_dlpack(context) -> None:
    torch = pytest.importorskip("torch")
    array = DeviceArray.from_numpy(context, numbers((3, 4)))
    np.testing.assert_array_equal(torch.from_dlpack(array).cpu().numpy(), numbers((3, 4)))
