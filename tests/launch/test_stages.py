"""The table of stages agrees with everything that names stages by itself."""

import re

import pytest

from data_tools.run_folder import RunFolder
from launch.compose import compose_recipe
from launch.recipe import ROOT, Recipe, RecipeError
from launch.stages import RECORDED, STAGES, all_needs, joins, needs, nodes, shared_needs


def test_the_makefile_runs_the_stages_of_the_table():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^STAGES := (.*)$", makefile, re.MULTILINE)[1].split() == list(STAGES)


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_every_stage_has_a_command_an_output_and_settings(stage):
    source = (ROOT / "launch" / f"{stage.name}.py").read_text()
    assert re.search(rf'^@command\("{stage.name}"[,)]', source, re.MULTILINE)
    assert getattr(RunFolder(ROOT), stage.output, ROOT / stage.output) == ROOT / stage.output
    assert {key.split(".")[0] for key in stage.settings} <= {*Recipe.model_fields, "schemas"}  # those of the reward
    assert set(stage.needs) <= set(list(STAGES)[: list(STAGES).index(stage.name)])


def test_what_a_stage_needs_follows_the_recipe():
    demo = compose_recipe(["experiment=demo"])[0]
    without = compose_recipe(["experiment=demo", "rl.start_epoch=0"])[0]
    assert needs("rl", demo) == ["data", "model", "sft"] and needs("rl", without) == ["data", "model"]
    assert needs("evaluate", without) == ["data", "model", "merge"]
    made = [stage for stage in RECORDED[:-1] if stage != "sets"]
    assert all_needs("evaluate", demo) == made and "sft" not in all_needs("evaluate", without)


def test_only_the_models_and_sets_that_are_evaluated_are_needed():
    def needed(*overrides: str) -> list[str]:
        return needs("evaluate", compose_recipe(["experiment=demo", *overrides])[0])

    other = "+eval.sets.other={files: a.jsonl, media_root: clips}"
    assert needed("eval.models=[base]") == ["data", "model"]
    assert needed("eval.models={ours: rl, theirs: some/model}") == ["data", "merge"]
    assert needed("eval.models={theirs: some/model}", other, "eval.sets.test=null") == ["sets"]
    assert needed("eval.models=[base,sft]", "rl.start_epoch=0") == ["data", "model", "sft"]


def test_points_of_a_sweep_share_what_builds_on_none_of_their_stages():
    demo = compose_recipe(["experiment=demo", "+eval.sets.other={files: a.jsonl, media_root: clips}"])[0]
    assert shared_needs(["rl", "merge", "evaluate"], demo) == ["data", "sets", "model", "sft"]
    assert shared_needs(["sft", "evaluate"], demo) == ["data", "sets", "model"]
    assert shared_needs(["rl"], demo) == ["data", "model", "sft"]


@pytest.mark.parametrize(("cluster", "processes"), [("one_gpu", 1), ("node_8gpu", 8)])
def test_sft_on_gpus_runs_under_torchrun(cluster, processes, tiny_recipe):
    """Also on one: without it LLaMA-Factory refuses DeepSpeed, and, where it sees more GPUs, to train at all."""
    from launch.sft import trainer

    main = ["launch.engines.llamafactory.main", "sft.yaml"]
    assert trainer(compose_recipe(["experiment=camreasoner", f"cluster={cluster}"])[0].cluster, "sft.yaml") == [
        *("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", *main)
    ]
    assert trainer(tiny_recipe().cluster, "sft.yaml") == main


def test_sft_on_several_nodes_has_a_torchrun_on_each(tiny_recipe):
    from launch.engines.llamafactory.nodes import torchrun
    from launch.sft import trainer

    given = ["cluster=ray_cluster", "cluster.nodes=4", "cluster.sft_nodes=2", "cluster.address=10.0.0.1:6379"]
    cluster = compose_recipe(["experiment=camreasoner", *given])[0].cluster
    assert trainer(cluster, "sft.yaml") == [
        *("launch.engines.llamafactory.nodes", "sft.yaml", "10.0.0.1:6379", "2", "8")
    ]
    assert torchrun("sft.yaml", 2, 8, 1, "10.0.0.2", 4321) == [
        *("torch.distributed.run", "--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.2", "--master-port=4321"),
        *("--nproc-per-node=8", "-m", "launch.engines.llamafactory.main", "sft.yaml"),
    ]
    with pytest.raises(RecipeError, match="sft_nodes=8, but nodes=4: raise cluster.nodes, or lower cluster.sft_nodes"):
        compose_recipe(["experiment=camreasoner", *given, "cluster.sft_nodes=8"])
    with pytest.raises(RecipeError, match="SFT on several nodes needs a running Ray cluster"):
        tiny_recipe("cluster.nodes=2", "cluster.sft_nodes=2")


@pytest.mark.parametrize(
    ("cluster", "joined"),
    [(["node_8gpu"], []), (["ray_cluster"], []), (["ray_cluster", "cluster.sft_nodes=2"], ["sft"])],
)
def test_a_stage_that_joins_the_cluster_holds_no_gpus_of_its_own(cluster, joined):
    recipe = compose_recipe(["experiment=camreasoner", f"cluster={cluster[0]}", *cluster[1:]])[0]
    assert [name for name in STAGES if joins(name, recipe)] == [*joined, "rl", "evaluate"]


def test_the_pages_say_on_how_many_nodes_each_stage_computes():
    recipe = compose_recipe(["experiment=camreasoner", "cluster=ray_cluster", "cluster.nodes=4"])[0]
    assert {name: nodes(name, recipe) for name in STAGES if nodes(name, recipe) > 1} == {"rl": 4, "evaluate": 4}
    cluster, inference = (
        " ".join((ROOT / "docs" / page).read_text().split()) for page in ("cluster.md", "inference.md")
    )
    assert "RL and evaluation span all nodes of a Ray cluster" in cluster
    assert "SFT uses the GPUs of the node that it runs on" in cluster and "merge uses none" in cluster
    assert "Ray actors over all nodes of the cluster" in inference
