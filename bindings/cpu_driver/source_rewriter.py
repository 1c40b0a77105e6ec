"""Turns preprocessed CUDA C++ into C++ that an ordinary compiler takes.

The input is the output of ``g++ -E``: comments are gone, macros are expanded, and line markers say
which file each line came from. Only the user's own lines are looked at; the headers of the system
and of the driver pass untouched. Lines are never added or removed inside the user's text, so the
compiler's messages keep naming the user's file and line.

What is rewritten:

- ``__global__`` functions are found, and a table of them is appended (see
  ``include/cpu_driver_launcher.h``);
- ``__shared__`` variables become thread-local ones; ``extern __shared__`` arrays, whatever their
  names and types, become one block of memory;
- stores through volatile pointers become lockstep stores: code written for warps that execute in
  lockstep (PyCUDA's own reductions are) is wrong when threads run one after the other;
- ``__device__`` variables are kept visible to the driver;
- ``#pragma unroll`` becomes GCC's.

Standard library only: the nvcc stand-in runs this file by itself.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field

# Room for dynamic shared memory in a module that declares some: the most a block may ask for.
DYNAMIC_SHARED_BYTES = 227 * 1024

MARKER = re.compile(r'^# (\d+) "((?:[^"\\]|\\.)*)"((?: \d)*)[ \t]*$', re.MULTILINE)
TOKEN = re.compile(
    r"(?P<marker>^[ \t]*#[^\n]*$)"
    r'|(?P<string>(?:u8|[uUL])?R"(?P<delimiter>[^()\\\s]{0,16})\([\s\S]*?\)(?P=delimiter)"'
    r'|(?:u8|[uUL])?"(?:[^"\\\n]|\\.)*"|(?:u8|[uUL])?\'(?:[^\'\\\n]|\\.)*\')'
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<number>\.?\d(?:[eEpP][+-]|[\w.']|)*)"
    r"|(?P<punctuation><<=|>>=|\.\.\.|->\*|::|->|\+\+|--|<<|&&|\|\||[-+*/%&|^=!<>]=|[^\s\w])",
    re.MULTILINE,
)
PRAGMA_UNROLL = re.compile(
    r"^([ \t]*#[ \t]*pragma[ \t]+)unroll\b[ \t]*(\(?)([^\n]*?)\)?[ \t]*$", re.M
)
OPENING = {"(": ")", "[": "]", "{": "}"}

# A kernel whose text (and that of every function it can reach) has none of these needs no fibers:
# its threads know nothing of each other.
COOPERATIVE = re.compile(
    r"meet|warp_meet|lockstep\w*|cpu_driver_(?:barrier|warp|active_mask|lockstep|dynamic_shared)"
    r"|__sync\w*|__shfl\w*|__(?:all|any|ballot|uni)\w*|__match\w*|__reduce\w*|__activemask"
    r"|__threadfence\w*|__nanosleep|atomic\w*|__atomic\w*|__shared__|thread_local|__thread"
    r"|volatile|asm|__asm__|__asm|goto|cooperative_groups|clock64|setjmp|longjmp"
)


class RewriteError(Exception):
    """The source cannot be turned into C++; the text names file and line."""


@dataclass
class Token:
    kind: str
    text: str
    start: int
    end: int


@dataclass
class Kernel:
    """One ``__global__`` function to export."""

    name: str  # with namespaces, and template arguments of an explicit instantiation
    parameters: list[str]
    parameter_text: str
    file: str
    line: int
    launch_bounds: str = "0"
    plain: bool = False


@dataclass
class Rewritten:
    text: str
    kernels: list[Kernel] = field(default_factory=list)


class _Edits:
    """Replacements of stretches of the text, applied at the end."""

    def __init__(self) -> None:
        self.items: list[tuple[int, int, str]] = []

    def replace(self, start: int, end: int, new: str) -> None:
        self.items.append((start, end, new))

    def apply(self, text: str) -> str:
        parts, at = [], 0
        for start, end, new in sorted(self.items):
            if start < at:
                continue
            # Keep the number of lines: a replaced stretch may span several.
            missing = text.count("\n", start, end) - new.count("\n")
            parts += [text[at:start], new, "\n" * max(missing, 0)]
            at = end
        parts.append(text[at:])
        return "".join(parts)


class _Places:
    """From a position in the preprocessed text to the user's file and line."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.markers = [(m.start(), m.end(), int(m[1]), m[2], m[3].split()) for m in
                        MARKER.finditer(text)]  # fmt: skip
        self.starts = [m[0] for m in self.markers]
        self.system = {m[3] for m in self.markers if "1" in m[4] and "3" in m[4]}

    def user_segments(self) -> list[tuple[int, int]]:
        """Stretches of text that come from the user's files, joined where they touch."""
        segments: list[tuple[int, int]] = []
        for i, (start, _, _, name, _) in enumerate(self.markers):
            if name in self.system or name.startswith("<"):
                continue
            stop = self.starts[i + 1] if i + 1 < len(self.starts) else len(self.text)
            if segments and segments[-1][1] == start:
                segments[-1] = (segments[-1][0], stop)
            else:
                segments.append((start, stop))
        return segments

    def find(self, position: int) -> tuple[str, int]:
        i = bisect.bisect_right(self.starts, position) - 1
        if i < 0:
            return "", 0
        _, end, line, name, _ = self.markers[i]
        return name, line + self.text.count("\n", end + 1, position)


def _tokenize(text: str, segments: list[tuple[int, int]]) -> list[Token]:
    tokens = []
    for start, stop in segments:
        for match in TOKEN.finditer(text, start, stop):
            kind = match.lastgroup or ""
            if kind == "marker":
                continue
            if kind == "delimiter":
                kind = "string"
            tokens.append(Token(kind, match[0], match.start(), match.end()))
    return tokens


def _matching(tokens: list[Token]) -> dict[int, int]:
    """Index of the closing bracket for every opening one (unbalanced ones are missing)."""
    pairs, stack = {}, []
    for i, token in enumerate(tokens):
        if token.kind != "punctuation":
            continue
        if token.text in OPENING:
            stack.append(i)
        elif stack and token.text == OPENING[tokens[stack[-1]].text]:
            pairs[stack.pop()] = i
    return pairs


@dataclass
class _Scope:
    kind: str  # "namespace", "linkage", "class", "function", "other"
    name: str
    close: int


class _Reader:
    """One pass over the tokens: scopes, functions, kernels, shared variables."""

    def __init__(self, text: str, checked: bool) -> None:
        self.text = text
        self.checked = checked
        self.places = _Places(text)
        self.tokens = _tokenize(text, self.places.user_segments())
        self.pairs = _matching(self.tokens)
        self.edits = _Edits()
        self.kernels: list[Kernel] = []
        self.mentions: dict[str, set[str]] = {}  # function name -> words of its definitions
        self.loose: set[str] = set()  # words of initialisers outside functions
        self.dynamic_shared = False

    def where(self, i: int) -> str:
        name, line = self.places.find(self.tokens[i].start)
        return f"{name}:{line}"

    # --- scopes and functions ---

    def read(self) -> None:
        tokens = self.tokens
        scopes: list[_Scope] = []
        head = 0  # first token of the declaration that is being read
        i = 0
        while i < len(tokens):
            while scopes and scopes[-1].close <= i:
                head = scopes.pop().close + 1
            token = tokens[i]
            if token.text == ";":
                head = i + 1
            elif token.text == "{":
                scope = self.classify(head, i, scopes)
                if scope.kind in ("function", "other"):
                    words = {t.text for t in tokens[head : scope.close] if t.kind == "word"}
                    if scope.kind == "function":
                        self.mentions.setdefault(scope.name, set()).update(words)
                    else:
                        self.loose |= words
                    self.statements(i, scope.close)
                    i = scope.close
                    if scope.kind == "function":
                        head = i + 1
                else:
                    scopes.append(scope)
                    head = i + 1
            elif token.text == "__global__":
                i = self.kernel(i, scopes)
                if i < len(tokens) and tokens[i].text == "}":  # its body, read already
                    head = i + 1
                continue
            elif token.text == "__shared__":
                self.shared(i, head)
            elif token.text == "__noinline__":
                self.noinline(i)
            elif token.text == "__device__":
                self.device(i)
            i += 1

    def classify(self, head: int, brace: int, scopes: list[_Scope]) -> _Scope:
        close = self.pairs.get(brace, len(self.tokens))
        words = [t.text for t in self.tokens[head:brace]]
        if "namespace" in words:
            at = words.index("namespace")
            name = "".join(w for w in words[at + 1 :] if re.fullmatch(r"\w+|::", w))
            return _Scope("namespace", name, close)
        if words[:1] == ["extern"] and len(words) == 2:
            return _Scope("linkage", "", close)
        function = self.function_name(head, brace)
        if function is not None:
            return _Scope("function", function, close)
        if {"class", "struct", "union"} & set(words) and "=" not in words:
            return _Scope("class", "", close)
        return _Scope("other", "", close)

    def function_name(self, head: int, brace: int) -> str | None:
        """The name of the function whose body opens at `brace`, or None if it is none."""
        i = head
        angle = 0
        while i < brace:
            token = self.tokens[i]
            if token.text == "operator":
                return "operator"
            if token.text in ("decltype", "__attribute__", "alignas", "__declspec", "noexcept"):
                i = self.pairs.get(i + 1, i + 1) + 1
                continue
            if token.text == "template" and i + 1 < brace and self.tokens[i + 1].text == "<":
                i = self.skip_angles(i + 1)
                continue
            if token.text == "=" and angle == 0:
                return None
            if token.text == "(" and i > head and self.tokens[i - 1].kind == "word":
                if self.tokens[i - 1].text in ("__launch_bounds__", "__align__"):
                    i = self.pairs.get(i, i) + 1
                    continue
                return self.tokens[i - 1].text
            if token.text == "(" and i > head and self.tokens[i - 1].text == ">":
                # An explicit specialisation: the name stands before the angle brackets.
                j = i - 1
                depth = 0
                while j > head:
                    depth += {">": 1, "<": -1}.get(self.tokens[j].text, 0)
                    if depth == 0:
                        break
                    j -= 1
                return self.tokens[j - 1].text if j > head else None
            i += 1
        return None

    def skip_angles(self, i: int) -> int:
        """Index after the `>` that closes the `<` at i."""
        depth = 0
        while i < len(self.tokens):
            text = self.tokens[i].text
            if text == "<":
                depth += 1
            elif text == ">":
                depth -= 1
                if depth == 0:
                    return i + 1
            elif text in OPENING:
                i = self.pairs.get(i, i)
            i += 1
        return i

    def statements(self, opening: int, close: int) -> None:
        """Shared variables (and stray keywords) inside a function body."""
        start = opening + 1
        for i in range(opening + 1, min(close, len(self.tokens))):
            text = self.tokens[i].text
            if text in (";", "{", "}"):
                start = i + 1
            elif text == "__shared__":
                self.shared(i, start)
            elif text == "__noinline__":
                self.noinline(i)
            elif text == "__device__":
                self.edits.replace(self.tokens[i].start, self.tokens[i].end, "")

    def device(self, i: int) -> None:
        """``__device__`` outside a function body: before a function it means nothing here; a
        variable must stay visible, or the compiler takes its initial value for its only one."""
        new = ""
        j = i + 1
        while j < len(self.tokens):
            text = self.tokens[j].text
            if text in ("__attribute__", "alignas", "decltype"):
                j = self.pairs.get(j + 1, j + 1) + 1
                continue
            if text == "<":
                j = self.skip_angles(j)
                continue
            if text in ("(", "operator", "{", "}", "struct", "class", "union", "~"):
                break
            if text in (";", "=", "[", ","):
                new = '__attribute__((visibility("default")))'
                break
            j += 1
        self.edits.replace(self.tokens[i].start, self.tokens[i].end, new)

    # --- shared memory ---

    def shared(self, i: int, start: int) -> None:
        tokens = self.tokens
        before = [t.text for t in tokens[start:i]]
        if "extern" in before:
            self.dynamic_shared = True
            self.edits.replace(tokens[i].start, tokens[i].end, "__thread")
            end = i
            while end < len(tokens) and tokens[end].text != ";":
                end = self.pairs.get(end, end) + 1
            if end < len(tokens):
                label = '__asm__("cpu_driver_dynamic_shared")'
                self.edits.replace(tokens[end].start, tokens[end].end, f" {label};")
            return
        new = "thread_local" if "static" in before else "static thread_local"
        if self.checked:  # else the compiler folds reads of what no thread ever writes to zero
            new = f"__attribute__((used)) {new}"
        self.edits.replace(tokens[i].start, tokens[i].end, new)

    def noinline(self, i: int) -> None:
        before = self.tokens[i - 1].text if i else ""
        if before not in ("(", ","):  # else it is inside an __attribute__ already
            token = self.tokens[i]
            self.edits.replace(token.start, token.end, "__attribute__((noinline))")

    # --- kernels ---

    def kernel(self, i: int, scopes: list[_Scope]) -> int:
        """Reads the declaration that `__global__` at i belongs to; returns where to go on."""
        tokens = self.tokens
        keyword = tokens[i]
        self.edits.replace(keyword.start, keyword.end, "CPU_DRIVER_GLOBAL_FUNCTION")
        bounds = "0"
        start = i
        while start and tokens[start - 1].text not in (";", "{", "}"):
            start -= 1
        for j in range(start, i):
            if tokens[j].text == "__launch_bounds__":
                bounds = self.launch_bounds(j)
        template = tokens[start].text == "template"
        explicit = template and start + 1 < len(tokens) and tokens[start + 1].text != "<"
        name_at = None
        j = i + 1
        while j < len(tokens):
            text = tokens[j].text
            if text == "__launch_bounds__":
                bounds = self.launch_bounds(j)
                j = self.pairs.get(j + 1, j + 1) + 1
                continue
            if text in ("__attribute__", "__maxnreg__", "__cluster_dims__", "alignas"):
                j = self.pairs.get(j + 1, j + 1) + 1
                continue
            if text == "__noinline__":
                self.noinline(j)
            if text == "__device__":
                self.edits.replace(tokens[j].start, tokens[j].end, "")
            if text == "(":
                break
            if text in (";", "{", "}"):
                return j
            if tokens[j].kind == "word" and text not in ("void", "static", "inline", "extern"):
                name_at = j
                if j + 1 < len(tokens) and tokens[j + 1].text == "<":
                    j = self.skip_angles(j + 1)
                    continue
            j += 1
        if name_at is None or j >= len(tokens) or j not in self.pairs:
            raise RewriteError(f"{self.where(i)}: error: cannot read this __global__ declaration")
        opening, closing = j, self.pairs[j]
        after = closing + 1
        while after < len(tokens) and tokens[after].text not in (";", "{"):
            if tokens[after].text == "__launch_bounds__":
                bounds = self.launch_bounds(after)
            after = self.pairs.get(after, after) + 1
        defined = after < len(tokens) and tokens[after].text == "{"
        file, line = self.places.find(tokens[name_at].start)
        qualified = "".join(f"{s.name}::" for s in scopes if s.kind == "namespace" and s.name)
        name = qualified + self.text[tokens[name_at].start : tokens[opening - 1].end]
        if (defined and not template) or explicit:
            self.kernels.append(
                Kernel(
                    name=re.sub(r"\s+", " ", name),
                    parameters=self.parameter_names(opening, closing),
                    parameter_text=self.text[tokens[opening].end : tokens[closing].start],
                    file=file,
                    line=line,
                    launch_bounds="0" if template else bounds,
                )
            )
        if defined:
            close = self.pairs.get(after, len(tokens))
            words = {t.text for t in tokens[opening:close] if t.kind == "word"}
            self.mentions.setdefault(tokens[name_at].text, set()).update(words)
            self.statements(after, close)
            # The body is read: go on behind it, at a token that ends a declaration.
            return close
        return after

    def launch_bounds(self, i: int) -> str:
        """Removes `__launch_bounds__(...)` at i; returns its first argument."""
        opening = i + 1
        closing = self.pairs.get(opening, opening)
        end = opening + 1
        while end < closing and self.tokens[end].text != ",":
            end = self.pairs.get(end, end) + 1
        first = self.text[self.tokens[opening].end : self.tokens[min(end, closing)].start]
        self.edits.replace(self.tokens[i].start, self.tokens[closing].end, "")
        return " ".join(first.split()) or "0"

    def parameter_names(self, opening: int, closing: int) -> list[str]:
        groups: list[list[Token]] = [[]]
        angle = 0
        i = opening + 1
        while i < closing:
            token = self.tokens[i]
            angle += {"<": 1, ">": -1}.get(token.text, 0)
            if token.text == "," and angle == 0:
                groups.append([])
            else:
                groups[-1].append(token)
            if token.text in OPENING and i in self.pairs and token.text != "(":
                i = self.pairs[i]
            i += 1
        names = []
        for group in groups:
            words = []
            for token in group:
                if token.text == "=":
                    break
                if token.kind == "word":
                    words.append(token.text)
            if words == ["void"] or not words:
                continue
            names.append(words[-1])
        return names

    def mark_plain(self) -> None:
        """Decides which kernels may run as a plain loop over their threads."""
        if any(COOPERATIVE.fullmatch(word) for word in self.loose):
            return
        for kernel in self.kernels:
            if "<" in kernel.name:
                continue
            seen: set[str] = set()
            todo = [kernel.name.rsplit("::", 1)[-1], "operator", *self.loose]
            safe = True
            while todo and safe:
                name = todo.pop()
                if name in seen:
                    continue
                seen.add(name)
                for word in self.mentions.get(name, ()):
                    if COOPERATIVE.fullmatch(word):
                        safe = False
                        break
                    if word in self.mentions and word not in seen:
                        todo.append(word)
            kernel.plain = safe

    # --- lockstep ---

    def lockstep(self) -> None:
        """Stores through pointers (and shared arrays) declared volatile."""
        names = self.volatile_names()
        if not names:
            return
        tokens = self.tokens
        for i, token in enumerate(tokens):
            if token.kind != "word" or token.text not in names or i == 0:
                continue
            before = tokens[i - 1].text
            star = before == "*" and i > 1 and tokens[i - 2].text in (";", "{", "}", ")", "else")
            if not star and before not in (";", "{", "}", ")", "else", "do"):
                continue
            j = i + 1
            if not star and (j >= len(tokens) or tokens[j].text != "["):
                continue
            while j < len(tokens) and tokens[j].text == "[":
                j = self.pairs.get(j, j) + 1
            if j >= len(tokens) or tokens[j].kind != "punctuation":
                continue
            operator = tokens[j].text
            if not re.fullmatch(r"=|[-+*/%&|^]=|<<=|>>=", operator):
                continue
            end = j + 1
            while end < len(tokens) and tokens[end].text != ";":
                if tokens[end].text in (",", ")", "]", "}"):
                    break
                end = self.pairs.get(end, end) + 1
            if end >= len(tokens) or tokens[end].text != ";":
                continue
            first = tokens[i - 1] if star else token
            target = self.text[first.start : tokens[j].start].strip()
            target = re.sub(r"\s+", " ", MARKER.sub(" ", target))
            self.edits.replace(first.start, first.start, "::cpu_driver::lockstep_store(&(")
            combined = "), " if operator == "=" else f"), ({target}) {operator[:-1]} ("
            self.edits.replace(tokens[j].start, tokens[j].end, combined)
            self.edits.replace(
                tokens[end].start, tokens[end].end, ");" if operator == "=" else "));"
            )

    def volatile_names(self) -> set[str]:
        tokens = self.tokens
        names = set()
        for i, token in enumerate(tokens):
            if token.text != "volatile":
                continue
            if i and tokens[i - 1].text in ("asm", "__asm__", "__asm"):
                continue
            # The declarator ends at one of these; the last word before it is the name.
            pointer = False
            last = None
            j = i + 1
            while j < len(tokens) and tokens[j].text not in ("=", ";", ",", ")", "(", "[", "{"):
                if tokens[j].text in ("*", "__shared__"):
                    pointer = True
                elif tokens[j].text == "<":
                    j = self.skip_angles(j)
                    continue
                elif tokens[j].kind == "word":
                    last = tokens[j].text
                j += 1
            if i and tokens[i - 1].text == "__shared__":
                pointer = True
            if pointer and last and j < len(tokens) and tokens[j].text not in ("(", "{"):
                names.add(last)
        return names


def _pragma_unroll(match: re.Match[str]) -> str:
    count = match[3].strip()
    # Without a number nvcc unrolls loops of known length wholly; GCC wants a bound.
    number = count if re.fullmatch(r"\d+", count) else "16"
    return f"{match[1]}GCC unroll {number}"


def _export_table(reader: _Reader, checked: bool) -> str:
    counts: dict[str, int] = {}
    for kernel in reader.kernels:
        counts[kernel.name] = counts.get(kernel.name, 0) + 1
    rows = []
    for kernel in reader.kernels:
        function = f"&::{kernel.name}"
        if counts[kernel.name] > 1:
            function = f"static_cast<void (*)({kernel.parameter_text})>(&::{kernel.name})"
        launcher = f"::cpu_driver::launcher<{function}>"
        plain = "&" + launcher + "::run_plain" if kernel.plain and not checked else "nullptr"
        file = kernel.file
        rows.append(
            f'{{"{kernel.name}", "{",".join(kernel.parameters)}", "{file}", {kernel.line}, '
            f"reinterpret_cast<const void*>({function}), {launcher}::arguments, "
            f"{launcher}::count, static_cast<unsigned>({kernel.launch_bounds}), "
            f"&{launcher}::run, {plain}}},\n"
        )
    room = DYNAMIC_SHARED_BYTES if reader.dynamic_shared else 0
    shared = (
        f'extern "C" {{ __attribute__((aligned(256), visibility("hidden"))) __thread char '
        f"cpu_driver_dynamic_shared[{room}]; }}\n"
        if room
        else ""
    )
    table = "nullptr"
    kernels = ""
    if rows:
        table = "kernels"
        kernels = "static const ::cpu_driver::Kernel kernels[] = {\n" + "".join(rows) + "};\n"
    return (
        '\n# 1 "<cpu_driver exports>"\n'
        f"{shared}"
        'extern "C" __attribute__((visibility("default"))) const ::cpu_driver::Module* '
        "cpu_driver_module() {\n"
        f"{kernels}"
        f"static const ::cpu_driver::Module module = {{::cpu_driver::kAbi, {int(checked)}, {room}, "
        f"{len(rows)}, {table}}};\n"
        "return &module;\n}\n"
    )


def rewrite(preprocessed: str, *, checked: bool = False) -> Rewritten:
    """Rewrites the output of ``g++ -E`` (see the module's text).

    :param checked: the module will be compiled with the hooks of check mode
    :raises RewriteError: a declaration cannot be read, or the source launches kernels itself
    """
    text = PRAGMA_UNROLL.sub(_pragma_unroll, preprocessed)
    reader = _Reader(text, checked)
    for i in range(len(reader.tokens) - 2):
        first, second = reader.tokens[i], reader.tokens[i + 1]
        if first.text == "<<" and second.text == "<" and first.end == second.start:
            raise RewriteError(
                f"{reader.where(i)}: error: kernels that launch kernels (<<<...>>>) are not "
                "supported by the CPU driver"
            )
    reader.read()
    reader.mark_plain()
    reader.lockstep()
    attributes = '__attribute__((visibility("default")' + (", noinline" if checked else "") + "))"
    for n, (start, end, new) in enumerate(reader.edits.items):
        if new == "CPU_DRIVER_GLOBAL_FUNCTION":
            reader.edits.items[n] = (start, end, attributes)
    return Rewritten(reader.edits.apply(text) + _export_table(reader, checked), reader.kernels)
