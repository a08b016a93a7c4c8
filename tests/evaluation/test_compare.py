"""Models, runs and papers side by side; look-alikes; VideoP2R's analyses; controls."""

import asyncio
import json
import shlex
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
import yaml

from data_tools.controls import controlled
from data_tools.sample import read_samples, write_samples
from evaluation import compare, tables
from evaluation.analyses import RecordError, advantage_collapse, process_table, read_rollouts
from evaluation.benchmarks import BENCHMARKS
from evaluation.cli import UsageError, key_values
from evaluation.confusable import cases, confusable_table, matrices, named_motion
from evaluation.controls import control_table
from evaluation.lmms_eval import MALFORMED, asked, command, extractor
from evaluation.report import write_report
from evaluation.runs import models_of
from evaluation.score import balanced_accuracy_gain
from evaluation.table import settings_hash
from launch import verl
from launch.plan import compose_recipe
from rewards.judge import RuleJudge
from rewards.motions import NAMES, observation

HASH = settings_hash({})


def test_runs_are_compared_on_the_questions_that_they_share(run: Path):
    models = models_of(str(run))
    made, changes = compare.compare(BENCHMARKS["samples"], models, seed=0)
    binary = {row.name: row for row in changes.rows}["first · SFT + RL − first · Base · binary"]
    base, rl = (m.judgements([s.id for s in m.samples]) for m in (models[0], models[2]))
    gain, (low, high) = balanced_accuracy_gain(base, rl)
    at = [metric.name for metric in changes.metrics].index("balanced accuracy")
    value = binary.values[at]
    assert (value.value, value.low, value.high) == pytest.approx((gain, low, high))
    assert any(row.kind == "baseline" for row in made.rows)
    fewer = models_of(f"{run}:sft")[0]
    del fewer.samples[:3]
    assert compare.common_ids([models[0], fewer]) == [s.id for s in models[0].samples[3:]]
    other = fewer.samples[0].model_copy(update={"question": "Another one?"})
    fewer.samples[0] = other
    with pytest.raises(UsageError, match="another question"):
        compare.common_ids([models[0], fewer])


def test_compare_command(run: Path, tmp_path: Path, capsys):
    assert compare.main([f"{run}:base", f"{run}:rl", f"out={tmp_path}/out"]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"compare.md", "compare_differences.tex", "compare.json"}
    assert compare.main([str(tmp_path / "absent"), f"{run}:rl"]) == 1
    assert compare.main([f"{run}:base"]) == 1
    assert "two or more" in capsys.readouterr().err
    files = [str(run / f"eval/{key}/predictions.jsonl") for key in ("base", "rl")]
    _, models = compare.load(files, {"labels": str(run / "data/test.jsonl")})
    assert [model.name for model in models] == files  # both are called predictions.jsonl


# ---------------------------------------------------------------- papers' tables


def with_recipe(run: Path, name: str, **settings) -> Path:
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    (copy / "recipe.yaml").write_text(yaml.safe_dump({"name": name, "advantage": {"name": "ema_grpo"}, **settings}))
    return copy


@pytest.mark.parametrize("name", ["camreasoner3", "camreasoner4", "videop2r2", "videochat_r1_6"])
def test_figures_of_the_papers_fill_their_tables(name):
    spec = tables.papers()[name]
    assert all(len(row["figures"]) == len(spec["columns"]) for row in spec["rows"].values())
    known = {metric.name for metric in BENCHMARKS["samples"].metrics}
    assert {metric for _, metric in spec["ours"]} <= known
    assert all("run" in row for row in spec["rows"].values())


def test_lambda_table_finds_its_runs_by_recipe(run: Path, tmp_path: Path, capsys):
    runs = [
        with_recipe(run, f"l{weight}", reward={"name": "camreasoner", "format_weight": weight}) for weight in (0.1, 0.5)
    ]
    table, absent = tables.build("camreasoner4", {str(r): r for r in runs})
    names = [row.name for row in table.rows]
    assert names[:4] == ["λ = 0.0 (no run)", "λ = 0.1 (l0.1)", "λ = 0.3 (no run)", "λ = 0.5 (l0.5)"]
    assert table.rows[1].values[-2].value == pytest.approx(0.784)  # CamReasoner, Table 4
    assert table.rows[0].values[0] is None
    assert table.rows[1].values[0].low is not None
    assert set(absent) == {"lambda00", "lambda03"}
    assert "reward.format_weight=0.3" in absent["lambda03"]
    twice = with_recipe(run, "again", reward={"name": "camreasoner", "format_weight": 0.1})
    with pytest.raises(UsageError, match="all fit"):
        tables.build("camreasoner4", {str(r): r for r in (*runs, twice)})
    named, _ = tables.build("camreasoner4", {"lambda01": twice})
    assert named.rows[1].name == "λ = 0.1 (again)"
    arguments = ["table=camreasoner3", f"runs={runs[0].parent}/l0*", f"out={tmp_path}/out"]
    assert tables.main(arguments) == 0
    assert "78.4" in (tmp_path / "out/camreasoner3.md").read_text()
    assert tables.main(["table=camreasoner3", f"runs={tmp_path}/nothing*"]) == 1
    assert tables.main(["table=unheard_of", f"runs={runs[0]}"]) == 1
    capsys.readouterr()
    for wrong, said in ((f"first={runs[0]}", "no row of CamReasoner, Table 4"), ("", "fits no folder")):
        assert tables.main(["table=camreasoner4", f"runs={wrong}"]) == 1 and said in capsys.readouterr().err


def test_runs_with_other_questions_cannot_stand_in_one_table(run: Path):
    other = with_recipe(run, "other", reward={"name": "camreasoner", "format_weight": 0.3})
    samples = [s.model_copy(update={"question": "Else?"}) for s in read_samples(other / "data/test.jsonl")]
    write_samples(other / "data/test.jsonl", samples)
    first = with_recipe(run, "same", reward={"name": "camreasoner", "format_weight": 0.1})
    with pytest.raises(UsageError, match="different test questions"):
        tables.build("camreasoner4", {str(r): r for r in (first, other)})


def test_key_values_refuse_what_is_unknown():
    assert key_values(["a", "x=1=2", "judge.retries=3"], ("x", "judge.")) == (["a"], {"x": "1=2", "judge.retries": 3})
    for wrong in (["y=1"], ["x=1", "x=2"], ["judge.=1"]):
        with pytest.raises(UsageError):
            key_values(wrong, ("x", "judge."))


def test_every_command_of_a_papers_row_makes_a_run_of_that_row():
    for name in tables.papers():
        rows = {id: row for id, row in tables.papers()[name]["rows"].items() if "when" in row}
        for id, row in rows.items():
            chosen = shlex.split(row["run"])
            settings = {key: value for key, _, value in (part.partition("=") for part in chosen)}
            recipe, _ = compose_recipe(
                [f"experiment={settings.get('EXPERIMENT', 'demo')}", *settings.get("ARGS", "").split()]
            )
            verl.check_rewards(recipe)
            made = recipe.model_dump(mode="json")
            assert row["model"] in made["eval"]["models"]
            fits = {
                other for other, of in rows.items() if of["model"] == row["model"] and tables.matches(of["when"], made)
            }
            assert {rows[other]["run"] for other in fits} == {row["run"]}, (name, id, fits)


def test_other_models_are_taken_from_the_run_that_the_table_is_about(run: Path):
    runs = []
    for name, weight in (("a", 0.3), ("b", 0.1)):
        # recipe.yaml as a later stage with other overrides leaves it; the stage's own record holds.
        made = with_recipe(run, name, reward={"name": "camreasoner", "format_weight": 9})
        record = {"settings": {"reward": {"name": "camreasoner", "format_weight": weight}}}
        (made / "stages/rl.json").write_text(json.dumps(record))
        runs.append(made)
    found = tables.find(tables.papers()["camreasoner3"], {str(run): run for run in runs})
    assert found == {key: (runs[1], key) for key in ("base", "sft", "rl")}
    (runs[0] / "recipe.yaml").write_text("name: [")
    with pytest.raises(UsageError, match="recipe.yaml: cannot be read"):
        models_of(str(runs[0]))


# ---------------------------------------------------------------- look-alikes


@pytest.mark.parametrize(
    ("text", "motion"),
    [
        ("The camera pans slowly to the left.", "pan_left"),
        ("It is panning right, not trucking right.", "pan_right"),
        ("A tilt upward, without any zoom in.", "tilt_up"),
        ("The camera rolls counter-clockwise.", "roll_ccw"),
        ("The camera rolls clockwise.", "roll_cw"),
        ("It pushes in while it pans left.", None),
        ("The camera is completely still.", "static"),
        ("Nothing to say.", None),
    ],
)
def test_free_text_names_a_motion(text, motion):
    assert named_motion(text) == motion


def test_every_motion_is_named_by_its_name():
    assert {motion: named_motion(f"The camera does a {name}.") for motion, name in NAMES.items()} == {
        m: m for m in NAMES
    }


def test_look_alikes_show_answer_and_observation_beside_each_other(run: Path):
    (model,) = models_of(f"{run}:rl")
    judged = model.judgements([s.id for s in model.samples])
    found = cases(judged)
    assert len(found) == len(judged)  # every question of the synthetic run is about a look-alike or offers both
    for case in found:
        j = judged[case.index]
        if j.sample.task == "binary" and j.chosen:
            right = case.said == case.shown
            assert right == j.right
        assert case.shown == j.sample.extras["motion"]
    table = confusable_table({"RL": judged}, HASH)
    row = table.rows[0]
    assert sum(v.value for v in row.values[:3]) == pytest.approx(1)
    assert sum(v.value for v in row.values[3:6]) == pytest.approx(1)
    assert confusable_table({"RL": []}, HASH) is None
    shares = matrices({"rl": judged})[0]
    assert NAMES[shares["motion"]] in row.name and shares["n"] == row.n
    assert list(shares["shares"]["rl"].values()) == pytest.approx([v.value for v in row.values])
    assert matrices({"rl": []}) == []


# ---------------------------------------------------------------- VideoP2R's analyses


def rollout(step: int, group: str, **rewards) -> dict:
    return {"step": step, "group": group, **rewards}


def test_advantage_collapse_counts_groups_without_a_difference():
    records = [
        rollout(1, "a", score=1.0, perception=0.0, reasoning=1.0),
        rollout(1, "a", score=1.0, perception=1.0, reasoning=0.0),
        rollout(1, "b", score=2.0, perception=1.0, reasoning=1.0),
        rollout(1, "b", score=2.0, perception=1.0, reasoning=1.0),
        rollout(2, "a", score=2.0, perception=1.0, reasoning=1.0),
        rollout(2, "a", score=1.0, perception=1.0, reasoning=0.0),
    ]
    # Step 1: both groups are flat in their sum, but group a differs in each process.
    assert advantage_collapse(records) == [
        {"step": 1, "groups": 2, "score": 1.0, "perception": 0.5, "reasoning": 0.5, "both": 0.5},
        {"step": 2, "groups": 1, "score": 0.0, "perception": 1.0, "reasoning": 0.0, "both": 0.0},
    ]
    older = [{"step": 1, "rollout": f"step000001.00000_{i}_0", "score": i} for i in range(2)]
    assert advantage_collapse(older) == [{"step": 1, "groups": 1, "score": 0.0}]


def test_broken_rollouts_are_named(tmp_path: Path):
    (tmp_path / "1.jsonl").write_text('{"step": 1, "score": 0.5}\n{"step": 1}\n')
    with pytest.raises(RecordError, match=r"1.jsonl:2: no rollout record"):
        read_rollouts(tmp_path)


def test_observation_and_thought_are_judged_apart_from_the_answer(run: Path):
    (model,) = models_of(f"{run}:rl")
    samples = [s for s in model.samples if s.task == "binary"]
    said = {}
    for s in samples:
        true, asked = s.extras["motion"], s.extras["asked"]
        answer = "Yes" if true == asked else "No"
        think = f"Asked {NAMES[asked]}, seen {NAMES[true]}: {answer}."
        text = f"<observation>{observation(true)}</observation><think>{think}</think><answer>{answer}</answer>"
        said[s.id] = model.predictions[s.id].model_copy(update={"response": text})
    faithful = type(model)("faithful", samples, said, "ota").judgements([s.id for s in samples])
    table = asyncio.run(process_table({"faithful": faithful}, RuleJudge(), "rules", HASH))
    accuracy, suffices, mismatch, mismatch_right = (value.value for value in table.rows[0].values)
    assert (accuracy, suffices, mismatch, mismatch_right) == (1.0, 1.0, 0.0, 0.0)
    exchanged = table.rows[1]
    assert exchanged.kind == "baseline"
    assert exchanged.values[1].value < 1.0
    assert asyncio.run(process_table({"none": []}, RuleJudge(), "rules", HASH)) is None


# ---------------------------------------------------------------- controls


def test_controls_compare_the_same_questions(run: Path):
    models = models_of(f"{run}:rl")
    models[0] = type(models[0])("SFT + RL", models[0].samples, models[0].predictions, models[0].schema)
    assert control_table(run, models, HASH) is None
    samples = [controlled(s, "shuffled_options", 0) for s in models[0].samples if s.task == "binary"]
    folder = run / "eval/controls"
    folder.mkdir()
    write_samples(folder / "shuffled_options.jsonl", samples)
    # A model that says letters without looking at the options: it answers the same letter to shuffled ones.
    records = [models[0].predictions[s.id].model_dump(exclude_none=True) for s in samples]
    (run / "eval/rl/shuffled_options.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    table = control_table(run, models, HASH)
    before, after, change, same = (value.value for value in table.rows[0].values)
    assert same == 0.0
    assert change == pytest.approx(after - before)
    shown = control_table(run, models, HASH)
    assert "the same option must be chosen" in shown.caption


# ---------------------------------------------------------------- lmms-eval


def test_the_extractor_asks_as_the_model_knows_it_and_gives_back_answers_alone():
    replies = iter(
        ["<observation>no zoom</observation><think>So.</think><answer>Yes</answer>", "Yes, I think", "", None]
    )
    requests = []

    class Model(BaseHTTPRequestHandler):
        def do_POST(self):
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            reply = next(replies)
            body = json.dumps({"id": "x", "choices": [{"index": 0, "message": {"content": reply}}]}).encode()
            self.send_response(400 if reply is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_): ...

    clip = {"type": "video_url", "video_url": {"url": "file:///clips/a.mp4"}}
    turn = {"role": "user", "content": [clip, {"type": "text", "text": "Does it zoom?"}]}
    # As lmms-eval 0.7.3 sends it (models/chat/openai.py), with pass_video_url.
    request = {"messages": [turn], "model": "m", "max_tokens": 16, "temperature": 0, "media_io_kwargs": {"video": {}}}
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as model:
        threading.Thread(target=model.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{model.server_address[1]}/v1"
        with extractor(endpoint, "ota", 0, "Be brief.", "Explain.") as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_address[1]}/v1/chat/completions"
            told = []
            for _ in range(4):
                with urlopen(Request(url, data=json.dumps(request).encode()), timeout=10) as response:
                    told.append(json.loads(response.read())["choices"][0]["message"]["content"])
            server.shutdown()
        model.shutdown()
    assert told == ["Yes", MALFORMED, MALFORMED, MALFORMED]
    assert server.counts == {"responses": 3, "malformed": 2, "failed": 1}
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": [clip, {"type": "text", "text": "Does it zoom?\nExplain."}]}
    assert requests[0] == {"messages": [system, user], "model": "m", "temperature": 0}
    assert asked(request) == {"messages": [turn], "model": "m", "temperature": 0}


def test_lmms_eval_sends_clips_whole_and_waits_for_a_reasoning():
    line = command("mvbench", "m", 8100)
    assert line[line.index("--model") + 1] == "openai"
    assert {"pass_video_url=True", "timeout=600"} <= set(line[line.index("--model_args") + 1].split(","))


def test_report_carries_tables_collapse_and_the_lambda_counterfactual(run: Path):
    rng = np.random.default_rng(0)
    for step in (1, 2):
        records = [
            rollout(step, f"g{g}", score=float(a), accuracy=float(a), format=float(rng.random() < 0.8))
            for g in range(4)
            for a in rng.integers(0, 2, 4)
        ]
        path = run / f"rl/rollouts/{step}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(r) + "\n" for r in records))
    write_report(run)
    page = (run / "report/index.html").read_text()
    for said in ("Another weight of the format reward", "Advantage collapse", "Look-alike motions", "texts exchanged"):
        assert said in page
    written = {path.name for path in (run / "report/tables").iterdir()}
    assert written == {
        f"{name}.{form}"
        for name in ("compare", "compare_differences", "confusable", "process")
        for form in ("md", "csv", "tex")
    }
    told = json.loads(page.split('id="predictions">')[1].split("</script>")[0])
    assert len(told["items"]) == told["of"] == 12
    assert "malformed" in told["kinds"]
