"""The judge judged: histories made by hand, right ones and wrong ones, over a clock of their own."""
import pytest

import history
from history import DONE, PRESENT, UNSURE, VOID, History, Wrong


class Told(History):
    """As clients would tell it, each call from one moment to another."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.now = 0.0
        monkeypatch.setattr(history.time, "monotonic", lambda: self.now)

    def put(self, begin, end, outcome=DONE, key=b"k", size=5_000, **how):
        self.now = begin
        put = self.put_begins(key, size, **{"replace": True, **how})
        self.now = end
        if outcome is not None:
            self.put_ends(put, outcome)
        return put

    def hit(self, put, begin, end, offset=0, length=None, key=b"k", body=None):
        self.now = end
        self.is_hit(key, begin, put.bytes(offset, length) if body is None else body, offset, length, put.size)

    def miss(self, begin, end, reason=None):
        self.now = end
        self.is_missed(b"k", begin, reason)

    def seen(self, begin, end):
        self.now = end
        self.is_seen(b"k", begin, "EXISTS")

    def remove(self, begin, end, done=True, failed=False):
        self.now = end
        self.is_removed([b"k"], begin, done, failed)

    def lease(self, begin, end, seconds=10):
        self.now = end
        return self.is_leased([b"k"], begin, seconds)

    def wrong(self, match):
        with pytest.raises(Wrong, match=match):
            self.judge()


@pytest.fixture
def told(monkeypatch):
    return Told(monkeypatch)


def test_what_a_cache_may_do(told):
    one = told.put(1, 2)
    told.hit(one, 3, 4)
    told.hit(one, 3, 9, offset=100, length=50)
    told.miss(4, 5)
    told.hit(one, 5, 6)
    two = told.put(5, 8)
    told.hit(two, 6, 10)
    told.hit(two, 11, 12, offset=4_990, length=100)
    told.seen(11, 12)
    told.remove(13, 15)
    told.hit(two, 13, 14)
    told.hit(two, 14, 16)
    told.seen(14, 17)
    told.miss(17, 18)
    three = told.put(20, 21, None)
    told.hit(three, 30, 31)
    told.put(40, 41, PRESENT)
    told.put(42, 43, VOID)
    told.judge()


def test_bytes_that_nobody_put(told):
    one = told.put(1, 2)
    with pytest.raises(Wrong, match="nobody put"):
        told.hit(one, 3, 4, body=one.bytes()[:-1] + b"?")
    with pytest.raises(Wrong, match="nobody put"):
        told.hit(one, 3, 4, body=one.bytes()[:-1])
    with pytest.raises(Wrong, match="nobody put"):
        told.hit(one, 3, 4, key=b"another")
    with pytest.raises(Wrong, match="nobody put"):
        told.hit(one, 3, 4, offset=100, length=50, body=one.bytes(101, 50))


@pytest.mark.parametrize("outcome", [VOID, PRESENT])
def test_a_put_that_was_refused_is_read(told, outcome):
    told.put(0, 1)
    told.hit(told.put(1, 2, outcome), 3, 4)
    told.wrong("refused")


def test_two_values_in_turns(told):
    one = told.put(1, 2)
    two = told.put(3, 4)
    told.hit(two, 5, 6)
    told.hit(one, 7, 8)
    told.wrong("was there until 7")


def test_a_stale_read_after_a_replace_that_nobody_has_read(told):
    one = told.put(1, 2)
    told.put(3, 4)
    told.hit(one, 5, 6)
    told.wrong("before and after value 2")


def test_risen_from_the_dead(told):
    one = told.put(1, 2)
    told.remove(3, 4)
    told.hit(one, 5, 6)
    told.wrong("before and after the remove at 3")


def test_a_remove_that_nobody_was_told_of(told):
    one = told.put(1, 2)
    told.remove(3, 4, done=False)
    told.hit(one, 5, 6)
    told.judge()


def test_an_unsure_put_is_there_from_its_first_read_on(told):
    one, two = told.put(1, 2), told.put(3, 4, None)
    told.hit(one, 5, 6)
    told.hit(two, 7, 8)
    told.judge()
    told.hit(one, 9, 10)
    told.wrong("before and after value 2")


@pytest.mark.parametrize("outcome", [DONE, UNSURE])
def test_something_is_there_though_all_was_removed(told, outcome):
    told.put(1, 2)
    told.remove(3, 4)
    told.seen(5, 6)
    told.wrong("EXISTS at 5.*not put since")
    told.put(3.5, 7, outcome)
    told.judge()


def test_something_is_there_before_any_put(told):
    told.seen(0, 0.5)
    told.put(1, 2)
    told.wrong("before any put")


def test_what_failed_on_disk_may_be_back_after_a_restart(told):
    one = told.put(1, 2)
    told.remove(3, 4, done=False, failed=True)
    two = told.put(5, 6, replace=False)
    told.hit(two, 7, 8)
    told.now = 10
    told.crashed(9, 10, True)
    told.hit(one, 11, 12)
    told.judge()
    told.hit(two, 13, 14)
    told.wrong("was there until 1")


@pytest.mark.parametrize("span, replaces", [((2.5, 4), False), ((2.5, 4), True), ((7, 8), False), (None, False)])
def test_what_a_scrub_found_bad_may_be_back_after_a_restart(told, span, replaces):
    one = told.put(1, 2)
    two = told.put(5, 6, replace=replaces)
    told.hit(two, 6, 7)
    if span:
        told.untold.append(span)
    told.crashed(9, 10, True)
    told.hit(one, 11, 12)
    if span == (2.5, 4) and not replaces:
        told.judge()
    else:
        told.wrong("was there until|before and after")


@pytest.mark.parametrize("why", ["no restart", "a replace", "an answered remove", "read in between"])
def test_what_may_not_be_back(told, why):
    one = told.put(1, 2)
    told.remove(3, 4, done=why == "an answered remove", failed=True)
    two = told.put(5, 6, replace=why == "a replace")
    told.hit(two, 7, 8)
    if why == "read in between":
        told.hit(one, 8.5, 8.7)
    if why != "no restart":
        told.crashed(9, 10, True)
    told.hit(one, 11, 12)
    told.wrong("was there until|before and after")


@pytest.mark.parametrize("what", [None, "remove", "replace", "put", "reason", "loses"])
def test_what_the_disk_acknowledged_is_there_after_a_crash(told, what):
    told.put(1, 2, durable=True)
    if what == "remove":
        told.remove(3, 4, done=False)
    elif what in ("replace", "put"):
        told.put(3, 4, None, replace=what == "replace")
    told.crashed(5, 6, kept_durable=what != "loses")
    told.miss(7, 8, "io" if what == "reason" else None)
    if what in (None, "put"):
        told.wrong("acknowledged by the disk")
    else:
        told.judge()


@pytest.mark.parametrize("what", [None, "released", "over", "removed", "replaced", "crashed", "reason"])
def test_what_is_leased_is_there(told, what):
    told.put(1, 2)
    lease = told.lease(3, 4, 2 if what == "over" else 10)
    if what == "released":
        lease.until = 4.5
    elif what == "removed":
        told.remove(3.5, 4, done=False)
    elif what == "replaced":
        told.put(4, 4.5, None)
    elif what == "crashed":
        told.crashed(4.1, 4.5, False)
    told.miss(5.5, 6, "io" if what == "reason" else None)
    if what is None:
        told.wrong("leased from 4")
    else:
        told.judge()


def test_nothing_is_forgotten_where_there_is_room(told):
    told.put(1, 2)
    told.miss(3, 4)
    told.judge()
    told.strict.append((0, 5))
    told.wrong("nothing was to be forgotten")
    told.strict = [(1.5, 5)]
    told.judge()


@pytest.mark.parametrize("late", [False, True])
def test_what_has_had_its_end(told, late):
    one = told.put(1, 2, ttl_s=3)
    told.hit(one, 8 if late else 5, 9)
    if late:
        told.wrong("after it was put")
    else:
        told.judge()


def test_a_million_calls_are_soon_judged(told):
    for number in range(3_000):
        put = told.put(number, number + 0.5, key=b"%d" % (number % 20))
        told.hit(put, number + 0.5, number + 0.6, key=put.key)
    told.judge()
