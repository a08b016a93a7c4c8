"""What a rehearsal makes of an experiment, and what it leaves as it is."""

import asyncio

import pytest
from PIL import Image

from data_tools.exports import export, verl_file
from data_tools.media.stills import Still
from data_tools.rehearsal import own
from data_tools.rehearsal.judge import verdict
from data_tools.sample import Sample, read_samples, write_samples
from data_tools.synthesis.local_server import LocalEndpoint
from launch import calibrate, plan, rehearse
from launch.compose import compose_complete, compose_recipe
from launch.engines import warm_up
from launch.errors import LaunchError
from launch.planning.fits import fits
from launch.run import run_of
from rewards.judges.build import build
from rewards.response import parse


@pytest.mark.parametrize("module", (rehearse, calibrate))
def test_help_lists_the_groups_and_keys(module, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [module.__name__, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert not ended.value.code and "experiment: camreasoner" in capsys.readouterr().out


STUDIES = ("camreasoner", "camreasoner_authors", "videop2r", "videochat_r1")


@pytest.mark.parametrize("study", STUDIES)
def test_a_rehearsal_keeps_what_has_to_fit_together(study):
    whole, _ = compose_recipe([f"experiment={study}"])
    small = compose_complete(rehearse.overrides_of([f"experiment={study}"]))
    assert small.form.prompt == whole.form.prompt and small.advantage == whole.advantage
    assert small.reward.name == whole.reward.name and small.form.schemas == whole.form.schemas
    assert (small.media.fps, small.media.sampler) == (whole.media.fps, whole.media.sampler)
    assert small.judge.name == whole.judge.name and small.rl.filter.metric == whole.rl.filter.metric
    assert small.rl.start_epoch == whole.rl.start_epoch and small.rl.kl_coef == whole.rl.kl_coef
    assert small.cluster.device == "cpu" and small.model.path is None and small.rl.steps == 2
    assert run_of(small).folder.parts[-2:] == ("rehearsal", study)


@pytest.mark.parametrize("cluster", ["one_gpu", "node_8gpu", "ray_cluster"])
@pytest.mark.parametrize("study", STUDIES)
def test_a_rehearsal_on_gpus_is_the_same_study_on_the_engines_of_gpus(study, cluster):
    given = [f"experiment={study}", "runs=/shared/runs"]
    small, on_gpus = (compose_complete(rehearse.overrides_of([*given, *more])) for more in ([], [f"cluster={cluster}"]))
    whole, _ = compose_recipe([*given, f"cluster={cluster}"])
    assert on_gpus.cluster == whole.cluster and on_gpus.model.dtype == "bfloat16" and on_gpus.model.path is None
    assert on_gpus.sft.deepspeed == whole.sft.deepspeed and on_gpus.rl.engine == whole.rl.engine
    assert on_gpus.rl.rollout.enforce_eager is whole.rl.rollout.enforce_eager
    others = {"micro_batch_size_per_gpu", "rollout"}
    assert on_gpus.rl.model_dump(exclude=others) == small.rl.model_dump(exclude=others)
    assert (on_gpus.media, on_gpus.data, on_gpus.eval) == (small.media, small.data, small.eval)
    assert fits(on_gpus)[0] == []


@pytest.mark.e2e
@pytest.mark.parametrize("cluster", ["one_gpu", "node_8gpu"])
def test_the_engines_take_a_rehearsal_on_gpus(cluster):
    recipe = compose_complete(rehearse.overrides_of(["experiment=camreasoner", f"cluster={cluster}"]))
    rendered = plan.check(recipe)
    assert rendered["sft"]["deepspeed"].endswith("zero3_offload.json" if recipe.cluster.offload else "zero3.json")
    assert rendered["rl"]["trainer"]["n_gpus_per_node"] == recipe.cluster.gpus_per_node
    assert rendered["rl"]["actor_rollout_ref"]["rollout"]["enforce_eager"] is False


def test_the_tiny_model_learns_the_words_of_training_and_of_each_evaluation_set(tmp_path):
    """Half of the examples ask as the authors do at evaluation: a model that never saw that answers no question."""
    recipe = compose_complete(rehearse.overrides_of(["experiment=camreasoner_authors", f"runs={tmp_path}"]))
    run = run_of(recipe)
    folder, root = run.paths, run.media_root
    names = [f"{number}.jpg" for number in range(2)]
    stills = {name: Still(name, 56, 56, "") for name in names}
    for name in names:
        root.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (56, 56)).save(root / name)
    asked = {"task": "binary", "options": ["No", "Yes"], "answer": "B", "source": "mine", "split": "rl"}
    questions = [Sample(id=name, images=[name], question="Does the camera pan?", **asked) for name in names]
    export(questions, root, verl_file(folder.verl_data("rl"), root, stills, recipe.form))
    examples = warm_up._examples(folder, recipe)
    texts = [example.messages[-1]["content"] for example in examples]
    at_evaluation = ["(e.g., A, B, C, D, etc.) within the <answer>...</answer>" in text for text in texts]
    assert at_evaluation == [False, False, True, True] and [len(example.images) for example in examples] == [1] * 4
    assert all(parse(example.response, "ota").ok for example in examples)


def test_a_set_of_the_shrinking_layer_can_be_left_out():
    given = ["experiment=videochat_r1", "eval.sets.charades_sta=null"]
    sets = compose_complete(rehearse.overrides_of(given)).other_sets
    assert "charades_sta" not in sets and "dream1k" in sets


def test_an_experiment_that_is_small_already_is_not_rehearsed():
    with pytest.raises(LaunchError, match="make demo EXPERIMENT=demo_videop2r"):
        rehearse.overrides_of(["experiment=demo_videop2r"])


def sample(number: int, task: str, **fields) -> Sample:
    given = {
        "id": str(number),
        "video": f"{number}.mp4",
        "question": "?",
        "source": "mine",
        "split": "rl",
        "task": task,
    }
    return Sample(**given, **fields)


def test_an_own_rehearsal_draws_some_samples_of_each_task_in_their_order(tmp_path):
    samples = [sample(n, "binary", options=["No", "Yes"], answer="A") for n in range(200)]
    samples += [sample(200 + n, "temporal_grounding", spans=[[0.0, 1.0]]) for n in range(3)]
    write_samples(tmp_path / "rl.jsonl", samples)
    run = run_of(compose_complete(["experiment=demo", f"runs={tmp_path}"]))
    arguments = [
        "experiment=camreasoner",
        f"data.media_root={tmp_path}",
        f"data.files.rl={tmp_path}/rl.jsonl",
        "data.files.sft=null",
        "data.files.test=null",
        "rl.start_epoch=0",
    ]
    named = rehearse.files(run, "mine", arguments)
    assert named == [f"data.files.rl={run.paths.published / 'rl.jsonl'}"]
    drawn = list(read_samples(run.paths.published / "rl.jsonl"))
    assert len(drawn) == own.SIZES["rl"] and sum(one.task == "temporal_grounding" for one in drawn) == 3
    assert [int(one.id) for one in drawn] == sorted(int(one.id) for one in drawn)


def test_the_stand_in_judge_answers_all_kinds_of_request():
    with LocalEndpoint(verdict) as server:
        judge = build({"name": "endpoint", "url": server.url, "model": "stand-in"})
        asked = {"question": "Which?", "options": ["pan left", "truck left"], "answer": "B", "task": "choice"}
        seen = "The picture slides right, near more than far."
        opened = asked | {"options": [], "task": "ocr", "answer": "STOP"}

        async def ask() -> list[object]:
            return [
                await judge.answer_from_text(seen, asked),
                await judge.answer_from_text("Nothing is said.", asked),
                await judge.answer_from_text("A white sign says STOP.", opened),
                await judge.entailed(["The picture slides right.", "A dog barks."], seen),
                await judge.consistent("Seen truck left.", "B", asked),
            ]

        assert asyncio.run(ask()) == ["B", None, "STOP", [True, False], True]
