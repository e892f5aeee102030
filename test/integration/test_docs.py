"""Pages that say what the program has are compared with the program."""
import collections
import json
import re
import subprocess

from harness import BUILD, ROOT, Kvd, kvctl


def test_configuration_page_is_the_table():
    page = subprocess.run([f"{BUILD}/kvd", "--config-page"], capture_output=True, text=True, check=True).stdout
    assert page == (ROOT / "docs/configuration.md").read_text(), "make the page anew: build/kvd --config-page > docs/configuration.md"


def test_info_figures_are_documented():
    text = (ROOT / "docs/protocol.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)\.(\w+)` \|", text, re.M))
    with Kvd() as kvd:
        info = kvd.wire().info()
    there = {(section, name) for section, figures in info.items() for name in figures if section != "ops"}
    assert documented == there, f"missing {sorted(there - documented)}, too many {sorted(documented - there)}"


def test_no_figure_is_named_twice_in_its_section():
    twice = []

    def section(pairs):
        twice.extend(name for name, times in collections.Counter(name for name, _ in pairs).items() if times > 1)
        return dict(pairs)

    with Kvd() as kvd:
        info = json.loads(kvctl("info", "--json", port=kvd.port).stdout, object_pairs_hook=section)
    assert "disk" in info and not twice, twice
