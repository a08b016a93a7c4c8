"""Build the tiny model of a run from its rendered training clips: python -m launch.tiny_model RUN_FOLDER"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from launch.process import train_in_threads

if TYPE_CHECKING:
    from data_tools.render import Track


def main(folder: Path) -> None:
    from data_tools import tiny_model
    from data_tools.questions import demo_texts
    from data_tools.render import Track, motion_of_track, read_clip
    from data_tools.rendered import RenderedSettings

    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    warm_up, seed = recipe["model"]["warm_up"], recipe["seed"]
    settings = RenderedSettings(**recipe["data"]["rendered"])
    train_in_threads()
    clips = sorted((folder / "data" / "clips").glob("sft-*.mp4"))
    frames = np.stack([read_clip(clip) for clip in clips])
    tracks = [Track.load(clip.with_suffix(".json")) for clip in clips]
    motions, boxes = [motion_of_track(track) for track in tracks], None
    if settings.spatiotemporal:
        frames, motions, boxes = by_pair(frames, tracks)

    texts = demo_texts(settings.chains, settings.spatiotemporal)
    tokenizer = tiny_model.build_tokenizer(texts, 768 if settings.spatiotemporal else 512)
    model = tiny_model.build_model(tokenizer, seed)
    marks = folder / "logs" / "warm_up.steps"

    def mark(step: int, loss: float) -> None:
        if step % 5 == 0:
            marks.write_text(str(step))

    head = tiny_model.warm_up_vision(model, frames, motions, seed, progress=mark, boxes_N4=boxes, **warm_up)
    named = [place for place, motion in enumerate(motions) if motion is not None][:450]
    accuracy = tiny_model.motion_accuracy(model, head, frames[named], [motions[place] for place in named])
    (folder / "logs" / "warm_up.json").write_text(json.dumps({"training_clips": len(clips), "accuracy": accuracy}))
    processor = tiny_model.build_processor(tokenizer, settings.size)
    tiny_model.save_model(model, processor, folder / "model")


def by_pair(clips_NTHW3: np.ndarray, tracks: "list[Track]") -> tuple[np.ndarray, list[str | None], np.ndarray]:
    """Each pair of frames, which the vision tower sees by itself, as a clip of its own.

    Returns:
        The pairs [N * T / 2, 2, H, W, 3]; what each shows, None where a box is to be found; these boxes [., 4] from
        0 to 1, NaN elsewhere.
    """
    from data_tools.render import boxes_of_track, motion_of_track, span_of_track

    motions: list[str | None] = []
    boxes = []
    for track in tracks:
        motion, (start, stop) = motion_of_track(track), span_of_track(track) or (0, 0)
        seconds = np.arange(0, len(track.focal_T), 2) / track.fps
        if track.target_23 is None:
            motions += [motion if start <= second < stop else "static" for second in seconds]
            boxes += [[np.nan] * 4] * len(seconds)
        else:
            motions += [None] * len(seconds)
            boxes += (boxes_of_track(track)[::2] / 100).tolist()
    return clips_NTHW3.reshape(-1, 2, *clips_NTHW3.shape[2:]), motions, np.array(boxes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
