"""Imports point down, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "spdf_keras"

# From the bottom up; a module may import those of its own level and below.
LEVELS = (
    ("errors", "values", "parsing", "keras2")
    + ("files", "locks", "folders", "provenance", "safetensors_file"),
    ("native",),
    ("config",),
    ("kernels",),
    ("sparsity", "flops", "metrics", "optimization", "data"),
    ("model", "adapters"),
    ("training", "evaluation", "report"),
    ("interchange",),
    ("export", "serving"),
    ("measuring",),
    ("console",),
    ("study",),
    ("commands",),
    ("cli", "__main__", "__init__"),
)
# These start at once: no TensorFlow, not even inside a function.
LIGHT = (
    "errors",
    "values",
    "parsing",
    "config",
    "flops",
    "metrics",
    "sparsity.masks",
    "sparsity.audit",
    "cli",
)


def level(module: str) -> int:
    top = module.split(".")[0]
    return next(i for i, names in enumerate(LEVELS) if top in names)


def modules() -> dict[str, Path]:
    paths = [*PACKAGE.rglob("*.py"), *(PACKAGE / "export").rglob("*.py")]
    found = {}
    for path in paths:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or "__init__"] = path
    return found


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_imports_point_down() -> None:
    found = modules()
    assert len(found) > 40 and any(name.startswith("export.") for name in found)
    for name, path in found.items():
        if name in ("__init__", "export"):
            continue  # it names the homes of what it offers
        for target in imported(path):
            if target.startswith("spdf_keras."):
                inner = target.removeprefix("spdf_keras.")
                assert level(inner) <= level(name), f"{name} imports {target}"


# From what was run, over what is said of it, to how that is shown; `report.write`
# puts them together. A folder imports nothing else of the report than these.
REPORT = {
    "report.runs": {"report.runs"},
    "report.content": {"report.runs", "report.content", "report.page.document"}
    | {"report.page.drawing"},
    "report.page": {"report.page"},
}


def test_a_report_goes_one_way_from_runs_over_content_to_page() -> None:
    found = modules()
    for folder, allowed in REPORT.items():
        members = [name for name in found if name.startswith(f"{folder}.")]
        assert len(members) > 3
        for name in members:
            for target in imported(found[name]):
                inner = target.removeprefix("spdf_keras.")
                if inner.startswith("report."):
                    names = {inner, inner.rpartition(".")[0]}
                    assert names & allowed, f"{name} imports {target}"


@pytest.mark.parametrize("name", LIGHT)
def test_a_light_module_does_without_tensorflow(name: str) -> None:
    heavy = {"tensorflow", "tf_keras", "spdf_keras.keras2"}
    for module, path in modules().items():
        if module == name or module.startswith(name + "."):
            assert not imported(path) & heavy


def test_keras_comes_through_one_door() -> None:
    for name, path in modules().items():
        if name != "keras2":
            allowed = {"tf_keras.src.mixed_precision"}  # has no public name
            names = {
                n for n in imported(path) if n.split(".")[0] in ("tf_keras", "keras")
            }
            assert names <= allowed, name


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_the_package_loads_no_tensorflow() -> None:
    code = (
        "import sys, spdf_keras, spdf_keras.export, spdf_keras.cli\n"
        "spdf_keras.cli.build_parser(); spdf_keras.PRESETS\n"
        "heavy = {'tensorflow', 'tf_keras', 'keras', 'matplotlib', 'rich'}\n"
        "print(heavy & set(sys.modules))"
    )
    assert run(code).stdout.strip() == "set()"


def test_keras_3_is_refused_with_the_way_out() -> None:
    late = "import tensorflow as tf; tf.keras.version(); import spdf_keras.keras2"
    result = run(f"import os; os.environ.pop('TF_USE_LEGACY_KERAS', 0); {late}")
    last = result.stderr.strip().splitlines()[-1]
    assert "already using Keras 3" in last and "Import spdf_keras first" in last
    result = run("import spdf_keras.keras2", TF_USE_LEGACY_KERAS="0")
    last = result.stderr.strip().splitlines()[-1]
    assert "TF_USE_LEGACY_KERAS=0. Unset it" in last


def test_runners_import_nothing_of_the_package() -> None:
    runners = {n: p for n, p in modules().items() if n.startswith("export.runners.")}
    assert len(runners) > 5
    for name, path in runners.items():
        names = imported(path)
        assert not any(n.split(".")[0] == "spdf_keras" for n in names), name
