#!/usr/bin/env python3
"""scripts/tidy.py: what it compares with, which sources it chooses, and what it leaves of GCC's arguments; and that
clang-tidy, by .clang-tidy, finds what it should in a file made for that.

    tests/scripts/test_tidy.py [Class[.test]...]

Run by ctest (label scripts).
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "scripts"))

import tidy  # noqa: E402


class Repository(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.git("init", "-q", "-b", "main")
        self.commit("a.cpp", "int a;\n")

    def git(self, *arguments):
        subprocess.run(["git", "-C", self.root, "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments],
                       check=True, stdout=subprocess.DEVNULL)

    def write(self, name, text):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def commit(self, name, text):
        self.write(name, text)
        self.git("add", name)
        self.git("commit", "-q", "-m", "change " + name)

    def head(self, revision="HEAD"):
        return tidy.git(self.root, "rev-parse", revision)


class Base(Repository):
    def test_a_branch_is_compared_with_where_it_left_main(self):
        self.git("update-ref", "refs/remotes/origin/main", "HEAD")
        fork = self.head()
        self.git("checkout", "-q", "-b", "work")
        for i in range(3):
            self.commit("b.cpp", f"int b = {i};\n")
        self.assertEqual(tidy.choose_base(self.root, ""), fork)
        self.assertEqual(tidy.changed(self.root, fork), {"b.cpp": 1})

    def test_main_itself_is_compared_with_ten_commits_ago(self):
        for i in range(12):
            self.commit("b.cpp", f"int b = {i};\n")
        self.git("update-ref", "refs/remotes/origin/main", "HEAD")
        self.assertEqual(tidy.choose_base(self.root, ""), self.head("HEAD~10"))

    def test_a_clone_without_history_has_everything_to_look_at(self):
        self.assertIsNone(tidy.choose_base(self.root, ""))
        self.assertEqual(tidy.changed(self.root, None), {"a.cpp": 1})

    def test_the_variable_or_option_decides(self):
        self.commit("b.cpp", "int b;\n")
        self.assertEqual(tidy.choose_base(self.root, "HEAD~1"), "HEAD~1")
        self.assertIsNone(tidy.choose_base(self.root, "all"))
        with self.assertRaisesRegex(tidy.Trouble, "no revision nonsense to compare with"):
            tidy.choose_base(self.root, "nonsense")

    def test_uncommitted_and_new_files_count_and_removed_ones_do_not(self):
        self.commit("gone.cpp", "int gone;\n")
        self.write("a.cpp", "int a;\nint more;\n")
        self.write("new.hpp", "\n\n\n")
        self.write("notes.md", "not C++\n")
        (self.root / "gone.cpp").unlink()
        self.assertEqual(tidy.changed(self.root, "HEAD"), {"a.cpp": 1, "new.hpp": 3})


class Choice(Repository):
    def choose(self, lines):
        known = [p.name for p in self.root.glob("*.cpp")]
        return tidy.sources_for(lines, known, tidy.Includes(self.root))

    def test_the_largest_changes_come_first(self):
        self.write("b.cpp", "")
        self.assertEqual(self.choose({"a.cpp": 2, "b.cpp": 5, "unknown.cpp": 9}), ["b.cpp", "a.cpp"])

    def test_a_header_is_looked_at_where_few_include_it(self):
        self.write("include/h.hpp", "")
        self.write("through.hpp", '#include "h.hpp"\n')
        self.write("b.cpp", '#include "through.hpp"\n')
        self.assertEqual(self.choose({"include/h.hpp": 1}), ["b.cpp"])

    def test_a_header_of_many_is_looked_at_through_its_own_source_or_one_other(self):
        for name in ("a", "b", "c", "d", "e", "h"):
            self.write(name + ".cpp", '#include "h.hpp"\n#include "lone.hpp"\n')
        self.write("h.hpp", "")
        self.write("lone.hpp", "")
        self.assertEqual(self.choose({"h.hpp": 1}), ["h.cpp"])
        self.assertEqual(self.choose({"lone.hpp": 1}), ["a.cpp"])


class Arguments(unittest.TestCase):
    def test_what_only_gcc_knows_is_left_out(self):
        command = ("env CCACHE_DIR=/c ccache /usr/bin/c++ -DX=\\\"a\\\" -I/s -Werror -Wno-restrict --param a=1 -Winvalid-pch -include "
                   "/b/cmake_pch.hxx -include own.hpp -fno-sanitize-address-use-after-scope -mavx2 -std=c++20 -o a.o -c a.cpp")
        self.assertEqual(tidy.for_clang(command), ["/usr/bin/c++", '-DX="a"', "-I/s", "-include", "own.hpp", "-mavx2",
                                                   "-std=c++20", "-o", "a.o", "-c", "a.cpp"])


@unittest.skipUnless(shutil.which("clang-tidy"), "there is no clang-tidy")
class Findings(unittest.TestCase):
    def test_faults_and_names_are_found_and_what_the_house_writes_is_not(self):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "a.cpp"
            source.write_text("namespace x {\n"
                              "template <class Value> class counter {\n"
                              "public:\n"
                              "  [[nodiscard]] Value next() { return ++count_; }\n"
                              "private:\n"
                              "  Value count_ = 0;\n"
                              "};\n"
                              "template class counter<int>;\n"
                              "class wrong_member { int count = 0; public: int get() const { return count; } };\n"
                              "int WrongName() { return 1; }\n"
                              "int read_null(int which) { int* p = nullptr; if (which > 2) return *p; return 0; }\n"
                              "int global = 0;\n"
                              "} // namespace x\n")
            done = subprocess.run(["clang-tidy", "--quiet", f"--config-file={ROOT / '.clang-tidy'}", str(source), "--",
                                   "-std=c++20"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            found = done.stdout.decode()
            self.assertNotEqual(done.returncode, 0)
            for line, check in [(9, "readability-identifier-naming"), (10, "readability-identifier-naming"),
                                (11, "clang-analyzer-core.NullDereference"),
                                (12, "cppcoreguidelines-avoid-non-const-global-variables")]:
                self.assertRegex(found, rf"a\.cpp:{line}:.*\[{check}")
            self.assertNotRegex(found, r"a\.cpp:[1-8]:.*error")


if __name__ == "__main__":
    unittest.main()
