"""Build the tiny model of a run, warmed up on its own data: python -m launch.engines.warm_up RUN_FOLDER

On rendered clips the vision tower learns to tell camera motions apart; on files the language model learns the form of
the answers to RL's questions.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from data_tools.exports import sample_of
from data_tools.files import write_json
from data_tools.prompt import Form, PromptError
from data_tools.rendered import tiny_model
from data_tools.rendered.tiny_answers import Example, obedient, warm_up_answers
from data_tools.rendered.tiny_families import TinySettings
from data_tools.run_folder import RunFolder
from data_tools.sample import Sample
from launch.compose import rendered_settings
from launch.engines.environment import train_in_threads
from launch.planning.prompts import form_of_set
from launch.recipe import Recipe

VOCABULARY = 1024  # tokens of a run on files: prompts of many words, numbers
EXAMPLES = 64  # questions that the form is learnt from


def main(root: Path) -> None:
    folder = RunFolder(root)
    recipe = Recipe.model_validate(yaml.safe_load(folder.recipe.read_text()))
    marks = folder.log("warm_up").with_suffix(".steps")

    def mark(step: int, loss: float) -> None:
        if step % 5 == 0:
            marks.write_text(str(step))

    learn = _on_files if recipe.data.rendered is None else _on_rendered
    model, processor, facts = learn(folder, recipe, mark)
    write_json(marks.with_suffix(".json"), facts)
    tiny_model.save_model(model, processor, folder.model)


Built = tuple[Any, Any, dict[str, float]]


def _on_rendered(folder: RunFolder, recipe: Recipe, mark: Callable[[int, float], None]) -> Built:
    from data_tools.rendered.questions import demo_texts
    from data_tools.rendered.scene import read_clip
    from data_tools.tracks import Track, motion_of_track

    settings, seed = rendered_settings(recipe), recipe.seed
    train_in_threads()
    clips = sorted(folder.clips.glob("sft-*.mp4"))
    frames = np.stack([read_clip(clip) for clip in clips])
    tracks = [Track.load(clip.with_suffix(".json")) for clip in clips]
    motions: list[str | None] = [motion_of_track(track) for track in tracks]
    boxes = None
    if settings.spatiotemporal:
        frames, motions, boxes = tiny_model.split_into_pairs(frames, tracks)

    texts, family = demo_texts(settings.chains, settings.spatiotemporal), _family(recipe)
    tokenizer = tiny_model.build_tokenizer(texts, 768 if settings.spatiotemporal else 512, family)
    model = tiny_model.build_model(tokenizer, seed, TinySettings(family))
    warm_up = recipe.model.warm_up.model_dump() if recipe.model.warm_up else {}
    head = tiny_model.warm_up_vision(model, frames, motions, seed, progress=mark, boxes_N4=boxes, **warm_up)
    named = dict([(i, motion) for i, motion in enumerate(motions) if motion is not None][:450])
    accuracy = tiny_model.motion_accuracy(model, head, frames[list(named)], list(named.values()))
    processor = tiny_model.build_processor(tokenizer, settings.size, family)
    return model, processor, {"training_clips": len(clips), "accuracy": accuracy}


def _on_files(folder: RunFolder, recipe: Recipe, mark: Callable[[int, float], None]) -> Built:
    examples, texts = _examples(folder, recipe), _texts(folder)
    asked = {turn["content"] for example in examples for turn in example.messages}
    texts += sorted(asked.difference(texts)) + [example.response for example in examples]
    family = _family(recipe)
    tokenizer = tiny_model.build_tokenizer(texts, VOCABULARY, family)
    model = tiny_model.build_model(tokenizer, recipe.seed, TinySettings(family))
    media = [recipe.media, *(chosen.media for chosen in recipe.eval.sets.values() if chosen.media)]
    pixels = max(recipe.media.max_pixels, *(one.images.max_pixels for one in media if one.images), 0)
    processor = tiny_model.build_processor(tokenizer, math.isqrt(pixels), family)
    if not examples:  # SFT teaches the form
        return model, processor, {"examples": 0}
    warm_up = recipe.model.warm_up.model_dump() if recipe.model.warm_up else {}
    loss = warm_up_answers(model, processor, examples, recipe.seed, progress=mark, **warm_up)
    return model, processor, {"examples": len(examples), "loss": loss}


def _family(recipe: Recipe) -> str:
    assert recipe.model.architecture is not None  # launch/model.py has checked
    return recipe.model.architecture.family


def _examples(folder: RunFolder, recipe: Recipe) -> list[Example]:
    """RL's first questions, each with obedient responses to any question of its task: the form, not the answers.

    Evaluation sets may ask in other words, for another form: half of the examples are in theirs.
    """
    path, rng = folder.verl_data("rl"), np.random.default_rng(recipe.seed)
    rows = pq.read_table(path).to_pylist()[:EXAMPLES] if path.exists() else []
    samples = [sample_of(row["extra_info"]) for row in rows]
    own, *others = _forms(recipe, samples)
    found = []
    for number, (row, sample) in enumerate(list(zip(rows, samples)) * 2):
        form = others[number % len(others)] if others and number >= len(rows) else own
        alike = [other for other in samples if other.task == sample.task]
        answered = alike[rng.integers(len(alike))].model_dump()
        if sample.options:
            answered |= {"answer": ascii_uppercase[rng.integers(len(sample.options))]}
        response = obedient(answered, form.schema_of(sample.task))
        clips, images = row["videos"], row.get("images") or []
        clip = Path(clips[0]["video"]) if clips else None
        found.append(Example(form.messages(sample), clip, response, [Path(image["image"]) for image in images]))
    return found


def _forms(recipe: Recipe, samples: Sequence[Sample]) -> list[Form]:
    """Training's form, and those of evaluation sets that differ and have words for RL's tasks."""
    found = [Form(prompt=recipe.prompt, reward=recipe.reward.model_dump())]
    for name in recipe.other_sets:
        form = form_of_set(recipe, name)
        with suppress(PromptError):  # it has no words for one of RL's tasks
            for sample in samples:
                form.messages(sample)
            if form not in found:
                found.append(form)
    return found


def _texts(folder: RunFolder) -> list[str]:
    """All prompts and chains of the run, for the tokenizer."""
    texts = []
    for split in ("rl", "test"):
        if (path := folder.verl_data(split)).exists():
            texts += [turn["content"] for row in pq.read_table(path).to_pylist() for turn in row["prompt"]]
    chains = folder.llamafactory_data / "sft.json"
    if chains.exists():
        texts += [turn["content"] for row in json.loads(chains.read_text()) for turn in row["messages"]]
    return texts


if __name__ == "__main__":
    main(Path(sys.argv[1]))
