"""Every row of the papers' ablations composes with the study and with its demo, and is a run of its own."""

from itertools import combinations

import pytest

from launch import rehearse
from launch.checks import check_advantage, check_counts, check_motions
from launch.compose import compose_complete, compose_recipe, require_change
from launch.planning.fits import fits
from launch.planning.prompts import check_prompts
from launch.recipe import RECIPES, RecipeError
from launch.run import run_of
from launch.samples.labels import files_of

ABLATIONS = sorted(path.stem for path in (RECIPES / "ablation").glob("*.yaml"))
TRAINING = ("data", "model", "sft", "rl")
STUDIES = ("videochat_r1", "videop2r", "camreasoner_crpo")
DEMOS = {"camreasoner_crpo": "demo"}  # of others: demo_STUDY
# They train on published files, where the demo renders its own.
WITHOUT_DEMO = {"videochat_r1_sft", "videochat_r1_quality", "videochat_r1_captions"}


def trained(experiment: str, *overrides: str) -> dict:
    """What decides the training of a run."""
    recipe, _ = compose_recipe([f"experiment={experiment}", *overrides])
    check_prompts(recipe)
    check_advantage(recipe)
    run = run_of(recipe)
    return {stage: run.settings(stage) for stage in TRAINING}


@pytest.mark.parametrize("demo", [False, True])
@pytest.mark.parametrize("study", STUDIES)
def test_no_two_rows_are_the_same_run(study, demo):
    names = [name for name in ABLATIONS if name.startswith(study) and not (demo and name in WITHOUT_DEMO)]
    experiment = DEMOS.get(study, f"demo_{study}") if demo else study
    rows = {name: trained(experiment, f"+ablation={name}") for name in names}
    rows[study] = trained(experiment)
    assert len(rows) > 4
    assert [pair for pair in combinations(rows, 2) if rows[pair[0]] == rows[pair[1]]] == []


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """Command line of each study's rehearsal, whose published files are made, but for one that users give files."""
    runs = tmp_path_factory.mktemp("runs")
    own = [f"data.files.{split}=/labels/{split}.jsonl" for split in ("sft", "rl", "test")]
    given = {study: [f"experiment={study}", f"runs={runs}"] for study in STUDIES}
    given["camreasoner_crpo"] += [*own, "data.media_root=/videos"]
    for study, write in rehearse.writers().items():
        if study in STUDIES:
            write(runs / "rehearsal" / study / "published", 0)
    return given


@pytest.mark.e2e
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_can_be_rehearsed(name, rehearsed):
    study = next(study for study in STUDIES if name.startswith(study))
    small = compose_complete(rehearse.overrides_of([*rehearsed[study], f"+ablation={name}"]))
    check_prompts(small)
    check_advantage(small)
    check_motions(small)
    check_counts(small)
    assert fits(small)[0] == [] and small.cluster.device == "cpu" and small.model.path is None
    plain = compose_complete(rehearse.overrides_of(rehearsed[study]))
    assert run_of(small).settings("rl") != run_of(plain).settings("rl") or small.data != plain.data
    if study != "camreasoner_crpo":
        for split in ("sft", "rl"):
            assert [file.path for file in files_of(small, split) if not file.path.exists()] == []


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_changes_its_study(name):
    study = next(study for study in STUDIES if name.startswith(study))
    require_change([f"experiment={study}", f"+ablation={name}"])


def test_keys_of_what_a_row_brings_may_be_set():
    require_change(["experiment=videochat_r1", "+ablation=videochat_r1_captions", "judge.model=Qwen/Qwen3-32B"])


def test_an_ablation_that_changes_nothing_is_refused():
    require_change(["experiment=videop2r"])
    given = ["experiment=videop2r", "+ablation=videop2r_no_length"]
    with pytest.raises(RecipeError, match=r"\+ablation=videop2r_no_length changes nothing here"):
        require_change([*given, "reward.length_reward=0.2"])
    with pytest.raises(RecipeError, match="changes nothing"):
        require_change([*given, "reward.length_reward=0.0"])


def test_every_ablation_belongs_to_a_study():
    assert [name for name in ABLATIONS if not name.startswith(STUDIES)] == []


def test_plain_grpo_is_not_the_run_without_separation():
    import numpy as np
    import torch

    from rewards.advantages.base import Batch
    from rewards.advantages.grpo import Grpo
    from rewards.advantages.pa_grpo import PaGrpo

    recipe, _ = compose_recipe(["experiment=videop2r", "+ablation=videop2r_grpo"])
    assert recipe.reward.settings["score"] == "reasoning" and recipe.advantage.name == "grpo"
    rng = np.random.default_rng(0)
    perception, reasoning = (torch.tensor(rng.choice([0, 1, 2, 2.2], 32)) for _ in "pr")

    def advantages(estimator, scores: torch.Tensor) -> torch.Tensor:
        groups = [str(number // 8) for number in range(32)]
        lengths = torch.zeros(32, dtype=torch.long)
        batch = Batch(scores, groups, ["choice"] * 32, None, perception, reasoning, lengths)
        return estimator.advantages(batch).response_B

    joined = advantages(PaGrpo(separate=False), perception + reasoning)
    assert torch.equal(advantages(Grpo(), perception + reasoning), joined)  # reward.score=both is that run again
    assert not torch.allclose(advantages(Grpo(), reasoning), joined)
