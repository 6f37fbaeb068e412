#!/usr/bin/env python3
"""How pages of documentation are read and their outputs compared: what test_docs.py relies on.

Run by ctest (label scripts), or by hand: tests/scripts/test_pages.py
"""
import unittest

import pages

PAGE = """Text.

```sh
echo one
```

```text
one
```

```sh
echo two
```

It prints:

```text
two
```

<!-- not run: waits for a person -->
```sh
cat
```

- In a list:

  ```sh
  echo three
  ```
"""


class Blocks(unittest.TestCase):
    def test_output_belongs_to_the_commands_right_before_it(self):
        commands = [b for b in pages.blocks(PAGE) if b.language == "sh"]
        self.assertEqual([b.expected for b in commands], ["one\n", None, None, None])
        self.assertEqual([b.runnable for b in commands], [True, True, False, True])
        self.assertEqual([b.line for b in commands], [3, 11, 22, 28])
        self.assertEqual(commands[-1].body, "echo three\n")

    def test_a_block_without_an_end_is_refused(self):
        with self.assertRaisesRegex(ValueError, "line 1"):
            pages.blocks("```sh\necho\n")


class Outputs(unittest.TestCase):
    def test_what_is_the_same_matches_whatever_the_white_space(self):
        self.assertTrue(pages.matches("a  b\nc\n", "a b c"))
        self.assertTrue(pages.matches("(a|b) [c]*", "(a|b) [c]*\n"))

    def test_another_word_or_another_number_does_not(self):
        for other in ("status 3", "status 2 and", "status", ""):
            self.assertFalse(pages.matches("status 2", other), other)
        self.assertFalse(pages.matches("94 MiB in 2 files", "95 MiB in 2 files"))
        self.assertFalse(pages.matches("34 out", "33 out"))

    def test_times_rates_and_shares_of_time_may_differ(self):
        shown = "92.1 MiB in 0.09 s; 1,204 tok/s, 3 GB/s, 40 ms, 97%"
        self.assertTrue(pages.matches(shown, "92.1 MiB in 12 s; 5.5 tok/s, 3.61 GB/s, 0.7 ms, 101.2%"))
        self.assertFalse(pages.matches(shown, "92.1 MiB in many s; 5.5 tok/s, 3.61 GB/s, 0.7 ms, 101.2%"))
        self.assertFalse(pages.matches("4 sequences", "5 sequences"))

    def test_three_dots_stand_for_anything(self):
        self.assertTrue(pages.matches("first\n...\nlast", "first\nsecond\nthird\nlast"))
        self.assertTrue(pages.matches("first\n...\nlast", "first\nlast"))
        self.assertTrue(pages.matches("budget of ... MiB", "budget of 312 MiB"))
        self.assertFalse(pages.matches("first\n...\nlast", "first\nsecond"))


if __name__ == "__main__":
    unittest.main(verbosity=1)
