"""Writes data/golden/: a small byte-level BPE tokenizer, and what tokenizers and transformers make
of texts and conversations.

Run with the packages of tests/requirements.txt: .venv/bin/python daemon/data/tests/make_golden.py
"""

import json
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent / "data/golden"

TEXT = [
    "The quick brown fox jumps over the lazy dog.",
    "User: what is 12+30? Assistant:",
    "<think> 12+30=42 </think>",
    "héllo wörld",
] * 3
SPECIAL = ["<|begin|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"]

# The shapes of Qwen's and DeepSeek's templates, in small: a namespace, loops, macros, Python's
# string methods, tojson, raise_exception.
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

# In the manner of the families' own templates, with the constructs that each of them needs.
STYLES = {
    "qwen2.5": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}{{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nBe of use.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
""",
    "qwen3": """{%- set ns = namespace(multi_step=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last_query = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query and (loop.last or (not loop.last and reasoning)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
""",
    "llama3": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
    {%- if never_defined is defined %}{%- set date_string = never_defined("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
    "r1": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{%- if ns.is_tool %}{{'<|outputs|>' + message['content'] + '<|end|>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<|Assistant|>' + content + '<|end|>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<|outputs|><|output|>' + message['content'] + '<|/output|>'}}{%- set ns.is_output_first = false %}{%- else %}{{'\\n<|output|>' + message['content'] + '<|/output|>'}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<|/outputs|>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|><think>\\n'}}{% endif %}""",
}
LONGER = [
    [
        {"role": "system", "content": " Think first.\n"},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>\neasy\n</think>\n\n2"},
        {"role": "user", "content": "<tool_response>and 2+2?</tool_response>"},
    ],
    [
        {"role": "user", "content": "weather?"},
        {"role": "tool", "content": "sun"},
        {"role": "tool", "content": "wind"},
        {"role": "assistant", "content": "Sun </think>and wind."},
        {"role": "user", "content": 'ünï 你好 "quoted" \\\\ back'},
    ],
]

CONVERSATIONS = [
    [{"role": "user", "content": " What is 2+2? "}],
    [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "hmm</think>\n\nHello"},
        {"role": "user", "content": '<b>"Bye" & so on</b>'},
    ],
]
TEXTS = [
    "",
    " ",
    "The quick brown fox",
    "a\n\n b\tc",
    "héllo wörld 你好 🦊",
    "<|user|>hi<|end|>",
    "12+30=42",
    "x <think> y",
]


def tokenizer(directory, single):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if single:
        inner.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<|begin|>", 0), ("<|end|>", 1)]
        )
    directory.mkdir(parents=True, exist_ok=True)
    inner.save(str(directory / "tokenizer.json"), pretty=False)
    config = dict(
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "generation_config.json").write_text(
        json.dumps(dict(eos_token_id=[1, 3], bos_token_id=0))
    )
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
                decoded=raw.decode(
                    raw.encode(text, add_special_tokens=False).ids, skip_special_tokens=False
                ),
                decoded_without_special=raw.decode(
                    raw.encode(text, add_special_tokens=False).ids, skip_special_tokens=True
                ),
            )
            for text in TEXTS
        ],
        conversations=[
            dict(
                messages=messages,
                text=fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
            )
            for messages in CONVERSATIONS
        ],
    )


def styles(directory):
    """What transformers makes of each conversation in each style."""
    fast = AutoTokenizer.from_pretrained(directory)
    return [
        dict(
            style=style,
            template=template,
            messages=messages,
            text=fast.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=True
            ),
        )
        for style, template in STYLES.items()
        for messages in [*CONVERSATIONS, *LONGER]
    ]


for name, single in (
    ("plain", None),
    ("begin", "<|begin|> $A"),
    ("begin-end", "<|begin|> $A <|end|>"),
):
    tokenizer(HERE / name, single)
    (HERE / name / "cases.json").write_text(
        json.dumps(cases(HERE / name), indent=1, ensure_ascii=False) + "\n"
    )
    print(
        name, [len(c["ids"]) for c in json.loads((HERE / name / "cases.json").read_text())["texts"]]
    )
(HERE / "chat_styles.json").write_text(
    json.dumps(styles(HERE / "plain"), indent=1, ensure_ascii=False) + "\n"
)
print(json.loads((HERE / "plain/cases.json").read_text())["conversations"])
