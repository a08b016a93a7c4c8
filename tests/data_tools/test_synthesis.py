import asyncio
import fcntl
import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from made_videos import write_video
from omegaconf import OmegaConf
from pydantic import ValidationError

from data_tools.files import append_line, repair_last_line
from data_tools.media.budget import Budget
from data_tools.media.store import normalise_all
from data_tools.rendered.dataset import RenderedSettings, build_rendered
from data_tools.rendered.scene import read_clip
from data_tools.sample import Cut, Sample, SampleError, read_samples, write_samples
from data_tools.synthesis import teacher as teacher_module
from data_tools.synthesis.demo import with_local_server
from data_tools.synthesis.filters import Unsettled, failed_filter
from data_tools.synthesis.local_server import LocalEndpoint, texts_of
from data_tools.synthesis.outcome import collect, funnel, review_sheet
from data_tools.synthesis.pipeline import read_usage, write_chains
from data_tools.synthesis.request import SampleFailure, clip_parts, jpeg_frames, request_for
from data_tools.synthesis.run import make_chains
from data_tools.synthesis.settings import Settings
from data_tools.synthesis.shards import SynthesisError, partition, read_log, shard_samples
from data_tools.synthesis.teacher import FLAWS, RenderedTeacher
from launch.compose import compose_recipe
from rewards.errors import UserError
from rewards.judges.client import Endpoint
from rewards.judges.endpoint import EndpointJudge
from rewards.judges.protocol import UNJUDGED
from rewards.judges.rules import RuleJudge
from rewards.judges.sufficiency import SUFFICIENT
from rewards.response import parse

ROOT = Path(__file__).parents[2]
N = 40  # samples
BINARY = dict(id="b", video="clip.mp4", question="Is it?", options=["No", "Yes"], answer="B", task="binary")
CHAIN = "<observation>seen</observation><think>thought</think><answer>{}</answer>"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    many, few = {"clips": 15, "binary": 30, "choice": 10}, {"clips": 1, "binary": 2}
    build_rendered(RenderedSettings(sft=many, rl=few, test=few, size=28, frames=4), folder)
    return folder


@pytest.fixture(scope="module")
def teacher(data) -> RenderedTeacher:
    return RenderedTeacher(data)


@pytest.fixture
def console():
    from io import StringIO

    from rich.console import Console

    return Console(file=StringIO(), width=200)


def read_settings(name: str, overrides: list[str]) -> Settings:
    with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
        config = compose("config", [f"synthesis={name}", *overrides])
    return Settings.model_validate(OmegaConf.to_container(config.synthesis, resolve=True))


def settings_for(data, server, out, name="camreasoner", **changes):
    keys = {"samples": data / "sft.jsonl", "media_root": data, "out": out, "per_shard": 16, "review": 6}
    for client in ("endpoint", "judge"):
        keys |= {f"{client}.url": server.url, f"{client}.wait": 0, f"{client}.timeout": 5}
    return read_settings(name, [f"synthesis.{key}={value}" for key, value in (keys | changes).items()])


def chains(settings) -> dict:
    """`make_chains` without its pictures and pages."""
    partition(Path(settings.samples), settings.folder / "shards", settings.per_shard)
    try:
        asyncio.run(write_chains(settings))
    finally:
        summary, _ = collect(settings)
    return summary


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcome(folder: Path) -> dict[str, list[dict]]:
    """What a run has made, in an order that does not depend on the servers' timing."""
    return {name: sorted(lines(folder / f"{name}.jsonl"), key=str) for name in ("kept", "dropped", "failed")}


def sample(**changes) -> Sample:
    return Sample(**{"source": "test", "split": "sft", **BINARY, **changes})


# The whole pipeline


@pytest.mark.parametrize(
    ("name", "droppers"),
    [
        ("camreasoner", {"malformed": "format", "hindsight": "hindsight", "wrong answer": "accuracy",
                         "other reasoning": "consistency", "half an observation": None}),
        ("videop2r", {"malformed": "format", "hindsight": None, "wrong answer": "accuracy",
                      "other reasoning": None, "half an observation": "sufficiency"}),
    ],
)  # fmt: skip
def test_each_flaw_is_dropped_by_its_filter(name, droppers, data, teacher, tmp_path, console, monkeypatch):
    flaws, flaw_into = {}, teacher_module._flawed

    def noted(record, flaw):
        chain = flaw_into(record, flaw)
        flaws[chain] = flaw if chain != flaw_into(record, None) else None
        return chain

    monkeypatch.setattr(teacher_module, "_flawed", noted)
    with LocalEndpoint(teacher, fault_rate=0.2) as server:
        summary = make_chains(settings_for(data, server, tmp_path, name), console)
    assert server.failures  # of which nothing is left
    made = outcome(tmp_path)
    assert summary["samples"] == summary["kept"] + summary["dropped"] == N and summary["failed"] == 0
    for record in made["kept"]:
        flaw = flaws[record["chain"]]
        harmless = flaw == "half an observation" and _suffices(record)  # parallax does not decide every question
        assert droppers.get(flaw) is None or harmless
    seen = {(flaws[record["chain"]], record["by"]) for record in made["dropped"]}
    assert seen == {(flaw, by) for flaw, by in droppers.items() if by}
    ids = {record.id for record in read_samples(data / "sft.jsonl")}
    assert {record["id"] for records in made.values() for record in records} == ids
    assert len(list(read_samples(tmp_path / "kept.jsonl"))) == summary["kept"]
    for file in ("funnel.csv", "funnel.md", "funnel.png", "review.html", "summary.json"):
        assert (tmp_path / file).stat().st_size
    page = (tmp_path / "review.html").read_text()
    assert f"data.files.sft={tmp_path / 'kept.jsonl'}" in page and 'name="viewport"' in page
    assert ("38,672" in (tmp_path / "funnel.md").read_text()) == (name == "camreasoner")


def _suffices(record: dict) -> bool:
    seen = parse(record["chain"]).observation
    return asyncio.run(RuleJudge().answer_from_text(seen, record)) == record["answer"]


def test_only_the_conditioned_generator_sees_the_answer(data, teacher, tmp_path):
    with LocalEndpoint(teacher) as server:
        shown = next(read_samples(data / "sft.jsonl"))
        for name, told in (("camreasoner", True), ("videop2r", False)):
            messages = request_for(shown, settings_for(data, server, tmp_path, name))
            text = texts_of({"messages": messages})[0]
            assert ("The right answer is" in text) == told and shown.question in text
            assert messages[0]["content"][0]["video_url"]["url"].startswith("data:video/mp4;base64,")


@pytest.mark.e2e
@pytest.mark.parametrize("stops", [[1, 20, 21], [39]])
def test_an_interrupted_run_resumes_and_pays_for_nothing_twice(stops, data, teacher, tmp_path):
    with LocalEndpoint(teacher) as server:
        chains(settings_for(data, server, tmp_path / "whole"))
        whole = outcome(tmp_path / "whole")
    with LocalEndpoint(teacher) as server:
        for stop in stops:
            with pytest.raises(SynthesisError, match="max_requests"):
                chains(settings_for(data, server, tmp_path / "cut", **{"endpoint.max_requests": stop}))
            made = json.loads((tmp_path / "cut" / "summary.json").read_text())
            assert made["pending"] == N - made["kept"] - made["dropped"] > 0
            assert made["usage"]["generator"]["requests"] == stop
        summary = chains(settings_for(data, server, tmp_path / "cut"))
    assert outcome(tmp_path / "cut") == whole
    assert summary["usage"]["generator"]["requests"] == N
    again = chains(settings_for(data, server, tmp_path / "cut"))  # the server is gone: nothing is asked
    assert again == summary


def command(*keys: str) -> list[str]:
    words = [f"synthesis.{key}" for key in keys]
    return [sys.executable, "-m", "launch.synthesize", "synthesis=camreasoner", "synthesis.normalise=false", *words]


@pytest.mark.e2e
def test_a_killed_run_resumes(data, teacher, tmp_path):
    def slowly(body):
        time.sleep(0.03)
        return teacher(body)

    with LocalEndpoint(slowly) as server:
        settings = settings_for(data, server, tmp_path / "cut", **{"endpoint.concurrency": 2})
        arguments = [f"samples={settings.samples}", f"media_root={data}", f"out={settings.out}", "per_shard=16"]
        arguments += [f"{client}.url={server.url}" for client in ("endpoint", "judge")] + ["endpoint.concurrency=2"]
        arguments += [f"{client}.{key}" for client in ("endpoint", "judge") for key in ("wait=0", "timeout=5")]
        process = subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while sum(len(path.read_bytes().splitlines()) for path in tmp_path.rglob("verdicts.jsonl")) < 20:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = sum(len(path.read_bytes().splitlines()) for path in tmp_path.rglob("chains.jsonl"))
        asked = len(server.bodies)
        summary = chains(settings)
        generated = [body for body in list(server.bodies)[asked:] if "response_format" not in body]
    assert summary["kept"] + summary["dropped"] == N and len(generated) == N - before


def test_other_filters_judge_the_same_chains_and_another_prompt_makes_new_ones(data, teacher, tmp_path):
    with LocalEndpoint(teacher) as server:
        first = chains(settings_for(data, server, tmp_path))
        lenient = chains(settings_for(data, server, tmp_path, filters="[format, accuracy]"))
        assert lenient["kept"] > first["kept"] and lenient["usage"]["generator"]["requests"] == N
        other = chains(settings_for(data, server, tmp_path, instruction="Tell."))
        assert other["usage"]["generator"]["requests"] == 2 * N
        assert chains(settings_for(data, server, tmp_path))["kept"] == first["kept"]


# What goes wrong


def test_a_broken_clip_fails_with_a_reason_and_is_tried_again_once_repaired(data, teacher, tmp_path):
    media = tmp_path / "media"
    (media / "clips").mkdir(parents=True)
    samples = list(read_samples(data / "sft.jsonl"))
    for clip in (data / "clips").glob("sft-*.mp4"):
        (media / "clips" / clip.name).write_bytes(clip.read_bytes())
    names = sorted({record.video for record in samples})
    (media / names[0]).unlink()
    (media / names[1]).write_bytes(b"")
    (media / names[2]).unlink()
    (media / names[2]).symlink_to("/etc/hostname")
    with LocalEndpoint(teacher) as server:
        settings = settings_for(data, server, tmp_path / "out", media_root=media)
        summary = chains(settings)
        expected = sum(record.video in names[:3] for record in samples)
        assert summary["failed"] == expected and summary["kept"] + summary["dropped"] == N - expected
        details = " ".join(record["detail"] for record in outcome(tmp_path / "out")["failed"])
        assert "missing or empty" in details and "leads out of the media root" in details
        for name in names[:3]:
            (media / name).unlink(missing_ok=True)
            (media / name).write_bytes((data / name).read_bytes())
        assert chains(settings)["failed"] == 0


@pytest.mark.e2e
def test_a_dead_server_ends_the_run_early_and_loses_nothing(data, tmp_path):
    with LocalEndpoint(lambda body: "") as server:
        pass
    arguments = [f"samples={data / 'sft.jsonl'}", f"media_root={data}", f"out={tmp_path}", "judge.name=rules"]
    arguments += [f"endpoint.url={server.url}", "endpoint.wait=0", "endpoint.attempts=2", "max_failures=5"]
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "5 records failed in a row" in done.stderr
    assert server.url in done.stderr and "resumes from here" in done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["failed"] + summary["pending"] == N and summary["pending"] > 0


def test_a_wrong_key_ends_the_run_at_once_and_is_written_nowhere(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_GENERATOR_KEY", "sk-very-secret")
    with LocalEndpoint(lambda body: "") as server:
        server.status, server.message = 401, "no such key: sk-very-secret"
        settings = settings_for(data, server, tmp_path, **{"endpoint.api_key_env": "TEST_GENERATOR_KEY"})
        with pytest.raises(SynthesisError, match="401"):
            chains(settings)
        server.status = 200
        chains(settings)
        assert server.headers[-1]["Authorization"] == "Bearer sk-very-secret" or "response_format" in server.bodies[-1]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"sk-very-secret" in path.read_bytes() for path in written)


def test_a_missing_key_is_refused_before_anything_is_written(data, tmp_path, console, monkeypatch):
    monkeypatch.delenv("TEST_GENERATOR_KEY", raising=False)
    for client in ("endpoint", "judge"):
        with LocalEndpoint(str) as server, pytest.raises(UserError, match="TEST_GENERATOR_KEY is not set"):
            keys = {f"{client}.api_key_env": "TEST_GENERATOR_KEY"}
            make_chains(settings_for(data, server, tmp_path / "out", **keys), console)
        assert not (tmp_path / "out").exists()


def test_no_verdict_is_neither_kept_nor_dropped(data, teacher, tmp_path):
    def judged_by_nobody(body):
        return "no verdict" if "response_format" in body else teacher(body)

    with LocalEndpoint(judged_by_nobody) as server:
        keys = {"judge.on_failure": "unjudged", "judge.attempts": 1, "max_failures": 1000}
        summary = chains(settings_for(data, server, tmp_path, **keys))
    assert summary["kept"] == 0 and summary["failed"] > 0
    assert {record["detail"] for record in outcome(tmp_path)["failed"]} == {"unjudged"}


def test_two_processes_do_not_share_a_shard(data, teacher, tmp_path):
    with LocalEndpoint(teacher) as server:
        settings = settings_for(data, server, tmp_path)
        partition(data / "sft.jsonl", tmp_path / "shards", 16)
        with (tmp_path / "shards" / "000" / "lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(SynthesisError, match="another process"):
                chains(settings)
        assert chains(settings)["pending"] == 0


def test_workers_share_the_records_and_the_budget(data, teacher, tmp_path):
    with LocalEndpoint(teacher) as server:
        partition(data / "sft.jsonl", tmp_path / "shards", 16)
        settings = settings_for(data, server, tmp_path, workers=2, **{"endpoint.max_requests": 20})
        for worker in range(2):
            with pytest.raises(SynthesisError, match="max_requests"):
                asyncio.run(write_chains(settings, worker))
        assert 10 <= read_usage(tmp_path)["generator"]["requests"] <= 20
        settings = settings_for(data, server, tmp_path, workers=2)
        outcomes = []
        for worker in range(2):
            asyncio.run(write_chains(settings, worker, outcomes.append))
    assert len(outcomes) == N
    assert collect(settings)[0]["pending"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filters": "[accuracy]"}, "filters"),
        ({"filters": "[format, luck]"}, "filters"),
        ({"min_accuracy.default": 2}, "min_accuracy"),
        ({"filters": "[format,review]", "judge.name": "rules"}, "review asks a model that sees the clip"),
        ({"send": "pigeon"}, "send"),
        ({"colour": "red"}, "colour"),
        ({"per_shard": 0}, "per_shard"),
    ],
)
def test_wrong_settings_are_named(changes, message, data, tmp_path):
    with LocalEndpoint(str) as server, pytest.raises((ValidationError, HydraException), match=message):
        settings_for(data, server, tmp_path, **changes)


@pytest.mark.e2e
def test_the_command_names_missing_settings_and_prints_the_commands_of_the_servers(tmp_path):
    done = subprocess.run(command("judge.name=rules"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search(r"synthesis.endpoint.url=.*synthesis.media_root=.*synthesis.samples=", done.stderr, re.DOTALL)
    given = [f"{key}={tmp_path}" for key in ("samples", "media_root", "out")]
    given += ["endpoint.url=http://127.0.0.1:8000/v1", "serve_commands=true"]
    study = ["synthesis.normalise=true", "experiment=camreasoner"]  # its own label files are not asked for
    done = subprocess.run([*command(*given), *study], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("CUDA_VISIBLE_DEVICES=") == 2
    done = subprocess.run([*command(*given), study[0]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "name the study" in done.stderr and not (tmp_path / "chains").exists()
    no_recipe = [sys.executable, "-m", "launch.synthesize"]
    done = subprocess.run(no_recipe, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "synthesis=demo needs no model" in done.stderr


@pytest.mark.e2e
def test_the_demo_needs_no_model(tmp_path):
    for name in ("demo", "demo_videop2r"):
        keys = {"media_root": tmp_path / "data", "out": tmp_path / name, "judge.cache": tmp_path / "verdicts"}
        settings = read_settings(name, [f"synthesis.{key}={value}" for key, value in keys.items()])
        with with_local_server(settings, lambda text: None) as filled:
            assert filled.endpoint["url"] == filled.judge["url"] and "127.0.0.1" in filled.judge["url"]
            summary = chains(filled)
        assert summary["kept"] + summary["dropped"] == summary["samples"] == 225


def test_a_folder_keeps_to_its_samples(data, tmp_path):
    partition(data / "sft.jsonl", tmp_path / "shards", 16)
    with pytest.raises(SynthesisError, match="another synthesis.out"):
        partition(data / "rl.jsonl", tmp_path / "shards", 16)


# Shards


def test_a_clip_lies_in_one_shard_and_nothing_is_lost(data, tmp_path):
    deal = partition(data / "sft.jsonl", tmp_path / "shards", 10)
    shards = [list(shard_samples(path)) for path in sorted((tmp_path / "shards").glob("0*"))]
    assert deal == {**deal, "samples": N, "shards": 4} and len(shards) == 4
    videos = [{record.video for record in shard} for shard in shards]
    assert sum(map(len, videos)) == len(set.union(*videos))
    whole = sorted(record.model_dump_json() for shard in shards for record in shard)
    assert whole == sorted(record.model_dump_json() for record in read_samples(data / "sft.jsonl"))


def test_a_bad_record_leaves_no_half_dealt_folder(tmp_path):
    (tmp_path / "bad.jsonl").write_text(sample().model_dump_json() + "\n{}\n")
    with pytest.raises(SampleError, match="bad.jsonl:2"):
        partition(tmp_path / "bad.jsonl", tmp_path / "shards", 10)
    assert not (tmp_path / "shards").exists()
    write_samples(tmp_path / "bad.jsonl", [sample()])
    assert partition(tmp_path / "bad.jsonl", tmp_path / "shards", 10)["samples"] == 1


@given(st.lists(st.text(), max_size=5), st.binary(max_size=200).filter(lambda tail: b"\n" not in tail))
def test_a_log_survives_a_killed_writer(texts, tail):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        for number, text in enumerate(texts):
            append_line(log, {"id": str(number), "key": "k", "text": text})
        with log.open("ab") as file:
            file.write(tail)
        repair_last_line(log)
        append_line(log, {"id": "next", "key": "k", "text": "whole"})
        append_line(log, {"id": "0", "key": "other", "text": "of other settings"})
        expected = {str(number): text for number, text in enumerate(texts)} | {"next": "whole"}
        assert {each: record["text"] for each, record in read_log(log, "k").items()} == expected


def test_memory_is_bounded_while_a_large_set_is_dealt_out(tmp_path):
    """40,000 records here; a million, dealt out, walked and collected, took 138 MiB in all (docs/synthesis.md)."""
    line = sample(id="%d", video="%d.mp4", question="Is it? " * 40).model_dump_json()
    with (tmp_path / "many.jsonl").open("w") as out:
        out.writelines(line.replace("%d", str(number)) + "\n" for number in range(40_000))
    code = (
        "import resource, sys; from pathlib import Path; from data_tools.synthesis.shards import partition, read_log;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "partition(Path(sys.argv[1]), Path(sys.argv[2]), 400);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "many.jsonl"), str(tmp_path / "shards")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 40 * 1024  # KiB; the records themselves are 17 MB of text


# Filters


def verdict(chain, record, judge=None, filters=("format", "accuracy"), bounds=None):
    return asyncio.run(failed_filter(chain, record, judge or RuleJudge(), list(filters), bounds or {"default": 1.0}))


@pytest.mark.parametrize(
    ("changes", "answer", "bounds", "kept"),
    [
        ({}, "B", {}, True),
        ({}, "Yes", {}, True),
        ({}, "No", {}, False),
        ({"task": "numerical", "options": [], "answer": "12"}, "12.0", {}, True),
        ({"task": "numerical", "options": [], "answer": "12"}, "13", {}, False),
        # word error rate: 1 wrong of 4 words = .25
        ({"task": "ocr", "options": [], "answer": "no way out here"}, "no way out there", {"ocr": 0.75}, True),
        ({"task": "ocr", "options": [], "answer": "no way out here"}, "no way out there", {"ocr": 0.8}, False),
        ({"task": "open_ended", "options": [], "answer": "a red car turns left"}, "a red car turns left", {}, True),
        ({"task": "open_ended", "options": [], "answer": "a red car turns left"}, "nobody", {"open_ended": 0.1}, False),
        ({"task": "temporal_grounding", "options": [], "answer": "", "spans": [[1.0, 3.0]]}, "1 to 3", {}, True),
        ({"task": "temporal_grounding", "options": [], "answer": "", "spans": [[1.0, 3.0]]}, "2 to 4",
         {"temporal_grounding": 0.5}, False),  # IoU 1/3
    ],
)  # fmt: skip
def test_verification_by_the_task_s_own_metric(changes, answer, bounds, kept):
    wrong = verdict(CHAIN.format(answer), sample(**changes), bounds={"default": 1.0, **bounds})
    assert (wrong is None) == kept
    assert kept or wrong[0] == "accuracy"


@pytest.mark.parametrize(
    ("think", "dropped"),
    [
        ("The given answer is Yes.", True),
        ("As the provided correct answer says, it pans.", True),
        ("The ground-truth label agrees.", True),
        ("The answer was given.", True),
        ("So the correct answer is Yes.", False),
        ("Given that near things shift more, the answer is Yes.", False),
    ],
)
def test_hindsight(think, dropped):
    chain = f"<observation>seen</observation><think>{think}</think><answer>B</answer>"
    assert (verdict(chain, sample(), filters=("format", "hindsight")) is not None) == dropped


class Told(RuleJudge):
    """A judge with fixed verdicts."""

    def __init__(self, answer=None, entailed=()):
        self.answer, self.said = answer, entailed

    async def answer_from_text(self, text, sample):
        assert text == "seen"  # the observation and nothing else
        return self.answer

    async def entailed(self, statements, text):
        return self.said


def test_sufficiency_is_judged_from_the_observation_alone():
    chain, filters = CHAIN.format("B"), ("format", "sufficiency")
    assert verdict(chain, sample(), Told("B"), filters) is None
    assert "does not suffice" in verdict(chain, sample(), Told(None), filters)[1]
    assert "leads to 'A'" in verdict(chain, sample(), Told("A"), filters)[1]
    with pytest.raises(Unsettled):
        verdict(chain, sample(), Told(UNJUDGED), filters)


def test_chains_and_rewards_ask_the_judge_the_same_at_one_threshold(tmp_path):
    given = ["experiment=videop2r", "synthesis=videop2r", "synthesis.samples=a", f"synthesis.out={tmp_path}"]
    given += ["synthesis.media_root=m", "synthesis.endpoint.url=http://h/v1"]

    def both(*overrides):
        recipe, _ = compose_recipe([*given, *overrides])
        of_both = vars(recipe.synthesis), recipe.reward.settings
        return [{name: settings[name] for name in ("sufficient", "show_answer")} for settings in of_both]

    synthesis, reward = both()
    assert synthesis == reward == {"sufficient": SUFFICIENT, "show_answer": "open_ended"}
    synthesis, reward = both("reward.sufficient=0.9", "reward.show_answer=always")
    assert synthesis == reward == {"sufficient": 0.9, "show_answer": "always"}


def test_an_observation_suffices_whatever_words_the_judge_has():
    number = sample(task="regression", options=[], answer="4")
    chain, filters = CHAIN.format("4"), ("format", "accuracy", "sufficiency")
    assert verdict(chain, number, Told("about four metres"), filters) is None
    assert "accuracy 0.5 below 0.75" in verdict(chain, number, Told("6 m"), filters)[1]


@pytest.mark.parametrize(
    ("checks", "detail"),
    [
        ({"accuracy": True, "consistency": True}, None),
        ({"accuracy": False, "consistency": True}, "lacks accuracy"),
        ({"accuracy": False, "consistency": False}, "lacks accuracy and consistency"),
    ],
)
def test_a_reviewer_sees_the_clip_and_the_right_answer(checks, detail, data, tmp_path):
    with LocalEndpoint(lambda body: json.dumps(checks)) as server:
        record = next(read_samples(data / "sft.jsonl"))
        judge = EndpointJudge(Endpoint({"url": server.url, "model": "vl"}))
        clip = partial(clip_parts, record, settings_for(data, server, tmp_path))
        bounds, answer = {"default": 1.0}, CHAIN.format(record.answer)
        found = asyncio.run(failed_filter(answer, record, judge, ["format", "review"], bounds, clip=clip))
        asked = server.bodies[-1]["messages"][-1]["content"]
    assert found == (None if detail is None else ("review", detail))
    assert asked[0]["video_url"]["url"].startswith("data:video/mp4;base64,")
    assert json.loads(asked[1]["text"])["right_answer"] == f"{record.answer}. {record.answer_text}"


def test_captions_are_verified_by_event_recall():
    caption = sample(task="caption", options=[], answer="", events=["one", "two"])
    assert verdict(CHAIN.format("told"), caption, Told(entailed=[True, False]), bounds={"default": 0.5}) is None
    assert verdict(CHAIN.format("told"), caption, Told(entailed=[True, False]), bounds={"default": 0.6}) is not None


@given(st.text())
def test_no_text_of_a_generator_raises(text):
    for chain in (text, CHAIN.format(text)):
        wrong = verdict(chain, sample(), filters=("format", "hindsight", "accuracy"))
        assert wrong is None or wrong[0] in ("format", "hindsight", "accuracy")


# Requests, frames, commands, report


def test_ways_to_send_a_clip(data, tmp_path):
    shown = next(read_samples(data / "sft.jsonl"))
    with LocalEndpoint(str) as server:
        by_file = request_for(shown, settings_for(data, server, tmp_path, send="file"))[0]["content"]
        assert by_file[0]["video_url"]["url"] == (data / shown.video).resolve().as_uri()
        pictures = request_for(shown, settings_for(data, server, tmp_path, send="frames", frames=3))[0]["content"]
        assert [part["type"] for part in pictures] == ["image_url"] * 3 + ["text"]


def test_a_raw_video_is_sent_in_the_media_budget_and_stage_data_finds_its_clip(tmp_path):
    raw = write_video(tmp_path / "clip.mp4", frames=90, width=640, height=360, fps=30)
    budget = Budget(fps=2.0, max_frames=4, min_frames=4, max_pixels=28 * 28 * 9, min_pixels=784)
    with LocalEndpoint(str) as server:
        as_it_is = settings_for(tmp_path, server, tmp_path / "out", send="file")
        settings = as_it_is.model_copy(update={"budget": budget, "store": tmp_path / "store"})
        (part, _) = request_for(sample(), settings)[0]["content"]
        sent = Path(part["video_url"]["url"].removeprefix("file://"))
        assert request_for(sample(start=1.0, end=2.0), settings)[0]["content"][0] != part  # a clip of its own
        raw.write_bytes(raw.read_bytes()[:5000])
        with pytest.raises(SampleFailure, match="video: .*clip.mp4"):
            request_for(sample(), settings)
    frames = read_clip(sent)
    assert len(frames) == 4 and frames.shape[1] * frames.shape[2] <= budget.max_pixels
    assert settings.chain_key != as_it_is.chain_key  # chains about other frames are other chains
    write_video(raw, frames=90, width=640, height=360, fps=30)
    ((_, clip),) = normalise_all([Cut("clip.mp4")], tmp_path, tmp_path / "store", budget)
    assert sent == tmp_path / "store" / clip.video


def test_a_part_of_a_video_is_not_sent_whole(data, tmp_path):
    with LocalEndpoint(str) as server:
        settings = settings_for(data, server, tmp_path)
        shown = next(read_samples(data / "sft.jsonl"))
        with pytest.raises(SampleFailure, match=r"clips/.* from 1 s to 2 s is not a clip yet"):
            request_for(shown.model_copy(update={"start": 1.0, "end": 2.0}), settings)


def test_frames_are_spread_over_the_clip(data):
    clip = sorted((data / "clips").glob("*.mp4"))[0]
    assert [len(jpeg_frames(clip, count)) for count in (1, 2, 4, 9)] == [1, 2, 4, 4]
    with pytest.raises(SampleFailure, match="hostname"):
        jpeg_frames(Path("/etc/hostname"), 4)


def test_the_funnel_adds_up():
    summary = {"kept": 60, "dropped": 40, "dropped_by": {"format": 10, "accuracy": 25, "consistency": 5}}
    rows = funnel(summary, {"name": "paper", "generated": 38672, "kept": 18541})
    assert [row["count"] for row in rows] == [100, 90, 65, 60]
    assert rows[-1]["share"] == 0.6 and rows[-1]["reference_share"] == pytest.approx(0.4794, abs=1e-4)
    assert [row["share"] for row in funnel({"kept": 0, "dropped": 0, "dropped_by": {}}, None)] == [0.0]


def test_the_review_sheet_trusts_no_text(data, tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    video = next(read_samples(data / "sft.jsonl")).video
    shown = {"sample": sample(id=evil, question=evil, options=["No", evil], video=video), "chain": evil}
    broken = shown | {"sample": sample(id="gone", video="gone.mp4"), "by": "format", "detail": evil}
    with LocalEndpoint(str) as server:
        settings = settings_for(data, server, tmp_path)
    summary = {"kept": 1, "dropped": 1, "failed": 0, "pending": 0, "samples": 2, "dropped_by": {"format": 1}}
    review = [shown | {"outcome": "kept", "id": "a"}, broken | {"outcome": "dropped", "id": "b"}]
    page = review_sheet(settings, summary, funnel(summary, settings.reference), review)
    assert "<script" not in page and "<img src=x" not in page and "&lt;script&gt;" in page
    assert page.count("data:image/jpeg") == 4 and "gone.mp4" in page
    assert "http:" not in page and "https:" not in page and "default-src 'none'" in page


def test_the_teacher_is_deterministic_and_knows_every_flaw(data, teacher):
    with LocalEndpoint(teacher) as server:
        settings = settings_for(data, server, "unused")
    bodies = [{"model": "m", "messages": request_for(each, settings)} for each in read_samples(data / "sft.jsonl")]
    chains = [teacher(body) for body in bodies]
    assert chains == [RenderedTeacher(data)(body) for body in bodies]
    sound = RenderedTeacher(data, flaws=0.0)
    assert all(parse(sound(body)).ok for body in bodies)
    assert len(FLAWS) == 5 and 0.2 < sum(sound(body) != chain for body, chain in zip(bodies, chains)) / N < 0.6
