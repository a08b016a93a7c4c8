"""Reproducible rollouts. Clips are decoded once per prompt, and one agent loop serves all rollouts."""

import asyncio
import hashlib
from collections import OrderedDict
from functools import cached_property
from typing import Any

import ray
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.dataset.rl_dataset import RLHFDataset

_AGENT = "clip_agent"  # its name in launch/engines/verl/config.yaml
_CLIPS_KEPT = 64  # per agent loop worker, for its prompts in flight; 64 frames of 262,144 pixels are about 200 MB


class _Cache(OrderedDict[Any, Any]):
    """The last `_CLIPS_KEPT` values by key."""

    def put(self, key: Any, value: Any) -> Any:
        self[key] = value
        while len(self) > _CLIPS_KEPT:
            self.popitem(last=False)
        return value


class ClipDataset(RLHFDataset):
    """verl's data set; a clip is decoded once for all rollouts of a prompt."""

    _decoding: _Cache = _Cache()

    @classmethod
    async def process_multi_modal_info(cls, messages, image_patch_size, config):
        """Images, videos ((frames, metadata) each) and audios of the messages, decoded once per group."""
        key = hashlib.sha256(repr(messages).encode()).digest()
        if key not in cls._decoding:
            decode = super().process_multi_modal_info(messages, image_patch_size=image_patch_size, config=config)
            cls._decoding.put(key, asyncio.ensure_future(decode))
        return await asyncio.shield(cls._decoding[key])


@register(_AGENT)
class ClipAgentLoop(SingleTurnAgentLoop):
    """verl's single turn; a prompt is tokenised once for all its rollouts."""

    _prompts: _Cache = _Cache()

    async def ct_build_initial_tokens(self, messages, **media):
        """Token ids of the prompt, with the placeholders of the clip expanded."""
        key = hashlib.sha256(repr(messages).encode()).digest()
        if key not in self._prompts:
            self._prompts.put(key, asyncio.ensure_future(super().ct_build_initial_tokens(messages, **media)))
        return list(await asyncio.shield(self._prompts[key]))


# verl decorates its worker with ray.remote; only the undecorated class can be extended.
class AgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """verl's worker, with a sampling seed per rollout; a group shares the processor's features."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._features: _Cache = _Cache()

    async def _run_agent_loop(self, sampling_params, trajectory, *, agent_name, trace=True, **kwargs):
        # One seed per (step, prompt, rollout): the same tokens in whatever order requests are served, and after a
        # resume. (verl's own full_determinism gives every rollout of a group the same seed.)
        name = f"{self.rollout_config.seed}/{kwargs['uid']}/{kwargs['session_id']}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        sampling_params = {**sampling_params, "seed": seed}
        if agent_name != _AGENT:  # another, set by the user in `rl.engine`
            settings = {"agent_name": agent_name, "trace": trace}
            return await super()._run_agent_loop(sampling_params, trajectory, **settings, **kwargs)
        output = await self._agent_loop.run(sampling_params, **kwargs)
        return await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)

    @cached_property
    def _agent_loop(self) -> ClipAgentLoop:
        """One for all rollouts: it has no state. verl makes one per rollout, through Hydra, in 5 ms each."""
        return ClipAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            data_config=DictConfigWrap(self.config.data),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            hf_model_type=self.hf_model_type,
            dataset_cls=self.dataset_cls,
        )

    def _compute_multi_modal_inputs(self, output, input_ids):
        media = output.multi_modal_data or {}
        videos, images = media.get("videos") or (), media.get("images") or ()
        if not videos and not images:
            return super()._compute_multi_modal_inputs(output, input_ids)
        # A group shares its frames and images (ClipDataset), so their identity is the key, valid as long as they are
        # kept.
        key = (*(id(frames) for frames, _ in videos), *map(id, images))
        if key not in self._features:
            features = super()._compute_multi_modal_inputs(output, input_ids)
            # Token types depend on the text: the caller recomputes them from the ids, and only needs them to be there.
            self._features.put(key, ((videos, images), features))
        return dict(self._features[key][1])


class AgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with the worker above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(AgentLoopWorker)
