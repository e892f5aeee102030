"""Small memory: what leaves it, in which order, what stays, and that nothing goes uncounted."""
import random

import pytest

from harness import GET, KIB, MIB, OK, value_of, wait_until


def keys_of(name, count):
    return [b"%s-%04d" % (name, i) for i in range(count)]


@pytest.fixture
def cache(start):
    """Memory alone: 64 MiB."""
    return start(memory="64m", args=["--persist", "none"]).wire()


@pytest.fixture
def tiers(start):
    """32 MiB of memory over a disk that has room."""
    return start(memory="32m", disk="1g").wire()


# ---- memory alone ----


def test_the_newest_stay_and_the_oldest_go(cache):
    keys = keys_of(b"k", 200)
    for key in keys:
        cache.store(key, MIB)
        assert cache.figure("memory_used") <= 64 * MIB
    present = cache.exists(keys)
    kept = sum(1 for byte in present if byte)
    assert 50 <= kept <= 64
    assert not any(present[:200 - kept]) and all(present[200 - kept:])
    for key in keys[200 - kept:]:
        cache.holds(key, MIB)


def test_every_object_that_is_dropped_is_counted(cache):
    keys = keys_of(b"k", 300)
    for key in keys:
        cache.store(key, MIB)
    wait_until(lambda: 300 == sum(1 for byte in cache.exists(keys) if byte) + sum(cache.dropped().values()), "the sum of dropped and kept")


def test_memory_is_kept_between_its_watermarks(cache):
    for key in keys_of(b"k", 200):
        cache.store(key, MIB)
    used = wait_until(lambda: cache.figure("memory_used") <= 0.975 * 64 * MIB and cache.figure("memory_used"), "the watermark")
    assert used >= 0.85 * 64 * MIB, "a cache that is asked to hold 64 MiB holds nearly that"


def test_a_get_is_a_use(cache):
    keys = keys_of(b"k", 50)
    for key in keys:
        cache.store(key, MIB)
    for key in keys[:10]:
        cache.holds(key, MIB)
    for key in keys_of(b"new", 40):
        cache.store(key, MIB)
    present = cache.exists(keys)
    assert all(present[:10]), "used lately"
    assert not any(present[10:30]), "used longest ago"


def test_exists_is_none(cache):
    keys = keys_of(b"k", 50)
    for key in keys:
        cache.store(key, MIB)
    for _ in range(5):
        cache.exists(keys[:10])
    for key in keys_of(b"new", 40):
        cache.store(key, MIB)
    assert not any(cache.exists(keys[:10]))


def test_a_match_with_a_lease_is_a_use(cache):
    keys = keys_of(b"k", 50)
    for key in keys:
        cache.store(key, MIB)
    cache.release(cache.match(keys[:10], lease_ms=1000)["lease"])
    for key in keys_of(b"new", 40):
        cache.store(key, MIB)
    present = cache.exists(keys)
    assert all(present[:10]) and not any(present[10:30])


def test_of_a_batch_the_prefix_outlives_the_tail(cache):
    keys = keys_of(b"batch", 40)
    for key in keys:
        cache.store(key, MIB)
    cache.mget(keys)
    for number in range(60):
        cache.store(b"new-%d" % number, MIB)
        present = cache.exists(keys)
        kept = sum(1 for byte in present if byte)
        assert all(present[:kept]) and not any(present[kept:]), "what is left of a batch is its beginning"
    assert kept < 40


def test_pinned_objects_stay(cache):
    keys = keys_of(b"pinned", 20)
    for key in keys[:10]:
        cache.store(key, MIB, pin=True)
    for key in keys[10:]:
        cache.store(key, MIB)
    assert cache.pin(*keys[10:]) == 10
    for key in keys_of(b"new", 150):
        cache.store(key, MIB)
    assert all(cache.exists(keys))
    assert cache.pin(*keys, pinned=False) == 20
    for key in keys_of(b"newer", 150):
        cache.store(key, MIB)
    assert not any(cache.exists(keys))


@pytest.mark.parametrize("seed", range(3))
def test_sizes_that_mix_do_not_use_the_pool_up(cache, seed):
    rng = random.Random(seed)
    sizes = {}
    for number in range(400):
        size = int(2 ** rng.uniform(12, 23.5))
        key = b"mixed-%d" % number
        cache.store(key, size)
        sizes[key] = size
        if rng.random() < 0.2:
            cache.remove(rng.choice(list(sizes)))
        if number % 40 == 39:
            for probe in rng.sample(list(sizes), 20):
                cache.holds_or_misses(probe, sizes[probe])
    held = sum(item["size"] for item in cache.scan())
    assert held > 0.5 * 64 * MIB, "and the room is used"


def test_small_objects_by_the_thousand(cache):
    keys = keys_of(b"small", 4000)
    for key in keys:
        cache.store(key, 100)
    assert all(cache.exists(keys))
    assert cache.figure("memory_objects") == 4000
    for key in keys[::97]:
        cache.holds(key, 100)


def test_removed_room_is_room(cache):
    for turn in range(6):
        keys = keys_of(b"turn-%d" % turn, 50)
        for key in keys:
            cache.store(key, MIB)
        assert cache.remove_all() == 50
        assert sum(cache.dropped().values()) == 0
    wait_until(lambda: cache.figure("memory_used") == 0, "all the room to be free")


# ---- two tiers ----


def test_what_leaves_memory_is_served_from_disk_and_comes_back(tiers):
    keys = keys_of(b"k", 100)
    for key in keys:
        tiers.store(key, MIB)
    assert all(tiers.exists(keys)), "nothing is lost"
    tiers.sync()
    present = tiers.exists(keys)
    assert all(byte & 2 for byte in present) and present[0] == 2
    first = tiers.holds(keys[0], MIB)
    assert first.meta["tier"] == "disk"
    assert tiers.exists([keys[0]]) == b"\3", "promoted"
    assert tiers.holds(keys[0], MIB).meta["tier"] == "memory"
    assert sum(tiers.dropped().values()) == 0


def test_everything_comes_back_right_whatever_the_order(tiers):
    rng = random.Random(3)
    sizes = {b"r-%d" % i: int(2 ** rng.uniform(8, 22)) for i in range(150)}
    for key, size in sizes.items():
        tiers.store(key, size)
    for _ in range(400):
        key = rng.choice(list(sizes))
        tiers.holds(key, sizes[key])
    assert sum(tiers.dropped().values()) == 0
    assert tiers.figure("evicted") > 0


def test_an_mget_over_both_tiers(tiers):
    keys = keys_of(b"k", 60)
    for key in keys:
        tiers.store(key, MIB)
    tiers.sync()
    found, last = tiers.mget(keys)
    assert last.meta["hits"] == 60
    assert {reply.meta["tier"] for reply in found.values()} == {"memory", "disk"}
    for index, key in enumerate(keys):
        tiers.judge(key, MIB, found[index])


def test_match_tells_memory_from_disk(tiers):
    keys = keys_of(b"k", 60)
    for key in keys:
        tiers.store(key, MIB)
    tiers.sync()
    got = tiers.match(keys)
    assert got["count"] == 60 and 0 < got["memory"] < 40
    assert got["memory"] == sum(1 for byte in tiers.exists(keys) if byte & 1)


def test_match_warm_reads_the_rest_into_memory(tiers):
    keys = keys_of(b"k", 60)
    for key in keys:
        tiers.store(key, MIB)
    tiers.sync()
    assert tiers.match(keys[:8])["memory"] == 0
    assert tiers.match(keys[:8], warm=True)["count"] == 8
    wait_until(lambda: tiers.match(keys[:8], warm=True)["memory"] == 8, "the blocks to be in memory")


def test_a_range_from_disk(tiers):
    size = 4 * MIB + 777
    tiers.store(b"ranged", size)
    for key in keys_of(b"fill", 50):
        tiers.store(key, MIB)
    tiers.sync()
    whole = value_of(b"ranged", size)
    for offset, length in ((0, 1), (256 * KIB - 1, 2), (MIB, MIB), (size - 10, 100), (size, 5), (123_457, 1_000_003)):
        for key in keys_of(b"fill", 50):
            tiers.get(key, length=0)
        for key in keys_of(b"push", 40):
            tiers.put(key, bytes(MIB), replace=True)
        got = tiers.get(b"ranged", offset=offset, length=length)
        assert got.code == OK and got.body == whole[offset:offset + length] and got.meta["size"] == size


def test_gets_of_one_object_while_it_is_read_share_the_read(tiers):
    for key in keys_of(b"k", 60):
        tiers.store(key, MIB)
    tiers.sync()
    before = tiers.file_counters()["reads_total"]
    ids = [tiers.send(GET, {"key": b"k-0000"}) for _ in range(20)]
    for ident in ids:
        tiers.judge(b"k-0000", MIB, tiers.reply(ident))
    assert tiers.file_counters()["reads_total"] - before <= 6


def test_scan_shows_where_things_are(tiers):
    keys = keys_of(b"k", 60)
    for key in keys:
        tiers.store(key, MIB)
    tiers.sync()
    objects = {item["key"]: item for item in tiers.scan()}
    assert set(objects) == set(keys)
    present = tiers.exists(keys)
    for key, byte in zip(keys, present):
        assert objects[key]["disk"] is bool(byte & 2)
        assert objects[key]["memory"] is bool(byte & 1)
