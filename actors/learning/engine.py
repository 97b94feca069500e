"""DeepSpeed engines: any ZeRO stage, bf16 compute over float32 weights on GPUs, float32 on CPUs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from marval_ray.adapters import whole_weights
from marval_ray.config import LearnerConfig

# DeepSpeed picks its accelerator when it is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed  # noqa: E402

# Compiled on first use for minutes; gloo does the same work on CPUs.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def engine_config(config: LearnerConfig, lr: float, autocast: bool) -> dict:
    """Return DeepSpeed's configuration of one network.

    Weights, gradients and optimiser states stay float32 (a step of 5e-6 is below bf16's resolution); bf16 is the
    dtype of the matrix products, through `autocast`.
    """
    return {
        "train_micro_batch_size_per_gpu": config.batch,
        "gradient_clipping": config.grad_clip,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": lr, "betas": list(config.betas), "weight_decay": config.weight_decay, "torch_adam": True,
            },
        },
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        # Of modules that are named here, or by default of each Linear, ZeRO averages gradients and gathers weights in bf16.
        "torch_autocast": {"enabled": autocast, "dtype": "bfloat16", "lower_precision_safe_modules": []},
    }  # fmt: skip


def make_engine(module: nn.Module, config: LearnerConfig, lr: float, device: torch.device) -> deepspeed.DeepSpeedEngine:
    """Make an engine around `module` that leaves its frozen parameters as they are; the process group must exist."""
    module = module.to(device)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    engine, *_ = deepspeed.initialize(
        model=module, model_parameters=trained, config=engine_config(config, lr, device.type == "cuda")
    )
    return engine


def set_lr(engine: deepspeed.DeepSpeedEngine, lr: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def update(engine: deepspeed.DeepSpeedEngine, loss: torch.Tensor, lr: float) -> torch.Tensor:
    """Take one optimiser step on `loss` (averaged over ranks); return the norm of its gradient, before clipping."""
    set_lr(engine, lr)
    engine.backward(loss)
    # Only DeepSpeed's sharded optimisers keep the norm that they clip.
    whole = engine.zero_optimization_stage() == 0
    norm = torch.nn.utils.get_total_norm(p.grad for p in engine.parameters() if p.grad is not None) if whole else None
    engine.step()
    return torch.as_tensor(engine.get_global_grad_norm() if norm is None else norm)


@contextmanager
def whole_parameters(engine: deepspeed.DeepSpeedEngine, module: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the parameters of `module`, with its adapters in them, gathered from all ranks under ZeRO 3."""
    with deepspeed.zero.GatheredParameters(list(module.parameters()), enabled=engine.zero_optimization_stage() == 3):
        yield whole_weights(module)


@torch.no_grad()
def set_trained(engine: deepspeed.DeepSpeedEngine, module: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Set what is trained of `module`, and the copies that ZeRO's optimisers have of it. Every rank calls this, with the same weights."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    stage_3 = engine.zero_optimization_stage() == 3
    with deepspeed.zero.GatheredParameters(list(trained.values()), modifier_rank=0, enabled=stage_3):
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
    for name, parameter in trained.items():
        deepspeed.utils.safe_set_full_fp32_param(parameter, weights[name].to(parameter.device))
