"""The program inside a completion: the last fenced Python block of its answer, or the whole
answer."""

import re

# A Markdown fence: indentation, three or more backticks or tildes, the language, anything.
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^\s`]*)[^`]*")
_PYTHON = frozenset(["python", "py", "python3", "py3"])


def answer_of(text):
    """What stands in the last `<answer>`; else what follows the thought; `None` where the thought
    never ends."""
    before, closed, _ = text.rpartition("</answer>")
    start = (before if closed else text).rpartition("<answer>")
    if start[1]:
        return start[2]
    _, ended, rest = text.rpartition("</think>")
    if ended:
        return rest
    return None if "<think>" in text else text


def program_of(text):
    """The program's source, or `None` where there is none. A fence that is never closed reaches to
    the end: if the completion was cut off in it, what there is will not compile."""
    answer = answer_of(text)
    if answer is None:
        return None
    python = plain = None
    blocks = list(_blocks(answer))
    for language, code in blocks:
        if language in _PYTHON:
            python = code
        elif not language:
            plain = code
    if not blocks:
        return answer if answer.strip() else None
    # Untagged blocks often show input and output: they count where no block says that it is Python.
    return plain if python is None else python


def _blocks(answer):
    """Language and code of each fenced block, in order."""
    opened = None
    # Not splitlines: it also splits at characters that Python strings may hold.
    for line in answer.split("\n"):
        if opened is None:
            fence = _FENCE.fullmatch(line)
            if fence:
                indent, opened, language = fence.groups()
                language, code = language.strip("{.}").lower(), []
        elif (bare := line.strip()).startswith(opened) and not bare.strip(opened[0]):
            yield language, "\n".join(code)
            opened = None
        else:
            # A block in a list is indented as its fence is.
            code.append(line.removeprefix(indent))
    if opened is not None:
        yield language, "\n".join(code)
