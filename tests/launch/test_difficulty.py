"""launch.difficulty with a scripted model: what is asked, kept and resumed, and what RL and the plan make of it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_tools.files import whole_lines
from data_tools.rendered.questions import RenderedClip, binary_samples
from data_tools.rendered.scene import write_clip
from data_tools.sample import Sample, read_samples, write_samples
from launch import difficulty
from launch.checks import check_advantage
from launch.engines.verl import fitting
from launch.engines.vllm.job import Job, answered_ids
from launch.errors import LaunchError
from launch.planning.show import rows
from launch.planning.sizes import samples as count_of
from launch.planning.time import rounds
from launch.recipe import RecipeError
from launch.run import Run, run_of
from launch.samples.pass_rates import expected_keep_rate, kept_ids

RIGHT = {"never": 0, "seldom": 1, "half": 2, "often": 3, "always": 4, "broken": None}
SETTINGS = ("difficulty.samples=4", "rl.group_size=4", "rl.filter.enabled=true", "rl.start_epoch=0")


def said(answer: str) -> str:
    return f"<observation>o</observation><think>t</think><answer>{answer}</answer>"


@pytest.fixture
def made(tiny_recipe, tmp_path, monkeypatch):
    """make(*overrides): the run, its data there; `asked` lists what the scripted model was asked."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    asked: list[str] = []

    def answers(job: Job, path: Path, log: Path, what: str) -> None:
        (parts,) = job.models.values()
        (part,) = parts
        assert (part.ask, job.recipe.eval.samples, job.recipe.eval.option_scores) == ("sampled", 4, None)
        done = answered_ids(part.out) if part.out.exists() else set()
        with part.out.open("a") as out:
            for sample in read_samples(part.samples):
                if sample.id in done:
                    continue
                asked.append(sample.id)
                right = RIGHT[sample.id]
                texts = [said("Yes" if n < (right or 0) else "No") for n in range(4)]
                record = {"id": sample.id, "response": texts[0], "samples": texts}
                out.write(json.dumps(record if right is not None else record | {"error": "does not decode"}) + "\n")

    monkeypatch.setattr(difficulty, "run_job", answers)
    monkeypatch.setattr(difficulty, "check", lambda run: str(model))

    def make(*overrides: str) -> Run:
        run = run_of(tiny_recipe(*SETTINGS, *overrides))
        fields = {
            "question": "?",
            "options": ["No", "Yes"],
            "answer": "B",
            "task": "binary",
            "source": "s",
            "split": "rl",
        }
        (run.data / "clips").mkdir(parents=True, exist_ok=True)
        (run.data / "clips/a.mp4").write_bytes(b"clip")
        write_samples(run.paths.samples("rl"), [Sample(id=id, video="clips/a.mp4", **fields) for id in RIGHT])
        return run

    make.asked = asked
    return make


def test_questions_are_kept_by_their_pass_rate_and_counts_add_up(made):
    run = made()
    told = difficulty.measure(run)
    assert told["counts"] == {"kept": 3, "too easy": 1, "too hard": 1, "quarantined": 1} and told["questions"] == 6
    assert [sample.id for sample in read_samples(run.paths.difficulty_kept)] == ["seldom", "half", "often"]
    (line,) = whole_lines(run.paths.difficulty_quarantine)
    assert json.loads(line)["record"] == "broken" and "decode" in json.loads(line)["reason"]
    assert run.paths.difficulty_quarantine in run.paths.quarantines()
    assert told["keep"] == {"all": pytest.approx(3 / 5), "kept": 1.0}
    assert run.paths.difficulty_page.exists()


def test_it_resumes_and_other_bounds_ask_nothing_anew(made):
    run = made()
    difficulty.measure(run)
    (log,) = [path for path in run.paths.difficulty.glob("*.jsonl") if len(path.stem) == 16]
    lines = log.read_bytes().splitlines(keepends=True)
    before = run.paths.pass_rates.read_bytes()
    log.write_bytes(b"".join(lines[:2]) + lines[2][:9])  # killed in the third
    made.asked.clear()
    difficulty.measure(run)
    assert made.asked == list(RIGHT)[2:] and run.paths.pass_rates.read_bytes() == before
    made.asked.clear()
    told = difficulty.measure(made("difficulty.low=0", "difficulty.high=0.5", "difficulty.order=hard_first"))
    assert made.asked == [] and told["counts"]["kept"] == 3
    assert [sample.id for sample in read_samples(run.paths.difficulty_kept)] == ["never", "seldom", "half"]


def test_rl_takes_the_prompts_in_order_and_refuses_those_of_other_settings(made, monkeypatch):
    chosen = ("rl.by_difficulty=true", "difficulty.order=easy_first")
    run = made(*chosen)
    with pytest.raises(LaunchError, match=r"summary\.json is missing: run python -m launch\.difficulty"):
        kept_ids(run.recipe)
    difficulty.measure(run)
    run.paths.verl_data("rl").parent.mkdir(parents=True)
    pq.write_table(pa.table({"extra_info": [{"id": id} for id in RIGHT]}), run.paths.verl_data("rl"))
    run.paths.rl.mkdir()
    monkeypatch.setattr(fitting, "too_long", lambda *_, **__: ({"half"}, len(RIGHT)))
    path, count = fitting.fitting_prompts(run)
    assert [row["id"] for row in pq.read_table(path)["extra_info"].to_pylist()] == ["often", "seldom"] and count == 2
    settings = run.settings("rl")
    for change in ("difficulty.low=0.3", "seed=1"):
        with pytest.raises(LaunchError, match=f"another {change.split('=')[0].split('.')[0]}"):
            kept_ids(made(*chosen, change).recipe)
    difficulty.measure(made(*chosen, "difficulty.low=0.3"))
    assert run.settings("rl") != settings  # RL that is done with other prompts does not pass for done


def test_runs_from_before_there_was_such_a_key_are_as_they_were(made):
    assert "by_difficulty" not in made().settings("rl")["rl"]
    assert made("rl.by_difficulty=true").settings("rl")["rl"]["by_difficulty"]


def test_prompts_are_followed_by_their_twins_in_one_file(made, monkeypatch):
    run = made("rl.twins.turns=[mirrored]")
    clips = [RenderedClip(f"clips/{motion}.mp4", motion, "s") for motion in ("pan_left", "tilt_up")]
    samples = list(binary_samples(clips, 4, "rl", np.random.default_rng(0)))
    rows = [
        {
            "prompt": [{"role": "user", "content": sample.question}],
            "videos": [{"video": sample.video, "nframes": 4}],
            "reward_model": {"style": "rule", "ground_truth": sample.answer},
            "extra_info": {"index": n, "id": sample.id, "sample": sample.model_dump_json()},
        }
        for n, sample in enumerate(samples)
    ]
    for path in (run.paths.verl_data("rl").parent, run.paths.rl):
        path.mkdir(parents=True)
    for clip in clips:
        write_clip(run.data / clip.video, np.zeros((4, 56, 56, 3), np.uint8), 2.0)
    pq.write_table(pa.Table.from_pylist(rows), run.paths.verl_data("rl"))
    monkeypatch.setattr(fitting, "too_long", lambda *_, **__: (set(), len(rows)))
    path, count = fitting.fitting_prompts(run)
    found = pq.read_table(path).to_pylist()
    assert count == len(found) == 8
    for one, other in zip(found[::2], found[1::2]):
        assert one["prompt"] == other["prompt"] and other["extra_info"]["id"] == f"{one['extra_info']['id']}~mirrored"
        twin = json.loads(other["extra_info"]["sample"])
        assert other["reward_model"]["ground_truth"] == twin["answer"]
        assert (
            other["videos"][0]["video"] == str(run.data / twin["video"]) and Path(other["videos"][0]["video"]).exists()
        )
        assert one["videos"][0]["nframes"] == other["videos"][0]["nframes"] == 4


def test_twins_need_even_batches_and_a_relation_needs_twins(made):
    for refused in (
        "rl.twins.relation_weight=0.5",
        ("rl.twins.turns=[mirrored]", "rl.rollout_batch_size=31", "rl.global_batch_size=31"),
        "rl.twins.turns=[shuffled]",
        "rl.twins.temporal_bonus=0.3",
        ("rl.twins.turns=[mirrored,shuffled]", "rl.twins.temporal_bonus=0.3"),
        ("rl.twins.turns=[shuffled]", "rl.twins.temporal_bonus=0.3", "rl.twins.relation_weight=0.5"),
        ("rl.twins.turns=[shuffled]", "rl.twins.temporal_bonus=0.3", "rl.twins.balanced=true"),
        "rl.twins.balanced=true",
    ):
        with pytest.raises(RecipeError, match=r"rl\.twins|twins"):
            made(*([refused] if isinstance(refused, str) else refused))
    recipe = made("rl.twins.turns=[mirrored]", "rl.twins.relation_weight=0.5", "advantage=gdpo").recipe
    with pytest.raises(RecipeError, match="never reads the score: give advantage.weights.relation"):
        check_advantage(recipe)


CONTRAST = ("rl.twins.turns=[shuffled]", "rl.twins.temporal_bonus=0.3")


def test_a_contrast_needs_accuracies_and_an_advantage_that_reads_the_score(made, monkeypatch):
    async def bare(*_):
        return {"score": 0.0}

    with pytest.raises(RecipeError, match="never reads the score: give advantage.weights.temporal"):
        check_advantage(made(*CONTRAST, "advantage=gdpo").recipe)
    check_advantage(made(*CONTRAST, "advantage=gdpo", "+advantage.weights.temporal=0.3").recipe)
    monkeypatch.setattr("rewards.scorer.Scorer.score", bare)
    with pytest.raises(RecipeError, match="compares accuracies: the reward camreasoner has none"):
        check_advantage(made(*CONTRAST).recipe)


def test_the_plan_answers_each_prompt_of_a_contrast_twice(made):
    assert rounds(made(*CONTRAST, "rl.filter.enabled=false").recipe).likely == 2.0
    once, twice = (rounds(made("rl.filter.enabled=true", *given).recipe) for given in ((), CONTRAST))
    assert twice.likely == pytest.approx(2 * once.likely)


def test_the_plan_counts_with_the_recorded_rates(made):
    run = made()
    assumed = rounds(run.recipe)
    difficulty.measure(run)
    assert expected_keep_rate(run.recipe)[0] == pytest.approx(3 / 5)
    assert rounds(run.recipe).likely == pytest.approx(5 / 3) != assumed.likely
    kept = made("rl.by_difficulty=true").recipe
    assert (expected_keep_rate(kept)[0], rounds(kept).likely, count_of(kept, "rl")) == (1.0, 1.0, 3)
    shown = dict(rows(kept, []))
    assert "3 kept, 1 too easy, 1 too hard, 1 quarantined" in shown["RL difficulty"]
    assert shown["RL prompts"] == "those kept, as_given"
    assert any("60 % of the groups kept, by the pass rates" in text for _, text in rows(run.recipe, []))
    assert expected_keep_rate(made("rl.filter.metric=format").recipe) is None
