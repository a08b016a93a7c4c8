"""What `make calibrate` measures, and what a plan makes of it; the engines themselves are not started here."""

import json
import time as clock
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from launch import calibrate
from launch.compose import compose_complete, compose_recipe
from launch.errors import LaunchError
from launch.planning import ranges, show, time
from launch.planning.fits import fits
from launch.planning.measured import measured_path
from launch.planning.prompts import check_prompts
from launch.run import run_of, stage


def step(scale: float = 1.0, **given: float) -> dict[str, float]:
    """A step of 64 rollouts of 6,000 tokens, 300 of them generated, as verl logs it."""
    known = {
        "response_length/mean": 300.0,
        "prompt_length/mean": 5700.0,
        "perf/total_num_tokens": 64 * 6000.0,
        "timing_s/gen": 60 * scale,
        "timing_s/old_log_prob": 4 * scale,
        "timing_s/update_actor": 80 * scale,
        "timing_s/update_weights": 4.0,
        "timing_s/step": 154 * scale,
    }
    return known | given


def calibrated(tmp_path: Path, *arguments: str, steps: list[dict[str, float]], device="8 x H100", busy=None):
    """The recipe that a calibration runs, and its file written as `main` would."""
    recipe = compose_complete(calibrate.overrides_of([*arguments, f"runs={tmp_path}"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "device", lambda _: device)
        calibrate.write(recipe, calibrate.figures(recipe, steps), calibrate.rates_of(recipe, steps, 90.0), busy)
    return recipe


@pytest.mark.parametrize("study", ["camreasoner", "videop2r", "videochat_r1"])
@pytest.mark.parametrize("cluster", ["one_gpu", "node_8gpu", "ray_cluster"])
def test_a_calibration_has_the_studys_model_clips_and_engines(study, cluster):
    given = [f"experiment={study}", f"cluster={cluster}", "runs=/shared/runs"]
    recipe, whole = compose_complete(calibrate.overrides_of(given)), compose_recipe(given)[0]
    assert (recipe.model.path, recipe.media, recipe.vllm) == (whole.model.path, whole.media, whole.vllm)
    assert recipe.rl.engine == whole.rl.engine and recipe.rl.max_response_length == whole.rl.max_response_length
    rendered = recipe.data.rendered or {}
    assert rendered["frames"] == whole.media.max_frames and rendered["size"] ** 2 <= whole.media.max_pixels
    rows = recipe.rl.rollout_batch_size * recipe.rl.group_size
    assert rows <= 8 * whole.cluster.nodes * whole.cluster.policy_gpus and fits(recipe)[0] == []
    check_prompts(recipe)
    assert recipe.rl.start_epoch == 0 and recipe.judge.name == "rules" and not recipe.rl.filter.enabled
    assert run_of(recipe).folder == Path("/shared/runs/calibration/main")


def test_a_plan_of_what_was_measured_gives_what_was_measured(tmp_path):
    """The same batch at the same lengths: its parts are the seconds that it took."""
    recipe = calibrated(tmp_path, "experiment=camreasoner", "cluster=node_8gpu", steps=[step(0.9), step(), step(1.2)])
    rows = recipe.rl.rollout_batch_size * recipe.rl.group_size
    assert rows == 64
    pixels = recipe.data.rendered["frames"] * recipe.data.rendered["size"] ** 2
    seen, tokens = ranges.as_range(pixels / (2 * 14**2)), ranges.as_range(6000.0)
    row, sequence = calibrate.operations(recipe, [step()])
    assert row / sequence > 4  # eight rollouts of a prompt are one sequence
    table = time.rates(recipe)
    parts = time.Step(
        prompts=8,
        group=8,
        rounds=ranges.as_range(1.0),
        ranks=8,
        servers=8,
        spread=8,
        forward=ranges.as_range(row),
        trained=ranges.as_range(sequence),
        tokens=tokens,
        patches=seen,
        spoken=ranges.as_range(300.0),
        passes=1,
        update=4.0,
        calls=ranges.as_range(21_632.0),
        loops=True,
        parameters=8_292_166_656,
    ).seconds(table, "h100")
    likely = {what: part.likely for what, part in parts.items()}
    assert likely == pytest.approx(
        {
            "prefill": 4 * row / sequence,
            "decode": 60 - 4 * row / sequence,
            "log-probs": 4,
            "update": 80,
            "overhead": 10,
        },
        rel=1e-3,
    )
    assert parts["update"].low < 80 * 0.9 and parts["update"].high > 80 * 1.2


def test_the_plan_names_what_it_counts_with_and_other_machines_keep_their_own(tmp_path):
    calibrated(tmp_path, "experiment=camreasoner", "cluster=node_8gpu", steps=[step(), step()])
    given = ["experiment=camreasoner", f"runs={tmp_path}"]
    rows = dict(show.rows(*compose_recipe(given)))
    today = datetime.now(UTC).date().isoformat()
    assert rows["rates"] == f"measured on 8 x H100, {today}: {tmp_path / 'calibration.yaml'}"
    elsewhere = dict(show.rows(*compose_recipe([*given, "cluster.gpu=a100"])))
    assert elsewhere["rates"].startswith("assumed or published")
    assert elsewhere["rates"].endswith("calibration.yaml is of 8 x H100 (h100), not of such a machine")
    assert (
        time.step_seconds(compose_recipe(given)[0]).likely
        != time.step_seconds(compose_recipe([*given, "runs=elsewhere"])[0]).likely
    )


def test_a_plan_says_that_a_machine_was_busy_when_it_was_measured(tmp_path):
    calibrated(
        tmp_path,
        "experiment=demo",
        steps=[step(), step()],
        device="2 cores",
        busy="this machine is busy: 0.1 of 2 cores",
    )
    rates = dict(show.rows(*compose_recipe(["experiment=demo", f"runs={tmp_path}"])))["rates"]
    assert rates.startswith("measured on 2 cores, ") and " (busy: 0.1 of 2 cores): " in rates


def test_on_a_cpu_the_step_itself_is_measured(tmp_path):
    steps = [step(0.1), step(0.1, **{"timing_s/step": 20.0})]
    recipe = calibrated(tmp_path, "experiment=demo", steps=steps, device="2 cores")
    assert recipe.rl.rollout_batch_size * recipe.rl.group_size == 256
    planned = time.step_seconds(compose_recipe(["experiment=demo", f"runs={tmp_path}"])[0])
    assert planned.likely == pytest.approx(17.7) and planned.low < 15.4 and planned.high > 20
    assert time.start_seconds(recipe).likely == 90


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rates": {"cpu": {"step_second": [1, 2, 3]}}}, r"rates.cpu.step_second: .* has no such rate"),
        ({"rates": {"cpu": {"step_seconds": [3, 2, 1]}}}, r"rates.cpu.step_seconds: \[3, 2, 1\] is not \[low, likely"),
        ({"rates": {"cpu": {"step_seconds": 12}}}, r"rates.cpu.step_seconds: 12 is not \[low, likely, high\]"),
        ({"rates": {"cpu": {"rollouts": "many"}}}, r"rates.cpu.rollouts: 'many' is not one number"),
        ({"rates": {"cpu": 12}}, r"rates.cpu: 12 is not a table"),
        ({"device": None}, r"device: Input should be a valid string"),
        ({"speed": 12}, r"speed: Extra inputs are not permitted"),
        (None, r"calibration.yaml: .*valid dictionary"),
        ("rates: [1, 2\n", r"calibration.yaml: while parsing"),
    ],
)
def test_a_file_that_no_calibration_wrote_is_refused(tmp_path, change, told):
    recipe = calibrated(tmp_path, "experiment=demo", steps=[step(), step()])
    path = measured_path(recipe)
    whole = yaml.safe_load(path.read_text())
    path.write_text(change if isinstance(change, str) else yaml.safe_dump(change and whole | change))
    with pytest.raises(LaunchError, match=told) as refused:
        time.step_seconds(recipe)
    assert "run it again, or remove the file" in str(refused.value)


def test_figures_are_of_the_median_step():
    recipe = compose_complete(calibrate.overrides_of(["experiment=camreasoner", "cluster=node_8gpu"]))
    found = calibrate.figures(recipe, [step(0.5), step(), step(3.0)])
    row, sequence = calibrate.operations(recipe, [step()])
    assert found["prefill_tokens_per_second"] == pytest.approx(64 * 6000 / (4 * row / sequence))
    assert found["decode_tokens_per_second"] == pytest.approx(64 * 300 / (60 - 4 * row / sequence))
    assert found["update_tokens_per_second"] == pytest.approx(64 * 6000 / 80)
    assert (found["weight_sync_seconds"], found["overhead_seconds"], found["step_seconds"]) == (4, 10, 154)


def test_a_run_without_two_steps_measures_nothing(tiny_recipe):
    folder = run_of(tiny_recipe()).paths
    folder.rl.mkdir(parents=True)
    folder.rl_metrics.write_text(json.dumps({"step": 1, "data": step()}) + "\n")
    with pytest.raises(LaunchError, match="1 RL steps within 10 minutes, two are needed: a smaller model"):
        calibrate.steps_of(folder)
    with pytest.raises(LaunchError, match="two are needed: 0.1 of 2 cores are idle; try again when it is idle"):
        calibrate.steps_of(folder, "0.1 of 2 cores are idle")
    folder.rl_metrics.write_text("".join(json.dumps({"step": n, "data": step(n)}) + "\n" for n in (1, 2)))
    assert calibrate.steps_of(folder) == [step(2)]


@pytest.mark.parametrize(("cluster", "clips"), [("one_gpu", 4), ("node_8gpu", 24)])
def test_each_prompt_has_a_clip_of_its_own_and_no_other_clip_is_rendered(cluster, clips):
    recipe = compose_complete(calibrate.overrides_of(["experiment=camreasoner", f"cluster={cluster}"]))
    size = recipe.data.rendered["rl"]
    assert size["clips"] == size["binary"] == clips >= recipe.rl.steps * recipe.rl.rollout_batch_size
    assert sum(recipe.data.rendered[split]["clips"] for split in ("sft", "test")) == 9


def test_a_second_calibration_makes_data_and_model_no_second_time(tmp_path):
    def recipe(*given: str):
        return compose_complete(calibrate.overrides_of(["experiment=demo", f"runs={tmp_path}", *given]))

    run = run_of(recipe())
    for name in ("data", "model", "rl"):
        with stage(run, name):
            run.output(name).mkdir(parents=True)
    calibrate.keep_made(run)
    assert [name for name in ("data", "model", "rl") if run.record(name)] == ["data", "model"]
    assert run.paths.data.exists() and run.paths.model.exists() and not run.paths.rl.exists()
    calibrate.keep_made(run_of(recipe("seed=1")))
    assert not run.folder.exists()


def test_a_calibration_ends_within_its_ten_minutes(tmp_path, monkeypatch, capsys):
    """What is left of them is RL's, but for what it takes to end it; what it has done by then is counted."""
    now, limits = [0.0], {}

    def run_stage(name: str, overrides: list[str], until: float) -> bool:
        limits[name] = until
        now[0] = {"data": 169.0, "model": 267.0}.get(name, until)
        return name != "rl"

    monkeypatch.setattr(calibrate, "run_stage", run_stage)
    monkeypatch.setattr(calibrate, "clips_per_second", lambda recipe, folder: 44.0)
    monkeypatch.setattr(calibrate, "steps_of", lambda folder, busy: [step(), step()])
    monkeypatch.setattr(calibrate.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("sys.argv", ["calibrate", "experiment=camreasoner", "cluster=node_8gpu", f"runs={tmp_path}"])
    calibrate.main.__wrapped__()
    assert limits == {"data": 600, "model": 600, "rl": 600 - calibrate.ENDING}
    assert "calibrated in 580 s, ended before its last step" in capsys.readouterr().out
    (measured,) = tmp_path.glob("calibration.yaml")
    assert yaml.safe_load(measured.read_text())["figures"]["clips_per_second"] == 44
    limits.clear()
    monkeypatch.setattr(calibrate, "run_stage", lambda name, overrides, until: limits.update({name: until}))
    with pytest.raises(LaunchError, match="stage data alone takes 10 minutes here"):
        calibrate.main.__wrapped__()
    assert list(limits) == ["data"]


def test_a_gpu_that_nobody_knows_the_peak_of_is_refused():
    with pytest.raises(LaunchError, match=r"cluster.gpu=b300: of it calibration.yaml has no peak_tflops"):
        calibrate.overrides_of(["experiment=camreasoner", "cluster.gpu=b300"])


def test_a_stage_is_ended_when_its_time_is_over(tmp_path, monkeypatch):
    """Also one that ignores interrupts, as all do that a shell runs in the background."""
    monkeypatch.setattr(calibrate, "ROOT", tmp_path)
    (tmp_path / "launch").mkdir()
    stage = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nopen('began', 'w').close()\ntime.sleep(90)"
    )
    (tmp_path / "launch" / "slow.py").write_text(stage)
    (tmp_path / "launch" / "bad.py").write_text("raise SystemExit(3)")
    begin = clock.monotonic()
    assert not calibrate.run_stage("slow", [], begin + 4)
    assert clock.monotonic() - begin < 60 and (tmp_path / "began").exists()
    with pytest.raises(LaunchError, match="ends in stage bad"):
        calibrate.run_stage("bad", [], clock.monotonic() + 60)
