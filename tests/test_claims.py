"""What recipe headers and the paper index claim: every command composes, overrides change what they say, rows exist."""

import ast
import asyncio
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launch.compose import compose_recipe
from launch.overrides import quoted
from launch.recipe import ROOT, Recipe
from rewards.advantages import Batch, build
from rewards.response import SCHEMAS
from rewards.scorer import Scorer

RECIPES = ROOT / "recipes"
COMMAND = re.compile(r"make |python -m |[a-z_]+\.[a-z_.]+=")
NAMES = {"name", "experiment", "runs"}  # of a run; two runs of these alone are the same


# ------------------------------------------------------------------ commands of recipe headers


def claims(path: Path, key: str) -> list[str]:
    """The commands of a header's `key:` (command, override), each in one line and without remarks."""
    found: list[str] = []
    inside = False
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if opened := re.match(r"# (\w+): +(.*)", line):
            inside, text = opened[1] == key, opened[2]
        elif line.startswith("#    "):
            text = line[1:].strip()
        else:
            inside, text = False, ""
        text = re.sub(r"\s+\([^()]*\)$|^\(.*\)$", "", text).replace("...", "").strip()
        if inside and text:
            if found and (found[-1].endswith("\\") or shell_words(found[-1]) is None):
                found[-1] = found[-1].removesuffix("\\") + " " + text
            elif COMMAND.match(text):
                found.append(text)
    return found


def shell_words(text: str) -> list[str] | None:
    """None where a quotation is still open."""
    try:
        return shlex.split(text)
    except ValueError:
        return None


def overrides(path: Path, command: str) -> list[str]:
    """What Hydra gets of a command. `make` passes its variables on; bare keys are added to the file's own command."""
    words = shlex.split(command)
    if words[0] == "make":
        given = dict(word.split("=", 1) for word in words[1:] if re.match("[A-Z]+=", word))
        named = [f"{name.lower()}={given[name]}" for name in ("EXPERIMENT", "NAME", "SEED") if name in given]
        return quoted([*named, *given.get("ARGS", "").split()])
    if words[0] == "python":
        return quoted([word for word in words[3:] if "=" in word])
    return [*overrides(path, claims(path, "command")[-1]), *quoted(words)]


@cache
def composed(*given: str) -> Recipe:
    """The recipe, with what a header leaves to the reader."""
    recipe, _ = compose_recipe(list(given))
    return recipe


HEADERS = [path for path in sorted(RECIPES.rglob("*.yaml")) if claims(path, "command") or claims(path, "override")]
OVERRIDDEN = [path for path in HEADERS if claims(path, "override")]


def test_headers_are_read():
    camreasoner = RECIPES / "experiment" / "camreasoner.yaml"
    plan, study = claims(camreasoner, "command")
    assert plan == 'make plan ARGS="experiment=camreasoner"'
    assert "data.media_root='~/videos'" in overrides(camreasoner, study)
    assert len(claims(RECIPES / "experiment" / "videop2r.yaml", "override")) == 2
    assert len(HEADERS) > 8 and len(OVERRIDDEN) > 6


@pytest.mark.parametrize("path", HEADERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_command_of_a_header_composes(path):
    for key in ("command", "override"):
        for command in claims(path, key):
            assert composed(*overrides(path, command))


def base_of(path: Path) -> Recipe:
    """What a header's overrides are measured against: its experiment, or its command with the keys that it needs."""
    if path.parent.name == "experiment":
        return composed(f"experiment={path.stem}")
    return composed(*overrides(path, claims(path, "command")[-1]))


def settings(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(exclude=NAMES)


@pytest.mark.parametrize("path", OVERRIDDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_override_of_a_header_is_another_study(path):
    variants = [base_of(path), *(composed(*overrides(path, command)) for command in claims(path, "override"))]
    for place, one in enumerate(variants):
        for other in variants[:place]:
            changed = {key for key, value in settings(one).items() if value != settings(other)[key]}
            assert changed
            if changed <= {"reward", "advantage", "prompt"}:  # they must teach something else, too
                assert not torch.equal(signal(one), signal(other))


# ------------------------------------------------------------------ what a reward and an advantage teach


class Judge:
    """Finds the right answer in an observation that says so."""

    async def answer_from_text(self, text: str, sample: dict[str, Any]) -> str | None:
        return sample["answer"] if "clearly" in text else None

    async def supports(self, text: str, sample: dict[str, Any]) -> bool:
        return "clearly" in text

    async def entailed(self, statements: list[str], text: str) -> list[bool]:
        return [False] * len(statements)

    async def consistent(self, think: str, answer: str, sample: dict[str, Any]) -> bool:
        return True

    def metrics(self) -> dict[str, float]:
        return {}


def signal(recipe: Recipe) -> torch.Tensor:
    """(B, T) advantages of fixed responses, in every form, right and wrong, as a recipe's loss weighs their tokens."""
    rng = np.random.default_rng(0)
    scorer = Scorer(recipe.reward.model_dump(), Judge())
    estimator = build(recipe.advantage.model_dump())
    sample = {"id": "1", "task": "binary", "options": ["No", "Yes"], "answer": "B", "question": "?"}
    components, groups = [], []
    for group in range(12):
        for _ in range(8):
            said = {"observation": rng.choice(["clearly", "perhaps"]), "think": "so", "answer": rng.choice(["A", "B"])}
            tags = SCHEMAS[str(rng.choice(["ota", "ota", "ota", "think_answer", "answer"]))]
            text = "".join(f"<{tag}>{said[tag]}</{tag}>" for tag in tags) if rng.random() < 0.9 else "no tag"
            observes = "observation" in tags and text != "no tag"
            lengths = {"perception": int(rng.integers(100, 350)) if observes else 0, "reasoning": 400}
            scored = asyncio.run(scorer.score(text, sample, lengths))
            components.append(scored | {"perception_tokens": 5 if observes else 0})
            groups.append(str(group))
    batch = Batch.of(components, groups, ["binary"] * len(groups))
    return estimator.advantages(batch).weighted(torch.ones(len(groups), 10))


def test_two_names_of_one_study_are_noticed():
    """Group-relative advantages of R_P + R_R are those without separation."""
    joined = composed("experiment=videop2r", "advantage.separate=false")
    assert torch.equal(signal(joined), signal(composed("experiment=videop2r", "advantage=grpo")))
    agnostic = composed("experiment=videop2r", "reward.score=reasoning", "advantage=grpo")
    assert not torch.equal(signal(joined), signal(agnostic))


# ------------------------------------------------------------------ the paper index


def index() -> list[tuple[str, str, str, str]]:
    """Claim, code, deviation and test of each row of docs/papers.md."""
    lines = (ROOT / "docs" / "papers.md").read_text().splitlines()
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")]
    return [row for row in rows if row != ("claim", "code", "deviation", "test") and set("".join(row)) != {"-"}]


def test_the_paper_index_has_its_tables():
    assert len(index()) > 50
    assert all(len(row) == 4 and all(row) for row in index())


@pytest.mark.parametrize("row", index(), ids=lambda row: row[0][:40])
def test_every_row_of_the_paper_index_names_code_deviation_and_test(row):
    _, code, _, test = row
    paths = [name for name in re.findall(r"`([^`]+)`", code) if "/" in name and " " not in name]
    assert paths and all((ROOT / name).exists() for name in paths), code
    (file, name) = re.fullmatch(r"`(tests/[\w/]+\.py)::(\w+)`", test).groups()
    defined = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
    assert name in defined, test
