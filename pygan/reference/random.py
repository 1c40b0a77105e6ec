"""Counter-based random numbers: Philox 4x32-10, the same stream on every device.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The state is
uint64 (2,): {seed, counter}. Block number c = counter + i // 4 encrypts the four words
(c low, c high, 0, 0) under the key (seed low, seed high); element i takes word i % 4.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Encrypt counters (..., 4) uint32 under two 32-bit key words: (..., 4) uint32."""
    word = [counter[..., k].astype(np.uint64) for k in range(4)]
    key_low, key_high = key
    for _ in range(ROUNDS):
        # 32 x 32 -> 64 bit products; uint64 holds them exactly.
        product_a = word[0] * MULTIPLIERS[0]
        product_b = word[2] * MULTIPLIERS[1]
        word = [
            (product_b >> HALF) ^ word[1] ^ np.uint64(key_low),
            product_b & LOW,
            (product_a >> HALF) ^ word[3] ^ np.uint64(key_high),
            product_a & LOW,
        ]
        key_low = (key_low + KEY_STEPS[0]) & 0xFFFFFFFF
        key_high = (key_high + KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([w.astype(np.uint32) for w in word], axis=-1)


def draw_words(state: np.ndarray, n: int) -> np.ndarray:
    """The next ceil(n / 4) blocks, (blocks, 4) uint32; the counter moves past them."""
    check_state(state)
    blocks = -(-n // 4)
    seed = int(state[0])
    position = state[1] + np.arange(blocks, dtype=np.uint64)
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0] = position & LOW
    counter[:, 1] = position >> HALF
    state[1] = (int(state[1]) + blocks) & 0xFFFFFFFFFFFFFFFF
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32))


def draw_uniform(state: np.ndarray, n: int) -> np.ndarray:
    """n float32 numbers in [0, 1): the top 24 bits of each word times 2^-24 (exact)."""
    return _unit(draw_words(state, n)).reshape(-1)[:n]


def random_uniform(
    state: np.ndarray, out: np.ndarray, *, low: float = 0.0, high: float = 1.0
) -> None:
    """out = low + (high - low) u, u uniform in [0, 1); any shape, filled in row-major order.

    state, uint64 (2,), moves on by ceil(out.size / 4) blocks.
    """
    u = draw_uniform(state, out.size)
    u *= np.float32(high - low)
    u += np.float32(low)
    out[...] = u.reshape(out.shape)


def random_normal(
    state: np.ndarray, out: np.ndarray, *, mean: float = 0.0, std: float = 1.0
) -> None:
    """out = mean + std z, z standard normal by Box and Muller (1958); any shape.

    Words 0 and 1 of a block give r cos(a) and r sin(a), words 2 and 3 likewise, where
    r = sqrt(-2 log u1), u1 = ((w >> 8) + 1) 2^-24 in (0, 1], a = 2 pi (w' >> 8) 2^-24.
    state, uint64 (2,), moves on by ceil(out.size / 4) blocks.
    """
    words = draw_words(state, out.size).reshape(-1, 2)
    radius = np.sqrt(-2 * np.log(_unit(words[:, 0]) + np.float32(2**-24)))
    angle = np.float32(2 * np.pi) * _unit(words[:, 1])
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    pairs *= np.float32(std)
    pairs += np.float32(mean)
    out[...] = pairs.reshape(-1)[: out.size].reshape(out.shape)


def check_state(state: np.ndarray) -> None:
    if state.shape != (2,) or state.dtype != np.uint64:
        raise ValueError(
            f"random state has shape {state.shape} and dtype {state.dtype}; "
            "it must be (2,) uint64: seed, counter"
        )


def _unit(words: np.ndarray) -> np.ndarray:
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
