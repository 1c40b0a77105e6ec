"""Dependencies point down only: pygan -> bindings -> kernels; nothing loads CUDA by surprise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

LIBRARY = ("pygan", "bindings", "kernels")


def imported_modules(path: Path, package: str) -> Iterator[str]:
    """Absolute names of everything that the file imports, relative imports resolved."""
    yield from names_imported(ast.walk(parsed(path)), package)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def names_imported(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def python_files(repository: Path, top: str) -> Iterator[tuple[Path, str]]:
    """(path, dotted package) of every Python file under `top`, as it is installed."""
    root = "pygan" if top == "pygan" else f"pygan.{top}"
    for path in sorted((repository / top).rglob("*.py")):
        inner = path.parent.relative_to(repository / top).parts
        yield path, ".".join([root, *inner])


def test_relative_imports_are_resolved(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("from ..device import get\nfrom . import x\nimport numpy.linalg\n")
    found = list(imported_modules(file, "pygan.training"))
    relative = ["pygan.device", "pygan.device.get", "pygan.training", "pygan.training.x"]
    assert found == [*relative, "numpy.linalg"]


def run_at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Statements that run when a module is imported, but for those that type checkers alone see."""
    for node in body:
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        for part in ("body", "handlers", "orelse", "finalbody"):
            yield from run_at_import(getattr(node, part, []))


def imports_of_each_other(files: Iterable[tuple[Path, str]]) -> dict[str, set[str]]:
    """By module of the files, the others of them that its own import needs."""
    modules = {
        package if path.stem == "__init__" else f"{package}.{path.stem}": (path, package)
        for path, package in files
    }
    found: dict[str, set[str]] = {}
    for name, (path, package) in modules.items():
        found[name] = set()
        for node in run_at_import(parsed(path).body):
            names = list(names_imported([node], package))
            if isinstance(node, ast.ImportFrom) and modules.keys() >= set(names[1:]):
                del names[0]  # modules of a package need nothing of the package itself
            found[name] |= modules.keys() & names
    return found


def test_a_circle_of_imports_is_found(tmp_path: Path) -> None:
    texts = {
        "a": "import p.b\n",
        "b": "try:\n    from . import c\nexcept ImportError:\n    c = None\n",
        "c": "def late():\n    import p.a\nif TYPE_CHECKING:\n    import p.a\n",
    }
    files = [(tmp_path / f"{name}.py", "p") for name in texts]
    for path, _ in files:
        path.write_text(texts[path.stem])
    found = imports_of_each_other(files)
    assert found == {"p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": set()}
    files[2][0].write_text("from p.a import something\n")
    with pytest.raises(CycleError):
        TopologicalSorter(imports_of_each_other(files)).prepare()


def test_no_module_imports_itself_by_way_of_others(repository: Path) -> None:
    tops = (*LIBRARY, "examples")
    found = imports_of_each_other(file for top in tops for file in python_files(repository, top))
    assert "pygan.lowering.steps" in found["pygan.lowering.graph"]
    TopologicalSorter(found).prepare()


def test_pygan_never_imports_pycuda(repository: Path) -> None:
    files = list(python_files(repository, "pygan"))
    assert len(files) > 5
    for path, package in files:
        for name in imported_modules(path, package):
            assert name.split(".")[0] != "pycuda", f"{path} imports {name}"


def test_bindings_know_no_layer_above(repository: Path) -> None:
    files = list(python_files(repository, "bindings"))
    assert len(files) > 5
    for path, package in files:
        for name in imported_modules(path, package):
            parts = name.split(".")
            if parts[0] == "pygan" and len(parts) > 1:
                assert parts[1] in ("bindings", "kernels"), f"{path} imports {name}"


def test_plans_know_no_launcher(repository: Path) -> None:
    """What decides how a product is launched is told apart from what launches it."""
    operators, known = "pygan.bindings.operators", {"plans", "shapes", "storage", "validation"}
    files = [each for each in python_files(repository, "bindings") if each[1].endswith(".plans")]
    assert len(files) > 5
    for path, package in files:
        for name in imported_modules(path, package):
            if name.startswith(f"{operators}."):
                assert name.split(".")[3] in known, f"{path} imports {name}"


def test_kernels_include_no_host_header(repository: Path) -> None:
    sources = sorted((repository / "kernels").glob("*.cu*"))
    assert sources
    for source in sources:
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            include = re.match(r"\s*#\s*include\s*(.*)", line)
            if include is None:
                continue
            name = re.fullmatch(r'"([\w.]+)"\s*(//.*)?', include.group(1))
            assert name, f"{source.name}:{number} includes {include.group(1)}, not a file of ours"
            assert (source.parent / name.group(1)).is_file(), f"{source}:{number}: no such file"


def test_importing_the_library_loads_no_driver() -> None:
    script = (
        "import sys, pygan, pygan.device, pygan.doctor, pygan.bindings.build_pycuda\n"
        "assert 'pycuda' not in sys.modules\n"
        "maps = open('/proc/self/maps').read()\n"
        "assert 'libcuda' not in maps\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("top", LIBRARY)
def test_sources_name_no_place_of_one_machine(repository: Path, top: str) -> None:
    homes = re.compile(r"(?<![\w./-])/(home|root|work|Users|tmp/team)/\w")
    for path in sorted((repository / top).rglob("*")):
        if path.suffix in {".py", ".cu", ".cuh", ".cpp", ".h", ".hpp", ".md"}:
            match = homes.search(path.read_text(encoding="utf-8"))
            assert match is None, f"{path} names {match.group()}" if match else ""
