"""Greedy answers of one or more models on the test split, in vLLM: python -m launch.predict RUN_FOLDER MODEL=PATH ...

Predictions are appended to eval/MODEL/predictions.jsonl as they come; those that are there already are not made again.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from launch.verl_plugin import patches

CHUNK = 256  # answers between two writes


def main(folder: Path, models: dict[str, str]) -> None:
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    if recipe["cluster"]["device"] == "cpu":
        from launch.verl_plugin import cpu

        cpu.name_vllm()
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process: nothing to start, or to leave
    patches.apply()

    from data_tools.sample import read_samples

    samples = list(read_samples(folder / "data" / "test.jsonl"))[: recipe["eval"]["limit"]]
    for name, path in models.items():
        out = folder / "eval" / name / "predictions.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        done = whole_lines(out)
        missing = [sample for sample in samples if sample.id not in done]
        if missing:
            predict(recipe, folder, path, missing, out)


def whole_lines(path: Path) -> set[str]:
    """Ids of the predictions that were written to their end; a half-written last line is cut off."""
    if not path.exists():
        return set()
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return {json.loads(line)["id"] for line in whole.splitlines()}


def predict(recipe: dict[str, Any], folder: Path, model: str, samples: list, out: Path) -> None:
    """Append one prediction per sample to `out`."""
    from transformers import AutoProcessor
    from vllm import LLM, SamplingParams

    from data_tools.prompt import messages

    cpu = recipe["cluster"]["device"] == "cpu"
    media, rl = recipe["media"], recipe["rl"]
    root = Path(recipe["data"]["media_root"] or folder / "data").expanduser()
    trust = recipe["model"]["trust_remote_code"]
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=trust)
    engine = LLM(
        model=model,
        trust_remote_code=trust,
        dtype=recipe["model"]["dtype"],
        seed=recipe["seed"],
        max_model_len=rl["max_prompt_length"] + recipe["eval"]["max_tokens"],
        max_num_seqs=rl["rollout"]["max_num_seqs"],
        max_num_batched_tokens=rl["rollout"]["max_num_batched_tokens"],
        gpu_memory_utilization=rl["rollout"]["gpu_memory_utilization"] if cpu else 0.9,
        tensor_parallel_size=rl["rollout"]["tensor_parallel_size"],
        enforce_eager=rl["rollout"]["enforce_eager"],
        limit_mm_per_prompt={"image": 0, "video": 1},
        skip_mm_profiling=cpu,
        mm_processor_kwargs={"fps": media["fps"]},
        disable_log_stats=True,
    )
    greedy = SamplingParams(temperature=0.0, max_tokens=recipe["eval"]["max_tokens"])
    texts = recipe["data"]["system"], recipe["data"]["instruction"]
    with out.open("a", encoding="utf-8") as lines:
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            requests = []
            for sample in chunk:
                turns = with_clip(messages(sample, *texts), str(root / sample.video), media)
                requests.append(
                    {
                        "prompt": processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False),
                        "multi_modal_data": {"video": frames_of(turns)},
                    }
                )
            for sample, result in zip(chunk, engine.generate(requests, greedy, use_tqdm=False)):
                answer = result.outputs[0]
                record = {"id": sample.id, "response": answer.text, "finish_reason": answer.finish_reason}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
            lines.flush()
    del engine


def with_clip(turns: list[dict[str, str]], video: str, media: dict[str, Any]) -> list[dict[str, Any]]:
    """The prompt's place-holder as a content part, as verl's data set makes it (verl 0.9.1, rl_dataset.py:330)."""
    parts = []
    for turn in turns:
        before, mark, after = turn["content"].partition("<video>")
        content: list[dict[str, Any]] | str = turn["content"]
        if mark:
            content = [{"type": "video", "video": video, **media}, {"type": "text", "text": after}]
            content = [{"type": "text", "text": before}, *content] if before else content
        parts.append({"role": turn["role"], "content": content})
    return parts


def frames_of(turns: list[dict[str, Any]]) -> list[Any]:
    """The clips of a prompt as (frames, metadata), by the loader that verl's rollouts use."""
    from qwen_vl_utils import process_vision_info

    _, videos = process_vision_info(turns, image_patch_size=14, return_video_metadata=True)
    return videos


if __name__ == "__main__":
    main(Path(sys.argv[1]), dict(argument.split("=", 1) for argument in sys.argv[2:]))
