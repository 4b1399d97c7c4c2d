"""Writes the goldens of PPO: KL in the reward, generalised advantage estimation, whitening, and
both clipped losses.

TRL had `PPOTrainer` up to 1.12. All of it is one method, so its own lines are cut out of the file
and run on fixed tensors. Gradients are with respect to the new log-probabilities and values,
float64 throughout.

TRL gives a completion that is shorter than the longest one more place, behind its last token, which
gets the score. Here every completion is run as the longest of its batch is, with the score at its
last token.

    python make_ppo.py        # fetches the wheel of trl 1.12.0 with pip; torch 2.11; writes ppo.json beside this file
"""

import json
import subprocess
import sys
import tempfile
import textwrap
import types
import zipfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
TRL = "1.12.0"
LENGTHS = [5, 3, 1, 7, 4, 7]
LONGEST = 7


def source():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                folder,
                f"trl=={TRL}",
            ],
            check=True,
        )
        (wheel,) = Path(folder).glob("*.whl")
        return zipfile.ZipFile(wheel).read("trl/experimental/ppo/ppo_trainer.py").decode()


def cut(text, first, behind):
    """The lines from the one that begins with `first` to before the one that begins with
    `behind`."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(first))
    end = next(i for i in range(start, len(lines)) if lines[i].strip().startswith(behind))
    return textwrap.dedent("\n".join(lines[start:end]))


def tensors():
    generator = torch.Generator().manual_seed(20261125)
    normal = lambda scale: (
        torch.randn(len(LENGTHS), LONGEST, generator=generator, dtype=torch.float64) * scale
    )
    logp = -torch.rand(len(LENGTHS), LONGEST, generator=generator, dtype=torch.float64) * 3
    scores = torch.randn(len(LENGTHS), generator=generator, dtype=torch.float64)
    values = normal(0.8)
    return {
        "logp": logp,
        "reference": logp + normal(0.4),
        "values": values,
        "scores": scores,
        "new_logp": logp + normal(0.3),
        "new_values": values + normal(0.4),
    }


def outside():
    places = torch.arange(LONGEST).repeat(len(LENGTHS), 1)
    return places >= torch.tensor(LENGTHS)[:, None]


def ragged(t):
    return [row[:n].tolist() for row, n in zip(t, LENGTHS)]


def advantages(text, given, kl_coef, gamma, lam):
    functions, estimate = {"torch": torch}, cut(text, "# 4. compute rewards", "empty_cache()")
    exec(cut(text, "def masked_mean", "# taken from"), functions)
    raw, returns = (
        torch.zeros(len(LENGTHS), LONGEST, dtype=torch.float64),
        torch.zeros(len(LENGTHS), LONGEST, dtype=torch.float64),
    )
    for row, n in enumerate(LENGTHS):
        own = lambda name: given[name][row : row + 1, :n]
        nothing = torch.zeros(1, n, dtype=torch.bool)
        scope = functions | {
            "args": types.SimpleNamespace(
                kl_estimator="k1", kl_coef=kl_coef, whiten_rewards=False, gamma=gamma, lam=lam
            ),
            "logprobs": own("logp"),
            "ref_logprobs": own("reference"),
            "values": own("values"),
            "scores": given["scores"][row : row + 1],
            "responses": own("logp"),
            "sequence_lengths": torch.tensor([n - 1]),
            "sequence_lengths_p1": torch.tensor([n]),
            "padding_mask": nothing,
            "padding_mask_p1": nothing,
        }
        exec(estimate, scope)
        returns[row, :n] = scope["returns"]
        raw[row, :n] = scope["returns"] - own("values")
    return raw, returns, functions["masked_whiten"](raw, ~outside())


def losses(text, given, advantage, returns, cliprange, cliprange_value, vf_coef):
    new_logp, new_values = (
        given[name].clone().requires_grad_(True) for name in ("new_logp", "new_values")
    )
    scope = {"torch": torch}
    exec(cut(text, "def masked_mean", "# taken from"), scope)
    scope |= {
        "args": types.SimpleNamespace(
            cliprange=cliprange, cliprange_value=cliprange_value, vf_coef=vf_coef
        ),
        "new_logprobs": new_logp,
        "mb_logprobs": given["logp"],
        "vpred": new_values,
        "mb_values": given["values"],
        "mb_return": returns,
        "mb_advantage": advantage,
        "padding_mask": outside(),
        "padding_mask_p1": outside(),
        "micro_batch_inds": slice(None),
    }
    exec(cut(text, "vpredclipped = torch.clamp(", "accelerator.backward(loss)"), scope)
    exec(cut(text, "pg_clipfrac = masked_mean(", "prob_dist ="), scope)
    scope["loss"].backward()
    return {
        "cliprange": cliprange,
        "cliprange_value": cliprange_value,
        "vf_coef": vf_coef,
        "loss": scope["loss"].item(),
        "policy_loss": scope["pg_loss"].item(),
        "value_loss": scope["vf_loss"].item(),
        "policy_clipfrac": scope["pg_clipfrac"].item(),
        "value_clipfrac": scope["vf_clipfrac"].item(),
        "logp_gradient": ragged(new_logp.grad),
        "values_gradient": ragged(new_values.grad),
    }


def case(text, given, kl_coef, gamma, lam):
    raw, returns, whitened = advantages(text, given, kl_coef, gamma, lam)
    clips = [(0.2, 0.2, 0.1), (0.05, 0.5, 1.0), (10.0, 0.1, 0.5)]
    return {
        "kl_coef": kl_coef,
        "gamma": gamma,
        "lam": lam,
        "advantages": ragged(raw),
        "returns": ragged(returns),
        "whitened": ragged(whitened),
        "losses": [losses(text, given, whitened, returns, *clip) for clip in clips],
    }


if __name__ == "__main__":
    text, given = source(), tensors()
    out = {
        "made_with": {"trl": TRL, "torch": torch.__version__},
        "scores": given["scores"].tolist(),
        **{
            name: ragged(given[name])
            for name in ("logp", "reference", "values", "new_logp", "new_values")
        },
        "cases": [
            case(text, given, *settings)
            for settings in [(0.05, 1.0, 0.95), (0.0, 1.0, 1.0), (0.2, 0.97, 0.8)]
        ],
    }
    (HERE / "ppo.json").write_text(json.dumps(out, indent=None, separators=(",", ":")) + "\n")
