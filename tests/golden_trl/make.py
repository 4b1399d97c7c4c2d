"""Writes the goldens of the policy-gradient objective and of the learning-rate schedules.

The loss is TRL's own: `GRPOTrainer._compute_loss` runs unchanged, on a trainer made without its
constructor and given fixed log-probabilities instead of a model's. Gradients are with respect to
those log-probabilities, float64 throughout. The weights of importance sampling between sampler and
trainer are TRL's own lines too, out of the method that samples.

    python make.py        # trl 1.16, transformers 5.17, torch 2.11; writes objective.json and schedules.json beside this file
"""

import inspect
import itertools
import json
import math
import textwrap
import types
from collections import defaultdict
from pathlib import Path

import torch
import transformers
import trl
from trl import GRPOTrainer
from trl.trainer.utils import nanmax, nanmin

HERE = Path(__file__).parent
LENGTHS = [5, 3, 1, 7, 4, 7]
TRUNCATED = [False, False, False, True, False, True]
ADVANTAGES = [1.3, -0.4, 0.0, 0.7, -1.1, -0.5]
MAX_COMPLETION_LENGTH = 7


class OneProcess:
    """The parts of `accelerate.Accelerator` that the loss asks for."""

    num_processes = 1
    sync_gradients = True

    def reduce(self, tensor, reduction):
        return tensor

    def gather(self, tensor):
        return tensor


def tensors():
    generator = torch.Generator().manual_seed(20261123)
    shape = (len(LENGTHS), MAX_COMPLETION_LENGTH)
    normal = lambda scale: torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    logp = -torch.rand(shape, generator=generator, dtype=torch.float64) * 3
    return logp, logp + normal(0.3), logp + normal(0.4)


def sampled():
    """What the sampler recorded: further from the policy than `old`."""
    generator = torch.Generator().manual_seed(20261125)
    logp, _, _ = tensors()
    return logp + torch.randn(logp.shape, generator=generator, dtype=torch.float64) * 0.5


def lines_of_sampling(first, last):
    """TRL's code from the line that begins with `first` up to that which begins with `last`."""
    text = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    start = text.index(first)
    start = text.rindex("\n", 0, start) + 1
    end = text.rindex("\n", 0, text.index(last, start)) + 1
    return textwrap.dedent(text[start:end])


WEIGHTS = lines_of_sampling(
    "# Compute the importance sampling ratio when using vLLM", "# Compute the per-token log prob"
)
WEIGHT_METRICS = lines_of_sampling(
    "if self.use_vllm and self.vllm_importance_sampling_correction:\n            delta =",
    "output = {",
)


def correct(it, correction, old, completion_mask):
    """Sets the trainer up for a correction; returns the weights and adds their metrics."""
    it.use_vllm = it.vllm_importance_sampling_correction = True
    it.vllm_importance_sampling_mode = correction["mode"]
    it.vllm_importance_sampling_clip_max = correction["clip_max"]
    it.vllm_importance_sampling_clip_min = correction["clip_min"] or None
    names = {
        "self": it,
        "torch": torch,
        "math": math,
        "nanmin": nanmin,
        "nanmax": nanmax,
        "mode": "train",
        "device": "cpu",
        "tool_mask": None,
        "completion_mask": completion_mask,
        "old_per_token_logps": old,
        "sampling_per_token_logps": sampled(),
    }
    exec(WEIGHTS, names)
    exec(WEIGHT_METRICS, names)
    return names["vllm_importance_sampling_ratio"]


def mask(masked_truncated):
    rows = torch.zeros(len(LENGTHS), MAX_COMPLETION_LENGTH, dtype=torch.int64)
    for row, (length, truncated) in enumerate(zip(LENGTHS, TRUNCATED)):
        if not (masked_truncated and truncated):
            rows[row, :length] = 1
    return rows


def trainer(loss_type, level, clip, beta, accumulation, steps_per_generation, unbiased, threshold):
    it = GRPOTrainer.__new__(GRPOTrainer)
    it.loss_type, it.importance_sampling_level, it.beta = loss_type, level, beta
    it.epsilon_low, it.epsilon_high = clip
    it.max_completion_length = MAX_COMPLETION_LENGTH
    it.args = types.SimpleNamespace(
        delta=None, use_bias_correction_kl=unbiased, steps_per_generation=steps_per_generation
    )
    it.current_gradient_accumulation_steps = accumulation
    it.accelerator, it.model = OneProcess(), types.SimpleNamespace(training=True)
    it._metrics = {"train": defaultdict(list)}
    it.top_entropy_quantile, it.off_policy_mask_threshold = 1.0, threshold
    it.aux_loss_enabled = it._entropy_bonus_enabled = it.use_vllm = False
    return it


def run(
    loss_type,
    level,
    clip,
    beta,
    masked_truncated,
    on_policy,
    accumulation=1,
    steps_per_generation=1,
    unbiased=False,
    threshold=None,
    correction=None,
):
    """One minibatch of all sequences, cut into `accumulation` equal micro-batches."""
    logp, old, reference = tensors()
    logp.requires_grad_(True)
    completion_mask = mask(masked_truncated)
    it = trainer(
        loss_type, level, clip, beta, accumulation, steps_per_generation, unbiased, threshold
    )
    weights = None
    if correction is not None:
        before = logp.detach() if on_policy else old
        weights = correct(it, correction, before, completion_mask)
    size, total = len(LENGTHS) // accumulation, 0.0
    # A generation batch of `steps_per_generation / accumulation` minibatches like this one.
    items = completion_mask.sum() * steps_per_generation // accumulation
    for start in range(0, len(LENGTHS), size):
        rows = slice(start, start + size)
        it._get_per_token_logps_and_entropies = lambda *a, **k: (
            logp[rows],
            torch.zeros_like(logp[rows]),
            None,
        )
        inputs = {
            "prompt_ids": torch.zeros(size, 1, dtype=torch.int64),
            "prompt_mask": torch.ones(size, 1, dtype=torch.int64),
            "completion_ids": torch.zeros(size, MAX_COMPLETION_LENGTH, dtype=torch.int64),
            "completion_mask": completion_mask[rows],
            "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64)[rows],
            "num_items_in_batch": items,
        }
        if not on_policy:
            inputs["old_per_token_logps"] = old[rows]
        if weights is not None:
            inputs["importance_sampling_ratio"] = weights[rows]
        if threshold is not None:
            inputs["sampling_per_token_logps"] = sampled()[rows]
        if beta != 0.0:
            inputs["ref_per_token_logps"] = reference[rows]
        loss = it._compute_loss(it.model, inputs)
        loss.backward()
        total += loss.item()
    ragged = lambda t: [t[i, :n].tolist() for i, n in enumerate(LENGTHS)]
    metrics = it._metrics["train"]
    names = ["kl", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"]
    names += [f"sampling/importance_sampling_ratio/{part}" for part in ["min", "mean", "max"]]
    return {
        "loss_type": loss_type,
        "importance_sampling_level": level,
        "epsilon": clip[0],
        "epsilon_high": clip[1],
        "beta": beta,
        "use_bias_correction_kl": unbiased,
        "off_policy_mask_threshold": threshold,
        "importance_sampling_correction": correction,
        "mask_truncated_completions": masked_truncated,
        "on_policy": on_policy,
        "loss": total,
        "gradient": ragged(logp.grad),
        # With several micro-batches TRL averages their means, which weighs tokens unevenly.
        "metrics": {name: metrics[name][0] for name in names if name in metrics}
        if accumulation == 1
        else {},
    }


def objective():
    logp, old, reference = tensors()
    ragged = lambda t: [t[i, :n].tolist() for i, n in enumerate(LENGTHS)]
    clips = [(0.2, 0.2), (0.2, 0.28), (10.0, 10.0), (3e-4, 4e-4)]
    cases = [
        run(*case, on_policy=False)
        for case in itertools.product(
            ["grpo", "dr_grpo", "dapo"], ["token", "sequence"], clips, [0.0, 0.04], [False, True]
        )
    ]
    cases += [
        run(kind, level, (0.2, 0.2), 0.04, False, True)
        for kind in ["grpo", "dr_grpo", "dapo"]
        for level in ["token", "sequence"]
    ]
    cases += [
        run(kind, "token", (0.2, 0.28), 0.04, True, False, 2, 8)
        for kind in ["grpo", "dr_grpo", "dapo"]
    ]
    # DeepSeek-V3.2's stabilisers. The thresholds mask all, some and none of the sequences with a
    # negative advantage.
    for kind, level, on_policy in itertools.product(
        ["grpo", "dr_grpo", "dapo"], ["token", "sequence"], [False, True]
    ):
        cases += [run(kind, level, (0.2, 0.28), 0.04, False, on_policy, unbiased=True)]
        cases += [
            run(
                kind,
                level,
                (0.2, 0.28),
                beta,
                False,
                on_policy,
                unbiased=unbiased,
                threshold=threshold,
            )
            for beta, unbiased, threshold in [
                (0.0, False, 0.0),
                (0.04, True, 0.1),
                (0.04, False, -9.0),
                (0.0, False, 9.0),
            ]
        ]
    # The correction of the sampler, whose bounds hold some tokens and sequences.
    modes = ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
    for mode, (low, high), on_policy in itertools.product(
        modes, [(0.0, 3.0), (0.8, 1.3)], [False, True]
    ):
        correction = {"mode": mode, "clip_min": low, "clip_max": high}
        cases += [
            run(kind, level, (0.2, 0.28), 0.04, False, on_policy, correction=correction)
            for kind, level in [("grpo", "token"), ("dr_grpo", "sequence"), ("dapo", "token")]
        ]
        cases += [
            run(
                "dapo",
                "token",
                (0.2, 0.28),
                0.0,
                mode.startswith("token"),
                on_policy,
                threshold=0.1,
                correction=correction,
            )
        ]
    return {
        "made_with": {"trl": trl.__version__, "torch": torch.__version__},
        "lengths": LENGTHS,
        "truncated": TRUNCATED,
        "advantages": ADVANTAGES,
        "max_completion_length": MAX_COMPLETION_LENGTH,
        "logp": ragged(logp),
        "old": ragged(old),
        "reference": ragged(reference),
        "sampled": ragged(sampled()),
        "cases": cases,
    }


def schedules():
    out = []
    for name, warmup, total, floor in [
        ("constant", 0, 20, 0.0),
        ("constant", 7, 20, 0.0),
        ("linear", 0, 20, 0.0),
        ("linear", 5, 30, 0.0),
        ("cosine", 0, 20, 0.0),
        ("cosine", 6, 40, 0.0),
        ("cosine", 6, 40, 0.1),
        ("linear", 5, 30, 0.2),
    ]:
        rate = 3e-4
        optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=rate)
        extra, kind = {}, {"constant": "constant_with_warmup"}.get(name, name)
        if floor and name == "cosine":
            kind, extra = "cosine_with_min_lr", {"min_lr_rate": floor}
        if floor and name == "linear":
            kind, extra = "polynomial", {"power": 1.0, "lr_end": rate * floor}
        scheduler = transformers.get_scheduler(
            kind, optimiser, warmup, total, scheduler_specific_kwargs=extra
        )
        rates = []
        for _ in range(total + 1):
            rates.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            scheduler.step()
        out.append(
            {
                "lr_scheduler_type": name,
                "learning_rate": rate,
                "warmup_steps": warmup,
                "total_steps": total,
                "min_lr_ratio": floor,
                "rates": rates,
            }
        )
    return out


if __name__ == "__main__":
    (HERE / "objective.json").write_text(
        json.dumps(objective(), indent=None, separators=(",", ":")) + "\n"
    )
    (HERE / "schedules.json").write_text(
        json.dumps(schedules(), indent=None, separators=(",", ":")) + "\n"
    )
