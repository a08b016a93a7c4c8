"""What the docs say exists: links, commands, recipe keys, modules, messages; and every key of a recipe is explained."""

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from data_tools.cli import parse as parse_arguments
from data_tools.download import DownloadArguments
from data_tools.run_folder import SPLITS
from data_tools.sample import parse_sample
from data_tools.sources import named
from launch.compose import flat, read_recipe
from launch.overrides import quoted
from launch.recipe import ROOT
from launch.recipe.data import SourceFile
from launch.recipe.evaluation import EvalSet, Images, Media
from rewards.response import parse

TOUR = ROOT / "docs" / "tour"  # the recorded report of a run, with its tables
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").rglob("*.md") if TOUR not in page.parents)]
RECIPES = ROOT / "recipes"
FOLDERS = ("data_tools", "evaluation", "launch", "rewards")
OPTIONS = {path.name for path in RECIPES.iterdir() if path.is_dir()} - {"local", "hydra"}
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LEFT_OUT = re.compile(r"…|\.\.\.")  # what a command does not spell out


def whole_recipe(path: Path) -> bool:
    """Whether a file overrides keys of all groups (an experiment), instead of being one of a group."""
    return path.read_text().startswith("# @package _global_")


GROUPS = {name for name in OPTIONS if not all(map(whole_recipe, (RECIPES / name).rglob("*.yaml")))}


# ------------------------------------------------------------------ links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target} has no such heading"


@cache
def anchors(page: Path) -> set[str]:
    """GitHub's: lower case, punctuation gone, spaces as hyphens."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_that_the_code_names_exist():
    sources = [path for folder in (*FOLDERS, "recipes") for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in [*sources, ROOT / "Makefile", ROOT / "Dockerfile"]:
        if path.suffix in ("", ".py", ".yaml", ".j2"):
            for name in re.findall(r"docs/[\w/]+\.md", path.read_text()):
                assert (ROOT / name).exists(), f"{path}: {name}"


def test_every_page_can_be_reached():
    seen, waiting = set(), [PAGES[0]]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text())
        waiting += {(page.parent / link).resolve() for link in links} - seen
    assert set(PAGES) <= seen


def test_every_module_stands_in_the_architecture():
    page = (ROOT / "docs" / "architecture.md").read_text()
    listed = {Path(name).name for name in re.findall(r"`([\w/]+\.py)`", page)}
    there = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert there <= listed
    assert listed - there <= {path.name for path in (ROOT / "tests").rglob("*.py")}


# ------------------------------------------------------------------ commands


def code(page: Path, kind: str = "") -> list[str]:
    """Blocks of a page, all or those of one kind, and what stands in `backticks` in its text."""
    text = page.read_text()
    return [block for its, block in FENCE.findall(text) if kind in ("", its)] + SPAN.findall(FENCE.sub("", text))


def commands(page: Path) -> Iterator[list[str]]:
    """`make` and `python -m` commands of a page, in words: those of its bash blocks, and those in running text."""
    for line in "\n".join(code(page, "bash")).replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix(".venv/bin/")
        if re.match(r"(make|python -m) ", line):
            yield shlex.split(LEFT_OUT.sub("", line), comments=True)


COMMANDS = sorted({(page.name, *words) for page in PAGES for words in commands(page)})


@pytest.fixture(scope="module")
def recipes(tmp_path_factory) -> Path:
    """recipes/, and beside them those that docs/howto.md tells its reader to write."""
    folder = tmp_path_factory.mktemp("docs") / "recipes"
    shutil.copytree(RECIPES, folder, ignore=shutil.ignore_patterns("local"))
    for name, text in written_by_the_reader("recipes"):
        (folder.parent / name).write_text(text)
    return folder


def written_by_the_reader(folder: str) -> list[tuple[str, str]]:
    """(path, content) of the files below `folder` that docs/howto.md shows: a path, a colon, a block."""
    page = (ROOT / "docs" / "howto.md").read_text()
    return re.findall(rf"`(?:~/my/)?({folder}/[\w/]+\.\w+)`:\n\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_commands_are_found():
    assert len(COMMANDS) > 60
    assert len(written_by_the_reader("recipes")) == 3 and len(written_by_the_reader("rewards")) == 1


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[1] == "make"], ids=" ".join)
def test_make_commands(command, recipes):
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^(\w+):", makefile, re.MULTILINE)
    words = list(command[2:])
    given = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]+=", word))
    for name in given:
        assert re.search(rf"\$\({name}\)|^{name} ", makefile, re.MULTILINE), f"{name} is no variable of the Makefile"
    goals = [word for word in words if "=" not in word]
    assert set(goals) <= set(targets)
    if goals == ["bench"]:
        assert all((ROOT / "tests" / "bench" / f"{part}.py").exists() for part in given.get("ARGS", "").split())
        return
    if "SOURCE" in given:
        assert not given["SOURCE"] or named(given["SOURCE"])
        parse_arguments(DownloadArguments, [f"source={given['SOURCE']}", *given.get("ARGS", "").split()])
        return
    overrides = [f"{name.lower()}={given[name]}" for name in ("EXPERIMENT", "NAME", "SEED") if given.get(name)]
    check_overrides(recipes, [*given.get("ARGS", "").split(), *overrides])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[1] == "python"], ids=" ".join)
def test_python_commands(command, recipes):
    module, words = command[3], [word for word in command[4:] if word]
    if module == "venv":
        return
    path = ROOT / module.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert path.exists(), module
    source = path.read_text()
    for flag in [word[2:] for word in words if word.startswith("--")]:
        assert flag in ("help", "cfg") or re.search(rf"\b{flag.replace('-', '[_-]')}\b", source), f"--{flag}"
    given = [word for word in words if re.match(r"\+?[\w.]+=", word)]
    if module == "data_tools.sources":
        assert named(dict(word.split("=", 1) for word in given)["source"])
    elif module.startswith("launch.") and "run_command" not in source:
        check_overrides(recipes, [word for word in given if not word.startswith("sweep.")])
    else:
        for word in given:
            key = word.split("=")[0].split(".")[0]
            assert re.search(rf"\b{key}\b", source), f"{module} knows no {key}"


def check_overrides(recipes: Path, words: list[str]) -> None:
    """A recipe of these overrides, the first of several values: its keys, options and types are checked."""
    words = [word for word in words if not word.startswith(("hydra/", "hydra."))]  # Hydra's own
    words = quoted(["-m", *words])[1:]  # as the commands do
    parsed = OverridesParser.create().parse_overrides(words)
    firsts = [
        f"{one.get_key_element()}={next(one.sweep_string_iterator())}" if one.is_sweep_override() else one.input_line
        for one in parsed
    ]
    whole(recipes, tuple(first for first in firsts if not first.endswith("=")))


@cache
def whole(recipes: Path, overrides: tuple[str, ...]) -> None:
    with initialize_config_dir(str(recipes), version_base="1.3"):
        config = compose("config", list(overrides))
    for key, value in flat(OmegaConf.to_container(config, resolve=False)):
        if value == "???":  # the reader's to give
            OmegaConf.update(config, key, "given")
    read_recipe(config)


# ------------------------------------------------------------------ keys


@cache
def keys(path: Path) -> list[tuple[str, int]]:
    """Every key of a YAML file as `a.b.c`, with its line."""

    def walk(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int]]:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            yield f"{prefix}{key.value}", key.start_mark.line
            yield from walk(value, f"{prefix}{key.value}.")

    return [
        (key, line) for key, line in walk(yaml.compose(path.read_text()), "") if key not in ("defaults", "_target_")
    ]


@cache
def explained(path: Path) -> set[str]:
    """Keys with a comment beside them or right above, or that a comment of the file names in `backticks`.

    Of several keys in a line the comment is the first one's; the comment that opens a file is about the file. A file
    that builds on another of its folder need not say again what that one says.
    """
    text = path.read_text()
    lines, comments = text.splitlines(), " ".join(re.findall(r"(?:^|\s)#.*", text, re.MULTILINE))
    opening = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    found, seen = set(), set()
    for key, line in keys(path):
        commented = " # " in lines[line] or (line > opening and lines[line - 1].lstrip().startswith("#"))
        if (commented and line not in seen) or f"`{key.rsplit('.', 1)[-1]}`" in comments:
            found.add(key)
        seen.add(line)
    for base in yaml.safe_load(text).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            folder = RECIPES if base.startswith("/") else path.parent
            found |= explained(folder / f"{base.lstrip('/').partition('@')[0]}.yaml")
    return found


def group_of(path: Path) -> str:
    return path.relative_to(RECIPES).parts[0]


def file_of(group: str) -> Path:
    """The file that says what the keys of a group mean: the one that recipes/config.yaml takes."""
    defaults = yaml.safe_load((RECIPES / "config.yaml").read_text())["defaults"]
    chosen = {name: value for each in defaults if isinstance(each, dict) for name, value in each.items()}
    return RECIPES / group / f"{(chosen | {'synthesis': 'camreasoner'})[group]}.yaml"


@cache
def keys_of(group: str) -> set[str]:
    return {f"{group}.{key}" for path in (RECIPES / group).rglob("*.yaml") for key, _ in keys(path)}


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_key_is_explained(path):
    if whole_recipe(path):  # what it sets are keys of the groups
        known = {key for group in GROUPS for key in keys_of(group)} | GROUPS
        top = {key for key, _ in keys(RECIPES / "config.yaml")}
        of_a_set = {f"eval.sets.{key}" for key in EvalSet.model_fields}  # whatever the set is called
        of_a_set |= {f"eval.sets.media.{key}" for key in Media.model_fields}
        of_a_set |= {f"eval.sets.media.images.{key}" for key in Images.model_fields}
        of_a_set |= {f"data.files.{split}.{key}" for split in SPLITS for key in SourceFile.model_fields}
        of_a_set |= {f"data.media.{key}" for key in Media.model_fields}
        plain = {key: re.sub(r"^(eval\.sets|eval\.models|data\.media)\.\w+", r"\1", key) for key, _ in keys(path)}
        own = {
            key for key in plain if key.partition(".")[0] == group_of(path)
        }  # of a group that sets others' keys, too
        assert own <= explained(path) | {group_of(path)}
        assert [key for key, name in plain.items() if name not in known | top | of_a_set | own] == []
        return
    home = path if path.parent == RECIPES or group_of(path) == "hydra" else file_of(group_of(path))
    there = {key for key, _ in keys(home)}
    shown = [key for key, _ in keys(path) if not key.startswith("sets.") or path == home]  # docs/evaluation.md has them
    assert [key for key in shown if key not in (explained(home) if key in there else explained(path))] == []


def test_a_key_without_a_comment_is_found(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("# The file.\na: 1\nb: 2  # two\n# Three.\nc: {d: 4, e: 5}  # `e`: five\n# Six.\nf: {g: 7}\n")
    assert explained(path) == {"b", "c", "c.e", "f"}


KEY = re.compile(rf"(?<![\w./@{{-])((?:{'|'.join(sorted(GROUPS))})\.[a-z_][\w.]*\w)")
FILE = re.compile(r"\.(jsonl?|yaml|md|py|csv|pt|parquet|safetensors|log|txt|mp4)$")


@pytest.mark.parametrize("page", [*PAGES, *sorted(RECIPES.rglob("*.yaml"))], ids=lambda page: page.stem)
def test_keys_that_are_named_exist(page):
    parts = re.findall(r"#.*", page.read_text()) if page.suffix == ".yaml" else code(page)
    found = {key for part in parts for key in KEY.findall(part) if not FILE.search(key)}
    known = {key for group in GROUPS for key in keys_of(group)} | {"reward.word_price"}  # docs/howto.md's own
    assert [key for key in sorted(found - known) if ".engine." not in key] == []


def test_options_that_are_named_exist(recipes):
    for page in PAGES:
        for group, name in re.findall(rf"(?<![\w.])({'|'.join(sorted(OPTIONS))})=([a-z][\w/]*)", " ".join(code(page))):
            # A run folder is a model of launch.ask and launch.serve.
            if (group, name) != ("judge", "recorded") and not name.startswith(
                "runs/"
            ):  # evaluation.rollouts.replay's own
                assert (recipes / group / f"{name}.yaml").exists(), f"{page.name}: {group}={name}"


# ------------------------------------------------------------------ messages, code


def test_benchmarks_lie_where_the_sets_of_the_studies_look():
    page = (ROOT / "docs" / "evaluation.md").read_text()
    rows = re.findall(
        r"^\| `(\w+)` \| (`.+?`) \| ", page.partition("### Where the studies' benchmarks lie")[2], re.MULTILINE
    )
    told = {f"{folder}/{file}" for folder, files in rows for file in re.findall("`(.+?)`", files)}
    sets = [
        yaml.safe_load(path.read_text())["sets"]
        for path in (RECIPES / "eval").glob("*.yaml")
        if "root: ???" in path.read_text()
    ]
    looked = {chosen["files"].removeprefix("${eval.root}/") for each in sets for chosen in each.values() if chosen}
    assert told == {path for path in looked if not path.startswith("${data.labels}")}


def test_messages_are_those_of_the_code(recipes):
    texts = " ".join(
        node.value
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    with pytest.raises(HydraException) as unknown:
        check_overrides(recipes, ["rl.stepz=3"])
    texts += str(unknown.value)
    page = (ROOT / "docs" / "howto.md").read_text().split("## When it fails")[1]
    rows = re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
    messages = [message for row in rows for message in SPAN.findall(row) if "…" in message]
    assert len(messages) > 20
    for message in messages:
        for part in message.split("…"):
            assert part.strip() in texts, f"no code says {part!r}"


def test_the_reward_of_the_how_to_works():
    [(_, source)] = written_by_the_reader("rewards")
    space: dict = {}
    exec(compile(source, "docs/howto.md", "exec"), space)
    sample = {"id": "a1", "task": "binary", "options": ["Yes", "No"], "answer": "A"}
    right = parse("<observation>a</observation><think>one two three</think><answer>Yes</answer>")
    assert space["reward"](right, sample, word_price=0.1)["score"] == pytest.approx(0.7)
    assert space["reward"](parse("Yes"), sample) == {"score": 0.0, "accuracy": 0.0, "format": 0.0}


def test_the_samples_of_the_how_to_are_samples():
    page = (ROOT / "docs" / "howto.md").read_text()
    [lines] = [block for kind, block in FENCE.findall(page) if kind == "json"]
    assert [parse_sample(line.encode()).id for line in lines.splitlines()] == ["a1", "a2"]
