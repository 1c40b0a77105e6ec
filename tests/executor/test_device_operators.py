"""What `device.ops` says of arguments that are no arrays of its device."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from pygan import reference
from pygan.errors import ArrayError, PyganError


def array_parameters(operator: str) -> list[tuple[str, bool]]:
    """(name, whether it may be None) of those that the twin declares to be arrays."""
    parameters = inspect.signature(getattr(reference, operator)).parameters.values()
    return [
        (each.name, "None" in each.annotation)
        for each in parameters
        if each.kind is each.POSITIONAL_OR_KEYWORD and "np.ndarray" in each.annotation
    ]


OPERATORS = [name for name in reference.__all__ if array_parameters(name)]


class Elsewhere:
    """As an array of another device looks."""

    shape, dtype, size, context = (2, 3), np.dtype(np.float32), 6, None


def test_most_functions_take_arrays() -> None:
    without = {"left_moments", "left_slices", "leaves_room", "normalisation_gain", "workspace_size"}
    assert set(reference.__all__) - set(OPERATORS) == without


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_no_array_is_named(device: Any, operator: str) -> None:
    """Before anything is computed: shapes and attributes here would not do."""
    function, array = getattr(device.ops, operator), device.zeros(2)
    parameters = array_parameters(operator)
    wrong = [(None, "None"), (2.5, r"2\.5 \(float\)"), ([1, 2], r"\[1, 2\] \(list\)")]
    wrong.append((Elsewhere(), r"a .*Elsewhere of shape \(2, 3\)"))
    if device.name != "numpy":
        wrong.append((np.zeros((4, 1)), r"a numpy\.ndarray of shape \(4, 1\)"))
    for place, (name, may_be_none) in enumerate(parameters):
        for given, described in wrong[1:] if may_be_none else wrong:
            arrays = [array] * len(parameters)
            arrays[place] = given
            said = rf"^{operator}: {name} is {described}; it must be an array of device "
            said += rf"'{device.name}'{' or None' if may_be_none else ''}: device\.from_numpy"
            with pytest.raises(ArrayError, match=said) as error:
                function(*arrays)
            assert isinstance(error.value, PyganError) and isinstance(error.value, TypeError)


def test_arrays_by_name_are_looked_at_too(device: Any) -> None:
    a = device.zeros((2, 3))
    y = device.zeros((2, 3))
    for _ in range(2):  # the second call finds the types of the first
        device.ops.add_forward(a, a, y=y)
        with pytest.raises(ArrayError, match="add_forward: b is None"):
            device.ops.add_forward(a, b=None, y=y)
        with pytest.raises(ArrayError, match="add_forward: y is None"):
            device.ops.add_forward(a, a, y=None)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        device.ops.add_forward(a, a)


def test_arrays_that_may_be_left_out_are_looked_at_in_every_call(device: Any) -> None:
    x, y = device.from_numpy(np.ones((1, 2, 2, 4), np.float32)), device.zeros((1, 2, 2, 4))
    w = device.zeros((4, 1, 1, 4))
    sizes = {"stride": (1, 1), "pad": (0, 0), "dilation": (1, 1), "groups": 1}
    device.ops.convolution_forward(x, w, None, y, **sizes)
    for wrong in (Elsewhere(), [[1.0]]):
        with pytest.raises(ArrayError, match="convolution_forward: moments is"):
            device.ops.convolution_forward(x, w, None, y, moments=wrong, **sizes)


def test_what_may_be_none_is_none(device: Any) -> None:
    x, w, y = (device.from_numpy(np.ones(shape, np.float32)) for shape in ((2, 3), (4, 3), (2, 4)))
    size = device.ops.workspace_size("fully_connected_forward", (2, 3), (4, 3), None, (2, 4))
    workspace = device.empty(size) if size else None
    device.ops.fully_connected_forward(x, w, None, y, workspace=workspace)
    assert (np.asarray(y) == 3).all()


def test_a_bound_call_is_looked_at_once(device: Any) -> None:
    a, y = device.from_numpy(np.ones((2, 3), np.float32)), device.zeros((2, 3))
    with pytest.raises(ArrayError, match="axpy: y is None"):
        device.ops.bind("axpy", a, None, alpha=2.0)
    call = device.ops.bind("axpy", a, y, alpha=2.0, accumulate=True)
    call()
    call()
    assert (np.asarray(y) == 4).all()


def test_an_unknown_operator_is_named(device: Any) -> None:
    with pytest.raises(AttributeError, match=f"'{device.name}' has no operator 'add_backward'"):
        _ = device.ops.add_backward
    assert "add_forward" in dir(device.ops)
