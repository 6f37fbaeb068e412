#!/usr/bin/env python3
"""scripts/gpu_report.py on made-up logs, and scripts/gpu_check.sh and scripts/gpu_peers.py where there is no GPU: programs
that only answer stand for the bundle's.

    tests/scripts/test_gpu_report.py [Class[.test]...]

Run by ctest (label scripts).
"""
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
sys.dont_write_bytecode = True
sys.path.insert(0, str(SCRIPTS))

import gpu_report  # noqa: E402

LIMITS = {"device": "A GPU", "read_bytes_s": 3e12, "host_to_device_bytes_s": 50e9, "bf16_operations_s": 700e12}
WAYS = {"eager": {"prefill_tok_s": 20000.0, "decode_tok_s": 40.0},
        "compiled": {"prefill_tok_s": 19000.0, "decode_tok_s": 90.0}}
PEERS = {"transformers": {"prefill_tok_s": 20000.0, "decode_tok_s": 90.0, "ways": WAYS}, "offload": {"decode_tok_s": 0.5},
         "problems": []}
POOL = [{"name": "pool", "at_once": {"median_ns": 25}}, {"name": "cudaMallocAsync", "at_once": {"median_ns": 500}}]
TESTS = "measured: kl 2e-05\nmeasured: kl 1e-05\nmeasured: allocations_per_token 0\n" \
        "measured: greedy_tokens_that_differ 0\n"


def bench(**rates):
    return [{"test": name, "tok_s": rate, "weight_bytes": 16 * 10**9, "streamed_bytes": 12 * 10**9, "overlap": 0.97}
            for name, rate in rates.items()]


def batch(alone, together):
    return {"rows": [{"sequences": 1, "tok_s": alone}, {"sequences": 32, "tok_s": together}]}


class Reports(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def log(self, name, what, status=0):
        (self.folder / f"{name}.out").write_text(what if isinstance(what, str) else json.dumps(what))
        with (self.folder / "status").open("a") as f:
            f.write(f"{name} {status}\n")

    def log_everything(self):
        self.log("limits", LIMITS)
        self.log("tests", TESTS)
        self.log("pool", POOL)
        self.log("peers", json.dumps({"problems": ["not yet"]}) + "\n" + json.dumps(PEERS) + "\n")
        for type_ in gpu_report.TYPES:
            self.log(f"bench-{type_}", bench(pp2048=34000.0, tg64=160.0))
            self.log(f"batch-{type_}", batch(150.0, 2000.0))
            self.log(f"streamed-{type_}", bench(tg8=4.0))

    def report(self):
        subprocess.run([sys.executable, SCRIPTS / "gpu_report.py", self.folder, "abc", self.folder], check=True)
        results = json.loads((self.folder / "gpu_results.json").read_text())
        return results, {row["figure"]: row for row in results["goals"]}, (self.folder / "gpu_results.md").read_text()

    def test_every_goal_has_its_ratio(self):
        self.log_everything()
        _, rows, page = self.report()
        self.assertTrue(all(row["value"] is not None for row in rows.values()), rows)
        self.assertAlmostEqual(rows["BF16: decode, of the read bandwidth"]["value"], 160 * 16e9 / 3e12)
        self.assertAlmostEqual(rows["BF16: streamed, of the bandwidth from pinned memory"]["value"], 4 * 12e9 / 50e9)
        self.assertAlmostEqual(rows["BF16: 32 together, of one alone"]["value"], 2000 / 150)
        self.assertAlmostEqual(rows["BF16: prefill, of cuBLAS's peak in bf16"]["value"],
                               34000 * 2 * 6979321856 / 700e12)
        self.assertAlmostEqual(rows["allocate and free, of cudaMallocAsync's"]["value"], 0.05)
        self.assertEqual(rows["KL divergence from the host's logits"]["value"], 2e-5)  # the worst
        self.assertEqual({row["figure"] for row in rows.values() if not row["met"]}, set())
        self.assertIn("| BF16: decode, of the read bandwidth | at least 80% | 85.3% | yes |", page)
        self.assertIn("| BF16: streamed, of accelerate's cpu_offload | at least 3x | 8.00x | yes |", page)
        self.assertIn("| BF16 | 34000.0 | 160.0 | 2000.0 | 4.0 |", page)
        self.assertTrue(page.startswith("A GPU, commit abc, "))
        self.assertNotIn("Failed", page)
        self.assertIn("transformers was fastest with prefill: eager, decode: compiled.", page)

    def test_a_goal_that_is_missed_says_so(self):
        self.log("limits", LIMITS)
        self.log("bench-Q8_0", bench(pp2048=1000.0, tg64=10.0))
        _, rows, page = self.report()
        self.assertIs(rows["Q8_0: decode, of the read bandwidth"]["met"], False)
        self.assertIn("| Q8_0: decode, of the read bandwidth | at least 70% | 5.3% | no |", page)

    def test_what_was_not_measured_stays_empty(self):
        _, rows, page = self.report()
        self.assertEqual({row["met"] for row in rows.values()}, {None})
        self.assertIn("Nothing has been measured yet.", page)
        self.assertIn("| BF16: decode, of the read bandwidth | at least 80% | | |", page)
        self.assertIn("| BF16 | | | | |", page)

    def test_the_page_has_the_same_goals(self):
        page = (ROOT / "docs/benchmarks.md").read_text()
        for row in gpu_report.goal_rows({"models": {}, "status": {}}):
            self.assertIn(f"| {row['figure']} | {row['goal']} |", page)

    def test_steps_that_failed_are_named_with_what_they_said(self):
        self.log_everything()
        self.log("streamed-BF16", "no JSON", status=124)
        (self.folder / "streamed-BF16.err").write_text("cuda:0: out of memory\n")
        self.log("peers", json.dumps({"problems": ["accelerate: ImportError: no\nsuch package"]}) + "\n{\"cut", status=1)
        results, rows, page = self.report()
        self.assertIsNone(rows["BF16: streamed, overlap"]["value"])
        self.assertIsNone(rows["BF16: decode, of transformers'"]["value"])
        self.assertIn("out of memory", results["failures"]["streamed-BF16"])
        self.assertIn("Failed, or out of time: peers (1), streamed-BF16 (124).", page)
        self.assertIn("- accelerate: ImportError: no such package", page)

    def test_without_cublas_there_is_no_share_of_its_peak(self):
        self.log_everything()
        self.log("limits", dict(LIMITS, bf16_operations_s=0))
        _, rows, page = self.report()
        self.assertIsNone(rows["BF16: prefill, of cuBLAS's peak in bf16"]["met"])
        self.assertIn("cuBLAS was not found", page)


class Checks(unittest.TestCase):
    ANSWERS = {  # for each program, what it does
        "tropilla": 'case $1 in --version|devices) echo "{}" ;; synth) echo weights >"$7" ;; '
                    'bench) [[ $* != *BF16* ]] || exit 3; echo \'' + json.dumps(bench(pp2048=2.0, tg64=1.0)) + '\' ;; esac',
        "test_gpu_kernels": 'echo "warpgroups are ${TROPILLA_CUDA_WGMMA:-on}"',
        "test_gpu": 'printf "measured: kl 1e-5\\n"',
        "compute-sanitizer": "exit 0",
        "bench_gpu_limits": "echo '" + json.dumps(LIMITS) + "'",
        "bench_pool": "echo '" + json.dumps(POOL) + "'",
        "bench_throughput": "echo '" + json.dumps(batch(1.0, 13.0)) + "'",
    }

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def check(self, **other):
        """Runs the script on a bundle of such programs. Returns its status, what it said, and the results, if any."""
        bundle = self.folder / "tropilla-gpu"
        (bundle / "bin").mkdir(parents=True)
        (bundle / "commit").write_text("abc\n")
        (bundle / "gpu_report.py").write_bytes((SCRIPTS / "gpu_report.py").read_bytes())
        (bundle / "gpu_peers.py").write_text(f"print({json.dumps(PEERS)!r})\n")
        for name, what in {**self.ANSWERS, **other}.items():
            (bundle / "bin" / name).write_text(f"#!/usr/bin/env bash\n{what}\n")
            (bundle / "bin" / name).chmod(0o755)
        with tarfile.open(self.folder / "bundle.tar.gz", "w:gz") as tar:
            tar.add(bundle, "tropilla-gpu")
        run = subprocess.run([SCRIPTS / "gpu_check.sh", self.folder / "bundle.tar.gz", self.folder / "results"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=dict(os.environ, TMPDIR=str(self.folder)))
        results = self.folder / "results/gpu_results.json"
        self.assertEqual(list(self.folder.glob("tmp.*")), [])
        return run.returncode, run.stderr, json.loads(results.read_text()) if results.exists() else None

    def test_steps_are_run_and_reported(self):
        status, said, results = self.check()
        self.assertEqual(status, 0, said)
        failed = {name for name, value in results["status"].items() if value != 0}
        self.assertEqual(failed, {"bench-BF16", "streamed-BF16"})  # and the others were run
        self.assertEqual(results["models"]["Q4_0"]["batch"], batch(1.0, 13.0))
        self.assertEqual(results["peers"], PEERS)
        for name in ("devices", "warpgroups", "kernels", "tests", "memcheck", "racecheck", "limits", "pool", "synth-BF16", "synth-Q4_0"):
            self.assertEqual(results["status"][name], 0, name)
        self.assertIn("| Q8_0: 32 together, of one alone | at least 12x | 13.00x | yes |", said)

    def test_tests_that_fail_are_run_again_without_overlap(self):
        status, _, results = self.check(test_gpu="[[ ${TROPILLA_CUDA_OVERLAP:-} == off ]]")
        self.assertEqual((status, results["status"]["tests"], results["status"]["tests-apart"]), (1, 1, 0))

    def test_the_status_is_that_of_the_tests(self):
        status, _, results = self.check(test_gpu="exit 1")
        self.assertEqual((status, results["status"]["tests"]), (1, 1))

    def test_a_gpu_that_stumbles_over_warpgroups_goes_on_without(self):
        status, _, results = self.check(
            test_gpu_kernels='case $* in *Hopper*) exit 3 ;; *) [[ $TROPILLA_CUDA_WGMMA == off ]] || exit 4 ;; esac')
        self.assertEqual((status, results["status"]["warpgroups"], results["status"]["kernels"]), (1, 3, 0))
        self.assertEqual(results["status"]["bench-Q8_0"], 0)

    def test_a_sanitizer_that_finds_nothing_fails_nothing(self):
        status, _, results = self.check(**{"compute-sanitizer": "exit 1"})
        self.assertEqual((status, results["status"]["memcheck"]), (0, 1))

    def test_what_a_sanitizer_finds_is_a_failure(self):
        self.assertEqual(self.check(**{"compute-sanitizer": "exit 9"})[0], 1)

    def test_without_a_gpu_it_says_why_and_measures_nothing(self):
        status, said, results = self.check(
            test_gpu_kernels='echo "skipped: there is no NVIDIA driver on this machine"; exit 77')
        self.assertEqual((status, results), (2, None))
        self.assertIn("there is no NVIDIA driver on this machine", said)

    def test_peers_that_are_not_there_are_a_sentence(self):
        (self.folder / "torch.py").write_text("raise ImportError('no torch here')\n")
        run = subprocess.run([sys.executable, SCRIPTS / "gpu_peers.py"], check=True, stdout=subprocess.PIPE, text=True,
                             env=dict(os.environ, PYTHONPATH=str(self.folder), PYTHONDONTWRITEBYTECODE="1"))
        self.assertIn("no torch here", json.loads(run.stdout.splitlines()[-1])["problems"][0])


if __name__ == "__main__":
    unittest.main()
