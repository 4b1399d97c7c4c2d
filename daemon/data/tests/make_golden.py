"""Writes data/golden/: a small byte-level BPE tokenizer, and what tokenizers and transformers make of texts and conversations.

Run with the packages of tests/requirements.txt: .venv/bin/python daemon/data/tests/make_golden.py
"""

import json
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent / "data/golden"

TEXT = ["The quick brown fox jumps over the lazy dog.", "User: what is 12+30? Assistant:", "<think> 12+30=42 </think>", "héllo wörld"] * 3
SPECIAL = ["<|begin|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"]

# The shapes of Qwen's and DeepSeek's templates, in small: a namespace, loops, macros, Python's string methods, tojson, raise_exception.
CHAT = """{%- macro turn(role, content) %}{{- '<|' + role + '|>' + content.strip() }}{%- endmacro %}
{%- if not add_generation_prompt is defined %}
    {%- set add_generation_prompt = false %}
{%- endif %}
{%- set ns = namespace(system='', turns=0) %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {%- set ns.system = message['content'] %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}{{ ns.system }}
{%- if tools %}
    {{- tools | tojson(indent=2) }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
    {%- if message.role == 'system' %}
        {%- continue %}
    {%- endif %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if message.role == 'assistant' %}
        {% generation %}{{ turn('assistant', content) + eos_token }}{% endgeneration %}
    {%- else %}
        {{- turn(message.role, content) }}
        {%- set ns.turns = ns.turns + 1 %}
    {%- endif %}
{%- endfor %}
{{- ' ' + {'turns': ns.turns, 'ünï': [1, true, none], 'empty': {}} | tojson }}
{% if add_generation_prompt %}
    {{- '<|assistant|><think>\\n' }}
{%- endif %}
"""

CONVERSATIONS = [
    [{"role": "user", "content": " What is 2+2? "}],
    [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "hmm</think>\n\nHello"},
        {"role": "user", "content": "<b>\"Bye\" & so on</b>"},
    ],
]
TEXTS = ["", " ", "The quick brown fox", "a\n\n b\tc", "héllo wörld 你好 🦊", "<|user|>hi<|end|>", "12+30=42", "x <think> y"]


def tokenizer(directory, single):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    if single:
        inner.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<|begin|>", 0), ("<|end|>", 1)]
        )
    directory.mkdir(parents=True, exist_ok=True)
    inner.save(str(directory / "tokenizer.json"), pretty=False)
    config = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False)
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(json.dumps(dict(eos_token_id=[1, 3], bos_token_id=0)))
    (directory / "chat_template.jinja").write_text(CHAT)


def cases(directory):
    raw = Tokenizer.from_file(str(directory / "tokenizer.json"))
    fast = AutoTokenizer.from_pretrained(directory)
    return dict(
        texts=[
            dict(
                text=text,
                ids=raw.encode(text, add_special_tokens=False).ids,
                special_ids=fast(text)["input_ids"],
                decoded=raw.decode(raw.encode(text, add_special_tokens=False).ids, skip_special_tokens=False),
                decoded_without_special=raw.decode(raw.encode(text, add_special_tokens=False).ids, skip_special_tokens=True),
            )
            for text in TEXTS
        ],
        conversations=[
            dict(messages=messages, text=fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)) for messages in CONVERSATIONS
        ],
    )


for name, single in (("plain", None), ("begin", "<|begin|> $A"), ("begin-end", "<|begin|> $A <|end|>")):
    tokenizer(HERE / name, single)
    (HERE / name / "cases.json").write_text(json.dumps(cases(HERE / name), indent=1, ensure_ascii=False) + "\n")
    print(name, [len(c["ids"]) for c in json.loads((HERE / name / "cases.json").read_text())["texts"]])
print(json.loads((HERE / "plain/cases.json").read_text())["conversations"])
