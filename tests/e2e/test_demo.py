"""A smaller demo through the real engines: every stage, its files, and a run that is killed and goes on."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from chain import command, left_behind, lines, marked, open_to_others, orphaned_memory, run

pytestmark = pytest.mark.e2e


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


def test_rollout_records_hold_what_rewards_can_be_recomputed_from(demo):
    from data_tools.sample import read_samples
    from rewards.camreasoner import reward

    samples = {sample.id: sample.model_dump() for sample in read_samples(demo / "data" / "rl.jsonl")}
    for step in (1, 4):
        records = lines(demo / "rl" / "rollouts" / f"{step}.jsonl")
        assert len(records) == 8 * 4
        for record in records:
            again = reward(record["response"], samples[record["id"]])
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
    runs, killed = demo.parents[1], demo.with_name("killed")
    shutil.copytree(demo, killed, ignore=lambda folder, names: {"rl", "merged", "eval", "report"} & set(names))
    for stage in ("rl", "merge", "evaluate"):
        (killed / "stages" / f"{stage}.json").unlink()

    process = subprocess.Popen(
        command("rl", runs, "killed"),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=marked(killed),
    )
    metrics, deadline = killed / "rl" / "metrics.jsonl", time.monotonic() + 600
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):  # after the checkpoint of step 2
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    # Ray, verl and vLLM listen on loopback; a store of torch.distributed, of trainer and engine each, takes no address.
    opened = open_to_others(killed)
    assert len(opened) <= 2 and {line.split()[0] for line in opened} <= {"ray::WorkerDict", "python"}, opened
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "stages" / "rl.json").exists()
    assert left_behind(killed, seconds=30) == []  # no Ray, no vLLM

    assert "going on after step 2" in run("rl", runs, "killed")
    assert orphaned_memory("verl_weights_*") == set()
    for step in range(1, 5):
        records, expected = (lines(folder / "rl" / "rollouts" / f"{step}.jsonl") for folder in (killed, demo))
        assert records == expected
    for name in ("actor/lr", "reward/overall", "response_length/mean"):
        assert [line["data"][name] for line in lines(metrics)] == [
            line["data"][name] for line in lines(demo / "rl" / "metrics.jsonl")
        ]
    state = Path("rl", "checkpoints", "global_step_4", "advantage_state.json")
    assert (killed / state).read_text() == (demo / state).read_text()


def test_a_broken_clip_is_named(demo, tmp_path):
    broken = tmp_path / "demo" / "main"
    shutil.copytree(demo / "data", broken / "data")
    clip = sorted((broken / "data" / "clips").glob("sft-*.mp4"))[0]
    clip.unlink()
    from data_tools.exports import ExportError, export_llamafactory
    from data_tools.sample import read_samples

    samples = list(read_samples(broken / "data" / "sft.jsonl"))
    with pytest.raises(ExportError, match=clip.name):
        export_llamafactory(samples, broken / "data", broken / "out")
