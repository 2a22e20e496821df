"""Print a row of docs/sdks.md: the versions that pip finds for a package and stormbreak together.

pip install --dry-run --ignore-installed --report - . PACKAGE | python bench/beside.py PACKAGE
"""

import json
import re
import sys

SHARED = ("click", "rich", "pydantic", "openai")

packages = [item["metadata"] for item in json.load(sys.stdin)["install"]]
versions = {package["name"].lower(): package["version"] for package in packages}
name = re.split(r"\[", sys.argv[1])[0]
shared = ", ".join(f"{each} {versions[each]}" for each in SHARED if each in versions)
print(f"| `{sys.argv[1]}` | {versions[name]} | {shared} |")
