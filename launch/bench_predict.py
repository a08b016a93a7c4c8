"""Predictions beside plain vLLM on the same clips and prompts: python -m launch.bench_predict writes both times."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

CLIPS, REPEATS = 96, 3


def rows() -> list[tuple[str, float, float, str]]:
    """What is compared, seconds of both, and what the ratio ours / theirs must reach; in a process of its own."""
    from launch.engine import engine_env
    from launch.plan import compose_recipe
    from launch.predict import ENV

    recipe, _ = compose_recipe(["experiment=demo"])
    command = [sys.executable, "-m", "launch.bench_predict"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=engine_env(recipe) | ENV)
    ours, theirs = json.loads(done.stdout.splitlines()[-1])
    return [(f"{CLIPS} answers about as many clips, loaded engine | LLM.generate", ours, theirs, "≤ 1.10")]


def main() -> None:
    from hydra import compose, initialize_config_dir

    from data_tools.questions import demo_texts
    from data_tools.tiny_model import build_model, build_processor, build_tokenizer, save_model
    from launch.answers import answers, build_engine
    from launch.predict import predict, prepare, window
    from launch.recipe import ROOT, read_recipe

    with initialize_config_dir(str(ROOT / "recipes"), version_base="1.3"):
        recipe = read_recipe(compose("config", ["eval.option_scores=null"])).model_dump(mode="json")
    prepare(recipe)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tokenizer = build_tokenizer(demo_texts())
        save_model(build_model(tokenizer, 0), build_processor(tokenizer, 84), root / "model")
        samples = clips(root)
        engine = build_engine(recipe, str(root / "model"))

        class InThisProcess:
            def stream(self, questions, window):
                return answers(engine, recipe, root, questions, window)

            def close(self) -> None: ...

        def ours() -> None:
            out = root / "predictions.jsonl"
            out.unlink(missing_ok=True)
            predict(InThisProcess, 1, [(None, sample) for sample in samples], window(recipe), {None: out})

        def forgetful(work: Callable[[], object]) -> float:
            engine.reset_prefix_cache()
            engine.reset_mm_cache()
            begin = time.perf_counter()
            work()
            return time.perf_counter() - begin

        ways = ours, lambda: plain(engine, recipe, root, samples)
        times = [[forgetful(way) for way in ways] for _ in range(1 + REPEATS)][1:]  # by turns, the first does not count
    sys.stdout.write("\n" + json.dumps([median(column) for column in zip(*times)]) + "\n")


def plain(engine, recipe: dict, root: Path, samples: list) -> None:
    """What a user of vLLM would write."""
    from transformers import AutoProcessor
    from vllm import SamplingParams

    from data_tools.prompt import messages
    from launch.answers import frames_of, with_clip

    processor = AutoProcessor.from_pretrained(root / "model")
    requests = []
    for sample in samples:
        turns = with_clip(messages(sample), str(root / sample.video), recipe["media"])
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        requests.append({"prompt": text, "multi_modal_data": {"video": frames_of(turns)}})
    engine.generate(requests, SamplingParams(temperature=0.0, max_tokens=recipe["eval"]["max_tokens"]), use_tqdm=False)


def clips(root: Path) -> list:
    """A question about each of `CLIPS` rendered clips."""
    import numpy as np

    from data_tools.questions import BINARY_QUESTIONS
    from data_tools.render import draw_scene, draw_track, render, write_clip
    from data_tools.sample import Sample

    samples = []
    for number in range(CLIPS):
        rng = np.random.default_rng(number)
        track = draw_track("pan_left", rng, frames=4, size=84, fps=2.0)
        write_clip(root / f"{number}.mp4", render(draw_scene(rng), track), 2.0)
        fields = {"question": list(BINARY_QUESTIONS.values())[number % 15], "options": ["No", "Yes"], "answer": "A"}
        fields |= {"task": "binary", "source": "made", "split": "test"}
        samples.append(Sample(id=str(number), video=f"{number}.mp4", **fields))
    return samples


if __name__ == "__main__":
    main()
