#!/usr/bin/env python3
"""bench/throughput.py: small, on a small model, all parts answer, and what they check is right.

    tests/scripts/test_throughput.py --bin build/release/bin

Times are not looked at. TROPILLA_PEER_VENV names an environment that has xllamacpp; without it the peer's part is
skipped. Run by ctest (label scripts).
"""
import importlib.util
import json
import os
import subprocess
import sys
import unittest

import benchmarks

sys.path.insert(0, str(benchmarks.ROOT / "bench"))
sys.dont_write_bytecode = True

import throughput  # noqa: E402


class Arithmetic(unittest.TestCase):
    def test_a_percentile_is_a_value_that_so_many_do_not_exceed(self):
        values = [3, 1, 2, 5, 4, 6, 8, 7, 10, 9]
        self.assertEqual([throughput.percentile(values, p) for p in (1, 50, 51, 95, 99, 100)], [1, 5, 6, 10, 10, 10])
        self.assertEqual(throughput.percentile([7], 99), 7)

    def test_a_request_waits_for_its_first_token_and_then_for_each(self):
        answer = {"wall_s": 2, "requests": [{"failure": "", "submitted": 1, "times": [1.5, 1.75, 2.0]},
                                            {"failure": "", "submitted": 0, "times": [0.25]}]}
        found = throughput.figures(answer, [{"tokens": 3}, {"tokens": 1}])
        self.assertEqual((found["requests_s"], found["tok_s"]), (1, 2))
        self.assertEqual((found["first_all"], found["each_all"]), ([0.5, 0.25], [0.25]))
        self.assertEqual((found["first"][50], found["first"][99]), (0.25, 0.5))

    def test_a_reply_that_is_too_short_is_no_figure(self):
        answer = {"wall_s": 2, "requests": [{"failure": "", "submitted": 1, "times": [1.5]}]}
        with self.assertRaises(SystemExit):
            throughput.figures(answer, [{"tokens": 2}])


class Throughput(benchmarks.Benchmark):
    MARK = "throughput"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.report = cls.drive("--no-peer", "--rates", "0,200", "--update", cls.page)

    @classmethod
    def drive(cls, *more):
        subprocess.run([sys.executable, benchmarks.ROOT / "bench/throughput.py", "-m", cls.model_file, "--rounds", "1",
                        "--count", "6", "--streams", "60", "--prefix", "128", "--batch-tokens", "8", "--idle-wait", "0",
                        "--packed", cls.home / "packed", "--build", benchmarks.BIN.parent,
                        "--json", cls.home / "report.json", *more],
                       check=True, stdout=subprocess.DEVNULL)
        return json.loads((cls.home / "report.json").read_text())

    def bench(self, mode, *more):
        return json.loads(subprocess.run([benchmarks.BIN / "bench_throughput", mode, self.model_file, *more], check=True,
                                         stdout=subprocess.PIPE).stdout)

    def test_every_rate_has_all_figures(self):
        self.assertEqual([(r["rate"], r["who"]) for r in self.report["load"]], [(0, "ours"), (200, "ours")])
        for row in self.report["load"]:
            for key in ("requests_s", "tok_s", "wall_s"):
                self.assertGreater(row[key], 0, key)
            for key in ("first", "each"):
                p50, p95, p99 = (row[key][p] for p in ("50", "95", "99"))
                self.assertTrue(0 < p50 <= p95 <= p99, row[key])

    def test_batches_have_a_row_each(self):
        self.assertEqual([r["sequences"] for r in self.report["batch"]], [1, 2, 4, 8, 16, 32])

    def test_a_prefix_is_computed_once(self):
        self.assertEqual(self.report["prefix"]["reused_tokens"], 128)

    def test_all_streams_end_right_inside_the_plan(self):
        streams = self.report["streams"]
        self.assertEqual((streams["endings"], streams["unfinished"], streams["different"], streams["failed"]), (60, 0, 0, 0))
        self.assertLessEqual(streams["peak_bytes"], streams["planned_bytes"])

    def test_requests_are_the_same_for_the_same_seed_and_any_rate(self):
        at_once, again, later = (self.bench("requests", "--count", "20", "--rate", r) for r in ("0", "0", "5"))
        self.assertEqual(at_once, again)
        self.assertEqual([r["prompt"] for r in at_once], [r["prompt"] for r in later])
        self.assertEqual({r["at"] for r in at_once}, {0})
        times = [r["at"] for r in later]
        self.assertEqual(times, sorted(times))
        for r in at_once:
            self.assertTrue(32 <= len(r["prompt"]) <= 512 and 16 <= r["tokens"] <= 256)

    def test_a_soak_loses_nothing(self):
        soak = self.bench("soak", "--seconds", "2")
        self.assertEqual((soak["wrong"], soak["first_failure"], soak["comes_to_rest"]), (0, "", True))
        self.assertEqual(soak["endings"], soak["submitted"])

    def test_conversations_that_come_back_get_the_same_text_wherever_their_pages_were(self):
        small = ("--conversations", "6", "--prompt", "100", "--tokens", "8")
        kept, gone = (self.bench("turns", *small, "--parallel", n) for n in ("6", "1"))
        stored = self.bench("turns", *small, "--parallel", "1", "--kv-host-mib", "8")
        for report in kept, gone, stored:
            self.assertEqual((report["ids"], report["failed"]), (kept["ids"], 0))
            first, returns = report["first"], report["returns"]
            self.assertEqual((first["replies"], first["prompt_tokens"], first["reused_tokens"]), (6, 600, 0))
            self.assertEqual((returns["replies"], returns["prompt_tokens"]), (12, 6 * (100 + 24 + 100 + 48)))
            self.assertTrue(0 < returns["first_token_s"]["median"] <= returns["first_token_s"]["p95"])
        # A token that was the last of its reply, and a message of 16: the rest is there, where all have pages.
        self.assertEqual(kept["returns"]["computed_tokens"], 12 * 17)
        self.assertGreater(gone["returns"]["computed_tokens"], kept["returns"]["computed_tokens"])
        # What is no full page is computed, too.
        self.assertLessEqual(stored["returns"]["computed_tokens"], 12 * (17 + 31))
        self.assertGreater(stored["returns"]["store"]["restored"], 0)

    def test_a_seed_decides_the_text_of_conversations(self):
        small = ("--conversations", "2", "--prompt", "40", "--tokens", "4", "--turns", "2")
        self.assertNotEqual(*(self.bench("turns", *small, "--seed", seed)["ids"] for seed in ("1", "2")))

    def test_a_conversation_goes_on_after_a_restart(self):
        report = self.bench("restart", "--prompt", "100", "--tokens", "8", "--pairs", "2", "--kv-disk-mib", "8",
                            "--kv-folder", self.home / "pages")
        self.assertEqual([p["prompt_tokens"] for p in report["pairs"]], [124, 124])
        self.assertEqual(report["different"], 0)
        for pair in report["pairs"]:
            self.assertGreaterEqual(pair["reused_tokens"], 96)
        for key in ("without_s", "with_s", "ratio"):
            self.assertGreater(report[key], 0, key)

    def test_what_the_pool_was_asked_for_is_recorded_and_replayed(self):
        recording = self.home / "pool.json"
        flow = self.bench("flow", "--context", "256", "--kv-tokens", "2048", "--phases", "1,8", "--seconds", "1",
                          "--tokens", "24", "--record-pool", recording)
        recorded = json.loads(recording.read_text())
        self.assertIn("--phases 1,8", recorded["how"])
        self.assertNotIn(str(recording), recorded["how"])
        self.assertFalse((self.home / "pool.json.trace").exists())
        allocations, kinds = recorded["allocations"], recorded["kinds"]
        self.assertIn("KV pages", [kinds[kind][0] for kind, _ in allocations])
        # Round and round, the bytes in use are those of the device at most.
        due, in_use, peak = {}, sum(kinds[kind][1] for kind in recorded["stay"]), 0
        for at in range(4 * len(allocations)):
            in_use -= due.pop(at, 0)
            kind, life = allocations[at % len(allocations)]
            due[at + life] = due.get(at + life, 0) + kinds[kind][1]
            in_use += kinds[kind][1]
            peak = max(peak, in_use)
        self.assertLessEqual(peak, flow["devices"][0]["peak_bytes"])
        replayed = json.loads(subprocess.run([benchmarks.BIN / "bench_pool", "--replay", "--json", "--mix", recording,
                                              "--operations", "1000"], check=True, stdout=subprocess.PIPE).stdout)
        self.assertEqual({(r["peak_bytes"], r["misplaced"]) for r in replayed}, {(peak, 0)})

    def test_the_table_is_put_into_the_page(self):
        text = self.page.read_text()
        self.assertIn("| at once | 1 | tropilla |", text)
        self.assertIn("| decode of 16 together, mini.gguf |", text)
        self.assertTrue(text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text)

    @unittest.skipUnless(importlib.util.find_spec("matplotlib"), "no matplotlib")
    def test_plots_are_drawn(self):
        self.drive("--no-peer", "--only", "load,batch", "--rates", "0", "--plots", self.home)
        light, dark = ((self.home / f"throughput{theme}.svg").read_text() for theme in ("", "-dark"))
        self.assertIn("replies computed together", light)
        self.assertNotEqual(light, dark)

    @unittest.skipUnless(os.environ.get("TROPILLA_PEER_VENV"), "TROPILLA_PEER_VENV names no environment with xllamacpp")
    def test_the_peer_gets_the_same_requests(self):
        # A small vocabulary of its own would be refused by the peer, so this needs the model that people use.
        model = subprocess.run([benchmarks.ROOT / "scripts/model.sh"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        report = self.drive("-m", model, "--only", "load", "--rates", "0", "--count", "2",
                            "--venv", os.environ["TROPILLA_PEER_VENV"])
        ours, theirs = report["load"]
        self.assertEqual((ours["who"], theirs["who"]), ("ours", "peer"))
        self.assertGreater(theirs["tok_s"], 0)


if __name__ == "__main__":
    benchmarks.main()
