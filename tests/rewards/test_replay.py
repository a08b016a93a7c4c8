import asyncio
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_tools.cli import parse as parse_arguments
from evaluation.rollouts.counterfactual import lambda_counterfactual
from evaluation.rollouts.replay import ReplayArguments, ReplayError, estimators, main, replay, summary
from rewards.advantages import Batch
from rewards.advantages.ema_grpo import EmaGrpo
from rewards.advantages.pa_grpo import PaGrpo
from rewards.camreasoner import reward as camreasoner
from rewards.errors import UserError
from rewards.judges.rules import RuleJudge
from rewards.motions import observation
from rewards.response import parse
from rewards.videop2r import reward as videop2r

SAMPLE = {
    **{"id": "s", "task": "binary", "question": "Does it pan left?", "options": ["No", "Yes"], "answer": "B"},
    **{"spans": [], "boxes": [], "events": [], "extras": {"motion": "pan_left", "asked": "pan_left"}},
}
SEEN = {"pan_left": observation("pan_left"), "static": observation("static")}
RESPONSES = [  # observation right or wrong, answer right or wrong, malformed
    *[f"<observation>{seen}</observation><think>t</think><answer>{a}</answer>" for seen in SEEN.values() for a in "AB"],
    "<answer>B</answer>",
]
LENGTHS = {"perception": 7, "reasoning": 9}
CAMREASONER = {"name": "camreasoner"}
VIDEOP2R = {"name": "videop2r", "perception_length": [1, 10], "reasoning_length": [1, 10]}


def record(step, group, number, text, components, advantage):
    return {
        **{"step": step, "rollout": f"{group}_{number}", "id": "s", "task": "binary", "group": group, **components},
        **{"advantage": round(advantage, 6), "prompt": "p", "response": text, "response_tokens": 16},
        **{"truncated": False, "sample": SAMPLE},
    }


@pytest.fixture
def rollouts(tmp_path):
    """Three steps of CamReasoner with EMA-GRPO, two groups each, as training records them; steps in separate files."""
    estimator, paths = EmaGrpo(), []
    for step in (1, 2, 3):
        rows = [(f"{step}.{g}", text) for g in range(2) for text in RESPONSES[g : g + 4 - (step == 3)]]
        components = [camreasoner(parse(text), SAMPLE) for _, text in rows]
        batch = Batch.of(components, [g for g, _ in rows], ["binary"] * len(rows))
        advantages = estimator.advantages(batch).response_B.tolist()
        lines = [
            record(step, group, number, text, components[number], advantages[number])
            for number, (group, text) in enumerate(rows)
        ]
        paths.append(tmp_path / f"{step}.jsonl")
        paths[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def test_the_same_reward_and_advantage_change_nothing(rollouts):
    """EMA state and all, whatever the order of the files."""
    done = replay(rollouts[::-1], CAMREASONER, {"name": "ema_grpo"})
    assert [r.advantage for r in done.records] == pytest.approx(done.advantages, abs=1e-6)
    counts = summary(done)
    assert counts["rollouts"] == 22 and counts["groups"] == 6 and counts["refused"] == 0
    changes = ("scores_changed", "rank_flips", "ties_broken", "ties_made", "advantage_sign_flips")
    assert [counts[name] for name in changes] == [0] * len(changes)


def test_another_lambda_changes_wrong_answers_alone(rollouts):
    done = replay(rollouts, CAMREASONER | {"format_weight": 0.5}, {"name": "grpo"})
    wrong = [r.components["format"] == 1 and r.components["accuracy"] == 0 for r in done.records]
    changed = [c["score"] != pytest.approx(r.score) for r, c in zip(done.records, done.components)]
    assert changed == wrong and summary(done)["scores_changed"] == sum(wrong)
    assert summary(done)["rank_flips"] == 0


def test_a_penalty_flips_ranks(rollouts):
    done = replay(rollouts, CAMREASONER | {"wrong_penalty": 1.0}, {"name": "grpo"})  # wrong now lies below malformed
    groups = {record.group: [r.components for r in done.records if r.group == record.group] for record in done.records}
    assert summary(done)["rank_flips"] == sum(
        any(c["format"] == 0 for c in rows) * sum(c["format"] == 1 and c["accuracy"] == 0 for c in rows)
        for rows in groups.values()
    )
    assert summary(done)["rank_flips"] > 0


def test_rewards_per_segment_with_recorded_verdicts_and_lengths(tmp_path):
    settings = {key: value for key, value in VIDEOP2R.items() if key != "name"}
    components = [
        asyncio.run(videop2r(parse(text), SAMPLE, judge=RuleJudge(), lengths=LENGTHS, **settings)) for text in RESPONSES
    ]
    advantages = PaGrpo().advantages(Batch.of(components, ["g"] * 5, ["binary"] * 5))
    a_p, a_r = advantages.perception_B, advantages.response_B
    rows = [record(1, "g", n, text, components[n], a_r[n].item()) for n, text in enumerate(RESPONSES)]
    rows = [row | {"advantage_perception": round(a_p[n].item(), 6)} for n, row in enumerate(rows)]
    path = tmp_path / "1.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for judge in (None, RuleJudge()):
        done = replay([path], VIDEOP2R, {"name": "pa_grpo"}, judge)
        assert done.components == [pytest.approx(c) for c in components]
        assert done.perception_advantages == pytest.approx(a_p.tolist())
        assert summary(done)["advantage_perception_sign_flips"] == summary(done)["advantage_sign_flips"] == 0


def test_the_relation_of_twins_is_replayed_within_each_step(tmp_path):
    def line(step, branch, number, answer):
        text = f"<observation>o</observation><think>t</think><answer>{answer}</answer>"
        asked = SAMPLE | {"extras": SAMPLE["extras"] | {"counterpart": [1, 0]}}
        group = f"step{step:06d}.{branch:05d}"
        return record(step, group, number, text, {"score": 0.0, "accuracy": 0.0, "format": 1.0}, 0.0) | {
            "sample": asked
        }

    said = {(1, 2): "BB", (1, 3): "AB", (2, 2): "AB", (2, 3): "AA"}  # B is right of the clip, A of its twin
    lines = [line(*where, n, answer) for where, answers in said.items() for n, answer in enumerate(answers)]
    path = tmp_path / "1.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    done = replay([path], CAMREASONER, {"name": "grpo"}, relation_weight=0.5)
    assert [one["relation"] for one in done.components] == [0.5, 0.5, 1.0, 0.0, 0.0, 1.0, 0.5, 0.5]
    alone = replay([path], CAMREASONER, {"name": "grpo"})
    gained = [one["score"] - other["score"] for one, other in zip(done.components, alone.components)]
    assert gained == pytest.approx([one["relation"] / 2 for one in done.components])
    assert all("relation" not in one for one in alone.components)


def test_the_temporal_reward_is_replayed_from_the_recorded_accuracy_on_shuffled_frames(tmp_path):
    def line(group, number, answer, **known):
        text = f"<observation>o</observation><think>t</think><answer>{answer}</answer>"
        return record(1, group, number, text, {"score": 0.0, "accuracy": 0.0, "format": 1.0} | known, 0.0)

    groups = {"a": {"shuffled_accuracy": 0.5}, "b": {"shuffled_accuracy": 0.75}, "c": {}}  # B is right
    lines = [line(group, n, answer, **known) for group, known in groups.items() for n, answer in enumerate("BA")]
    path = tmp_path / "1.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    done = replay([path], CAMREASONER, {"name": "grpo"}, temporal={"bonus": 0.3, "ratio": 0.8})
    assert [one["temporal"] for one in done.components] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert [one["score"] for one in done.components] == pytest.approx([1.3, 0.1, 1.0, 0.1, 1.0, 0.1])
    assert done.components[0]["shuffled_accuracy"] == 0.5 and "shuffled_accuracy" not in done.components[4]


def test_what_cannot_be_scored_is_listed_with_its_reason(rollouts):
    lines = rollouts[0].read_text().splitlines()
    first = json.loads(lines[0]) | {"sample": SAMPLE | {"answer": "Z"}}
    rollouts[0].write_text("\n".join([json.dumps(first), *lines[1:], "{", "[]", "{}"]) + "\n")
    done = replay(rollouts, CAMREASONER, {"name": "grpo"})
    reasons = dict(done.refused)
    assert len(done.refused) == 3 + 4 and len(done.records) == 22 - 4
    assert "not a letter" in reasons["1.0_0"] and "another response" in reasons["1.0_1"]
    assert any("not a rollout record: line: Invalid JSON" in reason for reason in reasons.values())
    assert summary(done)["refused"] == 7


@pytest.mark.parametrize(
    ("reward", "advantage", "reason"),
    [
        ({"name": "poem"}, {"name": "grpo"}, "camreasoner"),
        (CAMREASONER | {"colour": 1}, {"name": "grpo"}, "colour"),
        (CAMREASONER, {"name": "grpo", "decay": 1}, "decay"),
        (CAMREASONER, {"name": "pa_grpo"}, "videop2r"),
        (CAMREASONER | {"formula": "other"}, {"name": "grpo"}, "formula"),
        (VIDEOP2R, {"name": "pa_grpo"}, "lengths"),
    ],
)
def test_what_cannot_be_done_is_said(rollouts, reward, advantage, reason):
    with pytest.raises(UserError, match=reason):
        replay(rollouts, reward, advantage)


def test_the_command(rollouts, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["reward=camreasoner", "reward.format_weight=0.5", "advantage=ema_grpo", f"out={out}"]
    main(parse_arguments(ReplayArguments, [*map(str, rollouts), *given]))
    printed = capsys.readouterr().out
    assert "off-policy" in printed and "summary.json" in printed
    written = json.loads((out / "summary.json").read_text())
    assert written["settings"]["reward"]["format_weight"] == 0.5 and len(written["lambda"]) == 4
    assert len((out / "replay.jsonl").read_text().splitlines()) == written["counts"]["rollouts"] == 22
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("replay.png", "lambda.png"))


def test_lambda_is_shown_for_a_reward_that_has_it(rollouts, tmp_path, capsys):
    """VideoChat-R1 adds format to accuracy: no lambda weighs them."""
    out, given = tmp_path / "out", [*map(str, rollouts), "reward=videochat_r1", "advantage=grpo"]
    main(parse_arguments(ReplayArguments, [*given, f"out={out}"]))
    assert "off-policy" not in capsys.readouterr().out and not (out / "lambda.png").exists()
    assert json.loads((out / "summary.json").read_text())["lambda"] == []
    with pytest.raises(ReplayError, match="reward=videochat_r1 has no format_weight"):
        main(parse_arguments(ReplayArguments, [*given, "lambdas=[0.3]", f"out={out}"]))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["reward=camreasoner", "advantage=grpo"], "rollout files"),
        (["there.jsonl", "advantage=grpo"], "give reward=NAME"),
        (["there.jsonl", "reward=camreasoner", "advantage=grpo", "reward.colour=1"], "colour"),
        (["runs/x/*.jsonl", "reward=camreasoner", "advantage=grpo"], r"runs/x/\*.jsonl: no such rollouts; .*make demo"),
        (["x.jsonl", "reward=camreasoner"], "x.jsonl: no such rollouts"),
        (["there.jsonl", "reward=camreasoner", "advantage=grpo", "judge=x"], "recorded"),
        (["x.jsonl", "reward=camreasoner", "advantage=grpo", "lambdas=[2]"], "lambdas.0: .*less than or equal to 1"),
    ],
)
def test_a_wrong_command_is_refused_with_a_message(arguments, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").touch()
    with pytest.raises(UserError, match=reason):
        main(parse_arguments(ReplayArguments, arguments))


def test_settings_default_to_those_of_the_rollouts_own_run(rollouts, tmp_path, capsys):
    run = tmp_path / "run"
    folder = run / "rl" / "rollouts"
    folder.mkdir(parents=True)
    files = [str(path.rename(folder / path.name)) for path in rollouts]
    recipe = {"reward": {"name": "camreasoner", "wrong_penalty": 1.0}, "advantage": {"name": "ema_grpo", "decay": 0.5}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def settings(*given: str) -> dict:
        main(parse_arguments(ReplayArguments, [*files, f"out={tmp_path / 'out'}", *given]))
        return json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]

    assert {part: settings()[part] for part in recipe} == recipe
    assert settings()["overlong"] == {}
    assert settings("reward.format_weight=0.3")["reward"] == recipe["reward"] | {"format_weight": 0.3}
    other = settings("advantage=grpo", "judge=rules")
    assert (other["advantage"], other["judge"]) == ({"name": "grpo"}, {"name": "rules"})
    shaped = recipe | {"loss": {"overlong": {"share": 0.2, "penalty": 1.0}}, "rl": {"max_response_length": 64}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(shaped))
    assert settings()["overlong"] == {"limit": 64, "buffer": 13, "penalty": 1.0}


def test_every_estimator_is_compared_on_the_same_rollouts(rollouts):
    done = replay(rollouts, CAMREASONER, {"name": "grpo"})
    rows = {row["advantage"]: row for row in estimators(done, {"name": "grpo"})}
    assert list(rows) == ["grpo", "dr_grpo", "rloo", "reinforce_pp", "gdpo", "ema_grpo"]  # no rewards per segment
    assert rows["dr_grpo"]["no_signal"] == rows["rloo"]["no_signal"] == rows["grpo"]["no_signal"]
    assert rows["rloo"]["mean_size"] > rows["dr_grpo"]["mean_size"]  # G / (G - 1)
    assert rows["grpo"]["correlation"] > rows["reinforce_pp"]["correlation"]  # whose baseline is no group's


def test_replay_charges_for_length_as_the_run_did(rollouts, tmp_path):
    plain = replay(rollouts, CAMREASONER, {"name": "grpo"})
    charged = replay(rollouts, CAMREASONER, {"name": "grpo"}, overlong={"limit": 20, "buffer": 8})  # all have 16 tokens
    assert [row["overlong"] for row in charged.components] == [-0.5] * len(plain.components)
    assert charged.advantages == pytest.approx(plain.advantages, abs=1e-6)
    with pytest.raises(ReplayError, match="advantage=gdpo needs beauty"):
        replay(rollouts, CAMREASONER, {"name": "gdpo", "weights": {"beauty": 1.0}})


# ---------------------------------------------------------------- lambda counterfactual


def rows(*groups):
    values = [(str(n), a, f) for n, group in enumerate(groups) for a, f in group]
    return [group for group, _, _ in values], [{"accuracy": a, "format": f} for _, a, f in values]


def test_lambda_by_hand():
    same_format = [(1, 1), (0, 1)]  # lambda cancels out
    mixed = [(1, 1), (0, 1), (0, 0), (0, 0)]  # right; wrong; malformed twice
    saturated = [(1, 1), (1, 1)]
    none, half, all_ = lambda_counterfactual(*rows(same_format, mixed, saturated), [0.0, 0.5, 1.0])
    assert none == pytest.approx({"lambda": 0, "matters": 0, "collapsed": 1 / 3, "sign_flips": 0, "format_share": 0})
    assert half["matters"] == pytest.approx(1 / 3) and half["collapsed"] == pytest.approx(1 / 3)
    # In `mixed` rewards are 1, .5, 0, 0 instead of 1, 0, 0, 0: the wrong one rises above the mean of .375.
    assert half["sign_flips"] == pytest.approx(1 / 8)
    assert all_["collapsed"] == pytest.approx(2 / 3) and all_["format_share"] == 1.0
    # Centred a = 3/4, -1/4, -1/4, -1/4 and f = 1/2, 1/2, -1/2, -1/2 in `mixed`; a = 1/2, -1/2 in `same_format`.
    # Deviations: .5 (1, .5, 0, 0: sum of squares 11/16, over 3) and of 1, .5: sqrt(1/8).
    scale = (11 / 48) ** 0.5
    of_format, of_accuracy = 0.5 * 2 / scale, 0.5 * 1.5 / scale + 0.5 * 1 / (1 / 8) ** 0.5
    assert half["format_share"] == pytest.approx(of_format / (of_format + of_accuracy))


@given(
    st.lists(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1])), min_size=1, max_size=6), min_size=1),
    st.lists(st.floats(0, 1), min_size=1),
)
def test_shares_are_shares(groups, lambdas):
    for row in lambda_counterfactual(*rows(*groups), lambdas):
        assert all(0 <= value <= 1 + 1e-9 for value in row.values())


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6), min_size=1))
def test_lambda_is_inert_where_the_format_is_saturated(groups):  # peers.md, fact 5
    for row in lambda_counterfactual(*rows(*[[(a, 1) for a in group] for group in groups]), [0.1, 0.3, 0.5]):
        assert row["matters"] == row["sign_flips"] == row["format_share"] == 0


def test_wrong_lambdas_are_refused():
    for responses, lambdas in ((([], []), [0.1]), (rows([(1, 1)]), [1.5]), (rows([(1, 1)]), [float("nan")])):
        with pytest.raises(ValueError):
            lambda_counterfactual(*responses, lambdas)
