"""Writes data/golden/conversations.json, sft.json, ends.json and tables/: what transformers and TRL
make of conversations with all their keys, which ids TRL's SFT learns with tokenizers in the manner
of Llama 2, Mistral and Qwen, which id ends a sequence by which file, and what pyarrow writes in
each of its codecs and types.

Run with the packages of tests/requirements.txt: .venv/bin/python
daemon/data/tests/make_conversations.py"""

import datetime
import decimal
import json
import pathlib
import shutil
import tempfile
from unittest import mock

import numpy
import pyarrow
import pyarrow.parquet
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import chat_template_utils
from trl.data_utils import apply_chat_template, common_prefix_length, extract_prompt

HERE = pathlib.Path(__file__).parent / "data/golden"
DATE = datetime.datetime(2024, 7, 4)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return DATE


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'The weather <today> & "tomorrow"',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "enum": ["Zürich", "東京"]},
                    "days": {"type": "integer", "default": 3},
                },
                "required": ["city"],
            },
        },
    }
]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {
                "name": "weather",
                "arguments": {
                    "city": "Zürich",
                    "days": 2,
                    "exact": True,
                    "limit": None,
                    "at": 1e16,
                    "small": 1e-05,
                    "tenth": 0.1,
                    "huge": 1e300,
                    "whole": 3.0,
                    "share": 1.10,
                    "big": 2**70,
                    "list": [1.0, "it's"],
                },
            },
        }
    ],
}
# Each shows a way of real templates with a message's other keys.
TEMPLATES = {
    # Qwen2.5 and Qwen3: tools as JSON lines, calls with tojson or as they are.
    "calls": """{%- if tools is defined and tools is not none and not tools %}<|system|>No tools.
{%- endif %}
{%- if tools %}
    {{- '<|system|># Tools' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|assistant|>' }}
        {%- if message.content %}{{- message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
            {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|user|><tool_response name=' + (message.name or message.tool_call_id or '') + '>\\n' + message.content + '\\n</tool_response><|end|>\\n' }}
    {%- elif message.role == 'assistant' and message.reasoning_content is defined and message.reasoning_content is not none %}
        {{- '<|assistant|><think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + message.content.lstrip('\\n') + '<|end|>\\n' }}
    {%- else %}
        {{- '<|' + message.role + '|>' + message.content + '<|end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
""",
    # Qwen3-Coder: a guard on what is none, values as Python shows them.
    "guards": """{%- macro shown(value) %}{%- if value is mapping or (value is iterable and value is not string) %}{{- value | tojson | safe }}{%- else %}{{- value | string }}{%- endif %}{%- endmacro %}
{%- if tools is iterable and tools | length > 0 %}{{- 'tools:' }}{%- for tool in tools %}{{- ' ' ~ tool.function.name }}{{- ' ' }}{{- tool.function.parameters }}{%- endfor %}{{- '\\n' }}{%- endif %}
{%- for message in messages %}
{{- message.role ~ ':' ~ (message.content or '') }}
{%- if message.tool_calls is defined and message.tool_calls is iterable and message.tool_calls | length > 0 %}
    {%- for call in message.tool_calls %}
        {%- for name, value in call.function.arguments | items %}{{- '\\n ' + name + ' = ' + shown(value) + ' ' + (value is number) | string + ' ' + (value is sequence) | string }}{%- endfor %}
    {%- endfor %}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{{- [1, 2.0, 'a', none, true] }}{{- {'a': 1e-7} }}
{%- if add_generation_prompt %}{{- '\\nassistant:' }}{%- endif %}
""",
    # Line ends of other systems; what follows a block on its line; the date in a macro.
    "ends": "{%- macro today() -%}\r\n{{ strftime_now('%d %b %Y') }}\r\n{%- endmacro %}\r\n{{ today() }}\r\n{% for message in messages %}\r\n  {{ message.role }}: {{ message.content }}\r{% if not loop.last %}\n---\r\n{% endif %}\r\n{% endfor %}\r\n{% if add_generation_prompt %}assistant:{% endif %}\r\n",
    # Numbers beside texts.
    "numbers": """{%- for message in messages %}{{- message.role ~ ':' }}
{%- for call in message.tool_calls or [] %}
{%- for name, value in call.function.arguments | items %}{{- ' ' ~ name ~ '=' ~ value ~ ';' -}}{%- endfor %}
{{- call.function.arguments.values() | join(', ') ~ '|' ~ 1e16 ~ '|' ~ 2 * 0.1 ~ -1e-5 ~ (call.function.arguments.at ~ '' if call else none) ~ [1e-7] }}
{{- [{'a': 1e-5}, {'a': true}] | join('/', attribute='a') ~ none ~ call.nothing ~ true }}
{%- endfor %}
{%- endfor %}""",
    "trims": "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}\n\n",
}
CONVERSATIONS = [
    dict(messages=[{"role": "user", "content": "Hi"}]),
    dict(messages=[{"role": "user", "content": "Hi"}], tools=TOOLS),
    dict(
        messages=[
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "<think>\n"},
        ]
    ),
    dict(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": " <think>\nWell"},
        ]
    ),
    dict(
        messages=[
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "4", "reasoning_content": "\neasy\n"},
            {"role": "user", "content": "3+3?"},
        ]
    ),
    dict(
        messages=[
            {"role": "user", "content": "Weather?"},
            CALL,
            {"role": "tool", "content": "sun", "name": "weather", "tool_call_id": "call_1"},
        ],
        tools=TOOLS,
    ),
    dict(
        messages=[{"role": "user", "content": "Hi", "name": "Ada"}],
        chat_template_kwargs={"enable_thinking": False},
    ),
    dict(
        messages=[{"role": "user", "content": "Hi"}], chat_template_kwargs={"enable_thinking": True}
    ),
    dict(messages=[{"role": "user", "content": "Hi"}], tools=[]),
]
PAIRS = [
    dict(
        prompt=[{"role": "user", "content": "2+2?"}],
        completion=[{"role": "assistant", "content": "4", "reasoning_content": "easy"}],
    ),
    dict(prompt=[{"role": "user", "content": "Weather?"}], completion=[CALL], tools=TOOLS),
    dict(
        prompt=[{"role": "user", "content": "Weather?"}],
        completion=[
            CALL,
            {"role": "tool", "content": "sun"},
            {"role": "assistant", "content": "It is sunny."},
        ],
        tools=json.dumps(TOOLS),
    ),
    dict(
        prompt=[{"role": "user", "content": "2+2?"}],
        completion=[{"role": "assistant", "content": "4 "}],
        chat_template_kwargs={"enable_thinking": False},
    ),
    dict(
        prompt=[{"role": "user", "content": "2+2?"}],
        completion=[{"role": "assistant", "content": "4"}],
        tools=[],
    ),
    dict(
        prompt=[{"role": "user", "content": "2+2?"}],
        completion=[{"role": "assistant", "content": "4"}],
        tools="[]",
    ),
]


def conversations(tokenizer):
    cases = []
    for style, template in TEMPLATES.items():
        for case in CONVERSATIONS:
            case = {"tools": None, "chat_template_kwargs": {}, **case}
            tokenizer.chat_template = template
            try:
                text = apply_chat_template(
                    {
                        "prompt": case["messages"],
                        "chat_template_kwargs": case["chat_template_kwargs"],
                    },
                    tokenizer,
                    case["tools"],
                )["prompt"]
            except Exception as error:  # what transformers refuses is to be refused
                print(style, "refuses:", type(error).__name__, str(error)[:90])
                text = None
            cases.append(dict(style=style, template=template, **case, text=text))
    return cases


def learned(tokenizer, row):
    """TRL's tokenize_fn of SFTTrainer, and add_eos before it."""
    tools = row.get("tools")
    kwargs = dict(
        tools=json.loads(tools) if isinstance(tools, str) else tools,
        **row.get("chat_template_kwargs", {}),
    )
    if isinstance(row["prompt"], list):
        of = lambda messages, **more: tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, **more, **kwargs
        )["input_ids"]
        prompt, whole = (
            of(row["prompt"], add_generation_prompt=True),
            of(row["prompt"] + row["completion"]),
        )
    else:
        completion = (
            row["completion"]
            if row["completion"].endswith(tokenizer.eos_token)
            else row["completion"] + tokenizer.eos_token
        )
        prompt, whole = (
            tokenizer(text=row["prompt"])["input_ids"],
            tokenizer(text=row["prompt"] + completion)["input_ids"],
        )
    return dict(ids=whole, prompt=common_prefix_length(prompt, whole))


CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "What is 12+30? It is 42.",
    "[INST] Hello there [/INST] General",
    "User: hi\nAssistant: hello: yes",
    "héllo wörld ,: 1 2 3",
] * 4


def sentencepiece_like(kind):
    """As the converters of transformers write them: Llama 2's normalizers, Mistral's Metaspace,
    Qwen's bytes."""
    special = ["<unk>", "<s>", "</s>"]
    if kind == "qwen":
        inner = Tokenizer(models.BPE())
        inner.normalizer = normalizers.NFC()
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=["<|end|>", "<|user|>", "<|assistant|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(CORPUS, trainer)
        names = dict(eos_token="<|end|>", pad_token="<|end|>")
    else:
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        inner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        inner.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement="▁", prepend_scheme="always", split=False
        )
        inner.train_from_iterator(
            CORPUS,
            trainers.BpeTrainer(
                vocab_size=600,
                special_tokens=special + bytes_,
                show_progress=False,
                max_token_length=8,
            ),
        )
        if kind == "llama2":
            inner.pre_tokenizer = None
            inner.normalizer = normalizers.Sequence(
                [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            )
        else:
            inner.pre_tokenizer = pre_tokenizers.Metaspace(
                replacement="▁", prepend_scheme="first", split=False
            )
        inner.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
        # The bytes are pieces, not tokens that are found in a text.
        data = json.loads(inner.to_str())
        data["added_tokens"] = [
            token for token in data["added_tokens"] if token["content"] in special
        ]
        inner = Tokenizer.from_str(json.dumps(data))
        names = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    directory = HERE / "sft" / kind
    directory.mkdir(parents=True, exist_ok=True)
    inner.save(str(directory / "tokenizer.json"), pretty=False)
    template = (
        TEMPLATES["calls"]
        if kind == "qwen"
        else "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}{% else %}{{ ' ' + message.content + ' ' + eos_token }}{% endif %}{% endfor %}"
    )
    config = dict(
        tokenizer_class="PreTrainedTokenizerFast",
        clean_up_tokenization_spaces=False,
        chat_template=template,
        **names,
    )
    (directory / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False))
    return AutoTokenizer.from_pretrained(directory)


SFT = [
    dict(prompt="What is 12+30?", completion=" It is 42."),
    dict(prompt="What is 12+30? ", completion="It is 42."),
    dict(prompt="User: hi\nAssistant:", completion="hello: yes"),
    dict(prompt="User: hi\nAssistant:", completion=" hello"),
    dict(prompt="User: hi\nAssistant: ", completion="hello"),
    dict(prompt="[INST] Hello [/INST]", completion="General"),
    dict(prompt="The qui", completion="ck brown fox"),
    dict(prompt="héllo ", completion="wörld 你好"),
    dict(
        prompt=[{"role": "user", "content": "What is 12+30?"}],
        completion=[{"role": "assistant", "content": "It is 42."}],
    ),
    dict(
        prompt=[
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "yes"},
        ],
        completion=[{"role": "assistant", "content": "The quick brown"}],
    ),
]


def sft():
    cases = []
    for kind in ("llama2", "mistral", "qwen"):
        tokenizer = sentencepiece_like(kind)
        rows = SFT + (PAIRS if kind == "qwen" else [])
        cases += [dict(tokenizer=kind, row=row, **learned(tokenizer, row)) for row in rows]
    return cases


def ends():
    """Files beside a tokenizer, and the ids that transformers has begin and end a sequence."""
    base = Tokenizer.from_file(str(HERE / "plain/tokenizer.json"))
    token = lambda content, **more: {
        "content": content,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
        "special": True,
        **more,
    }
    decoder = {
        str(i): token(c)
        for i, c in enumerate(["<|begin|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"])
    }
    next_id = base.get_vocab_size()
    cases = [
        {"tokenizer_config.json": {"eos_token": "<|end|>"}},
        {"tokenizer_config.json": {"eos_token": token("<|user|>", __type="AddedToken")}},
        {"special_tokens_map.json": {"eos_token": "<|pad|>", "bos_token": "<|begin|>"}},
        {
            "special_tokens_map.json": {"eos_token": token("<|pad|>")},
            "tokenizer_config.json": {"eos_token": "<|end|>"},
        },
        {
            "special_tokens_map.json": {"eos_token": "<|pad|>"},
            "tokenizer_config.json": {"eos_token": "<|end|>", "added_tokens_decoder": decoder},
        },
        {
            "tokenizer_config.json": {
                "eos_token": "<|new|>",
                "added_tokens_decoder": {**decoder, str(next_id): token("<|new|>")},
            }
        },
        {
            "tokenizer_config.json": {"eos_token": "<|new|>"},
            "added_tokens.json": {"<|new|>": next_id},
        },
        {
            "special_tokens_map.json": {"eos_token": "<|new|>"},
            "added_tokens.json": {"<|new|>": next_id, "<|other|>": next_id + 1},
        },
        # Special tokens that tokenizer.json lacks, or has as a piece alone, get the next ids in the
        # order of their names.
        {"tokenizer_config.json": {"eos_token": "<|end|>", "pad_token": "<|new|>"}},
        {
            "tokenizer_config.json": {
                "eos_token": "<|end|>",
                "pad_token": "<|new|>",
                "unk_token": "<|other|>",
                "image_token": "<|image|>",
            }
        },
        {
            "tokenizer_config.json": {
                "eos_token": "<|end|>",
                "additional_special_tokens": ["<|user|>", "<|new|>"],
                "mask_token": "<|mask|>",
            }
        },
        {
            "tokenizer_config.json": {
                "eos_token": "<|end|>",
                "extra_special_tokens": {"image_token": "<|image|>", "boi_token": "<|new|>"},
            }
        },
        {"tokenizer_config.json": {"eos_token": "<|end|>", "pad_token": "h"}},
        {
            "special_tokens_map.json": {
                "eos_token": "<|end|>",
                "pad_token": token("<|new|>", lstrip=True),
                "additional_special_tokens": ["<|other|>"],
            }
        },
        {
            "special_tokens_map.json": {
                "eos_token": "<|end|>",
                "extra_special_tokens": ["<|other|>"],
            },
            "tokenizer_config.json": {"extra_special_tokens": ["<|new|>"]},
        },
        {
            "tokenizer_config.json": {
                "eos_token": "<|end|>",
                "added_tokens_decoder": decoder,
                "pad_token": "<|new|>",
                "extra_special_tokens": ["<|other|>"],
            }
        },
    ]
    found = []
    for files in cases:
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            shutil.copy(HERE / "plain/tokenizer.json", directory)
            for name, content in files.items():
                content = (
                    {"tokenizer_class": "PreTrainedTokenizerFast", **content}
                    if name == "tokenizer_config.json"
                    else content
                )
                (directory / name).write_text(json.dumps(content))
            if "tokenizer_config.json" not in files:
                (directory / "tokenizer_config.json").write_text(
                    json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
                )
            tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
            text = "<|user|>hi <|new|> <|other|><|image|><|mask|><|end|>"
            found.append(
                dict(
                    files=files,
                    eos_token=tokenizer.eos_token,
                    eos_id=tokenizer.eos_token_id,
                    named=tokenizer.special_tokens_map,
                    bos_id=tokenizer.bos_token_id,
                    text=text,
                    ids=tokenizer(text)["input_ids"],
                )
            )
    return found


def tables():
    directory = HERE / "tables"
    directory.mkdir(exist_ok=True)
    utc = datetime.timezone.utc
    columns = {
        "text": pyarrow.array(["1+1?", "héllo 你好"]),
        "large": pyarrow.array(["a", None], pyarrow.large_string()),
        "view": pyarrow.array(["a", "a long text that is not kept inline"], pyarrow.string_view()),
        "dictionary": pyarrow.array(["math", "code"]).dictionary_encode(),
        "bytes": pyarrow.array([b"plain", "über".encode()], pyarrow.binary()),
        "fixed": pyarrow.array([b"abc", b"def"], pyarrow.binary(3)),
        "raw": pyarrow.array([b"\xff\x00", b"\xfe"], pyarrow.binary()),
        "int8": pyarrow.array([-128, 127], pyarrow.int8()),
        "uint64": pyarrow.array([2**64 - 1, 0], pyarrow.uint64()),
        "int64": pyarrow.array([-(2**63), 2**53 + 1], pyarrow.int64()),
        "float16": pyarrow.array(numpy.array([0.1, 2048.0], numpy.float16)),
        "float32": pyarrow.array([0.1, 1234.5678], pyarrow.float32()),
        "whole16": pyarrow.array(numpy.array([10008.0, 65504.0], numpy.float16)),
        "whole32": pyarrow.array([2147483648.0, 123456792.0], pyarrow.float32()),
        # Its changes are in no table here: it is read in UTC.
        "zoned": pyarrow.array(
            [datetime.datetime(2024, 1, 31, 12, tzinfo=utc), None],
            pyarrow.timestamp("ms", "Europe/Berlin"),
        ),
        "span": pyarrow.array(
            [datetime.timedelta(days=1), datetime.timedelta(hours=-30, microseconds=7)]
        ),
        "float64": pyarrow.array([0.1, 1e22], pyarrow.float64()),
        "decimal": pyarrow.array(
            [decimal.Decimal("717897987691852588770249.10"), decimal.Decimal("-0.50")],
            pyarrow.decimal128(38, 2),
        ),
        "decimal256": pyarrow.array([decimal.Decimal(3**100), None], pyarrow.decimal256(60, 0)),
        "date": pyarrow.array([datetime.date(2024, 1, 31), datetime.date(1969, 12, 31)]),
        "stamp": pyarrow.array(
            [datetime.datetime(2024, 1, 31, 12, 0, 0, 500000), datetime.datetime(1960, 1, 1)],
            pyarrow.timestamp("us"),
        ),
        "utc": pyarrow.array(
            [datetime.datetime(2024, 1, 31, 12, tzinfo=utc), None], pyarrow.timestamp("ms", "UTC")
        ),
        "time": pyarrow.array(
            [datetime.time(1, 2, 3, 40), datetime.time(23, 59)], pyarrow.time64("us")
        ),
        "list": pyarrow.array([[0.1, None], []], pyarrow.list_(pyarrow.float32())),
        "struct": pyarrow.array(
            [{"ground_truth": "34", "n": 1.5}, {"ground_truth": None, "n": None}],
            pyarrow.struct([("ground_truth", pyarrow.string()), ("n", pyarrow.float32())]),
        ),
        "map": pyarrow.array([[("a", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int32())),
    }
    table = pyarrow.table(columns)
    for codec in ("none", "snappy", "gzip", "brotli", "zstd", "lz4"):
        pyarrow.parquet.write_table(table, directory / f"{codec}.parquet", compression=codec)
    shown = lambda value: numpy.format_float_positional(value, unique=True, trim="0")
    shortest = {
        name: [shown(value) for value in columns[name].to_numpy()]
        for name in ("float16", "float32")
    }
    rows = []
    for row, values in enumerate(table.to_pylist()):
        said = {
            name: value
            if value is None or isinstance(value, (list, dict))
            else (value.decode() if name in ("bytes", "fixed") else str(value))
            for name, value in values.items()
            if name not in ("raw", "zoned")
        }
        said.update({name: texts[row] for name, texts in shortest.items()})
        rows.append({name: said[name] for name in said if name not in ("list", "struct", "map")})
    return rows


if __name__ == "__main__":
    write = lambda name, value: (HERE / name).write_text(
        json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    )
    with mock.patch.object(chat_template_utils, "datetime", Clock):
        tokenizer = AutoTokenizer.from_pretrained(HERE / "plain")
        write(
            "conversations.json",
            dict(date=DATE.strftime("%Y-%m-%d"), cases=conversations(tokenizer)),
        )
        write("sft.json", sft())
    write("ends.json", ends())
    write("tables/rows.json", tables())
