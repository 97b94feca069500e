"""The Ray Serve application: `Api` speaks HTTP on CPUs, `Sampler` draws, on GPUs where there are any.

A request is split into images, one call of a `Sampler` each, so that images of different requests share batches.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from ray import serve

from actors.resources import resources
from actors.serving.api_replica import Api
from actors.serving.endpoint_config import EndpointConfig, read_key
from actors.serving.image_request import ModelCard
from actors.serving.sampler_replica import Sampler
from marval_ray.class_names import names_of
from marval_ray.families.base import FamilyConfig
from marval_ray.hub.exported import index_beside
from marval_ray.hub.layout import read_config
from marval_ray.runs.students import readable_student_of

API_CPUS = 0.5
KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
"""Lets glibc reuse the memory of one loop in the next. Otherwise a thread that is not the main one gives it back and takes page
faults for it in each: a third of its speed on CPUs."""


STEPS = 16
"""N_AR of requests that ask for none, of a student that says nothing of it."""


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application, for `serve run actors.serving.endpoint:build NAME=VALUE...` and Serve config files.

    Raises ValueError when an argument is unknown or does not fit, or the checkpoint cannot be served.
    """
    return application(TypeAdapter(EndpointConfig).validate_python(args))


def application(config: EndpointConfig) -> serve.Application:
    key = read_key(config.key_file)  # here: other machines have neither this one's files nor its environment
    student = readable_student_of(config.checkpoint)
    model = read_config(student.parent)
    sampler = serve.deployment(
        name="Sampler", user_config=user_config(config.checkpoint),
        ray_actor_options={"num_cpus": config.cpus, "num_gpus": config.gpus, "runtime_env": {"env_vars": KEEP_MEMORY}},
        # The replica itself counts images and turns those beyond `queue` away, so that questions of its state never wait.
        max_ongoing_requests=4 * (config.batch + config.queue),
        autoscaling_config={
            "min_replicas": config.min_replicas, "max_replicas": config.max_replicas, "target_ongoing_requests": config.batch,
        },
        health_check_period_s=5, health_check_timeout_s=30, graceful_shutdown_timeout_s=config.deadline,
    )(Sampler)  # fmt: skip
    api = serve.deployment(
        name="Api", max_ongoing_requests=2048, ray_actor_options={"num_cpus": API_CPUS},
        health_check_period_s=5, health_check_timeout_s=30, graceful_shutdown_timeout_s=config.deadline,
    )(serve.ingress()(Api))  # fmt: skip
    card = card_of(replace(config, checkpoint=student), model)
    return api.bind(card, config, key, sampler.bind(config, model))


def demands(config: EndpointConfig) -> dict[str, list[dict[str, float]]]:
    """Return the resources that the first replicas take, by role."""
    return {"Sampler": [resources(config.cpus, config.gpus)] * config.min_replicas, "Api": [resources(API_CPUS, 0)]}


def card_of(config: EndpointConfig, model: FamilyConfig) -> ModelCard:
    """Return the card. Raises ValueError when `steps` is too large, names of classes are unknown, or given to a model without."""
    if config.steps is not None and config.steps > model.num_tokens:
        raise ValueError(f"steps {config.steps} is more than the {model.num_tokens} tokens of an image")
    if model.num_classes is None and config.classes is not None:
        raise ValueError(f"--classes {config.classes}: this model reads texts, and has no classes")
    index = index_beside(config.checkpoint)
    steps = config.steps or (index.loops if index else min(STEPS, model.num_tokens))
    names = () if model.num_classes is None else names_of(config.checkpoint, model.num_classes, config.classes)
    return ModelCard(config.name, names, model.num_tokens, steps, model.image_size)


def user_config(checkpoint: Path) -> dict[str, Any]:
    """Return what changes with the file, so that Serve notices a new student under an old name."""
    return {"checkpoint": str(checkpoint), "modified": checkpoint.stat().st_mtime_ns}
