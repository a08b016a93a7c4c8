"""Each mend of an engine is still needed, and does what it says."""

import ast
import inspect
import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from data_tools import tiny_model
from launch.verl_plugin import cpu, patches

SCRIPT = Path(__file__).with_name("unpatched.py")
# Not mends of an engine: they hang the others up, have the kernel end what a killed parent leaves, and set threads.
HELPERS = {"apply", "after_import", "die_with_parent", "train_in_threads"}


def mends() -> set[str]:
    return {
        name
        for module in (patches, cpu)
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if name not in HELPERS
    }


@pytest.fixture(scope="module")
def needed() -> dict[str, bool]:
    env = {key: value for key, value in os.environ.items() if key not in ("VERL_PLATFORM", "VERL_USE_EXTERNAL_MODULES")}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_mend_is_checked(needed):
    assert set(needed) == mends()


@pytest.mark.parametrize("mend", sorted(mends()))
def test_engine_still_needs(mend, needed):
    assert needed[mend], f"the engines no longer need {mend}: delete it"


def test_metrics_of_a_resumed_run_follow_those_before(tmp_path, monkeypatch):
    from verl.utils import tracking

    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(path))
    monkeypatch.setattr(tracking.FileLogger, "__init__", tracking.FileLogger.__init__)
    patches.append_metrics(tracking)
    for step in (1, 2):
        logger = tracking.FileLogger("project", "run")
        logger.log({"x": step}, step)
        logger.finish()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_micro_batch_of_fillers_alone_passes_the_model(monkeypatch):
    """As verl fills a filtered batch: text alone. The vision tower takes part, so that FSDP's ranks stay in step."""
    import torch
    from verl.models.transformers import qwen2_vl

    monkeypatch.setattr(qwen2_vl, "_get_input_embeds", qwen2_vl._get_input_embeds)
    patches.rows_without_media(qwen2_vl)
    tokenizer = tiny_model.build_tokenizer(["Does the camera move?"])
    model = tiny_model.build_model(tokenizer, 0, tiny_model.TinySettings()).model
    ids = torch.full((2, 12), tokenizer.eos_token_id)
    embeds, mask = qwen2_vl._get_input_embeds(model, ids, torch.ones_like(ids))
    assert torch.equal(embeds, model.get_input_embeddings()(ids)) and torch.equal(mask, torch.ones_like(ids))
    embeds.sum().backward()
    towers = [weight.grad for weight in model.visual.parameters()]
    assert all(grad is not None and not grad.any() for grad in towers)


def test_log_probs_of_all_tokens_are_those_that_verl_computes_one_by_one():
    """Values and gradients, to the last bit; in bfloat16, where verl has another way, the values are its own."""
    import torch
    import verl.utils.torch_functional as mended

    bare = module_from_spec(spec_from_file_location("bare", mended.__file__))
    bare.__spec__.loader.exec_module(bare)
    assert bare.logprobs_from_logits_v2.__module__ != mended.logprobs_from_logits_v2.__module__
    logits = torch.randn(500, 512, generator=torch.Generator().manual_seed(0)).mul(5).requires_grad_()
    labels, weights = torch.arange(500), torch.linspace(-1, 1, 500)
    values = [module.logprobs_from_logits(logits, labels) for module in (bare, mended)]
    gradients = [torch.autograd.grad((value * weights).sum(), logits)[0] for value in values]
    assert torch.equal(*values) and torch.equal(*gradients)
    halves = [module.logprobs_from_logits(logits.detach().bfloat16(), labels) for module in (bare, mended)]
    assert torch.equal(*halves)


def test_engine_modules_are_patched_nowhere_else():
    """Outside `patches` and `cpu`, nothing assigns to an attribute of an engine's module."""
    engines = ("verl", "vllm", "transformers", "llamafactory", "ray", "torch")
    for path in Path(patches.__file__).parents[1].rglob("*.py"):
        if path.name in ("patches.py", "cpu.py"):
            continue
        tree = ast.parse(path.read_text())
        imported = {
            alias.asname or alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.name.split(".")[0] in engines
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    base = target
                    while isinstance(base, ast.Attribute):
                        base = base.value
                    is_module = isinstance(target, ast.Attribute) and isinstance(base, ast.Name) and base.id in imported
                    assert not is_module, f"{path}:{node.lineno}"
