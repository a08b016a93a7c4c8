"""Predictions beside plain vLLM on the same clips and prompts: python -m tests.bench.predict writes both times."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

CLIPS, REPEATS = 96, 3


def rows() -> list[tuple[str, float, float, float]]:
    """What is compared, seconds of both, and what the ratio ours / theirs must reach; in a process of its own."""
    from launch.compose import compose_recipe
    from launch.engines.environment import engine_env
    from launch.engines.vllm.job import ENV

    recipe, _ = compose_recipe(["experiment=demo"])
    command = [sys.executable, "-m", "tests.bench.predict"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=engine_env(recipe) | ENV)
    ours, theirs = json.loads(done.stdout.splitlines()[-1])
    return [(f"{CLIPS} answers about as many clips, loaded engine | LLM.generate", ours, theirs, 1.10)]


def main() -> None:
    from hydra import compose, initialize_config_dir

    from data_tools.rendered.questions import demo_texts
    from data_tools.rendered.tiny_model import build_model, build_processor, build_tokenizer, save_model
    from launch.compose import read_recipe
    from launch.engines.vllm.answers import answers
    from launch.engines.vllm.job import Questions
    from launch.engines.vllm.main import predict, prepare, window
    from launch.engines.vllm.settings import build_engine
    from launch.recipe import ROOT

    with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
        recipe = read_recipe(compose("config", ["eval.option_scores=null"]))
    prepare(recipe)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tokenizer = build_tokenizer(demo_texts())
        save_model(build_model(tokenizer, 0), build_processor(tokenizer, 84), root / "model")
        samples, out = clips(root), root / "predictions.jsonl"
        part = Questions(samples=root / "asked.jsonl", root=root, media=recipe.media, form=recipe.form, out=out)
        engine = build_engine(recipe, str(root / "model"))

        class InThisProcess:
            def stream(self, questions, window):
                return answers(engine, recipe, questions, window)

            def close(self) -> None: ...

        def camreasoner() -> None:
            part.out.unlink(missing_ok=True)
            predict(InThisProcess, 1, [(part, sample) for sample in samples], window(recipe, [part]))

        def timed_without_caches(work: Callable[[], object]) -> float:
            engine.reset_prefix_cache()
            engine.llm_engine.reset_mm_cache()
            begin = time.perf_counter()
            work()
            return time.perf_counter() - begin

        variants = camreasoner, lambda: plain(engine, recipe, root, samples)
        times = [[timed_without_caches(variant) for variant in variants] for _ in range(1 + REPEATS)]
    counted = times[1:]  # in turns; the first run does not count
    sys.stdout.write("\n" + json.dumps([median(column) for column in zip(*counted)]) + "\n")


def plain(engine, recipe, root: Path, samples: list) -> None:
    """What a user of vLLM would write."""
    from transformers import AutoProcessor
    from vllm import SamplingParams

    from data_tools.prompt import messages
    from launch.engines.vllm.clips import frames_of, with_media

    processor = AutoProcessor.from_pretrained(root / "model")
    requests = []
    for sample in samples:
        turns = with_media(
            messages(sample), [{"type": "video", "video": str(root / sample.video), **recipe.media.of_clips}]
        )
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        requests.append({"prompt": text, "multi_modal_data": {"video": frames_of(turns)}})
    engine.generate(requests, SamplingParams(temperature=0.0, max_tokens=recipe.eval.max_tokens), use_tqdm=False)


def clips(root: Path) -> list:
    """A question about each of `CLIPS` rendered clips."""
    import numpy as np

    from data_tools.rendered.questions import BINARY_QUESTIONS
    from data_tools.rendered.scene import draw_scene, draw_track, render_frames, write_clip
    from data_tools.sample import Sample

    samples = []
    for number in range(CLIPS):
        rng = np.random.default_rng(number)
        track = draw_track("pan_left", rng, frames=4, size=84, fps=2.0)
        write_clip(root / f"{number}.mp4", render_frames(draw_scene(rng), track), 2.0)
        fields = {"question": list(BINARY_QUESTIONS.values())[number % 15], "options": ["No", "Yes"], "answer": "A"}
        fields |= {"task": "binary", "source": "made", "split": "test"}
        samples.append(Sample(id=str(number), video=f"{number}.mp4", **fields))
    return samples


if __name__ == "__main__":
    main()
