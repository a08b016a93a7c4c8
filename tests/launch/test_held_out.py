"""The val split while RL trains: what is asked, kept, said and ended; verl's queue and engines are played here."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from data_tools.files import append_line, write_text
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample
from evaluation.held_out import HeldOutError, best_of, decline, read_held_out, scored
from evaluation.predictions import Prediction, read_predictions
from launch.errors import LaunchError
from launch.merge import chosen_actor
from launch.planning import show, time, val
from launch.recipe import RecipeError
from launch.run import run_of
from launch.run.checkpoints import resume_rl
from launch.verl_plugin import held_out as module
from launch.verl_plugin.held_out import HeldOut
from launch.verl_plugin.queue import RolloutError

VAL = "data.rendered.val={clips: 15, binary: 16, choice: 4, confusable: 0.5}"
SETTINGS = {"every": 2, "metric": "balanced_accuracy", "patience": 2, "rule": "no_better", "then": "warn"}


def question(number: int) -> Sample:
    return Sample(
        id=f"q{number}",
        video=f"clips/{number}.mp4",
        question="Does the camera pan left?",
        options=["No", "Yes"],
        answer="AB"[number % 2],
        task="binary",
        source="rendered",
        split="val",
        extras={"asked": "pan_left", "motion": ["static", "pan_left"][number % 2]},
    )


QUESTIONS = [question(number) for number in range(8)]


class Engine:
    """A trainer whose servers answer the first `right` questions correctly, and what its queue holds."""

    def __init__(self, right: int, lost: int = 0) -> None:
        self.right, self.lost, self.global_steps, self.asked = right, lost, 3, []
        rows = [{"sample": q.model_dump_json(exclude_none=True), "id": q.id} for q in QUESTIONS]
        self.val_dataloader = [{"raw_prompt": rows[a : a + 4], "extra_info": rows[a : a + 4]} for a in (0, 4)]
        self.agent_loop_manager = SimpleNamespace(generate_sequences=self.asked.append)
        self.replay_buffer = SimpleNamespace(sample=self.sample)
        self.tokenizer = SimpleNamespace(eos_token_id=9, decode=lambda ids, skip_special_tokens: self.answer(ids))

    def sample(self, global_steps, partition_id, batch_size):
        assert partition_id == "val" and bool(self.asked[-1]["validate"])
        start = 4 * (len(self.asked) - 1)
        return SimpleNamespace(keys=list(range(start, start + batch_size - self.lost))), {}

    def answer(self, ids) -> str:
        number, right = int(ids[0]), int(ids[0]) < self.right
        said = ["No", "Yes"][(number + (not right)) % 2]
        return f"<observation>The picture stays still.</observation><think>So.</think><answer>{said}</answer>"

    def queue(self):
        import torch

        def get(keys, partition_id, select_fields):
            responses = torch.nested.as_nested_tensor([torch.tensor([key, 9]) for key in keys], layout=torch.jagged)
            return {"responses": responses, "extra_info": [{"id": f"q{key}"} for key in keys]}

        return SimpleNamespace(kv_batch_put=lambda **_: None, kv_batch_get=get, kv_clear=lambda **_: None)


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def checkpoint(run: RunFolder, step: int) -> None:
    actor = run.rl_checkpoints / f"global_step_{step}" / "actor"
    for name in ("model_world_size_1_rank_0.pt", "optim_world_size_1_rank_0.pt", "fsdp_config.json"):
        write_text(actor / name, str(step))
    write_text(run.rl_checkpoints / "latest_checkpointed_iteration.txt", str(step))


def evaluations(run, monkeypatch, rights, **changed):
    """One per two steps, each with so many right answers: (metrics, ends) of the last."""
    held_out = HeldOut(SETTINGS | changed | {"run": str(run.root)}, {"name": "camreasoner"}, seed=0)
    run.rl.mkdir(parents=True, exist_ok=True)
    for number, right in enumerate(rights):
        step = 2 * number
        if step:
            checkpoint(run, step)
        engine = Engine(right)
        monkeypatch.setattr(module, "tq", engine.queue())
        found = held_out.evaluate(engine, step)
        for logged in (step + 1, step + 2):
            append_line(run.rl_metrics, {"step": logged, "data": {"reward/overall": 0.1 * logged}})
    return found


def test_an_evaluation_is_greedy_named_by_its_step_and_scored_by_the_one_scorer(run, monkeypatch):
    metrics, ends = evaluations(run, monkeypatch, [6])
    (record,) = read_held_out(run.held_out)
    said = {q.id: Engine(6).answer([number]) for number, q in enumerate(QUESTIONS)}
    predictions = {name: Prediction(id=name, response=text, finish_reason="stop") for name, text in said.items()}
    assert record == scored(0, QUESTIONS, predictions, "ota", None) | {"saved": False}
    assert read_predictions(run.held_out_files()[0], {q.id for q in QUESTIONS}) == predictions
    assert record["balanced_accuracy"] == record["accuracy"] == 0.75 and record["fidelity"] == 0.5
    assert metrics["held_out/balanced_accuracy"] == 0.75 and metrics["held_out/balanced_accuracy/low"] <= 0.75
    assert metrics["held_out/best_step"] == 0 and not ends


def test_a_question_that_fails_is_no_wrong_answer_but_an_error(run, monkeypatch):
    engine = Engine(8, lost=1)
    monkeypatch.setattr(module, "tq", engine.queue())
    with pytest.raises(RolloutError, match="2 questions of the val split failed, q3 first"):
        module.ask(engine, 0)


def test_the_best_checkpoint_stays_when_verl_deletes_its_own(run, monkeypatch):
    evaluations(run, monkeypatch, [8, 4, 6, 5])  # before any step, and after 2, 4 and 6
    (kept,) = run.rl_best.iterdir()
    assert kept.name == "global_step_4"  # the first evaluation has no checkpoint
    assert {path.name for path in (kept / "actor").iterdir()} == {"model_world_size_1_rank_0.pt", "fsdp_config.json"}
    assert (kept / "actor" / "fsdp_config.json").read_text() == "4"
    assert [record["saved"] for record in read_held_out(run.held_out)] == [False, True, True, True]
    rewards = [record["reward"] for record in read_held_out(run.held_out)]
    assert rewards == [None, *map(pytest.approx, (0.1, 0.25, 0.45))]  # of the steps since, without the last


@pytest.mark.parametrize(("then", "ends"), [("warn", False), ("end", True)])
def test_two_evaluations_without_a_new_best_are_told_or_end(run, monkeypatch, then, ends):
    assert evaluations(run, monkeypatch, [4, 6, 5, 6], then=then)[1] is ends
    record = read_held_out(run.held_out)[-1]
    assert record["ended"] is ends
    assert "0.750 at step 2, 0.750 now, while the training reward rose from 0.100 to 0.450" in record["warning"]
    assert "warning" not in read_held_out(run.held_out)[-2]


def test_a_reward_that_does_not_rise_is_no_reason_under_the_other_rule():
    records = [{"step": s, "accuracy": a, "reward": r} for s, a, r in ((0, 0.7, None), (2, 0.6, 0.5), (4, 0.5, 0.4))]
    assert "0.700 at step 0" in decline(records, "accuracy", 2)
    assert decline(records, "accuracy", 2, "reward_up") is None
    records[-1]["reward"] = 0.6
    assert "from 0.500 to 0.600" in decline(records, "accuracy", 2, "reward_up")
    assert decline(records, "accuracy", 3) is None


def test_a_metric_without_questions_is_named():
    with pytest.raises(HeldOutError, match="rl.held_out.metric=fidelity.*choose accuracy"):
        best_of([{"step": 0, "accuracy": 0.5, "balanced_accuracy": None, "fidelity": None}], "fidelity")


def test_a_resumed_run_asks_again_what_was_lost_and_nothing_else(run, monkeypatch):
    evaluations(run, monkeypatch, [4, 6, 5])
    whole = run.held_out.read_text()
    checkpoint(run, 2)  # as if killed after it
    assert resume_rl(run) == 2
    assert [record["step"] for record in read_held_out(run.held_out)] == [0, 2]
    held_out = HeldOut(SETTINGS | {"run": str(run.root)}, {"name": "camreasoner"}, seed=0)
    assert [held_out.missing(step, last=step == 5) for step in (0, 2, 3, 4, 5)] == [False, False, False, True, True]
    append_line(run.rl_metrics, {"step": 3, "data": {"reward/overall": 0.1 * 3}})
    engine = Engine(5)
    monkeypatch.setattr(module, "tq", engine.queue())
    held_out.evaluate(engine, 4)
    assert run.held_out.read_text() == whole


def test_merge_takes_the_last_the_best_or_a_step(tiny_recipe):
    def chosen(value):
        made = run_of(tiny_recipe(VAL, "rl.held_out.every=2", f"rl.checkpoint={value}"))
        return chosen_actor(made)[1].relative_to(made.paths.rl).as_posix()

    paths = run_of(tiny_recipe()).paths
    for step in (2, 4):
        checkpoint(paths, step)
    module.keep(paths, 2)
    assert chosen("last") == "checkpoints/global_step_4/actor"
    assert chosen("best") == "best/global_step_2/actor"
    assert chosen("2") == "checkpoints/global_step_2/actor"
    with pytest.raises(LaunchError, match=r"rl.checkpoint=3: .*there are \[2, 4\]"):
        chosen("3")


def test_which_checkpoint_is_merged_is_no_setting_of_rl(tiny_recipe):
    last, third = run_of(tiny_recipe()), run_of(tiny_recipe("rl.checkpoint=3"))
    assert last.settings("rl") == third.settings("rl") and last.settings("merge") != third.settings("merge")


@pytest.mark.parametrize(("override", "named"), [("rl.held_out.every=2", "val split"), ("rl.checkpoint=best", "best")])
def test_without_a_val_split_there_is_nothing_to_ask(tiny_recipe, override, named):
    with pytest.raises(RecipeError, match=named):
        tiny_recipe(override)


def test_the_plan_tells_what_it_costs(tiny_recipe):
    recipe = tiny_recipe(VAL, "rl.held_out.every=8", "rl.steps=40")
    rows = dict(show.rows(recipe, []))
    assert rows["RL val split"] == "20 questions, 6 times, by balanced_accuracy"
    assert "each time" in rows["val split's time"] and "best RL checkpoint" in rows["disk"]
    assert 0 < val.answer_seconds(recipe, 20).likely < time.step_seconds(recipe).likely
    assert "val split" not in " ".join(dict(show.rows(tiny_recipe(), [])))


def test_rendered_val_clips_leave_the_other_splits_as_they_are(tmp_path):
    from data_tools.rendered.dataset import RenderedSettings, build_rendered

    size = {"clips": 3, "binary": 2}
    without = RenderedSettings(sft=size, rl=size, test=size)
    with_val = RenderedSettings(sft=size, rl=size, test=size, val=size)
    for name, settings in (("without", without), ("with", with_val)):
        build_rendered(settings, tmp_path / name)
    for name in ("sft.jsonl", "rl.jsonl", "test.jsonl"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert len((tmp_path / "with" / "val.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "without" / "val.jsonl").exists()
    assert "val" not in json.loads((tmp_path / "without" / "settings.json").read_text())
    assert np.all([path.exists() for path in (tmp_path / "with" / "clips").glob("val-*.mp4")])
