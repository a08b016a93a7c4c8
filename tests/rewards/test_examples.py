"""The examples in the docstrings of rewards/ are true."""

import doctest
from importlib import import_module
from pkgutil import walk_packages

import pytest

import rewards

MODULES = [each.name for each in walk_packages(rewards.__path__, "rewards.") if each.name != "rewards.maths_worker"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    assert doctest.testmod(import_module(name)).failed == 0
