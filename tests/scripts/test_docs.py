#!/usr/bin/env python3
"""A page of documentation: its links lead somewhere, its commands run, and print what the page shows.

    tests/scripts/test_docs.py --bin build/release/bin README.md

Every fenced block marked `sh` is run, all of a page as one script (bash, errors end it), in a scratch folder that has
the project's files as links. Where a block marked `text` follows, it is the output (pages.py says how it is compared).
The pages that a newcomer reads first run in a fresh shell; the others have the built programs on the PATH, as those
pages have set it. A block that a test cannot run says why in the line before it, and is only parsed:

    <!-- not run: waits for a person to type -->
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pages

ROOT = pathlib.Path(__file__).resolve().parents[2]
FRESH = {"README.md", "docs/quick-start.md"}
BLOCK = re.compile(r"(?ms)^ *```.*?^ *```")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|(?:src|srcset)=\"([^\"]+)\"")


def check_links(page, text):
    broken = []
    for match in LINK.finditer(BLOCK.sub("", text)):
        target = match.group(1) or match.group(2)
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
            broken.append(target)
    return broken


def run(blocks, bin_folder, fresh, seconds):
    """The status of the blocks as one script, and the output of each that was begun, by its line."""
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as outputs:
        for entry in ROOT.iterdir():
            if entry.name not in {".git", "build"}:
                (pathlib.Path(scratch) / entry.name).symlink_to(entry)
        # Where the pages look for programs are those under test.
        (pathlib.Path(scratch) / "build/release").mkdir(parents=True)
        (pathlib.Path(scratch) / "build/release/bin").symlink_to(bin_folder)
        script = "\n".join(f'exec >"{outputs}/{b.line}" 2>&1\n{b.body}' for b in blocks)
        environment = dict(os.environ, NO_COLOR="1")
        if not fresh:
            environment["PATH"] = f"{bin_folder}:{os.environ['PATH']}"
        for name in [n for n in environment if n.startswith("TROPILLA_")]:
            environment.pop(name)  # a reader has none
        status = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=scratch, env=environment,
                                stdin=subprocess.DEVNULL, timeout=seconds).returncode
        return status, {int(o.name): o.read_text(errors="replace") for o in pathlib.Path(outputs).iterdir()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--timeout", type=int, default=300)
    parser.add_argument("page", type=pathlib.Path)
    options = parser.parse_args()
    page = (ROOT / options.page).resolve()
    text = page.read_text()

    faults = [f"the link {target} leads nowhere" for target in check_links(page, text)]
    commands = [b for b in pages.blocks(text) if b.language == "sh"]
    for block in commands:
        parsed = subprocess.run(["bash", "-n", "-c", block.body], capture_output=True, text=True)
        if parsed.returncode != 0:
            sys.exit(f"{options.page}, line {block.line}: {parsed.stderr}")
    commands = [b for b in commands if b.runnable]
    status, outputs = run(commands, options.bin.resolve(), str(options.page) in FRESH, options.timeout) if commands else (0, {})
    for block in (b for b in commands if b.line in outputs):
        output = outputs[block.line]
        print(f"--- line {block.line}\n{block.body}{output}")
        if block.expected is not None and not pages.matches(block.expected, output):
            faults.append(f"line {block.line}: the output above is not what the page shows:\n{block.expected}")
    if status != 0:
        faults.append(f"line {max(outputs)}: a command ended with status {status}")
    for fault in faults:
        print(f"{options.page}: {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
