"""README.md and docs/ are correct: each command runs, links resolve, quoted messages and options exist."""
import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import quickstart
import torch
import write_options
from ranks import finish, main_alone
from scipy.io import savemat
from skimage import data as photos
from torch.distributed.run import parse_args as parse_torchrun

import main as program
from data import protocol
from data.images import write_rgb
from model import kdsr, mrda
from model.mln import MLN

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md')), ROOT / 'CONTRIBUTING.md']
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)
# Commands that are not run here, by their beginning, and the test that runs them.
ELSEWHERE = {
    'sh scripts/quickstart.sh': 'test_quickstart.py::test_quickstart',
    'sh scripts/run_tests.sh': 'test_scripts.py::test_running_the_tests',
    'sh scripts/benchmark.sh': 'test_benchmark.py::test_in_two_processes',
    'python -m benchmark': 'test_benchmark.py::test_in_two_processes',
    'sh scripts/first_gpu.sh': 'test_first_gpu.py::test_rehearsal',
    'python -m pytest': 'test_scripts.py::test_running_the_tests',
    'python main.py --stage 4 --distill 0 --epochs_encoder 0': 'test_training.py::test_resume_is_bit_identical',
    'python main.py --stage 4 --test_only --pre_train_ST experiment/muon':
        'test_training.py::test_all_stages_then_test_and_own_photos',
    'python main.py --stage 4 --n_blocks 27': 'test_ship.py::test_a_grown_student_and_its_status',
    'sh scripts/train_zoo.sh grown': 'test_ship.py::test_a_grown_student_and_its_status',
    'sh scripts/train_zoo.sh status': 'test_ship.py::test_a_grown_student_and_its_status',
    'sh scripts/train_zoo.sh': 'test_ship.py::test_weights_are_trained_tested_and_shipped',
    'python tools/maintain/ship_weights.py': 'test_ship.py::test_weights_are_trained_tested_and_shipped',
    'python tools/prepare_data.py download': 'test_prepare_data.py::test_one_command_prepares_everything',
    'python tools/prepare_data.py link': 'test_prepare_data.py::test_link',
    'python tools/prepare_data.py check': 'test_prepare_data.py::test_full_decodes',
    'pip install -r requirements': 'test_scripts.py::test_virtual_environment_is_created_completed_and_kept',
    'python3 -m venv ~/mrda': 'test_scripts.py::test_virtual_environment_is_created_completed_and_kept',
    'python main.py --model kdsr --stage 5': 'test_adversarial_stage.py::test_resume_is_bit_identical',
    'python upscale.py photos/ --weights experiment/real_stage5':
        'test_adversarial_stage.py::test_resume_is_bit_identical',
    'python app.py': 'test_app.py::test_browser_from_upload_to_download',
    'python tools/cut_tiles.py': 'test_cut_tiles.py::test_detailed_tiles_of_different_photos_are_written',
    'python tools/maintain/fit_choice.py': 'test_choice.py::test_the_tool_writes_a_rule',
    'python tools/maintain/ablations.py': 'test_ablations.py::test_every_variant_is_trained_and_tested_once',
    'python main.py --stage 2 --test_only --n_feats 48':
        'test_zoo.py::test_shipped_meta_learning_networks_are_described_and_tested',
    'python main.py --extension larger_steps.py --stage 2': 'test_zoo.py::test_larger_steps_gain_more_under_large_blur',
    'python tools/engines.py': 'test_engines.py::test_table_of_engines',
    'sh scripts/app.sh': 'test_app.py::test_the_script_starts_the_page',
    'python tools/maintain/draw_map.py': 'test_app.py::test_draw_map',
    'ruff check .': 'test_style.py::test_ruff_finds_nothing',
}
# Flags appended to a command so that it takes little time, by program: the last flag wins.
NETWORK = ['--n_feats', '8', '--n_blocks', '1']
SMALL = [*NETWORK, '--patch_size', '8', '--batch_size', '2', '--test_every', '1', '--epochs_sr', '1', '--n_GPUs', '1',
         '--epochs_encoder', '0', '--task_iter', '1', '--test_iter', '1', '--meta_batch_size', '1', '--n_threads', '0',
         '--print_every', '1', '--device', 'cpu']
BEHIND = {'main.py': SMALL, 'tools/make_testset.py': SMALL, 'tools/maintain/draw_kernels.py': [],
          'tools/grow_weights.py': [], 'tools/prepare_data.py': [], 'tools/convert_weights.py': [],
          'tools/maintain/write_options.py': [], 'tools/maintain/draw_figures.py': [],
          'tools/cost.py': [*NETWORK, '--size', '16x16', '--runs', '1', '--device', 'cpu'],
          'tools/map_degradations.py': [*NETWORK, '--device', 'cpu'],
          'tools/draw_degradations.py': ['--count', '2'], 'tools/compare.py': [], 'tools/metrics.py': [],
          'tools/make_report.py': [], 'tools/export_onnx.py': NETWORK, 'upscale.py': ['--device', 'cpu']}
# Commands that need a package of requirements-extra.txt, by a part of them; without it they are left out.
EXTRA = {'export_onnx.py': 'onnxscript', 'run_onnx.py': 'onnxruntime', '--tensorboard': 'tensorboard'}
# Replacements of programs in the PATH, which record how they were called. Of others only TOOLS are found.
RECORDED = 'python', 'python3', 'torchrun'
RECORDER = '#!/bin/sh\n{ printf "%s\\0" "${0##*/}" "$@"; echo; } >> "$CALLS"\n'
TOOLS = 'cat', 'dirname', 'grep', 'head', 'sh', 'tail'
CLUSTER = {'sbatch': 'exec sh "$@"', 'scontrol': 'echo localhost', 'srun': 'exec "$@"'}


def blocks(page):
    """The indented blocks outside of fences, all of which are commands: lists of lines."""
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    return [[line.strip() for line in block.splitlines() if line.strip()]
            for block in re.findall(r'(?:^ {4,}(?![-*] ).*\n)+', text, re.M)]


def commands(page):
    """Each command of a page, comments and line ends removed."""
    lines = [line for block in blocks(page) for line in '\n'.join(block).replace('\\\n', ' ').splitlines()]
    return [stripped for line in lines if (stripped := re.sub(r'(^|\s)# .*', '', line).strip())]


def lacks(command):
    """Whether the command needs a package that is not installed."""
    return any(part in command and find_spec(package) is None for part, package in EXTRA.items())


def elsewhere(command):
    return next((test for start, test in ELSEWHERE.items() if command.startswith(start)), None)


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory):
    """A copy of the repository with tiny data sets in the documented places, and a run of all four stages."""
    root = tmp_path_factory.mktemp('documented') / 'repository'
    for name in 'scripts', 'docs', 'tools':
        shutil.copytree(ROOT / name, root / name)
    for path in (*ROOT.glob('requirements*.txt'), ROOT / 'option.py'):
        shutil.copy(path, root)
    (root / 'hubconf.py').symlink_to(ROOT / 'hubconf.py')  # it finds the project by its own path
    image = photos.chelsea()[100:148, 120:172].copy()
    names = ['DF2K/HR/a', 'DF2K/HR/b', 'Tiles/HR/a',
             *(f'benchmark/{name}/HR/c' for name in ('Set5', 'Set14', 'B100', 'Urban100', 'Manga109'))]
    for name in names:
        write_rgb(root / 'datasets' / f'{name}.png', image)
    for name in ('my_photos/a', 'pairs/HR/p', 'pairs/HR/q', 'datasets/benchmark/RealSR/HR/r',
                 'datasets/benchmark/DIV2KRK/HR/im_1'):
        write_rgb(root / f'{name}.png', image)
    for name in 'pairs/LR/px4', 'pairs/LR/q', 'realsr/LR/r', 'DIV2KRK/lr_x4/im_1':
        write_rgb(root / f'{name}.png', np.ascontiguousarray(image[::4, ::4]))
    savemat(root / 'kernels.mat', {'kernels': np.eye(7)[None].repeat(3, 0) / 7})
    for name in 'photos/a.png', 'photo.jpg', 'more/b.png':
        write_rgb(root / name, image[:20, :24])
    for name in 'sr/a_x4.png', 'hr/a.png':
        write_rgb(root / name, image)
    for name in RECORDED:
        put(root / 'bin' / name, RECORDER)
    for name, text in CLUSTER.items():
        put(root / 'bin' / name, f'#!/bin/sh\n{text}\n')
    for name in TOOLS:
        (root / 'bin' / name).symlink_to(shutil.which(name))
    home = os.getcwd()
    os.chdir(root)
    try:
        assert program.main(['--stage', 'all', '--dir_cache', 'cache', *SMALL]) == 0
        assert quickstart.main(SMALL) == 0
    finally:
        os.chdir(home)
    shutil.copy(root / 'experiment/stage4_x4_bicubic_iso/model/model_ST_last.pt', root / 'weights.pt')
    return root


def put(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def workplace(sandbox, tmp_path, monkeypatch):
    """A copy of the sandbox as the current folder."""
    folder = tmp_path / 'repository'
    shutil.copytree(sandbox, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
    return folder


def calls(command, folder):
    """The programs that a shell starts for `command`: lists of name and arguments."""
    record = folder / 'calls'
    record.write_bytes(b'')
    environment = {'PATH': str(folder / 'bin'), 'PYTHON': 'python', 'CALLS': str(record),
                   'SLURM_JOB_NODELIST': 'localhost', 'SLURM_NNODES': '1', 'SLURM_JOB_ID': '1'}
    command = command.replace('DIR_DATA=/data', 'DIR_DATA=datasets')
    run = subprocess.run([shutil.which('sh'), '-c', command], cwd=folder, env=environment, capture_output=True,
                         text=True)
    assert run.returncode == 0, f'{command}: {run.stderr}'
    found = [line.split('\0')[:-1] for line in record.read_text().splitlines()]
    assert found, f'{command}: starts no known program'
    return found


def start(name, *arguments):
    """Run a program with small settings in this process; returns the exit status."""
    if name == 'torchrun' or arguments[:2] == ('-m', 'torch.distributed.run'):
        asked = parse_torchrun(list(arguments if name == 'torchrun' else arguments[2:]))
        return start('python', asked.training_script, *asked.training_script_args)
    if arguments[0] == '-c':
        exec(compile(arguments[1], 'documentation', 'exec'), {})
        return 0
    file, *flags = os.path.relpath(arguments[0]), *arguments[1:]
    own = file not in BEHIND
    assert not own or Path(file).is_file(), f'{file}: say in BEHIND with which flags it takes no time'
    if file == 'main.py' and '--extension' in flags:
        return finish(Path.cwd(), 1, main_alone, *flags, *small(file, flags))[0]
    if own or '--extension' in flags:  # written by the page itself: in a separate process
        words = [file, *flags, *SMALL] if own else [str(ROOT / file), *flags, *small(file, flags)]
        environment = os.environ | {'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path]), 'OMP_NUM_THREADS': '1'}
        return subprocess.run([sys.executable, *words], env=environment).returncode
    flags += small(file, flags)
    if file == 'main.py':
        return program.main(flags)
    before, sys.argv = sys.argv, [file, *flags]
    try:
        runpy.run_path(str(ROOT / file), run_name='__main__')
    except SystemExit as error:
        return error.code
    finally:
        sys.argv = before
    return 0


def small(file, flags):
    """Flags that make the command fast; a training starts over, or resumes the run of one epoch."""
    more = list(BEHIND[file])
    known = 'mrda_s_', 'kdsr_s_', 'motion_x4', 'x2.pt'  # weights whose sizes are read from them
    sized = any(name in flag for flag in flags for name in known)
    if sized and more[:len(NETWORK)] == NETWORK:
        more = more[len(NETWORK):]
    if 'kdsr' in flags and not sized:
        more += ['--n_resblocks', '1']
    if any(flag.startswith('linear_') for flag in flags):
        more += ['--decay_type', 'linear_0']
    if file != 'main.py' or {'--test_only', '--help', '--load', '--dir_demo'} & set(flags):
        return more
    return [*more, '--resume', '1'] if '--resume' in flags else [*more, '--reset']


@pytest.mark.slow
@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_commands_run(page, workplace):
    for source in (body for kind, body in FENCE.findall(page.read_text(encoding='utf-8')) if kind == 'python'):
        name = re.match(r'# (\w+\.py)\n', source)
        assert name, f'{page.name}: a block of Python begins with the name of its file'
        Path(name[1]).write_text(source, encoding='utf-8')
    for command in commands(page):
        if elsewhere(command) or lacks(command):
            continue
        for call in calls(command, workplace):
            try:
                status = start(*call)
            except SystemExit as error:  # --help
                status = error.code
            assert not status, f'{page.name}: {command}: {shlex.join(call)} ends with {status}'
        for target in re.findall(r' (?:-o|--out|--dir_out) (\S+)', command):
            assert Path(target).exists(), f'{page.name}: {command}: writes no {target}'
    torch.set_num_threads(1)


def test_commands_run_elsewhere_have_a_test():
    documented = [command for page in PAGES for command in commands(page)]
    for beginning, test in ELSEWHERE.items():
        file, _, name = test.partition('::')
        tree = ast.parse((ROOT / 'test' / file).read_text(encoding='utf-8'))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
        assert any(command.startswith(beginning) for command in documented), f'{beginning}: no longer in any page'


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    headings = re.findall(r'^#+ (.*)$', text, re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda path: path.name)
def test_links_resolve(page):
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if not link.startswith('http'):
            path, _, anchor = link.partition('#')
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f'{page.name}: {link}'
            assert not anchor or anchor in anchors(target), f'{page.name}: {link}'


def test_every_page_is_linked_from_the_readme():
    assert set(re.findall(r'\((docs/[a-z]+\.md)\)', PAGES[0].read_text(encoding='utf-8'))) == {
        f'docs/{page.name}' for page in PAGES if page.parent.name == 'docs'}


def test_named_files_exist():
    folders = 'scripts|tools|model|data|loss|run|store|process|photo|reference|report|test|benchmark|docs|assets|zoo'
    named = re.compile(rf'`((?:{folders})/[\w./]*(?:\.(?:py|sh|md|png)|/))`')
    for page in PAGES:
        for path in named.findall(page.read_text(encoding='utf-8')):
            assert (ROOT / path).exists(), f'{page.name}: {path}'


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').splitlines()) <= 180


def test_options_page_matches_the_program():
    assert (ROOT / 'docs/options.md').read_text(encoding='utf-8') == write_options.text(), \
        'run python tools/maintain/write_options.py'


def test_parameter_counts_match_the_networks():
    with torch.device('meta'):
        networks = [network for scale in (2, 3, 4) for network in (
            MLN(128, scale), mrda.teacher(scale), mrda.student(scale), *mrda.teacher(scale).children(),
            *mrda.student(scale).children())]
        networks += [make(4, *size) for make in (kdsr.teacher, kdsr.student) for size in ((64, 53, 9), (128, 28, 5))]
    counted = {f'{sum(p.numel() for p in network.parameters()):,}' for network in networks}
    assert set(re.findall(r'\d+,\d{3},\d{3}', (ROOT / 'docs/method.md').read_text(encoding='utf-8'))) == counted


def test_published_results_match_the_program():
    rows = [[cell.strip(' *') for cell in line.split('|')]
            for line in (ROOT / 'docs/reproduction.md').read_text(encoding='utf-8').splitlines() if line[:1] == '|']
    for method, scores in protocol.GAUSSIAN8_X4.items():
        cells = [f'{psnr:.2f} / {ssim:.4f}'.replace('/ 0.', '/ .') for psnr, ssim in scores]
        assert any(row[1].startswith(method) and row[2:7] == cells for row in rows), method
    for method, scores in protocol.MRDA9_SET14_X4.items():
        for at in 0, 9, 18:
            cells = [f'{psnr:.2f}' for psnr in scores[at:at + 9]]
            assert any(row[2].startswith(method) and row[3:12] == cells for row in rows), (method, at)


def templates():
    """Every string in the code, with … for placeholders."""
    for path in (path for path in ROOT.rglob('*.py') if 'test' not in path.relative_to(ROOT).parts[0]
                 and not path.relative_to(ROOT).parts[0].startswith('.')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield ''.join(part.value if isinstance(part, ast.Constant) else '…' for part in node.values)


FOREIGN = {'no kernel image is available for execution on the device'}  # PyTorch's own message


def test_quoted_messages_match_the_program():
    known = list(templates())
    page = (ROOT / 'docs/troubleshooting.md').read_text(encoding='utf-8')
    headings = re.findall(r'^### `(.*)`$', page, re.M)
    assert len(headings) > 40
    for heading in headings:
        pattern = re.compile('.*'.join(map(re.escape, heading.split('…'))), re.S)
        assert heading in FOREIGN or any(map(pattern.search, known)), heading
