"""Writes the goldens of the sampling mask (Keep Sampling Mask, DeepSeek-V3.2 3.1): GRPO where every
distribution is over the ids that top-k and top-p left.

Policy, old policy and reference are an output head, whose weights they share, over hidden states of
their own. A token's ids are cut as by top-k and top-p of the old policy, from which the logits of
all others are -inf for all three. The loss is TRL's own, as in make.py, given these
log-probabilities. Gradients are with respect to hidden states and head, float64 throughout.

Some ids are dropped for every token. One of them has a logit far above all that are kept: a term
that is masked by a product would not be finite.

    python make_mask.py        # trl 1.16, torch 2.11; writes mask.json beside this file
"""

import itertools
import json
from pathlib import Path

import torch
import trl
from make import ADVANTAGES, LENGTHS, MAX_COMPLETION_LENGTH, mask, trainer

HERE = Path(__file__).parent
VOCAB, HIDDEN = 40, 8
TEMPERATURE = 0.8
# Nowhere kept. The first's logits are enormous.
NEVER = [3, 17, 39]
TOKENS = sum(LENGTHS)


def single(tensor):
    """What float32 holds, so that both sides begin with the same numbers."""
    return tensor.float().double()


def tensors():
    generator = torch.Generator().manual_seed(20261126)
    normal = lambda rows, scale: (
        torch.randn(rows, HIDDEN, generator=generator, dtype=torch.float64) * scale
    )
    head = normal(VOCAB, 0.7)
    # A direction of its own, so that no completion id's logits are near its.
    states = normal(TOKENS, 1.0)
    states[:, 0] = states[:, 0].abs() + 1.0
    old, reference = states + normal(TOKENS, 0.15), states + normal(TOKENS, 0.2)
    head[NEVER[0]] = 0.0
    head[NEVER[0], 0] = 250.0
    pick = torch.rand(TOKENS, generator=generator, dtype=torch.float64)
    return single(head), single(states), single(old), single(reference), pick


def kept_sets(logits):
    """bool [N, V]: every third token's by top-k, every third's by top-k and top-p, all but the ids
    that are never kept for the rest."""
    allowed = torch.ones(VOCAB, dtype=torch.bool)
    allowed[NEVER] = False
    sets = torch.zeros(logits.shape, dtype=torch.bool)
    for token, row in enumerate(logits):
        probabilities = torch.where(allowed, (row - row[allowed].max()).exp(), 0.0)
        order = probabilities.argsort(descending=True)[: int(allowed.sum())]
        if token % 3 < 2:
            order = order[: 12 if token % 3 == 0 else 20]
        if token % 3 == 1:
            share = probabilities[order].cumsum(0) / probabilities[order].sum()
            order = order[: 1 + int((share < 0.8).sum())]
        sets[token, order] = True
    return sets


def runs(row):
    """The numbers of one token, as in `KeptIds`."""
    if row.all():
        return [0]
    numbers, at = [], 0
    for kept, group in itertools.groupby(row.tolist()):
        length = len(list(group))
        if kept:
            numbers += [at, length]
            at = 0
        else:
            at = length
    return [len(numbers) // 2] + numbers


def ragged(flat):
    rows = list(flat.split(LENGTHS))
    return [row.tolist() for row in rows]


def padded(flat):
    """[N] → [sequences, longest]; what no completion has is 0."""
    rows = torch.zeros(len(LENGTHS), MAX_COMPLETION_LENGTH, dtype=torch.float64)
    for row, (own, length) in enumerate(zip(flat.split(LENGTHS), LENGTHS)):
        rows = rows.index_put((torch.full((length,), row), torch.arange(length)), own)
    return rows


def logprobs(head, states, sets, ids):
    logits = (states @ head.T / TEMPERATURE).masked_fill(~sets, -torch.inf)
    every = logits.log_softmax(-1)
    entropy = -torch.where(sets, every.exp() * every.masked_fill(~sets, 0.0), 0.0).sum(-1)
    return every.gather(1, ids[:, None])[:, 0], entropy


def run(kind, level, beta, unbiased, threshold, on_policy):
    head, states, old_states, reference_states, pick = tensors()
    sets = kept_sets(old_states @ head.T / TEMPERATURE)
    masked = (old_states @ head.T / TEMPERATURE).masked_fill(~sets, -torch.inf)
    ids = (masked.softmax(-1).cumsum(-1) > pick[:, None]).double().argmax(-1)
    assert sets.gather(1, ids[:, None]).all() and not sets[:, NEVER].any()
    head.requires_grad_(True)
    states.requires_grad_(True)
    logp, entropy = logprobs(head, states, sets, ids)
    with torch.no_grad():
        old, _ = logprobs(head, old_states, sets, ids)
        reference, _ = logprobs(head, reference_states, sets, ids)
    it = trainer(kind, level, (0.2, 0.28), beta, 1, 1, unbiased, threshold)
    it._get_per_token_logps_and_entropies = lambda *a, **k: (
        padded(logp),
        torch.zeros(len(LENGTHS), MAX_COMPLETION_LENGTH),
        None,
    )
    completion_mask = mask(False)
    inputs = {
        "prompt_ids": torch.zeros(len(LENGTHS), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(LENGTHS), 1, dtype=torch.int64),
        "completion_ids": torch.zeros(len(LENGTHS), MAX_COMPLETION_LENGTH, dtype=torch.int64),
        "completion_mask": completion_mask,
        "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64),
        "num_items_in_batch": completion_mask.sum(),
        "ref_per_token_logps": padded(reference),
        "sampling_per_token_logps": padded(old),
    }
    if not on_policy:
        inputs["old_per_token_logps"] = padded(old)
    loss = it._compute_loss(it.model, inputs)
    loss.backward()
    assert states.grad.isfinite().all() and (head.grad[NEVER] == 0).all()
    case = {
        "loss_type": kind,
        "importance_sampling_level": level,
        "beta": beta,
        "use_bias_correction_kl": unbiased,
        "off_policy_mask_threshold": threshold,
        "on_policy": on_policy,
        "loss": loss.item(),
        "hidden_gradient": states.grad.flatten().tolist(),
        "head_gradient": head.grad.flatten().tolist(),
    }
    shared = {
        "completion_ids": ragged(ids),
        "kept_ids": [sum((runs(row) for row in rows), []) for rows in sets.split(LENGTHS)],
        "head": head.detach().flatten().tolist(),
        "hidden": states.detach().flatten().tolist(),
        "old_hidden": old_states.flatten().tolist(),
        "reference_hidden": reference_states.flatten().tolist(),
        "logp": logp.tolist(),
        "old": old.tolist(),
        "reference": reference.tolist(),
        "entropy": entropy.sum().item(),
    }
    return shared, case


if __name__ == "__main__":
    made = [
        run("grpo", "token", 0.04, True, None, False),
        run("dapo", "token", 0.0, False, None, False),
        run("dr_grpo", "sequence", 0.04, False, None, False),
        run("dapo", "token", 0.04, True, 0.02, False),
        run("grpo", "token", 0.04, True, None, True),
    ]
    goldens = {
        "made_with": {"trl": trl.__version__, "torch": torch.__version__},
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "temperature": TEMPERATURE,
        "never": NEVER,
        "epsilon": [0.2, 0.28],
        "max_completion_length": MAX_COMPLETION_LENGTH,
        "advantages": ADVANTAGES,
        **made[0][0],
        "cases": [case for _, case in made],
    }
    (HERE / "mask.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
