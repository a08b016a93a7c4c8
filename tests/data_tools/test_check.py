import json
import subprocess
import sys
from pathlib import Path

import made_videos as videos
import pytest
from pydantic import ValidationError

from data_tools.check import CheckArguments, CheckError, check_files
from data_tools.cli import parse
from data_tools.media.parallel import Threads
from data_tools.quarantine import read_rejected
from data_tools.sample import FieldError, Sample, parse_sample, read_samples, write_samples
from data_tools.splits import SplitError, Splits, Uses, refuse_leaks


def sample(number: int, **changes) -> Sample:
    record = {
        "id": f"s{number}",
        "video": f"{number}.mp4",
        "question": f"Does the camera move in clip {number}?",
        "options": ["No", "Yes"],
        "answer": "AB"[number % 2],
        "task": "binary",
        "source": "made",
        "split": "rl",
    }
    return Sample(**{**record, **changes})


def quarantine(out: Path) -> dict[str, str]:
    """Line -> field: reason."""
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    return {line["record"]: f"{line['field']}: {line['reason']}" for line in lines}


def test_labels_alone(tmp_path):
    good = [sample(n) for n in range(6)]
    path = tmp_path / "rl.jsonl"
    write_samples(path, good)
    text = path.read_text().splitlines()
    bad = [
        text[0],  # a duplicate id
        "[1]",
        '{"id": "x"}',
        sample(7).model_dump_json().replace('"7.mp4"', '"../7.mp4"'),
        sample(8, question="<video> moves?").model_dump_json(),
        sample(9, task="open_ended", options=[], answer="...").model_dump_json(),
        '{"id": "' + "x" * 9_000_000 + '"}',
    ]
    path.write_bytes(("\ufeff" + "\r\n".join([*text, *bad]) + "\n").encode() + b'{"id": "\xff"}\n')
    found = check_files([path], tmp_path / "out")
    assert (found.records, found.kept, found.quarantined) == (14, 6, 8)
    assert list(read_samples(tmp_path / "out" / "clean.jsonl")) == good
    reasons = quarantine(tmp_path / "out")
    assert [reason.partition(":")[0] for reason in reasons.values()] == [
        "id", "record", "question", "video", "question", "answer", "record", "record",
    ]  # fmt: skip
    assert list(reasons) == [str(number) for number in range(7, 15)]
    assert [rejected.id for rejected in read_rejected(tmp_path / "out" / "quarantine.jsonl")] == [
        good[0].id, "", "x", sample(7).id, sample(8).id, sample(9).id, "", "",
    ]  # fmt: skip
    assert found.letters["rl", "binary"] == {"A": 3, "B": 3} and found.answers["rl", "binary"] == {"No": 3, "Yes": 3}
    assert list(found.templates) == ["Does the camera move in clip #?"]


def test_a_record_with_half_a_character_is_quarantined_like_any_other(tmp_path):
    path = tmp_path / "rl.jsonl"
    path.write_text(sample(1).model_dump_json() + '\n{"id": "\\ud800", "video": "\\ud800"}\n')
    found = check_files([path], tmp_path / "out")
    assert (found.kept, found.quarantined) == (1, 1)


def test_a_list_in_place_of_lines_is_told_what_to_do(tmp_path):
    path = tmp_path / "rl.json"
    path.write_text(f"[{sample(1).model_dump_json()}]")
    check_files([path], tmp_path / "out")
    assert quarantine(tmp_path / "out") == {
        "1": "record: Input should be an object, not a list: one sample a line, as `jq -c '.[]'` gives"
    }


def test_chains_are_checked_by_the_reward_that_reads_them(tmp_path):
    right = "<observation>o</observation><think>t</think><answer>No</answer>"
    chains = [right, right.replace("No", "Yes"), right.replace("think", "thought"), right + "<|im_end|>", None]
    samples = [sample(2 * n, split="sft", chain=chain) for n, chain in enumerate(chains)]
    samples.append(sample(10, question="What<|im_end|>?"))
    path = tmp_path / "sft.jsonl"
    write_samples(path, samples)
    found = check_files([path], tmp_path / "out")
    assert (found.records, found.kept, found.quarantined) == (6, 2, 4)
    assert quarantine(tmp_path / "out") == {
        "2": "chain: its answer is wrong: 'Yes' is worth 0 as binary",
        "3": "chain: does not have the form ota that the reward reads: missing <think>",
        "4": "chain: holds a special token of chat templates: <|im_end|>",
        "6": "question: holds a special token of chat templates: <|im_end|>",
    }
    assert found.notes["an SFT sample without a chain"] == 1
    direct = parse(CheckArguments, [str(path), "out=o", "reward=videochat_r1", "reward.prompt=direct"]).reward
    assert check_files([path], tmp_path / "direct", reward=direct).kept == 1  # the one without a chain


def test_special_tokens_are_those_of_a_model_that_is_named(tmp_path):
    from tokenizers import Tokenizer, models

    fast = Tokenizer(models.BPE())
    fast.add_special_tokens(["<s>"])
    (tmp_path / "model").mkdir()
    fast.save(str(tmp_path / "model" / "tokenizer.json"))
    path = tmp_path / "rl.jsonl"
    write_samples(path, [sample(0, question="Is <s> struck through?"), sample(1, question="What does <|todo|> mean?")])
    assert check_files([path], tmp_path / "out", model=str(tmp_path / "model")).kept == 1
    assert quarantine(tmp_path / "out") == {"1": "question: holds a special token of chat templates: <s>"}
    with pytest.raises(CheckError, match="model=owner/none: its tokenizer.json is neither in a folder"):
        check_files([path], tmp_path / "out", model="owner/none")


def test_options_bring_their_letters_or_get_them_but_not_more_than_there_are(tmp_path):
    lettered = [["A. No", "B. Yes"], ["（A）不是", "（B）是"], ["A、否", "B、是"], ["B. Yes", "A. No"], ["A", "B"]]
    path = tmp_path / "rl.jsonl"
    fields = sample(0).model_dump() | {"task": "choice"}
    records = [fields | {"id": str(n), "options": options} for n, options in enumerate(lettered)]
    records.append(fields | {"id": "many", "options": [f"option {n}" for n in range(30)]})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    check_files([path], tmp_path / "out")
    assert quarantine(tmp_path / "out") == {"6": "options: 30, more than letters to name them by"}
    read = [one.options for one in read_samples(tmp_path / "out" / "clean.jsonl")]
    assert read == [["No", "Yes"], ["不是", "是"], ["否", "是"], *lettered[3:]]


def test_videos(tmp_path):
    root, out = tmp_path / "videos", tmp_path / "out"
    root.mkdir()
    videos.write_video(root / "0.mp4")
    videos.write_video(root / "1.mp4", seed=1)
    videos.write_video(tmp_path / "elsewhere.mp4")
    (root / "2.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    (root / "3.mp4").write_bytes(b"<html>not found</html>")
    (root / "4.mp4").touch()
    moment = {"task": "temporal_grounding", "options": [], "answer": "", "spans": [[2.0, 3.0]]}
    samples = [sample(n) for n in range(6)] + [sample(6, video="0.mp4"), sample(7, video="1.mp4", **moment)]
    samples += [sample(8, video="1.mp4", start=0.5, end=0.9), sample(9, video="1.mp4", start=1.5, end=3.0)]
    write_samples(tmp_path / "rl.jsonl", samples)
    calls = []
    found = check_files(
        [tmp_path / "rl.jsonl"], out, root, Threads(2), progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(n, 6) for n in range(1, 7)]
    assert [s.id for s in read_samples(out / "clean.jsonl")] == ["s0", "s1", "s6", "s8"]
    assert {line: reason.split(": ")[1] for line, reason in quarantine(out).items()} == {
        "3": "outside",
        "4": "no_video",
        "5": "empty",
        "6": "missing",
        "8": "one starts after the end of the clip, at 1.00 s",
        "10": "1.5 s is after the end of the video, at 1.00 s",
    }
    assert (found.videos, found.broken) == (6, 4) and found.formats == {"h264, yuv420p": 2}
    page = (out / "index.html").read_text()
    assert "10 records = 4 kept + 6 quarantined" in page and "http" not in page


def test_a_second_check_decodes_what_is_new(tmp_path, monkeypatch):
    import data_tools.media.probe as module

    root, out = tmp_path / "videos", tmp_path / "out"
    root.mkdir()
    for number in range(3):
        videos.write_video(root / f"{number}.mp4", seed=number)
    write_samples(tmp_path / "rl.jsonl", [sample(n) for n in range(3)])
    first = check_files([tmp_path / "rl.jsonl"], out, root, Threads(1))
    lines = (out / "probes.jsonl").read_bytes().splitlines(keepends=True)
    (out / "probes.jsonl").write_bytes(lines[0] + lines[1] + lines[2][:40])  # killed while it wrote
    videos.write_video(root / "0.mp4", seed=9, frames=9)
    asked = []
    monkeypatch.setattr(
        module, "_probe_one", lambda *args, one=module._probe_one: asked.append(args[-1].video) or one(*args)
    )
    assert check_files([tmp_path / "rl.jsonl"], out, root, Threads(1)).kept == first.kept == 3
    assert sorted(asked) == ["0.mp4", "2.mp4"]
    asked.clear()
    check_files([tmp_path / "rl.jsonl"], out, root, Threads(1))
    assert asked == []


def test_clips_of_two_splits_leave_the_lower_one(tmp_path):
    root, out = tmp_path / "videos", tmp_path / "out"
    root.mkdir()
    for number in range(4):
        videos.write_video(root / f"{number}.mp4", seed=number)
    (root / "copy.mp4").write_bytes((root / "3.mp4").read_bytes())
    train = [sample(0), sample(1), sample(2, split="sft"), sample(3, video="copy.mp4")]
    test = [sample(n, split="test") for n in (1, 3)]
    write_samples(tmp_path / "train.jsonl", train)
    write_samples(tmp_path / "test.jsonl", test)
    found = check_files([tmp_path / "train.jsonl", tmp_path / "test.jsonl"], out, root, Threads(1))
    assert [s.id for s in read_samples(out / "clean.train.jsonl")] == ["s0", "s2"]
    assert list(read_samples(out / "clean.test.jsonl")) == test
    assert quarantine(out)["2"] == "split: leak: the clip 1.mp4 is also in test"
    assert quarantine(out)["4"] == "split: leak: the clip copy.mp4 is also in test, as 3.mp4"
    assert found.notes["a copy of another video"] == 1


def test_a_validation_set_that_is_the_test_set_is_refused(tmp_path):
    test = [sample(n, split="test") for n in range(4)]
    val = [s.model_copy(update={"split": "val", "id": f"v{s.id}"}) for s in test]
    write_samples(tmp_path / "val.jsonl", val)
    write_samples(tmp_path / "test.jsonl", test)
    with pytest.raises(SplitError, match="all 4 questions of the validation set are in the test set"):
        check_files([tmp_path / "val.jsonl", tmp_path / "test.jsonl"], tmp_path / "out")
    splits = Splits()
    for one in [sample(5), *val[:2], *test[2:]]:
        splits.add(one)
    splits.refuse_equal()


def uses(*samples: Sample) -> Uses:
    return Uses((one.split, one.video) for one in samples)


def test_clips_that_are_evaluated_are_not_trained_on():
    val, test = [sample(n, split="val") for n in range(2)], [sample(n, split="test") for n in (2, 3)]
    refuse_leaks([uses(sample(5), sample(5, split="sft")), uses(*val), uses(*test)])
    train = [sample(5), sample(1), sample(1), sample(3)]
    with pytest.raises(SplitError, match=r"3 samples of rl show clips of val, 1.mp4 first"):
        refuse_leaks([uses(*train), uses(*val), uses(*test)])
    contents = {f"{n}.mp4": name for n, name in enumerate("abcdea")}  # 5.mp4 is a copy of 0.mp4
    with pytest.raises(SplitError, match=r"1 samples of rl show clips of val, a first"):
        refuse_leaks([uses(sample(5)), uses(*val)], contents)
    refuse_leaks([uses(sample(1)), uses(*val)], {"5.mp4": "a"})  # a video without a clip is left out


def test_what_is_worth_knowing_is_counted(tmp_path):
    twice = sample(0, id="again")
    other = sample(0, id="other", answer="B")
    write_samples(tmp_path / "rl.jsonl", [sample(0), twice, other])
    found = check_files([tmp_path / "rl.jsonl"], tmp_path / "out")
    assert found.notes == {
        "a repeated question": 1,
        "a repeated question, with another answer": 1,
    }


def test_moments_that_end_after_the_clip_are_counted(tmp_path):
    moments = [("a", [[0.2, 0.9]]), ("b", [[0.2, 1.05]]), ("c", [[0.2, 2.5]])]
    asked = {"task": "temporal_grounding", "options": [], "answer": "", "video": "1.mp4"}
    write_samples(tmp_path / "rl.jsonl", [sample(1, id=id, spans=spans, **asked) for id, spans in moments])
    (tmp_path / "videos").mkdir()
    videos.write_video(tmp_path / "videos" / "1.mp4", frames=8, fps=8)
    found = check_files([tmp_path / "rl.jsonl"], tmp_path / "out", tmp_path / "videos")
    assert (found.kept, found.notes["a moment that ends after its clip"]) == (3, 1)
    write_samples(tmp_path / "rl.jsonl", [sample(1, spans=[[0, 9]], duration=8.0, **asked)])
    found = check_files([tmp_path / "rl.jsonl"], tmp_path / "out")
    assert found.notes["a moment that ends after its clip"] == 1


def test_the_page_links_to_no_file_outside_of_the_media_root(tmp_path):
    (tmp_path / "videos").mkdir()
    lines = [sample(number).model_dump_json().replace(f"{number}.mp4", "/etc/passwd") for number in range(2)]
    (tmp_path / "rl.jsonl").write_text("\n".join(lines))
    check_files([tmp_path / "rl.jsonl"], tmp_path / "out", tmp_path / "videos")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "/etc/passwd" in page and "href=" not in page and "<video src" not in page


def test_half_a_character_is_quarantined(tmp_path):
    """JSON can name it, and no file can hold it."""
    lines = [sample(number).model_dump_json() for number in range(2)]
    for name in ("extras", "chain"):
        with pytest.raises(ValidationError, match="holds half a character, .*'.ud83d'"):
            sample(3, **{name: {"a": ["\ud83d"]} if name == "extras" else "\ud83d?"})
    lines.append(lines[0].replace('"id":"', '"id":"\\ud83d'))
    (tmp_path / "rl.jsonl").write_text("\n".join(lines))
    found = check_files([tmp_path / "rl.jsonl"], tmp_path / "out")
    assert (found.kept, found.quarantined) == (2, 1)


def test_the_page_trusts_no_text(tmp_path):
    evil = "<script>alert(1)</script>"
    write_samples(tmp_path / f"{'a'}.jsonl", [sample(0, question=evil, options=["No", evil], task="choice")])
    check_files([tmp_path / "a.jsonl"], tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert evil not in page and "&lt;script&gt;" in page


def test_the_page_says_what_was_left_out_of_which_split_and_what_to_do_next(tmp_path):
    root, out = tmp_path / "my videos", tmp_path / "out"
    root.mkdir()
    for number in range(3):
        videos.write_video(root / f"{number}.mp4", seed=number)
    (root / "broken é.mp4").write_text("no video")
    kept = [sample(0), sample(1, split="test"), sample(2, split="test", video="broken é.mp4")]
    write_samples(tmp_path / "mine.jsonl", kept)
    wrong = sample(3, video="2.mp4").model_dump_json().replace('"answer":"B"', '"answer":"Z"')
    with (tmp_path / "mine.jsonl").open("a") as out_file:
        out_file.write(f'{wrong}\n{{"id": [1], "split": ["rl"], "images": {{}}}}\n[1]\n')
    found = check_files([tmp_path / "mine.jsonl"], out, root, Threads(2))
    assert found.by_split == {"rl": (1, 1), "test": (1, 1), "": (0, 2)}
    assert set(found.letters) == {("rl", "binary"), ("test", "binary")}
    page = (out / "index.html").read_text()
    assert "<h1>Check of mine.jsonl</h1>" in page and "6 records = 2 kept + 4 quarantined" in page
    assert '<a href="../my%20videos/broken%20%C3%A9.mp4">broken é.mp4</a>' in page
    assert '<video src="../my%20videos/2.mp4"' in page  # its label is wrong: the clip can be seen
    assert f"data.media_root=&#39;{root}&#39; " in page and str(out / "clean.jsonl") in page


def test_settings_that_cannot_work(tmp_path):
    write_samples(tmp_path / "a.jsonl", [sample(0)])
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(CheckError, match="no records"):
        check_files([tmp_path / "empty.jsonl"], tmp_path / "out")
    with pytest.raises(CheckError, match="no such folder"):
        check_files([tmp_path / "a.jsonl"], tmp_path / "out", tmp_path / "gone")
    with pytest.raises(CheckError, match="same name"):
        check_files([tmp_path / "a.jsonl", tmp_path / "x" / "a.jsonl"], tmp_path / "out")


def large_file(path: Path, records: int) -> Path:
    """Records about 20 questions per clip, no two alike."""
    record = sample(0).model_dump(exclude_none=True)
    with path.open("w") as out:
        for n in range(records):
            own = {"id": f"sample-{n}", "video": f"clips/{n // 20:07d}.mp4", "question": f"Does it move in scene {n}?"}
            out.write(json.dumps(record | own) + "\n")
    return path


def measured(path: Path, out: Path) -> tuple[int, float]:
    """Records kept, and GiB of memory at most, of a check in a process of its own."""
    code = (
        "import re, sys; from pathlib import Path; from data_tools.check import check_files\n"
        "found = check_files([Path(sys.argv[1])], Path(sys.argv[2]))\n"
        # Not getrusage: its peak is that of the process we were forked from, where that was larger.
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]\n"
        "sys.stdout.write(f'{found.kept} {peak}')"
    )
    command = [sys.executable, "-c", code, str(path), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    kept, kib = done.stdout.split()
    return int(kept), int(kib) / 2**20


@pytest.mark.e2e
def test_memory_does_not_grow_with_the_records(tmp_path):
    few = measured(large_file(tmp_path / "few.jsonl", 1_000), tmp_path / "few")
    many = measured(large_file(tmp_path / "many.jsonl", 30_000), tmp_path / "many")
    assert few[0] == 1_000 and many[0] == 30_000
    assert (many[1] - few[1]) / 29_000 * 1_000_000 < 0.8  # GiB more for a million


@pytest.mark.e2e
def test_a_million_records_within_a_gigabyte(tmp_path):
    kept, gib = measured(large_file(tmp_path / "a.jsonl", 1_000_000), tmp_path / "out")
    assert kept == 1_000_000 and gib < 1


def command(*words: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "data_tools.check", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2])


def test_the_command_ends_in_one_line(tmp_path):
    write_samples(tmp_path / "a.jsonl", [sample(0), sample(1)])
    done = command(tmp_path / "a.jsonl", f"out={tmp_path / 'out'}")
    assert done.returncode == 0 and "2 records = 2 kept + 0 quarantined" in done.stderr
    done = command(tmp_path / "a.jsonl", f"out={tmp_path / 'out'}", "media_root=/nowhere")
    assert done.returncode == 1 and done.stderr.strip() == "error /nowhere: no such folder of videos"
    assert "media_root=" in command("--help").stdout


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("video", "a\0.mp4", "video: .*NUL byte"),
        ("question", " \t", "question: is blank"),
        ("options", ["Yes", "yes "], "options: choice needs two or more different options"),
        ("options", [str(number) for number in range(27)], "options: 27, more than letters"),
    ],
)
def test_what_no_engine_could_take_is_no_sample(field, value, said):
    fields = {"id": "1", "video": "a.mp4", "source": "mine", "split": "rl", "question": "Does it pan?"}
    fields |= {"task": "choice", "options": ["No", "Yes"], "answer": "A", field: value}
    with pytest.raises(FieldError, match=said):
        parse_sample(json.dumps(fields).encode())
