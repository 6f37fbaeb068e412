#!/usr/bin/env python3
"""`tropilla batch`: a line in, a record out, whatever happens between.

    tests/app/test_batch.py --bin build/release/bin/tropilla [Class[.test]...]
"""
import json
import os
import random
import signal
import subprocess
import time

from program import Program, main, program

GIVES_UP_AFTER = 120  # seconds


class Batches(Program):
    """Ways to write requests and to read records."""

    def setUp(self):
        self.input = self.folder / "in.jsonl"
        self.output = self.folder / "out.jsonl"
        self.output.unlink(missing_ok=True)

    def write(self, requests):
        self.input.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in requests))

    def records(self):
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def arguments(self, *more):
        return ["batch", "-m", self.model, self.input, "-o", self.output, *more]

    def batch(self, *more, status=0, **how):
        done = self.call(*self.arguments(*more), **how)
        self.assertEqual(done.returncode, status, done.stderr.decode())
        self.assertEqual(done.stdout, b"")
        return done.stderr.decode()

    def start(self, *more):
        return subprocess.Popen([program(), *map(str, self.arguments(*more))], env=self.environment, cwd=self.folder,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait_for_records(self, process, count):
        end = time.monotonic() + GIVES_UP_AFTER
        while process.poll() is None:
            self.assertLess(time.monotonic(), end, "no records came")
            if self.output.exists() and self.output.read_bytes().count(b"\n") >= count:
                return
            time.sleep(0.005)

    def assert_one_record_per_line(self, lines):
        self.assertEqual(sorted(r["line"] for r in self.records()), list(range(1, lines + 1)))


def seeded(count, tokens=8):
    return [{"id": f"r{i}", "prompt": f"llama {i % 37}", "max_tokens": 1 + i % tokens, "temperature": 1, "seed": i,
             "ignore_eos": True} for i in range(count)]


class Batch(Batches):
    def test_each_reply_is_what_a_run_alone_gives(self):
        requests = seeded(200)
        for i in range(0, 200, 10):
            requests[i]["messages"] = [{"role": "user", "content": requests[i].pop("prompt")}]
        self.write(requests)
        figures = self.batch("--parallel", 16)
        self.assertRegex(figures, r"\[200 requests, 0 failed, \d+ prompt tokens, \d+ output tokens, [\d.]+ tok/s, "
                                  r"[\d.]+ s\]\n\Z")
        records = {r["id"]: r for r in self.records()}
        self.assertEqual(len(records), 200)
        for i in range(0, 200, 23):
            for request in requests[i], requests[i // 10 * 10]:
                alone = self.as_json("run", "-m", self.model, "--json", "--temp", 1, "--seed", request["seed"], "-n",
                                     request["max_tokens"], "--ignore-eos",
                                     *(["--raw", "-p", request["prompt"]] if "prompt" in request
                                       else ["-p", request["messages"][0]["content"]]))
                record = records[request["id"]]
                self.assertEqual((record["text"], record["ids"], record["finish_reason"], record["prompt_tokens"],
                                  record["generated_tokens"]),
                                 (alone["text"], alone["ids"], alone["finish"], alone["prompt_tokens"],
                                  alone["generated_tokens"]))
        # One at a time gives every one of them again.
        together = {i: (r["text"], r["ids"]) for i, r in records.items()}
        self.batch("--parallel", 1, "--restart", "-q")
        self.assertEqual({r["id"]: (r["text"], r["ids"]) for r in self.records()}, together)

    def test_ordered_keeps_the_order_of_lines(self):
        requests = seeded(120, tokens=60)
        requests[17] = "broken"
        self.write(requests)
        self.batch("--ordered", status=3)
        self.assertEqual([r["line"] for r in self.records()], list(range(1, 121)))
        self.assertIn("error", self.records()[17])

    def test_bad_lines_give_records_with_errors(self):
        good = {"prompt": "hi", "max_tokens": 2}
        lines = ["nonsense", "[1]", {"id": 2}, {**good, "messages": []}, {**good, "max_tokens": -1},
                 {**good, "temperature": "x"}, {**good, "temperature": -1}, {**good, "top_p": 7},
                 {**good, "logit_bias": {"99999999": 1}}, {"prompt": []}, {"prompt": [99999999]},
                 {"prompt": "word " * 9000}, {"messages": [{"role": "pirate", "content": "x"}]},
                 {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {}},
                 {"custom_id": "d", "url": "/v1/completions", "body": {"prompt": 1}}, {**good, "id": "good"}]
        self.write(lines)
        with open(self.input, "ab") as file:
            file.write(b'{"prompt": "\xff"}\n\n   \n{"prompt": "' + b"x" * (17 << 20) + b'"}\n{"id": "last", "prompt": "x",'
                       b' "max_tokens": 1}')
        figures = self.batch(status=3)
        self.assertIn("[19 requests, 17 failed, ", figures)
        self.assertRegex(figures, r"tropilla: 17 of 19 requests failed; the first: line \d+: .{15,}\n\Z")
        records = {r["line"]: r for r in self.records()}
        self.assertEqual(sorted(records), [*range(1, 18), 20, 21])
        for line in [*range(1, 14), 17, 20]:
            self.assertEqual(list(records[line]), ["id", "line", "input", "error"], records[line])
            self.assertGreater(len(records[line]["error"]), 15)
        for line in (14, 15):
            self.assertIsNone(records[line]["response"])
            self.assertEqual(records[line]["error"]["code"], "invalid_argument")
        self.assertIn("bytes, more than", records[20]["error"])
        self.assertEqual((records[16]["id"], records[21]["id"], records[3]["id"]), ("good", "last", 2))
        again = self.batch(status=3)
        self.assertIn("already, 17 of them failed; nothing is left to do", again)
        self.assertNotIn("requests, 0 failed", again)  # and no model was loaded
        self.assertRegex(again, r"tropilla: 17 of the 19 results in .* failed in an earlier run")
        self.assertRegex(self.batch("-q", status=3), r"\Atropilla: 17 of the 19 ")

    def test_what_clients_of_other_servers_write(self):
        chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "ignore_eos": True}
        system = {**chat, "messages": [{"role": "system", "content": "Be brief."}, *chat["messages"]]}
        developer = {**chat, "messages": [{"role": "developer", "content": "Be brief."}, *chat["messages"]]}
        pair = {"max_tokens": 3, "ignore_eos": True, "temperature": 1, "seed": 4}
        self.write([{"id": "system", **system}, {"id": "developer", **developer},
                    {"id": "greedy", **chat}, {"id": "top_p 0", **chat, "temperature": 1, "top_p": 0, "seed": 9},
                    {"id": "all", **chat, "temperature": 1, "seed": 5},
                    {"id": "top_k -1", **chat, "temperature": 1, "seed": 5, "top_k": -1},
                    {"id": "a", **pair, "prompt": "one"}, {"id": "b", **pair, "prompt": "other", "n": 2},
                    {"id": "ab", **pair, "prompt": ["one", "other"], "n": 2},
                    {"custom_id": "openai", "url": "/v1/completions",
                     "body": {**pair, "prompt": ["one", "other"], "n": 1}}])
        self.batch()
        r = {r.get("custom_id") or r["id"]: r for r in self.records()}
        for one, same in [("system", "developer"), ("greedy", "top_p 0"), ("all", "top_k -1")]:
            self.assertEqual((r[one]["ids"], r[one]["prompt_tokens"]), (r[same]["ids"], r[same]["prompt_tokens"]))
        self.assertEqual(r["ab"]["ids"][0], r["a"]["ids"])
        self.assertEqual(r["ab"]["ids"][2:], r["b"]["ids"])
        self.assertEqual(r["ab"]["generated_tokens"], 12)
        self.assertEqual(r["ab"]["prompt_tokens"], r["a"]["prompt_tokens"] + r["b"]["prompt_tokens"])
        body = r["openai"]["response"]["body"]
        self.assertEqual([(c["index"], c["text"]) for c in body["choices"]],
                         [(0, r["a"]["text"]), (1, r["b"]["texts"][0])])
        self.assertEqual(body["usage"]["completion_tokens"], 6)

    def test_one_prompt_of_several_that_cannot_run_fails_its_line_alone(self):
        long = {"prompt": ["hi", "word " * 9000, "hi"], "max_tokens": 200, "ignore_eos": True}
        self.write([{"id": 0, **long}, {"id": 1, "prompt": "hi", "max_tokens": 3, "ignore_eos": True}])
        self.batch(status=3)
        failed, good = sorted(self.records(), key=lambda r: r["line"])
        self.assertIn("tokens, more than the 2047 that the model takes", failed["error"])
        self.assertEqual(len(good["ids"]), 3)

    def test_special_tokens_of_a_prompt_that_a_client_rendered_count(self):
        rendered = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
        said = "The token <|eot_id|> ends a turn."
        count = lambda text, *special: len(self.as_json("tokenize", "-m", self.model, "--json", "--text", text, *special))
        few, many = count(rendered, "--special"), count(rendered)
        self.assertLess(few, many)
        ask = {"max_tokens": 1}
        self.write([{"id": "rendered", **ask, "prompt": rendered}, {"id": "not", **ask, "prompt": rendered, "special": False},
                    {"id": "said", **ask, "prompt": said}, {"id": "so", **ask, "prompt": said, "special": True},
                    {"custom_id": "openai", "url": "/v1/completions", "body": {**ask, "prompt": said}}])
        tokens = lambda: {r.get("custom_id") or r["id"]: r["prompt_tokens"] if "prompt_tokens" in r
                          else r["response"]["body"]["usage"]["prompt_tokens"] for r in self.records()}
        self.batch()
        found = tokens()
        self.assertEqual(found["rendered"], few)  # which begins with the model's BOS: there is no second one
        self.assertEqual(found["not"], many + 1)
        self.assertEqual(found["so"], found["openai"])
        self.assertGreater(found["said"], found["so"])
        self.batch("--special", "--restart")
        self.assertEqual(tokens()["said"], found["so"])

    def test_openai_batches_are_read_and_written(self):
        chat = {"model": "x", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "ignore_eos": True}
        self.write([{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
                     "body": {**chat, "n": 2, "temperature": 1, "logprobs": True, "top_logprobs": 2}},
                    {"custom_id": "b", "method": "POST", "url": "/v1/completions",
                     "body": {"prompt": "hi", "max_tokens": 4, "ignore_eos": True, "logprobs": 1}}])
        self.batch("--ordered")
        first, second = self.records()
        self.assertEqual((first["custom_id"], first["error"], first["response"]["status_code"]), ("a", None, 200))
        body = first["response"]["body"]
        self.assertEqual((body["object"], len(body["choices"]), body["usage"]["completion_tokens"]),
                         ("chat.completion", 2, 6))
        self.assertEqual(body["usage"]["total_tokens"], body["usage"]["prompt_tokens"] + 6)
        for i, choice in enumerate(body["choices"]):
            self.assertEqual((choice["index"], choice["finish_reason"], choice["message"]["role"]), (i, "length", "assistant"))
            self.assertEqual([len(t["top_logprobs"]) for t in choice["logprobs"]["content"]], [2, 2, 2])
        body = second["response"]["body"]
        self.assertEqual((body["object"], body["choices"][0]["finish_reason"]), ("text_completion", "length"))
        self.assertEqual(len(body["choices"][0]["logprobs"]["token_logprobs"]), 4)
        alone = self.as_json("run", "-m", self.model, "--json", "--raw", "-n", 4, "--ignore-eos", "hi")
        self.assertEqual(body["choices"][0]["text"], alone["text"])

    def test_several_replies_defaults_and_standard_streams(self):
        lines = json.dumps({"id": 1, "prompt": "hi", "n": 3, "temperature": 1}) + "\n" + json.dumps({"prompt": "hi"}) + "\n"
        out = self.succeed("batch", "-m", self.model, "-", "-n", 5, "--ignore-eos", "--ordered", "-q", stdin=lines.encode())
        several, one = map(json.loads, out.splitlines())
        self.assertEqual((len(several["texts"]), [len(ids) for ids in several["ids"]], several["finish_reasons"]),
                         (3, [5, 5, 5], ["length"] * 3))
        self.assertEqual((len(one["ids"]), one["finish_reason"], one["id"]), (5, "length", None))
        self.assertEqual(self.succeed("batch", "-m", self.model, "-", "-q", stdin=b""), "")

    def test_memory_does_not_grow_with_the_input(self):
        def peak(lines):
            self.write([{"prompt": f"x{i}", "max_tokens": 1} if i % 50 == 0 else {"id": i} for i in range(lines)])
            process = self.start("-q", "--no-cache", "--restart")
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = status
            process.stdout.close()
            process.stderr.close()
            self.assertEqual(os.waitstatus_to_exitcode(status), 3)  # most lines have no prompt
            self.assert_one_record_per_line(lines)
            return usage.ru_maxrss
        few = peak(2000)
        self.assertLess(peak(50000), few + 4096)  # KiB

    def test_what_cannot_be(self):
        self.write(seeded(1))
        self.refuse("batch", "-m", self.model, says="no input")
        self.refuse("batch", "-m", self.model, "a", "b", says="more than one input")
        self.refuse("batch", "-m", self.model, "absent.jsonl", says="absent.jsonl: No such file")
        self.refuse("batch", "-m", self.model, self.folder, "-q", says="Is a directory")
        self.refuse("batch", "-m", self.model, self.input, "-o", self.input, says="is the input")
        self.refuse("batch", "-m", self.model, self.input, "-o", self.folder / "no" / "x", says="No such file")


class Resuming(Batches):
    def test_killed_at_any_moment_it_ends_with_one_record_per_line(self):
        requests = seeded(300, tokens=40)
        self.write(requests)
        self.batch("-q")
        whole = {r["line"]: (r["id"], r["text"], r["ids"]) for r in self.records()}
        self.output.unlink()
        moments = random.Random(11)
        kills = 0
        done = 0
        while done < 300:
            process = self.start("-q", *(["--ordered"] if kills % 4 == 3 else []))
            self.wait_for_records(process, done + moments.randint(1, 50))
            time.sleep(moments.random() * 0.02)
            process.kill()
            process.communicate()
            kills += 1
            text = self.output.read_bytes()
            done = text.count(b"\n")
            if kills % 2 == 0:  # and the disk kept only a part of the last line
                cut = moments.randint(1, 60)
                self.output.write_bytes(text[:-cut])
                done = text[:-cut].count(b"\n")
        self.assertGreater(kills, 3)
        self.batch()
        self.assert_one_record_per_line(300)
        self.assertEqual({r["line"]: (r["id"], r["text"], r["ids"]) for r in self.records()}, whole)

    def test_ctrl_c_writes_what_finished_and_the_next_start_does_the_rest(self):
        self.write(seeded(60, tokens=5) + [{"prompt": "long", "max_tokens": 4000, "ignore_eos": True}] * 20)
        process = self.start()
        self.wait_for_records(process, 20)
        process.send_signal(signal.SIGINT)
        _, figures = process.communicate(timeout=GIVES_UP_AFTER)
        self.assertEqual(process.returncode, 130, figures)
        self.assertRegex(figures.decode(), r"\[\d+ requests, 0 failed")
        self.assertTrue(self.output.read_bytes().endswith(b"\n"))
        before = self.records()
        self.assertLess(len(before), 80)
        self.write(seeded(60, tokens=5))  # the long ones are not begun again: that input was cut short
        self.batch()
        self.assertEqual(self.records()[:len(before)], before)
        self.assert_one_record_per_line(60)

    def test_another_input_is_refused_and_a_longer_one_is_gone_on_with(self):
        self.write(seeded(5))
        self.batch()
        before = self.output.read_bytes()
        self.write([{"prompt": "other"}, *seeded(5)[1:]])
        self.refuse(*self.arguments(), says="made from other lines than those of .*--restart")
        self.assertEqual(self.output.read_bytes(), before)
        self.write(seeded(8))
        figures = self.batch()
        self.assertIn("out.jsonl has 5 results already; going on with the others", figures)
        self.assertIn("[3 requests, 0 failed", figures)
        self.assert_one_record_per_line(8)
        self.assertIn("[8 requests, 0 failed", self.batch("--restart"))
        self.refuse("batch", "-m", self.model, "-", "-o", self.output, says="can't be gone through again",
                    stdin=self.input.read_bytes())
        self.output.write_text("notes\n")
        self.refuse(*self.arguments(), says="line 1 of .* is no record|no record of a batch")
        self.assertEqual(self.output.read_text(), "notes\n")

    def test_two_at_once_are_refused(self):
        self.write([{"prompt": "x", "max_tokens": 4000, "ignore_eos": True}] * 4 + seeded(3))
        process = self.start("-q")
        self.wait_for_records(process, 1)
        self.refuse(*self.arguments(), says="another process is writing to")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=GIVES_UP_AFTER)


if __name__ == "__main__":
    main()
