#!/usr/bin/env python3
"""bench/ablation.py: on a small model, one round, the strategies compute the same and hold what they say.

    tests/scripts/test_ablation.py --bin build/release/bin

Times are not looked at. Run by ctest (label scripts).
"""
import json
import subprocess
import sys
import unittest

import benchmarks

sys.path.insert(0, str(benchmarks.ROOT / "bench"))
sys.dont_write_bytecode = True

import ablation  # noqa: E402


class Arithmetic(unittest.TestCase):
    def run_of(self, memory, seconds):
        return {"peak_bytes": memory, "rss_peak_bytes": 2 * memory, "pss_bytes": 3 * memory, "elapsed_s": seconds,
                "first_token_s": seconds / 2, "decode_tok_s": 1 / seconds, "weight_copies": 1, "page_faults": 0,
                "prefill_load_s": 0, "prefill_compute_s": 0, "busy": False}

    def test_a_change_is_the_median_of_the_rounds_changes(self):
        rounds = [{"baseline": self.run_of(100, 10), "all": self.run_of(60, seconds)} for seconds in (9, 12, 5)]
        row = ablation.summarise(rounds, "whole", "all", 120, 7.5)
        self.assertAlmostEqual(row["memory_change"], -0.4)
        self.assertAlmostEqual(row["time_change"], -0.1)
        self.assertEqual([round(c, 3) for c in row["time_change_range"]], [-0.5, 0.2])
        self.assertAlmostEqual(row["memory_change_to_whole"], -0.5)
        self.assertEqual((row["peak_bytes"], row["resident_bytes"], row["elapsed_s"]), (60, 120, 9))
        self.assertEqual(ablation.ranged(row, "time"), "\u221210% (\u221250% to +20%)")

    def test_replicas_are_compared_by_what_they_do_not_share(self):
        rounds = [{"baseline": self.run_of(100, 10), "sharing": self.run_of(60, 10)}]
        self.assertEqual(ablation.summarise(rounds, "replicas", "sharing", 100, 7.5)["resident_bytes"], 180)

    def test_tokens_are_the_same_in_all_rounds_or_not(self):
        rounds = [{"baseline": {"tokens": [1, 2]}, "all": {"tokens": [1, 2]}}, {"baseline": {"tokens": [1, 2]}}]
        self.assertTrue(ablation.same_tokens(rounds))
        rounds[1]["baseline"]["tokens"] = [1, 3]
        self.assertFalse(ablation.same_tokens(rounds))


class Ablation(benchmarks.Benchmark):
    MARK = "ablation"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        home = cls.home
        # A context whose keys and values are larger than the loader's staging, as those of real models are.
        subprocess.run([sys.executable, benchmarks.ROOT / "bench/ablation.py", "-m", cls.model_file, "--rounds", "1",
                        "--rows", "32", "--context", "8192", "--score", "48", "-n", "4", "--idle-wait", "0", "--settle", "1",
                        "--packed", home / "packed", "--build", benchmarks.BIN.parent, "--json", home / "report.json",
                        "--update", cls.page], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cls.report = json.loads((home / "report.json").read_text())
        cls.model = cls.report["models"][0]
        cls.rows = {(r["case"], r["strategy"]): r for r in cls.model["rows"]}

    def test_every_strategy_has_a_row_with_all_figures(self):
        self.assertEqual(set(self.rows), {(c, s) for c in ("whole", "streamed") for s in
                                          ("baseline", "memory", "loading", "all")}
                         | {("managed", s) for s in ("memory", "together")}
                         | {("replicas", s) for s in ("baseline", "sharing", "all")})
        for row in self.rows.values():
            for key in ("peak_bytes", "resident_bytes", "elapsed_s", "first_token_s", "decode_tok_s", "perplexity"):
                self.assertGreater(row[key], 0, key)

    def test_perplexity_and_tokens_are_the_same_to_the_last_digit(self):
        self.assertEqual({row["perplexity"] for row in self.rows.values()}, {self.model["perplexity"]})
        self.assertTrue(self.model["perplexity_same"] and self.model["tokens_same"])

    def test_all_strategies_together_hold_less_than_the_baseline(self):
        for case in ("whole", "streamed", "replicas"):
            self.assertLess(self.rows[case, "all"]["peak_bytes"], self.rows[case, "baseline"]["peak_bytes"], case)

    def test_replicas_share_one_copy_of_the_weights(self):
        copies = {s: round(self.rows["replicas", s]["weight_copies"], 2) for s in ("baseline", "sharing", "all")}
        self.assertEqual(copies, {"baseline": 3.0, "sharing": 1.0, "all": 1.0})

    def test_loads_and_computes_were_traced(self):
        for strategy in ("baseline", "all"):
            self.assertEqual({s[0] for s in self.model["spans"][strategy]}, {"load", "compute"})

    def test_the_table_is_put_into_the_page(self):
        text = self.page.read_text()
        self.assertIn("| streamed: asynchronous loading |", text)
        self.assertNotIn("\nold\n", text)
        self.assertTrue(text.startswith("before\n") and text.endswith("after\n"))


if __name__ == "__main__":
    benchmarks.main()
