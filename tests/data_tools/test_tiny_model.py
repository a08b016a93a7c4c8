import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from data_tools.prompt import messages
from data_tools.rendered.questions import RenderedClip, binary_samples, demo_texts
from data_tools.rendered.scene import draw_scene, draw_track, read_clip, render_frames, write_clip
from data_tools.rendered.tiny_model import (
    TinySettings,
    build_model,
    build_processor,
    build_tokenizer,
    motion_accuracy,
    patches,
    save_model,
    warm_up_vision,
)

SMALL = TinySettings(hidden=64, intermediate=64, layers=1, heads=2, kv_heads=1, vision_depth=1)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(demo_texts())


def clip(motion: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    track = draw_track(motion, rng)
    return render_frames(draw_scene(rng), track)


def test_the_tokenizer_writes_any_text_and_is_always_the_same(tokenizer):
    for text in ("<observation>The picture grows.</observation>", "Zoë \U0001f3a5 漢字\n\t"):
        assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text
    assert build_tokenizer(demo_texts()).get_vocab() == tokenizer.get_vocab()
    assert tokenizer.eos_token == "<|im_end|>" and len(tokenizer.encode("<|video_pad|>")) == 1


def test_patches_are_those_of_the_processor(tokenizer):
    frames = clip("pan_left")
    expected = build_processor(tokenizer, 84).video_processor(
        videos=[frames], do_sample_frames=False, return_tensors="pt"
    )
    pixels, grid = patches(frames[None])
    assert torch.equal(grid, expected["video_grid_thw"])
    torch.testing.assert_close(pixels, expected["pixel_values_videos"], atol=1e-5, rtol=0)


def test_the_prompt_is_that_of_llamafactory(tokenizer, tmp_path):
    template_module = pytest.importorskip("llamafactory.data.template")
    processor = build_processor(tokenizer, 84)
    frames = clip("zoom_in")
    write_clip(tmp_path / "clip.mp4", frames, 2.0)
    (sample, _) = binary_samples([RenderedClip("clip.mp4", "zoom_in", "s")], 2, "sft", np.random.default_rng(0))
    chat = messages(sample)

    parts = [{"type": "video"}, {"type": "text", "text": chat[0]["content"].removeprefix("<video>")}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    ours = processor(text=[text], videos=[read_clip(tmp_path / "clip.mp4")], do_sample_frames=False)["input_ids"][0]

    template = template_module.TEMPLATES["qwen2_vl"]
    for name, value in {"video_fps": 2.0, "video_maxlen": 4, "video_max_pixels": 7056, "video_min_pixels": 784}.items():
        setattr(processor.video_processor, name, value)
        setattr(processor, name, value)
    turns = [*chat, {"role": "assistant", "content": "x"}]
    turns = template.mm_plugin.process_messages(turns, [], [str(tmp_path / "clip.mp4")], [], processor)
    theirs, _ = template.encode_oneturn(tokenizer, turns)
    assert list(ours) == theirs
    assert theirs.count(tokenizer.convert_tokens_to_ids("<|video_pad|>")) == 18


def test_a_saved_model_answers_the_same(tokenizer, tmp_path):
    model = build_model(tokenizer, seed=0, settings=SMALL)
    again = build_model(tokenizer, seed=0, settings=SMALL)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters()))
    save_model(model, build_processor(tokenizer, 84), tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Does the camera zoom in?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(text=[text], videos=[clip("zoom_in")], do_sample_frames=False, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model.eval()(**inputs).logits)


def test_the_warm_up_learns_to_tell_motions_apart(tokenizer):
    motions = ["pan_left", "pan_right"] * 4
    clips = np.stack([clip(motion, seed) for seed, motion in enumerate(motions)])
    losses = []
    model = build_model(tokenizer, seed=0, settings=SMALL)
    head = warm_up_vision(
        model, clips, motions, seed=0, steps=60, batch=8, progress=lambda step, loss: losses.append(loss)
    )
    assert losses[0] == pytest.approx(np.log(15), abs=0.01)
    assert losses[-1] < 0.5 * losses[0]
    assert motion_accuracy(model, head, clips, motions) > 0.7
