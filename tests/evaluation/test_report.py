import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from data_tools.sample import read_samples, write_samples
from evaluation.report import Model, ReportError, verdict, write_report
from evaluation.score import read_predictions, score


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
    write_report(run)
    return (run / "report/index.html").read_text()


def test_report_stands_alone(run: Path):
    page = page_of(run)
    seen = Links(page)
    assert all(link.startswith(("#", "data:image/", "tables/")) for link in seen.links)
    assert all((run / "report" / link).is_file() for link in seen.links if link.startswith("tables/"))
    assert not {"link", "iframe", "object"} & set(seen.tags)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len([link for link in seen.links if link.startswith("data:image/jpeg")]) > 0
    names = {path.name for path in (run / "report").iterdir()}
    assert names == {
        "index.html",
        "summary.json",
        "balanced_accuracy.png",
        "sft_curves.png",
        "rl_curves.png",
        "motion_matrix.png",
        "tables",
    }


def test_summary_holds_what_was_measured(run: Path):
    write_report(run)
    summary = json.loads((run / "report/summary.json").read_text())
    assert set(summary["models"]) == {"base", "sft", "rl"}
    for key, model in summary["models"].items():
        assert model == json.loads((run / f"eval/{key}/scores.json").read_text())
        assert len(model["balanced_accuracy_ci"]) == 2
        for name in ("accuracy", "always_no_accuracy", "format_rate", "observation_fidelity", "n", "per_primitive"):
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


def test_model_text_is_never_html(run: Path, evaluate):
    attack = '<script>alert("x")</script><img src="http://example.invalid/x.png">'
    samples = list(read_samples(run / "data/test.jsonl"))
    chain = f"<observation>{attack}</observation><think>{attack}</think><answer>{attack}</answer>"
    records = [{"id": s.id, "response": chain, "finish_reason": "stop"} for s in samples[::2]]
    records += [{"id": s.id, "response": attack, "finish_reason": "length"} for s in samples[1::2]]
    evaluate(run, "rl", records, samples)
    (run / "recipe.yaml").write_text(json.dumps({"name": attack}))
    page = page_of(run)
    assert "&lt;script&gt;alert" in page
    seen = Links(page)
    assert seen.tags.count("script") == 2  # the page's own, and the data that it shows as text
    assert attack not in page
    assert 'src="http' not in page
    assert all(link.startswith(("#", "data:image/", "tables/")) for link in seen.links)
    assert all((run / "report" / link).is_file() for link in seen.links if link.startswith("tables/"))


def test_only_evaluated_models_are_reported(base_run: Path):
    page = page_of(base_run)
    summary = json.loads((base_run / "report/summary.json").read_text())
    assert set(summary["models"]) == {"base"}
    assert "rl" not in summary
    assert "SFT + RL" not in page
    assert "No training was logged" in page


def test_choice_questions_of_unknown_motion_alone(base_run: Path, evaluate):
    samples = [s for s in read_samples(base_run / "data/test.jsonl") if s.task == "choice"]
    samples = [s.model_copy(update={"extras": {}}) for s in samples]
    write_samples(base_run / "data/test.jsonl", samples)
    evaluate(base_run, "base", [{"id": samples[0].id, "response": "", "finish_reason": "error"}], samples)
    page = page_of(base_run)
    assert "balanced accuracy is undefined" in page
    assert "Yes/No questions (n" not in page
    assert "Observation fidelity</th>" not in page
    assert json.loads((base_run / "report/summary.json").read_text())["models"]["base"]["balanced_accuracy"] is None


def test_absent_rl_metrics_are_tolerated(run: Path):
    (run / "rl/metrics.jsonl").write_text('{"step": 1, "data": {"reward/format": 1.0}}\n{"step": 2, "data": {}}\n')
    write_report(run)
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
        ("data/contact_sheet.png", "data"),
        ("recipe.yaml", "data"),
        ("manifest.json", "data"),
        ("sft/trainer_state.json", "sft"),
        ("rl/metrics.jsonl", "rl"),
        ("eval/sft/scores.json", "evaluate"),
        ("eval/rl/predictions.jsonl", "evaluate"),
    ],
)
def test_a_missing_input_is_named_with_its_stage(run: Path, name: str, stage: str):
    (run / name).unlink()
    with pytest.raises(ReportError, match=f"{name} is missing: run the stage '{stage}'"):
        write_report(run)


def test_broken_inputs_are_named(run: Path):
    clip = run / "data/clips/test-000.mp4"
    clip.write_bytes(b"no video")
    with pytest.raises(ReportError, match=r"test-000.mp4 cannot be decoded"):
        write_report(run)
    scores = json.loads((run / "eval/rl/scores.json").read_text())
    (run / "eval/rl/scores.json").write_text(json.dumps(scores | {"right": scores["right"] + 1}))
    with pytest.raises(ReportError, match=r"eval/rl/scores.json does not match predictions.jsonl"):
        write_report(run)
    (run / "eval/rl/scores.json").write_text("{")
    with pytest.raises(ReportError, match=r"scores.json:1: no JSON"):
        write_report(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((0.1, [0.02, 0.2]), "RL helped"),
        ((-0.1, [-0.2, -0.02]), "RL made it worse"),
        ((0.1, [-0.02, 0.2]), "RL did not measurably help"),
        (None, "Whether RL helped cannot be said"),
    ],
)
def test_verdict_says_no_more_than_the_interval(change, said: str):
    scores = {
        "balanced_accuracy": 0.45,
        "balanced_accuracy_ci": [0.4, 0.55],
        "accuracy": 0.8,
        "always_no_accuracy": 0.9,
        "observation_fidelity": None,
    }
    sentences = verdict([Model(key, scores, []) for key in ("base", "sft", "rl")], [(0.3, [0.2, 0.4]), change])
    assert sentences[0].startswith(said)
    assert sentences[1].startswith("SFT helped")
    assert "cannot be told from the 0.500 of a constant answer" in sentences[2]
    assert "0.800, that of always No 0.900" in sentences[2]


def test_examples_are_sorted_by_what_rl_changed(run: Path):
    samples = list(read_samples(run / "data/test.jsonl"))
    judged = {}
    for key in ("sft", "rl"):
        records = read_predictions(run / f"eval/{key}/predictions.jsonl", {s.id for s in samples})
        judged[key] = {s.id: score([s], records)["right"] == 1 for s in samples}
    shown = re.findall(r'<article class="example" data-kind="([^"]*)">.*?(test-\d+-\w+)</p>', page_of(run), re.DOTALL)
    kinds = {(0, 1): "fixed by RL", (1, 0): "broken by RL", (0, 0): "both wrong", (1, 1): "both right"}
    assert shown
    for kind, sample_id in shown:
        assert kinds[judged["sft"][sample_id], judged["rl"][sample_id]] == kind
