#!/usr/bin/env python3
"""A page of documentation: its links lead somewhere, and its commands run.

    tests/scripts/test_docs.py --bin build/release/bin README.md

Every fenced block marked `sh` is run, all of a page as one script (bash, errors end it), in a scratch folder that has
the project's files as links, with the built programs on the PATH. A block that a test cannot run says why in the line
before it, and is only parsed:

    <!-- not run: waits for a person to type -->
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)```(\w*)\s*$")
NOT_RUN = re.compile(r"^\s*<!-- not run: \S.*-->\s*$")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\"]+)\"")


def shell_blocks(text):
    """(line number, runnable, commands) of each block marked sh."""
    lines = text.splitlines()
    inside, start, body, runnable = None, 0, [], True
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if inside is None and fence:
            before = next((l for l in reversed(lines[: number - 1]) if l.strip()), "")
            inside, start, body, runnable = fence.group(2), number, [], not NOT_RUN.match(before)
            indent = len(fence.group(1))
        elif inside is not None and fence and not fence.group(2):
            if inside == "sh":
                yield start, runnable, "\n".join(body)
            inside = None
        elif inside is not None:
            body.append(line[indent:])
    if inside is not None:
        sys.exit(f"line {start}: a fenced block without an end")


def check_links(page, text):
    prose = re.sub(r"(?ms)^ *```.*?^ *```", "", text)
    broken = []
    for match in LINK.finditer(prose):
        target = match.group(1) or match.group(2)
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
            broken.append(target)
    return broken


def run(commands, bin_folder, seconds):
    with tempfile.TemporaryDirectory() as scratch:
        for entry in ROOT.iterdir():
            if entry.name != ".git":
                (pathlib.Path(scratch) / entry.name).symlink_to(entry)
        environment = dict(os.environ, PATH=f"{bin_folder}:{os.environ['PATH']}", NO_COLOR="1")
        environment.pop("TROPILLA_TEST_MODEL", None)  # a reader has none
        return subprocess.run(["bash", "-euo", "pipefail", "-x", "-c", commands], cwd=scratch, env=environment,
                              stdin=subprocess.DEVNULL, timeout=seconds).returncode


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("page", type=pathlib.Path)
    options = parser.parse_args()
    page = (ROOT / options.page).resolve()
    text = page.read_text()

    broken = check_links(page, text)
    for target in broken:
        print(f"{options.page}: the link {target} leads nowhere")
    script = []
    for line, runnable, commands in shell_blocks(text):
        parsed = subprocess.run(["bash", "-n", "-c", commands], capture_output=True, text=True)
        if parsed.returncode != 0:
            sys.exit(f"{options.page}, line {line}: {parsed.stderr}")
        if runnable:
            script.append(f"# line {line}\n{commands}")
    status = run("\n".join(script), options.bin.resolve(), options.timeout) if script else 0
    if status != 0:
        print(f"{options.page}: a command ended with status {status} (the last one that is traced above)")
    sys.exit(1 if broken or status else 0)


if __name__ == "__main__":
    main()
