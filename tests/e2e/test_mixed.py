"""Clips, pictures and several pictures in one data set, through every stage, SFT and RL on two ranks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chain import lines, run
from safetensors.torch import load_file

from data_tools.rehearsal import words
from data_tools.rehearsal.clips import Camera

COUNTS = {"sft": 8, "rl": 4, "test": 4}  # samples of each kind
MIXED = [
    "data=files",
    "reward=camreasoner",
    "media.images={max_pixels: 12544, min_pixels: 3136, most: 2}",
    "media.max_pixels=3136",
    # The tower is trained, too, so that its gradients are summed over the ranks.
    *("sft.freeze_vision_tower=false", "sft.freeze_multi_modal_projector=false", "rl.freeze_vision_tower=false"),
    *("sft.num_train_epochs=1", "sft.warmup_steps=0", "sft.per_device_train_batch_size=2"),
    *("rl.steps=2", "rl.rollout_batch_size=6", "rl.global_batch_size=6", "rl.micro_batch_size_per_gpu=2"),
    "rl.shared_media=true",  # a group on one of the two servers, its pixels once in the queue
    *("rl.held_out.every=0", "rl.engine={actor_rollout_ref.actor.optim.lr_warmup_steps: 0}"),
    # A model that has learnt next to nothing differs in the length of its responses: that is what it is rewarded by.
    "loss.overlong={share: 1.0, penalty: 1.0}",
    *("eval.models=[rl]", "eval.twins=[]"),
]
# Two ranks: of SFT two processes, of RL two nodes of this machine with an FSDP rank and a vLLM server each.
RANKS = {"sft": ["cluster.gpus_per_node=2"], "rl": ["cluster.nodes=2"]}


def questions(camera: Camera, split: str) -> Iterator[dict]:
    """About a clip, about a picture, and about two pictures, in turn."""
    for number in range(COUNTS[split]):
        motion, coarse = words.MOVING[number % len(words.MOVING)], number % 2
        shot = camera.film(f"{split}{number}.mp4", motion if number % 4 else "static", seconds=2)
        question, shows = words.yes_no(motion, shot)
        options = {"options": ["Yes", "No"], "task": "binary"}
        yield {"video": f"{split}{number}.mp4", "question": question, "answer": "A" if shows else "B"} | options
        names = [f"{split}{number}.{place}.jpg" for place in range(2)]
        for place, name in enumerate(names):
            camera.photograph(name, poor=place == coarse)
        yield {"images": [names[0]], "question": "Is the picture coarse?", "answer": "B" if coarse else "A"} | options
        yield {
            "images": names,
            "question": "Which picture is coarse, <image> or <image>?",
            "options": ["the first", "the second"],
            "answer": "B" if coarse else "A",
            "task": "choice",
        }


def chain(answer: str) -> str:
    return f"<observation>A place.</observation>\n<think>So it is {answer}.</think>\n<answer>{answer}</answer>"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    files = []
    for split in COUNTS:
        rows = [
            {"id": f"{split}{number}", "source": "mine", "split": split, **asked}
            | ({"chain": chain(asked["answer"])} if split == "sft" else {})
            for number, asked in enumerate(questions(Camera(folder / "media"), split))
        ]
        words.write_lines(folder / f"{split}.jsonl", rows)
        files.append(f"data.files.{split}={folder}/{split}.jsonl")
    for stage in ("data", "model", "sft", "rl", "merge", "evaluate"):
        settings = [*MIXED, f"data.media_root={folder}/media", *files, *RANKS.get(stage, [])]
        run(stage, folder / "runs", "main", *settings)
    return folder / "runs" / "demo" / "main"


def shown(sample: dict) -> str:
    return "a video" if sample.get("video") else f"{len(sample['images'])} image(s)"


def test_each_step_trains_on_clips_and_pictures_on_two_ranks(mixed):
    for step, line in enumerate(lines(mixed / "rl" / "metrics.jsonl"), 1):
        data = line["data"]
        assert data["training/rollout_actor_probs_pearson_corr"] >= 0.999 and data["actor/grad_norm"] > 0
        records = lines(mixed / "rl" / "rollouts" / f"{step}.jsonl")
        kinds = [shown(record["sample"]) for record in records]
        assert len(kinds) == 6 * 4 and len(set(kinds)) > 1
    assert step == 2
    actor = mixed / "rl" / "checkpoints" / "global_step_2" / "actor"
    assert {path.name for path in actor.glob("model_world_size_*")} == {
        f"model_world_size_2_rank_{rank}.pt" for rank in (0, 1)
    }


def test_both_stages_train_the_tower(mixed):
    (checkpoint,) = (mixed / "sft").glob("checkpoint-*")
    weights = [load_file(path / "model.safetensors") for path in (mixed / "model", checkpoint, mixed / "merged")]
    tower = [name for name, weight in weights[0].items() if "visual" in name and weight.dim() > 1]
    for before, after in zip(weights, weights[1:]):
        assert tower and all(not before[name].bfloat16().equal(after[name].bfloat16()) for name in tower)


def test_every_question_about_clips_and_pictures_is_answered(mixed):
    samples = {sample["id"]: shown(sample) for sample in lines(mixed / "data" / "test.jsonl")}
    answers = lines(mixed / "eval" / "test" / "rl" / "predictions.jsonl")
    assert {answer["finish_reason"] for answer in answers} <= {"stop", "length"}
    answered = [samples[answer["id"]] for answer in answers]
    assert {kind: answered.count(kind) for kind in answered} == {"a video": 4, "1 image(s)": 4, "2 image(s)": 4}
