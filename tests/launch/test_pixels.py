"""A prompt's pixels in verl's queue once: what a rollout stores, and what the actor reads of it."""

import asyncio
import pickle
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorStack
from transfer_queue import KVBatchMeta
from verl.utils import model, transferqueue_utils

import launch.verl_plugin  # noqa: F401 (as in verl's processes)
from data_tools.rendered.tiny_model import build_processor, build_tokenizer
from launch.verl_plugin import pixels
from launch.verl_plugin import rollout as rollout_module
from launch.verl_plugin.prefix import pack
from launch.verl_plugin.queue import plain
from launch.verl_plugin.rollout import AgentLoopWorker

PROMPTS, GROUP, PATCHES = 32, 8, 72  # of the demo
PADDING = {"pad0_0_0": {}, "pad0_1_0": {}}
COLOURS = SimpleNamespace(image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28], rescale_factor=1 / 255)
SCALES = torch.tensor([COLOURS.image_mean, COLOURS.image_std])[..., None] * (1.0 / COLOURS.rescale_factor)


def stored(monkeypatch, shared: bool = True) -> dict[str, dict]:
    """What the demo's agent loop stores of each rollout of a step, by key."""
    clips = {}

    def process(self, output, input_ids):
        assert output.clip not in clips, "processed twice"
        random = torch.Generator().manual_seed(output.clip)
        shown = torch.randint(0, 256, (PATCHES, 1176), generator=random, dtype=torch.uint8)
        clips[output.clip] = pixels._floats(shown, SCALES)
        grid = torch.tensor([[2, 6, 6]])
        return {"pixel_values_videos": clips[output.clip], "video_grid_thw": grid, "mm_token_type_ids": "recomputed"}

    monkeypatch.setattr(AgentLoopWorker.__base__, "_compute_multi_modal_inputs", process)
    worker = AgentLoopWorker.__new__(AgentLoopWorker)
    worker.config = OmegaConf.create({"algorithm": {"camreasoner": {"shared_media": shared}}})
    worker.processor = SimpleNamespace(video_processor=COLOURS)
    rows = {}
    for prompt in range(PROMPTS):
        group = rollout_module._group.set({})
        frames = [(torch.zeros(1), {})]
        for rollout in reversed(range(GROUP)):  # they finish in any order
            name = f"step000001.{prompt:05d}"
            token = rollout_module._rollout.set((name, rollout))
            output = SimpleNamespace(multi_modal_data={"videos": frames}, clip=prompt)
            features = worker._compute_multi_modal_inputs(output, None)
            assert features.pop("mm_token_type_ids") and features["video_grid_thw"].tolist() == [[2, 6, 6]]
            rows[f"{name}_{rollout}_0"] = features
            rollout_module._rollout.reset(token)
        rollout_module._group.reset(group)
    return rows


@pytest.fixture
def read(monkeypatch):
    """What a worker's method gets of these keys, through verl's own bridge; the queue is played by a dictionary."""
    asked = []

    def reader(rows: dict[str, dict]):
        def column(keys):
            values = NonTensorStack(*(rows[key] for key in keys))  # as the queue packs them
            return TensorDict({pixels.FIELD: values}, batch_size=[len(keys)])

        async def get(keys, partition_id, select_fields):
            assert (partition_id, select_fields) == ("train", [pixels.FIELD])
            asked.append(keys)
            return column(keys)

        class Client:
            async def async_get_data(self, meta):
                return column(meta.keys)

        async def as_it_is(meta):
            return meta

        monkeypatch.setattr(pixels.tq, "async_kv_batch_get", get)
        monkeypatch.setattr(transferqueue_utils, "TQ_INITIALIZED", True)
        monkeypatch.setattr(transferqueue_utils.tq, "get_client", Client)
        monkeypatch.setattr(transferqueue_utils, "async_kv_batch_meta2batch_meta", as_it_is)
        monkeypatch.setattr(transferqueue_utils, "kv_batch_meta2batch_meta", lambda meta: meta)

        @transferqueue_utils.tqbridge()
        def update_actor(data):
            found.extend(value or {} for value in plain(data[pixels.FIELD]))

        def read_keys(keys: list[str]) -> list[dict]:
            found.clear()
            update_actor(KVBatchMeta(keys=keys, tags=[{} for _ in keys], partition_id="train"))
            return list(found)

        found: list[dict] = []
        return read_keys, asked

    return reader


def test_the_actor_reads_what_each_rollout_showed_and_the_queue_holds_a_32nd_of_it(monkeypatch, read):
    whole = stored(monkeypatch, shared=False)
    rows = stored(monkeypatch)
    sizes = [sum(len(pickle.dumps(features)) for features in one.values()) for one in (rows, whole)]
    assert sizes[0] < 1.1 * sizes[1] / GROUP / 4
    read_keys, asked = read(rows | PADDING)
    found = read_keys([*rows, *PADDING])
    assert not asked and found[-2:] == [{}, {}]
    for features, expected in zip(map(pixels.as_floats, found), whole.values()):
        assert features.keys() == expected.keys()
        assert all(torch.equal(features[name], value) for name, value in expected.items())
    clips = [features["pixel_values_videos"].data_ptr() for features in found[:-2]]
    assert len(set(clips[:GROUP])) == 1 and len(set(clips)) == PROMPTS


@pytest.mark.parametrize(("family", "side"), [("qwen2_5_vl", 84), ("qwen3_vl", 96)])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_what_a_processor_makes_of_frames_is_bytes_and_the_same_again(family, side, kind):
    """As float32, as qwen-vl-utils gives them, and as the bytes that they become, the features are the same."""
    tokenizer = build_tokenizer(["<|vision_start|><|video_pad|><|vision_end|>"], family=family)
    processor = build_processor(tokenizer, side, family)
    random = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (4, 3, side, side), generator=random).float()
    assert rollout_module.byte_frames(frames).dtype == torch.uint8
    assert rollout_module.byte_frames(frames + 0.5).dtype == torch.float32
    if kind == "video":
        processed, given = processor.video_processor, {"do_sample_frames": False}
        of = [processed(videos=[shown], **given) for shown in (frames, rollout_module.byte_frames(frames))]
    else:
        picture = Image.fromarray(frames[0].permute(1, 2, 0).byte().numpy())
        of = [processor.image_processor(images=[picture])] * 2
    features, of_bytes = (dict(one.convert_to_tensors("pt")) for one in of)
    small = pixels.as_bytes(features, processor)
    name = "pixel_values_videos" if kind == "video" else "pixel_values"
    assert small[name].dtype == torch.uint8 and features[name].dtype == torch.float32
    for again in (pixels.as_floats(small), of_bytes):
        assert again.keys() == features.keys()
        assert all(torch.equal(again[key], value) for key, value in features.items())


def test_pixels_that_a_processor_has_resized_stay_as_they_are():
    features = {"pixel_values_videos": torch.randn(4, 1176), "video_grid_thw": torch.tensor([[1, 2, 2]])}
    small = pixels.as_bytes(features, SimpleNamespace(video_processor=COLOURS))
    assert small.keys() == features.keys() and pixels.as_floats(small)["pixel_values_videos"].dtype == torch.float32


def test_a_micro_batch_gets_floats():
    from verl.workers.engine.fsdp import transformer_impl

    features = {"pixel_values_videos": pixels._floats(torch.arange(252).byte().view(6, 42), SCALES)}
    small = pixels.as_bytes(features, SimpleNamespace(video_processor=COLOURS))
    assert small["pixel_values_videos"].dtype == torch.uint8
    found = transformer_impl.extract_multi_modal_inputs(NonTensorStack(small, {}, small))
    assert transformer_impl.extract_multi_modal_inputs is model.extract_multi_modal_inputs
    assert found.keys() == features.keys()
    assert torch.equal(found["pixel_values_videos"], torch.cat([features["pixel_values_videos"]] * 2))


def test_a_rank_with_a_part_of_a_group_reads_its_first_rollout_besides(monkeypatch, read):
    rows = stored(monkeypatch)
    read_keys, asked = read(rows)
    keys = list(rows)
    own = [key for key in keys[4:12] if not key.endswith("_0_0")]  # parts of two groups
    assert [features["pixel_values_videos"].shape for features in read_keys(own)] == [(PATCHES, 1176)] * len(own)
    assert asked == [["step000001.00000_0_0", "step000001.00001_0_0"]]


def test_a_rank_whose_rows_have_no_names_reads_nothing_twice(monkeypatch, read):
    rows = stored(monkeypatch)
    _, asked = read(rows)
    keys = list(rows)[: GROUP + 2]  # a group, and two rollouts of another without its first

    def share(keys):
        numbered = SimpleNamespace(keys=keys, size=len(keys), partition_ids=["train"] * len(keys), extra_info={})
        return plain(asyncio.run(transferqueue_utils._async_meta_to_realdata(numbered))[pixels.FIELD])

    found = share(keys[:GROUP])
    assert not asked
    found += share(keys[GROUP:])
    assert asked == [["step000001.00001_0_0"]]
    assert all(value["pixel_values_videos"].shape == (PATCHES, 1176) and pixels.OF not in value for value in found)


def test_rows_of_a_group_are_one_sequence_again(monkeypatch, read):
    rows = stored(monkeypatch)
    read_keys, _ = read(rows)
    media = read_keys(list(rows)[: 2 * GROUP])
    ids, positions = [torch.arange(5)] * 16, [torch.arange(5).expand(4, -1)] * 16
    packed = pack(ids, positions, [3] * 16, media)
    assert [len(group.responses) for group in packed.groups] == [GROUP, GROUP]
    assert all(
        one["pixel_values_videos"] is media[8 * at]["pixel_values_videos"] for at, one in enumerate(packed.media)
    )


def test_rows_saved_for_the_next_step_refer_to_each_other_still(monkeypatch, read, tmp_path):
    rows = stored(monkeypatch)
    group = {key: rows[key] for key in list(rows)[:GROUP]}
    torch.save(group, tmp_path / "state.pt")
    read_keys, _ = read(torch.load(tmp_path / "state.pt", weights_only=True))
    clips = [features["pixel_values_videos"] for features in read_keys(list(group))]
    assert all(torch.equal(clip, clips[0]) for clip in clips)


def test_another_agent_loop_s_rollouts_keep_what_they_showed(monkeypatch):
    """It may show each rollout something else."""
    monkeypatch.setattr(
        AgentLoopWorker.__base__, "_compute_multi_modal_inputs", lambda *_: {"pixel_values": torch.zeros(1)}
    )
    worker = AgentLoopWorker.__new__(AgentLoopWorker)
    features = worker._compute_multi_modal_inputs(SimpleNamespace(multi_modal_data={"images": ["it"]}), None)
    assert features.keys() == {"pixel_values"}
