"""`make repeat TEST=…`: repeat a test beside processes that take the CPU, until it fails."""

import subprocess
import sys

BUSY = 4
"""Processes that do nothing but compute."""


def main(test: str, times: int) -> int:
    """The exit code of the run that failed, 0 if none did."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        for number in range(1, times + 1):
            print(f"run {number} of {times}", flush=True)
            run = [sys.executable, "-m", "pytest", "-q", *test.split()]
            if code := subprocess.run(run, check=False).returncode:
                return code
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
