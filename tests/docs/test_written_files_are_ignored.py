"""What the documentation's commands write in a checkout is not offered to git: it may be personal data."""

from __future__ import annotations

import re
import subprocess

from tests.docs.pages import PAGES, ROOT, SHELL, blocks

# Of an option, and of a redirection; not in a home folder, in a container, or in a variable's.
_WRITTEN = re.compile(r"(?:--out|--to|[^0-9&]>) +([A-Za-z][\w./-]*)")


def test_what_the_commands_write_is_ignored() -> None:
    written = {
        name
        for page in PAGES
        for block in blocks(page)
        if block.language in SHELL
        for line in block.text.splitlines()
        for name in _WRITTEN.findall(line.partition("  #")[0])
    }
    assert {"report.json", "legacy.json", "attack"} <= written
    for name in written:
        # With a slash behind it, a name is a folder's, and each pattern holds.
        ignored = [
            subprocess.run(["git", "check-ignore", "--quiet", "--no-index", each], cwd=ROOT, check=False).returncode
            for each in (name, f"{name}/")
        ]
        assert 0 in ignored, f"{name} would be committed by `git add .`"
