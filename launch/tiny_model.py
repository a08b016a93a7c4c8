"""Build the tiny model of a run from its rendered training clips: python -m launch.tiny_model RUN_FOLDER"""

import json
import sys
from pathlib import Path

import numpy as np
import yaml


def main(folder: Path) -> None:
    import torch

    from data_tools import tiny_model
    from data_tools.questions import demo_texts
    from data_tools.render import Track, motion_of_track, read_clip

    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    warm_up, seed = recipe["model"]["warm_up"], recipe["seed"]
    torch.set_num_threads(1)  # more threads than free cores are far slower than one
    clips = sorted((folder / "data" / "clips").glob("sft-*.mp4"))
    frames = np.stack([read_clip(clip) for clip in clips])
    motions = [motion_of_track(Track.load(clip.with_suffix(".json"))) for clip in clips]

    tokenizer = tiny_model.build_tokenizer(demo_texts())
    model = tiny_model.build_model(tokenizer, seed)
    marks = folder / "logs" / "warm_up.steps"

    def mark(step: int, loss: float) -> None:
        if step % 5 == 0:
            marks.write_text(str(step))

    head = tiny_model.warm_up_vision(model, frames, motions, seed, progress=mark, **warm_up)
    accuracy = tiny_model.motion_accuracy(model, head, frames[:450], motions[:450])
    (folder / "logs" / "warm_up.json").write_text(json.dumps({"training_clips": len(clips), "accuracy": accuracy}))
    processor = tiny_model.build_processor(tokenizer, recipe["data"]["rendered"]["size"])
    tiny_model.save_model(model, processor, folder / "model")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
