"""Print the pip constraint that keeps torch to its CPU build, or nothing where there is none.

On Linux a plain ``pip install torch`` brings gigabytes of CUDA libraries that no test here
uses. CPU builds carry the local version label ``+cpu``, and a machine or a site that wants
them tells pip where they are (an index or ``find-links``, in pip's configuration or its
environment variables). So pip is asked which versions it sees, and the newest with that
label is named exactly. Elsewhere than on Linux the ordinary build is the CPU build.
"""

import re
import subprocess
import sys


def torch_versions() -> list[str]:
    """Return the versions of torch that pip sees for this Python, newest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", "torch", "--disable-pip-version-check"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    line = re.search(r"^Available versions: (.+)$", answer.stdout, re.MULTILINE)
    return line.group(1).split(", ") if line else []


def main() -> None:
    versions = torch_versions()
    if sys.platform == "linux":
        versions = [version for version in versions if version.endswith("+cpu")]
    if versions:
        print(f"torch=={versions[0]}")


if __name__ == "__main__":
    main()
