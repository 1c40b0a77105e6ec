"""The launchers offer exactly what the twins offer, and every kernel has a launcher."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import pygan.bindings.operators
import pygan.kernels
from pygan import reference
from pygan.bindings import operators, signature
from pygan.bindings.operators import validation

KERNELS = sorted(Path(pygan.kernels.__file__).parent.glob("*.cu"))
LAUNCHERS = sorted(Path(pygan.bindings.operators.__file__).parent.rglob("*.py"))
LAUNCHERS.append(Path(pygan.bindings.__file__).parent / "job.py")


def test_names_are_the_twins_names() -> None:
    assert operators.__all__ == reference.__all__


@pytest.mark.parametrize("name", reference.__all__)
def test_parameters_are_the_twins_parameters(name: str) -> None:
    def parameters(function: object) -> list[tuple[str, object, object]]:
        found = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in found]

    assert parameters(getattr(operators, name)) == parameters(getattr(reference, name))


@pytest.mark.parametrize("name", reference.__all__)
def test_launchers_are_documented(name: str) -> None:
    assert inspect.getdoc(getattr(operators, name))


def strings_in_code(path: Path) -> set[str]:
    """Patterns of the strings in a Python file that are not docstrings; {...} may be any word."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    passed_over = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            passed_over.update(id(part) for part in node.values)
            pieces = [
                part.value if isinstance(part, ast.Constant) else None for part in node.values
            ]
            if any(pieces):  # f"{x}" alone would be any word
                found.add("".join(r"\w+" if p is None else re.escape(p) for p in pieces))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(re.escape(node.value) if id(node) not in passed_over else "")
    return found


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_every_entry_point_has_a_launcher(path: Path) -> None:
    """A kernel that nothing launches is a kernel that nothing tests."""
    named = [strings_in_code(launcher) for launcher in LAUNCHERS]
    patterns = set().union(*(found for found in named if re.escape(path.name) in found))
    entries = set(signature.parse(path.read_text(encoding="utf-8"), {"TABLE_TYPE": "float"}))
    assert entries, f"{path.name} declares no entry point"
    idle = {e for e in entries if not any(re.fullmatch(pattern, e) for pattern in patterns)}
    assert not idle, f"{path.name}: no launcher names {sorted(idle)}"


def test_unknown_operator_has_no_workspace() -> None:
    for name in ("no_such_operator", "workspace_size"):
        with pytest.raises(ValueError, match=name):
            operators.workspace_size(name, (3, 4))
    assert operators.workspace_size("add_forward", (3,), (3,), (3,)) == 0


def test_more_than_a_kernel_counts_is_refused() -> None:
    validation.countable("batch_norm_backward", "rows", 2**31 - 2**16)
    with pytest.raises(ValueError, match=r"batch_norm_backward: 2147483647 rows.*split the batch"):
        validation.countable("batch_norm_backward", "rows", 2**31 - 1)
