"""Count the lines, files and public names of a checkout.

    python -m benchmarks.studies.size [FOLDER]

A public name is a class, function or constant at the top level of a module that does not begin with an underscore, or a
method or property of a public class that does not. Lines are those of the files, with docstrings and comments.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PARTS = {
    "library": ("flows", "critics", "softflow"),
    "examples": ("examples",),
    "benchmarks": ("benchmarks",),
    "tests": ("tests",),
}


def public_names(source: str) -> Iterator[str]:
    """Yield the public names of a module, methods as `Class.method`."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name
            methods = node.body if isinstance(node, ast.ClassDef) else ()
            yield from (
                f"{node.name}.{method.name}"
                for method in methods
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
            )
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for name in targets if isinstance(name, ast.Name) and not name.id.startswith("_"))


def main(root: Path) -> None:
    print("part         files   lines   longest   public names")
    for part, folders in PARTS.items():
        sources = [file.read_text(encoding="utf-8") for folder in folders for file in (root / folder).rglob("*.py")]
        lengths = [len(source.splitlines()) for source in sources]
        names = sum(len(set(public_names(source))) for source in sources) if part == "library" else ""
        print(f"{part:<12} {len(sources):>5} {sum(lengths):>7,} {max(lengths):>9} {names:>14}")
    print("\npackage             files   lines")
    packages = [root / "flows", root / "critics", *sorted(folder for folder in (root / "softflow").iterdir())]
    for package in packages:
        lengths = [len(file.read_text(encoding="utf-8").splitlines()) for file in package.rglob("*.py")]
        if lengths:
            print(f"{package.relative_to(root)!s:<20} {len(lengths):>4} {sum(lengths):>7,}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
