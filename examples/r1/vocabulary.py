"""Three small tokenizers in the format of Hugging Face, which cut text as the families do that they
are named after.

All are lists of whole words, collected from the generated text; each Chinese character is a token.
They differ in where spaces go and in how numbers are cut, so a student sees other ids, and more or
fewer of them, than its teacher."""

import json
import re

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
# The R1-Zero template's sentences are one token each: at this size the compute is for the problems,
# not for reading instructions.
PHRASES = [
    "A conversation between User and Assistant.",
    " The user asks a question, and the Assistant solves it.",
    " The assistant first thinks about the reasoning process in the mind and then provides the user with the answer.",
    " The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e.,"
    " <think> reasoning process here </think> <answer> answer here </answer>. User: ",
    ". Assistant:",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
]
CUTS = {
    "tokenizer": " ?[A-Za-z]+ ?|[0-9]{1,2}",  # a word takes the spaces around it, a number is one token: the shortest sequences
    "tokenizer-qwen2": " ?[A-Za-z]+|[0-9]",  # Qwen2's digits stand alone
    "tokenizer-llama": " ?[A-Za-z]+|[0-9]{1,3}| ",  # Llama 3's come in groups of up to three
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ '<|end|>' if message['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def pattern(cut):
    escaped = [
        re.sub(r"([.?|()\[\]{}*+^$\\])", r"\\\1", phrase)
        for phrase in sorted(PHRASES, key=len, reverse=True)
    ]
    return "|".join([*escaped, cut, r"[\s\S]"])


def write(directory, cut, texts):
    """Writes the tokenizer's files and returns how many tokens it knows."""
    words = re.compile(pattern(cut))
    seen = {word for text in texts for word in words.findall(text)}
    characters = {chr(code) for code in range(32, 127)} | {"\n"}
    special = [PAD, END, UNKNOWN, USER, ASSISTANT]
    vocabulary = [*special, *PHRASES, *sorted((seen | characters) - set(PHRASES))]
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, token in enumerate(special)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": pattern(cut)},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {token: index for index, token in enumerate(vocabulary)},
            "unk_token": UNKNOWN,
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", config),
        ("generation_config.json", {"eos_token_id": 1, "pad_token_id": 0}),
    ):
        (directory / name).write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return len(vocabulary)
