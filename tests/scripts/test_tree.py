#!/usr/bin/env python3
"""What must hold for every file of the repository. Run by scripts/test.sh (stage format), or by hand:
tests/scripts/test_tree.py [FOLDER]

Unfinished work has no place in the tree, nor have paths of somebody's machine; public headers say what everything is
for; files stay short enough to read; folders include only what lies below them; every test is run.
"""
import ast
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = {".cpp", ".hpp", ".cu", ".py", ".sh", ".txt", ".cmake", ".toml"}
LONGEST = 600  # lines of a C++ file
LARGEST = 1 << 20  # bytes of any file: a dump or a model that was taken along
# Spelled in pieces, so that this file does not match itself.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b")
PLACES = re.compile(r"(?<![\w$}.~-])/(" + "|".join(["wo" + "rk/", "ho" + "me/", "Us" + "ers/", "ro" + "ot/", "tm" + "p/"])
                    + ")")
# The folders and files that a folder's files may include, besides its own; of a file in two of them the longer path counts. Tests,
# benchmarks and examples may include anything.
BELOW_MODELS = ("include/tropilla", "memory", "kernels")
BELOW_ACTORS = BELOW_MODELS + ("src/log", "src/trace", "src/files", "src/model", "src/io", "src/sampling", "src/schedule",
                               "src/placement", "src/batch")
FOLDERS = {
    "include/tropilla": (),
    "memory": ("include/tropilla",),
    "kernels": ("include/tropilla", "memory"),
    "kernels/host": BELOW_MODELS,
    "kernels/cuda": BELOW_MODELS,
    "kernels/open_device.cpp": BELOW_MODELS + ("kernels/host", "kernels/cuda"),
    "src/log": ("include/tropilla", "memory"),
    "src/trace": ("include/tropilla",),
    "src/files": ("include/tropilla", "memory"),
    "src/model": BELOW_MODELS + ("src/files",),
    "src/io": BELOW_MODELS + ("src/log", "src/trace", "src/files", "src/model"),
    "src/sampling": ("include/tropilla",),
    # No devices: of kernels and models the plain data that a step is made of.
    "src/schedule": ("include/tropilla", "memory", "kernels/kv_cache.hpp", "src/log", "src/model/step.hpp",
                     "src/model/page_store.hpp", "src/model/tokenizer.hpp", "src/sampling"),
    "src/placement": BELOW_MODELS + ("src/io", "src/log", "src/model", "src/schedule", "src/trace"),
    "src/batch": ("include/tropilla",),
    "actors": BELOW_ACTORS,
    "runtime": BELOW_ACTORS + ("actors",),
    "app": BELOW_ACTORS + ("kernels/host", "kernels/cuda", "actors", "runtime"),
}
INCLUDE = re.compile(r'\s*#\s*include\s*[<"]([^">]+)[">]')
# What needs words in a public header: types and functions at a line's start, and what is inside of classes.
DECLARATION = re.compile(r"^(?:class|struct|enum class) (?:TROPILLA_API )?(\w+)(?!\w|::)[^;]*\{|"
                         r"^(?:\[\[nodiscard\]\] |constexpr |inline )*[\w:<>]+(?: [\w:<>*&]+)* [&*]?(\w+)\(.*")


def files():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    return [ROOT / name for name in names.decode().split("\0") if name]


def lines_of(path):
    try:
        return path.read_text().splitlines()
    except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
        return []


def undocumented(path):
    """(line, name) of declarations at namespace scope without a comment above, beside or inside. A comment also stands
    for the declarations that follow it without a blank line."""
    lines = lines_of(path)
    for number, line in enumerate(lines, 1):
        found = DECLARATION.match(line)
        if not found or line.startswith(("using ", "return ", "namespace ")):
            continue
        end = next((i for i in range(number, len(lines)) if lines[i].startswith("}")), number)
        block = lines[number - 1:end + 1] if found.group(1) else [line]
        start = number - 1
        while start > 0 and lines[start - 1].strip():
            start -= 1
        if not any("//" in l for l in lines[start:number - 1] + block):
            yield number, found.group(1) or found.group(2)


def hidden(lines):
    """(line, name) of classes and functions of a public header that the shared library would not show."""
    for number, line in enumerate(lines, 1):
        found = DECLARATION.match(line)
        if not found or "TROPILLA_API" in line or line.startswith(("using ", "return ", "namespace ")):
            continue
        is_defined_here = "{" in line or "template" in lines[number - 2]
        if line.startswith("class ") or (found.group(2) and not is_defined_here):
            yield number, found.group(1) or found.group(2)


def overlapping(lines):
    """(line, text) of CUDA kernels that touch memory without having waited for those before them: nothing else shows it
    where there is no GPU."""
    for number, line in enumerate(lines, 1):
        if "__global__" in line and not line.endswith("{}"):
            body = lines[number:next((i for i in range(number, len(lines)) if lines[i] == "}"), len(lines))]
            if not any(l.strip() == "griddepcontrol_wait();" for l in body):
                yield number, line


def never_run():
    """Tests in Python that nothing runs: classes of tests/app and files of tests/scripts that ctest does not know."""
    known = (ROOT / "tests/CMakeLists.txt").read_text() + (ROOT / "scripts/test.sh").read_text()
    for path in sorted((ROOT / "tests/app").glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(getattr(f, "name", "").startswith("test_") for f in node.body):
                name = f"{path.stem.removeprefix('test_')}.{node.name}"
                if not re.search(rf"\b{re.escape(name)}\b", known):
                    yield f"{path.relative_to(ROOT)}: tests/CMakeLists.txt does not run {name}"
    for path in sorted((ROOT / "tests/scripts").glob("test_*.py")):
        if path.name not in known:
            yield f"{path.relative_to(ROOT)}: neither tests/CMakeLists.txt nor scripts/test.sh runs it"


def folder_of(name):
    """The folder of a path, or None."""
    folders = [folder for folder in FOLDERS if name == folder or name.startswith(folder + "/")]
    return max(folders, key=len, default=None)


def running_up(name, lines, known):
    """(line, path) of includes of a file that its folder must not know. `known`: the paths of all files."""
    folder = folder_of(name)
    for number, line in enumerate(lines, 1):
        found = INCLUDE.match(line) if folder else None
        if not found:
            continue
        path = found.group(1)
        path = next((p for p in (path, f"include/{path}", f"{name.rpartition('/')[0]}/{path}") if p in known), None)
        if path and folder_of(path) != folder and not {path, folder_of(path)} & set(FOLDERS[folder]):
            yield number, path


def divided(text):
    """Names of Catch2's tests with a semicolon: CMake takes what ctest is told of them for lists."""
    for found in re.finditer(r'TEST_CASE\(\s*"((?:[^"\\]|\\.)*)"', text):
        if ";" in found.group(1):
            yield text[:found.start()].count("\n") + 1, found.group(1)


def problems():
    yield from never_run()
    known = {str(path.relative_to(ROOT)) for path in files()}
    for path in files():
        name = path.relative_to(ROOT)
        if path.is_file() and path.stat().st_size > LARGEST:
            yield f"{name}: {path.stat().st_size} bytes, more than {LARGEST}"
        lines = lines_of(path)
        checked = path.suffix in SOURCES | {".md"} and name.parts[0] != "LICENSE"
        in_data = name.parts[:2] == ("tests", "data")
        if not checked or in_data:
            continue
        for number, line in enumerate(lines, 1):
            if UNFINISHED.search(line):
                yield f"{name}:{number}: unfinished work: {line.strip()}"
            if PLACES.search(line) and "tests" not in name.parts:
                yield f"{name}:{number}: a path of one machine: {line.strip()}"
            if line != line.rstrip() and path.suffix != ".md":
                yield f"{name}:{number}: white space at the end of the line"
        if path.suffix in {".cpp", ".hpp", ".cu"} and len(lines) > LONGEST:
            yield f"{name}: {len(lines)} lines, more than {LONGEST}: two files"
        if path.suffix in {".cpp", ".hpp", ".cu"}:
            if name.parts[0] not in {"tests", "bench", "examples", "cmake"} and not folder_of(str(name)):
                yield f"{name}: belongs to no folder (FOLDERS in tests/scripts/test_tree.py)"
            for number, what in running_up(str(name), lines, known):
                yield f"{name}:{number}: {folder_of(str(name))} must not include {what}, which does not lie below it"
        if path.suffix == ".cpp" and name.parts[0] == "tests":
            for number, what in divided("\n".join(lines)):
                yield f"{name}:{number}: ctest can't run a test with a semicolon in its name: {what}"
        if path.suffix == ".cu" and name.parts[0] == "kernels":
            for number, line in overlapping(lines):
                yield f"{name}:{number}: a kernel that does not call griddepcontrol_wait: {line}"
        if path.suffix == ".hpp" and lines and not lines[0].startswith(("///", "//")):
            yield f"{name}: its first line does not say what it is for"
        if name.parts[:2] == ("include", "tropilla"):
            for number, what in undocumented(path):
                yield f"{name}:{number}: {what} is public and undocumented"
            for number, what in hidden(lines):
                yield f"{name}:{number}: {what} is public and not marked TROPILLA_API: a shared library would hide it"


def main():
    found = list(problems()) if list(files()) else ["git knows no files here: nothing was looked at"]
    print("\n".join(found), end="\n" if found else "")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
