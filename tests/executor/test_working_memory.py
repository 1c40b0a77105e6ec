"""Executors that take turns in one block of memory."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly

from pygan import networks
from pygan import symbol as sym
from pygan.errors import GraphError, OutOfDeviceMemory, StateError
from pygan.executor import Executor
from pygan.working_memory import WorkingMemory

SHAPES = {"img": (2, 28, 28, 1), "label": (2, 1, 1, 1)}
NO_LABEL = {"label": "null"}


def passes(device: Any, **options: Any) -> list[Executor]:
    """The lesson's D for two passes, with the same parameters and images of their own."""
    graph = networks.lesson_discriminator()
    first = graph.bind(device, SHAPES, NO_LABEL, branches=True, **options)
    second = graph.bind(device, SHAPES, NO_LABEL, branches=True, shared=first, **options)
    fill_randomly(first, 1)
    rng = np.random.default_rng(2)
    for executor, label in ((first, 0.0), (second, 1.0)):
        images = rng.random(SHAPES["img"], np.float32)
        executor.arg_dict["img"][...] = images
        executor.arg_dict["label"][...] = np.full(SHAPES["label"], label, np.float32)
    return [first, second]


def results(executors: list[Executor]) -> list[np.ndarray]:
    """What each pass leaves, read when all are over: outputs, and the gradients of the images; and
    the gradients of parameters after each."""
    parameters = []
    for executor in executors:
        executor.forward(is_train=True)
        executor.backward()
        parameters.append(np.array(executor.gradients))
    kept = [np.array(array) for executor in executors for array in executor.outputs]
    return parameters + kept + [np.array(executor.grad_dict["img"]) for executor in executors]


def test_passes_that_follow_each_other_give_the_same_bits_in_less_memory(device: Any) -> None:
    apart, together = passes(device), passes(device, working_memory=WorkingMemory())
    for ours, theirs in zip(results(together), results(apart), strict=True):
        assert np.isfinite(ours).all() and np.array_equal(ours, theirs)
    whole, second = apart[1].memory, together[1].memory
    assert second.workspace == 0 and second.total < whole.total / 10
    # What stays beside the block: images, their gradients, labels, outputs.
    assert together[0].memory.total <= apart[0].memory.total + 4096


def test_a_backward_whose_activations_are_gone_is_refused(device: Any) -> None:
    first, second = passes(device, working_memory=WorkingMemory())
    first.forward(is_train=True)
    second.forward()
    with pytest.raises(StateError, match="another executor with the same working_memory"):
        first.backward()
    first.forward(is_train=True)
    first.backward()


def test_what_does_not_fit_is_refused(numpy_device: Any) -> None:
    memory = WorkingMemory()
    assert memory.nbytes == 0
    graph = networks.lesson_discriminator()
    graph.bind(numpy_device, SHAPES, NO_LABEL, working_memory=memory)
    assert f"{memory.nbytes:,} bytes" in repr(memory) and memory.nbytes > 0
    larger = {name: (3, *shape[1:]) for name, shape in SHAPES.items()}
    graph.bind(numpy_device, larger, NO_LABEL, working_memory=memory).forward()
    graph.bind(numpy_device, SHAPES, NO_LABEL, working_memory=memory)
    largest = {name: (4, *shape[1:]) for name, shape in SHAPES.items()}
    with pytest.raises(GraphError, match="before the first pass, or the largest first"):
        graph.bind(numpy_device, largest, NO_LABEL, working_memory=memory)
    with pytest.raises(GraphError, match="with one of the two"):
        graph.bind(numpy_device, SHAPES, NO_LABEL, working_memory=memory, keep_forward=True)
    with pytest.raises(GraphError, match="a WorkingMemory, not"):
        graph.bind(numpy_device, SHAPES, NO_LABEL, working_memory=4096)
    with pytest.raises(GraphError, match="scratch_memory= takes a WorkingMemory, not"):
        graph.bind(numpy_device, SHAPES, NO_LABEL, scratch_memory=4096)
    with pytest.raises(GraphError, match="bind with one of them"):
        graph.bind(numpy_device, SHAPES, NO_LABEL, working_memory=memory, scratch_memory=memory)


@pytest.mark.parametrize("storage", ["float32", "bf16"])
def test_an_executor_moves_to_the_block_that_another_needs(device: Any, storage: str) -> None:
    """Both count what they made of it, and the bits are those of memory of their own."""
    options = {"precision": "bf16", "storage": storage, "branches": True}
    graph, found = networks.dcgan_discriminator(8), []
    memory = WorkingMemory()
    for lent in (None, memory):
        executors = []
        for count in (1, 3, 2):
            shapes = {"data": (count, 64, 64, 3), "label": (count, 1)}
            if executors:
                options["shared"] = executors[0]
            made = graph.bind(device, shapes, NO_LABEL, working_memory=lent, **options)
            executors.append(made)
        options.pop("shared")
        fill_randomly(executors[1], 4)
        for executor in executors:
            images = np.random.default_rng(5).random(executor.arg_dict["data"].shape, np.float32)
            executor.arg_dict["data"][...] = images
            executor.arg_dict["label"][...] = np.ones(executor.arg_dict["label"].shape, np.float32)
            executor.forward(is_train=True)
            executor.backward()
            arrays = [executor.outputs[0], executor.gradients, executor.grad_dict["data"]]
            found.append([np.array(array) for array in arrays])
        counted = sum(e.memory.arrays + e.memory.workspace for e in executors)
    for ours, theirs in zip(found[3:], found[:3], strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert np.isfinite(one).all() and np.array_equal(one, other)
    assert memory.nbytes < counted < memory.nbytes + 3 * 6 * 64 * 64 * 3 * 4


def adversaries(device: Any, memory: WorkingMemory | None) -> tuple[Executor, Executor]:
    """The lesson's G, and D on what it makes."""
    noise, null = {"noise": (2, 1, 1, 10)}, {"noise": "null"}
    generator = networks.lesson_generator().bind(
        device, noise, null, branches=True, scratch_memory=memory
    )
    discriminator = networks.lesson_discriminator().bind(
        *(device, SHAPES, NO_LABEL),
        **{"branches": True, "working_memory": memory},
        inputs={"img": generator.outputs[0]},
        input_gradients={"img": generator.head_gradients[0]},
    )
    for executor, seed in ((generator, 1), (discriminator, 2)):
        fill_randomly(executor, seed)
    return generator, discriminator


def test_gradients_of_outputs_do_not_move(device: Any) -> None:
    """Where they arrive, another executor may write: the one place, whatever block is made anew."""
    with sym.name_scope():
        y = sym.Convolution(sym.Variable("x"), kernel=3, num_filter=4, pad=1, name="c1")
        graph = sym.LeakyReLU(sym.BatchNorm(y, name="n1"), name="a1")
    found = []
    for memory in (None, WorkingMemory()):
        executor = graph.bind(device, {"x": (2, 4, 4, 4)}, working_memory=memory)
        arrival = executor.head_gradients[0]
        if memory is not None:
            small = memory.nbytes
            graph.bind(device, {"x": (5, 4, 4, 4)}, working_memory=memory)
            assert memory.nbytes > small
        fill_randomly(executor, 4)
        executor.forward(is_train=True)
        for given in (np.cos(np.arange(128, dtype=np.float32)).reshape(arrival.shape), arrival):
            arrival[...] = np.sin(np.arange(128, dtype=np.float32)).reshape(arrival.shape)
            executor.forward(is_train=True)
            executor.backward([given])
            found.append({name: np.array(array) for name, array in executor.grad_dict.items()})
    for ours, theirs in zip(found[2:], found[:2], strict=True):
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_what_lives_one_way_lies_in_the_memory_of_passes_between(device: Any) -> None:
    """G's forward, D's pass, G's backward, in less memory, with the same bits."""
    memory, found, taken = WorkingMemory(), [], []
    for lent in (None, memory):
        generator, discriminator = adversaries(device, lent)
        for _ in range(2):
            generator.forward(is_train=True)
            discriminator.forward(is_train=True)
            discriminator.backward()
            generator.backward([generator.head_gradients[0]])
        kept = (*generator.outputs, generator.gradients, discriminator.gradients)
        found.append([np.array(array) for array in kept])
        taken.append(generator.memory.arrays + discriminator.memory.arrays)
    for ours, theirs in zip(*found, strict=True):
        assert np.isfinite(ours).all() and np.array_equal(ours, theirs)
    assert taken[1] < (1 if device.name == "numpy" else 0.9) * taken[0]


def test_both_ways_of_what_lends_memory_write_over_a_pass_under_way(device: Any) -> None:
    memory = WorkingMemory()
    generator, discriminator = adversaries(device, memory)
    with sym.name_scope():
        halved = sym.Pooling(sym.Variable("x"), kernel=2, stride=2, kind="avg")
        quartered = sym.Pooling(halved, kernel=2, stride=2, kind="avg")
    pooled = quartered.bind(device, {"x": (2, 8, 8, 4)}, scratch_memory=memory)
    device.ops.fill(generator.head_gradients[0], value=0.5)
    generator.forward(is_train=True)
    discriminator.forward(is_train=True)
    generator.backward([generator.head_gradients[0]])
    with pytest.raises(StateError, match="another executor with the same working_memory"):
        discriminator.backward()
    discriminator.forward(is_train=True)
    pooled.forward(is_train=True)  # what the first one gives, no backward reads
    with pytest.raises(StateError, match="another executor with the same working_memory"):
        discriminator.backward()


def test_ways_that_write_nothing_there_leave_a_pass_under_way(device: Any) -> None:
    """Of tanh alone nothing lies in the block; of tanh and a pooling, only a gradient does."""
    memory = WorkingMemory()
    discriminator, _ = passes(device, working_memory=memory)
    with sym.name_scope():
        alone = sym.Activation(sym.Variable("x"), kind="tanh")
        pooled = sym.Pooling(alone, kernel=2, stride=2, kind="avg")
    bound = [g.bind(device, {"x": (2, 4, 4, 4)}, scratch_memory=memory) for g in (alone, pooled)]
    discriminator.forward(is_train=True)
    discriminator.backward()
    expected = np.array(discriminator.gradients)
    discriminator.forward(is_train=True)
    for executor in bound:
        fill_randomly(executor, 3)
        executor.forward(is_train=True)
    bound[0].backward([np.ones((2, 4, 4, 4), np.float32)])
    device.ops.fill(discriminator.gradients, value=0.0)
    discriminator.backward()
    assert np.array_equal(np.array(discriminator.gradients), expected)
    discriminator.forward(is_train=True)
    bound[1].backward([np.ones((2, 2, 2, 4), np.float32)])
    with pytest.raises(StateError, match="another executor with the same working_memory"):
        discriminator.backward()


def test_an_executor_that_found_no_memory_is_not_moved(
    numpy_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, made, graph = WorkingMemory(), [], networks.lesson_discriminator()
    arena = numpy_device.arena

    def one_arena(nbytes: int) -> Any:
        if made:
            raise MemoryError
        made.append(nbytes)
        return arena(nbytes)

    with monkeypatch.context() as patch:
        patch.setattr(numpy_device, "arena", one_arena)
        with pytest.raises(OutOfDeviceMemory) as failed:
            graph.bind(numpy_device, SHAPES, NO_LABEL, working_memory=memory)
    larger = {name: (3, *shape[1:]) for name, shape in SHAPES.items()}
    graph.bind(numpy_device, larger, NO_LABEL, working_memory=memory).forward()
    assert failed.value.needed_bytes < memory.nbytes


def test_one_block_is_of_one_device(device: Any, numpy_device: Any) -> None:
    if device is numpy_device:
        pytest.skip("needs two devices")
    memory = WorkingMemory()
    graph = networks.lesson_discriminator()
    graph.bind(numpy_device, SHAPES, NO_LABEL, working_memory=memory)
    with pytest.raises(GraphError, match="its working memory on 'numpy'"):
        graph.bind(device, SHAPES, NO_LABEL, working_memory=memory)


def test_memory_goes_with_its_last_executor(numpy_device: Any) -> None:
    executors = passes(numpy_device, working_memory=WorkingMemory())
    executors[1].forward()
    memory = weakref.ref(executors[0]._lending.memory)
    gc.collect()
    gc.disable()
    try:
        executors.clear()
        assert memory() is None
    finally:
        gc.enable()
