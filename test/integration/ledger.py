"""What may be served, by what was acknowledged: P1, P3, P4 and P5 of docs/architecture.md, key by key.

Every call goes through the ledger, which remembers the values that a key may have, and the one that it must have after a crash; while
a call is not answered, both what was and what will be. One thread calls; copy() may be called by another.
"""
import threading

from harness import BUSY, INTERNAL, IO_ERROR, NOT_FOUND, OK, PRESENT, PUT, REMOVE, REMOVE_PREFIX, TIMEOUT

UNCERTAIN = (IO_ERROR, TIMEOUT, INTERNAL)  # may have taken effect


class Ledger:
    def __init__(self):
        self.may = {}      # key: the values that a get may return; a miss is always allowed, but for
        self.durable = {}  # key: the value that must be there after a crash
        self.keys = set()  # all that were ever put
        self.codes = []
        self.lock = threading.Lock()

    def copy(self):
        """What it knows now."""
        other = Ledger()
        with self.lock:
            other.may = {key: set(values) for key, values in self.may.items()}
            other.durable = dict(self.durable)
            other.keys = set(self.keys)
        return other

    def put(self, wire, key, value, ack="memory"):
        """With `replace`. Returns the code."""
        with self.lock:
            self.keys.add(key)
            before, durable = set(self.may.get(key, ())), self.durable.pop(key, None)
            self.may[key] = before | {value}
        code = wire.call(PUT, {"key": key, "replace": True, "ack": ack}, value).code
        assert code not in (PRESENT, NOT_FOUND), code
        with self.lock:
            self.codes.append(code)
            if code == OK:
                self.may[key] = {value}
                if ack == "disk":
                    self.durable[key] = value
            elif code not in UNCERTAIN:
                self.may[key] = before
                if durable is not None:
                    self.durable[key] = durable
        return code

    def remove(self, wire, *keys):
        return self._removed(keys, lambda: wire.call(REMOVE, {"keys": list(keys)}).code)

    def remove_prefix(self, wire, prefix):
        return self._removed([key for key in self.may if key.startswith(prefix)], lambda: wire.call(REMOVE_PREFIX, {"prefix": prefix}).code)

    def _removed(self, keys, call):
        with self.lock:
            durable = {key: self.durable.pop(key) for key in keys if key in self.durable}
        code = call()
        assert code == OK or code in UNCERTAIN or code == BUSY, code
        with self.lock:
            self.codes.append(code)
            if code == OK:
                for key in keys:
                    self.may.pop(key, None)
            if code == BUSY:
                self.durable.update(durable)
        return code

    def judge(self, wire, crashed):
        """Look at every key; after a crash what is durable must be there. Returns how many were."""
        return sum(self.judge_one(wire, key, crashed) for key in sorted(self.keys))

    def judge_one(self, wire, key, crashed):
        got = wire.get(key)
        may = self.may.get(key, ())
        if got.code in (NOT_FOUND, BUSY):
            assert not crashed or key not in self.durable, f"{key} was acknowledged by the disk, and is gone: {got.meta}"
            return False
        assert got.code == OK, got
        assert got.body in may, f"{key} has {what(got.body)}; it may be {[what(value) for value in may]}"
        return True


def what(value):
    return f"{len(value)} bytes, {value[:12]!r}"
