"""Command lines: tyro parses, and a user's mistake becomes one line on stderr."""

import io
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from itertools import dropwhile, takewhile
from typing import Any, TypeVar

import tyro

from marval_ray.files.storage import lasting

Config = TypeVar("Config")


def run(
    main: Callable[[Config], None], config_type: type[Config], description: str | None, default: Config | None = None
) -> None:
    """Parse `config_type` from the command line and call `main`.

    Wrong options end the process with exit code 2, and ValueError and OSError, which are mistakes that the user can
    cure, with 1; both after one line, `error: ...`. Ctrl-C ends it with 130, as shells say it.
    """
    config = parse(config_type, description, {} if default is None else {"default": default})
    try:
        main(settled(config))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("ended by Ctrl-C", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def preset_of(names: Collection[str], arguments: Sequence[str] | None = None) -> str:
    """Return the value of --preset, one of `names`, which has to be known before the other options have defaults."""
    value = given("--preset", arguments)
    name = "tiny" if value is None else value
    if name not in names:
        sys.exit(f"error: --preset {name!r} is unknown; choose one of {', '.join(names)}")
    return name


def given(name: str, arguments: Sequence[str] | None = None) -> str | None:
    """Return the value of the option `name`, on which defaults of others depend, None where it is not given."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, dest="value")
    value: str | None = parser.parse_known_args(arguments)[0].value
    return value


def settled(config: Config) -> Config:
    """Make a configuration's `out`, if it has one, absolute and such that it lasts (`lasting`)."""
    out = getattr(config, "out", None)
    return config if out is None else replace(config, out=type(out)(lasting(str(out))))  # type: ignore[type-var]


def parse(config_type: type[Config], description: str | None, options: dict[str, Any]) -> Config:
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return tyro.cli(config_type, description=description, **options)
    except SystemExit as end:
        if end.code:
            print(f"error: {one_line(box.getvalue())}", file=sys.stderr)
        raise


def one_line(box: str) -> str:
    """Return what tyro says between the title and the next rule, and the options that it takes for similar.

    Its frame is drawn in Unicode, in ASCII or not at all, as the terminal allows. How to ask for help stands last; a
    script's long path breaks its lines anywhere, also before `--help`.
    """
    lines = [line.strip("│| ") for line in box.splitlines()[1:]]
    lines = list(takewhile(lambda line: not line.startswith("For full helptext"), dropwhile(is_rule, lines)))
    message = list(takewhile(lambda line: not is_rule(line), lines))
    similar = [line.split()[0] for line in lines[len(message) :] if line.startswith("--") and not is_rule(line)]
    return " ".join(message) + (f" (see {', '.join(similar)})" if similar else "")


def is_rule(line: str) -> bool:
    return not line.strip("─-+╰╯")
