"""Networks for PyTorch: parameters under its names and in its layouts, there and back, and the
modules that take them.

An operator ``fc1`` is a module ``fc1``. Its arrays become

| here                                | there                                                    |
|-------------------------------------|----------------------------------------------------------|
| ``fc1_weight``, ``fc1_bias``        | ``fc1.weight``, ``fc1.bias``; channels moved, see        |
|                                     | `pygan.layout`; after an image, columns too              |
| ``bn1_gamma``, ``bn1_beta``         | ``bn1.weight`` (1 where gamma is fixed), ``bn1.bias``    |
| ``bn1_moving_mean``, ``_moving_var``| ``bn1.running_mean``, ``bn1.running_var``                |

In evaluation the modules compute what the executor computes with ``is_train=False``. Trained
further, they differ: PyTorch moves its variance by the unbiased one, and trains a gamma that is
fixed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pygan import layout
from pygan.errors import CheckpointError, GraphError
from pygan.executor import Executor
from pygan.operators import (
    Activation,
    BatchNorm,
    Convolution,
    Dropout,
    Flatten,
    FullyConnected,
    LeakyReLU,
    Reshape,
    Shape,
    TransposedConvolution,
)
from pygan.symbol import Node

_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_var",
}
_KEEP_ORDER = (Activation, BatchNorm, Dropout, Flatten, LeakyReLU, Reshape)


def to_torch(executor: Executor) -> dict[str, np.ndarray]:
    """Host copies of parameters and moving statistics, as a PyTorch ``state_dict`` has them;
    `safetensors.numpy.save_file` or ``torch.from_numpy`` take them on.

    Raises GraphError for a layer whose numbers stand in an order that only channels-last images
    have.
    """
    state = {}
    for name, entry in _entries(executor).items():
        values = np.array(entry.array)
        state[name] = np.ones_like(values) if entry.fixed else entry.outward(values)
    return state


def from_torch(executor: Executor, state: Mapping[str, Any]) -> None:
    """Takes over a PyTorch ``state_dict`` (tensors or arrays by name) of modules named as here.

    Raises CheckpointError, before anything is changed, where names or shapes differ, or where a
    gamma that is fixed at 1 here is another number there. Counts of batches are ignored.
    """
    entries = _entries(executor)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"a state is arrays by name, not a {type(state).__name__}")
    given = {
        name: _numbers(name, values)
        for name, values in state.items()
        if not str(name).endswith("num_batches_tracked")
    }
    expected = {name: e.outward(np.asarray(e.array)).shape for name, e in entries.items()}
    problems = [f"{name} {expected[name]} is missing" for name in expected if name not in given]
    problems += [f"{name} {given[name].shape} is unknown here" for name in given.keys() - expected]
    problems += [
        f"{name} is {given[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in given and given[name].shape != shape
    ]
    problems += [
        f"{name} is not 1 throughout, but its gamma is fixed here (bind with fix_gamma=False)"
        for name, entry in entries.items()
        if entry.fixed and name in given and not np.all(given[name] == 1)
    ]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"a state of other modules: {'; '.join(problems[:8])}{more}")
    for name, entry in entries.items():
        entry.array[...] = entry.inward(given[name]).astype(executor.dtype)


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        # A module's own parameters are read for their numbers alone.
        array = np.asarray(values.detach() if hasattr(values, "detach") else values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors of a GPU
        raise CheckpointError(f"{name} of the state cannot be read: {error}") from None
    if array.dtype.kind not in "biuf":
        raise CheckpointError(f"{name} of the state holds {array.dtype}, no real numbers")
    return array


def torch_modules(executor: Executor) -> str:
    """Python source of the network as ``torch.nn.Sequential``, for one input and one layer after
    the other; images are (N, C, H, W) there.

    Raises GraphError naming the operator that has no such module.
    """
    shapes = _shapes(executor)
    chain = _chain(executor)
    modules = []
    for node in chain:
        data = shapes[id(node.inputs[0][0]), node.inputs[0][1]]
        if isinstance(node.operator, FullyConnected) and len(data) > 2:
            modules.append((f"{node.name}_flatten", "Flatten()"))
        modules.append((node.name, _module(node, data, shapes[id(node), 0])))
    lines = [f'    ("{name}", nn.{module}),' for name, module in modules]
    return "\n".join(["nn.Sequential(OrderedDict([", *lines, "]))"])


class _Entry:
    """An array, and its ways to PyTorch's layout and back."""

    def __init__(
        self,
        array: Any,
        outward: Callable[[np.ndarray], np.ndarray] = np.asarray,
        inward: Callable[[np.ndarray], np.ndarray] = np.asarray,
        fixed: bool = False,
    ) -> None:
        self.array, self.outward, self.inward, self.fixed = array, outward, inward, fixed


def _entries(executor: Executor) -> dict[str, _Entry]:
    """PyTorch's names, in the order of the graph."""
    shapes = _shapes(executor)
    entries: dict[str, _Entry] = {}
    for node in executor.symbol.nodes():
        operator = node.operator
        if operator is None:
            continue
        arrays = {
            argument: executor.arg_dict[parent.name]
            for argument, (parent, _) in zip(operator.argument_names(), node.inputs, strict=True)
            if parent.operator is None and parent.name not in executor.input_names
        }
        for auxiliary, name in zip(operator.auxiliary, node.auxiliary_names(), strict=True):
            arrays[auxiliary] = executor.aux_dict[name]
        image = _flattened_image(*node.inputs[0], shapes)
        if isinstance(operator, BatchNorm):
            if image is not None and len(shapes[id(node), 0]) == 2:
                raise GraphError(_order(node, image))
            for there, here in _BATCH_NORM.items():
                fixed = here == "gamma" and operator.fix_gamma
                entries[f"{node.name}.{there}"] = _Entry(arrays[here], fixed=fixed)
        elif isinstance(operator, FullyConnected):
            ways = () if image is None else _columns(image)
            entries[f"{node.name}.weight"] = _Entry(arrays["weight"], *ways)
        elif isinstance(operator, Convolution | TransposedConvolution):
            entries[f"{node.name}.weight"] = _Entry(
                arrays["weight"], layout.to_nchw, layout.to_nhwc
            )
        elif isinstance(operator, Reshape):
            _require_plain_reshape(node, shapes)
        elif arrays:
            raise GraphError(f"{node.describe()} has parameters that no module of PyTorch has")
        if "bias" in arrays:
            entries[f"{node.name}.bias"] = _Entry(arrays["bias"])
    return entries


def _shapes(executor: Executor) -> Mapping[tuple[int, int], Shape]:
    """Those of every output of every node."""
    if not isinstance(executor, Executor):
        raise GraphError(f"the parameters of an executor are exchanged; bind {executor!r} first")
    given = {name: tuple(array.shape) for name, array in executor.arg_dict.items()}
    return executor.symbol.infer_shape(given).of


def _columns(image: Shape) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """The ways of a weight whose columns are the pixels of an image (H, W, C)."""
    return (
        lambda weight: layout.fully_connected_to_nchw(weight, image),
        lambda weight: layout.fully_connected_to_nhwc(weight, image),
    )


def _flattened_image(node: Node, index: int, shapes: Mapping[Any, Shape]) -> Shape | None:
    """(H, W, C) of the image whose numbers an array (N, D) lists one after the other; None where
    they are no image's, or stand in the same order in both layouts."""
    shape = shapes[id(node), index]
    if len(shape) == 4:
        height, width, channels = shape[1:]
        return None if height * width == 1 or channels == 1 else (height, width, channels)
    if isinstance(node.operator, _KEEP_ORDER):
        return _flattened_image(*node.inputs[0], shapes)
    if not isinstance(node.operator, FullyConnected):
        for parent, output in node.inputs:
            image = _flattened_image(parent, output, shapes)
            if image is not None:
                raise GraphError(_order(node, image))
    return None


def _require_plain_reshape(node: Node, shapes: Mapping[Any, Shape]) -> None:
    """Numbers that become an image must stand in an order that both layouts share."""
    if len(shapes[id(node), 0]) == 4:
        image = _flattened_image(node, 0, shapes)
        if image is not None:
            raise GraphError(_order(node, image))


def _order(node: Node, image: Shape) -> str:
    return (
        f"{node.describe()} takes the numbers of images (H, W, C) = {image} in that order, and "
        "PyTorch has them as (C, H, W); only fully connected layers are turned"
    )


def _chain(executor: Executor) -> list[Node]:
    """The operators one after the other; GraphError where they are no chain."""
    nodes = [node for node in executor.symbol.nodes() if node.operator is not None]
    for before, node in zip([None, *nodes], nodes, strict=False):
        data, *others = (parent for parent, _ in node.inputs)
        wanted = data.operator is None if before is None else data is before
        if not wanted or any(o.operator or o.name in executor.input_names for o in others):
            raise GraphError(
                f"{node.describe()} does not follow on one layer alone, so the network is no "
                "torch.nn.Sequential; to_torch gives its parameters"
            )
    return nodes


def _module(node: Node, data: Shape, output: Shape) -> str:
    """The constructor of one module, without ``nn.``"""
    operator = node.operator
    match operator:
        case Convolution() | TransposedConvolution():
            transposed = isinstance(operator, TransposedConvolution)
            extra = ""
            if isinstance(operator, TransposedConvolution):
                extra = f", output_padding={operator.output_padding}"
            return (
                f"Conv{'Transpose' if transposed else ''}2d({data[-1]}, {operator.num_filter}, "
                f"{operator.kernel}, stride={operator.stride}, padding={operator.pad}{extra}, "
                f"dilation={operator.dilation}, groups={operator.groups}, "
                f"bias={not operator.no_bias})"
            )
        case FullyConnected():
            return f"Linear({np.prod(data[1:])}, {output[1]}, bias={not operator.no_bias})"
        case BatchNorm():
            axes = {2: 1, 4: 2}.get(len(data))
            if axes:
                momentum = round(1 - operator.momentum, 12)
                return f"BatchNorm{axes}d({data[-1]}, eps={operator.eps}, momentum={momentum})"
        case Activation():
            names = {"relu": "ReLU", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus"}
            return f"{names[operator.kind]}()"
        case LeakyReLU():
            return f"{'ELU' if operator.kind == 'elu' else 'LeakyReLU'}({operator.slope})"
        case Dropout():
            return f"Dropout({operator.rate})"
        case Flatten():
            return "Flatten()"
        case Reshape() if len(data) == 2 and len(output) == 4:
            return f"Unflatten(1, {(output[3], *output[1:3])})"
    raise GraphError(f"{node.describe()} has no module of PyTorch here; to_torch gives parameters")
