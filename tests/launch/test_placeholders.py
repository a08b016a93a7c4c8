"""Placeholders of media in questions as their publishers have them."""

import pytest

from data_tools.sample import IMAGE, VIDEO
from launch.engines.vllm.clips import with_media


@pytest.mark.parametrize("asked", ["<video> of what?", "Is <image> in <video>?", "<video><video>"])
def test_a_placeholder_too_many_is_text(asked):
    """Else one question of a published set would end the evaluation of all."""
    clip = {"type": "video", "video": "a.mp4"}
    (turn,) = with_media([{"role": "user", "content": VIDEO + asked}], [clip])
    assert turn["content"][0] == clip and "".join(part["text"] for part in turn["content"][1:]) == asked


def test_each_image_stands_where_its_placeholder_does():
    shown = [{"type": "image", "image": name} for name in ("a.png", "b.png")]
    turns = [
        {"role": "system", "content": "Look."},
        {"role": "user", "content": f"Is {IMAGE} wider than {IMAGE}, {VIDEO}?"},
    ]
    system, user = with_media(turns, shown)
    assert system["content"] == "Look." and [part for part in user["content"] if part["type"] == "image"] == shown
    assert [part["text"] for part in user["content"] if part["type"] == "text"] == ["Is ", " wider than ", ", <video>?"]
