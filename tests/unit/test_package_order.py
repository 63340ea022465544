"""prune_dual: each part imports only from those that stand before it in the package's docstring."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import prune_dual
from small_run import ROOT

PACKAGE = ROOT / "scripts/prune_dual"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
ORDER = re.findall(r"^    (\w+) {2,}", prune_dual.__doc__, re.MULTILINE)


def dotted(path: Path) -> str:
    """Name of a module within the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a module imports, by their names within it."""
    here = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            # from . import x names modules, from .x import y a module's content
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join((*here[: len(here) - node.level], name)) for name in names)
        else:
            outside = [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
            outside += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.partition(".")[0] in ("phase_twin", "prune_dual") for name in outside), path


def test_the_docstring_names_every_part():
    assert sorted(ORDER) == sorted({dotted(path).partition(".")[0] for path in MODULES})


def test_every_part_imports_only_from_those_before_it():
    for path in MODULES:
        own = ORDER.index(dotted(path).partition(".")[0])
        for name in imported(path):
            assert ORDER.index(name.partition(".")[0]) <= own, f"{dotted(path)} imports {name}"


def test_no_modules_import_each_other():
    TopologicalSorter({dotted(path): set(imported(path)) for path in MODULES}).prepare()
