#!/usr/bin/env python3
"""Emulated distance beside a real one: the same sweep through the transport's own waiting and through a proxy of its own
between two network namespaces.

    cargo build --release --bins && sudo tests/distance.py [--rtts 0.9,1.8,3.6] [--rounds 5]

The draft lives in a namespace of its own, behind a veth pair and tests/delay_proxy.py; processor 1 is the draft's and the
proxy's, processor 0 the target's and the coordinator's. Needs root, ip(8) and two processors. Ends with status 1 where a median
rate of one way is more than 10% from the other's.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BIN = ROOT / "target" / "release"
HERE, THERE = "10.111.7.1", "10.111.7.2"


def run(*command):
    subprocess.run(command, check=True)


@contextlib.contextmanager
def namespace(name):
    link = f"v{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", f"{link}a", "type", "veth", "peer", "name", f"{link}b", "netns", name)
        run("ip", "address", "add", f"{HERE}/24", "dev", f"{link}a")
        run("ip", "link", "set", f"{link}a", "up")
        for command in (f"address add {THERE}/24 dev {link}b", f"link set {link}b up", "link set lo up"):
            run("ip", "-n", name, *command.split())
        yield ["ip", "netns", "exec", name]
    finally:
        # The veth pair goes with it.
        run("ip", "netns", "delete", name)


@contextlib.contextmanager
def process(*command):
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.terminate()
        child.wait()


def healthy(url):
    for _ in range(300):
        if subprocess.run([BIN / "outrider", "health", url], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    sys.exit(f"{url} does not become ready")


def bench(draft, target, flags):
    command = ["taskset", "-c", "0", BIN / "outrider", "bench", "--draft", draft, "--target", target, "--json", *flags]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rtts", default="0.9,1.8,3.6", help="in ms")
    parser.add_argument("--rounds", type=int, default=5, help="of each way and distance, in alternation")
    parser.add_argument("--gammas", default="4,8")
    arguments = parser.parse_args()
    rtts = [float(rtt) for rtt in arguments.rtts.split(",")]

    with contextlib.ExitStack() as stack:
        inside = stack.enter_context(namespace(f"outrider{os.getpid()}"))
        pinned = ["taskset", "-c", "1"]
        stack.enter_context(process(*inside, *pinned, BIN / "draft-svc", "--threads", "1", "--listen", f"{THERE}:7101"))
        target = f"http://{HERE}:7102"
        stack.enter_context(process("taskset", "-c", "0", BIN / "target-svc", "--threads", "1", "--listen", f"{HERE}:7102"))
        proxied = {}
        for at, rtt in enumerate(rtts):
            listen = f"{THERE}:{7200 + at}"
            script = str(ROOT / "tests" / "delay_proxy.py")
            stack.enter_context(process(*inside, *pinned, sys.executable, script, listen, f"{THERE}:7101", str(rtt)))
            proxied[rtt] = f"http://{listen}"
        for url in (f"http://{THERE}:7101", target, *proxied.values()):
            healthy(url)

        rates, networks = {}, {}
        for _ in range(arguments.rounds):
            for rtt in rtts:
                ways = {"emulated": (f"http://{THERE}:7101", ["--emulate-rtt", f"draft={rtt}ms"]), "proxy": (proxied[rtt], [])}
                for way, (draft, flags) in ways.items():
                    report = bench(draft, target, ["--gamma", arguments.gammas, "--pairs", "3", *flags])
                    for run_ in report["runs"]:
                        if run_["mode"] == "speculative":
                            key = (rtt, run_["gamma"], way)
                            rates.setdefault(key, []).append(run_["output_tokens_per_sec"])
                            networks.setdefault(key, []).append(run_["cycle"]["median"]["draft_network_s"])

    print("rtt_ms gamma  emulated: tokens/s, network_ms   proxy: tokens/s, network_ms   proxy / emulated")
    apart = 0
    for rtt in rtts:
        for gamma in sorted({key[1] for key in rates}):
            (one, one_ms), (other, other_ms) = (
                (statistics.median(rates[rtt, gamma, way]), 1e3 * statistics.median(networks[rtt, gamma, way]))
                for way in ("emulated", "proxy")
            )
            print(f"{rtt:6} {gamma:5}  {one:18.0f} {one_ms:11.2f} {other:18.0f} {other_ms:12.2f} {other / one:17.3f}")
            apart += abs(other / one - 1) > 0.1
    sys.exit(1 if apart else 0)


if __name__ == "__main__":
    main()
