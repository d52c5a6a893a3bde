#!/usr/bin/env python3
"""Outrider beside llama.cpp's server: the same GGUF, the same threads, in alternation, and the ratios.

    LLAMA_SERVER=path TARGET=x.gguf [DRAFT=y.gguf] just peer [--only theirs] [--agreement]

Runs alternate and the first round is dropped, so that a machine whose speed drifts moves both. Only one side computes
at a time; that the other one's idle server does not spin is checked. Settings are flags or the environment: THREADS,
ROUNDS, SECONDS (for each table), LLAMA_ARGS (more flags for llama-server, `--no-repack` say).
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import random
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

PROMPTS = [
    "def fibonacci(n):\n",
    "# Returns the longest common prefix of a list of strings.\ndef longest_common_prefix(strings):\n",
    "class LRUCache:\n    def __init__(self, capacity):\n",
    "def quicksort(values):\n    \"\"\"Sorts a list in place.\"\"\"\n",
    "fn binary_search(values: &[i64], wanted: i64) -> Option<usize> {\n",
    "/// A queue of bounded length.\npub struct Bounded<T> {\n    items: VecDeque<T>,\n",
    "impl Iterator for Primes {\n    type Item = u64;\n\n    fn next(&mut self) -> Option<u64> {\n",
    "#include <stdio.h>\n\n// Counts the words of a file.\nint main(int argc, char **argv) {\n",
    "static int hash_insert(struct table *t, const char *key, int value) {\n",
    "package main\n\nimport \"net/http\"\n\n// A server that answers each request with its own headers.\nfunc main() {\n",
    "function debounce(callback, milliseconds) {\n",
    "// Fetches all pages of a paginated API.\nasync function fetchAll(url) {\n",
    "SELECT department, AVG(salary) AS average\nFROM employees\n",
    "CREATE TABLE orders (\n    id INTEGER PRIMARY KEY,\n",
    "import unittest\n\nclass TestStack(unittest.TestCase):\n    def test_push_then_pop(self):\n",
    "public class Matrix {\n    private final double[][] values;\n\n    public Matrix multiply(Matrix other) {\n",
    "<!DOCTYPE html>\n<html>\n<head>\n  <title>A calculator</title>\n",
    "#!/bin/bash\n# Backs up a folder and keeps the last seven copies.\nset -e\n",
    "import numpy as np\n\ndef gradient_descent(f, gradient, start, rate=0.01, steps=1000):\n",
    "The difference between a process and a thread is",
    "To make bread at home, you first need to",
    "In the year 1969, the first people landed on the Moon.",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "The three most common causes of slow database queries are:\n\n1.",
]

# Code that a 512-token prompt is cut from: varied enough that no token repeats for long.
LONG = "".join(f"{p}    # part {i}: see also section {i * 7 % 11}, table {i * 13 % 17}\n\n" for i, p in enumerate(PROMPTS * 2))


class Failed(Exception):
    """What ends the script, said in one line."""


def post(url, body, timeout=600):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(command, ready, env=None):
    """Starts a server and waits until it is ready; stops it at the end."""
    log = open(os.devnull, "w") if not os.environ.get("PEER_LOG") else open(os.environ["PEER_LOG"], "a")
    child = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        deadline = time.monotonic() + 300
        while not ready():
            if child.poll() is not None:
                raise Failed(f"ended with status {child.returncode}: {shlex.join(map(str, command))} (PEER_LOG=FILE keeps its log)")
            if time.monotonic() > deadline:
                raise Failed(f"not ready after 300 s: {shlex.join(map(str, command))}")
            time.sleep(0.1)
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        child.kill()
        child.wait()
        log.close()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check_idle(name, pid):
    """An idle server that spins would take its peer's cores."""
    time.sleep(0.5)
    before = cpu_seconds(pid)
    time.sleep(2)
    share = (cpu_seconds(pid) - before) / 2
    print(f"idle {name}: {100 * share:.1f}% of a core")
    if share > 0.05:
        raise Failed(f"{name} spins while it is idle ({100 * share:.0f}% of a core): the ratios would be wrong")


class Theirs:
    """A llama-server, with a draft or without."""

    def __init__(self, stack, options, model, gamma=0):
        server, port = pathlib.Path(options.llama_server), free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [server, "-m", model, "-t", options.threads, "-ngl", 0, "--device", "none", "-c", 4096, "-np", 1]
        command += ["--host", "127.0.0.1", "--port", port]
        if gamma:
            # Without --spec-type a draft is loaded and not used.
            command += ["-md", options.draft, "--spec-type", "draft-simple", "--spec-draft-n-max", gamma]
            command += ["-ngld", 0, "--spec-draft-device", "none"]
        command = [str(part) for part in command + shlex.split(options.llama_args)]
        env = dict(os.environ, LD_LIBRARY_PATH=str(server.resolve().parent))
        self.pid = stack.enter_context(process(command, self.ready, env)).pid

    def ready(self):
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def tokens(self, text):
        return post(self.url + "/tokenize", {"content": text, "add_special": True})["tokens"]

    def text(self, tokens):
        return post(self.url + "/detokenize", {"tokens": tokens})["content"]

    def complete(self, prompt, tokens, ignore_eos=True, n_probs=0):
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": False}
        body |= {"ignore_eos": ignore_eos, "n_probs": n_probs, "return_tokens": True}
        return post(self.url + "/completion", body)

    def decode(self, prompt, tokens):
        """Tokens/s after the first one, which the prefill brings; llama-server's own figure counts it too."""
        timings = self.complete(prompt, tokens)["timings"]
        return (timings["predicted_n"] - 1) / timings["predicted_ms"] * 1e3, timings

    def prefill(self, prompt):
        timings = self.complete(prompt, 1)["timings"]
        return timings["prompt_n"] / timings["prompt_ms"] * 1e3


class Ours:
    """A target-svc, and the command line on it."""

    def __init__(self, stack, options, model):
        port = free_port()
        self.outrider, self.url = options.bin / "outrider", f"http://127.0.0.1:{port}"
        command = [options.bin / "target-svc", "--model", model, "--listen", f"127.0.0.1:{port}"]
        command = [str(part) for part in command + ["--threads", options.threads]]
        self.pid = stack.enter_context(process(command, self.ready)).pid

    def ready(self):
        return subprocess.run([self.outrider, "describe", self.url], capture_output=True).returncode == 0

    def generate(self, prompt, tokens):
        command = ["generate", "--ar", "--target", self.url, "--temperature", "0", "--max-tokens", str(tokens), "--json"]
        return outrider(self.outrider, [*command, "--", prompt])

    def decode(self, prompt, tokens):
        report = self.generate(prompt, tokens)
        if report["tokens_emitted"] < tokens / 2:
            raise Failed(f"ours ended after {report['tokens_emitted']} of {tokens} tokens: choose another prompt")
        return report["output_tokens_per_sec"], report

    def prefill(self, prompt):
        report = self.generate(prompt, 1)
        return report["prefill_ctx"] / report["warm_time_s"]


def outrider(binary, arguments):
    run = subprocess.run([binary, *arguments], capture_output=True, text=True)
    if run.returncode:
        raise Failed(f"outrider {arguments[0]} failed: {run.stderr.strip()}")
    return json.loads(run.stdout)


def interval(values):
    """Median, and its 95% interval by order statistics; from fewer than six values their range."""
    values, n = sorted(values), len(values)
    tail, below = 0, 0.0
    while tail < n // 2 and below + math.comb(n, tail) / 2**n <= 0.025:
        below += math.comb(n, tail) / 2**n
        tail += 1
    rank = max(tail - 1, 0)
    return statistics.median(values), values[rank], values[n - 1 - rank]


def shown(values):
    median, low, high = interval(values)
    return f"{median:8.3f} [{low:.3f}, {high:.3f}]"


def rounds(options, *sides):
    """Values of each side, in alternation; the first round is dropped, and the order turns with each."""
    deadline, values = time.monotonic() + options.seconds, [[] for _ in sides]
    for number in range(options.rounds + 1):
        if number > 3 and time.monotonic() > deadline:
            break
        order = range(len(sides)) if number % 2 else reversed(range(len(sides)))
        for side in order:
            value = sides[side](number)
            if number:
                values[side].append(value)
    return values


def table(title, names, values):
    """Rates of each side, and ours / theirs round by round."""
    print(f"\n{title}: {len(values[0])} rounds, median [95% interval]")
    for name, side in zip(names, values):
        print(f"  {name:<22}{shown(side)}")
    if len(values) == 2:
        print(f"  {'ours / theirs':<22}{shown([ours / theirs for ours, theirs in zip(*values)])}")


def prompt_of(theirs, length):
    """A text of `length` tokens, or next to it: cut text may be tokenised anew."""
    return theirs.text(theirs.tokens(LONG)[:length]) if theirs else LONG[: 3 * length]


def decode_and_prefill(options, model):
    with contextlib.ExitStack() as stack:
        sides = {}
        if options.only != "theirs":
            sides["ours"] = Ours(stack, options, model)
        if options.only != "ours":
            sides["theirs"] = Theirs(stack, options, model)
        for name, side in sides.items():
            check_idle(name, side.pid)
        prompts = PROMPTS[:4]
        decoders = [lambda n, s=s: s.decode(prompts[n % 4], options.tokens)[0] for s in sides.values()]
        table(f"AR decode of {options.tokens}, tokens/s, {model}", sides, rounds(options, *decoders))
        prompt = prompt_of(sides.get("theirs"), 512)
        prefills = [lambda _, s=s: s.prefill(prompt) for s in sides.values()]
        table(f"prefill of 512, tokens/s, {model}", sides, rounds(options, *prefills))


def speculation(options):
    """Each side against its own AR; ours in one process, as theirs is."""
    with contextlib.ExitStack() as stack:
        servers, ours, theirs = {}, {}, {}
        if options.only != "ours":
            servers = {gamma: Theirs(stack, options, options.target, gamma) for gamma in [0, *options.gamma]}
            for gamma, server in servers.items():
                check_idle(f"theirs, n-max {gamma}", server.pid)
        deadline = time.monotonic() + 2 * options.seconds
        for number, prompt in enumerate(PROMPTS[: options.prompts]):
            if number and time.monotonic() > deadline:
                break
            if options.only != "theirs":
                bench_ours(options, prompt, ours)
            if servers:
                bench_theirs(options, prompt, servers, theirs, warm_up=not number)
    for gamma in options.gamma:
        print(f"\nspeculation, {gamma} proposed, over the same side's AR on the same prompts: median [95% interval]")
        for name, side in (("ours", ours), ("theirs", theirs)):
            if gamma in side:
                speedups, rates, acceptance = zip(*side[gamma])
                print(f"  {name:<8}{shown(speedups)}   {statistics.median(rates):.2f} tokens/s, accepted {statistics.mean(acceptance):.1%}")
        if ours.get(gamma) and theirs.get(gamma):
            median, low, high = bootstrap([rate for _, rate, _ in ours[gamma]], [rate for _, rate, _ in theirs[gamma]])
            print(f"  ours / theirs, tokens/s: {median:.3f} [{low:.3f}, {high:.3f}] (medians' ratio, bootstrap)")


def bench_ours(options, prompt, into):
    arguments = ["bench", "--draft-model", options.draft, "--target-model", options.target, "--threads", str(options.threads)]
    arguments += ["--gamma", ",".join(map(str, options.gamma)), "--pairs", str(options.pairs), "--temperature", "0"]
    arguments += ["--max-tokens", str(options.tokens), "--json", "--", prompt]
    outcome = outrider(options.bin / "outrider", arguments)
    for ar, speculative in zip(outcome["runs"][::2], outcome["runs"][1::2]):
        rate = speculative["output_tokens_per_sec"]
        kept = (rate / ar["output_tokens_per_sec"], rate, speculative["acceptance_rate"] or 0.0)
        into.setdefault(speculative["gamma"], []).append(kept)


def bench_theirs(options, prompt, servers, into, warm_up):
    for gamma in options.gamma:
        for pair in range(options.pairs + warm_up):
            ar, _ = servers[0].decode(prompt, options.tokens)
            rate, timings = servers[gamma].decode(prompt, options.tokens)
            if pair >= warm_up:
                accepted = timings.get("draft_n_accepted", 0) / max(timings.get("draft_n", 0), 1)
                into.setdefault(gamma, []).append((rate / ar, rate, accepted))


def bootstrap(ours, theirs, draws=2000):
    chance = random.Random(0)
    drawn = lambda values: statistics.median(chance.choices(values, k=len(values)))
    ratios = sorted(drawn(ours) / drawn(theirs) for _ in range(draws))
    return statistics.median(ours) / statistics.median(theirs), ratios[draws // 40], ratios[-draws // 40]


def agreement(options):
    """Greedy continuations of both; where they part, how close llama.cpp's own choice was there."""
    with contextlib.ExitStack() as stack:
        theirs = Theirs(stack, options, options.target)
        ours = Ours(stack, options, options.target) if options.only is None else None
        whole, gaps = 0, []
        print(f"\nagreement of greedy continuations, {len(PROMPTS)} prompts × {options.agreement_tokens} tokens")
        for prompt in PROMPTS:
            answer = theirs.complete(prompt, options.agreement_tokens, ignore_eos=False, n_probs=2)
            # The other side: ours, or theirs again, which tests the comparison and their own repeatability.
            if ours:
                tokens = ours.generate(prompt, options.agreement_tokens)["token_ids"]
            else:
                tokens = theirs.complete(prompt, options.agreement_tokens, ignore_eos=False)["tokens"]
            at, gap = parting(tokens, answer)
            whole += at is None
            gaps += [gap] if gap is not None else []
            parted = "agree" if at is None else f"part at token {at}" + (f", top-2 gap {gap:.4f}" if gap is not None else "")
            print(f"  {json.dumps(prompt[:40]):<46} {parted}")
        print(f"  {whole} of {len(PROMPTS)} agree" + (f"; largest gap where they part {max(gaps):.4f}" if gaps else ""))


def parting(tokens, answer):
    """The first token that differs and the gap of the two likeliest log-probabilities there. One side may list the
    end-of-sequence token and the other not."""
    theirs, probabilities = answer["tokens"], answer["completion_probabilities"]
    for at, (ours, other) in enumerate(zip(tokens, theirs)):
        if ours != other:
            first, second = (choice["logprob"] for choice in probabilities[at]["top_logprobs"][:2])
            return at, first - second
    return (None, None) if abs(len(tokens) - len(theirs)) <= 1 else (min(len(tokens), len(theirs)), None)


def options_of(arguments):
    env, parser = os.environ.get, argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", default=env("LLAMA_SERVER"), help="llama.cpp's llama-server")
    parser.add_argument("--llama-args", default=env("LLAMA_ARGS", ""), help="more flags for it")
    parser.add_argument("--target", default=env("TARGET"), help="a GGUF file")
    parser.add_argument("--draft", default=env("DRAFT"), help="a GGUF file; without it nothing speculates")
    parser.add_argument("--threads", type=int, default=int(env("THREADS", "2")))
    parser.add_argument("--rounds", type=int, default=int(env("ROUNDS", "15")), help="counted rounds of decode and of prefill")
    parser.add_argument("--seconds", type=float, default=float(env("SECONDS", "150")), help="cap for each table, three rounds at least; twice that for speculation")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each run")
    parser.add_argument("--gamma", type=lambda text: [int(part) for part in text.split(",")], default=[2, 4], help="proposed tokens, for example 2,4")
    parser.add_argument("--prompts", type=int, default=8, help="prompts for speculation")
    parser.add_argument("--pairs", type=int, default=2, help="pairs of AR and speculative runs for each prompt")
    parser.add_argument("--agreement", action="store_true", help="compare the tokens instead of the speed")
    parser.add_argument("--agreement-tokens", type=int, default=128)
    parser.add_argument("--only", choices=["ours", "theirs"])
    target = pathlib.Path(env("CARGO_TARGET_DIR", pathlib.Path(__file__).resolve().parent.parent / "target"))
    parser.add_argument("--bin", type=pathlib.Path, default=target / "release", help="folder of Outrider's binaries")
    options = parser.parse_args(arguments)
    if not options.target or (options.only != "ours" and not options.llama_server):
        parser.error("TARGET and LLAMA_SERVER are needed (or --target, --llama-server)")
    if options.agreement and options.only == "ours":
        parser.error("--agreement needs llama-server")
    return options


def main():
    options = options_of(sys.argv[1:])
    try:
        if options.agreement:
            agreement(options)
            return
        decode_and_prefill(options, options.target)
        if options.draft:
            decode_and_prefill(options, options.draft)
            speculation(options)
    except (Failed, urllib.error.URLError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
