"""The rules of the house (CONTRIBUTING.md), read off the syntax trees of the four packages."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import quantiles

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rewards", "data_tools", "evaluation", "launch")  # each imports those before it only
ENGINES = ("llamafactory", "verl", "vllm", "ray", "deepspeed")
# Who imports an engine besides launch/engines/<engine>/.
ALSO = {
    "launch.engines": ("ray",),  # Ray starts the processes of the other engines
    "launch.engines.patches": ENGINES,
    "launch.engines.cleanup": ("vllm",),  # binds vLLM's engine core to its parent
    "launch.serve": ("vllm",),  # vLLM's own server
    "launch.verl_plugin": ("verl", "ray"),
    "launch.cluster.jobs": ("ray",),  # Ray's client for jobs
}
NOT_THE_USERS = {"PassingError", "RolloutError"}  # a failure that is tried again; an engine's fault
RUN_FILES = ("metrics.jsonl", "recipe.yaml", "scores.json", "predictions.jsonl", "trainer_log.jsonl")


@cache
def trees() -> dict[str, ast.Module]:
    """Module name -> its syntax tree."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(node: ast.AST) -> Iterator[str]:
    """What a module imports, inside functions too, but for type checking."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        below = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name if name in trees() else node.module or "" for name in below)
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


def all_nodes(kind: type | tuple[type, ...]) -> Iterator[tuple[str, ast.AST]]:
    return ((name, node) for name, tree in trees().items() for node in ast.walk(tree) if isinstance(node, kind))


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_no_import_cycle():
    graph = {name: {other for other in imports(tree) if other in trees()} for name, tree in trees().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_packages_import_one_way():
    for name, tree in trees().items():
        above = PACKAGES[PACKAGES.index(name.split(".")[0]) + 1 :]
        assert not [other for other in imports(tree) if other.split(".")[0] in above], name


def test_a_door_imports_no_door():
    mains = {name for name, node in all_nodes(ast.If) if ast.unparse(node.test) == "__name__ == '__main__'"}
    doors = {name for name in mains if name.count(".") == 1 and name.startswith("launch.")}
    assert len(doors) > 10
    for name in doors:
        assert not doors & set(imports(trees()[name])), name


def test_an_engine_is_imported_in_its_folder_only():
    found = []
    for name, tree in trees().items():
        allowed = {engine for engine in ENGINES if is_in(name, f"launch.engines.{engine}")}
        allowed |= {engine for package, engines in ALSO.items() if is_in(name, package) for engine in engines}
        used = {other.split(".")[0] for other in imports(tree)} & set(ENGINES)
        found += [f"{name} imports {engine}" for engine in sorted(used - allowed)]
    assert not found


def test_files_of_a_run_and_recipes_are_named_in_one_module():
    texts = [(name, node.value) for name, node in all_nodes(ast.Constant) if isinstance(node.value, str)]
    run_files = {f"{name}: {text}" for name, text in texts if text in RUN_FILES and name != "data_tools.run_folder"}
    recipes = {name for name, text in texts if text == "recipes" and name != "launch.recipe"}
    partial = {name for name, text in texts if ".partial" in text and name != "data_tools.files"}
    assert (run_files, recipes, partial) == (set(), set(), set())


def code_lines(node: ast.FunctionDef) -> int:
    """Of a function, without its docstring: worked examples are welcome."""
    told = node.body[0] if ast.get_docstring(node, clean=False) else None
    return node.end_lineno - node.lineno + 1 - (told.end_lineno - told.lineno + 1 if told else 0)


def test_files_and_functions_are_short():
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert not {name: count for name, count in lines.items() if count > 400}
    functions = all_nodes((ast.FunctionDef, ast.AsyncFunctionDef))
    lengths = {f"{name}.{node.name}": code_lines(node) for name, node in functions}
    assert not {name: length for name, length in lengths.items() if length > 60}
    assert quantiles(lengths.values(), n=10)[-1] <= 27


def test_every_error_is_one_that_the_user_can_fix_or_listed():
    classes = [node for _, node in all_nodes(ast.ClassDef)]
    bases = {node.name: {ast.unparse(base).split(".")[-1] for base in node.bases} for node in classes}
    users = {"UserError"}
    while more := {name for name, above in bases.items() if above & users} - users:
        users |= more
    assert {name for name in bases if name.endswith("Error")} - users == NOT_THE_USERS


def test_no_two_test_files_share_a_name():
    """pytest imports them by their bare names."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
