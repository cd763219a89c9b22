"""The tree keeps its promises: imports point one way and never in a circle, folders stay small, and nothing shadows the
standard library.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "models": {"models"},
    "ingest": {"ingest"},
    "tokenize": {"tokenize", "models", "ingest"},
    "train": {"train", "tokenize", "models", "ingest"},
    "flows": {"flows", "train", "tokenize", "models", "ingest"},
}
MAX_DEPTH = 2
"""Folders between a folder at the root and a module."""

MAX_MODULES = 12
LARGE_FOLDERS: dict[str, str] = {}
"""Folders that may hold more modules, each with its reason."""

PRIVATE_PARTS = {
    "_create_connection": "tests/ingest/fetch/test_network_insides.py"
    "::test_an_http_connection_connects_by_its_create_connection",
    "_foreach_lerp_": "tests/train/trainer/test_trainer_insides.py"
    "::test_foreach_lerp_moves_each_tensor_by_a_share_of_the_way",
    "_linear_pointwise": "tests/models/test_decoding.py::test_a_matrix_packed_by_onednn_gives_its_product",
    "_make_sslcontext": "tests/ingest/fetch/test_network_insides.py"
    "::test_the_context_of_a_handler_verifies_certificates",
    "_reorder_linear_weight": "tests/models/test_decoding.py::test_a_matrix_packed_by_onednn_gives_its_product",
    "_urllib": "tests/ingest/fetch/test_network_insides.py::test_the_opener_connects_by_our_function",
    "_weight_int8pack_mm": "tests/models/test_decoding.py::test_int8_weights_are_multiplied_and_scaled_by_channel",
}
"""Private attributes of libraries that we use, each with the test that fails when its meaning changes."""

PUBLIC = {"_replace", "_asdict", "_fields", "_make"}
"""Names of named tuples that are public for all their underscore."""


def modules(folder: str) -> list[Path]:
    """Return the modules below a folder at the root."""
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the dotted name of each import of a module and its line: those in functions and for types alone too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((str(each.value), node.lineno) for each in node.args[:1] if isinstance(each, ast.Constant))


def import_graph() -> dict[str, set[str]]:
    """Return the modules of ours that each module of ours imports, by dotted names below ``triforce``."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for top in MAY_IMPORT for path in modules(top)
    }
    graph = {}
    for module, path in paths.items():
        names = [name.removeprefix("triforce.") for name, _ in imports(path) if name.startswith("triforce.")]
        found = {name if name in paths else name.rpartition(".")[0] for name in names}
        graph[module] = found & set(paths) - {module}
    return graph


def circle(graph: dict[str, set[str]], start: str) -> list[str]:
    """Return the shortest way from a module back to itself, or nothing."""
    came_from: dict[str, str] = {}
    waiting = [start]
    for module in waiting:
        for following in sorted(graph[module]):
            if following == start:
                way = [module]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if following not in came_from:
                came_from[following] = module
                waiting.append(following)
    return []


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Return each import circle once, as a line, shortest first."""
    found = {}
    for module in graph:
        if way := circle(graph, module):
            found.setdefault(frozenset(way), " -> ".join([*way, way[0]]))
    return [found[way] for way in sorted(found, key=lambda way: (len(way), sorted(way)))]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder):
    for path in modules(folder):
        ours = {name.split(".")[1] for name, _ in imports(path) if name.startswith("triforce.")}
        assert ours <= MAY_IMPORT[folder], path


def test_no_imports_in_a_circle():
    found = circles(import_graph())
    assert not found, "modules that import each other:\n" + "\n".join(found)


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}, "f": {"f", "a"}}
    assert circles(graph) == ["f -> f", "d -> e -> d", "a -> b -> c -> a"]
    assert "tokenize.config" in import_graph()["tokenize.job"]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_folders_are_shallow_and_small(folder):
    by_folder: dict[Path, int] = {}
    for path in modules(folder):
        parent = path.parent.relative_to(ROOT)
        assert len(parent.parts) - 1 <= MAX_DEPTH, f"{path}: move it up, {MAX_DEPTH} folders deep is the limit"
        by_folder[parent] = by_folder.get(parent, 0) + 1
    large = {str(name): num for name, num in by_folder.items() if num > MAX_MODULES and str(name) not in LARGE_FOLDERS}
    assert not large, f"more than {MAX_MODULES} modules: split the folder, or give the reason in LARGE_FOLDERS"


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "tests"])
def test_no_folder_is_a_package_with_an_init(folder):
    assert not list((ROOT / folder).rglob("__init__.py")), "tokenize/ would shadow the standard library's"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(path: Path) -> set[str]:
    """Return the private names that a module gives to something itself: definitions, variables, attributes, fields."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        ):
            found.add(node.attr)
    return found


def foreign_private_parts(path: Path) -> set[str]:
    """Return private names that a module uses and does not define: attributes of objects, imports, ``getattr``."""
    own, found = own_names(path), set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            found |= {str(each.value) for each in node.args[1:2] if isinstance(each, ast.Constant)}
    found |= {part for name, _ in imports(path) for part in name.split(".")}
    return {name for name in found - own - PUBLIC if is_private(name)}


def test_private_parts_of_libraries_are_listed_with_the_test_that_pins_them():
    used: dict[str, list[str]] = {}
    for folder in MAY_IMPORT:
        for path in modules(folder):
            for name in foreign_private_parts(path):
                used.setdefault(name, []).append(str(path.relative_to(ROOT)))
    unlisted = {name: files for name, files in sorted(used.items()) if name not in PRIVATE_PARTS}
    assert not unlisted, (
        "make a name of ours public; of a library use what is public, or list the name in PRIVATE_PARTS with a test"
    )
    assert set(PRIVATE_PARTS) <= set(used), "no longer used: take it out of PRIVATE_PARTS"


@pytest.mark.parametrize("name", PRIVATE_PARTS)
def test_a_private_part_has_its_test(name):
    file, _, test = PRIVATE_PARTS[name].partition("::")
    assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")


def test_tasks_are_told_apart_by_methods():
    pattern = re.compile(r"\bhasattr\(")
    found = [str(path.relative_to(ROOT)) for path in modules("train") if pattern.search(path.read_text("utf-8"))]
    assert not found, "give the base class a method with a default"


def test_the_standard_tokenize_wins_in_the_root():
    code = "import tokenize, triforce.tokenize.plan; print(tokenize.generate_tokens.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "tokenize"
