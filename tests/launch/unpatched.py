"""Ask the unpatched engines whether each patch is still needed: one JSON line, patch -> true or false."""

import importlib
import inspect
import json
import os
import re
import sys
from pathlib import Path


def mrope_positions() -> bool:
    """Half a second between temporal patches must not become zero."""
    import torch
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    class Holder:
        config = Qwen2_5_VLConfig(vision_config={"tokens_per_second": 2, "spatial_merge_size": 2})
        get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids

    ids = torch.tensor([[1, 9, 9, 9, 9, 9, 9, 1]])
    positions, _ = Qwen2_5_VLModel.get_rope_index(
        Holder(),
        ids,
        (ids == 9).long() * 2,
        video_grid_thw=torch.tensor([[6, 2, 2]]),
        second_per_grid_ts=torch.tensor([0.5]),
    )
    return positions[0, 0].tolist() != [0, 1, 2, 3, 4, 5, 6, 7]


def images_and_videos_in_one_pass() -> bool:
    """Whether a batch of both kinds passes the vision tower twice."""
    from mixed_batch import mixed_batch, tiny_tower, towers_passes

    model = tiny_tower()
    with towers_passes(model) as passes:
        model(**mixed_batch("iv"))
    return passes == [2]


def windows_in_batches() -> bool:
    """Whether the tower's attention is called for each of the four frames."""
    from unittest import mock

    import torch
    from transformers.models.qwen2_5_vl import configuration_qwen2_5_vl, modeling_qwen2_5_vl

    config = configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(hidden_size=16, num_heads=2)
    config._attn_implementation = "sdpa"
    attention = modeling_qwen2_5_vl.Qwen2_5_VLVisionAttention(config)
    turned = torch.ones(16, 8), torch.zeros(16, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    with mock.patch.object(torch.nn.functional, "scaled_dot_product_attention", wraps=attend) as calls:
        attention(torch.ones(16, 16), torch.arange(0, 17, 4), position_embeddings=turned)
    return calls.call_count == 4


def mixed_rows_in_one_pass() -> bool:
    from mixed_batch import mixed_batch, tiny_tower, towers_passes
    from verl.models.transformers.qwen2_vl import _get_input_embeds

    model, batch = tiny_tower(), mixed_batch("iv")
    del batch["mm_token_type_ids"]
    with towers_passes(model) as passes:
        _get_input_embeds(model, **batch)
    return passes == [2]


def seconds_per_grid_for_verl() -> bool:
    from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor

    return not hasattr(Qwen2_5_VLProcessor, "get_rope_index_kwargs")


def seconds_per_grid_for_vllm() -> bool:
    """Whether the parser of Qwen2.5-VL's clips still drops what they say of their frame rate."""
    import numpy as np
    from vllm.model_executor.models.qwen2_vl import Qwen2VLMultiModalDataParser

    clip = (np.zeros((2, 28, 28, 3), np.uint8), {"fps": 2.0})
    kept = Qwen2VLMultiModalDataParser(2).parse_mm_data({"video": [clip]})["video"].get_all()[0]
    return not isinstance(kept, tuple)


def clean_blocks_for_attention() -> bool:
    """Whether the runner for machines without a GPU still leaves new blocks as they are, without looking at itself."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    try:
        CPUModelRunner._zero_block_ids(None, [0])
    except AttributeError:
        return False
    return True


def seeds_of_some_requests() -> bool:
    """Whether the second of two requests, the only one with a seed, draws other tokens each time."""
    import torch
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    def drawn() -> list[int]:
        generators = {1: torch.Generator().manual_seed(7)}
        draw = TopKTopPSampler.forward_cpu
        sampler = TopKTopPSampler()
        return [int(draw(sampler, torch.zeros(2, 512), generators, None, None)[0][1]) for _ in range(4)]

    return drawn() != drawn()


def one_request_per_prompt() -> bool:
    """Whether a server gives the first output of a request alone."""
    import verl

    source = (Path(verl.__file__).parent / "workers/rollout/vllm_rollout/vllm_async_server.py").read_text()
    return "token_ids = final_res.outputs[0].token_ids" in source


def weights_of_one_run() -> bool:
    """Whether the socket's name has nothing of a run but Ray's job id."""
    import verl

    source = (Path(verl.__file__).parent / "workers/rollout/vllm_rollout/vllm_rollout.py").read_text()
    return 'f"ipc:///tmp/rl-colocate-zmq-{job_id}-replica-{self.replica_rank}-rank-{local_rank}.sock"' in source


def clips_beside_the_loop() -> bool:
    """Whether a raw prompt, as verl's server gives it, is processed where it is taken, in the event loop."""
    import asyncio
    from types import SimpleNamespace

    import verl
    from vllm.v1.engine.async_llm import AsyncLLM

    class Taken(Exception):
        """With the prompt that is to be processed."""

    def process_inputs(request_id, prompt, *args, **settings):
        raise Taken(prompt)

    async def get_supported_tasks():
        return ()

    cache = SimpleNamespace(kv_sharing_fast_prefill=False)
    engine = SimpleNamespace(errored=False, vllm_config=SimpleNamespace(cache_config=cache))
    engine.get_supported_tasks, engine.input_processor = (
        get_supported_tasks,
        SimpleNamespace(process_inputs=process_inputs),
    )
    raw = {"prompt_token_ids": [1], "multi_modal_data": {"video": [0]}}
    try:
        asyncio.run(AsyncLLM.add_request(engine, "0", raw, None))
    except Taken as taken:
        server = Path(verl.__file__).parent / "workers/rollout/vllm_rollout/vllm_async_server.py"
        return taken.args == (raw,) and "renderer" not in server.read_text()
    return False


def equal_length_position_ids() -> bool:
    import torch
    import verl.utils.tensordict_utils as utils
    from tensordict import TensorDict

    rows = [torch.arange(24).view(4, 6)] * 3
    positions = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    data = TensorDict({"position_ids": positions}, batch_size=[3])
    try:
        utils.maybe_fix_3d_position_ids(data)
        chosen = utils.index_select_tensor_dict(data, [0, 2])["position_ids"].unbind()
    except RuntimeError:
        return True
    return [tuple(row.shape) for row in chosen] != [(4, 6), (4, 6)]


def one_placeholder_per_clip() -> bool:
    """Whether verl still joins runs of a single token only."""
    import verl

    source = (Path(verl.__file__).parent / "workers/rollout/utils.py").read_text()
    return "mask[1:] &= ~(is_value[1:] & is_value[:-1])" in source and "seconds" not in source


def rows_without_media() -> bool:
    """The embeddings of text alone, as verl computes them where no row of a micro-batch has a clip."""
    import torch
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
    from verl.models.transformers.qwen2_vl import _get_input_embeds

    text = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    model = Qwen2_5_VLModel(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    try:
        _get_input_embeds(model, torch.zeros(1, 4, dtype=torch.long))
    except AttributeError as error:
        return "has no attribute 'mean'" in str(error)
    return False


def name_vllm() -> bool:
    """verl asks for the distribution by the name that only the GPU build has."""
    try:
        importlib.import_module("verl.third_party.vllm")
    except ValueError as error:
        return "vllm version None" in str(error)
    return False


def freeze_vision_tower() -> bool:
    """Whether verl still has the setting in its configuration only, and never reads it."""
    import verl

    folder = Path(verl.__file__).parent
    readers = {path.name for path in folder.rglob("*.py") if "freeze_vision_tower" in path.read_text()}
    return readers == {"actor.py"}


def append_metrics() -> bool:
    from verl.utils.tracking import FileLogger

    return '"wb"' in inspect.getsource(FileLogger)


def register_platform() -> bool:
    from verl.plugin.platform import PlatformRegistry

    return PlatformRegistry.get("cpu") is None


def gloo_only() -> bool:
    import verl.utils.distributed as distributed

    return 'f"cpu:gloo,{get_device_name()}' in inspect.getsource(distributed)


def fsdp_engine() -> bool:
    import verl.workers.engine.fsdp.transformer_impl as implementation

    return "CPUOffloadPolicy(pin_memory=True)" in inspect.getsource(implementation)


def threads_for_training() -> bool:
    """Whether verl's workers still leave the number of threads as it is."""
    import verl

    sources = (Path(verl.__file__).parent / "workers").rglob("*.py")
    return not any("set_num_threads" in source.read_text() for source in sources)


def log_probs_of_all_tokens() -> bool:
    import verl.utils.torch_functional as functional

    return "torch.logsumexp(logit, dim=-1) for logit in logits" in inspect.getsource(functional.logprobs_from_logits_v2)


def copy_received_weights() -> bool:
    import torch
    import verl

    # Read, not imported: the package around it asks for a distribution named vllm (see name_vllm).
    source = Path(verl.__file__).parent / "workers/rollout/vllm_rollout/bucketed_weight_transfer.py"
    tensor = torch.zeros(1)
    return "tensor = tensor.to(self.device)" in source.read_text() and tensor.to("cpu") is tensor


def keep_weights_loadable() -> bool:
    import vllm._custom_ops as ops
    from vllm.model_executor.layers import utils

    return bool(ops._supports_onednn) and "remove_weight" in inspect.getsource(utils)


def parameters_without_python() -> bool:
    from torch.nn import Parameter
    from vllm.model_executor.parameter import BasevLLMParameter

    own = inspect.getsource(BasevLLMParameter.__torch_function__)
    return (
        "return super().__torch_function__(func, types, args, kwargs)" in own
        and BasevLLMParameter.__base__ is Parameter
    )


def look_at_model_here() -> bool:
    from vllm.model_executor.models import registry

    return "_run_in_subprocess(" in inspect.getsource(registry._LazyRegisteredModel.inspect_model_cls)


def end_engine_core_with_server() -> bool:
    """Whether vLLM still leaves its engine core to outlive a killed server."""
    import vllm

    sources = (Path(vllm.__file__).parent / "v1" / "engine").glob("*.py")
    return not any("prctl" in source.read_text() or "PDEATHSIG" in source.read_text() for source in sources)


def ports_of_agents() -> bool:
    """Whether the raylet still waits for files of its agents' ports, and has no setting for how long."""
    import ray

    raylet = (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").read_bytes()
    settings = set(re.findall(rb"RAY_[a-z_]*port[a-z_]*(?:timeout|wait)[a-z_]*", raylet))
    return b"WaitForDashboardAgentPorts" in raylet and not settings


CHECKS = [
    ports_of_agents,
    mrope_positions,
    seconds_per_grid_for_verl,
    seconds_per_grid_for_vllm,
    clean_blocks_for_attention,
    seeds_of_some_requests,
    clips_beside_the_loop,
    equal_length_position_ids,
    freeze_vision_tower,
    append_metrics,
    one_placeholder_per_clip,
    one_request_per_prompt,
    weights_of_one_run,
    rows_without_media,
    images_and_videos_in_one_pass,
    windows_in_batches,
    mixed_rows_in_one_pass,
    register_platform,
    gloo_only,
    fsdp_engine,
    threads_for_training,
    log_probs_of_all_tokens,
    copy_received_weights,
    name_vllm,
    keep_weights_loadable,
    parameters_without_python,
    look_at_model_here,
    end_engine_core_with_server,
]

if __name__ == "__main__":
    assert "VERL_USE_EXTERNAL_MODULES" not in os.environ
    sys.stdout.write("\n" + json.dumps({check.__name__: check() for check in CHECKS}) + "\n")
