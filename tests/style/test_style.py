"""What CONTRIBUTING.md asks of every file and a reader can check without knowing what it does: the
width of lines, the words of TERMS.md, one meaning for each type's name in a crate and across the
link, links that lead to a file, durable files that are written through the store, and modules that
do not import each other in a circle."""

import collections
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
WIDTH_MAX_COLUMNS = 100
# A comment, up to its text.
COMMENT = re.compile(r"\s*(//[/!]?|#|\*)")
RAW_STRING = re.compile(r'(?<![\w"])(?:b|c)?r(#*)".*?"\1', re.S)


def tracked(*patterns):
    listed = subprocess.check_output(["git", "ls-files", *patterns], cwd=ROOT, text=True)
    files = [ROOT / name for name in listed.splitlines()]
    return [f for f in files if f.is_file() and "golden" not in f.parts and "corpus" not in f.parts]


def without_tests(text):
    """The source up to its own tests."""
    return re.split(r"\n#\[cfg\(test\)\]\nmod ", text)[0]


def modules():
    """Each crate's modules: {crate: {module path: source}}; the crate's root is the empty path."""
    crates = collections.defaultdict(dict)
    for file in tracked("daemon/*.rs", "plugins/*.rs", "reward-sdk/*.rs"):
        crate, found, inside = str(file.relative_to(ROOT)).partition("/src/")
        if found:
            path = inside.removesuffix(".rs").removesuffix("/mod").replace("/", "::")
            crates[crate]["" if path in ("lib", "main") else path] = without_tests(file.read_text())
    return crates


# --- durable files

# How a file or a directory comes to be, or gets a name.
WRITES = re.compile(
    r"\bfs::(?:write|rename|copy|hard_link|create_dir|create_dir_all)\b"
    r"|\bFile::(?:create|create_new|options)\b|\bOpenOptions::new\b|\buser_file::append\b"
)
# The crates whose files a job or the daemon relies on after a crash.
CONTROL_PLANE = (
    "data", "ingest", "job", "ledger", "net", "rewards", "runner", "link", "node", "controller", "r1d"
)
# Files that write by themselves, and why a crash harms nobody.
WRITE_THEMSELVES = {
    "ingest/src/file.rs": "a token set in the making, which its folder names when it is whole",
    "ledger/src/tables.rs": "redb writes a new ledger beside its place",
    "ledger/src/watched.rs": "the ledger's own file, and its copy after a failed sync",
    "r1d/src/daemon.rs": "the directory of the control socket",
    "node/src/job_log.rs": "a log may lose its last lines",
    "node/src/outside.rs": "a file that tells whether a directory can be written to",
    "r1d/src/plugin/mod.rs": "the cache of a command without a daemon",
    "node/src/old_workers.rs": "the lock file of the workers",
    "r1d/src/state_dir.rs": "the lock file of the state directory",
}


def test_durable_files_are_written_through_the_store():
    wrong, needed = [], set()
    for crate in CONTROL_PLANE:
        for file in tracked(f"daemon/{crate}/src/*.rs"):
            name = str(file.relative_to(ROOT / "daemon"))
            for match in WRITES.finditer(without_tests(file.read_text())):
                needed.add(name)
                if name not in WRITE_THEMSELVES:
                    wrong.append(f"{name}: {match.group()}: use r1d_store (replace, link_files, …)")
    assert not wrong, "\n".join(wrong)
    assert not set(WRITE_THEMSELVES) - needed, "no longer needed"


# --- width


def raw_lines(text):
    """Numbers of the lines that a raw string touches: what it holds is data."""
    lines = set()
    for match in RAW_STRING.finditer(text):
        first = text.count("\n", 0, match.start())
        lines.update(range(first, first + match.group().count("\n") + 1))
    return lines


def too_wide(file):
    """Lines that are wider than the limit, other than tables and what has no blank to break at."""
    text = file.read_text()
    raw = raw_lines(text) if file.suffix == ".rs" else set()
    fenced = False
    for number, line in enumerate(text.split("\n")):
        if file.suffix == ".md" and line.strip().startswith("```"):
            fenced = not fenced
        if len(line) <= WIDTH_MAX_COLUMNS or number in raw or fenced:
            continue
        comment = COMMENT.match(line)
        if file.suffix not in (".rs", ".md", ".cpp", ".h", ".c") and not comment:
            continue
        said = line[comment.end() :].strip() if comment and file.suffix != ".md" else line.strip()
        if not said.startswith("|") and " " in said:
            yield f"{file.relative_to(ROOT)}:{number + 1}: {len(line)} columns"


def test_no_line_is_wider_than_a_page():
    kinds = ("*.rs", "*.md", "*.py", "*.cpp", "*.h", "*.c", "*.cu", "*.cuh", "*.toml", "Makefile", "systemd/*")
    wide = [line for file in tracked(*kinds) for line in too_wide(file)]
    assert not wide, "\n".join(wide)


# --- links

# `[words](path)`, the path up to a blank or its fragment.
LINK = re.compile(r"\]\(<?([^)>\s#]*)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)


def test_relative_links_lead_to_files():
    dead, seen = [], 0
    for file in tracked("*.md"):
        for target in LINK.findall(FENCE.sub("", file.read_text())):
            if target and "://" not in target and not target.startswith("mailto:"):
                seen += 1
                if not (file.parent / target).exists():
                    dead.append(f"{file.relative_to(ROOT)}: {target}")
    assert seen > 100, "links are found"
    assert not dead, "\n".join(dead)


# --- words


def retired_words():
    """The words that TERMS.md retires, each with what is said instead."""
    table = (ROOT / "TERMS.md").read_text().split("## Retired words")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.M)
    assert len(rows) > 10, "TERMS.md has a table of retired words"
    return dict(rows)


def test_retired_words_are_not_used():
    words = retired_words()
    pattern = re.compile(rf"\b({'|'.join(words)})\b")
    found = []
    for file in tracked("daemon/*.rs", "*.md"):
        if file.name in ("TERMS.md", "CHANGELOG.md"):
            continue
        for number, line in enumerate(file.read_text().split("\n"), 1):
            for word in pattern.findall(line):
                place = f"{file.relative_to(ROOT)}:{number}"
                found.append(f"{place}: `{word}` is retired: {words[word]}")
    assert not found, "\n".join(found)


# A type inside of an `impl` is the one that its trait names.
PUBLIC = r"(?:pub(?:\([^)]*\))? )?"
DECLARED = re.compile(rf"(?m)^(?:\s*{PUBLIC}(?:struct|enum|trait|union)|{PUBLIC}type) (\w+)")
# The names that traits of other crates give.
GIVEN = {"Context", "Result", "Error", "Output", "Item", "Err", "Target", "Value", "State"}


def test_a_type_name_has_one_meaning_in_a_crate():
    twice = []
    for crate, sources in modules().items():
        places = collections.defaultdict(set)
        for path, source in sources.items():
            for name in DECLARED.findall(source):
                places[name].add(path)
        twice += [
            f"{crate}: `{name}` in {', '.join(sorted(where))}"
            for name, where in places.items()
            if len(where) > 1 and name not in GIVEN
        ]
    assert not twice, "\n".join(twice)


# The crates that speak of jobs on both sides of the link, and whose types meet in one file.
ACROSS_THE_LINK = ("link", "controller", "node", "ledger")
VISIBLE = re.compile(r"(?m)^pub(?:\([^)]*\))? (?:struct|enum|trait|union|type) (\w+)")


def test_a_type_name_has_one_meaning_across_the_link():
    places = collections.defaultdict(set)
    for crate, sources in modules().items():
        if crate.removeprefix("daemon/") in ACROSS_THE_LINK:
            for source in sources.values():
                for name in VISIBLE.findall(source):
                    places[name].add(crate)
    twice = [f"`{name}` in {', '.join(sorted(where))}" for name, where in places.items() if len(where) > 1]
    assert not twice, "\n".join(twice)


# --- sentences

# Words that begin a fragment where the noun should stand: "Of a row.", "By model."
FRAGMENT = re.compile(r"^(Of|By|As|Likewise|From|Where|Whose|Whom|With|Without)\b(?![^.;:]*,)")


def test_doc_comments_are_sentences_about_their_item():
    found = []
    for file in tracked("daemon/*.rs", "plugins/*.rs", "reward-sdk/*.rs"):
        lines = file.read_text().split("\n")
        for number, line in enumerate(lines):
            text = line.strip()
            before = lines[number - 1].strip() if number else ""
            if text.startswith("/// ") and not before.startswith("///") and FRAGMENT.match(text[4:]):
                found.append(f"{file.relative_to(ROOT)}:{number + 1}: {text}")
    assert not found, "\n".join(found)


# --- imports


def imported(source):
    """Paths that a source names: `crate::a::b`, `super::c`, each as far as it goes."""
    source = re.sub(r"//[^\n]*", "", source)
    for start, tree in re.findall(r"\b(crate|super|self)((?:::\w+)*::(?:\{[^;]*?\}(?=;)|\w+))", source):
        yield from (start + path for path in flat(tree))


def flat(tree):
    """Paths of a use tree: `::a::{b, c::d}` has `::a::b` and `::a::c::d`."""
    head, brace, rest = tree.partition("{")
    if not brace:
        return [tree]
    parts, depth, part = [], 0, ""
    for char in rest.rpartition("}")[0]:
        if char == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            depth += (char == "{") - (char == "}")
            part += char
    return [head + path.strip() for piece in [*parts, part] for path in flat(piece.strip()) if path]


def edges(sources):
    """{module: modules that it imports from}. A name that the root only passes on is none of it."""
    graph = {path: set() for path in sources}
    for path, source in sources.items():
        for name in imported(source):
            start, *rest = name.split("::")
            here = path.split("::") if path else []
            base = {"crate": [], "self": here, "super": here[:-1]}[start]
            target = [*base, *rest]
            while target and "::".join(target) not in sources:
                target.pop()
            to = "::".join(target)
            if to and to != path:
                graph[path].add(to)
    return graph


def circles(graph):
    """Groups of modules that import each other, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for to in graph[node]:
            if to not in index:
                visit(to)
                low[node] = min(low[node], low[to])
            elif to in stack:
                low[node] = min(low[node], index[to])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_no_modules_import_each_other_in_a_circle():
    found = [
        f"{crate}: {', '.join(group)}"
        for crate, sources in modules().items()
        for group in circles(edges(sources))
    ]
    assert not found, "\n".join(found)


# --- crates


def test_controller_and_node_know_each_other_by_messages_alone():
    """Neither is a dependency of the other, nor of what both stand on; the daemon joins them."""
    manifests = {
        file.parent.name: re.findall(r"(?m)^r1d-(\w+)\.workspace", file.read_text())
        for file in tracked("daemon/*/Cargo.toml")
    }

    def reached(crate):
        found = set()
        unseen = [crate]
        while unseen:
            for name in manifests.get(unseen.pop(), []):
                if name not in found:
                    found.add(name)
                    unseen.append(name)
        return found

    assert "link" in reached("node") and "controller" not in reached("node")
    assert "link" in reached("controller") and "node" not in reached("controller")
    assert {"node", "controller"} <= reached("r1d")
    tensors = {"torch", "collectives", "model", "learn", "sampler", "kernels", "worker"}
    assert not tensors & (reached("node") | reached("controller"))
