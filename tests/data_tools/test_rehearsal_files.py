"""The files of a rehearsal are read by the sources and benchmarks of real files, and their answers are true."""

from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from data_tools.quarantine import Rejected
from data_tools.rehearsal import camreasoner, videochat_r1, videop2r
from data_tools.rehearsal.clips import Camera
from data_tools.rendered.questions import BINARY_QUESTIONS
from data_tools.rendered.scene import read_clip
from data_tools.sample import Sample
from data_tools.sources import named, read_source
from evaluation.benchmarks import BENCHMARKS, read_labels
from rewards.motions import NAMES

pytestmark = pytest.mark.e2e  # all files of three studies are made

STUDIES: tuple[ModuleType, ...] = (camreasoner, videop2r, videochat_r1)
ANNOTATIONS = "videochat_r1/Annotations"
SFT = "camreasoner/LLaMA-Factory/data/camerabench_sft.json"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for study in STUDIES:
        study.write(folder / study.__name__.rpartition(".")[2])
    return folder


def read(source: str, path: Path) -> tuple[list[Sample], list[Rejected]]:
    left_out: list[Rejected] = []
    return list(read_source(named(source), path, "rl", left_out.append)), left_out


@pytest.mark.parametrize(
    ("source", "path", "samples", "left_out"),
    [
        (
            "camreasoner_sft",
            SFT,
            136,
            {"question": 1, "messages": 1, "answer": 1},
        ),
        ("camreasoner_rl", "camreasoner/EasyR1/camerabench_rl.json", 61, {}),
        ("camerabench_binary", "camreasoner/benchmarks/camerabench/binary_classification", 60, {}),
        ("camerabench_vqa", "camreasoner/benchmarks/camerabench/vqa_and_retrieval", 88, {}),
        ("video_r1_cot", "videop2r/Video-R1-COT-165k.json", 81, {}),
        ("video_r1", "videop2r/Video-R1-260k.json", 41, {}),
        ("charades_sta", f"{ANNOTATIONS}/Charades/charades_annotation/train.json", 25, {"spans": 1}),
        ("charades_sta", f"{ANNOTATIONS}/Charades/charades_annotation/charades_test.json", 8, {}),
        ("activitynet", f"{ANNOTATIONS}/ActivityNet/activitynet_annotation/test.json", 6, {}),
        ("got10k", f"{ANNOTATIONS}/Got/got_train.json", 20, {}),
        ("nextgqa", f"{ANNOTATIONS}/NextGQA/nextgqa_val.json", 20, {}),
    ],
)
def test_a_source_reads_its_file_and_sets_the_odd_records_aside(files, source, path, samples, left_out):
    kept, rejected = read(source, files / path)
    assert len(kept) == samples
    assert Counter(one.field for one in rejected) == left_out


def test_every_video_lies_where_the_labels_say_but_for_one_that_no_decoder_reads(files):
    for path, folder, source in (
        (SFT, "camreasoner/videos", "camreasoner_sft"),
        ("videop2r/Video-R1-COT-165k.json", "videop2r/videos", "video_r1_cot"),
        (f"{ANNOTATIONS}/Charades/charades_annotation/train.json", "videochat_r1/videos/charades", "charades_sta"),
    ):
        kept, _ = read(source, files / path)
        videos = {name for sample in kept for name in sample.media}
        assert all((files / folder / video).is_file() for video in videos)
        assert len([video for video in videos if b"503" in (files / folder / video).read_bytes()]) == 1


@pytest.mark.parametrize(
    ("benchmark", "path", "only", "count"),
    [
        ("camerabench_binary", "camreasoner/benchmarks/camerabench/binary_classification", None, 60),
        ("camerabench_vqa", "camreasoner/benchmarks/camerabench/vqa_and_retrieval", list(camreasoner.SKILLS), 88),
        ("shotbench", "camreasoner/benchmarks/shotbench/test.tsv", None, 14),
        ("refineshot", "camreasoner/benchmarks/refineshot/test.tsv", ["camera movement"], 8),
        ("vsibench", "videop2r/benchmarks/vsibench/test.jsonl", None, 12),
        ("video_mmmu", "videop2r/benchmarks/video_mmmu/data", None, 9),
        ("mmvu", "videop2r/benchmarks/mmvu/validation.json", None, 6),
        ("vcrbench", "videop2r/benchmarks/vcrbench/v1/videos/meta_info_video.json", None, 6),
        ("mvbench", "videop2r/benchmarks/mvbench/json", ["action_sequence", "moving_direction"], 6),
        ("tempcompass", "videop2r/benchmarks/tempcompass/questions", None, 12),
        ("videomme", "videochat_r1/benchmarks/videomme/videomme/test-00000-of-00001.parquet", None, 6),
        ("perception_test", "videochat_r1/benchmarks/perception_test/mc_question_valid.json", None, 3),
        ("dream1k", "videochat_r1/benchmarks/dream1k/DREAM-1k.jsonl", None, 3),
        ("charades_sta", f"{ANNOTATIONS}/Charades/charades_annotation/charades_test.json", None, 8),
        ("activitynet", f"{ANNOTATIONS}/ActivityNet/activitynet_annotation/test.json", None, 6),
        ("got10k", f"{ANNOTATIONS}/Got/got_val.json", None, 8),
        ("nextgqa", f"{ANNOTATIONS}/NextGQA/nextgqa_test.json", None, 8),
        (
            "vidtab_qa",
            f"{ANNOTATIONS}/VideoEval/Quality_Access/annotations/Quality_Access_test.json",
            None,
            8,
        ),
    ],
)
def test_a_benchmark_reads_its_labels(files, benchmark, path, only, count):
    assert len(read_labels(BENCHMARKS[benchmark], files / path, only)) == count


def test_sequences_are_pictures_that_the_documented_command_made_clips_of(files):
    kept, _ = read("got10k", files / ANNOTATIONS / "Got/got_val.json")
    for sample in kept:
        assert len(list((files / "videochat_r1/GOT-10k/val" / sample.id).glob("*.jpg"))) == 8
        assert len(read_clip(files / "videochat_r1/videos/got" / sample.video)) == 8 == len(sample.boxes)


def test_answers_follow_the_camera_track(files):
    """A clip's motion is named by the choice about it, and its yes/no questions agree."""
    kept, _ = read("camreasoner_sft", files / SFT)
    shown = {sample.video: sample.answer_text for sample in kept if sample.task == "choice"}
    asked = {wording: NAMES[motion] for motion, wording in BINARY_QUESTIONS.items()}
    binary = [sample for sample in kept if sample.task == "binary"]
    assert len(binary) == 90
    assert all((sample.answer_text == "Yes") == (asked[sample.question] == shown[sample.video]) for sample in binary)


def test_problems_are_of_five_kinds_and_their_chains_end_on_the_answer(files):
    kept, _ = read("video_r1_cot", files / "videop2r/Video-R1-COT-165k.json")
    tasks = Counter(sample.task for sample in kept)
    assert set(tasks) == {"choice", "numerical", "regression", "ocr", "open_ended"} and min(tasks.values()) >= 12
    assert all(sample.chain.endswith(f"<answer>{sample.answer}</answer>") for sample in kept)


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_clips(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        Camera(tmp_path / name, seed).film("x y.mp4", "pan_left", "sign")
    one, same, other = ((tmp_path / name / "x y.mp4").read_bytes() for name in "abc")
    assert one == same != other


def test_a_clip_has_the_size_and_rate_that_were_asked_for(tmp_path):
    shot = Camera(tmp_path).film("a.mp4", "zoom_in", "moment", seconds=4, fps=2.0, size=(44, 56))
    assert read_clip(tmp_path / "a.mp4").shape == (8, 56, 44, 3)
    assert shot.motion == "zoom_in" and shot.span is not None and shot.span[1] <= shot.duration == 4
