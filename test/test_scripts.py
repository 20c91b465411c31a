"""The shell scripts run from any folder, pass the published values to main.py, and find or set up Python."""
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import option
from model.presets import MRDA

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(ROOT.glob('scripts/**/*.sh'))
OFFLINE = {'PIP_NO_INDEX': '1', 'PIP_CONFIG_FILE': os.devnull}
MAIN = 'import json, os, sys\nprint(json.dumps([os.getcwd(), sys.executable, sys.argv[1:]]))\n'


@pytest.fixture
def tree(tmp_path):
    """A copy of the scripts, in a folder with spaces, with a main.py that prints its arguments."""
    root = tmp_path / "it's a folder"
    shutil.copytree(ROOT / 'scripts', root / 'scripts')
    for file in (*ROOT.glob('requirements*.txt'), ROOT / '.ci/run'):
        (root / file.relative_to(ROOT)).parent.mkdir(exist_ok=True)
        shutil.copy(file, root / file.relative_to(ROOT))
    (root / 'main.py').write_text(MAIN)
    return root


def call(root, script, *arguments, shell='sh', **environment):
    """Run a script from another folder, with only PATH in the environment and no network for pip."""
    return subprocess.run([shutil.which(shell), root / script, *arguments], cwd=root.parent, capture_output=True,
                          text=True, env={'PATH': os.environ['PATH'], **OFFLINE, **environment})


def handed(root, script, *arguments, **environment):
    """The arguments that a script passes to main.py."""
    run = call(root, f'scripts/{script}.sh', *arguments, PYTHON=sys.executable, **environment)
    assert run.returncode == 0 and not run.stderr, run.stderr
    folder, _, argv = json.loads(run.stdout)
    assert folder == str(root)
    return argv


def values(argv, *dropped):
    args = vars(option.parse(argv))
    return {name: value for name, value in args.items() if name not in ('given', *dropped)}


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_plain_sh(script):
    assert subprocess.run([shutil.which('dash') or 'sh', '-n', script]).returncode == 0
    assert script.name == 'env.sh' or script.read_text().startswith('#!/bin/sh\n')


@pytest.mark.parametrize('stage', [1, 2, 3, 4])
def test_training_scripts_equal_the_stage_defaults(tree, stage):
    argv = handed(tree, f'main_stage{stage}')
    assert values(argv) == values(['--stage', str(stage)])
    assert set(MRDA[stage]) <= option.parse(argv).given  # researchers read and edit the numbers here


@pytest.mark.parametrize('stage', [2, 3, 4])
def test_aniso_changes_only_the_degradation_and_the_run(tree, stage):
    plain, aniso = handed(tree, f'main_stage{stage}'), handed(tree, f'main_stage{stage}', 'aniso', '--seed', '5')
    changed = {name: value for name, value in values(aniso).items() if value != values(plain)[name]}
    name = f'anisonoise_stage{stage}'
    assert changed == {'blur_type': 'aniso_gaussian', 'noise': 25, 'save': name, 'run_name': name, 'seed': 5}


@pytest.mark.parametrize(('script', 'expected'), [
    ('test_iso_stage4', {'blur_type': 'iso_gaussian', 'noise': 0, 'sig': 3.6}),
    ('test_anisoAnoise_stage4',
     {'blur_type': 'aniso_gaussian', 'noise': 10, 'lambda_1': 3.5, 'lambda_2': 1.5, 'theta': 20}),
])
def test_test_scripts(tree, script, expected):
    args = vars(option.parse(handed(tree, script)))
    expected |= {'stage': 4, 'test_only': True, 'data_test': 'Set14', 'n_feats': 128, 'run_name': script}
    assert {name: args[name] for name in expected} == expected
    chosen = ['aniso'] if 'aniso' in script else []
    run = option.parse(handed(tree, 'main_stage4', *chosen))  # its weights are the default of the test
    kind = run.blur_type.removesuffix('_gaussian')
    assert args['pre_train_ST'] == f'experiment/{run.run_name}_x4_bicubic_{kind}/model/model_ST_last.pt'
    assert '--pre_train_ST my.pt' in ' '.join(handed(tree, script, PRE_TRAIN_ST='my.pt'))


def test_flags_and_environment_override_the_scripts(tree):
    chosen = {'DIR_DATA': '/my data', 'N_GPUS': '3', 'CDPATH': '/', 'PRE_TRAIN_META': 'a b.pt', 'PRE_TRAIN_TA': 'c.pt',
              'PRE_TRAIN_ST': 'd.pt'}
    args = option.parse(handed(tree, 'main_stage4', '--batch-size=6', '--save', 'my run', **chosen))
    assert (args.batch_size, args.run_name, args.dir_data, args.n_GPUs) == (6, 'my run', '/my data', 3)
    assert (args.pre_train_meta, args.pre_train_TA, args.pre_train_ST) == ('a b.pt', 'c.pt', 'd.pt')


@pytest.mark.parametrize(('script', 'shell'), [('scripts/run_tests.sh', 'sh'), ('.ci/run', 'bash')])
def test_running_the_tests(tree, script, shell):
    stub = tree / 'stub'
    stub.write_text('#!/bin/sh\necho "$PWD: $*"\n')
    stub.chmod(0o755)
    run = call(tree, script, *(['-q'] if shell == 'sh' else []), shell=shell, PYTHON=str(stub))
    assert run.stdout == f'{tree}: -m pytest -n 2 --dist loadfile{" -q" if shell == "sh" else ""}\n'


@pytest.fixture
def bare(tmp_path):
    """A PATH with the usual tools and no Python."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for tool in ('cat', 'dirname', 'grep', 'sh', 'tail'):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def put(folder, name, text):
    (folder / name).write_text(f'#!/bin/sh\n{text}\n')
    (folder / name).chmod(0o755)


def refusal(run):
    assert run.returncode == 1 and not run.stdout
    return run.stderr.splitlines()[-1]


def test_missing_or_old_python_is_reported(tree, bare):
    script = 'scripts/main_stage1.sh'
    assert refusal(call(tree, script, PYTHON='/no/python')) == (
        'error: PYTHON=/no/python: no such program; give the path of a Python')
    assert refusal(call(tree, script, PATH=str(bare))).startswith('error: Python 3.10 or newer is needed')
    put(bare, 'python3', '[ "$1" = --version ] && echo Python 3.8.18')
    assert refusal(call(tree, script, PATH=str(bare))).endswith('python3 is: Python 3.8.18')


def test_active_python_is_used_if_it_has_all_packages(tree, bare):
    put(bare, 'python3', f'exec "{sys.executable}" "$@"')
    run = call(tree, 'scripts/main_stage1.sh', PATH=str(bare))
    assert run.returncode == 0 and not run.stderr and json.loads(run.stdout)[1] == sys.executable
    assert not (tree / '.venv').exists()


def wheel(folder, name, module, text):
    """The smallest wheel that pip installs."""
    info = f'{name}-9.0.dist-info'
    files = {f'{module}.py': text, f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n',
             f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n'}
    with zipfile.ZipFile(folder / f'{name}-9.0-py3-none-any.whl', 'w') as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f'{info}/RECORD', ''.join(f'{path},,\n' for path in [*files, f'{info}/RECORD']))


@pytest.mark.slow
def test_virtual_environment_is_created_completed_and_kept(tree, bare, tmp_path):
    put(bare, 'python3', f'exec "{sys.executable}" "$@"')
    (tree / 'requirements.txt').write_text('absent-here>=2.10\nopencv-python>=4.7\n')
    shelf = tmp_path / 'wheels'
    shelf.mkdir()
    network = {'PATH': str(bare), 'PIP_FIND_LINKS': str(shelf)}
    first = call(tree, 'scripts/main_stage1.sh', **network)
    assert 'pip could not install requirements.txt into .venv' in refusal(first)
    assert 'it lacks absent-here>=2.10' in first.stderr

    wheel(shelf, 'absent_here', 'absent_here', '')
    wheel(shelf, 'opencv_python', 'cv2', "raise ImportError('libGL.so.1: cannot open shared object file')")
    wheel(shelf, 'opencv_python_headless', 'cv2', '')
    second = call(tree, 'scripts/main_stage1.sh', **network)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)[1].endswith('.venv/bin/python')
    third = call(tree, 'scripts/main_stage1.sh', **network)
    assert third.returncode == 0 and not third.stderr

    (tree / 'requirements.txt').write_text('absent-here>=8.0\nopencv-python>=4.7\n')
    fourth = call(tree, 'scripts/main_stage1.sh', **network)
    assert fourth.returncode == 0 and 'Setting up .venv' in fourth.stderr


def test_opencv_that_cannot_load_is_explained(tree, bare):
    put(bare, 'python3', f'[ "$2" != "import cv2" ] || {{ echo ImportError: libGL.so.1 >&2; exit 1; }}\n'
                         f'exec "{sys.executable}" "$@"')
    line = refusal(call(tree, 'scripts/main_stage1.sh', PATH=str(bare)))
    assert 'libGL.so.1' in line and 'opencv-python-headless' in line and 'apt-get install libgl1' in line
