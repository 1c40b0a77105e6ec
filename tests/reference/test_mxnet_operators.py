"""The twins against operators of MXNet 1.9.1, recorded in float32, NCHW, as golden/ops.npz.

Beside each record stands the largest difference between MXNet's float32 and the same operator in
float64 (golden/ops_rounding.json): MXNet's own rounding. A float64 twin must agree within that and
one rounding of the recorded number; a float32 twin rounds in another order and may take four times
as much (twice would be both errors at their worst; the record is one sample of each).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
from twin_support import assert_within, rounding

from pygan import reference

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
RECORDS = np.load(GOLDEN / "ops.npz", allow_pickle=False)
ROUNDING = json.loads((GOLDEN / "ops_rounding.json").read_text())
DTYPES = [np.float64, np.float32]
# Stride and dilation both 2: MXNet's own kernel is wrong there, so the record is its other
# backend's output, beside the rounding of the first.
OTHER_BACKEND = "deconvolution/12"


def cases(operator: str) -> list[str]:
    return sorted(
        name.removesuffix("/config")
        for name in RECORDS.files
        if name.startswith(f"{operator}/") and name.endswith("/config")
    )


class Record:
    """One case: its configuration, its arrays (channels last, of one dtype), its tolerance."""

    def __init__(self, case: str, dtype: type) -> None:
        self.case = case
        self.dtype = dtype
        self.config: dict[str, Any] = json.loads(str(RECORDS[f"{case}/config"]))

    def __contains__(self, name: str) -> bool:
        return f"{self.case}/{name}" in RECORDS.files

    def __getitem__(self, name: str) -> np.ndarray:
        array = RECORDS[f"{self.case}/{name}"]
        if array.ndim == 4:
            array = array.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(array, self.dtype)

    def optional(self, name: str) -> np.ndarray | None:
        present = name in self
        return self[name] if present else None

    def poisoned(self, name: str) -> np.ndarray:
        return np.full_like(self[name], np.nan)

    def pair(self, name: str, default: int) -> tuple[int, int]:
        return tuple(self.config.get(name, (default, default)))

    def check(self, computed: np.ndarray, name: str, quantity: str) -> None:
        recorded = self[name]
        slack = 1 if self.dtype is np.float64 and self.case != OTHER_BACKEND else 4
        unit = rounding(1, np.float32) * np.abs(recorded.astype(np.float64))
        allowed = slack * (ROUNDING[self.case][quantity] + unit)
        assert_within(computed.reshape(recorded.shape), recorded, allowed, f"{self.case} {name}")


def float32_constant(value: float) -> float:
    """An attribute that MXNet keeps in float32."""
    return float(np.float32(value))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases("convolution") + cases("deconvolution"))
def test_convolution_and_deconvolution(case, dtype):
    record = Record(case, dtype)
    name = "convolution" if case.startswith("convolution") else "transposed_convolution"
    x, w, bias = record["in/data"], record["in/op_weight"], record.optional("in/op_bias")
    dy = record["outgrad/0"]
    pad = record.pair("pad", 0)
    if "target_shape" in record.config:
        # MXNet derives the padding: what the full output has more than the target, cut evenly.
        kernel, stride = record.pair("kernel", 1), record.pair("stride", 1)
        full = [stride[a] * (x.shape[1 + a] - 1) + kernel[a] for a in (0, 1)]
        pad = tuple(-(-(full[a] - record.config["target_shape"][a]) // 2) for a in (0, 1))
    attributes = {
        "stride": record.pair("stride", 1),
        "pad": pad,
        "dilation": record.pair("dilate", 1),
        "groups": record.config.get("num_group", 1),
    }
    y = record.poisoned("out/0")
    getattr(reference, f"{name}_forward")(x, w, bias, y, **attributes)
    record.check(y, "out/0", "out")
    dx = record.poisoned("grad/data")
    getattr(reference, f"{name}_backward_data")(dy, w, dx, **attributes)
    record.check(dx, "grad/data", "grad_data")
    dw = record.poisoned("grad/op_weight")
    getattr(reference, f"{name}_backward_weight")(x, dy, dw, **attributes)
    record.check(dw, "grad/op_weight", "grad_op_weight")
    if bias is not None:
        dbias = record.poisoned("grad/op_bias")
        reference.bias_backward(dy, dbias)
        record.check(dbias, "grad/op_bias", "grad_op_bias")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases("batchnorm"))
def test_batchnorm(case, dtype):
    record = Record(case, dtype)
    config = record.config
    fix_gamma = config.get("fix_gamma", True)
    eps = config.get("eps", float32_constant(1e-3))
    x, gamma, beta = record["in/data"], record["in/bn_gamma"], record["in/bn_beta"]
    moving_mean, moving_var = (record[f"aux_before/bn_moving_{s}"] for s in ("mean", "var"))
    y = record.poisoned("out/0")
    global_stats = config.get("use_global_stats", False) or not config["is_train"]
    if global_stats:
        mean, var = moving_mean, moving_var
        reference.batch_norm_forward_inference(
            x, gamma, beta, mean, var, y, eps=eps, fix_gamma=fix_gamma
        )
    else:
        mean, var = np.full_like(moving_mean, np.nan), np.full_like(moving_var, np.nan)
        reference.batch_norm_forward_training(
            x, gamma, beta, y, mean, var, eps=eps, fix_gamma=fix_gamma
        )
    record.check(y, "out/0", "out")
    assert np.array_equal(gamma, record["in_after_forward/bn_gamma"])

    dx, dgamma, dbeta = (record.poisoned(f"grad/{n}") for n in ("data", "bn_gamma", "bn_beta"))
    reference.batch_norm_backward(
        x,
        gamma,
        beta,
        mean,
        var,
        record["outgrad/0"],
        dx,
        dgamma,
        dbeta,
        eps=eps,
        fix_gamma=fix_gamma,
        use_global_stats=global_stats,
    )
    record.check(dx, "grad/data", "grad_data")
    record.check(dgamma, "grad/bn_gamma", "grad_bn_gamma")
    record.check(dbeta, "grad/bn_beta", "grad_bn_beta")
    if not global_stats:
        reference.batch_norm_update_moving(
            mean,
            var,
            moving_mean,
            moving_var,
            momentum=float32_constant(config.get("momentum", 0.9)),
        )
    record.check(moving_mean, "aux_after/bn_moving_mean", "aux_bn_moving_mean")
    record.check(moving_var, "aux_after/bn_moving_var", "aux_bn_moving_var")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases("pooling"))
def test_pooling(case, dtype):
    record = Record(case, dtype)
    config = record.config
    x, dy = record["in/data"], record["outgrad/0"]
    kernel, stride = record.pair("kernel", 1), record.pair("stride", 1)
    if config.get("global_pool"):
        kernel, stride = x.shape[1:3], (1, 1)
    attributes = {
        "kind": config["pool_type"],
        "kernel": kernel,
        "stride": stride,
        "pad": record.pair("pad", 0),
        "count_include_pad": config.get("count_include_pad", True),
    }
    y = record.poisoned("out/0")
    reference.pooling_forward(x, y, **attributes)
    record.check(y, "out/0", "out")
    dx = record.poisoned("grad/data")
    reference.pooling_backward(x, dy, dx, **attributes)
    record.check(dx, "grad/data", "grad_data")


KINDS = {
    "leaky": "leaky_relu",
    "elu": "elu",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softrelu": "softplus",
}


@pytest.mark.parametrize("with_input", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases("leakyrelu") + cases("activation") + cases("sigmoid"))
def test_activations(case, dtype, with_input):
    record = Record(case, dtype)
    attributes = {
        "kind": KINDS[record.config.get("act_type", "sigmoid")],
        "slope": float32_constant(record.config.get("slope", 0.25)),
    }
    x, y = record["in/data"], record.poisoned("out/0")
    reference.activation_forward(x, y, **attributes)
    record.check(y, "out/0", "out")
    dx = record.poisoned("grad/data")
    reference.activation_backward(
        x if with_input else None, y, record["outgrad/0"], dx, **attributes
    )
    record.check(dx, "grad/data", "grad_data")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases("fullyconnected"))
def test_fullyconnected(case, dtype):
    """A 4-d input is flattened in MXNet's order (C, H, W), which the recorded weight expects."""
    record = Record(case, dtype)
    raw = RECORDS[f"{case}/in/data"]
    w, bias = record["in/op_weight"], record.optional("in/op_bias")
    x = np.ascontiguousarray(raw.reshape(-1, w.shape[1]), dtype)
    dy = record["outgrad/0"].reshape(-1, w.shape[0])
    y = np.full_like(dy, np.nan)
    reference.fully_connected_forward(x, w, bias, y)
    record.check(y, "out/0", "out")
    dx = np.full_like(x, np.nan)
    reference.fully_connected_backward_data(dy, w, dx)
    if raw.ndim == 4:
        n, c, h, width = raw.shape
        dx = dx.reshape(n, c, h, width).transpose(0, 2, 3, 1)
    record.check(dx, "grad/data", "grad_data")
    dw = np.full_like(w, np.nan)
    reference.fully_connected_backward_weight(x, dy, dw)
    record.check(dw, "grad/op_weight", "grad_op_weight")
    if bias is not None:
        dbias = np.full_like(bias, np.nan)
        reference.bias_backward(dy, dbias)
        record.check(dbias, "grad/op_bias", "grad_op_bias")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases("softmax"))
def test_softmax(case, dtype):
    """Over axis 1 of NCHW, which is the last one of NHWC."""
    record = Record(case, dtype)
    y = record.poisoned("out/0")
    reference.softmax_forward(record["in/data"], y)
    record.check(y, "out/0", "out")
    dx = record.poisoned("grad/data")
    reference.softmax_backward(y, record["outgrad/0"], dx)
    record.check(dx, "grad/data", "grad_data")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases("logisticregressionoutput"))
def test_logistic_regression_output(case, dtype):
    """(p - label) grad_scale / elements per sample, not divided by the batch."""
    record = Record(case, dtype)
    logits = record["in/data"]
    labels = record["in/label"].reshape(logits.shape)
    scale = record.config.get("grad_scale", 1.0) / logits[0].size
    probabilities, loss = record.poisoned("out/0"), np.full(1, np.nan, dtype)
    reference.sigmoid_cross_entropy_forward(logits, labels, probabilities, loss, scale=scale)
    record.check(probabilities, "out/0", "out")
    dlogits = record.poisoned("grad/data")
    reference.sigmoid_cross_entropy_backward(logits, labels, dlogits, scale=scale)
    record.check(dlogits, "grad/data", "grad_data")


@pytest.mark.parametrize("case", ["ce_loss/00", "ce_loss/01"])
def test_the_lessons_cross_entropy_is_ours_but_for_its_small_constant(case):
    """The lesson has log(p + 1e-8): to first order the loss differs by 1e-8 (t/p + (1-t)/(1-p)).

    Its third record saturates in float32, which the form from logits is there to avoid.
    """
    record = Record(case, np.float64)
    p, t = record["in/data"], record["in/label"]
    logits, loss, dlogits = scipy.special.logit(p), np.full(1, np.nan), np.full_like(p, np.nan)
    scale = 1 / p.size
    reference.sigmoid_cross_entropy_forward(logits, t, None, loss, scale=scale)
    unit = rounding(8, np.float32)
    constant = 1e-8 * np.mean(t / p + (1 - t) / (1 - p))
    assert_within(loss, record["out/0"], constant + unit * np.abs(loss), "loss")
    reference.sigmoid_cross_entropy_backward(logits, t, dlogits, scale=scale)
    gradient = dlogits / (p * (1 - p))
    constant = 1e-8 * scale * (t / p**2 + (1 - t) / (1 - p) ** 2)
    # Each of the two terms t/p and (1-t)/(1-p) is rounded before they meet.
    terms = scale * (t / p + (1 - t) / (1 - p))
    assert_within(gradient, record["grad/data"], constant + unit * terms, "gradient")


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_mul(dtype):
    record = Record("broadcast_mul/00", dtype)
    image, digit, dy = record["in/img"], record["in/digit"], record["outgrad/0"]
    y = record.poisoned("out/0")
    reference.broadcast_multiply_forward(image, digit, y)
    record.check(y, "out/0", "out")
    for name, other in (("img", digit), ("digit", image)):
        gradient = record.poisoned(f"grad/{name}")
        reference.broadcast_multiply_backward(dy, other, gradient)
        # MXNet's sum over the image was exact here; ours may round its 16 terms.
        allowed = rounding(16, dtype) * np.abs(dy).max() * np.abs(other).max() * 16
        quantity = ROUNDING[record.case][f"grad_{name}"]
        assert_within(gradient, record[f"grad/{name}"], allowed + quantity, name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp(dtype):
    record = Record("exp/00", dtype)
    y, dx = record.poisoned("out/0"), record.poisoned("grad/data")
    reference.exp_forward(record["in/data"], y)
    record.check(y, "out/0", "out")
    reference.multiply_backward(record["outgrad/0"], y, dx)
    record.check(dx, "grad/data", "grad_data")


@pytest.mark.parametrize("dtype", DTYPES)
def test_concat(dtype):
    """MXNet's dim 1, the channels, is the last axis here."""
    record = Record("concat/00", dtype)
    y, offset = record.poisoned("out/0"), 0
    for name in ("a", "b"):
        x = record[f"in/{name}"]
        reference.concatenate_forward(x, y, axis=3, offset=offset)
        gradient = np.full_like(x, np.nan)
        reference.concatenate_backward(record["outgrad/0"], gradient, axis=3, offset=offset)
        assert np.array_equal(gradient, record[f"grad/{name}"])
        offset += x.shape[3]
    assert np.array_equal(y, record["out/0"])


PYTHON_ADAM = [case for case in cases("adam") if Record(case, np.float32).config["flavour"] == "py"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", PYTHON_ADAM)
def test_adam(case, dtype):
    """Five steps of mx.optimizer.Adam; errors of earlier steps persist, so the counts add up."""
    record = Record(case, dtype)
    config = record.config
    w, m, v = record["w0"], np.zeros(12, dtype), np.zeros(12, dtype)
    step = np.zeros(1024, np.int32)
    rate = np.full(1, config["learning_rate"], np.float32 if dtype is np.float32 else dtype)
    for k, gradient in enumerate(record["grads"]):
        reference.adam_update(
            w,
            gradient,
            m,
            v,
            step,
            rate,
            beta1=config["beta1"],
            beta2=config["beta2"],
            eps=config["epsilon"],
            weight_decay=config["wd"],
            rescale_grad=config.get("rescale_grad", 1.0),
            clip_gradient=config.get("clip_gradient"),
        )
        assert (step == k + 1).all()
        # About eight roundings a step in m and v; half of v's relative error passes to w's change,
        # whose size is at most a few learning rates.
        unit = rounding(8 * (k + 1), np.float32)
        for name, array in (("m", m), ("v", v)):
            recorded = record[name][k]
            scale = np.maximum(np.abs(recorded), np.abs(record[name][: k + 1]).max(axis=0))
            assert_within(array, recorded, unit * scale, f"{name} after step {k + 1}")
        allowed = rounding(k + 1, np.float32) * np.abs(record["w"][k])
        allowed = allowed + 4 * unit * config["learning_rate"] * (k + 1)
        assert_within(w, record["w"][k], allowed, f"w after step {k + 1}")


def test_every_recorded_operator_of_ours_is_used():
    expected = {
        "deconvolution": 18,
        "convolution": 12,
        "batchnorm": 28,
        "pooling": 17,
        "leakyrelu": 4,
        "activation": 4,
        "sigmoid": 1,
        "fullyconnected": 4,
        "softmax": 3,
        "logisticregressionoutput": 4,
    }
    assert {operator: len(cases(operator)) for operator in expected} == expected
    assert len(PYTHON_ADAM) == 5
