"""A smaller demo through the real engines: every stage, its files, and a run that is killed and goes on."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from chain import command, copy_before, left_behind, lines, marked, open_to_others, orphaned_memory, run


def test_every_stage_leaves_its_files(demo):
    for path in (
        *("recipe.yaml", "manifest.json", "data/contact_sheet.png", "model/model.safetensors"),
        *("sft/llamafactory.yaml", "rl/verl.yaml", "rl/metrics.jsonl", "rl/rollouts/4.jsonl"),
        *("rl/checkpoints/global_step_4/advantage_state.json", "merged/config.json", "report/index.html"),
    ):
        assert (demo / path).exists(), path
    assert len(list((demo / "sft").glob("checkpoint-*"))) == 2  # one per epoch


def test_summary_has_what_it_promises(demo):
    summary = json.loads((demo / "report" / "summary.json").read_text())
    keys = {
        *("balanced_accuracy", "balanced_accuracy_ci", "accuracy", "always_no_accuracy"),
        *("format_rate", "observation_fidelity", "n", "per_primitive"),
    }
    for model in ("base", "sft", "rl"):
        assert keys <= set(summary["models"][model]) and summary["models"][model]["n"] == 75
        assert summary["models"][model]["n_pairs"] > 0 and 0 <= summary["models"][model]["pair_accuracy"] <= 1
    assert summary["rl"]["steps"] == len(summary["rl"]["format_reward"]) == len(summary["rl"]["accuracy_reward"]) == 4
    assert summary["rl"]["rollout_actor_pearson_min"] >= 0.999
    assert set(summary["wall_seconds"]) >= {"data", "model", "sft", "rl", "merge", "evaluate"}
    assert summary["peak_rss_gib"] > 0


def test_every_step_logs_rewards_ema_and_correlation(demo):
    for step, line in enumerate(lines(demo / "rl" / "metrics.jsonl"), 1):
        data = line["data"]
        assert line["step"] == step
        assert data["training/rollout_actor_probs_pearson_corr"] >= 0.999
        assert {"reward/accuracy", "reward/format", "reward/overall", "response_length/mean"} <= set(data)
        assert any(key.startswith("ema/std/") for key in data)


def test_the_val_split_is_asked_while_rl_trains(demo):
    records = lines(demo / "rl" / "held_out.jsonl")
    asked = [(record["step"], record["n"], record["saved"]) for record in records]
    assert asked == [(0, 20, False), (2, 20, True), (4, 20, True)]
    logged = {line["step"]: line["data"] for line in lines(demo / "rl" / "metrics.jsonl")}
    for record in records[1:]:
        assert logged[record["step"]]["held_out/balanced_accuracy"] == record["balanced_accuracy"]
    assert "held_out/balanced_accuracy" not in logged[1]
    told = json.loads((demo / "report" / "summary.json").read_text())["rl"]["held_out"]
    names = ("step", "balanced_accuracy", "ci", "fidelity")
    assert told == [{name: record[name] for name in names} for record in records]
    best = max(records[1:], key=lambda record: (record["balanced_accuracy"], -record["step"]))
    assert (demo / "rl" / "best" / f"global_step_{best['step']}" / "actor").is_dir()


def test_rollout_records_hold_what_rewards_can_be_recomputed_from(demo):
    from data_tools.sample import read_samples
    from rewards.camreasoner import reward
    from rewards.response import parse

    samples = {sample.id: sample.model_dump() for sample in read_samples(demo / "data" / "rl.jsonl")}
    for step in (1, 4):
        records = lines(demo / "rl" / "rollouts" / f"{step}.jsonl")
        assert len(records) == 8 * 4
        for record in records:
            again = reward(parse(record["response"]), samples[record["id"]], fidelity_weight=0.3)
            assert {key: record[key] for key in again} == pytest.approx(again)


def test_rl_trains_the_language_model_and_leaves_the_vision_tower_frozen(demo):
    from safetensors.torch import load_file

    first = min((demo / "sft").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    before, after = load_file(first / "model.safetensors"), load_file(demo / "merged" / "model.safetensors")
    changed = {name for name in before if not before[name].bfloat16().equal(after[name].bfloat16())}
    assert changed and not any(name.startswith("visual.") for name in changed)


def test_second_run_says_what_is_done(demo):
    for stage in ("data", "model", "sft", "rl", "merge", "evaluate"):
        assert "done already" in run(stage, demo.parents[1])


def test_a_killed_run_goes_on_to_the_same_numbers(demo):
    runs, killed = demo.parents[1], copy_before("rl", demo, "killed")
    process = subprocess.Popen(
        command("rl", runs, "killed"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=marked(killed),
    )
    metrics, deadline = killed / "rl" / "metrics.jsonl", time.monotonic() + 600

    def wait_for_step(step: int) -> None:
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= step):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)

    wait_for_step(1)
    # Ray, verl and vLLM listen on loopback; a store of torch.distributed, of trainer and engine each, takes no address.
    opened = open_to_others(killed)
    names = {line.split()[0].split(".")[0] for line in opened}  # Ray appends a worker's current method
    assert len(opened) <= 2 and names <= {"ray::WorkerDict", "python"}, opened
    wait_for_step(2)  # whose checkpoint is saved by then; two steps remain until the next one's
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "stages" / "rl.json").exists()
    assert left_behind(killed, seconds=30) == []  # no Ray, no vLLM

    output = run("rl", runs, "killed")
    assert "resuming after step 2" in output, output
    assert orphaned_memory("verl_weights_*") == set()
    for step in range(1, 5):
        records, expected = (lines(folder / "rl" / "rollouts" / f"{step}.jsonl") for folder in (killed, demo))
        assert records == expected
    for name in ("actor/lr", "reward/overall", "response_length/mean"):
        assert [line["data"][name] for line in lines(metrics)] == [
            line["data"][name] for line in lines(demo / "rl" / "metrics.jsonl")
        ]
    assert lines(killed / "rl" / "held_out.jsonl") == lines(demo / "rl" / "held_out.jsonl")
    state = Path("rl", "checkpoints", "global_step_4", "advantage_state.json")
    assert (killed / state).read_text() == (demo / state).read_text()


def test_a_broken_clip_is_named(demo, tmp_path):
    broken = tmp_path / "demo" / "main"
    shutil.copytree(demo / "data", broken / "data")
    clip = sorted((broken / "data" / "clips").glob("sft-*.mp4"))[0]
    clip.unlink()
    from data_tools.exports import ExportError, export, llamafactory_file
    from data_tools.prompt import Form
    from data_tools.sample import read_samples

    samples = list(read_samples(broken / "data" / "sft.jsonl"))
    with pytest.raises(ExportError, match=clip.name):
        export(samples, broken / "data", llamafactory_file(broken / "out", Form()))


def test_the_pass_rates_of_the_rl_split_are_asked_of_the_sft_model(demo):
    folder = copy_before("rl", demo, "difficulty")
    said = run(
        "difficulty", demo.parents[1], folder.name, "difficulty.samples=2", "difficulty.low=0", "difficulty.high=1"
    )
    assert "40 questions = 40 kept" in said
    rates = lines(folder / "difficulty" / "pass_rates.jsonl")
    assert len(rates) == 40 and {rate["sampled"] for rate in rates} == {2}
    assert len(lines(folder / "difficulty" / "rl.jsonl")) == 40 and (folder / "difficulty" / "index.html").exists()
