"""What many clients were told at once, and whether it can be true: P1, P3, P4 and P5 of docs/architecture.md, and what leases hold.

Every value that is put is another one, so that what is read says which put wrote it. Calls are recorded with the moment at which each
began and ended; what was not answered may take effect at any later time. A cache may forget: a miss alone is no fault, but where
something must be there.

Each key by itself, linear in its calls: a value was there from `f`, the first moment at which a call that wrote or saw it had ended, to
`s`, the last at which one began. Where f < s that is a forward zone; otherwise it could all have been at one moment of the backward zone
[s, f], as an answered remove was at one moment of its call. Two forward zones that overlap, or a backward zone within a forward one,
cannot be: something stale was read, or something dead.
"""
import bisect
import collections
import math
import random
import struct
import threading
import time

POOL_BYTES = 15_999_989  # a prime: no two values begin at one place of the pool
HEAD = struct.Struct("<QQQ")
MIN_BYTES = HEAD.size + 16
TTL_SLACK_S = 1.5
GRACE_S = 2.5  # a start takes what ends so soon for ended

DONE, VOID, UNSURE, PRESENT = "done", "void", "unsure", "present"

_pool = None


def pool():
    global _pool  # pylint: disable=global-statement
    if _pool is None:
        _pool = random.Random(7).randbytes(POOL_BYTES + (1 << 20))
    return _pool


class Put:
    __slots__ = ("key", "ident", "size", "begin", "end", "outcome", "durable", "replace", "dies", "hits")

    def __init__(self, key, ident, size, durable, replace, ttl_s):
        self.key, self.ident, self.size, self.durable, self.replace = key, ident, size, durable, replace
        self.begin, self.end, self.outcome = time.monotonic(), math.inf, UNSURE
        self.dies = self.begin + ttl_s if ttl_s else math.inf
        self.hits = []

    def bytes(self, offset=0, length=None):
        """What was put, or a part of it."""
        end = self.size if length is None else min(self.size, offset + length)
        if end <= offset:
            return b""
        head = HEAD.pack(self.ident, hash(self.key) & (1 << 63) - 1, self.size)
        at = self.ident * 4099 % POOL_BYTES
        if end - offset > 1 << 20:
            raise ValueError("values are at most 1 MiB")
        tail = pool()[at + max(offset, HEAD.size) - HEAD.size:at + max(end, HEAD.size) - HEAD.size]
        return head[offset:end] + tail

    def last_effect(self):
        return self.end if self.outcome in (DONE, PRESENT) else math.inf


Read = collections.namedtuple("Read", "begin end reason")
Remove = collections.namedtuple("Remove", "begin end done what")
Seen = collections.namedtuple("Seen", "begin end what")


class Crash:
    def __init__(self, begin, end, kept_durable):
        self.begin, self.end, self.kept_durable = begin, end, kept_durable
        self.until = math.inf  # when it began to take on more, and so to forget


class Lease:
    def __init__(self, begin, end, keys, until):
        self.begin, self.end, self.keys, self.until = begin, end, keys, until


class Key:
    def __init__(self):
        self.puts, self.removes, self.seen, self.misses, self.leases = [], [], [], [], []
        self.failed = []  # when calls began that the disk made fail


class Wrong(AssertionError):
    def __init__(self, text, *puts):
        super().__init__(text)
        self.puts = puts  # that it is about


class History:
    """Any thread may record; judge() wants peace."""

    def __init__(self):
        self.keys = collections.defaultdict(Key)
        self.crashes = []
        self.strict = []  # times [begin, end] in which nothing may be forgotten
        self.untold = []  # times [begin, end] in which kvd may give a value up, tell nobody, and fail to have it off the disk
        self.lock = threading.Lock()
        self.idents = 0
        self.noted = []  # what else happened, and when: for who has to understand it
        self.calls = 0

    # -- recording

    def note(self, what):
        self.noted.append((time.monotonic(), what))

    def put_begins(self, key, size, durable=False, replace=True, ttl_s=0):
        with self.lock:
            self.idents += 1
            self.calls += 1
            put = Put(key, self.idents, max(size, MIN_BYTES), durable, replace, ttl_s)
            self.keys[key].puts.append(put)
        return put

    def put_ends(self, put, outcome):
        """UNSURE: it was answered so, which was the disk's fault."""
        put.outcome, put.end = outcome, time.monotonic() if outcome != UNSURE else math.inf
        if outcome == UNSURE:
            self.keys[put.key].failed.append(put.begin)
        if outcome == PRESENT:
            self.is_seen(put.key, put.begin, "PRESENT")

    def is_hit(self, key, begin, body, offset=0, length=None, size=None):
        """These bytes were read."""
        end = time.monotonic()
        with self.lock:
            self.calls += 1
            puts = list(self.keys[key].puts)
        for put in reversed(puts):
            if put.bytes(offset, length) == body and size in (None, put.size):
                put.hits.append(Read(begin, end, None))
                return
        raise Wrong(f"{key} has {len(body)} bytes of {size} at {offset} that nobody put: {body[:40].hex()}")

    def is_missed(self, key, begin, reason=None):
        with self.lock:
            self.calls += 1
            self.keys[key].misses.append(Read(begin, time.monotonic(), reason))
            if reason:
                self.keys[key].failed.append(begin)

    def is_seen(self, key, begin, what):
        with self.lock:
            self.calls += 1
            self.keys[key].seen.append(Seen(begin, time.monotonic(), what))

    def is_removed(self, keys, begin, done, failed=False, what="remove"):
        """`done`, or nobody knows; `failed`: it was answered so, which was the disk's fault."""
        with self.lock:
            self.calls += 1
            for key in keys:
                self.keys[key].removes.append(Remove(begin, time.monotonic() if done else math.inf, done, what))
                if failed:
                    self.keys[key].failed.append(begin)

    def is_leased(self, keys, begin, seconds):
        """Returns the lease; whoever ends it sets `until`, before it does so."""
        with self.lock:
            lease = Lease(begin, time.monotonic(), keys, begin + seconds)
            for key in keys:
                self.keys[key].leases.append(lease)
        return lease

    def crashed(self, begin, end, kept_durable):
        """It ended after `begin` and served again before `end`; was what a disk had acknowledged to be kept?"""
        for key in self.keys.values():
            for lease in key.leases:
                lease.until = min(lease.until, begin)
        self.crashes.append(Crash(begin, end, kept_durable))
        return self.crashes[-1]

    # -- judging

    def judge(self):
        for name, key in self.keys.items():
            try:
                judge_key(key, self.crashes, self.strict, self.untold)
            except Wrong as wrong:
                raise Wrong(f"{name}: {wrong}\n{told(key, self.crashes, self.noted, wrong.puts)}") from None


def judge_key(key, crashes, strict, untold):
    forward, backward = zones(key)
    forward.sort(key=lambda zone: zone[0])
    active = []
    for f, s, put in forward:
        active = [zone for zone in active if zone[1] > f]
        for _, until, other in active:
            if not came_back(key, crashes, untold, other, put, f, s) and not came_back(key, crashes, untold, put, other, f, until):
                raise Wrong(f"{describe(other)} was there until {until:.6f}, and {describe(put)} from {f:.6f}", other, put)
        active.append((f, s, put))
    longest = max((s - f for f, s, _ in forward), default=0)
    begins = [zone[0] for zone in forward]
    for s, f, what in backward:
        for at in range(bisect.bisect_left(begins, s - longest), bisect.bisect_left(begins, s)):
            around = forward[at][2]
            if f < forward[at][1] and not (isinstance(what, Put) and came_back(key, crashes, untold, around, what, f, s)):
                raise Wrong(f"{describe(around)} was read before and after {describe(what)}", around, *([what] if isinstance(what, Put) else []))
    judge_seen(key)
    judge_misses(key, crashes, strict)


def came_back(key, crashes, untold, old, new, f, s):
    """`old` itself, or a remove or replace of it, failed on disk (IO_ERROR), or it was given up and stayed there: once gone from that process
    it may be there again after a restart, over a `new` one that is no replace. Is that what happened?"""
    if new.replace:
        return False
    failed = [begin for begin in key.failed if old.begin <= begin < new.end]
    failed += [max(begin, old.begin) for begin, end in untold if begin < new.end and old.begin < end]
    failed.sort()
    crash = next((crash for crash in crashes if failed and crash.end > max(failed[0], f)), None)
    return crash is not None and s < crash.end and not any(f < hit.begin < crash.end for hit in old.hits)


def zones(key):
    """([(f, s, put)], [(s, f, put or remove)])"""
    forward, backward = [], [(remove.begin, remove.end, remove) for remove in key.removes if remove.done]
    for put in key.puts:
        if put.outcome in (VOID, PRESENT):
            if put.hits:
                raise Wrong(f"{describe(put)} was refused, and is read")
            continue
        if put.outcome == UNSURE and not put.hits:
            continue
        f = min([put.end] + [hit.end for hit in put.hits])
        s = max([put.begin] + [hit.begin for hit in put.hits])
        if f < put.begin:
            raise Wrong(f"{describe(put)} was read before it was put")
        if put.outcome == DONE and put.dies < math.inf and s > put.end + (put.dies - put.begin) + TTL_SLACK_S:
            raise Wrong(f"{describe(put)} was read {s - put.end:.3f} s after it was put")
        if f < s:
            forward.append((f, s, put))
        else:
            backward.append((s, f, put))
    return forward, backward


def judge_seen(key):
    """Something is said to be there, although nothing can be since a remove."""
    effects = [(put.begin, put.last_effect()) for put in key.puts if put.outcome != VOID and put.outcome != PRESENT]
    removes = sorted((remove.end, remove.begin) for remove in key.removes if remove.done)
    for seen in key.seen:
        at = bisect.bisect_left(removes, (seen.begin,)) - 1
        if at < 0:
            if not any(begin < seen.end for begin, _ in effects):
                raise Wrong(f"{seen.what} at {seen.begin:.6f}, before any put")
            continue
        since = max(begin for _, begin in removes[max(0, at - 8):at + 1])
        if not any(begin < seen.end and end > since for begin, end in effects):
            raise Wrong(f"{seen.what} at {seen.begin:.6f}, removed at {since:.6f} and not put since")


def mortal(key, put):
    """A put that found something there: does nobody know its end?"""
    return put.outcome == PRESENT and any(other.dies < math.inf and other.begin < put.end and put.begin < other.dies for other in key.puts)


def put_away(key, put, begin, end, grace_s=0):
    """May another call, or its end, have taken it away between `begin` and `end`?"""
    if put is not None and put.dies < end + grace_s + 0.01:
        return True
    return (any(remove.begin < end and remove.end > begin for remove in key.removes)
            or any(other is not put and other.begin < end and other.last_effect() > begin and (other.replace or other.dies < math.inf)
                   and other.outcome not in (VOID, PRESENT) for other in key.puts))


def judge_misses(key, crashes, strict):
    for miss in key.misses:
        if miss.reason:
            continue
        crash = next((crash for crash in reversed(crashes) if crash.end <= miss.begin), None)
        if crash and crash.kept_durable and miss.end < crash.until:
            for put in key.puts:
                if put.durable and put.outcome in (DONE, PRESENT) and put.end < crash.begin and not mortal(key, put) and not put_away(key, put, put.begin, miss.end, GRACE_S):
                    raise Wrong(f"{describe(put)} was acknowledged by the disk, and is missing at {miss.begin:.6f}, after a crash", put)
        for lease in key.leases:
            if lease.end < miss.begin and miss.end < lease.until and not leased_away(key, lease, miss):
                raise Wrong(f"missing at {miss.begin:.6f}, and leased from {lease.end:.6f} to {lease.until:.6f}")
        if any(begin < miss.begin and miss.end < end for begin, end in strict):
            since = max(begin for begin, end in strict if begin < miss.begin and miss.end < end)
            for put in key.puts:
                if put.outcome == DONE and since < put.begin and put.end < miss.begin and not put_away(key, put, put.begin, miss.end):
                    raise Wrong(f"{describe(put)} is missing at {miss.begin:.6f}, and nothing was to be forgotten", put)


def leased_away(key, lease, miss):
    return put_away(key, None, lease.begin, miss.end) or any(put.dies < miss.end + GRACE_S for put in key.puts)


def describe(what):
    if isinstance(what, Put):
        how = ("replace " if what.replace else "") + ("ack:disk " if what.durable else "") + (f"ttl {what.dies - what.begin} " if what.dies < math.inf else "")
        return f"value {what.ident} ({how}{what.outcome}, put at {what.begin:.6f} to {what.end:.6f}, read {len(what.hits)} times)"
    return f"the {what.what} at {what.begin:.6f} to {what.end:.6f}"


def told(key, crashes, noted, puts):
    """A key's calls, in order: those around what some puts are about, or the last."""
    lines = [(put.begin, describe(put)) for put in key.puts]
    lines += [(hit.begin, f"  value {put.ident} read at {hit.begin:.6f} to {hit.end:.6f}") for put in key.puts for hit in put.hits]
    lines += [(remove.begin, describe(remove) + ("" if remove.done else " (unsure)")) for remove in key.removes]
    lines += [(miss.begin, f"  missed at {miss.begin:.6f} to {miss.end:.6f} {miss.reason or ''}") for miss in key.misses]
    lines += [(seen.begin, f"  {seen.what} at {seen.begin:.6f} to {seen.end:.6f}") for seen in key.seen]
    lines += [(crash.begin, f"ENDED at {crash.begin:.6f}, serves again at {crash.end:.6f}") for crash in crashes]
    lines += [(moment, f"NOTED {what}") for moment, what in noted]
    lines.sort()
    moments = [put.begin for put in puts] + [moment for put in puts for hit in put.hits for moment in hit[:2]]
    if moments:
        lines = [line for line in lines if any(abs(line[0] - moment) < 0.03 for moment in moments) or line[1].startswith(("ENDED", "NOTED"))]
    return "\n".join(f"{moment:.6f} {line}" for moment, line in lines[-120:])
