"""Work shared among threads: same bits for any number of them, and nothing waits for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from twin_support import numbers

from pygan import reference
from pygan.reference import batch_norm, by_taps, columns, parallel, winograd

CONVOLUTION = {"stride": (2, 2), "pad": (1, 1), "dilation": (1, 1), "groups": 1}


@pytest.fixture
def allow(monkeypatch):
    """allow(n): as if BLAS were told to use n threads."""

    def allow(count: int) -> None:
        monkeypatch.setattr(parallel._blas, "_get", lambda: count)
        monkeypatch.setattr(parallel._blas, "_set", lambda _: None)

    return allow


def convolutions(channels: int, filters: int, kernel: int, size: int = 8) -> list[np.ndarray]:
    images = 24 * 8 // size
    large = numbers(1, images, 2 * size, 2 * size, channels, dtype=np.float32)
    small = numbers(2, images, size, size, filters, dtype=np.float32)
    weight = numbers(3, filters, kernel, kernel, channels, dtype=np.float32)
    y, dx, dw = (np.full_like(a, np.nan) for a in (small, large, weight))
    reference.convolution_forward(large, weight, None, y, **CONVOLUTION)
    reference.convolution_backward_data(small, weight, dx, **CONVOLUTION)
    reference.convolution_backward_weight(large, small, dw, **CONVOLUTION)
    return [y, dx, dw]


def batch_norms() -> list[np.ndarray]:
    x, dy = (numbers(k, 24, 16, 16, 24, dtype=np.float32) for k in (1, 2))
    gamma, beta = np.full(24, 2, np.float32), np.full(24, 0.5, np.float32)
    y, dx, mean, var, dgamma, dbeta = (np.full_like(a, np.nan) for a in (x, x, *[gamma] * 4))
    options: dict[str, Any] = {"eps": 1e-3, "fix_gamma": False}
    options |= {"activation": "leaky_relu", "slope": 0.25}
    reference.batch_norm_forward_training(x, gamma, beta, y, mean, var, **options)
    reference.batch_norm_backward(
        x, gamma, beta, mean, var, dy, dx, dgamma, dbeta, use_global_stats=False, **options
    )
    return [y, dx, mean, var, dgamma, dbeta]


def others() -> list[np.ndarray]:
    x, dy = (numbers(k, 24, 16, 16, 24, dtype=np.float32) for k in (1, 2))
    y, dx, pooled, dpooled = (np.full_like(a, np.nan) for a in (x, x, x[:, ::2, ::2], x))
    pooling = {"kind": "max", "kernel": (2, 2), "stride": (2, 2), "pad": (0, 0)}
    reference.pooling_forward(x, pooled, **pooling)
    reference.pooling_backward(x, dy[:, ::2, ::2].copy(), dpooled, **pooling)
    reference.activation_forward(x, y, kind="elu", slope=0.5)
    reference.activation_backward(None, y, dy, dx, kind="elu", slope=0.5)
    w, m, v = numbers(3, 70_000), np.zeros(70_000), np.zeros(70_000)
    rate = np.full(1, 0.1)
    reference.adam_update(
        w, numbers(4, 70_000), m, v, np.zeros(1, np.int32), rate, beta1=0.5, beta2=0.9, eps=1e-8
    )
    return [pooled, dpooled, y, dx, w, m, v]


@pytest.mark.parametrize("large", [True, False], ids=["large graph", "small graph"])
@pytest.mark.parametrize(
    "results",
    [
        lambda: convolutions(3, 40, 4),
        lambda: convolutions(40, 33, 4),  # by Winograd's products
        lambda: convolutions(40, 33, 3),
        lambda: convolutions(70, 64, 3, size=2),  # tap by tap
        batch_norms,
        others,
    ],
    ids=["few channels", "winograd", "columns", "tap by tap", "batch norm", "others"],
)
def test_the_number_of_threads_changes_no_bit(allow, monkeypatch, results, large):
    monkeypatch.setattr(parallel, "PASSES", 1 << 14)
    monkeypatch.setattr(parallel, "LEAST_OPERATIONS", 1 << 18)
    monkeypatch.setattr(columns, "LEAST_ROWS", 64)
    monkeypatch.setattr(by_taps, "MOST_ROWS", 64)
    if not large:
        monkeypatch.setattr(winograd, "LEAST_TILES_OF_BLOCK", 64)
    monkeypatch.setattr(batch_norm, "PART", 1 << 12)
    found, helpers = [], []
    share = parallel._workers.share
    monkeypatch.setattr(
        parallel._workers, "share", lambda job, n: (helpers.append(n), share(job, n))
    )
    with parallel.sharing(large):
        for count in (1, 2, 5):
            allow(count)
            found.append(results())
    assert not large or max(helpers) >= 3
    for again in found[1:]:
        for computed, expected in zip(again, found[0], strict=True):
            assert np.isfinite(expected).all()
            np.testing.assert_array_equal(computed, expected)


def test_a_product_in_parts_is_the_product(allow, monkeypatch):
    monkeypatch.setattr(parallel, "LEAST_OPERATIONS", 1)
    monkeypatch.setattr(parallel, "LEAST_ROWS", 16)
    monkeypatch.setattr(parallel, "LEAST_OPERATIONS_OF_BLAS", 0)
    allow(3)
    with parallel.sharing(True):
        for a, b in (((300, 7), (7, 50)), ((50, 7), (7, 300)), ((2, 3, 70, 5), (2, 3, 5, 40))):
            a, b = numbers(1, *a), numbers(2, *b)
            out = np.full((*a.shape[:-1], b.shape[-1]), np.nan)
            parallel.matmul(a, b, out)
            np.testing.assert_allclose(out, a @ b, rtol=0, atol=1e-13)
        assert parallel.matmul(np.ones((0, 3)), np.ones((3, 4)), np.ones((0, 4))).size == 0


def test_every_item_is_done_once_on_several_threads(allow):
    allow(4)
    seen, barrier = [], threading.Barrier(4)

    def task(item: int) -> None:
        if item < 4 or item > 395:
            barrier.wait(timeout=20)  # four of these run at a time, or this fails
        seen.append((item, threading.get_ident()))

    order = [0, 1, *range(4, 396), 399, 398]  # its ends are taken first
    with parallel.sharing(True):
        parallel.run(task, order)
    assert sorted(item for item, _ in seen) == sorted(order)
    assert len({thread for _, thread in seen}) > 1


def test_an_error_of_a_task_reaches_the_caller_when_no_task_runs(allow):
    allow(2)
    running, begun = [0], threading.Event()

    def task(item: int) -> None:
        running[0] += 1
        if item == 0:
            begun.wait(timeout=20)
            running[0] -= 1
            raise ZeroDivisionError
        begun.set()
        time.sleep(0.05)
        running[0] -= 1

    with parallel.sharing(True):
        with pytest.raises(ZeroDivisionError):
            parallel.run(task, [0, *range(1, 100)])
        assert running == [0]
        done = []
        parallel.run(done.append, [1, 2, 3])  # and the next call works
        assert sorted(done) == [1, 2, 3]


def test_tasks_that_share_work_themselves_do_it_alone(allow):
    allow(3)
    seen = []

    def task(item: int) -> None:
        here = threading.get_ident()
        parallel.run(
            lambda inner: seen.append((item, inner, here == threading.get_ident())), [0, 1]
        )

    with parallel.sharing(True):
        parallel.run(task, list(range(8)))
    assert sorted(seen) == [(item, inner, True) for item in range(8) for inner in (0, 1)]


def test_blas_gets_its_threads_back(monkeypatch):
    told = [4]
    monkeypatch.setattr(parallel._blas, "_get", lambda: told[-1])
    monkeypatch.setattr(parallel._blas, "_set", told.append)
    with parallel.sharing(True):
        parallel.run(lambda _: told.append(told[-1]), [0])
        assert told == [4, 1, 1, 4]
        with pytest.raises(ZeroDivisionError):
            parallel.run(lambda _: 1 // 0, [0, 1])
    assert told[-1] == 4 and parallel.threads() == 4


def test_small_graphs_share_what_is_long_alone(monkeypatch):
    told = [2]
    monkeypatch.setattr(parallel._blas, "_get", lambda: told[-1])
    monkeypatch.setattr(parallel._blas, "_set", told.append)
    calls, barrier = [], threading.Barrier(2)
    with parallel.sharing(False):
        assert told[-1] == 1 and parallel.threads() == 2
        parallel.run(lambda item: calls.append(threading.get_ident()), list(range(64)))
        assert set(calls) == {threading.get_ident()}
        parallel.run(lambda item: barrier.wait(timeout=20), [0, 1], long=True)
        assert told[-1] == 1
    assert told[-1] == 2


SCRIPT = """
import multiprocessing, os, sys, threading
import numpy as np
from pygan.reference import columns, parallel

def work(_=None):
    a, seen = np.ones((200, 5000), np.float32), set()
    def add(part):
        seen.add(threading.get_ident())
        a[part] += 1
    with parallel.sharing(True):
        for _ in range(20):
            parallel.run(add, [slice(i, i + 10) for i in range(0, 200, 10)])
        product = parallel.matmul(a, a.T, np.empty((200, 200), np.float32))
    return float(a.sum() + product[0, 0]), len(seen)

parallel._blas._get = lambda: 3
expected = work()[0]
stop = threading.Event()
def keep_busy():
    while not stop.is_set():
        work()
busy = threading.Thread(target=keep_busy)
busy.start()  # children are made while tasks run
with multiprocessing.get_context("fork").Pool(2) as pool:
    results = pool.map(work, range(6))
stop.set()
busy.join()
assert all(total == expected for total, _ in results), results
assert work()[0] == expected
import atexit
atexit.register(lambda: print("at exit", work()[0] == expected, flush=True))
print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_nothing_waits_for_ever_after_a_fork_or_at_exit():
    found = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split("\n")[:2] == ["done", "at exit True"], found
