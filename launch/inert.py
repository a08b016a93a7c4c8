"""Leave out packages that modules import and that nothing in this process uses.

In their place stand modules that can be imported from, called as decorators and named in types, without effect. Where
one is asked for a truth value, it raises: a package left out gives no answer.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Inert(ModuleType):
    __path__ = ()

    def __getattr__(self, name: str) -> "_Inert":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Inert(f"{self.__name__}.{name}")

    def __call__(self, *arguments, **_):
        """Of a decorator, the function; of one that takes settings first, a decorator."""
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else self

    def __or__(self, _) -> "_Inert":  # in a type
        return self

    __ror__ = __or__

    def __bool__(self) -> bool:
        raise TypeError(f"{self.__name__} is left out of this process (launch/inert.py)")


class _Finder(MetaPathFinder, Loader):
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def find_spec(self, name, path=None, target=None):
        if any(f"{name}.".startswith(f"{package}.") for package in self._packages):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Inert(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def leave_out(*packages: str) -> None:
    """Have every later import of these packages and modules, in this process, give an inert one."""
    sys.meta_path.insert(0, _Finder(packages))
