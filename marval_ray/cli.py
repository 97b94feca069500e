"""Command lines: tyro parses, and a user's mistake becomes one line on stderr."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

Config = TypeVar("Config")


def run(
    main: Callable[[Config], None], config_type: type[Config], description: str | None, default: Config | None = None
) -> None:
    """Parse `config_type` from the command line and call `main`.

    ValueError and OSError are mistakes that the user can cure: they end the process with `error: ...` and exit code 1.
    Wrong options end it with tyro's message and exit code 2.
    """
    options: dict[str, Any] = {} if default is None else {"default": default}
    try:
        main(tyro.cli(config_type, description=description, **options))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
