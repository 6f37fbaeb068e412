"""Reads a page of documentation: its blocks of commands, and the output that it shows for them.

A block marked `text` that follows a block marked `sh` is what those commands print, standard error included. What varies
from run to run is told by its looks: numbers that are times, rates or shares of time (before s, ms, tok/s, GB/s or %)
may be any number, and `...` stands for anything, many lines too. White space may differ. All else must be so.
"""
import dataclasses
import re

FENCE = re.compile(r"^( *)```(\w*)\s*$")
NOT_RUN = re.compile(r"^\s*<!-- not run: \S.*-->\s*$")
VARYING = re.compile(r"\d[\d.,]*(?= ?(?:s|ms|us|tok/s|GB/s|GiB/s|MB/s|MiB/s|%)(?!\w))")


@dataclasses.dataclass
class Block:
    """A fenced block, without its indentation."""
    line: int
    language: str
    body: str
    runnable: bool  # no comment says why not
    expected: str | None = None  # of commands: the output that the page shows


def blocks(text):
    """The blocks of a page; one of output belongs to the commands right before it."""
    found, inside, between = [], None, ""
    for number, line in enumerate(text.splitlines(), 1):
        fence = FENCE.match(line)
        if inside is None and fence:
            inside, indent = Block(number, fence.group(2), "", not NOT_RUN.match(between)), len(fence.group(1))
        elif inside is None:
            between = line if line.strip() else between
        elif fence and not fence.group(2):
            if inside.language == "text" and found and found[-1].language == "sh" and not between:
                found[-1].expected = inside.body
            found.append(inside)
            inside, between = None, ""
        else:
            inside.body += line[indent:] + "\n"
    if inside is not None:
        raise ValueError(f"line {inside.line}: a fenced block without an end")
    return found


def pattern_of(expected):
    """What an output must match as a whole, as a regular expression."""
    def piece(text):
        parts, at = [], 0
        for number in VARYING.finditer(text):
            parts += [re.escape(text[at:number.start()]), r"\d[\d.,]*"]
            at = number.end()
        return "".join(parts) + re.escape(text[at:])

    words = " ".join(expected.split())
    return ".*?".join(piece(p.strip()) for p in words.split("...")).replace(r"\ ", r"\s+")


def matches(expected, output):
    """Whether the output is what the page shows."""
    return re.fullmatch(pattern_of(expected), output.strip(), re.DOTALL) is not None
