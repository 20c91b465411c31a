"""Archives are downloaded, resumed, verified and unpacked safely, from a server on this machine."""
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from mirror import Mirror, files, images, png, sums, tarred, zipped

from data import download, sources
from data.dataset import find_images

ROOT = Path(__file__).resolve().parent.parent
TRAIN, VALID = 'DIV2K_train_HR.zip', 'DIV2K_valid_HR.zip'
Usage = namedtuple('Usage', 'total used free')


def restate(mirror, name, content):
    """Replace an archive and its checksum."""
    mirror.files[name] = content
    mirror.files['SHA256SUMS'] = sums({name: content for name, content in mirror.files.items() if name[0] != 'S'})


# ---- connections ----

def test_lost_connection_is_resumed(prepare, mirror):
    size = len(mirror.files[TRAIN])
    mirror.cuts = [100, 500]
    status, _, err = prepare('download', 'DIV2K')
    assert status == 0 and f'the connection ended after 100 of {size:,} bytes; trying again' in err
    assert [asked for name, asked in mirror.asked if name == TRAIN] == [None, 'bytes=100-', 'bytes=600-']


def test_later_run_resumes(prepare, mirror):
    content = mirror.files[TRAIN]
    Path('data').mkdir()
    Path(f'data/{TRAIN}.part').write_bytes(content[:777])
    assert prepare('download', 'DIV2K')[0] == 0
    assert (TRAIN, 'bytes=777-') in mirror.asked and not Path(f'data/{TRAIN}.part').exists()


def test_complete_part_is_used(prepare, mirror):
    Path('data').mkdir()
    Path(f'data/{TRAIN}.part').write_bytes(mirror.files[TRAIN])
    assert prepare('download', 'DIV2K')[0] == 0


def test_too_long_part_starts_over(prepare, mirror):
    Path('data').mkdir()
    Path(f'data/{TRAIN}.part').write_bytes(mirror.files[TRAIN] + b'x')
    status, _, err = prepare('download', 'DIV2K')
    assert status == 0 and 'has changed: starting over' in err


def test_server_without_ranges_starts_over(prepare, mirror):
    mirror.ranges, mirror.cuts = False, [100]
    status, _, err = prepare('download', 'DIV2K')
    assert status == 0 and 'starting over' in err
    assert find_images('data', 'DIV2K', True)[0].read_bytes() == png(0)


def test_server_without_ranges_that_always_disconnects_fails(prepare, mirror):
    mirror.ranges, mirror.cuts = False, [100] * 50
    status, _, err = prepare('download', 'DIV2K')
    assert status == 2 and len([name for name, _ in mirror.asked if name == TRAIN]) == download.TRIES
    line = next(line for line in err.splitlines() if line.startswith('error'))
    assert f'{mirror.url}/{TRAIN}: the connection ended after 100 of' in line
    assert f'100 bytes are kept in data/{TRAIN}.part; run the same command again' in line
    assert Path(f'data/{TRAIN}.part').stat().st_size == 100
    mirror.ranges, mirror.cuts = True, []
    assert prepare('download', 'DIV2K')[0] == 0


def test_progress_resets_the_number_of_tries(prepare, mirror):
    mirror.cuts = [50] * (3 * download.TRIES)
    assert prepare('download', 'DIV2K')[0] == 0


def test_404_is_one_line_and_does_not_stop_others(prepare, mirror):
    del mirror.files['Flickr2K.tar']
    status, out, err = prepare('download', 'Flickr2K', 'Set5')
    assert status == 2 and err.count('error:') == 1
    assert f'error: {mirror.url}/Flickr2K.tar: HTTP 404' in err
    assert [name for name, _ in mirror.asked].count('Flickr2K.tar') == 1
    assert 'Set5: 5 of 5' in out and 'Flickr2K: none of 3 images; looked in ' in out


@pytest.mark.parametrize('status', [500, 503, 429])
def test_busy_server_is_retried(prepare, mirror, status):
    mirror.statuses = [status, status]
    assert prepare('download', 'DIV2K')[0] == 0
    assert [name for name, _ in mirror.asked].count(TRAIN) == 3


def test_refused_connection_is_one_line(prepare, small_sets):
    with Mirror({}) as gone:
        pass
    status, _, err = prepare('download', 'Set5', '--mirror', gone.url)
    assert status == 2 and err.startswith(f'error: {gone.url}/SHA256SUMS: ') and err.count('\n') == 1
    status, _, err = prepare('download', 'Set5', '--mirror', 'here')
    assert status == 2 and "--mirror 'here' is no URL" in err


def test_silent_server_is_retried(prepare, mirror, monkeypatch):
    monkeypatch.setattr(download, 'TIMEOUT', 0.3)
    mirror.cuts, mirror.stall = [100], 2
    status, _, err = prepare('download', 'DIV2K')
    assert status == 0 and f'{TRAIN}: timed out; trying again' in err and (TRAIN, 'bytes=100-') in mirror.asked


@pytest.mark.slow
def test_ctrl_c_of_the_command(prepare, mirror):
    mirror.cuts, mirror.stall = [100], 60
    script = ROOT / 'tools' / 'prepare_data.py'
    process = subprocess.Popen([sys.executable, script, 'download', 'DIV2K', '--dir_data', 'data'],
                               stderr=subprocess.PIPE, text=True,  # background jobs of a shell ignore SIGINT
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    part, deadline = Path(f'data/{TRAIN}.part'), time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == 100) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith('interrupted; the same command resumes\n')
    assert part.read_bytes() == mirror.files[TRAIN][:100]
    assert prepare('download', 'DIV2K')[0] == 0 and (TRAIN, 'bytes=100-') in mirror.asked


def test_ctrl_c_keeps_what_can_be_resumed(prepare, mirror, monkeypatch):
    monkeypatch.setattr(download, 'BLOCK', 64)
    blocks = download._blocks

    def interrupted(*arguments):
        for i, block in enumerate(blocks(*arguments)):
            if i == 3:
                raise KeyboardInterrupt
            yield block
    monkeypatch.setattr(download, '_blocks', interrupted)
    status, _, err = prepare('download', 'DIV2K')
    assert status == 130 and 'the same command resumes' in err
    assert Path(f'data/{TRAIN}.part').read_bytes() == mirror.files[TRAIN][:3 * 64]
    monkeypatch.setattr(download, '_blocks', blocks)
    monkeypatch.setattr(download, 'BLOCK', 1 << 20)
    assert prepare('download', 'DIV2K')[0] == 0 and (TRAIN, 'bytes=192-') in mirror.asked


def test_too_small_disk_is_reported_first(prepare, mirror, monkeypatch):
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda folder: Usage(9, 8, 1000))
    status, _, err = prepare('download', 'DIV2K')
    need = 2 * len(mirror.files[TRAIN]) + 2 * len(mirror.files[VALID]) - len(mirror.files[VALID])
    assert status == 2 and f'data: downloading and unpacking needs {need:,} bytes, only 1,000 are free' in err
    assert not files('data')


# ---- contents of archives ----

def refused(prepare, name='DIV2K'):
    """The error of a download, which must have written no image and renamed the archive."""
    status, _, err = prepare('download', name)
    lines = [line for line in err.splitlines() if line.startswith('error')]
    assert status == 2 and len(lines) == 1, err
    rejected = [file for file in files('data') if file.endswith('.rejected')]
    assert len(rejected) == 1 and f'data/{rejected[0]}' in lines[0]
    return lines[0]


def test_known_checksums_are_used_for_a_mirror_without_its_own(prepare, mirror):
    del mirror.files['SHA256SUMS']
    status, _, err = prepare('download', 'DIV2K')
    assert status == 2 and sources.TRAIN_ZIP.digest[7:] in err and 'its sha256 is' in err
    assert f'data/{TRAIN}.rejected' in err and not Path('data/DIV2K').exists()


def test_wrong_checksum_is_refused_and_a_correct_archive_accepted_later(prepare, mirror):
    good = mirror.files[TRAIN]
    mirror.files[TRAIN] = good[:-1] + bytes([good[-1] ^ 1])
    assert 'its sha256 is' in refused(prepare)
    assert [file for file in files('data') if 'train_HR/' in file] == []
    mirror.files[TRAIN] = good
    assert prepare('download', 'DIV2K')[0] == 0


@pytest.mark.parametrize('evil', ['../evil.png', 'DIV2K_train_HR/../../evil.png', '/tmp/DIV2K_train_HR/evil.png',
                                  '..\\DIV2K_train_HR\\evil.png', 'C:\\DIV2K_train_HR\\evil.png'])
@pytest.mark.parametrize('kind', ['zip', 'tar'])
def test_paths_outside_the_folder_are_refused(prepare, mirror, small_sets, kind, evil):
    name, part, pack = {'zip': (TRAIN, 'DIV2K', zipped), 'tar': ('Flickr2K.tar', 'Flickr2K', tarred)}[kind]
    restate(mirror, name, pack({**images(small_sets[part]), evil: png(0)}))
    assert 'a path outside its folder' in refused(prepare, part)
    assert not list(Path().rglob('*evil*')) and not Path('/tmp/DIV2K_train_HR').exists()


def test_links_and_special_files_are_not_unpacked(prepare, mirror, small_sets):
    link = tarfile.TarInfo('Flickr2K/Flickr2K_HR/000001.png')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/hostname'
    content = {**images(small_sets['Flickr2K'], 'Flickr2K/'), link.name: link}
    restate(mirror, 'Flickr2K.tar', tarred(content))
    assert 'it contains 2 images of Flickr2K in Flickr2K_HR/, not 3' in refused(prepare, 'Flickr2K')
    content = images(small_sets['DIV2K'])
    info = zipfile.ZipInfo(next(iter(content)))
    info.external_attr = 0o120777 << 16
    del content[info.filename]
    with zipfile.ZipFile('with_link.zip', 'w') as archive:
        archive.writestr(info, '/etc/hostname')
        for name, data in content.items():
            archive.writestr(name, data)
    restate(mirror, TRAIN, Path('with_link.zip').read_bytes())
    Path('data/Flickr2K.tar.rejected').unlink()
    assert 'it contains 3 images of DIV2K' in refused(prepare)


def test_a_corrupted_zip_is_refused(prepare, mirror):
    good = mirror.files[TRAIN]
    place = good.index(b'IDAT', len(good) // 2) + 9
    flipped = good[:place] + bytes([good[place] ^ 1]) + good[place + 1:]
    for bad in (flipped, good[:len(good) // 2], b'<html>sorry</html>'):
        restate(mirror, TRAIN, bad)
        assert 'damaged (' in refused(prepare)
    restate(mirror, 'Flickr2K.tar', b'<html>sorry</html>' * 99)
    Path(f'data/{TRAIN}.rejected').unlink()
    assert 'damaged (' in refused(prepare, 'Flickr2K')


def test_too_large_images_are_refused(prepare, mirror, small_sets, monkeypatch):
    monkeypatch.setattr(download, 'LARGEST', 5000)
    restate(mirror, TRAIN, zipped({**images(small_sets['DIV2K']), 'DIV2K_train_HR/0001.png': bytes(5001)}))
    assert '0001.png is too large: 5,001 bytes' in refused(prepare)


def test_wrong_declared_size_is_refused(prepare, mirror, small_sets):
    bomb = bytearray(zipped(images(small_sets['DIV2K'])))
    entry = bomb.index(b'PK\1\2')
    bomb[entry + 24:entry + 28] = (1 << 20).to_bytes(4, 'little')
    restate(mirror, TRAIN, bytes(bomb))
    assert 'damaged' in refused(prepare)
