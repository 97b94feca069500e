"""Ray's own settings. They come from the environment, and Ray reads them when it is imported."""

import os
import secrets
import sys
from pathlib import Path

OTHERS = 0o077
"""Permissions of a file that let anybody but its owner do something with it."""


def before_ray() -> None:
    """Set what suits a Ray that this process may start; call it before `import ray`. What is set already stays.

    Ends the process with one line when others can read Ray's token, and that cannot be mended.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")  # workers would otherwise yield to every other process of the machine
    if not cluster_is_there():
        # A Ray that is no cluster listens on localhost alone, as it does by itself on the systems that this is named after.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        keep_token_private()
    except (ValueError, OSError) as error:  # jobs call this while they are imported
        sys.exit(f"error: {error}")


def before_serve() -> None:
    """Set what suits a Ray Serve that this process may start; call it before `import ray`. What is set already stays."""
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "actors.serving.proxy:middlewares")
    os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "1")  # nobody listens until three have failed


def cluster_is_there() -> bool:
    """Tell whether `ray.init()` will join a cluster, one that is named or one that `ray start` left a note of."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray/ray_current_cluster"
    named = os.environ.get("RAY_ADDRESS")
    return named != "local" if named else note.exists()


def keep_token_private() -> None:
    """Let nobody but its owner read the file with Ray's token: whoever has the token runs code as the owner of that Ray.

    Ray itself writes the file as umask says, mostly for all to read, so it is written here before.
    Raises ValueError when the file is no file or somebody else's, OSError when it cannot be written or changed.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return  # Ray reads no file
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or os.path.expanduser("~/.ray/auth_token"))
    if path.exists():
        make_private(path)
    elif not named and not cluster_is_there():  # as Ray does; the token of a cluster is its operator's business
        write_token(path)


def make_private(path: Path) -> None:
    """Take everybody else's permissions for the file away, with a message if there were some."""
    state = path.stat()
    if not path.is_file() or state.st_uid != os.getuid():
        what = f"belongs to user {state.st_uid}" if path.is_file() else "is not a file"
        raise ValueError(f"{path} should hold Ray's token and {what}: name a file of your own in RAY_AUTH_TOKEN_PATH")
    if state.st_mode & OTHERS:
        path.chmod(0o600)
        print(f"{path}: others could read Ray's token, and run code as you with it; now nobody but you can. If others use this "
              "machine, delete the file once no Ray of yours runs: the next run makes a new token.", file=sys.stderr)  # fmt: skip


def write_token(path: Path) -> None:
    """Make a token of 256 bits, unless another process is faster."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError as error:
        raise ValueError(f"Ray's token cannot be kept in {path} ({error.strerror}): set HOME to a folder of yours") from error
    with os.fdopen(file, "w", encoding="ascii") as token:
        token.write(secrets.token_hex(32))
