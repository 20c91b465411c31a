# Sourced by the scripts in the repository's root: common settings and, in $PYTHON, a Python with all packages.
# PYTHON, if given, is used as it is; otherwise the active python3 if it has all of $REQUIREMENTS; otherwise .venv, which
# is created here and filled by pip (pip's own settings apply, such as PIP_INDEX_URL for a CPU-only torch).
DIR_DATA=${DIR_DATA:-datasets}
N_GPUS=${N_GPUS:-1}
REQUIREMENTS=${REQUIREMENTS:-requirements.txt}

die() {
    echo "error: $*" >&2
    exit 1
}

# Print the packages of the requirements file $2 that the Python $1 lacks, in one line, without importing them.
lacking() {
    "$1" - "$2" <<'END'
import re
import sys
from importlib.metadata import PackageNotFoundError, version

BUILDS = {'opencv-python': [f'opencv-{kind}' for kind in ('python', 'python-headless', 'contrib-python',
                                                         'contrib-python-headless')]}


def numbers(text):
    return [int(part) for part in re.findall('[0-9]+', text)[:3]]


def lacks(path):
    with open(path, encoding='utf-8') as file:
        for line in file.read().split('\n'):
            if line.startswith('-r '):
                yield from lacks(line[3:].strip())
            elif line.strip():
                name, _, least = line.strip().partition('>=')
                if not any(has(build, least) for build in BUILDS.get(name, [name])):
                    yield line.strip()


def has(name, least):
    try:
        return numbers(version(name)) >= numbers(least)
    except PackageNotFoundError:
        return False


print(' '.join(lacks(sys.argv[1])))
END
}

# Create and fill .venv with the Python $1, or complete it after an interruption. The stamp records what is installed.
fill_venv() {
    stamp=.venv/installed-$REQUIREMENTS
    [ "$(cat "$stamp" 2>/dev/null)" != "$(cat requirements*.txt)" ] || return 0
    echo "Setting up .venv for $REQUIREMENTS with $("$1" --version) (it lacks $missing). This takes minutes, once." >&2
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$1" -m venv .venv >&2 ||
        die "$1 -m venv .venv failed; on Debian and Ubuntu: apt-get install python3-venv"
    .venv/bin/python -m pip install -r "$REQUIREMENTS" >&2 ||
        die "pip could not install $REQUIREMENTS into .venv (see above); run this again to complete it"
    if grep -q '^opencv-python' requirements.txt && ! .venv/bin/python -c 'import cv2' 2>/dev/null; then
        # Servers may lack the system libraries of OpenCV's GUI; the headless build needs none.
        .venv/bin/python -m pip uninstall -y opencv-python >&2
        .venv/bin/python -m pip install --force-reinstall --no-deps opencv-python-headless >&2 ||
            die "pip could not install opencv-python-headless into .venv (see above)"
    fi
    cat requirements*.txt > "$stamp"
}

if [ -n "$PYTHON" ]; then
    command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: no such program; give the path of a Python"
else
    for PYTHON in python3 python3.12 python3.11 python3.10 ''; do
        [ -z "$PYTHON" ] || ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 || break
    done
    [ -n "$PYTHON" ] || die "Python 3.10 or newer is needed; python3 is: $(python3 --version 2>&1 || :)"
    missing=$(lacking "$PYTHON" "$REQUIREMENTS") || die "$PYTHON cannot read $REQUIREMENTS"
    if [ -n "$missing" ]; then
        fill_venv "$PYTHON"
        PYTHON=.venv/bin/python
    fi
    why=$("$PYTHON" -c 'import cv2' 2>&1) || die "$PYTHON cannot load OpenCV ($(echo "$why" | tail -n 1));" \
        "if a library is missing, apt-get install libgl1 libglib2.0-0, or use opencv-python-headless"
fi
