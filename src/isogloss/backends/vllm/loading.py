"""Starts vLLM on a checkpoint with the plugin active, and talks to its workers."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME
from transformers.utils.hub import cached_file

from isogloss.backends.engine_model import EngineModel
from isogloss.backends.families import Family
from isogloss.backends.huggingface.discovery import find_routers, model_without_weights
from isogloss.backends.open import refuse_unsupported
from isogloss.backends.reading import Checkpoint, find_checkpoint, reading, require_embedded
from isogloss.backends.stored_tensors import hash_files
from isogloss.errors import ModelError, PlanError
from isogloss.hub import asking_hub
from isogloss.routing import Fingerprint, RouterSpec
from isogloss.steering import Plan, RouterAdapter, Steering

__all__ = ["ServedModel", "start_engine"]

_FROM_SAFETENSORS = ("auto", "hf", "safetensors", "fastsafetensors")
_WORKER_EXTENSION = "isogloss.backends.vllm.plugin.required.Required"


class ServedModel(EngineModel):
    """The state of a model that vLLM runs, in this process or in workers of its own.

    Attributes:
        engine: vLLM's ``LLM``.
        kernels: names of the classes that run the experts.
    """

    backend = "vllm"

    def __init__(
        self,
        name: str,
        engine: Any,  # noqa: ANN401 - vLLM's own
        tokenizer: PreTrainedTokenizerBase,
        config: Any,  # noqa: ANN401 - transformers' own
        *,
        revision: str | None = None,
    ) -> None:
        """Ask the workers what they serve.

        Raises:
            ModelError: they serve another architecture than transformers reads from the checkpoint.
        """
        super().__init__(name, tokenizer, config, *_routers(config), revision=revision)
        self.engine = engine
        self._status: dict[str, Any] = self.call("isogloss_status")[0]
        self.kernels = tuple(self._status["kernels"])
        layers, first, served = tuple(spec.layer for spec in self.routers), self.routers[0], self.fingerprint
        if (served.layers, served.n_experts, served.top_k) != (layers, first.n_experts, first.top_k):
            raise ModelError(
                f"vLLM routes layers {served.layers} ({served.n_experts} experts, {served.top_k} chosen); transformers "
                f"has {layers} ({first.n_experts}, {first.top_k}): not the same model"
            )

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the weights that the workers hold."""
        return Fingerprint.from_json(self._status["fingerprint"])

    @property
    def weights_sha256(self) -> str | None:
        """Hash of pieces of every tensor of the files that vLLM has loaded; see `hash_files`.

        The workers hold the weights in parts, and in layouts of their kernels. None where the weights are read in
        another format than safetensors, or not from this machine's disk.
        """
        if self.vllm_config.load_config.load_format not in _FROM_SAFETENSORS:
            return None
        try:
            config = cached_file(
                self.engine.model_config.model, CONFIG_NAME, revision=self.revision, local_files_only=True
            )
            return hash_files(Path(str(config)).parent)
        except (OSError, ModelError):
            return None

    @property
    def dtype(self) -> str:
        """Of weights and activations, such as ``bfloat16``."""
        return str(self.engine.model_config.dtype).removeprefix("torch.")

    @property
    def threads(self) -> int | None:
        """On how many threads each worker computes on a processor; None on other devices."""
        threads: int | None = self._status["threads"]
        return threads

    @property
    def vllm_config(self) -> Any:  # noqa: ANN401 - vLLM's own
        """All settings of the engine."""
        return self.engine.llm_engine.vllm_config

    def run(self, prompts: Sequence[Sequence[int]], arguments: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Continue prompts of token ids, each with its own arguments of vLLM's ``SamplingParams``."""
        from vllm import SamplingParams  # noqa: PLC0415 - there is a vLLM only where a model is served

        params = [SamplingParams(**{"detokenize": False, **each}) for each in arguments]
        given = [{"prompt_token_ids": list(ids)} for ids in prompts]
        outputs: list[Any] = self.engine.generate(given, params, use_tqdm=False)
        return outputs

    def call(self, method: str, *args: Any) -> list[Any]:  # noqa: ANN401 - what workers take
        """Call a method of every worker; see `isogloss.backends.vllm.plugin.worker.SteeredWorker`.

        Raises:
            PlanError: a worker refused.
        """
        results: list[Any] = self.engine.collective_rpc(method, args=args)
        for result in results:
            if isinstance(result, dict) and "error" in result:
                raise PlanError(result["error"])
        return results

    def load_plan(self, plan: Plan | None) -> dict[str, Any]:
        """Replace the plan of every worker, None for none, and forget what was cached; return ``isogloss_status``.

        Raises:
            PlanError: the plan is for another model, cannot be served here, or changes no chosen expert.
        """
        status: dict[str, Any] = self.call("isogloss_load_plan", "" if plan is None else json.dumps(plan.to_json()))[0]
        return status

    @contextmanager
    def steer(self, plan: Steering) -> Iterator[None]:
        """Serve under a plan inside the context, and under none afterwards; see `Model.steer`."""
        refuse_unsupported(self.backend, adapter=isinstance(plan, RouterAdapter))
        assert isinstance(plan, Plan)  # noqa: S101 - else refused above
        if plan.languages:
            raise PlanError(
                f"the plan has conditions on languages ({', '.join(plan.languages)}), and a request here has none; "
                "steer with what Plan.for_request chooses for one language"
            )
        if self.call("isogloss_status")[0]["plan_sha256"] is not None:
            raise PlanError("another plan is active on this engine; leave its context first")
        self.load_plan(plan)
        try:
            yield
        finally:
            self.load_plan(None)

    @contextmanager
    def recording(self, items: Sequence[Mapping[str, Sequence[int]]]) -> Iterator[dict[str, torch.Tensor]]:
        """Record the routing of items that are run inside; see `isogloss.backends.vllm.plugin.record.Recorder`.

        Yields:
            Filled when the context ends: ``profiles``, ``selections``, ``distinct_profiles`` and ``sampled``, as
            `Recorder.stop` returns them, over the layers of all stages of a pipeline.

        Raises:
            PlanError: a token did not run, or the engine keeps no routing.
        """
        self.call("isogloss_record", [dict(item) for item in items])
        recorded: dict[str, torch.Tensor] = {}
        yield recorded
        stages: dict[tuple[int, ...], dict[str, torch.Tensor]] = {}
        for content in self.call("isogloss_record", None):
            arrays = safetensors.torch.load(content)
            stages.setdefault(tuple(arrays.pop("layers").tolist()), arrays)  # tensor parallel workers see the same
        ordered = [stages[layers] for layers in sorted(stages)]
        recorded |= {name: torch.cat([stage[name] for stage in ordered], dim=1) for name in ordered[0]}


def start_engine(
    name: str, *, dtype: str, record: bool, n_slots: int, options: Mapping[str, Any]
) -> tuple[Any, PreTrainedTokenizerBase, Any, Checkpoint]:
    """Start vLLM on a checkpoint; see `isogloss.backends.vllm.model.serve_model`.

    Returns:
        vLLM's ``LLM``, the tokenizer, the checkpoint's configuration, and where it was read from.
    """
    follows_tokens = record or n_slots > 1
    if follows_tokens and options.get("enable_prefix_caching"):
        raise ModelError(
            "--engine enable_prefix_caching=true: a prefix cache leaves out tokens that are to be captured, or that "
            "were computed in another phase; leave it out"
        )
    if importlib.util.find_spec("vllm") is None:
        raise ModelError("vLLM is not installed here; install it (pip install vllm), or use --backend huggingface")
    variables = {
        "ISOGLOSS_KINDS": "all,select" if "select" in os.environ.get("ISOGLOSS_KINDS", "") else "all",
        "ISOGLOSS_SLOTS": str(n_slots),
        "ISOGLOSS_RECORD": str(int(record)),
        "VLLM_LOGGING_STREAM": os.environ.get("VLLM_LOGGING_STREAM", "ext://sys.stderr"),  # stdout is for results
    }
    with _environment(variables):
        _require_known(options)
    from vllm import LLM  # noqa: PLC0415 - takes seconds, and is not there for most users

    from isogloss.backends.vllm.plugin import register  # noqa: PLC0415 - as above

    arguments = {"dtype": dtype, "worker_extension_cls": _WORKER_EXTENSION, **options}
    if follows_tokens:
        arguments["enable_prefix_caching"] = False
        # vLLM's newer runner, its default on GPUs, does not give the request of each token of a step.
        variables["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    with reading(name, expected="give a hub id or a folder with config.json, weights and tokenizer"):
        place = find_checkpoint(name)
        config = place.config()
        tokenizer = place.tokenizer()
    require_embedded(tokenizer, config.get_text_config().vocab_size, name)
    try:
        with nullcontext() if place.revision is None else asking_hub() as unreachable:
            variables |= {"HF_HUB_OFFLINE": "1"} if unreachable else {}  # for the engine's own processes
        with _environment(variables):
            register()  # vLLM itself calls it once per process, perhaps before these variables were set
            engine = LLM(place.source, revision=place.revision, tokenizer_revision=place.revision, **arguments)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"vLLM cannot serve {name!r}: {str(error).strip().splitlines()[0]}") from error
    return engine, tokenizer, config, place


def _require_known(options: Mapping[str, Any]) -> None:
    """Refuse what vLLM does not take, before anything is loaded."""
    from vllm import LLM, EngineArgs  # noqa: PLC0415 - takes seconds, and is not there for most users

    known = {*inspect.signature(LLM.__init__).parameters, *(field.name for field in fields(EngineArgs))}
    for name in sorted(set(options) - known):
        near = difflib.get_close_matches(name, known, n=1)
        like = f"did you mean {near[0]}?" if near else "see the arguments of vLLM's LLM"
        raise ModelError(f"--engine {name}: vLLM's LLM takes no such argument; {like}")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables that the engine's processes read, and forget others that the shell may set for a server."""
    names = ("ISOGLOSS_PLAN", "ISOGLOSS_PLANS", "ISOGLOSS_USAGE", *variables)
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _routers(config: Any) -> tuple[Family, tuple[RouterSpec, ...]]:  # noqa: ANN401 - transformers' own
    """Read how a checkpoint's routers choose from transformers' own class, without any weight."""
    routers = find_routers(model_without_weights(config))
    return routers[0].family, tuple(router.spec for router in routers)
