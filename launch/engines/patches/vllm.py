"""Patches of vLLM."""

from typing import Any

from launch.engines.cleanup import die_with_parent
from launch.engines.patches.hooks import after_import


def apply() -> None:
    """Run every patch after the import of its module."""
    after_import("vllm.model_executor.models.qwen2_5_vl")(seconds_per_grid_for_vllm)
    after_import("vllm.v1.worker.cpu_model_runner")(clean_blocks_for_attention)
    after_import("vllm.v1.sample.ops.topk_topp_sampler")(seeds_of_some_requests)
    after_import("vllm.v1.engine.async_llm")(clips_beside_the_loop)


def seconds_per_grid_for_vllm(module: Any) -> None:
    """vLLM 0.24.0, multimodal/parse.py:652: drops the metadata of Qwen2.5-VL videos, so 24 fps is assumed.

    With the patch, the clip's own frame rate decides the seconds between its temporal patches, to the millisecond: a
    float32, which it is elsewhere, would put some patches a position off.
    """
    info_class, processor_class = module.Qwen2_5_VLProcessingInfo, module.Qwen2_5_VLMultiModalProcessor
    get_data_parser, call = info_class.get_data_parser, processor_class._call_hf_processor

    def get_data_parser_with_metadata(self: Any) -> Any:
        parser = get_data_parser(self)
        parse = parser._get_video_with_metadata

        def _get_video_with_metadata(video: Any) -> tuple[Any, dict[str, Any]]:
            frames, metadata = parse(video)
            return frames, metadata or {}  # the dummy clips of memory profiling have none

        parser.video_needs_metadata, parser._get_video_with_metadata = True, _get_video_with_metadata
        return parser

    def _call_hf_processor(self: Any, prompt: Any, mm_data: Any, mm_kwargs: Any, tok_kwargs: Any) -> Any:
        import torch

        clips = [clip if isinstance(clip, tuple) else (clip, {}) for clip in mm_data.get("videos", ())]
        if clips:
            mm_data = {**mm_data, "videos": [frames for frames, _ in clips]}
        out = call(self, prompt, mm_data, mm_kwargs, tok_kwargs)
        for index, (frames, metadata) in enumerate(clips):
            if metadata:
                fps = len(frames) / metadata["total_num_frames"] * metadata["fps"]
                out["second_per_grid_ts"] = torch.as_tensor(out["second_per_grid_ts"], dtype=torch.float64)
                temporal_patch_size = self.info.get_hf_config().vision_config.temporal_patch_size
                out["second_per_grid_ts"][index] = round(temporal_patch_size / fps, 3)
        return out

    info_class.get_data_parser = get_data_parser_with_metadata
    processor_class._call_hf_processor = _call_hf_processor


def clean_blocks_for_attention(module: Any) -> None:
    """vLLM 0.24.0, v1/worker/cpu_model_runner.py:155: without a GPU, blocks are not zeroed before attention gets them.

    A block of the cache that held the float32 state of a gated delta layer (Qwen3.5) is full of what reads as NaN in
    bfloat16. Attention over the first tokens in it gives the others a weight of 0, and 0 times NaN is NaN: so the
    log-probabilities of every request were that got a block which an earlier one had freed.
    """

    def _zero_block_ids(self: Any, block_ids: list[int]) -> None:
        for cache in self.kv_caches:
            if not isinstance(cache, list):  # the states of other layers, several tensors each
                blocks = self.kv_cache_config.num_blocks
                cache.unflatten(0, (blocks, len(cache) // blocks))[block_ids] = 0

    module.CPUModelRunner._zero_block_ids = _zero_block_ids


def seeds_of_some_requests(module: Any) -> None:
    """vLLM 0.24.0, v1/sample/ops/topk_topp_sampler.py:195: without a GPU, seeds count only where all requests have one.

    A greedy request has none, so votes that were sampled beside one were others in every run.
    """
    import torch

    forward_cpu = module.TopKTopPSampler.forward_cpu

    def forward_with_seeds(self: Any, logits: Any, generators: dict[int, Any], k: Any, p: Any) -> Any:
        if generators:
            generators = dict.fromkeys(range(len(logits)), torch.default_generator) | generators
        return forward_cpu(self, logits, generators, k, p)

    module.TopKTopPSampler.forward_cpu = forward_with_seeds


def clips_beside_the_loop(module: Any) -> None:
    """vLLM 0.24.0, v1/engine/async_llm.py:349: a raw prompt, as verl's server gives it, is processed in the event loop.

    Meanwhile no other request is taken and no answer is given out. vLLM's own servers render prompts first, which
    processes their clips in a thread; so does this.
    """
    add_request = module.AsyncLLM.add_request

    async def add_rendered(self: Any, request_id: str, prompt: Any, *args: Any, **settings: Any) -> Any:
        if isinstance(prompt, dict) and prompt.get("multi_modal_data"):
            (prompt,) = await self.renderer.render_cmpl_async([prompt])
        return await add_request(self, request_id, prompt, *args, **settings)

    module.AsyncLLM.add_request = add_rendered


def end_engine_core_with_server(module) -> None:
    """vLLM 0.24.0, v1/engine/utils.py:163: starts its engine core as a process that outlives a killed parent."""
    module.EngineCoreProc.run_unbound = module.EngineCoreProc.run_engine_core
    module.EngineCoreProc.run_engine_core = staticmethod(_run_engine_core)


def _run_engine_core(*args: Any, **settings: Any) -> None:
    """A function of a module, so that a spawned process, where nothing is patched, can import it too."""
    die_with_parent()
    from vllm.v1.engine.core import EngineCoreProc

    getattr(EngineCoreProc, "run_unbound", EngineCoreProc.run_engine_core)(*args, **settings)
