#!/usr/bin/env python3
"""Programs that use the library, outside of the tree: what docs/embedding.md and the header's comments show is configured,
built and run, from projects that set no language standard, by add_subdirectory, find_package and pkg-config, linked to the
archive and to the shared library.

    tests/consumers/test_consumers.py [--tree build/release] [Class[.test]...]

The installed ones need the targets tropilla_static and tropilla_shared of the tree. With TROPILLA_TEST_MODEL the programs
answer; else they print the sentence for a file that is missing. Run by ctest (label consumers).
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADERS = sorted((ROOT / "include/tropilla").glob("*.hpp"))
TREE = None  # set by main
MODEL = os.environ.get("TROPILLA_TEST_MODEL")


def blocks(page, language):
    """The fenced blocks of a page."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", (ROOT / page).read_text())


def block(page, language, mark):
    """The one block of a page that has `mark`."""
    found = [b for b in blocks(page, language) if mark in b]
    assert len(found) == 1, f"{page} has {len(found)} blocks with {mark!r}"
    return found[0]


def run(command, **options):
    """What the command printed; fails with all of it."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        raise AssertionError(f"{shlex.join(map(str, command))}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def hello():
    """README's program."""
    return block("README.md", "cpp", "int main")


def asker():
    """The program that the comment of actors.hpp begins."""
    comment = (ROOT / "include/tropilla/actors.hpp").read_text().split("#pragma once")[0]
    example = "\n".join(re.findall(r"(?m)^///(?:     (.*))?$", comment))
    return f"""#include "tropilla/actors.hpp"
#include <filesystem>
#include <iostream>
{example}
int main(int, char** argv) try {{
  run(argv[1]);
}} catch (const tropilla::error& e) {{
  std::cerr << e.what() << "\\n";
}}
"""


class Consumer(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        (self.folder / "main.cpp").write_text(hello())

    def configure(self, lists, *options):
        """CMake's words about a project in the scratch folder; its tree is build/."""
        (self.folder / "CMakeLists.txt").write_text(lists)
        cache = (TREE / "CMakeCache.txt").read_text()
        launcher = re.search(r"(?m)^CMAKE_CXX_COMPILER_LAUNCHER:\w+=(.+)$", cache)
        if launcher:
            options += (f"-DCMAKE_CXX_COMPILER_LAUNCHER={launcher.group(1)}",)
        return run(["cmake", "-G", "Ninja", "-S", self.folder, "-B", self.folder / "build", "--no-warn-unused-cli",
                    "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options])

    def build(self, *targets):
        run(["cmake", "--build", self.folder / "build", *(["--target", *targets] if targets else [])])

    def flags(self, name):
        """The options of the compile command of the file of this name."""
        commands = json.loads((self.folder / "build/compile_commands.json").read_text())
        (command,) = (c["command"] for c in commands if c["file"].endswith("/" + name))
        return {word for word in shlex.split(command) if word.startswith("-")} - {"-o", "-c"}

    def answers(self, program, **environment):
        """The program runs: with a model it answers, without one it says so."""
        environment = {**os.environ, **environment}
        missing = run([program, self.folder / "missing.gguf"], env=environment)
        self.assertIn("missing.gguf", missing)
        if MODEL:
            text = run([program, MODEL], env=environment)
            self.assertGreater(len(text.split()), 10, text)


class Subdirectory(Consumer):
    """add_subdirectory from an otherwise empty project."""

    def setUp(self):
        super().setUp()
        (self.folder / "tropilla").symlink_to(ROOT)

    def lists(self):
        return block("docs/embedding.md", "cmake", "add_subdirectory")

    def test_the_page_s_project_is_configured_built_and_run(self):
        # Compiled fast, for what is looked at is that everything is found; the program itself as the page has it.
        ours = self.folder / "ours.cmake"
        ours.write_text("set(CMAKE_UNITY_BUILD ON)\n")
        words = self.configure(self.lists(), "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0",
                               f"-DCMAKE_PROJECT_tropilla_INCLUDE={ours}")
        for package in "CLI11", "tomlplusplus", "libedit", "Catch2":
            self.assertNotIn(package, words)
        self.build()
        self.answers(self.folder / "build/hello")

    def test_a_program_is_compiled_without_our_flags_and_we_with_them(self):
        self.configure(self.lists())
        self.assertEqual(self.flags(f"{self.folder.name}/main.cpp"), {f"-I{self.folder}/tropilla/include", "-std=gnu++20"})
        self.assertLessEqual({"-Wconversion", "-fvisibility=hidden", "-O2", "-std=c++20"}, self.flags("memory/pool.cpp"))
        self.assertNotIn("-Werror", self.flags("memory/pool.cpp"))

    def test_readme_s_lines_do_the_same(self):
        self.configure("cmake_minimum_required(VERSION 3.25)\nproject(empty)\nadd_executable(your_program main.cpp)\n"
                       + block("README.md", "cmake", "add_subdirectory"))
        self.assertIn("-std=gnu++20", self.flags("main.cpp"))

    def test_what_the_library_links_is_known_to_the_whole_project(self):
        linked = "CAF::core fmt::fmt Threads::Threads PkgConfig::TROPILLA_PCRE2 PkgConfig::TROPILLA_URING"
        self.configure(self.lists().replace("tropilla::tropilla", f"tropilla::actors {linked}"))

    def test_the_program_is_built_where_it_is_asked_for(self):
        words = self.configure(self.lists(), "-DTROPILLA_PROGRAM=ON")
        self.assertIn("libedit", words)
        self.assertTrue((self.folder / "build/tropilla/app").exists())

    def test_the_parent_s_settings_are_its_own(self):
        names = ["CMAKE_CXX_STANDARD", "CMAKE_CXX_EXTENSIONS", "CMAKE_BUILD_TYPE", "CMAKE_RUNTIME_OUTPUT_DIRECTORY",
                 "CMAKE_POSITION_INDEPENDENT_CODE", "CMAKE_CXX_VISIBILITY_PRESET", "CMAKE_MODULE_PATH"]
        shown = 'message(STATUS "' + " ".join(f"{n}=[${{{n}}}]" for n in names) + '")\n'
        words = self.configure("cmake_minimum_required(VERSION 3.25)\nproject(parent)\nset(CMAKE_CXX_STANDARD 23)\n"
                               f"{shown}add_subdirectory(tropilla EXCLUDE_FROM_ALL)\n{shown}")
        before, after = re.findall(r"CMAKE_CXX_STANDARD=.*", words)
        self.assertEqual(before, after)
        self.assertIn("CMAKE_BUILD_TYPE=[]", after)
        self.assertIn("-std=c++23", self.flags("memory/pool.cpp"))
        self.assertFalse((self.folder / "build/tropilla/app").exists())


class Installed(Consumer):
    """From `cmake --install` into an empty folder."""

    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.prefix = pathlib.Path(scratch.name) / "installed"
        run(["cmake", "--install", TREE, "--component", "library", "--prefix", cls.prefix])

    def find(self, lists, *options):
        self.configure(lists, f"-DCMAKE_PREFIX_PATH={self.prefix}", *options)
        self.build()

    def test_the_page_s_project_links_the_archive(self):
        self.find(block("docs/embedding.md", "cmake", "CONFIG REQUIRED)"))
        self.assertEqual(self.flags("main.cpp"), {"-isystem", "-std=gnu++20"})
        self.answers(self.folder / "build/hello")
        self.assertNotIn("libtropilla", run(["ldd", self.folder / "build/hello"]))

    def test_and_the_shared_library(self):
        self.find(block("docs/embedding.md", "cmake", "CONFIG REQUIRED)"), "-DBUILD_SHARED_LIBS=ON")
        self.answers(self.folder / "build/hello")
        self.assertIn("libtropilla.so.0.1 => " + str(self.prefix), run(["ldd", self.folder / "build/hello"]))

    def actors(self, *options):
        (self.folder / "main.cpp").write_text(asker())
        self.find(block("docs/embedding.md", "cmake", "tropilla::actors"), *options)
        self.answers(self.folder / "build/hello")

    def test_an_actor_asks_the_engine_in_the_archive(self):
        self.actors()

    def test_and_the_engine_in_the_shared_library(self):
        self.actors("-DBUILD_SHARED_LIBS=ON")

    def pkg_config(self, prefix, *options):
        environment = {**os.environ, "PKG_CONFIG_PATH": f"{prefix}/lib/pkgconfig"}
        return run(["pkg-config", *options, "tropilla"], env=environment).split()

    def test_pkg_config_links_the_shared_library(self):
        run(["c++", "-std=c++20", self.folder / "main.cpp", "-o", self.folder / "hello",
             *self.pkg_config(self.prefix, "--cflags", "--libs")])
        self.answers(self.folder / "hello", LD_LIBRARY_PATH=f"{self.prefix}/lib")

    def test_pkg_config_names_what_the_archive_needs(self):
        prefix = self.folder / "moved"
        shutil.copytree(self.prefix, prefix, symlinks=True)
        for library in (prefix / "lib").glob("*.so*"):
            library.unlink()
        needed = self.pkg_config(prefix, "--static", "--cflags", "--libs")
        self.assertNotIn("-ludev", needed)  # of hwloc's archive, while its shared library is linked
        run(["c++", "-std=c++20", self.folder / "main.cpp", "-o", self.folder / "hello", *needed])
        self.answers(self.folder / "hello")

    def test_headers_need_nothing_that_is_not_installed(self):
        installed = sorted((self.prefix / "include/tropilla").iterdir())
        self.assertEqual([h.name for h in installed], [h.name for h in HEADERS])
        for header in installed:
            for name in re.findall(r'#include "(.*)"', header.read_text()):
                self.assertTrue((self.prefix / "include" / name).exists(), f"{header.name} includes {name}")
            run(["c++", "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow",
                 "-Werror", f"-I{self.prefix}/include", "-include", header, "-x", "c++", os.devnull])

    def test_the_shared_library_shows_the_public_interface_alone(self):
        marked = {m for header in HEADERS
                  for m in re.findall(r"TROPILLA_API [^(;{]*?(\w+)(?=\(|;| :| \{| final)", header.read_text())}
        self.assertLessEqual({"runtime", "generation", "error", "spawn_engine", "to_string"}, marked)
        library = (self.prefix / "lib/libtropilla.so").resolve()
        names = [line.split(" ", 2)[2] for line in run(["nm", "-DC", "--defined-only", library]).splitlines()]
        self.assertGreater(len(names), 30)
        strangers = [n for n in names
                     if not re.match(rf"(vtable for |typeinfo for |typeinfo name for )?tropilla::({'|'.join(marked)})\b(?!::impl)", n)]
        self.assertEqual(strangers, [])
        self.assertIn("Library soname: [libtropilla.so.0.1]", run(["readelf", "-d", library]))

    def test_the_shared_library_needs_every_library_that_it_names(self):
        unused = subprocess.run(["ldd", "-u", (self.prefix / "lib/libtropilla.so").resolve()], stdout=subprocess.PIPE, text=True)
        self.assertEqual(unused.stdout.split()[3:], [], unused.stdout)

    def test_one_version_is_everywhere(self):
        header = (self.prefix / "include/tropilla/version.hpp").read_text()
        major, minor, patch = re.findall(r"(?m)^#define TROPILLA_VERSION_\w+ (\d+)$", header)
        self.assertEqual(self.pkg_config(self.prefix, "--modversion"), [f"{major}.{minor}.{patch}"])
        lists = "cmake_minimum_required(VERSION 3.25)\nproject(wanted)\nfind_package(tropilla {} CONFIG REQUIRED)\n"
        self.configure(lists.format(f"{major}.{minor}"), f"-DCMAKE_PREFIX_PATH={self.prefix}")
        for other in f"{major}.{int(minor) + 1}", f"{int(major) + 1}.0":
            with self.assertRaisesRegex(AssertionError, "compatible with requested version"):
                self.configure(lists.format(other), f"-DCMAKE_PREFIX_PATH={self.prefix}")

    def test_an_unknown_component_is_refused(self):
        with self.assertRaisesRegex(AssertionError, "no component"):
            self.configure("cmake_minimum_required(VERSION 3.25)\nproject(wanted)\n"
                           "find_package(tropilla CONFIG REQUIRED COMPONENTS cuda)\n", f"-DCMAKE_PREFIX_PATH={self.prefix}")


def main():
    global TREE
    parser = argparse.ArgumentParser()
    parser.add_argument("--tree", type=pathlib.Path, default=ROOT / "build/release")
    options, rest = parser.parse_known_args()
    TREE = options.tree.resolve()
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
