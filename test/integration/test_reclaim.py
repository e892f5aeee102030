"""A disk that is too small for what is put: it never takes more than it may, what is used stays, and nothing goes uncounted."""
import os
import threading
import time

import pytest

from harness import KIB, MIB, OK, wait_until

BLOCK = 64 * KIB


class Du(threading.Thread):
    """What `du` would say of a folder, again and again until the end: the most that was seen."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.most, self.looks, self.over = folder, 0, 0, threading.Event()

    def look(self):
        total = 0
        for entry in os.scandir(self.folder):
            try:
                total += entry.stat().st_blocks * 512
            except FileNotFoundError:
                pass
        return total

    def run(self):
        while not self.over.is_set():
            self.most = max(self.most, self.look())
            self.looks += 1
            time.sleep(0.002)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def objects_are_accounted_for(wire):
    """Every object that was put is there, or was counted when it went."""
    info = wire.info()
    figures = info["objects"]
    gone = figures["puts_replaced_total"] + figures["removed_total"] + sum(wire.dropped(info).values())
    return figures["puts_total"] == figures["objects"] + gone


@pytest.mark.parametrize("segment,disk", [("1m", 16 * MIB), ("4m", 16 * MIB), ("2m", 48 * MIB)])
def test_the_folder_never_takes_more_than_it_may(start, segment, disk):
    kvd = start(memory="16m", disk=f"{disk // MIB}m", segment_size=segment)
    wire = kvd.wire()
    with Du(kvd.folder()) as du:
        for number in range(3 * disk // BLOCK):
            wire.store(b"k-%d" % number, BLOCK)
        wire.sync()
        for number in range(disk // BLOCK):
            wire.store(b"k-%d" % (number * 2), BLOCK, replace=True)
        wire.sync()
    assert du.looks > 50
    assert du.most <= disk
    assert du.most > disk // 2, "the test saw nothing"
    assert wire.info("disk")["disk"]["reclaimed_segments_total"] > 3
    assert wire.info("disk")["disk"]["used_bytes"] <= disk


def test_what_is_read_again_outlives_what_is_not(start):
    disk = 64 * MIB
    kvd = start(memory="8m", disk="64m", segment_size="2m")
    wire = kvd.wire()
    hot = [b"hot-%d" % number for number in range(60)]
    for key in hot:
        wire.store(key, BLOCK)
        for number in range(12):
            wire.store(b"%s-%d" % (key, number), BLOCK)
    wire.sync()
    for number in range(4 * disk // BLOCK):
        wire.store(b"cold-%d" % number, BLOCK)
        if number % 50 == 0:
            wire.sync()
            for key in hot:
                assert wire.get(key).code == OK, f"{key} was dropped after {number} others"
    wire.sync()
    figures = wire.info("disk")["disk"]
    assert figures["rewritten_objects_total"] >= 50
    assert figures["rewritten_bytes_total"] <= 0.2 * (figures["written_bytes_total"] - figures["rewritten_bytes_total"]) + 2 * MIB
    assert figures["rewrite_failures_total"] == 0
    wait_until(lambda: objects_are_accounted_for(wire), "the sum of what went and what is there")
    assert 0 < wire.info("server")["server"]["longest_step_us"]
    kept = [key for key, there in zip(hot, wire.exists(hot)) if there]
    assert len(kept) >= 50
    kvd.restart()
    wire = kvd.wire()
    assert sum(wire.holds_or_misses(key, BLOCK) for key in kept) >= 45, "the end writes what is in memory, and may drop a few for it"


def test_without_a_budget_nothing_is_written_on(start):
    kvd = start(memory="8m", disk="16m", segment_size="1m", args=["--rewrite-share", "0"])
    wire = kvd.wire()
    for number in range(1000):
        wire.store(b"k-%d" % number, BLOCK)
        wire.get(b"k-%d" % (number // 2))
    wire.sync()
    assert wire.info("disk")["disk"]["rewritten_objects_total"] == 0
    assert wire.info("disk")["disk"]["reclaimed_segments_total"] > 10


def test_pins_survive_the_turnover_of_the_whole_disk(start):
    kvd = start(memory="8m", disk="32m", segment_size="1m")
    wire = kvd.wire()
    pinned = [b"pin-%d" % number for number in range(20)]
    for key in pinned:
        wire.store(key, BLOCK)
        for number in range(10):
            wire.store(b"between-%s-%d" % (key, number), BLOCK)
    wire.sync()
    wire.pin(*pinned)
    for number in range(2000):
        wire.store(b"cold-%d" % number, BLOCK)
    wire.sync()
    for key in pinned:
        wire.holds(key, BLOCK)


def test_a_file_that_was_given_up_stays_for_the_delay(start):
    kvd = start(memory="16m", disk="64m", segment_size="1m", args=["--unlink-delay", "1s"])
    wire = kvd.wire()
    for number in range(100):
        wire.store(b"k-%d" % number, BLOCK)
    wire.sync()
    before = set(kvd.segments())
    began = time.monotonic()
    wire.remove_all()
    assert before & set(kvd.segments())
    sealed = sorted(before)[:-1]
    wait_until(lambda: not set(sealed) & set(kvd.segments()), "the files go")
    assert time.monotonic() - began > 0.9


def test_the_table_keeps_to_its_bound_and_a_start_with_a_lower_one_does_too(start):
    kvd = start(memory="16m", disk="64m", segment_size="1m", args=["--index-memory", "4m"])
    wire = kvd.wire()
    for number in range(12000):
        wire.store(b"k-%d" % number, 100)
    wire.sync()
    assert wire.info("objects")["objects"]["table_bytes"] <= 4 * MIB
    assert wire.info("objects")["objects"]["objects"] == 12000
    kvd.stop()
    kvd.args = ["--index-memory", "1m"]
    kvd.start()
    wire = kvd.wire()
    wait_until(lambda: not wire.info("disk")["disk"]["state"] == "recovering", "what is there is known")
    assert wire.info("disk")["disk"]["recovered_beyond_index"] > 1000
    assert wire.exists([b"k-11999"]) != b"\0", "the newest are taken first"
    for number in range(6000):
        wire.store(b"new-%d" % number, 100)
        if number % 1000 == 0:
            assert wire.info("objects")["objects"]["table_bytes"] <= 1.02 * MIB
    for number in range(0, 12000, 50):
        wire.holds_or_misses(b"k-%d" % number, 100)
    assert wire.info("dropped")["dropped"]["reclaimed_total"] > 0
