"""The twins' working memory."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from pygan.reference.scratch import frame, kept_bytes


def test_arrays_of_open_frames_do_not_meet():
    for _ in range(3):  # beside the block, and inside it
        with frame() as empty:
            first = empty((5, 7), np.float32)
            first[...] = 1
            with frame():
                second = empty((3, 1001), np.float64)
                second[...] = 2
                third = empty((2,), np.uint8)
                third[...] = 3
                assert (second == 2).all()
            fourth = empty((3, 1001), np.float64)
            fourth[...] = 4
            assert (first == 1).all()
            assert first.dtype == np.float32 and fourth.shape == (3, 1001)


def test_memory_is_taken_again_by_the_next_frame():
    places = []
    for _ in range(3):
        with frame() as empty:
            places.append(empty((1 << 20,), np.float32).ctypes.data)
    assert places[1] == places[2]


def test_memory_is_free_again_after_an_error():
    with frame() as empty:
        empty((1 << 20,), np.float32)
    with frame() as empty:
        place = empty((4,), np.float32).ctypes.data
    with pytest.raises(ZeroDivisionError), frame() as empty:
        empty((4,), np.float32)
        raise ZeroDivisionError
    with frame() as empty:
        assert empty((4,), np.float32).ctypes.data == place


def test_threads_have_memory_of_their_own():
    with frame() as empty:
        mine = empty((1000,), np.float32)
    with frame() as empty:
        mine = empty((1000,), np.float32)
        mine[...] = 1

        def other():
            for _ in range(2):
                with frame() as theirs:
                    theirs((1000,), np.float32)[...] = 2

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert (mine == 1).all()


def test_what_is_kept_is_counted_for_every_thread_alive():
    with frame() as empty:
        empty((1 << 20,), np.float32)
    before = kept_bytes()
    assert before >= 4 << 20  # this thread's
    taken, over = threading.Event(), threading.Event()

    def other():
        with frame() as empty:
            empty((3 << 20,), np.uint8)
        taken.set()
        over.wait(timeout=60)

    thread = threading.Thread(target=other)
    thread.start()
    assert taken.wait(timeout=60)
    assert 3 << 20 <= kept_bytes() - before <= (3 << 20) + 4096
    over.set()
    thread.join()
    gc.collect()
    assert kept_bytes() == before
