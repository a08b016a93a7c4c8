import asyncio
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards.advantages import EmaGrpo, PaGrpo
from rewards.camreasoner import reward as camreasoner
from rewards.counterfactual import lambda_counterfactual
from rewards.judge import RuleJudge
from rewards.motions import observation
from rewards.replay import ReplayError, main, replay, summary
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
        components = [camreasoner(text, SAMPLE) for _, text in rows]
        scores = torch.tensor([c["score"] for c in components])
        advantages = estimator.advantages(scores, [g for g, _ in rows], ["binary"] * len(rows)).tolist()
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
    assert [r["advantage"] for r in done.records] == pytest.approx(done.advantages, abs=1e-6)
    counts = summary(done)
    assert counts["rollouts"] == 22 and counts["groups"] == 6 and counts["refused"] == 0
    changes = ("scores_changed", "rank_flips", "ties_broken", "ties_made", "advantage_sign_flips")
    assert [counts[name] for name in changes] == [0] * len(changes)


def test_another_lambda_changes_wrong_answers_alone(rollouts):
    done = replay(rollouts, CAMREASONER | {"format_weight": 0.5}, {"name": "grpo"})
    wrong = [r["format"] == 1 and r["accuracy"] == 0 for r in done.records]
    changed = [c["score"] != pytest.approx(r["score"]) for r, c in zip(done.records, done.components)]
    assert changed == wrong and summary(done)["scores_changed"] == sum(wrong)
    assert summary(done)["rank_flips"] == 0


def test_a_penalty_flips_ranks(rollouts):
    done = replay(rollouts, CAMREASONER | {"wrong_penalty": 1.0}, {"name": "grpo"})  # wrong now lies below malformed
    assert summary(done)["rank_flips"] == sum(
        any(r["format"] == 0 for r in rows) * sum(r["format"] == 1 and r["accuracy"] == 0 for r in rows)
        for rows in [[r for r in done.records if r["group"] == g] for g in {r["group"] for r in done.records}]
    )
    assert summary(done)["rank_flips"] > 0


def test_rewards_by_process_with_recorded_verdicts_and_lengths(tmp_path):
    settings = {key: value for key, value in VIDEOP2R.items() if key != "name"}
    components = [
        asyncio.run(videop2r(text, SAMPLE, judge=RuleJudge(), lengths=LENGTHS, **settings)) for text in RESPONSES
    ]
    columns = [torch.tensor([c[name] for c in components]) for name in ("perception", "reasoning")]
    a_p, a_r = PaGrpo().process_advantages(*columns, ["g"] * 5)
    rows = [record(1, "g", n, text, components[n], a_r[n].item()) for n, text in enumerate(RESPONSES)]
    rows = [row | {"advantage_perception": round(a_p[n].item(), 6)} for n, row in enumerate(rows)]
    path = tmp_path / "1.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for judge in (None, RuleJudge()):
        done = replay([path], VIDEOP2R, {"name": "pa_grpo"}, judge)
        assert done.components == [pytest.approx(c) for c in components]
        assert done.perception_advantages == pytest.approx(a_p.tolist())
        assert summary(done)["advantage_perception_sign_flips"] == summary(done)["advantage_sign_flips"] == 0


def test_what_cannot_be_scored_is_listed_with_its_reason(rollouts):
    lines = rollouts[0].read_text().splitlines()
    first = json.loads(lines[0]) | {"sample": SAMPLE | {"answer": "Z"}}
    rollouts[0].write_text("\n".join([json.dumps(first), *lines[1:], "{", "[]", "{}"]) + "\n")
    done = replay(rollouts, CAMREASONER, {"name": "grpo"})
    reasons = dict(done.refused)
    assert len(done.refused) == 3 + 4 and len(done.records) == 22 - 4
    assert "no letter" in reasons["1.0_0"] and "another response" in reasons["1.0_1"]
    assert any("no JSON" in reason for reason in reasons.values())
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
    with pytest.raises(ReplayError, match=reason):
        replay(rollouts, reward, advantage)


def test_the_command(rollouts, tmp_path, capsys):
    out = tmp_path / "out"
    main([*map(str, rollouts), "reward=camreasoner", "reward.format_weight=0.5", "advantage=ema_grpo", f"out={out}"])
    printed = capsys.readouterr().out
    assert "off-policy" in printed and "summary.json" in printed
    written = json.loads((out / "summary.json").read_text())
    assert written["settings"]["reward"]["format_weight"] == 0.5 and len(written["lambda"]) == 4
    assert len((out / "replay.jsonl").read_text().splitlines()) == written["counts"]["rollouts"] == 22
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("replay.png", "lambda.png"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["reward=camreasoner", "advantage=grpo"], "rollout files"),
        (["x.jsonl", "advantage=grpo"], "reward=?"),
        (["x.jsonl", "reward=camreasoner", "advantage=grpo", "reward.colour=1"], "colour"),
        (["x.jsonl", "reward=camreasoner", "advantage=grpo"], "x.jsonl"),
        (["x.jsonl", "reward=camreasoner", "advantage=grpo", "judge=x"], "recorded"),
        (["x.jsonl", "reward=camreasoner", "advantage=grpo", "lambdas=[2]"], "[0, 1]"),
    ],
)
def test_a_wrong_command_ends_with_one_message(arguments, reason, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert reason in capsys.readouterr().out


# ---------------------------------------------------------------- lambda counterfactual


def rows(*groups):
    return [{"group": n, "accuracy": a, "format": f} for n, group in enumerate(groups) for a, f in group]


def test_lambda_by_hand():
    same_format = [(1, 1), (0, 1)]  # lambda cancels out
    mixed = [(1, 1), (0, 1), (0, 0), (0, 0)]  # right; wrong; malformed twice
    saturated = [(1, 1), (1, 1)]
    none, half, all_ = lambda_counterfactual(rows(same_format, mixed, saturated), [0.0, 0.5, 1.0])
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
    for row in lambda_counterfactual(rows(*groups), lambdas):
        assert all(0 <= value <= 1 + 1e-9 for value in row.values())


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6), min_size=1))
def test_lambda_is_inert_where_the_format_is_saturated(groups):  # peers.md, fact 5
    for row in lambda_counterfactual(rows(*[[(a, 1) for a in group] for group in groups]), [0.1, 0.3, 0.5]):
        assert row["matters"] == row["sign_flips"] == row["format_share"] == 0


def test_wrong_lambdas_are_refused():
    for records, lambdas in (([], [0.1]), (rows([(1, 1)]), [1.5]), (rows([(1, 1)]), [float("nan")])):
        with pytest.raises(ValueError):
            lambda_counterfactual(records, lambdas)
