"""What the benches share: a place for stores, and commands measured in turn.

Every row alternates between the programs, so that what else the machine does hits all of them, and
prints medians with the smallest and largest value. As root the stores lie on a fresh ext4 in a loop
device, mounted in a mount namespace that ends with the process; else beside the build.
"""

import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
STRAKE = TARGET / "release" / "strake"
BUSYBOX = TARGET / "images" / "busybox.tar"
ROOT = os.geteuid() == 0


def quiet(*command, **options):
    """Runs a command that has to work; gives its standard output."""
    done = subprocess.run(
        [str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options
    )
    if done.returncode != 0:
        words = " ".join(str(word) for word in command)
        sys.exit(f"bench: `{words}` exited with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Subject:
    """A command to measure: seconds, processor seconds and peak KiB of each run."""

    def __init__(self, name, command, environment=None, runs=1, before=None):
        self.name, self.command, self.environment, self.runs = name, command, environment, runs
        self.before = before
        self.seconds, self.cpu, self.peak = [], [], 0

    def measure(self, meter, directory):
        if self.before:
            self.before()
        read, write = os.pipe()
        os.set_inheritable(write, True)
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                ["bash", "-c", f'exec 3>&{write}; exec "$@"', "bash", str(meter), *map(str, self.command)],
                env=self.environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=[write],
            )
            os.close(write)
            process.wait()
            line = os.read(read, 200).decode()
            os.close(read)
            seconds, cpu, peak, code = line.split() if line else ("0", "0", "0", "125")
            if code != "0":
                log.seek(0)
                text = log.read().decode(errors="replace")
                sys.exit(f"bench: {self.name} exited with {code}: {' '.join(map(str, self.command))}\n{text}")
        self.seconds.append(float(seconds))
        self.cpu.append(float(cpu))
        self.peak = max(self.peak, int(peak))

    def forget(self):
        self.seconds.clear()
        self.cpu.clear()

    @property
    def median(self):
        return statistics.median(self.seconds)

    def shown(self):
        return milliseconds(self.seconds)


def milliseconds(seconds):
    low, high = min(seconds), max(seconds)
    return f"{1000 * statistics.median(seconds):.1f} ms ({1000 * low:.1f}–{1000 * high:.1f})"


def in_own_namespace():
    """As root, goes on in a mount namespace of its own: nothing stays mounted."""
    if ROOT and os.environ.get("STRAKE_BENCH_NAMESPACE") != "1":
        os.environ["STRAKE_BENCH_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])


def fresh_place(name):
    """An empty directory for stores, and what it lies on."""
    place = TARGET / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if not ROOT:
        return place, "the build's own file system"
    image = place.with_suffix(".img")
    image.unlink(missing_ok=True)
    with open(image, "wb") as file:
        file.truncate(12 << 30)
    quiet("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    quiet("mount", "-o", "loop", image, place)
    image.unlink()
    return place, "a fresh loop-mounted ext4"


def build_meter(place):
    meter = place / "meter"
    quiet("gcc", "-O2", "-Wall", "-Werror", "-o", meter, REPOSITORY / "bench" / "meter.c")
    return meter


def machine():
    model = "unknown processor"
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = int(open("/proc/meminfo").readline().split()[1]) >> 20
    return f"{model}, {os.cpu_count()} cores, {memory} GiB, Linux {platform.release()}"


def load():
    return f"load {os.getloadavg()[0]:.1f}"
