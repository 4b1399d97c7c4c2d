"""transformers' generate for the model of `model.json`, bfloat16, random weights, grouped_mm
experts, end-of-sequence ignored: a JSON line per batch, tokens a second of the best of the runs."""

import argparse
import json
import pathlib
import time

import torch
import transformers

parser = argparse.ArgumentParser()
parser.add_argument("--model", default=pathlib.Path(__file__).parent / "model.json")
parser.add_argument("--device", default="cuda:0")
parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
parser.add_argument("--prompt", type=int, default=256)
parser.add_argument("--new", type=int, default=64)
parser.add_argument("--runs", type=int, default=2)
arguments = parser.parse_args()

fields = json.loads(pathlib.Path(arguments.model).read_text())
config = transformers.DeepseekV3Config(**{k: v for k, v in fields.items() if k != "architectures"})
with torch.device(arguments.device):
    torch.set_default_dtype(torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.bfloat16, experts_implementation="grouped_mm"
    ).eval()
for rows in arguments.batches:
    ids = torch.randint(config.vocab_size, (rows, arguments.prompt), device=arguments.device)
    best = 0.0
    for run in range(arguments.runs + 1):
        # The first run warms up.
        new = arguments.new if run else 4
        begun = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                pad_token_id=0,
            )
        if out.is_cuda:
            torch.cuda.synchronize()
        assert out.shape == (rows, arguments.prompt + new)
        if run:
            best = max(best, rows * new / (time.perf_counter() - begun))
    row = dict(rows=rows, prompt=arguments.prompt, new=arguments.new, engine="transformers")
    print(json.dumps(row | dict(tokens_per_s=round(best), experts="grouped_mm")), flush=True)
