"""Writes the goldens of what is learned from preferences: reward models (pairwise, pointwise) and
DPO.

`RewardTrainer.compute_loss` and `DPOTrainer._compute_loss` run unchanged, on trainers made without
their constructors and given fixed scores or log-probabilities instead of a model's. The pointwise
loss is transformers' own, of a classifier with one label. Gradients are with respect to those
scores and log-probabilities, float64 throughout.

    python make_preference.py        # trl 1.16, transformers 5.17, torch 2.11; writes preference.json beside this file
"""

import json
import types
from collections import defaultdict
from pathlib import Path

import torch
import transformers
import trl
from make import OneProcess
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from trl import DPOTrainer, RewardTrainer

HERE = Path(__file__).parent
PAIRS = 5
CHOSEN_LENGTHS = [4, 1, 6, 2, 3]
REJECTED_LENGTHS = [2, 5, 3, 1, 6]
LONGEST = 6


class Accelerator(OneProcess):
    device = torch.device("cpu")

    def gather_for_metrics(self, tensor):
        return tensor


def trainer(cls):
    it = cls.__new__(cls)
    it.accelerator, it.model = Accelerator(), types.SimpleNamespace(training=True)
    it._metrics, it._total_train_tokens, it._tp_size = {"train": defaultdict(list)}, 0, 1
    return it


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def reward_case(with_margin, coefficient):
    generator = torch.Generator().manual_seed(7)
    scores = (normal(generator, 2 * PAIRS, 1) * 2).requires_grad_(True)
    margin = torch.rand(PAIRS, generator=generator, dtype=torch.float64)
    it = trainer(RewardTrainer)
    it.args = types.SimpleNamespace(center_rewards_coefficient=coefficient)

    class Model:
        training = True

        def __call__(self, **_):
            return types.SimpleNamespace(logits=scores)

    it.model = Model()
    inputs = {"attention_mask": torch.ones(2 * PAIRS, 3)} | (
        {"margin": margin} if with_margin else {}
    )
    loss = it.compute_loss(it.model, inputs)
    loss.backward()
    flat, gradient = scores.detach().squeeze(-1), scores.grad.squeeze(-1)
    return {
        "center_rewards_coefficient": coefficient or 0.0,
        "margin": (margin if with_margin else torch.zeros(PAIRS, dtype=torch.float64)).tolist(),
        "chosen": flat[:PAIRS].tolist(),
        "rejected": flat[PAIRS:].tolist(),
        "loss": loss.item(),
        "chosen_gradient": gradient[:PAIRS].tolist(),
        "rejected_gradient": gradient[PAIRS:].tolist(),
        "metrics": {
            name: values[0] for name, values in it._metrics["train"].items() if name != "num_tokens"
        },
    }


def pointwise_case():
    generator = torch.Generator().manual_seed(8)
    scores = (normal(generator, 6, 1) * 3).requires_grad_(True)
    labels = torch.tensor([1.0, 0.0, 1.0, 0.25, 0.0, 1.0], dtype=torch.float64)
    config = types.SimpleNamespace(num_labels=1, problem_type="multi_label_classification")
    loss = ForSequenceClassificationLoss(labels[:, None], scores, config)
    loss.backward()
    return {
        "scores": scores.detach().squeeze(-1).tolist(),
        "labels": labels.tolist(),
        "loss": loss.item(),
        "gradient": scores.grad.squeeze(-1).tolist(),
    }


def mask():
    rows = torch.zeros(2 * PAIRS, LONGEST, dtype=torch.int64)
    for row, length in enumerate(CHOSEN_LENGTHS + REJECTED_LENGTHS):
        rows[row, :length] = 1
    return rows


def dpo_run(loss_type, beta, label_smoothing, flipped=False):
    """TRL's loss of the batch, or of the batch with every preference the other way round."""
    generator = torch.Generator().manual_seed(9)
    shape = (2 * PAIRS, LONGEST)
    completion = mask()
    policy = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    reference = (policy + normal(generator, *shape) * 0.6) * completion
    policy = (policy * completion).requires_grad_(True)
    if flipped:
        order = torch.cat([torch.arange(PAIRS, 2 * PAIRS), torch.arange(PAIRS)])
        used, reference, completion = policy[order], reference[order], completion[order]
    else:
        used = policy

    class Model:
        training = True

        def __call__(self, **_):
            nothing = torch.zeros(shape, dtype=torch.float64)
            return types.SimpleNamespace(
                log_probs=used, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
            )

    it = trainer(DPOTrainer)
    it.model, it.precompute_ref_logps = Model(), True
    it.aux_loss_enabled = it.use_weighting = False
    it.ld_alpha, it.f_divergence_type = None, "reverse_kl"
    it.loss_types, it.loss_weights, it.beta, it.label_smoothing = (
        [loss_type],
        [1.0],
        beta,
        label_smoothing,
    )
    # The prompt is one id, which nothing predicts.
    whole = torch.cat([torch.zeros(2 * PAIRS, 1, dtype=torch.int64), completion], 1)
    ref_chosen, ref_rejected = reference.sum(1).chunk(2)
    inputs = {
        "input_ids": torch.zeros_like(whole),
        "attention_mask": torch.ones_like(whole),
        "completion_mask": whole,
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
    }
    loss = it._compute_loss(it.model, inputs, False)
    (gradient,) = torch.autograd.grad(loss, policy)
    return loss.item(), gradient, policy.detach(), reference, it._metrics["train"]


def dpo_case(loss_type, beta, label_smoothing):
    loss, gradient, policy, reference, metrics = dpo_run(loss_type, beta, label_smoothing)
    if loss_type == "sigmoid" and label_smoothing:
        # Conservative DPO: a share of the labels is taken to be flipped. TRL itself smooths
        # `robust` alone.
        other, other_gradient, *_ = dpo_run(loss_type, beta, label_smoothing, flipped=True)
        loss = (1 - label_smoothing) * loss + label_smoothing * other
        gradient = (1 - label_smoothing) * gradient + label_smoothing * other_gradient
    ragged = lambda t, lengths: [row[:n].tolist() for row, n in zip(t, lengths)]
    pair = lambda t: {
        "chosen": ragged(t[:PAIRS], CHOSEN_LENGTHS),
        "rejected": ragged(t[PAIRS:], REJECTED_LENGTHS),
    }
    names = [
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
    ]
    return {
        "loss_type": loss_type,
        "beta": beta,
        "label_smoothing": label_smoothing,
        "policy": pair(policy),
        "reference": pair(reference),
        "loss": loss,
        "gradient": pair(gradient),
        "metrics": {name: metrics[name][0] for name in names},
    }


if __name__ == "__main__":
    smoothed = [
        ("sigmoid", 0.1, 0.0),
        ("sigmoid", 0.5, 0.0),
        ("sigmoid", 0.3, 0.1),
        ("robust", 0.3, 0.2),
        ("robust", 0.1, 0.0),
    ]
    out = {
        "made_with": {
            "trl": trl.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
        "reward": [reward_case(margin, c) for margin in (False, True) for c in (None, 0.01, 0.5)],
        "pointwise": pointwise_case(),
        "dpo": [dpo_case(*case) for case in smoothed + [("ipo", 0.1, 0.0), ("ipo", 0.7, 0.0)]],
    }
    (HERE / "preference.json").write_text(
        json.dumps(out, indent=None, separators=(",", ":")) + "\n"
    )
