"""For `make soak`: more than fits, and what is written for it (5 GiB of disk below TMPDIR)."""
import threading

import pytest

from harness import GIB, expected_hits, read_trace
from test_replay import hits, references, replay, whole_trace, wrong

LIMIT = 4 * GIB


@pytest.fixture(scope="module")
def trace():
    return whole_trace(6 * GIB)


class Watch:
    """The most that the directory ever took, looked at again and again."""

    def __init__(self, kvd):
        self.kvd, self.most, self.looks = kvd, 0, 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def run(self):
        while not self.ended.wait(0.05):
            self.most = max(self.most, self.kvd.disk_bytes())
            self.looks += 1


@pytest.mark.limit(1500)
@pytest.mark.parametrize("policy", ["write-through", "on-evict", "second-touch"])
def test_over_capacity(start, trace, policy):
    """11.2 GiB of distinct blocks through 512 MiB of memory and 4 GiB of disk."""
    _, total = expected_hits(read_trace(trace))
    kvd = start(memory="512m", disk="4g", segment_size="256m", args=["--persist", policy, "--when-behind", "shed"])
    with Watch(kvd) as watch:
        result = replay(kvd, trace, "--speed", "max", timeout_s=1200)
    info = kvd.wire().info()
    assert references(result) == total and wrong(result) == 0 and result["missed_after_match"] == 0
    assert result["busy"] == 0 and result["refused"] == 0, "puts are never refused under shed"
    assert watch.looks > 20 and watch.most <= LIMIT, f"the directory took {watch.most} bytes"
    objects, dropped = info["objects"], kvd.wire().dropped(info)
    assert objects["puts_total"] == objects["objects"] + sum(dropped.values()), "every object is there, or counted as dropped"
    assert objects["puts_replaced_total"] == objects["removed_total"] == objects["expired_total"] == objects["found_total"] == 0
    disk, server = info["disk"], info["server"]
    print(f"\n{policy}: hits={hits(result)} largest_du={watch.most} puts={objects['puts_total']} objects={objects['objects']} dropped={dropped} "
          f"longest_step={server['longest_step_us']}us ({server['longest_step']}) written={disk['written_bytes_total']} "
          f"rewritten={disk['rewritten_bytes_total']} share={disk['rewritten_bytes_total'] / disk['written_bytes_total']:.3f}")
    assert disk["rewritten_bytes_total"] <= disk["written_bytes_total"] * 0.21, "what is written on keeps to its share"
