"""Run a patch right after its module has been imported, whoever imports it and whenever."""

import importlib.util
import sys
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType

_hooks: dict[str, list[Callable[[ModuleType], None]]] = defaultdict(list)


class _HookLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, name: str) -> None:
        self._loader, self._name = loader, name

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        for hook in _hooks[self._name]:
            hook(module)

    def __getattr__(self, attribute: str):  # get_source and others, for inspect and torch
        return getattr(self._loader, attribute)


class _HookFinder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name not in _hooks:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _HookLoader(spec.loader, name)
                return spec
        return None


sys.meta_path.insert(0, _HookFinder())


def after_import(name: str):
    """Decorator: call `function(module)` once module `name` is imported, or now if it already is."""

    def register(function: Callable[[ModuleType], None]):
        if function in _hooks[name]:  # applied twice, a patch would wrap itself
            return function
        _hooks[name].append(function)
        # A module that is still being imported runs its hooks at the end.
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            function(module)
        return function

    return register
