import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples, write_samples
from evaluation.grading import grade
from evaluation.measures.bootstrap import Estimate
from evaluation.predictions import read_predictions
from evaluation.report import plots
from evaluation.report.page import write_report
from evaluation.report.verdict import verdict
from evaluation.runs import NAMES, Model, RunError


class Links(HTMLParser):
    """Everything that a page would load or lead to."""

    def __init__(self, page: str):
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset", "data")]


def page_of(run: Path) -> str:
    write_report(RunFolder(run))
    return (run / "report/index.html").read_text()


@pytest.fixture(scope="module")
def reported(made_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report, for tests that only read."""
    run = shutil.copytree(made_run, tmp_path_factory.mktemp("reported") / "demo" / "first", symlinks=True)
    write_report(RunFolder(run))
    return run


def test_report_stands_alone(reported: Path):
    page, run = (reported / "report/index.html").read_text(), reported
    seen = Links(page)
    assert all(link.startswith(("#", "data:image/", "tables/", "clips/")) for link in seen.links)
    assert all((run / "report" / link).is_file() for link in seen.links if link.startswith(("tables/", "clips/")))
    assert not {"link", "iframe", "object"} & set(seen.tags)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len([link for link in seen.links if link.startswith("data:image/jpeg")]) > 0
    names = {path.name for path in (run / "report").iterdir()}
    assert names == {
        "index.html",
        "summary.json",
        "test_balanced_accuracy.png",
        "sft_curves.png",
        "rl_curves.png",
        "test_motion_matrix.png",
        "tables",
        "clips",
    }


def test_summary_holds_what_was_measured(reported: Path):
    summary = json.loads((reported / "report/summary.json").read_text())
    assert set(summary["models"]) == {"base", "sft", "rl"}
    for key, model in summary["models"].items():
        assert model == json.loads((reported / f"eval/test/{key}/scores.json").read_text())
        assert len(model["balanced_accuracy_ci"]) == 2
        for name in (
            "accuracy",
            "binary_accuracy",
            "always_no_accuracy",
            "format_rate",
            "observation_fidelity",
            "n",
            "per_primitive",
        ):
            assert name in model
    assert set(summary["rl"]) == {"steps", "rollout_actor_pearson_min", "format_reward", "accuracy_reward"}
    assert summary["rl"]["steps"] == 12  # verl's step 0 is a validation before training
    assert summary["rl"]["rollout_actor_pearson_min"] == pytest.approx(0.998)
    assert summary["rl"]["format_reward"] == [0.97] * 12
    assert len(summary["rl"]["accuracy_reward"]) == 12
    assert summary["wall_seconds"] == {
        s: 50.0 + i for i, s in enumerate(("data", "model", "sft", "rl", "merge", "evaluate"))
    }
    assert summary["peak_rss_gib"] == 6.5


def test_what_was_left_out_is_counted_with_its_reason(reported: Path, run: Path):
    assert json.loads((reported / "report/summary.json").read_text())["left_out"] == []
    assert "Left out" not in (reported / "report/index.html").read_text()
    long = [{"file": "rl.jsonl", "record": f"q{n}", "field": "question", "reason": "900 tokens > 512"} for n in (7, 9)]
    broken = {"file": "test.json", "record": "3", "field": "video", "reason": "<b>no</b> frames"}
    for name, records in (("rl/quarantine.jsonl", long), ("sets/vqa/quarantine.jsonl", [broken])):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    page = page_of(run)
    assert json.loads((run / "report/summary.json").read_text())["left_out"] == [
        {"list": "rl/quarantine.jsonl", "field": "question", "records": 2, "reason": "q7: 900 tokens > 512"},
        {"list": "sets/vqa/quarantine.jsonl", "field": "video", "records": 1, "reason": "3: <b>no</b> frames"},
    ]
    assert "3: &lt;b&gt;no&lt;/b&gt; frames" in page


def test_model_text_is_never_html(run: Path, evaluate):
    attack = '<script>alert("x")</script><img src="http://example.invalid/x.png">'
    samples = list(read_samples(run / "data/test.jsonl"))
    chain = f"<observation>\0\x1b{attack}</observation><think>{attack}</think><answer>{attack}</answer>"
    records = [{"id": s.id, "response": chain, "finish_reason": "stop"} for s in samples[::2]]
    records += [{"id": s.id, "response": attack, "finish_reason": "length"} for s in samples[1::2]]
    evaluate(run, "rl", records, samples)
    (run / "recipe.yaml").write_text(json.dumps({"name": attack}))
    page = page_of(run)
    assert "&lt;script&gt;alert" in page
    seen = Links(page)
    assert seen.tags.count("script") == 2  # the page's own, and the data that it shows as text
    assert attack not in page
    assert "␀␛&lt;script&gt;" in page and "\0" not in page
    assert 'src="http' not in page
    assert all(link.startswith(("#", "data:image/", "tables/", "clips/")) for link in seen.links)
    assert all((run / "report" / link).is_file() for link in seen.links if link.startswith(("tables/", "clips/")))


def test_only_evaluated_models_are_reported(base_run: Path):
    page = page_of(base_run)
    summary = json.loads((base_run / "report/summary.json").read_text())
    assert set(summary["models"]) == {"base"}
    assert "rl" not in summary
    assert "SFT + RL" not in page
    assert "No training was logged" in page


def test_choice_questions_of_unknown_motion_alone(base_run: Path, evaluate):
    samples = [s for s in read_samples(base_run / "eval/test/samples.jsonl") if s.task == "choice"]
    samples = [s.model_copy(update={"extras": {}}) for s in samples]
    write_samples(base_run / "eval/test/samples.jsonl", samples)
    evaluate(base_run, "base", [{"id": samples[0].id, "response": "", "finish_reason": "error"}], samples)
    page = page_of(base_run)
    assert "balanced accuracy is undefined" in page
    assert "Yes/No questions (n" not in page
    assert "Observation fidelity</th>" not in page
    assert json.loads((base_run / "report/summary.json").read_text())["models"]["base"]["balanced_accuracy"] is None


def test_a_reward_of_the_observation_is_shown(run: Path):
    lines = [{"step": step, "data": {"reward/fidelity": 0.5, "reward/motion_known": 0.25}} for step in (1, 2)]
    (run / "rl/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(RunFolder(run))
    assert json.loads((run / "report/summary.json").read_text())["rl"]["fidelity_reward"] == [0.5, 0.5]
    drawn = plots.rl_curves([line["data"] | {"step": line["step"]} for line in lines])
    (axes,) = [axes for axes in drawn.axes if axes.get_title(loc="left") == "Fidelity of the observation"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["where the motion is known", "motion known"]


def test_absent_rl_metrics_are_tolerated(run: Path):
    (run / "rl/metrics.jsonl").write_text('{"step": 1, "data": {"reward/format": 1.0}}\n{"step": 2, "data": {}}\n')
    write_report(RunFolder(run))
    assert json.loads((run / "report/summary.json").read_text())["rl"] == {
        "steps": 2,
        "rollout_actor_pearson_min": None,
        "format_reward": [1.0, None],
        "accuracy_reward": [None, None],
    }


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("data/test.jsonl", "data"),
        ("eval/test/samples.jsonl", "evaluate"),
        ("data/contact_sheet.png", "data"),
        ("recipe.yaml", "data"),
        ("manifest.json", "data"),
        ("sft/trainer_state.json", "sft"),
        ("rl/metrics.jsonl", "rl"),
        ("eval/test/sft/scores.json", "evaluate"),
        ("eval/test/rl/predictions.jsonl", "evaluate"),
    ],
)
def test_a_missing_input_is_named_with_its_stage(run: Path, name: str, stage: str):
    (run / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing: run the stage '{stage}'"):
        write_report(RunFolder(run))


def test_broken_inputs_are_named(run: Path):
    clip = run / "data/clips/test-000.mp4"
    clip.write_bytes(b"no video")
    with pytest.raises(RunError, match=r"test-000.mp4 cannot be decoded"):
        write_report(RunFolder(run))
    scores = json.loads((run / "eval/test/rl/scores.json").read_text())
    (run / "eval/test/rl/scores.json").write_text(json.dumps(scores | {"right": scores["right"] + 1}))
    with pytest.raises(RunError, match=r"eval/test/rl/scores.json does not match predictions.jsonl"):
        write_report(RunFolder(run))
    (run / "eval/test/rl/scores.json").write_text(json.dumps({k: v for k, v in scores.items() if k != "parts"}))
    with pytest.raises(RunError, match=r"eval/test/rl/scores.json was written by an older version: .* force=true"):
        write_report(RunFolder(run))
    (run / "eval/test/rl/scores.json").write_text("{")
    with pytest.raises(RunError, match=r"scores.json:1: not JSON"):
        write_report(RunFolder(run))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Estimate(0.1, 0.02, 0.2), "RL helped"),
        (Estimate(-0.1, -0.2, -0.02), "RL made it worse"),
        (Estimate(0.1, -0.02, 0.2), "RL did not measurably help"),
        (None, "Whether RL helped cannot be said"),
    ],
)
def test_verdict_says_no_more_than_the_interval(change, said: str):
    scores = {
        "balanced_accuracy": 0.45,
        "balanced_accuracy_ci": [0.4, 0.55],
        "binary_accuracy": 0.8,
        "always_no_accuracy": 0.9,
        "observation_fidelity": None,
        "pair_accuracy": None,
    }
    models = [Model(NAMES[key], key=key, stage=key, scores=scores) for key in ("base", "sft", "rl")]
    sentences = verdict(models, [Estimate(0.3, 0.2, 0.4), change])
    assert sentences[0].startswith(said)
    assert sentences[1].startswith("SFT helped")
    assert "cannot be distinguished from the 0.500 of a constant answer" in sentences[2]
    assert "0.800, that of always No 0.900" in sentences[2]


def test_malformed_responses_are_told_in_words_and_are_no_opposite_answers(run: Path, evaluate):
    samples = list(read_samples(run / "data/test.jsonl"))
    for key in ("sft", "rl"):
        evaluate(run, key, [{"id": s.id, "response": "It", "finish_reason": "length"} for s in samples], samples)
    page = page_of(run)
    said = re.findall("<p>(.*?)</p>", page.split('class="verdict"')[1].split("</div>")[0])
    cut = "malformed; all 12 were cut at the token limit (eval.max_tokens)."
    assert said[0] == f"All 12 responses of SFT + RL are {cut}"  # no other number says anything of what was trained
    assert said[-1] == f"All 12 responses of SFT are {cut}"
    assert "RL did not measurably help: balanced accuracy 0.000 before and after, on every clip." in said
    table = (run / "report/tables/test_compare.csv").read_text()
    assert not re.search("SFT.*,MCC,-", table) and "SFT" in table


def test_the_title_says_what_the_run_is(run: Path):
    (run / "recipe.yaml").write_text(
        "{seed: 3, data: {rendered: {}}, model: {path: me/model}, reward: {name: camreasoner}, advantage: {name: grpo}}"
    )
    page = page_of(run)
    assert "<title>demo / first: evaluation report</title>" in page and "<h1>demo / first</h1>" in page
    assert "me/model · reward camreasoner · advantage grpo · seed 3 · 2026-01-01" in page
    assert "Base, SFT, SFT + RL on" in page and "12 questions of test" in page


def test_a_model_that_had_no_sft_is_not_said_to_have_had_it(run: Path):
    facts = json.loads((run / "eval/test/set.json").read_text())
    del facts["models"]["sft"]
    (run / "eval/test/set.json").write_text(json.dumps(facts))
    with (run / "recipe.yaml").open("a") as recipe:
        recipe.write("rl: {start_epoch: 0}\n")
    write_report(RunFolder(run))
    page = (run / "report/index.html").read_text()
    assert "Base, RL on" in page and "SFT + RL" not in page


def test_examples_are_sorted_by_what_rl_changed(reported: Path):
    run, page = reported, (reported / "report/index.html").read_text()
    samples = list(read_samples(run / "data/test.jsonl"))
    judged = {}
    for key in ("sft", "rl"):
        records = read_predictions(run / f"eval/test/{key}/predictions.jsonl", {s.id for s in samples})
        judged[key] = {s.id: grade(s, records.get(s.id)).right for s in samples}
    shown = re.findall(r'<article class="example" data-kind="([^"]*)">.*?(test-\d+-\w+)</p>', page, re.DOTALL)
    kinds = {(0, 1): "fixed by RL", (1, 0): "broken by RL", (0, 0): "both wrong", (1, 1): "both right"}
    assert shown
    for kind, sample_id in shown:
        assert kinds[judged["sft"][sample_id], judged["rl"][sample_id]] == kind


def test_report_carries_tables_collapse_and_the_lambda_counterfactual(run: Path):
    rng = np.random.default_rng(0)
    for step in (1, 2):
        fields = {"step": step, "rollout": "r", "id": "s", "task": "binary", "advantage": 0.0, "sample": {}}
        fields |= {"prompt": "p", "response": "r", "response_tokens": 1, "truncated": False}
        records = [
            fields | dict(group=f"g{g}", score=float(a), accuracy=float(a), format=float(rng.random() < 0.8))
            for g in range(4)
            for a in rng.integers(0, 2, 4)
        ]
        path = run / f"rl/rollouts/{step}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    write_report(RunFolder(run))
    assert "Another weight of the format reward" not in (run / "report/index.html").read_text()  # it has none
    with (run / "recipe.yaml").open("a") as recipe:
        recipe.write("reward: {name: camreasoner, format_weight: 0.1}\n")
    write_report(RunFolder(run))
    page = (run / "report/index.html").read_text()
    for said in (
        "Another weight of the format reward",
        "Advantage collapse",
        "Confusable motions: what the answer says",
        "texts exchanged",
    ):
        assert said in page
    written = {path.name for path in (run / "report/tables").iterdir()}
    assert written == {
        f"{name}.{form}"
        for name in (
            "results",
            *(f"test_{name}" for name in ("compare", "compare_differences", "confusable", "process")),
        )
        for form in ("md", "csv", "tex")
    }
    told = json.loads(page.split('id="test-predictions">')[1].split("</script>")[0])
    assert len(told["items"]) == told["of"] == 12
    assert "malformed" in told["kinds"]
