"""Trainings that are killed, stopped, damaged, started twice or hit a full disk lose nothing and end bit-identical."""
import errno
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from survival import check_equal, check_nothing_lost, finish, kill_at_random, start, timed, wait_for

from store.tensors import load_checkpoint
from utility import UserError

STEPS = ['--save_every_min', '0', '--test_every', '2']  # a checkpoint after every batch


@pytest.fixture(scope='module')
def one(library):
    """Flags of a training of stage 1 with a moving average, which saves after each batch."""
    return ['--dir_data', str(library), '--stage', '1', '--lr_sr', '1e-3', '--ema', '0.5', '--warmup', '3', *STEPS]


@pytest.fixture(scope='module')
def whole(one, tmp_path_factory):
    """(folder, write points) of that training, never interrupted."""
    folder = tmp_path_factory.mktemp('whole')
    assert finish(folder, one) == 0, (folder / 'printed').read_text()
    return folder, int((folder / 'points').read_text())


def survives(folder, flags, whole, points, **how):
    """A fault at each of `points`, then a run to the end, each in its own folder."""
    reference, _ = whole
    for point in points:
        place = folder / str(point)
        place.mkdir()
        status = finish(place, flags, point, **how)
        printed = (place / 'printed').read_text()
        # A failing write of a cache entry only costs speed, and a figure may fail.
        spared = re.search('decoding images for every patch|could not be drawn', printed)
        assert status in (-signal.SIGKILL, 2) or spared, printed
        check_nothing_lost(place)
        assert finish(place, flags, broken=how.get('broken')) == 0, (place / 'printed').read_text()
        check_equal(place, reference)


@pytest.mark.slow
def test_training_survives_kills_at_every_write(one, whole, tmp_path, request):
    survives(tmp_path, one, whole, range(1, whole[1] + 1, 1 if request.config.getoption('--sweep') else 9))


@pytest.mark.slow
@pytest.mark.parametrize('error', [errno.ENOSPC, errno.EIO])
def test_failed_write_is_one_line_and_loses_nothing(one, whole, tmp_path, request, error):
    step = 1 if request.config.getoption('--sweep') else 17
    survives(tmp_path, one, whole, range(1 + 4 * (error == errno.EIO), whole[1] + 1, step), fault=error)
    printed = [(place / 'printed').read_text() for place in tmp_path.iterdir()]
    assert all('Traceback' not in text and os.strerror(error) in text for text in printed if 'error: ' in text)


@pytest.mark.slow
@pytest.mark.parametrize('broken, how', [('not atomic', 'damaged'), ('deletes first', 'was saved'),
                                         ('forgets the optimizer', 'differs'), ('off by one', 'differs')])
def test_broken_saver_is_detected_by_this_test(one, whole, tmp_path, broken, how):
    with pytest.raises((AssertionError, UserError), match=how):
        survives(tmp_path, one, whole, range(20, whole[1], 5), broken=broken)


@pytest.mark.slow
def test_training_survives_random_kills_in_all_stages(library, tmp_path, request):
    if not request.config.getoption('--sweep'):
        pytest.skip('takes minutes: --sweep')
    flags = ['--dir_data', str(library), '--stage', 'all', '--epochs_encoder', '1', *STEPS]
    for name in 'whole', 'killed':
        (tmp_path / name).mkdir()
    seconds = timed(tmp_path / 'whole', flags)
    wanted, met, left = 200, 0, 0
    while met < wanted:
        folder = tmp_path / f'killed {left}'
        folder.mkdir()
        met += kill_at_random(folder, flags, seconds, min(10, wanted - met), seed=left)
        check_equal(folder, tmp_path / 'whole')
        left += 1


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_the_step_and_exits_with_75(one, library, tmp_path, number):
    flags = [*one, '--save_every_min', '60', '--test_every', '150', '--epochs_sr', '1']
    for name in 'whole', 'stopped':
        (tmp_path / name).mkdir()
    assert finish(tmp_path / 'whole', flags) == 0
    process = start(tmp_path / 'stopped', flags)
    printed = tmp_path / 'stopped' / 'printed'
    wait_for(lambda: printed.exists() and '[5/150]' in printed.read_text())
    os.kill(process.pid, number)
    process.join(10)
    assert process.exitcode == 75 and 'the same command resumes it' in printed.read_text()
    state, = (tmp_path / 'stopped' / 'experiment').rglob('state_*.pt')
    assert load_checkpoint(state)['batch'] >= 5 and 'Traceback' not in printed.read_text()
    assert finish(tmp_path / 'stopped', flags) == 0
    check_equal(tmp_path / 'stopped', tmp_path / 'whole')


def test_second_training_in_a_folder_is_refused_until_the_first_ends(one, tmp_path):
    flags = [*one, '--test_every', '1000', '--epochs_sr', '1', '--n_threads', '1', '--save_every_min', '60']
    first = start(tmp_path, flags)
    printed = tmp_path / 'printed'
    wait_for(lambda: printed.exists() and '[5/1000]' in printed.read_text())
    assert finish(tmp_path, flags) == 2
    assert f'process {first.pid} on ' in printed.read_text() and 'started 20' in printed.read_text()
    first.kill()
    first.join()
    assert finish(tmp_path, [*one, '--epochs_sr', '1', '--reset']) == 0


# ---------------------------------------------------------------- in this process

def checkpoints(run='stage1'):
    return Path('experiment', f'{run}_x2_bicubic_iso', 'model')


def test_damaged_checkpoint_is_skipped_with_a_warning(cli, capsys):
    assert cli('--stage', 1) == 0
    last, before = checkpoints() / 'state_2.pt', (checkpoints() / 'state_2.pt').read_bytes()
    last.write_bytes(before[:1000] + b'!' + before[1001:])
    assert cli('--stage', 1, '--resume', 2) == 2 and 'checksum' in capsys.readouterr().err
    assert cli('--stage', 1) == 0
    assert 'using state_1.pt instead' in capsys.readouterr().out
    for state in checkpoints().glob('state_*.pt'):
        state.write_bytes(b'')
    assert cli('--stage', 1) == 2 and 'every checkpoint is damaged' in capsys.readouterr().err


def test_options_that_change_the_result_are_refused_by_name(cli, library, tmp_path, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    assert cli('--stage', 1, '--weight_decay', '0.1', '--beta1', '0.8') == 2
    said = capsys.readouterr().err
    assert '--weight_decay was 0.0, is now 0.1' in said and '--beta1 was 0.9, is now 0.8' in said
    assert cli('--stage', 1, '--data_range', '1-2/1-2') == 2 and 'images was 3 images' in capsys.readouterr().err
    assert cli('--stage', 1, '--sig_max', '3', '--sig', '0.7') == 0        # stage 1 has no blur
    assert '--sig was 1.2, is now 0.7' in capsys.readouterr().out
    assert cli('--stage', 1, '--weight_decay', '0.1', '--epochs_sr', 3, '--accept_changes') == 0


def test_at_least_two_newest_checkpoints_are_kept(cli):
    assert cli('--stage', 1, '--save_every_min', 0, '--keep_states', 2, '--epochs_sr', 3) == 0
    assert {path.name for path in checkpoints().glob('state_*')} == {'state_2.pt', 'state_3.pt', 'state_3_3.pt'} - {
        'state_3_3.pt'} | {'state_2_3.pt'}


def test_closed_stdout_does_not_stop_a_training(cli, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with suppress(BrokenPipeError), os.fdopen(write, 'w') as gone:
        monkeypatch.setattr('sys.stdout', gone)
        assert cli('--stage', 1, '--epochs_sr', 1) == 0
    assert (checkpoints() / 'state_1.pt').exists()


def test_partial_files_are_removed(cli):
    assert cli('--stage', 1, '--epochs_sr', 1) == 0
    (checkpoints() / '.writing.x').write_bytes(b'half')
    assert cli('--stage', 1) == 0
    assert not list(checkpoints().glob('.writing*'))
