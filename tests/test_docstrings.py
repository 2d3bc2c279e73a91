"""Examples in docstrings are run, so that they stay true."""

import doctest
import importlib
import pkgutil

import pytest

import spdf_keras

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(spdf_keras.__path__, "spdf_keras.")
    if "__main__" not in module.name
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_right(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        test
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert len(found) >= 10
