"""Who may import whom: the rooms of the house, as ARCHITECTURE.md draws them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import ktriage

ROOT = Path(ktriage.__file__).parent

BASE = {"errors", "words", "cache", "inputs", "__init__"}
"""Modules beside the rooms, which every room may use."""

MAY_USE: dict[str, set[str]] = {
    "console": set(),
    "history": set(),
    "machine": set(),
    "refs": set(),
    "symbols": {"console"},
    "kernel": {"history"},
    "bisect": {"history"},
    "people": {"history"},
    "dump": {"console", "symbols"},
    "trial": {"console", "kernel", "machine", "refs"},
}
ROOMS = set(MAY_USE)
MAY_USE["case"] = ROOMS
MAY_USE["jobs"] = ROOMS | {"case"}
MAY_USE["web"] = ROOMS | {"case", "jobs"}
MAY_USE["cli"] = MAY_USE["web"] | {"web"}


def nodes(tree: ast.AST, *, types: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, without ``types`` only what runs: not what is below ``if TYPE_CHECKING``."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        test = child.test if isinstance(child, ast.If) else None
        if types or not (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"):
            yield from nodes(child, types=types)


def imported(path: Path, *, types: bool = True) -> set[tuple[str, int]]:
    """Return the modules and names of ktriage's that a file imports, with their lines."""
    found = set()
    for node in nodes(ast.parse(path.read_text()), types=types):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {(name, node.lineno) for name in names if name.startswith("ktriage.")}
    return found


def imports(path: Path) -> set[tuple[str, int]]:
    """Return the parts of ktriage that a file imports, with their lines."""
    return {(name.split(".")[1], line) for name, line in imported(path)}


def test_rooms_import_only_what_they_may() -> None:
    wrong = []
    seen = 0
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0]
        for name, line in imports(path):
            seen += 1
            allowed = MAY_USE.get(room, {"cli"} if room == "__main__.py" else set()) | {room} | BASE
            if name not in allowed and name != "__version__":
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert seen > 50
    assert wrong == []


def test_no_room_imports_in_circles() -> None:
    # An import for the types alone makes no circle: nothing of it happens when ktriage runs.
    graph: dict[str, set[str]] = {}
    files = {
        ".".join(("ktriage", *path.relative_to(ROOT).with_suffix("").parts)): path
        for path in ROOT.rglob("*.py")
    }
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    for module, path in modules.items():
        names = {name for name, _ in imported(path, types=False)}
        graph[module] = {name if name in modules else name.rpartition(".")[0] for name in names} - {module}
    assert graph["ktriage.jobs.demo"] >= {"ktriage.errors"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_every_room_has_a_rule() -> None:
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= set(MAY_USE)


def test_no_file_is_too_long_to_read() -> None:
    long = {str(p.relative_to(ROOT)): n for p in ROOT.rglob("*.py") if (n := p.read_text().count("\n")) > 500}
    assert long == {}
