"""The documentation: a site without dead links, commands that the jobs know."""

import re
import shlex
import subprocess
import sys

import pytest
from commands import ROOT, help_of

PAGES = sorted((ROOT / "docs").glob("*.md")) + [ROOT / "README.md"]


def test_the_site_is_built_without_a_dead_link(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert "Draw an image for each label" in text and "from_pretrained" in text
    first = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?:", first)  # nothing comes from elsewhere


def commands(text: str) -> set[tuple[str, ...]]:
    """The jobs that a page calls, with their options, in blocks of code."""
    fenced = re.findall(r"^ *```(?:bash)?\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"((?:^ {8}\S.*\n)+)", text, re.MULTILINE)
    lines = "\n".join(fenced + indented).replace("\\\n", " ").splitlines()
    called = [call for line in lines for call in re.split(r"&&|[|;]", line.partition(" #")[0]) if re.search(r"(jobs|bench)/\S+\.py", call)]
    calls = [shlex.split(call) for call in called]
    found = set()
    for words in calls:
        start = next((i for i, word in enumerate(words) if re.fullmatch(r"(jobs|bench)/\S+\.py", word)), None)
        if start is not None:
            found.add((words[start], *(word for word in words[start:] if word.startswith("--"))))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_docs_are_options_of_the_jobs(page):
    for script, *options in sorted(commands(page.read_text(encoding="utf-8"))):
        known = help_of(script) if options else ""
        missing = [option for option in options if not re.search(rf"{re.escape(option)}(?![\w.-])", known)]
        assert not missing, f"{script} has no {missing}"


def test_every_job_is_in_the_docs():
    told = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    jobs = {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py")}
    assert {job for job in jobs if job not in told} == set()
