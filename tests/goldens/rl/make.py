"""What verl and TRL make of random rollouts: advantages, losses with their gradients, importance weights.

Run in an environment with torch 2.13, transformers 5 and accelerate, and

    pip install --no-deps verl==0.9.1 trl==1.16.0 omegaconf tensordict pyvers antlr4-python3-runtime==4.9.3 \
        datasets dill multiprocess xxhash hydra-core codetiming ray msgpack torchdata orjson cloudpickle

    python tests/goldens/rl/make.py

Everything in float64, so that what differs is no rounding. TRL's loss is a method of its trainer: it is
called on an object that has the settings it reads, with a model whose log-probabilities are the given ones.
"""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from trl.trainer.grpo_trainer import GRPOTrainer
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
from verl.workers.config import ActorConfig

PROMPTS, SAMPLES, SLOTS = 5, 4, 7
ROWS = PROMPTS * SAMPLES
OUT = Path(__file__).parent / "expected.npz"


def rollout() -> dict[str, torch.Tensor]:
    """Random log-probabilities, rewards and lengths; one group has equal rewards."""
    rng = np.random.default_rng(13)
    lengths = rng.integers(1, SLOTS + 1, ROWS)
    lengths[0] = SLOTS
    rewards = rng.choice([1.0, -0.3, -0.6, -1.0], ROWS)
    rewards[-SAMPLES:] = -0.3
    old = -rng.gamma(1.0, 1.0, (ROWS, SLOTS))
    made = {
        "mask": (np.arange(SLOTS) < lengths[:, None]).astype(float),
        "rewards": rewards,
        "old": old,
        # far enough apart that every clip is met on both sides
        "logprob": old + rng.normal(0.0, 0.6, old.shape),
        "sampler": old + rng.normal(0.0, 0.5, old.shape),
        "advantage": np.repeat(rng.normal(0.0, 1.0, (ROWS, 1)), SLOTS, axis=1),
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in made.items()}


def token_level(data: dict[str, torch.Tensor]) -> torch.Tensor:
    """The reward at each response's last token."""
    out = torch.zeros_like(data["mask"])
    last = data["mask"].sum(1).long() - 1
    out[torch.arange(ROWS), last] = data["rewards"]
    return out


def verl_advantages(data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Advantages [B, W] of each estimator, whitened where verl whitens them."""
    group = np.repeat(np.arange(PROMPTS), SAMPLES)
    given = {"response_mask": data["mask"]}
    calls = {
        "grpo": ("grpo", {"index": group}),
        "dr_grpo": ("grpo", {"index": group, "norm_adv_by_std_in_grpo": False}),
        "rloo": ("rloo", {"index": group}),
        "reinforce++": ("reinforce_plus_plus", {"config": SimpleNamespace(gamma=0.9)}),
        "reinforce++_baseline": ("reinforce_plus_plus_baseline", {"index": group}),
    }
    return {
        name: core_algos.get_adv_estimator_fn(estimator)(token_level(data), **given, **more)[0]
        for name, (estimator, more) in calls.items()
    }


AGGREGATIONS = {
    "token_mean": "token-mean",
    "sequence_mean": "seq-mean-token-mean",
    "constant": "seq-mean-token-sum-norm",
}


def verl_losses(data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """(loss, gradient) of each policy loss."""
    weights, _ = compute_rollout_correction_weights(data["old"] - data["sampler"], data["mask"], "token", 2.0)
    cases = {
        "ppo": ("vanilla", 0.2, 0.2, 3.0, "token_mean", None),
        "grpo": ("vanilla", 0.2, 0.2, 3.0, "sequence_mean", None),
        "dr_grpo": ("vanilla", 0.2, 0.2, 3.0, "constant", None),
        "dapo": ("vanilla", 0.2, 0.28, 10.0, "token_mean", None),
        "gspo": ("gspo", 3e-4, 4e-4, 3.0, "sequence_mean", None),
        "gspo_wide": ("gspo", 0.1, 0.2, 3.0, "sequence_mean", None),
        "cispo": ("cispo", 0.2, 0.28, 3.0, "token_mean", None),
        "importance": ("vanilla", 0.2, 0.2, 3.0, "token_mean", weights),
    }
    out = {}
    for name, (loss, low, high, dual, aggregation, weights) in cases.items():
        config = ActorConfig(
            strategy="fsdp",
            rollout_n=SAMPLES,
            ppo_micro_batch_size_per_gpu=1,
            clip_ratio_low=low,
            clip_ratio_high=high,
            clip_ratio_c=dual,
        )
        logprob = data["logprob"].clone().requires_grad_()
        value, _ = core_algos.get_policy_loss_fn(loss)(
            data["old"],
            logprob,
            data["advantage"],
            data["mask"],
            AGGREGATIONS[aggregation],
            config,
            weights,
        )
        value.backward()
        out |= {f"{name}.loss": value.detach(), f"{name}.grad": logprob.grad}
    return out


def trl_losses(data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """(loss, gradient) of TRL's GRPOTrainer._compute_loss."""
    cases = {
        "grpo": ("grpo", "token", 0.2, 0.2, None),
        "bnpo": ("bnpo", "token", 0.2, 0.2, None),
        "dr_grpo": ("dr_grpo", "token", 0.2, 0.2, None),
        "dapo": ("dapo", "token", 0.2, 0.28, None),
        "gspo": ("grpo", "sequence", 3e-4, 4e-4, None),
        "gspo_wide": ("grpo", "sequence", 0.1, 0.2, None),
        "cispo": ("cispo", "token", 0.2, 5.0, None),
    }
    out = {}
    for name, (loss_type, level, low, high, delta) in cases.items():
        logprob = data["logprob"].clone().requires_grad_()
        trainer = mock.MagicMock(
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            importance_sampling_level=level,
            beta=0.0,
            loss_type=loss_type,
            epsilon_low=low,
            epsilon_high=high,
            max_completion_length=SLOTS,
            current_gradient_accumulation_steps=1,
            use_vllm=False,
            aux_loss_enabled=False,
            _entropy_bonus_enabled=False,
        )
        trainer.args.delta, trainer.args.steps_per_generation = delta, 1
        trainer.accelerator.num_processes = 1
        trainer.accelerator.gather = lambda x: x
        scored = (logprob, torch.zeros_like(logprob), None)
        trainer._get_per_token_logps_and_entropies = lambda *_, scored=scored, **__: scored
        tokens = torch.zeros((ROWS, SLOTS), dtype=torch.long)
        inputs = {
            "prompt_ids": tokens[:, :1],
            "prompt_mask": tokens[:, :1] + 1,
            "completion_ids": tokens,
            "completion_mask": data["mask"],
            "advantages": data["advantage"][:, 0],
            "old_per_token_logps": data["old"],
            "num_items_in_batch": data["mask"].sum(),
        }
        value = GRPOTrainer._compute_loss(trainer, None, inputs)
        value.backward()
        out |= {f"{name}.loss": value.detach(), f"{name}.grad": logprob.grad}
    return out


def verl_importance(data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """verl's truncated weights, 0 in padding."""
    return {
        f"{level}_truncate": compute_rollout_correction_weights(
            data["old"] - data["sampler"], data["mask"], level, 1.5
        )[0]
        for level in ("token", "sequence")
    }


def main() -> None:
    """Writes expected.npz beside this file."""
    data = rollout()
    made = {f"given.{name}": value for name, value in data.items()}
    made |= {f"verl.advantage.{k}": v for k, v in verl_advantages(data).items()}
    made |= {f"verl.loss.{k}": v for k, v in verl_losses(data).items()}
    made |= {f"verl.importance.{k}": v for k, v in verl_importance(data).items()}
    made |= {f"trl.loss.{k}": v for k, v in trl_losses(data).items()}
    assert all(torch.isfinite(value).all() for value in made.values())
    np.savez_compressed(OUT, **{name: value.numpy() for name, value in made.items()})


if __name__ == "__main__":
    main()
