"""lmms-eval's own tasks on local records, through launch.serve, in the environment that CAMREASONER_LMMS_EVAL names.

CAMREASONER_LMMS_EVAL=lmms/bin/python [CAMREASONER_RUN=runs/demo/main] pytest tests/e2e/test_lmms_eval_installed.py

Without CAMREASONER_RUN the run is that of the smaller demo.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from data_tools.sample import Sample, read_samples
from evaluation.grading import parse_answer
from launch.recipe import ROOT

PYTHON = os.environ.get("CAMREASONER_LMMS_EVAL", "")
COUNT = 8


@dataclass(frozen=True)
class Task:
    """A task of lmms-eval: its file there, its split, where it looks for clips below HF_HOME, one of its records, its
    metric, and whether its grader takes an answer for a right one."""

    file: str
    split: str
    clips: str
    record: Callable[[Sample], dict]
    metric: str
    right: Callable[[str, Sample], bool]


def letter(sample: Sample) -> str:
    return "AB"[sample.options.index(sample.answer_text)]


def options_record(sample: Sample) -> dict:
    asked = {"question": sample.question, "candidates": sample.options, "answer": sample.answer_text}
    return {"video": Path(sample.video).name, **asked}


def yes_no_record(sample: Sample) -> dict:
    asked = {"question": sample.question, "answer": sample.answer_text.lower(), "dim": "direction"}
    return {"video_id": Path(sample.video).stem, **asked}


TASKS = {
    "mvbench": Task(
        "mvbench/mvbench_moving_direction.yaml",
        "train",
        "mvbench_video/clevrer/video_validation",
        options_record,
        "mvbench_accuracy",
        lambda answer, sample: answer == letter(sample),
    ),
    "tvbench": Task(
        "tvbench/tvbench_moving_direction.yaml",
        "train",
        "tvbench",
        options_record,
        "tvbench_acc",
        lambda answer, sample: answer in (letter(sample), sample.answer_text),
    ),
    "tempcompass": Task(
        "tempcompass/tempcompass_yes_no.yaml",
        "test",
        "tempcompass/videos",
        yes_no_record,
        "avg_accuracy",
        lambda answer, sample: answer.lower().startswith(sample.answer_text.lower()),
    ),
}


@pytest.fixture(scope="module")
def run(request) -> Path:
    if not PYTHON:
        pytest.skip("CAMREASONER_LMMS_EVAL names no python of an environment with lmms-eval")
    given = os.environ.get("CAMREASONER_RUN")
    return Path(given).absolute() if given else request.getfixturevalue("demo")


@pytest.fixture(scope="module")
def samples(run) -> list[Sample]:
    return [sample for sample in read_samples(run / "data" / "test.jsonl") if sample.task == "binary"][:COUNT]


@pytest.fixture(scope="module")
def home(run, samples, tmp_path_factory) -> Path:
    """HF_HOME with the records and clips of the tasks, and tasks/ with our versions of their files."""
    home = tmp_path_factory.mktemp("hf")
    found = "import lmms_eval.tasks, pathlib; print(pathlib.Path(lmms_eval.tasks.__file__).parent)"
    official = subprocess.run([PYTHON, "-c", found], capture_output=True, text=True, check=True).stdout.split()[-1]
    (home / "tasks").mkdir()
    for name, task in TASKS.items():
        (home / task.clips).mkdir(parents=True)
        for sample in samples:
            shutil.copy(run / "data" / sample.video, home / task.clips / Path(sample.video).name)
        records = home / f"{name}.jsonl"
        records.write_text("".join(json.dumps(task.record(sample)) + "\n" for sample in samples))
        ours = {"include": f"{official}/{task.file}", "task": f"local_{name}", "dataset_name": None}
        ours |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {task.split: str(records)}}}
        (home / "tasks" / f"{name}.yaml").write_text(json.dumps(ours))
    return home


@pytest.fixture(scope="module")
def endpoint(run, home) -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "launch.serve", f"model={run}", f"port={port}", f"media={home}"]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
    try:
        for _ in range(300):
            assert server.poll() is None, (home / "server.log").read_text()[-3000:]
            try:
                urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            except (URLError, ConnectionError):
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def evaluate(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    settings = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    settings["OPENAI_API_URL"] = "http://127.0.0.1:9"  # a judge that TempCompass asks where it finds no yes or no
    return subprocess.run(
        [PYTHON, "-m", "evaluation.lmms_eval", f"include={home / 'tasks'}", *arguments],
        env=os.environ | settings,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_video_tasks_of_lmms_eval_are_answered_and_scored(run, home, samples, endpoint, tmp_path):
    names = ",".join(f"local_{name}" for name in TASKS)
    done = evaluate(home, f"tasks={names}", f"run={run}", f"endpoint={endpoint}", f"out={tmp_path}")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    scores = json.loads((tmp_path / "results.json").read_text())["results"]
    records = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert len(records) == COUNT * len(TASKS)

    right = dict.fromkeys(TASKS, 0)
    for record in records:
        clip, text = record["messages"][-1]["content"]
        path = Path(clip["video_url"]["url"].removeprefix("file://"))
        name = path.relative_to(home).parts[0].removesuffix("_video")
        (sample,) = [s for s in samples if Path(s.video).name == path.name and s.question in text["text"]]
        parsed = parse_answer(record["response"], "ota")
        assert record["answer"] == (parsed.answer if parsed.ok else "[]")
        assert record["prompt_tokens"] == prompt_tokens(run, text["text"])
        right[name] += TASKS[name].right(record["answer"], sample)
    for name, task in TASKS.items():
        share = right[name] / COUNT * (1 if name == "tvbench" else 100)
        assert scores[f"local_{name}"][f"{task.metric},none"] == pytest.approx(share), name
    sys.stdout.write(done.stdout[-2000:])


def prompt_tokens(run: Path, text: str) -> int:
    """Of the prompt with all visual tokens of the run's media budget: 3 x 3 for each pair of frames."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(run / "merged")
    content = [{"type": "video"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    ids = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return len(ids) - 1 + 2 * 3 * 3


def test_failed_requests_are_no_result(run, home, endpoint, tmp_path):
    record = json.loads((home / "tvbench.jsonl").read_text().splitlines()[0])
    (home / TASKS["tvbench"].clips / record["video"]).write_bytes(b"not a video")
    done = evaluate(home, "tasks=local_tvbench", "limit=1", f"run={run}", f"endpoint={endpoint}", f"out={tmp_path}")
    assert done.returncode == 1 and "1 of 1 requests failed" in done.stderr
    assert not (tmp_path / "results.json").exists()


def test_an_unknown_task_is_refused(run, home, endpoint, tmp_path):
    done = evaluate(home, "tasks=nothing", f"run={run}", f"endpoint={endpoint}", f"out={tmp_path}")
    assert done.returncode == 1 and "lmms-eval has no nothing" in done.stderr
