#!/usr/bin/env python3
"""Test vectors of the choice, made from DESIGN.md section 3 alone: `python3 make.py > choices.txt`.

Independent of the crate: logarithms and exponentials come from `decimal` with 60 digits and are rounded to f64 once,
every token is sorted and every token's noise is computed. Standard library only.

Lines of the output (numbers in hex are bits):
  gumbel SEED POSITION TOKEN G_F64_HEX
  choice TEMPERATURE TOP_K TOP_P MIN_P SEED POSITION TOKENIZER_SIZE CHOICE LOGIT_F32_HEX...
"""

import random
import struct
from decimal import Decimal, getcontext
from functools import lru_cache

getcontext().prec = 60
WORD = 0xFFFFFFFF


def philox(counter, key):
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & WORD, (a >> 32) ^ c3 ^ k1, a & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)


def draw(seed, position, token):
    counter = (position & WORD, position >> 32, token, 0)
    w0, w1, _, _ = philox(counter, (seed & WORD, seed >> 32))
    return (w0 | w1 << 32) >> 12


@lru_cache(maxsize=None)
def gumbel(seed, position, token):
    u = Decimal(2 * draw(seed, position, token) + 1) / Decimal(2**53)
    return float(-(-u.ln()).ln())


def ln(x):
    return float(Decimal(x).ln())


def exp(x):
    return float(Decimal(x).exp())


def choose(logits, tokenizer_size, temperature, top_k, top_p, min_p, seed, position):
    row = list(enumerate(logits))[:tokenizer_size]
    if temperature == 0:
        return max(row, key=lambda t: (t[1], -t[0]))[0]
    kept = sorted(((t, x / temperature) for t, x in row), key=lambda t: (-t[1], t[0]))
    if top_k:
        kept = kept[:top_k]
    top = kept[0][1]
    if top_p < 1:
        weights = [exp(z - top) for _, z in kept]
        total = 0.0
        for w in weights:
            total += w
        running = 0.0
        for size, w in enumerate(weights, 1):
            running += w
            if running >= top_p * total:
                break
        kept = kept[:size]
    if min_p > 0:
        kept = [(t, z) for t, z in kept if z >= top + ln(min_p)]
    return max(kept, key=lambda t: (t[1] + gumbel(seed, position, t[0]), -t[0]))[0]


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bits32(x):
    return struct.pack(">f", x).hex()


def bits64(x):
    return struct.pack(">d", x).hex()


def main():
    print("# Made by make.py, which describes the lines.")
    dice = random.Random(20240807)
    words = [0, 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**64 - 1]
    triples = [(s, p, t) for s in words for p in words for t in (0, 1, 127, 151935, 2**32 - 1)]
    triples += [(dice.getrandbits(64), dice.getrandbits(20), dice.getrandbits(17)) for _ in range(150)]
    # The least and the greatest of many draws: there the last bit of u shows most.
    by_size = sorted(range(50_000), key=lambda token: draw(3, 5, token))
    triples += [(3, 5, token) for token in by_size[:10] + by_size[-10:]]
    for seed, position, token in triples:
        print("gumbel", seed, position, token, bits64(gumbel(seed, position, token)))
    for _ in range(300):
        size = dice.choice([1, 2, 5, 24, 48])
        spread = dice.choice([0.5, 2.0, 6.0])
        # Coarse rows have equal logits in plenty.
        grain = dice.choice([None, None, 1.0, 0.5])
        logits = [dice.gauss(0, spread) for _ in range(size)]
        logits = [f32(round(x / grain) * grain if grain else x) for x in logits]
        args = (
            dice.choice([size, size, max(1, size - 3)]),
            dice.choice([0.0, 0.3, 0.8, 0.8, 1.0, 1.0, 1.7, 100.0]),
            dice.choice([0, 0, 1, 2, 7, 40]),
            dice.choice([1.0, 1.0, 0.95, 0.9, 0.5, 0.01]),
            dice.choice([0.0, 0.0, 0.05, 0.3, 1.0]),
            dice.choice([0, 42, dice.getrandbits(64)]),
            dice.choice([0, 7, dice.getrandbits(12), 2**32 + dice.getrandbits(12)]),
        )
        tokenizer_size, temperature, top_k, top_p, min_p, seed, position = args
        choice = choose(logits, *args)
        numbers = [temperature, top_k, top_p, min_p, seed, position, tokenizer_size, choice]
        print("choice", *numbers, *map(bits32, logits))


if __name__ == "__main__":
    main()
