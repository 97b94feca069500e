"""How a command ends."""

import signal
import subprocess
import sys

COMMAND = """
import time
from dataclasses import dataclass
from marval_ray import cli

@dataclass
class Config:
    pass

def main(config):
    print("there", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test in the background ignores it, and so would its children
    cli.run(main, Config, None)
"""


def test_ctrl_c_is_one_line_and_no_traceback():
    script = f"import signal{COMMAND}"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "ended by Ctrl-C\n"
