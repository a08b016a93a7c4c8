import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rollouts import ATTACK, questions, rollout, write_step, write_training, write_twins
from starlette.testclient import TestClient

from data_tools.controls import controlled
from data_tools.run_folder import RunFolder
from data_tools.sample import read_samples, write_samples
from evaluation.rollouts.records import EQUAL
from evaluation.viewer.content import LONGEST, group
from evaluation.viewer.facts import CUT, MALFORMED, MISMATCH
from evaluation.viewer.folder import write_folder
from evaluation.viewer.index import Index, WatchError
from evaluation.viewer.query import CONDITIONS, ORDERS, PAGE, Query, find, overview, unread
from evaluation.viewer.segments import segments, texts
from evaluation.viewer.server import Server
from launch.run.checkpoints import resume_rl
from rewards.response import SCHEMAS, parse


def nothing(*_):
    return {"kind": "video", "missing": "not asked for"}


def opened(run: Path) -> Index:
    index = Index(RunFolder(run))
    index.refresh()
    return index


def found(index: Index, only: str = "all", view: str = "rollouts", **query) -> list[dict]:
    ids, _ = find([index], 0, Query(view=view, only=only, **query))
    return [group([index], 0, id, nothing) for id in ids]


@pytest.fixture
def trained(run: Path) -> Path:
    write_training(run, list(read_samples(run / "eval/test/samples.jsonl")))
    return run


# ------------------------------------------------------------------ index


def test_a_half_written_line_waits_and_what_is_read_is_not_read_again(trained: Path):
    index = opened(trained)
    path = trained / "rl/rollouts/2.jsonl"
    whole = path.read_bytes()
    sample = found(index, step=2)[0]["sample"]["id"]
    more = json.dumps(json.loads(whole.splitlines()[0]) | {"rollout": "step000002.00000_4_0"}).encode() + b"\n"
    with path.open("ab") as file:
        file.write(more[:50])
    index.refresh()
    [first, *_] = found(index, step=2)
    assert len(first["answers"]) == 4 and first["sample"]["id"] == sample
    with path.open("ab") as file:
        file.write(more[50:])
    assert index.refresh() and not index.refresh()
    assert sum(len(answer["labels"]) for answer in found(index, step=2)[0]["answers"]) == 5
    assert unread(index) == (0, [])


def test_a_step_that_is_written_again_and_an_index_that_is_deleted_are_read_anew(trained: Path):
    index = opened(trained)
    samples = list(read_samples(trained / "eval/test/samples.jsonl"))
    os.replace(write_step(trained, 9, [rollout(samples[0], 2, 0, 0, True)]), trained / "rl/rollouts/2.jsonl")
    index.refresh()
    assert [len(each["answers"]) for each in found(index, step=2)] == [1]
    before = (overview(index), [each["answers"] for each in found(index)])
    (trained / "watch/index.sqlite").unlink()
    anew = opened(trained)
    assert (overview(anew), [each["answers"] for each in found(anew)]) == before
    (trained / "rl/rollouts/1.jsonl").unlink()
    anew.refresh()
    assert [each["step"] for each in overview(anew)[0]["steps"]] == [2]


def test_lines_that_are_no_records_are_counted_and_named(trained: Path):
    with (trained / "rl/rollouts/1.jsonl").open("a") as file:
        file.write('{"step": 1}\nno JSON\n')
    count, named = unread(opened(trained))
    assert count == 2
    assert "rl/rollouts/1.jsonl, byte " in named[0] and "rollout: Field required" in named[0]


def test_an_index_that_cannot_be_opened_says_what_to_do(run: Path):
    (run / "watch").mkdir()
    (run / "watch/index.sqlite").write_text("no database, and longer than a header of one" * 9)
    with pytest.raises(WatchError, match="Delete .*watch"):
        Index(RunFolder(run))
    (run / "watch/index.sqlite").unlink()
    opened(run).close()
    whole = (run / "watch/index.sqlite").read_bytes()
    (run / "watch/index.sqlite").write_bytes(whole[:4096] + b"?" * (len(whole) - 4096))
    with pytest.raises(WatchError, match="Delete .*watch"):
        opened(run)


# ------------------------------------------------------------------ filters


@st.composite
def trainings(draw) -> list[list[dict]]:
    """What differs between rollouts, by step."""
    reward = st.sampled_from([0.0, 0.25, 1.0])
    one = st.fixed_dictionaries({"score": reward, "accuracy": st.sampled_from([0.0, 1.0]), "advantage": reward})
    more = st.fixed_dictionaries({}, optional={"mismatch": st.just(1.0), "malformed": st.just("missing_think")})
    prompts = st.lists(st.lists(st.tuples(one, more).map(lambda pair: pair[0] | pair[1]), min_size=1, max_size=3))
    return draw(st.lists(prompts.filter(lambda prompts: 0 < len(prompts) < 5), min_size=1, max_size=3))


@given(trainings(), st.sampled_from(sorted(CONDITIONS)), st.sampled_from(sorted(ORDERS)), st.integers(1, 3))
@settings(max_examples=15)
def test_pages_hold_what_the_filter_asks_for_once_and_in_order(steps, only, order, limit):
    samples = questions("rl", 2)
    with tempfile.TemporaryDirectory() as folder:
        groups = {}  # (step, prompt) -> rollouts
        for step, prompts in enumerate(steps, 1):
            for prompt, rollouts in enumerate(prompts):
                groups[step, prompt] = [
                    rollout(samples[prompt], step, prompt, n, True, **fields) for n, fields in enumerate(rollouts)
                ]
            write_step(Path(folder), step, [r for p in range(len(prompts)) for r in groups[step, p]])
        index = opened(Path(folder))
        pages, offset = [], 0
        while page := found(index, only, order=order, limit=limit, offset=offset):
            pages, offset = pages + page, offset + limit
        index.close()

    def right(key) -> bool:
        return sum(r["accuracy"] for r in groups[key]) / len(groups[key]) >= 0.5

    def flipped(step: int, prompt: int) -> bool:
        before = [key for key in groups if key[1] == prompt and key[0] < step]
        return bool(before) and right(max(before)) != right((step, prompt))

    def spread(rollouts) -> float:
        return max(r["score"] for r in rollouts) - min(r["score"] for r in rollouts)

    expected = {
        "all": lambda key, rollouts: True,
        "malformed": lambda key, rollouts: any("malformed" in r for r in rollouts),
        "mismatch": lambda key, rollouts: any(r["mismatch"] for r in rollouts),
        "unfaithful": lambda key, rollouts: any(not r["accuracy"] and "malformed" not in r for r in rollouts),
        "flipped": lambda key, rollouts: flipped(*key),
        "twins": lambda key, rollouts: False,
        "cut": lambda key, rollouts: False,
        "split": lambda key, rollouts: spread(rollouts) >= EQUAL,
        "flat": lambda key, rollouts: len(rollouts) > 1 and spread(rollouts) < EQUAL,
    }[only]
    keys = [(each["step"], int(each["name"].split(".")[1])) for each in pages]
    assert sorted(keys) == sorted(key for key, rollouts in groups.items() if expected(key, rollouts))
    by = {
        "recorded": lambda key: key,
        "highest": lambda key: -max(r["advantage"] for r in groups[key]),
        "lowest": lambda key: min(r["advantage"] for r in groups[key]),
        "spread": lambda key: -spread(groups[key]),
        "worst": lambda key: sum(r["score"] for r in groups[key]) / len(groups[key]),
        "best": lambda key: -sum(r["score"] for r in groups[key]) / len(groups[key]),
    }[order]
    assert keys == sorted(keys, key=by)


def test_answers_of_models_flip_and_twins_disagree(run: Path):
    samples = list(read_samples(run / "eval/test/samples.jsonl"))
    right = {key: set() for key in ("sft", "rl")}
    for key in right:
        scores = {each["sample"]["id"]: each for each in found(opened(run), view="set test", limit=PAGE)}
        right[key] = {id for id, each in scores.items() for a in each["answers"] if a["labels"] == [key] and a["right"]}
    index = opened(run)
    assert {each["sample"]["id"] for each in found(index, "flipped", "set test", limit=PAGE)} == right["sft"] ^ right[
        "rl"
    ]
    said = {line["id"]: line for line in map(json.loads, (run / "eval/test/rl/predictions.jsonl").open())}
    twins = [controlled(sample, "mirrored", 0) for sample in samples]
    (run / "eval/test/controls").mkdir()
    write_samples(run / "eval/test/controls/mirrored.jsonl", twins)
    other = samples[0].options.index(samples[0].answer_text) ^ 1
    for key in ("base", "sft", "rl"):
        lines = [json.loads(line) for line in (run / f"eval/test/{key}/predictions.jsonl").open()]
        if key == "rl":
            chain = f"<observation>o</observation><think>t</think><answer>{'AB'[other]}</answer>"
            lines[0] = said[samples[0].id] | {"response": chain}
        (run / f"eval/test/{key}/mirrored.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    index.refresh()
    differing = {each["sample"]["id"]: each for each in found(index, "twins", "set test", limit=PAGE)}
    first = found(index, view="set test")[0]
    changed = [a for a in first["answers"] if a["labels"] == ["rl"]]
    assert [a["control"] for a in changed] == ["", "mirrored"]
    assert (first["sample"]["id"] in differing) == (changed[0]["chosen"] != changed[1]["chosen"])
    assert unread(index) == (0, [])


def test_rollouts_of_twins_stand_side_by_side_and_disagreeing_ones_are_found(trained: Path):
    write_twins(trained, 3, next(read_samples(trained / "eval/test/samples.jsonl")))
    index = opened(trained)
    groups = found(index, step=3)
    assert [each["twin"] for each in groups] == [groups[place]["id"] for place in (1, 0, 3, 2)]
    assert [each["sample"]["turn"] for each in groups] == [None, "mirrored"] * 2
    assert [each["id"] for each in found(index, "twins", step=3)] == [each["id"] for each in groups[:2]]
    assert {each["twin"] for each in found(index, step=1)} == {None}


def test_the_val_split_is_shown_checkpoint_beside_checkpoint(run: Path):
    samples = [sample.model_copy(update={"split": "val"}) for sample in questions("test", 2)]
    write_samples(run / "data/val.jsonl", samples)
    (run / "rl/held_out").mkdir()
    for step, right in ((0, 0), (8, 0), (16, 2)):
        said = [s.answer_text if n < right else "none of them" for n, s in enumerate(samples)]
        chains = [f"<observation>o</observation><think>t</think><answer>{text}</answer>" for text in said]
        lines = [json.dumps({"id": s.id, "response": chain}) + "\n" for s, chain in zip(samples, chains)]
        (run / f"rl/held_out/{step}.jsonl").write_text("".join(lines))
    index = opened(run)
    flipped = found(index, "flipped", view="val split")
    assert [each["sample"]["id"] for each in flipped] == [sample.id for sample in samples[:2]]
    assert [answer["labels"] for answer in flipped[0]["answers"]] == [["step 0", "step 8"], ["step 16"]]
    resume_rl(RunFolder(run))  # from no checkpoint: what came after it goes
    index.refresh()
    assert [len(each["answers"]) for each in found(index, view="val split")] == [1] * len(samples)


def test_the_trainers_flags_filter_and_equal_rollouts_are_one(trained: Path):
    index = opened(trained)
    odd = {only: found(index, only, step=1) for only in ("malformed", "mismatch", "cut")}
    assert [len(groups) for groups in odd.values()] == [1, 1, 1]
    assert {
        only: answer["labels"] for only, [one] in odd.items() for answer in one["answers"] if only in answer["flags"]
    } == {
        "malformed": ["1"],
        "mismatch": ["2"],
        "cut": ["3"],
    }
    assert found(index, order="lowest")[0]["id"] == odd["cut"][0]["id"]
    assert {each["flipped"] for each in found(index, step=2)} == {1}
    assert (MALFORMED, MISMATCH, CUT) == (1, 2, 8)  # as the index's SQL has them
    samples = list(read_samples(trained / "eval/test/samples.jsonl"))
    assert found(index, step=1)[0]["answers"][0]["advantage"] == 0.25
    same = [rollout(samples[0], 3, 0, n, True, advantage=0.0, response_tokens=9) for n in range(4)]
    write_step(trained, 3, [*same, rollout(samples[0], 3, 0, 4, True, response="x" * 2 * LONGEST)])
    index.refresh()
    [folded, long] = found(index, step=3)[0]["answers"]
    assert folded["labels"] == ["0", "1", "2", "3"]
    assert long["left_out"] == LONGEST
    write_step(trained, 4, [rollout(samples[0], 4, 0, 0, True, advantage=float("nan"), score=float("inf"))])
    index.refresh()
    [diverged] = found(index, step=4)
    assert diverged["answers"][0]["advantage"] == "nan"
    json.dumps([diverged, overview(index)], allow_nan=False)


@given(
    st.text(alphabet="<>/aot \n")
    | st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "x", "</answer>"])).map("".join)
)
def test_segments_lose_nothing(text: str):
    assert "".join(part for _, part in segments(text)) == text


@pytest.mark.parametrize("schema", SCHEMAS)
def test_segments_of_a_well_formed_response_are_the_parsers(schema: str):
    text = " ".join(f"<{tag}> about {tag}\n</{tag}>" for tag in SCHEMAS[schema])
    assert texts(text) == parse(text, schema).parts


# ------------------------------------------------------------------ size

MANY = """
import json, sys
from pathlib import Path
sys.path.insert(0, "tests/evaluation")
from made_rollouts import questions, rollout
from data_tools.run_folder import RunFolder
from evaluation.viewer.content import group
from evaluation.viewer.index import Index
from evaluation.viewer.query import PAGE, Query, find, overview

root, samples = Path(sys.argv[1]), questions("rl", 40)
(root / "rl/rollouts").mkdir(parents=True)
line = json.dumps(rollout(samples[0], 1, 0, 0, True)).replace("step000001.00000", "step%(step)06d.%(prompt)05d")
line = line.replace('"step": 1', '"step": %(step)d') + "\\n"
for step in range(1, 21):
    with (root / f"rl/rollouts/{step}.jsonl").open("w") as out:
        out.writelines(line % {"step": step, "prompt": n // 8} for n in range(5000))
def peak(): return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before, index = peak(), Index(RunFolder(root))
index.refresh()
ids, counts = find([index], 0, Query(view="rollouts", order="highest", limit=PAGE, offset=12000))
shown = [group([index], 0, id, lambda *_: {}) for id in ids]
print(json.dumps([sum(each["answers"] for each in overview(index)[0]["steps"]), counts["all"], peak() - before,
    len(json.dumps(shown))]))
"""


@pytest.mark.e2e
def test_a_hundred_thousand_rollouts_cost_a_page_and_no_memory(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", MANY, tmp_path], capture_output=True, text=True, check=True)
    answers, groups, mebibytes, characters = json.loads(done.stdout)
    assert (answers, groups) == (100_000, 12_500)
    assert mebibytes < 100 and characters < 400_000


# ------------------------------------------------------------------ server and folder


@pytest.fixture
def client(trained: Path):
    return TestClient(Server([opened(trained)]).app(), base_url="http://127.0.0.1")


def test_a_clip_is_served_in_parts_and_nothing_outside_of_the_media_root(client: TestClient, trained: Path):
    page = client.get("/data/groups", params={"run": 0, "view": "rollouts", "step": 1}).json()
    link = page["groups"][0]["media"][0]["link"]
    part = client.get(f"/{link}", headers={"Range": "bytes=0-99"})
    assert (part.status_code, part.headers["content-type"], len(part.content)) == (206, "video/mp4", 100)
    (trained / "data/clips").rename(store := trained.parent / "clips")
    (trained / "data/clips").symlink_to(store)  # the store that runs share, as stage data links it
    assert client.get(f"/{link}").status_code == 200
    clip = trained / "data" / page["groups"][0]["sample"]["id"].replace("test-", "clips/test-").replace("-yes", ".mp4")
    secret = trained.parent / "secret.mp4"
    clip.rename(secret)
    clip.symlink_to(secret)
    refused = client.get(f"/{link}")
    assert refused.status_code == 404 and "leads out of the media root" in refused.json()["error"]
    for path in ("/clip/0/1/7", "/clip/7/1/0", "/clip/0/999/0", "/clip/0/..%2f..%2frecipe.yaml/0", "/..%2frecipe.yaml"):
        assert client.get(path).status_code == 404, path
    assert "leads out" in client.get("/data/group", params={"run": 0, "id": 1}).json()["media"][0]["missing"]


def test_the_server_answers_to_this_machines_name_and_says_what_is_wrong_with_a_question(client: TestClient):
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    headers = client.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cross-origin-resource-policy"] == "same-origin" and "access-control-allow-origin" not in headers
    for query, said in (
        ({"view": "rollouts", "only": "x"}, "only: "),
        ({"view": "rollouts", "limit": PAGE + 1}, "limit: "),
        ({"view": "rollouts", "only": "differs"}, "give the run beside="),
        ({"view": "rollouts", "order": "id; DROP TABLE groups"}, "order: "),
    ):
        answer = client.get("/data/groups", params={"run": 0} | query)
        assert answer.status_code == 400 and said in answer.json()["error"]
    assert "1 runs are watched" in client.get("/data/groups", params={"run": 3, "view": "rollouts"}).json()["error"]
    text = {"run": 0, "view": "rollouts", "text": "'%_\" OR 1=1"}
    assert client.get("/data/groups", params=text).json()["counts"]["all"] == 0


def test_a_folder_replaces_only_a_folder_of_its_own(trained: Path, tmp_path: Path):
    index, out = opened(trained), tmp_path / "page"
    for _ in range(2):
        assert write_folder([index], out) == out / "index.html"
    told = "".join(path.read_text() for path in (out / "data").glob("*.js"))
    assert json.dumps(ATTACK)[1:-1] in told and told.count("\n") == len(list((out / "data").glob("*.js")))
    with pytest.raises(WatchError, match="holds something else"):
        write_folder([index], trained)
    assert (trained / "recipe.yaml").exists()
