"""Kernel declarations as a launch sees them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pygan.bindings import compiler
from pygan.bindings.errors import SignatureError
from pygan.bindings.signature import parse


def only(source: str, **defines: object):
    (signature,) = parse(source, defines).values()
    return signature


def test_types_names_and_qualifiers() -> None:
    signature = only(
        'extern "C" __global__ void __launch_bounds__(128, 4) scale(const float* __restrict__ x,\n'
        "    float *y, const unsigned char * const mask, unsigned long long offset, int n,\n"
        "    unsigned k, double alpha, long long m, size_t bytes) { y[0] = x[0]; }"
    )
    assert signature.name == "scale"
    assert [parameter.name for parameter in signature.parameters] == [
        *("x", "y", "mask", "offset", "n", "k", "alpha", "m", "bytes")
    ]
    assert [str(parameter.dtype) for parameter in signature.parameters] == [
        *("float32", "float32", "uint8", "uint64", "int32", "uint32", "float64", "int64", "uint64")
    ]
    assert [parameter.pointer for parameter in signature.parameters] == [True] * 3 + [False] * 6
    assert [parameter.const for parameter in signature.parameters[:3]] == [True, False, True]


def test_packing_is_laid_out_as_c_lays_it_out() -> None:
    """Natural alignment: an int before a pointer is followed by four bytes of padding."""
    signature = only('extern "C" __global__ void k(int n, float* y, float a, double b) {}')
    packed = struct.pack(signature.struct_format, 7, 0x1122334455667788, 0.5, 0.25)
    assert len(packed) == 32
    assert np.frombuffer(packed, np.int32, 1)[0] == 7
    assert np.frombuffer(packed, np.uint64, 1, offset=8)[0] == 0x1122334455667788
    assert np.frombuffer(packed, np.float32, 1, offset=16)[0] == np.float32(0.5)
    assert np.frombuffer(packed, np.float64, 1, offset=24)[0] == 0.25


def test_everything_that_is_no_entry_point_is_passed_over() -> None:
    source = r"""
    // extern "C" __global__ void commented(float* x);
    /* extern "C" __global__ void too(float* x) {} */
    #include "nothing.cuh"
    template <int N> __global__ void hidden(const float4* x, float (&y)[N]) {}
    __device__ float helper(float x) { return x; }
    __constant__ char text[] = "extern \"C\" __global__ void fake(float* x) // no";
    extern "C" __global__ __launch_bounds__(BLOCK * 2) void first(void) {}
    extern "C" {
    __global__ void second(float* x) { if (x) { x[0] = 1; } }
    }
    __global__ void mangled(float* x) {}
    """
    assert sorted(parse(source)) == ["first", "second"]
    assert parse(source)["first"].parameters == ()


def test_types_named_by_macros() -> None:
    source = '#define real base\nextern "C" __global__ void k(const real* x, INDEX n) {}'
    signature = only(source, base="float", INDEX="long long")
    assert [str(parameter) for parameter in signature.parameters] == [
        "const float* x",
        "long long n",
    ]
    assert only(source, base="double", INDEX="int").parameters[0].dtype == np.float64


def test_a_declaration_and_its_definition_are_one_kernel() -> None:
    declared = 'extern "C" __global__ void k(float* x);\n'
    assert str(only(declared + declared.replace(";", " {}"))) == "k(float* x)"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('extern "C" __global__ void k(float4* x) {}', "float4"),
        ('extern "C" __global__ void k(float** x) {}', r"float\*\* x"),
        ('extern "C" __global__ void k(float& x) {}', "float& x"),
        ('extern "C" __global__ void k(float) {}', "no name"),
        ('extern "C" __global__ void k(float x[4]) {}', "k: the parameter"),
        ('extern "C" __global__ void k(float* x', "never closed"),
        (
            'extern "C" __global__ void k(int a);\nextern "C" __global__ void k(float a) {}',
            "declared twice",
        ),
    ],
)
def test_what_cannot_be_launched_is_named(source: str, said: str) -> None:
    with pytest.raises(SignatureError, match=said):
        parse(source)


C_TYPES = ["float", "double", "int", "unsigned int", "unsigned char", "unsigned long long"]


@given(
    st.lists(
        st.tuples(st.sampled_from(C_TYPES), st.booleans(), st.booleans()), min_size=1, max_size=12
    ),
    st.sampled_from([" ", "\n    ", " /* gap */ ", " // gap\n"]),
)
def test_any_list_of_parameters_survives(parameters, gap: str) -> None:
    written = [
        f"{'const ' if const else ''}{ctype}{gap}{'* __restrict__ ' if pointer else ''}p{index}"
        for index, (ctype, pointer, const) in enumerate(parameters)
    ]
    signature = only(f'extern "C" __global__ void k({gap}{("," + gap).join(written)}) {{}}')
    found = [(each.ctype, each.pointer) for each in signature.parameters]
    assert found == [(ctype, pointer) for ctype, pointer, _ in parameters]


def test_every_kernel_of_the_library_can_be_read() -> None:
    files = sorted(compiler.kernels_dir().glob("*.cu"))
    assert files
    for file in files:
        assert parse(file.read_text(encoding="utf-8")), f"{file.name} has no entry point"
