import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_images import write_image
from made_videos import write_video
from PIL import Image

from data_tools.check import check_files
from data_tools.controls import UnmappedError, controlled
from data_tools.labels import LabelFile, Wanted
from data_tools.media.budget import Budget, MediaError, Stills
from data_tools.media.parallel import ALL_CORES
from data_tools.media.stills import normalise, picture_of
from data_tools.prepare import Videos, prepare_files
from data_tools.prompt import Form, user_text
from data_tools.run_folder import RunFolder
from data_tools.sample import FieldError, Sample, parse_sample, write_samples
from data_tools.sources import named, read_source
from data_tools.sources.base import about_images
from data_tools.synthesis.request import request_for
from data_tools.synthesis.settings import Settings
from data_tools.tokens import check_question
from rewards.tasks import accuracy

BUDGET = Budget(fps=2, max_frames=4, min_frames=4, max_pixels=7056, min_pixels=784)
WIDER = "Is <image> wider than <image>?"
STILLS = Stills(max_pixels=12544, min_pixels=3136, most=2)


def sample(number: int = 0, split: str = "rl", **fields) -> Sample:
    base = {"id": f"{split}{number}", "question": f"Is {number} wide?", "task": "binary", "options": ["No", "Yes"]}
    shown = {} if "video" in fields else {"images": [f"{split}{number}.png"]}
    return Sample.model_validate(base | {"answer": "B", "source": "mine", "split": split} | shown | fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"images": []}, "video: is missing, and so are images"),
        ({"video": "a.mp4", "images": ["a.png"]}, "shows a video or images, not both"),
        ({"images": ["a.png"], "question": "<image> or <image>?"}, "1 for 2 placeholders"),
        ({"images": ["../a.png"]}, "stay under the media root"),
        ({"images": ["a.png"], "start": 1.0}, "an image has no seconds"),
    ],
)
def test_a_sample_shows_one_video_or_images(fields, reason):
    record = json.loads(sample().model_dump_json()) | fields
    with pytest.raises(FieldError, match=reason):
        parse_sample(json.dumps(record).encode())


def test_images_stand_where_their_placeholders_do_or_in_front():
    two = {"images": ["a.png", "b.png"]}
    assert user_text(sample(**two)).startswith("<image><image>Is 0 wide?")
    within = sample(**two, question=WIDER)
    assert user_text(within).startswith("Is <image> wider than <image>?")
    check_question(within, Form())
    with pytest.raises(FieldError, match="holds <video>"):
        check_question(sample(question="<video>?"), Form())
    with pytest.raises(FieldError, match="holds <image>"):
        check_question(sample(video="a.mp4", question="<image>?"), Form())


def test_a_picture_is_lossless_in_its_final_size_and_as_viewers_show_it(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by a quarter
    wide = write_image(tmp_path / "wide.jpg", 300, 100, exif=turned)
    still = normalise(wide, STILLS, tmp_path / "store")
    assert (still.width, still.height) == (56, 168) and still.tokens(28) == 12
    with Image.open(tmp_path / "store" / still.image) as made:
        expected = picture_of(wide)[0].resize((56, 168), Image.Resampling.BICUBIC)
        assert made.format == "PNG" and np.array_equal(np.asarray(made), np.asarray(expected))
    copy = (tmp_path / "copy.jpg").resolve()
    copy.write_bytes(wide.read_bytes())
    assert normalise(copy, STILLS, tmp_path / "store") == still  # by content
    clear = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert picture_of(tmp_path / "clear.png")[0].getpixel((5, 5)) == (255, 255, 255)


def test_a_budget_that_a_loader_would_change_is_refused():
    with pytest.raises(MediaError, match="enlarges images"):
        Stills(max_pixels=12544, min_pixels=784, most=1)
    with pytest.raises(MediaError, match="shrinks images"):
        Stills(max_pixels=2**24, min_pixels=3136, most=1)
    with pytest.raises(MediaError, match="max_pixels"):  # Qwen3-VL's processor enlarges more
        Stills(max_pixels=65536, min_pixels=4096, most=1, token_side=32)


def files_of(root: Path) -> dict[str, list[LabelFile]]:
    """A video, an image and two images per split, and a broken image."""
    labels = {}
    for seed, split in enumerate(("sft", "rl", "test")):
        write_video(root / f"{split}.mp4", seed=seed)
        write_image(root / f"{split}1.png", seed=3 * seed)
        write_image(root / f"{split}2.jpg", 90, 150, seed=3 * seed + 1)
        chain = {"chain": "<observation>o</observation><think>t</think><answer>B</answer>"} if split == "sft" else {}
        samples = [
            sample(0, split, video=f"{split}.mp4", **chain),
            sample(1, split, **chain),
            sample(2, split, images=[f"{split}1.png", f"{split}2.jpg"], question=WIDER, **chain),
        ]
        if split == "rl":
            (root / "broken.png").write_bytes(b"<html>")
            samples.append(sample(3, split, images=["rl1.png", "broken.png"]))
        write_samples(root / f"{split}.jsonl", samples)
        labels[split] = [LabelFile(root / f"{split}.jsonl")]
    return labels


def test_images_and_videos_go_side_by_side_to_the_files_of_all_engines(tmp_path):
    run = RunFolder(tmp_path / "run")
    root = tmp_path / "media"
    root.mkdir()
    videos = Videos(root, tmp_path / "store", BUDGET, 0.2, stills=STILLS)
    said: list[str] = []
    labels = files_of(root)
    form = Wanted(Form(reward={"name": "camreasoner"}), images=2)
    counts = prepare_files(run, labels, videos, form, ALL_CORES, said.append, lambda done, total: None)
    assert counts == {"sft": 3, "rl": 3, "test": 3}
    (left_out,) = [json.loads(line) for line in run.quarantine.read_text().splitlines()]
    assert left_out["field"] == "images" and "no_image" in left_out["reason"]

    chains = json.loads((run.llamafactory_data / "sft.json").read_text())
    info = json.loads((run.llamafactory_data / "dataset_info.json").read_text())["sft"]["columns"]
    assert info == {"messages": "messages", "videos": "videos", "images": "images"}
    assert [len(row["videos"]) for row in chains] == [1, 0, 0]
    assert [len(row.get("images", ())) for row in chains] == [0, 1, 2]
    assert all((run.data / image).suffix == ".png" for row in chains for image in row.get("images", ()))

    rows = pq.read_table(run.verl_data("rl")).to_pylist()
    assert [(len(row["videos"]), len(row["images"])) for row in rows] == [(1, 0), (0, 1), (0, 2)]
    assert rows[2]["prompt"][-1]["content"].startswith("Is <image> wider than <image>?")
    item = rows[1]["images"][0]
    with Image.open(item["image"]) as made:
        assert made.size == (item["resized_width"], item["resized_height"])


def test_without_a_budget_for_images_their_samples_are_left_out_with_the_key(tmp_path):
    run = RunFolder(tmp_path / "run")
    labels = files_of(tmp_path)
    videos = Videos(tmp_path, tmp_path / "store", BUDGET, 0.2)
    wanted = Wanted(Form(reward={"name": "camreasoner"}))
    counts = prepare_files(run, labels, videos, wanted, ALL_CORES, lambda text: None, lambda done, total: None)
    assert counts == {"sft": 1, "rl": 1, "test": 1}
    reasons = [json.loads(line) for line in run.rejected("test").read_text().splitlines()]
    assert [reason["reason"] for reason in reasons] == [
        f"shows {count}, and the media budget takes none: give media.images" for count in (1, 2)
    ]


def test_the_check_reads_images_and_finds_copies_in_other_splits(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    write_image(tmp_path / "b.webp", seed=1)
    (tmp_path / "broken.jpg").write_bytes((write_image(tmp_path / "whole.jpg")).read_bytes()[:200])
    rl = [sample(0, images=["a.png", "b.webp"]), sample(1, images=["b.webp"]), sample(2, images=["broken.jpg"])]
    write_samples(tmp_path / "rl.jsonl", rl)
    write_samples(tmp_path / "test.jsonl", [sample(0, "test", images=["copy.png"])])
    found = check_files([tmp_path / "rl.jsonl", tmp_path / "test.jsonl"], tmp_path / "out", tmp_path)
    assert (found.kept, found.quarantined, found.images, found.broken) == (2, 2, 4, 1)
    reasons = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [reason["field"] for reason in reasons] == ["split", "images"]
    assert "leak: the image a.png is also in test, as copy.png" in reasons[0]["reason"]


def test_published_records_about_images_are_samples(tmp_path):
    problem = {"problem": "Which is larger?", "problem_type": "multiple choice", "solution": "<answer>B</answer>"}
    problem |= {"options": ["A. left", "B. right"], "data_type": "image"}
    records = [problem | {"path": "./Chart/1.png"}, problem | {"images": ["2.png", "3.png"]}, problem]
    (tmp_path / "problems.json").write_text(json.dumps(records))
    bad: list = []
    samples = list(read_source(named("video_r1"), tmp_path / "problems.json", "rl", bad.append, "set"))
    assert [one.images for one in samples] == [["set/Chart/1.png"], ["set/2.png", "set/3.png"]]
    assert [one.field for one in bad] == ["images"]

    turns = [
        {"from": "human", "value": "Is <image>\nwider than <image>?\nOptions:\nA. No\nB. Yes"},
        {"from": "gpt", "value": "<think>t</think><answer>B</answer>"},
    ]
    record = {"conversations": turns, "images": ["1.png", "2.png"]}
    (tmp_path / "chains.json").write_text(json.dumps([record, record | {"video": "a.mp4"}]))
    (chain,) = read_source(named("onethinker_sft"), tmp_path / "chains.json", "sft", bad.append)
    assert (chain.images, chain.question) == (["1.png", "2.png"], "Is <image>\nwider than <image>?")
    assert bad[-1].field == "videos"


MMMU = {
    "id": "validation_Art_1",
    "question": "<image 1> Which painting is by the same hand as <image 1>?",
    "options": "['<image 2>', '<image 3>', 'none: see <image 4>']",
    "answer": "B",
    "image_1": "1.png",
    "image_2": {"path": "2.png", "bytes": None},
    "image_3": "3.png",
    "image_4": "4.png",
    "image_5": None,
}


def test_a_record_of_mmmu_shows_each_image_where_its_number_stands(tmp_path):
    """Placeholders with numbers in question and options, one named twice, and options that are images alone."""
    open_one = {"question": "How many, <image 1>?", "options": "[]", "answer": "24", "image_1": "1.png"}
    rows = [MMMU, MMMU | open_one | {"image_2": None, "image_3": None, "image_4": None}]
    rows += [MMMU | {"id": "x", "question": "As in <image 5>?"}]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad: list = []
    first, second = read_source(named("easyr1"), tmp_path / "val.jsonl", "test", bad.append, "mmmu")
    assert first.images == [f"mmmu/{number}.png" for number in (1, 2, 3, 4)]
    assert user_text(first) == (
        "<image> Which painting is by the same hand as image 1?\n"
        "A. image 2: <image>\nB. image 3: <image>\nC. none: see <image>"
    )
    check_question(first, Form())
    rewards = [accuracy(answer, first.model_dump()) for answer in ("B", "A", "C", "image 3: <image>")]
    assert rewards == [1, 0, 0, 1]  # options that look alike in text are not one
    assert (second.task, second.images, user_text(second)) == ("numerical", ["mmmu/1.png"], "How many, <image>?")
    assert [(one.field, one.reason) for one in bad] == [("question", "holds <image 5>, of 4 image(s)")]


def test_images_out_of_order_are_told_by_the_place_at_which_they_are_shown():
    told = about_images("Is <image 3> larger than <image 2>? And image 3, <image 3>?", [], ["a", "b", "c"])
    assert told["images"] == ["a", "c", "b"]
    assert told["question"] == "<image>Is <image> larger than <image>? And image 3, image 2?"


def test_controls_of_images_keep_what_their_label_follows_from():
    asked = sample(images=["a.png"], question="Is the man on the left?")
    assert controlled(asked, "blank", 0) == asked
    assert controlled(asked, "mirrored", 0).question == "Is the man on the right?"
    for control in ("shuffled_frames", "reversed"):
        with pytest.raises(UnmappedError, match="images have no frames"):
            controlled(asked, control, 0)


def test_a_generator_is_shown_each_image_where_it_stands(tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    settings = Settings.model_construct(
        media_root=str(tmp_path), reveal_answer=False, instruction=None, send="file", budget=None
    )
    asked = sample(images=["a.png", "b.png"], question=WIDER)
    (turn,) = request_for(asked, settings)
    kinds = [part["type"] for part in turn["content"]]
    assert kinds == ["text", "image_url", "text", "image_url", "text"]
