"""Gradients whose memory other executors work in, from an update to the next backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import fill_randomly, random_graphs, shapes_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lifetimes import assert_apart, lives, place

from pygan import networks, optimizer
from pygan import symbol as sym
from pygan.errors import GraphError, StateError
from pygan.executor import Executor
from pygan.working_memory import WorkingMemory

NOISE, NO_NOISE = {"rand": (2, 1, 1, 10)}, {"rand": "null"}
IMAGES = {"data": (2, 64, 64, 3), "label": (2, 1)}


def adversaries(device: Any, memory: WorkingMemory | None, lend: bool, **options: Any) -> Any:
    """DCGAN's G, and D on what it makes and on images of its own."""
    generator = networks.dcgan_generator(8, 3).bind(
        device, NOISE, NO_NOISE, scratch_memory=memory, lend_gradients=lend, **options
    )
    graph, requests = networks.dcgan_discriminator(8), {"label": "null"}
    on_real = graph.bind(device, IMAGES, requests, working_memory=memory, **options)
    on_fake = graph.bind(
        *(device, IMAGES, requests),
        **options,
        shared=on_real,
        working_memory=memory,
        inputs={"data": generator.outputs[0]},
        input_gradients={"data": generator.head_gradients[0]},
    )
    rng = fill_randomly(generator, 1)
    fill_randomly(on_real, 2)
    on_real.arg_dict["data"][...] = rng.random(IMAGES["data"], np.float32)
    for executor, label in ((on_real, 1), (on_fake, 0)):
        executor.arg_dict["label"][...] = np.full(IMAGES["label"], label, np.float32)
    return generator, on_real, on_fake


def spoil(device: Any, memory: WorkingMemory | None, gradients: bool) -> None:
    """Writes NaN over all that no pass may need: the block, and with `gradients` what was lent."""
    if memory is None:
        return
    pieces = [(memory._arena, 0, memory.nbytes)]
    if gradients:
        pieces += [(area.arena, area.offset, area.nbytes) for area in memory.areas]
    for arena, offset, nbytes in pieces:
        device.ops.fill(arena.view(offset, (nbytes // 4,), "float32"), value=np.nan)


def train(device: Any, memory: WorkingMemory | None, lend: bool, **options: Any) -> Any:
    """Three steps of such a GAN. What they leave, and the bytes that were planned."""
    executors = generator, on_real, on_fake = adversaries(device, memory, lend, **options)
    adams = [optimizer.Adam(each, learning_rate=0.01) for each in (generator, on_real)]
    found = []
    for _ in range(3):
        spoil(device, memory, gradients=True)
        generator.forward(is_train=True)
        for executor in (on_fake, on_real):
            spoil(device, memory, gradients=True)
            executor.forward(is_train=True)
            executor.backward()
            adams[1].update()
        spoil(device, memory, gradients=True)
        on_fake.forward(is_train=True)
        on_fake.backward(wanted=["data"])
        spoil(device, memory, gradients=True)
        generator.backward([generator.head_gradients[0]])
        spoil(device, memory, gradients=False)
        adams[0].update()
        found += [np.array(generator.gradients), np.array(on_real.gradients)]
        found += [np.array(array) for array in generator.grad_dict.values()]
    for executor in (generator, on_real):
        found += [np.array(executor.parameters), np.array(executor.auxiliary)]
    return found, sum(executor.memory.total for executor in executors)


@pytest.mark.parametrize(
    "options",
    [{}, {"branches": True, "lean": True}, {"precision": "bf16", "storage": "bf16"}],
    ids=["plain", "lean", "bf16"],
)
def test_same_bits_in_less_memory(device: Any, options: dict[str, Any]) -> None:
    expected, apart = train(device, None, lend=False, **options)
    kept, together = train(device, WorkingMemory(), lend=False, **options)
    found, lent = train(device, WorkingMemory(), lend=True, **options)
    for ours, theirs, others in zip(found, kept, expected, strict=True):
        assert np.isfinite(ours).all()
        assert np.array_equal(ours, others) and np.array_equal(theirs, others)
    # With lean, G's own backward needs as much of the block at this size as D needs without areas.
    assert lent <= together < apart and (lent < together or "lean" in options)


@given(random_graphs(), st.integers(1, 3), st.data())
@settings(max_examples=6, deadline=None)
def test_random_graphs_between(device: Any, graph: sym.Symbol, count: int, data: Any) -> None:
    """Whatever works in the gradients' memory: it finds room, and they find theirs."""
    noise, grads = {"rand": (1, 1, 1, 4)}, []
    for lend in (False, True):
        memory = WorkingMemory()
        generator = networks.dcgan_generator(4, 3).bind(
            device, noise, NO_NOISE, scratch_memory=memory, lend_gradients=lend
        )
        others = [graph.bind(device, shapes_of(graph), working_memory=memory)]
        others += [
            graph.bind(device, shapes_of(graph), shared=others[0], working_memory=memory)
            for _ in range(count - 1)
        ]
        fill_randomly(generator, 3)
        fill_randomly(others[0], 4)
        for other in others:
            for name in shapes_of(graph):
                other.arg_dict[name][...] = np.cos(np.arange(48)).reshape(2, 3, 4, 2)
        for _ in range(2):
            spoil(device, memory, gradients=True)
            generator.forward(is_train=True)
            for other in others:
                spoil(device, memory, gradients=True)
                other.forward(is_train=True)
                if other.grad_dict:
                    other.backward()
                grads.append(np.array(other.gradients))
                grads += [np.array(output) for output in other.outputs]
            spoil(device, memory, gradients=True)
            device.ops.fill(generator.head_gradients[0], value=0.25)
            generator.backward([generator.head_gradients[0]])
            grads.append(np.array(generator.gradients))
    for ours, theirs in zip(grads[len(grads) // 2 :], grads[: len(grads) // 2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_gaps_between_gradients_stay_zero(device: Any) -> None:
    """An update goes over them, and parameters' gaps hold 0 as theirs do."""
    memory = WorkingMemory()
    with sym.name_scope():
        y = sym.FullyConnected(sym.Variable("x"), num_hidden=64, name="fc1")
        y = sym.FullyConnected(sym.Activation(y, kind="tanh"), num_hidden=3, name="fc2")
    executor = y.bind(device, {"x": (4, 64)}, scratch_memory=memory, lend_gradients=True)
    assert 0 < sum(area.nbytes for area in memory.areas) < executor.gradients.nbytes
    adam = optimizer.Adam(executor, learning_rate=0.01)
    rng = np.random.default_rng(5)
    for name in executor.parameter_names:
        array = executor.arg_dict[name]
        array[...] = rng.standard_normal(array.shape).astype(np.float32)
    spoil(device, memory, gradients=True)
    executor.forward(is_train=True)
    executor.backward(np.ones((4, 3), np.float32))
    adam.update()
    for flat in (executor.gradients, executor.parameters):
        gaps = np.array(flat)
        for taken in executor.trainable().values():
            gaps[taken] = 0
        assert not gaps.any()


def refused(executor: Executor) -> Any:
    return pytest.raises(StateError, match=f"gradients of {len(executor.grad_dict)} parameters")


def test_an_optimizer_refuses_what_was_written_over(device: Any) -> None:
    generator, on_real, on_fake = adversaries(device, WorkingMemory(), lend=True)
    adam = optimizer.Adam(generator, learning_rate=0.01)
    generator.forward()  # which sets the gammas that are fixed
    before = np.array(generator.parameters)

    def backward(wanted: list[str] | None = None) -> None:
        generator.forward(is_train=True)
        generator.backward([np.ones(generator.outputs[0].shape, np.float32)], wanted)

    backward()
    on_real.forward()
    with refused(generator):
        adam.update()
    # A pass that writes some of them does not bring the others back.
    backward(["g5_weight"])
    with pytest.raises(StateError, match="update right after the backward that writes all"):
        adam.update()
    assert np.array_equal(generator.parameters, before)
    backward()
    on_fake.forward(is_train=True)
    on_fake.backward(wanted="data")
    generator.forward(is_train=True)
    with refused(generator):
        adam.update()
    generator.backward([generator.head_gradients[0]])
    adam.update()
    assert not np.array_equal(generator.parameters, before)


def test_nobody_reads_what_was_written_over(device: Any) -> None:
    generator, on_real, _ = adversaries(device, WorkingMemory(), lend=True)
    whole = [np.ones(generator.outputs[0].shape, np.float32)]
    generator.forward(is_train=True)
    generator.backward(whole)
    expected = np.array(generator.gradients)
    on_real.forward()
    reads = (
        lambda: generator.gradients,
        lambda: generator.grad_dict["g5_weight"],
        lambda: generator.grad_dict.get("g5_weight"),
        lambda: list(generator.grad_dict.values()),
        lambda: list(generator.grad_dict.items()),
        lambda: dict(generator.grad_dict),
        lambda: {**generator.grad_dict},
        lambda: generator.grad_dict.copy(),
    )
    for read in reads:
        with pytest.raises(StateError, match="memory that was lent to executors that have run"):
            read()
    assert "g5_weight" in generator.grad_dict and generator.grad_dict.get("g") is None
    optimizer.SGD(generator)  # which reads nothing yet
    generator.forward(is_train=True)
    generator.backward(whole, wanted="g5_weight")
    assert np.isfinite(np.array(generator.grad_dict["g5_weight"])).all()
    with pytest.raises(StateError, match="gradients of 1 parameters, 'g1_weight' among them"):
        _ = generator.grad_dict["g1_weight"]
    generator.forward(is_train=True)
    generator.backward(whole)
    assert np.array_equal(np.array(generator.gradients), expected)


def test_zeros_are_no_pass_under_way(device: Any) -> None:
    """Written where D keeps what its backward reads."""
    generator, on_real, _ = adversaries(device, WorkingMemory(), lend=True)
    on_real.forward(is_train=True)
    generator.zero_gradients()
    with pytest.raises(StateError, match="another executor with the same working_memory"):
        on_real.backward()
    assert not np.array(generator.gradients).any()


def test_replays_count_as_passes(device: Any) -> None:
    if (reason := device.cannot_record()) is not None:
        pytest.skip(reason)
    generator, on_real, on_fake = adversaries(device, WorkingMemory(), lend=True)
    adam = optimizer.Adam(generator, learning_rate=0.01)

    def generate() -> None:
        generator.forward(is_train=True)
        device.ops.fill(generator.head_gradients[0], value=0.5)
        generator.backward([generator.head_gradients[0]])

    def discriminate() -> None:
        on_real.forward(is_train=True)
        on_real.backward()

    generate()
    adam.update()
    discriminate()
    generated = device.record(generate)
    updated = device.record(adam.update)
    discriminated = device.record(discriminate)
    generated.launch()
    expected = np.array(generator.gradients)
    before = np.array(generator.parameters)
    discriminated.launch()
    for refuse in (updated.launch, adam.update):
        with refused(generator):
            refuse()
    assert np.array_equal(np.array(generator.parameters), before)
    generated.launch()
    assert np.array_equal(np.array(generator.gradients), expected)
    on_fake.forward(is_train=True)
    discriminated.launch()
    with pytest.raises(StateError, match="another executor with the same working_memory"):
        on_fake.backward()
    on_real.forward(is_train=True)
    discriminated.launch()
    with pytest.raises(StateError, match="backward has run since"):
        on_real.backward()


def test_what_cannot_lend(numpy_device: Any) -> None:
    graph, memory = networks.dcgan_generator(4, 3), WorkingMemory()

    def bind(requests: Any = NO_NOISE, **options: Any) -> Executor:
        return graph.bind(numpy_device, NOISE, requests, **options)

    for options in ({}, {"working_memory": memory}):
        with pytest.raises(GraphError, match="executors of scratch_memory: bind with both"):
            bind(lend_gradients=True, **options)
    lends = {"scratch_memory": memory, "lend_gradients": True}
    with pytest.raises(GraphError, match="grad_req of 'g1_weight' is 'add'"):
        bind({"rand": "null", "g1_weight": "add"}, **lends)
    with pytest.raises(GraphError, match="needs gradients of its own"):
        bind(shared=bind(), **lends)
    with pytest.raises(GraphError, match="lend_gradients"):
        bind(scratch_memory=memory, lend_gradients="no")
    assert memory.areas == []
    lender = bind(**lends)
    with pytest.raises(GraphError, match="the executor to share with lends its gradients"):
        bind(shared=lender)
    assert bind("null", shared=lender).grad_dict == {}


@pytest.mark.parametrize("branches", [False, True])
def test_nobody_works_where_another_keeps(device: Any, branches: bool) -> None:
    """Byte for byte: D's passes lie beside what G keeps for its backward, and beside all that is
    valid whenever; G's two ways lie beside what each needs."""
    executors = adversaries(device, WorkingMemory(), lend=True, branches=branches)
    generator = executors[0]
    for executor in executors:
        assert_apart(executor, None)
    graph = generator._graph
    known = lives(generator, None)
    ahead = len([call for group in graph.forward(training=True) for call in group])
    kept = {a for a, (first, last) in known.items() if first <= ahead < last}
    kept |= generator._memory.buffers.symbols() - set(graph.argument_gradients.values())
    lent = 0
    for executor in executors[1:]:
        for array in (life.array for life in executor._memory._lent.lives):
            start, end = place(executor, array)
            for other in kept:
                first, last = place(generator, other)
                assert max(start, first) >= min(end, last), (array.label, other.label)
            for gradient in graph.argument_gradients.values():
                first, last = place(generator, gradient)
                lent += max(start, first) < min(end, last)
    assert lent > 10
