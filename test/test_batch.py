"""Many photos in one call: existing results, failures, photos that another process is computing."""
import errno
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from photo_tools import NEAREST, RGB, files, save
from PIL import Image
from tqdm import tqdm

from photo import batch
from photo.batch import upscale_files
from photo.output import Output
from photo.targets import left_out, targets
from utility import UserError, shown


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / 'where').mkdir()
    monkeypatch.chdir(tmp_path / 'where')


def run(*sources, out='out', model=NEAREST, **options):
    """The log lines of a call."""
    output, lines = Output(2, **options), []
    upscale_files(model, targets(sources, Path(out), output), output, lines.append, left_out=left_out(sources))
    return lines


def test_existing_results_are_counted_and_are_no_failure():
    save('in/a.png')
    save('in/a.bmp')
    run('in', out='in')
    made = {name: Path('in', name).read_bytes() for name in files('in')}
    assert set(made) == {'a.png', 'a.bmp', 'a.png_x2.png', 'a.bmp_x2.png'}
    Path('in/a.png_x2.png').write_bytes(b'mine')
    assert run('in', out='in') == ['2 already there (--overwrite replaces them)']
    assert Path('in/a.png_x2.png').read_bytes() == b'mine'
    save('in/b.png')
    assert run('in', out='in')[-1] == '2 already there (--overwrite replaces them), 1 upscaled'
    Path('in/b_x2.png').unlink()
    Path('in/b.png').unlink()
    run('in', out='in', overwrite=True)
    assert {name: Path('in', name).read_bytes() for name in files('in')} == made


def test_a_result_that_cannot_be_written_does_not_stop_the_others(monkeypatch, capsys):
    for name in ('a', 'm' * 250, 'w', 'z'):
        save(f'in/{name}.png')
    write = batch.write_bands

    def short_of_memory(target, *what):
        if target.name.startswith('w'):
            raise MemoryError
        return write(target, *what)
    monkeypatch.setattr(batch, 'write_bands', short_of_memory)
    with pytest.raises(UserError, match='2 of 4 photos were not upscaled, for the reasons above'):
        run('in')
    assert files('out') == ['a_x2.png', 'z_x2.png']
    first, second = capsys.readouterr().err.splitlines()
    assert 'File name too long' in first and second.startswith('error: in/w.png: out of memory')


def test_failures_are_listed_one_per_line(capsys):
    save('in/a.png')
    Path('in/b.png').write_bytes(Path('in/a.png').read_bytes()[:-30])
    Path('in/c.jpg').touch()
    save('in/z.png')
    with pytest.raises(UserError, match='2 of 4 photos'):
        run('in')
    assert files('out') == ['a_x2.png', 'z_x2.png']
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith('error: in/b.png: cannot be read') and second.startswith('error: in/c.jpg: empty file')


def test_unsupported_images_are_listed_with_the_reason():
    for name in ('a.png', 'b.jfif', 'c.JPE', 'd.gif'):
        save(f'in/{name}', format='JPEG' if name[0] in 'bc' else None)
    for name in ('e.CR2', 'f.psd', 'notes.txt', '._g.nef'):
        Path('in', name).write_bytes(b'x')
    lines = run('in')
    assert files('out') == ['a_x2.png', 'b_x2.png', 'c_x2.png', 'd_x2.png']
    assert lines[:2] == ['left out: in/e.CR2: camera raw is not supported; develop it to TIFF or JPEG',
                         'left out: in/f.psd: PSD is not supported; save it as PNG or TIFF']
    assert lines[-1] == '2 left out, 4 upscaled'


def test_full_disk_stops_immediately(monkeypatch):
    for name in 'abc':
        save(f'in/{name}.png')
    monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, 'No space left on device')))
    done = []
    monkeypatch.setattr(batch, 'read_photo', lambda path, *more, read=batch.read_photo: done.append(path) or read(path))
    with pytest.raises(UserError, match=r'a_x2\.png: cannot write .* \(No space left.*; 3 of 3 photos were not'):
        run('in')
    assert len(done) == 1 and files('out') == []


class Slow:
    """NEAREST, but it waits for an event."""

    def __init__(self):
        self.scale, self.started, self.resume = 2, threading.Event(), threading.Event()

    def bands(self, *what):
        self.started.set()
        assert self.resume.wait(60)
        return NEAREST.bands(*what)


def test_photo_computed_by_another_process_is_skipped():
    for name in 'ab':
        save(f'in/{name}.png')
    slow, lines = Slow(), []
    first = threading.Thread(target=lambda: lines.extend(run('in', model=slow)))
    first.start()
    assert slow.started.wait(60)
    assert run('in') == ['in/b.png (10x14) -> out/b_x2.png (20x28)', '1 being upscaled by another run, 1 upscaled']
    slow.resume.set()
    first.join()
    assert lines[-1] == '1 upscaled, 1 already there (--overwrite replaces them)'
    assert files('out') == ['a_x2.png', 'b_x2.png'] and sorted(os.listdir('out')) == files('out')


def test_lock_of_a_killed_process_is_released():
    save('a.png')
    script = ('import os, sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\nfrom photo import batch\n'
              'with batch._locked(Path("out/a_x2.png")) as locked:\n    assert locked\n    os._exit(9)')
    root = str(Path(batch.__file__).parent.parent)
    assert subprocess.run([sys.executable, '-c', script, root], check=False).returncode == 9
    assert len(os.listdir('out')) == 1
    run('a.png')
    assert os.listdir('out') == ['a_x2.png']


WRITING = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import numpy as np
from photo import batch
from process.command import command_line
from photo.metadata import Metadata

def bands():
    yield np.zeros((4, 20, 3), np.uint8)
    print('begun', flush=True)
    time.sleep(60)

@command_line()
def main(argv=None):
    with batch._locked(Path('out/a_x2.png')):
        batch.write_bands(Path('out/a_x2.png'), bands(), 28, 20, Metadata())
sys.exit(main())
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_of_a_result_that_a_signal_interrupted(number):
    save('a.png')
    root = str(Path(batch.__file__).parent.parent)
    process = subprocess.Popen([sys.executable, '-c', WRITING, root], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert process.stdout.readline() == b'begun\n'
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert len(os.listdir('out')) == 2  # of which the next run takes care
    else:
        assert (process.returncode, said, os.listdir('out')) == (128 + number, b'\ninterrupted\n', [])
    Path('out/.writing.of another').touch()
    run('a.png')
    assert sorted(os.listdir('out')) == ['.writing.of another', 'a_x2.png']


def test_progress_counts_pixels(monkeypatch):
    save('in/a.png', np.zeros((40, 70, 3), np.uint8))
    save('in/b.png')
    Path('in/c.png').write_bytes(save('d.png').read_bytes()[:-30])
    bars = []

    class Bar(tqdm):
        def close(self):
            bars.append((self.n, self.total))
            super().close()
    monkeypatch.setattr(batch, 'tqdm', lambda **options: Bar(**{**options, 'disable': False, 'file': io.StringIO()}))
    with pytest.raises(UserError, match='1 of 3'):
        run('in')
    assert bars[0] == (40 * 70 + 2 * 140,) * 2


def test_decoders_print_nothing_to_stderr(capfd):
    save('in/turned.png', exif=b'Exif\0\0garbage')
    jpeg = bytearray(save('in/a.jpg', np.kron(RGB, np.ones((8, 8, 1), np.uint8))).read_bytes())
    Path('in/cut.jpg').write_bytes(jpeg[:len(jpeg) * 2 // 3])
    jpeg[len(jpeg) // 2] ^= 255
    Path('in/a.jpg').write_bytes(jpeg)
    Path('in/t.tif').write_bytes(save('whole.tif', compression='tiff_lzw').read_bytes()[:-40])
    with pytest.raises(UserError):
        run('in')
    assert all(line.startswith('error: in/') for line in capfd.readouterr().err.splitlines() if line)


def test_non_utf8_names_and_out_of_memory_are_reported(capsys):
    try:
        path = save(os.fsdecode(b'caf\xe9.png'))
    except OSError:
        pytest.skip('this file system takes no such name')
    assert r'caf\udce9.png' in run(path)[0]
    for error in (MemoryError('out of memory'), UserError('out of memory')):
        class Short:
            scale = 2

            def bands(self, *_, error=error):
                raise error
        with pytest.raises(UserError):
            run(path, model=Short(), overwrite=True)
        told = capsys.readouterr().err
        assert shown(path) in told and 'memory' in told


@pytest.mark.parametrize('options, name, size', [
    ({'outscale': 3}, 'a_x3.png', (30, 42)), ({'outscale': 1.5}, 'a_x1.5.png', (15, 21)),
    ({'width': 64}, 'a_64x.png', (64, 90)), ({'height': 7}, 'a_x7.png', (5, 7)),
    ({'width': 100, 'height': 28}, 'a_100x28.png', (20, 28)),
    ({'form': 'jpg'}, 'a_x2.jpg', (20, 28)), ({'form': 'same'}, 'a_x2.webp', (20, 28)),
    ({'form': 'tif'}, 'a_x2.tif', (20, 28))])
def test_results_have_the_requested_size_and_format(options, name, size):
    save('a.webp')
    run('a.webp', **options)
    assert files('out') == [name]
    with Image.open(Path('out', name)) as image:
        assert image.size == size
        assert image.format == {'.jpg': 'JPEG', '.tif': 'TIFF', '.png': 'PNG', '.webp': 'WEBP'}[Path(name).suffix]
