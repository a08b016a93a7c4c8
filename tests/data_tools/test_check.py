import json
import socket
import subprocess
import sys
from pathlib import Path

import made_videos as videos
import pytest
import typer.testing

from data_tools.check import CheckError, check, main
from data_tools.parallel import WorkerError
from data_tools.sample import Sample, read_samples, write_samples
from data_tools.splits import SplitError, Splits, refuse_leaks


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
        text[0],  # its id stands twice
        "[1]",
        '{"id": "x"}',
        sample(7).model_dump_json().replace('"7.mp4"', '"../7.mp4"'),
        sample(8, question="<video> moves?").model_dump_json(),
        sample(9, task="open_ended", options=[], answer="...").model_dump_json(),
        '{"id": "' + "x" * 9_000_000 + '"}',
    ]
    path.write_bytes(("\ufeff" + "\r\n".join([*text, *bad]) + "\n").encode() + b'{"id": "\xff"}\n')
    found = check([path], tmp_path / "out")
    assert (found.records, found.kept, found.quarantined) == (14, 6, 8)
    assert list(read_samples(tmp_path / "out" / "clean.jsonl")) == good
    reasons = quarantine(tmp_path / "out")
    assert [reason.partition(":")[0] for reason in reasons.values()] == [
        "id", "record", "video", "video", "question", "answer", "record", "record",
    ]  # fmt: skip
    assert list(reasons) == [str(number) for number in range(7, 15)]
    assert found.letters["binary"] == {"A": 3, "B": 3} and found.answers["binary"] == {"No": 3, "Yes": 3}
    assert list(found.templates) == ["Does the camera move in clip #?"]


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
    write_samples(tmp_path / "rl.jsonl", samples)
    calls = []
    found = check(
        [tmp_path / "rl.jsonl"], out, root, workers=2, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(n, 6) for n in range(1, 7)]
    assert [s.id for s in read_samples(out / "clean.jsonl")] == ["s0", "s1", "s6"]
    assert {line: reason.split(": ")[1] for line, reason in quarantine(out).items()} == {
        "3": "outside",
        "4": "no_video",
        "5": "empty",
        "6": "missing",
        "8": "one starts after the end of the clip, at 1.00 s",
    }
    assert (found.videos, found.broken) == (6, 4) and found.formats == {"h264, yuv420p": 2}
    page = (out / "index.html").read_text()
    assert "8 records = 3 kept + 5 quarantined" in page and "http" not in page


def test_a_second_check_decodes_what_is_new(tmp_path, monkeypatch):
    import data_tools.check as module

    root, out = tmp_path / "videos", tmp_path / "out"
    root.mkdir()
    for number in range(3):
        videos.write_video(root / f"{number}.mp4", seed=number)
    write_samples(tmp_path / "rl.jsonl", [sample(n) for n in range(3)])
    first = check([tmp_path / "rl.jsonl"], out, root, workers=1)
    lines = (out / "probes.jsonl").read_bytes().splitlines(keepends=True)
    (out / "probes.jsonl").write_bytes(lines[0] + lines[1] + lines[2][:40])  # killed while it wrote
    videos.write_video(root / "0.mp4", seed=9, frames=9)
    asked = []
    monkeypatch.setattr(module, "_probe_one", lambda *args, one=module._probe_one: asked.append(args[2]) or one(*args))
    assert check([tmp_path / "rl.jsonl"], out, root, workers=1).kept == first.kept == 3
    assert sorted(asked) == ["0.mp4", "2.mp4"]
    asked.clear()
    check([tmp_path / "rl.jsonl"], out, root, workers=1)
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
    found = check([tmp_path / "train.jsonl", tmp_path / "test.jsonl"], out, root, workers=1)
    assert [s.id for s in read_samples(out / "clean.train.jsonl")] == ["s0", "s2"]
    assert list(read_samples(out / "clean.test.jsonl")) == test
    assert quarantine(out)["4"] == "split: leak: the clip copy.mp4 is of test, too"
    assert found.notes["a video whose bytes another video has"] == 1


def test_a_validation_set_that_is_the_test_set_is_refused(tmp_path):
    test = [sample(n, split="test") for n in range(4)]
    val = [s.model_copy(update={"split": "val", "id": f"v{s.id}"}) for s in test]
    write_samples(tmp_path / "val.jsonl", val)
    write_samples(tmp_path / "test.jsonl", test)
    with pytest.raises(SplitError, match="all 4 questions of the validation set stand in the test set"):
        check([tmp_path / "val.jsonl", tmp_path / "test.jsonl"], tmp_path / "out")
    splits = Splits()
    for one in [sample(5), *val[:2], *test[2:]]:
        splits.add(one)
    splits.refuse_equal()
    refuse_leaks([sample(5), *val[:2]], splits)
    with pytest.raises(SplitError, match=r"1 samples of rl show clips of val, 1.mp4 first"):
        refuse_leaks([sample(5), sample(1)], splits)


def test_what_is_worth_knowing_is_counted(tmp_path):
    twice = sample(0, id="again")
    other = sample(0, id="other", answer="B")
    write_samples(tmp_path / "rl.jsonl", [sample(0), twice, other])
    found = check([tmp_path / "rl.jsonl"], tmp_path / "out")
    assert found.notes == {
        "a question that stands there before": 1,
        "a question that stands there before, with another answer": 1,
    }


def test_the_page_trusts_no_text(tmp_path):
    evil = "<script>alert(1)</script>"
    write_samples(tmp_path / f"{'a'}.jsonl", [sample(0, question=evil, options=["No", evil], task="choice")])
    check([tmp_path / "a.jsonl"], tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert evil not in page and "&lt;script&gt;" in page


def test_settings_that_cannot_work(tmp_path):
    write_samples(tmp_path / "a.jsonl", [sample(0)])
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(CheckError, match="no record"):
        check([tmp_path / "empty.jsonl"], tmp_path / "out")
    with pytest.raises(CheckError, match="no such folder"):
        check([tmp_path / "a.jsonl"], tmp_path / "out", tmp_path / "gone")
    with pytest.raises(CheckError, match="same name"):
        check([tmp_path / "a.jsonl", tmp_path / "x" / "a.jsonl"], tmp_path / "out")


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
        "import re, sys; from pathlib import Path; from data_tools.check import check\n"
        "found = check([Path(sys.argv[1])], Path(sys.argv[2]))\n"
        # Not getrusage: its peak is that of the process we were forked from, where that was larger.
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]\n"
        "sys.stdout.write(f'{found.kept} {peak}')"
    )
    command = [sys.executable, "-c", code, str(path), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    kept, kib = done.stdout.split()
    return int(kept), int(kib) / 2**20


def test_memory_does_not_grow_with_the_records(tmp_path):
    few = measured(large_file(tmp_path / "few.jsonl", 1_000), tmp_path / "few")
    many = measured(large_file(tmp_path / "many.jsonl", 30_000), tmp_path / "many")
    assert few[0] == 1_000 and many[0] == 30_000
    assert (many[1] - few[1]) / 29_000 * 1_000_000 < 0.8  # GiB more for a million


@pytest.mark.e2e
def test_a_million_records_within_a_gigabyte(tmp_path):
    kept, gib = measured(large_file(tmp_path / "a.jsonl", 1_000_000), tmp_path / "out")
    assert kept == 1_000_000 and gib < 1


def test_the_command_ends_in_one_line(tmp_path):
    write_samples(tmp_path / "a.jsonl", [sample(0), sample(1)])
    command = typer.testing.CliRunner()
    app = typer.Typer()
    app.command()(main)
    done = command.invoke(app, [str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0 and "2 records = 2 kept + 0 quarantined" in done.output
    done = command.invoke(app, [str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out"), "--media-root", "/nowhere"])
    assert done.exit_code == 1 and "error: /nowhere: no such folder of videos" in done.output


def test_a_cluster_that_is_not_there_is_named(tmp_path):
    (tmp_path / "0.mp4").touch()
    write_samples(tmp_path / "a.jsonl", [sample(0)])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(WorkerError, match=f"no Ray cluster at {address}: .*refused"):
            check([tmp_path / "a.jsonl"], tmp_path / "out", tmp_path, ray=address)
