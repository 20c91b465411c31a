"""The page of app.py: what it makes is what upscale.py makes, sessions are kept apart, and nothing of them stays."""
import builtins
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import draw_map
import draw_representations
import numpy as np
import pytest
import torch
from browser import opened, programs
from photo_tools import NEAREST, SCENE, SRGB, mixing_student, save
from PIL import Image

import app
import upscale
from model import zoo
from photo import degradation_map, preview
from photo.degradation_map import DegradationMap
from photo.desk import KEPT, Desk
from photo.image import Photo
from photo.job import Job
from photo.output import Output
from photo.watched import Watched
from upscale import load
from utility import UserError

NAME, SMALL = 'mrda_s_x4_iso', np.ascontiguousarray(SCENE[:24, :30])
ALL, ENTER = '\ue009a\ue000', '\ue007'  # WebDriver's keys: Ctrl-A, released, and Enter
needs_gradio = pytest.mark.skipif(app.gr is None, reason='gradio of requirements-app.txt missing')


def camera(path, array=SMALL):
    """A JPEG file as a phone writes it, with metadata and a profile."""
    exif = Image.Exif()
    exif.update({274: 6, 271: 'Canon', 306: '2020:01:02 03:04:05'})
    return save(path, array, exif=exif, icc_profile=SRGB, dpi=(300, 300))


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / 'root', lambda name, tile: mixing_student(), 10_000)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


@pytest.mark.parametrize('outscale, form, tile', [(4, 'png', None), (2, 'same', None), (3, 'tif', 32),
                                                  (4, 'webp', None)])
def test_the_result_is_the_file_of_upscale(outscale, form, tile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = camera("Zoë's photo.jpg")
    flags = ['--outscale', str(outscale), '--format', form, '--device', 'cpu', *(['--tile', str(tile)] if tile else [])]
    assert upscale.main([str(path), '-o', 'direct', '--weights', NAME, *flags]) == 0
    desk = Desk(tmp_path / 'root', lambda name, tile: load(name, 'cpu', tile=tile), 10_000)
    words, picture = desk.take('me', path)
    assert words == "Zoë's photo.jpg: 24 x 30 pixels, RGB, profile, EXIF" and Image.open(picture).size == (24, 30)
    job = desk.start('me', NAME, outscale, form, tile)
    assert job.wait(60) and job.state == 'done', job.error
    direct, = Path('direct').iterdir()
    assert job.result.name == direct.name and job.result.read_bytes() == direct.read_bytes()
    assert job.watched.done == 1 and job.size == (30 * outscale, 24 * outscale)
    sizes = {Image.open(job.folder / f'{name}.jpg').size for name in ('before', 'after')}
    assert sizes == {(24 * outscale, 30 * outscale)}


@pytest.mark.parametrize('tile, steps', [(None, 2), (32, 8)])
def test_progress_grows_within_a_part_and_over_parts(tile, steps):
    model, seen = mixing_student(), []
    model.tile = tile
    watched = Watched(model, threading.Event())
    layer = model.student.G.body[0].body[0].conv1.register_forward_hook(lambda *_: seen.append(watched.done))
    for _ in watched.bands(SCENE, lambda pixels: seen.append(watched.done)):
        pass
    layer.remove()
    seen = seen[1:]                                         # the first pass is that in which layers are counted
    assert seen == sorted(seen) and 0 < seen[0] < seen[-1] == 1
    assert len(set(seen)) >= steps
    assert not any(module._forward_pre_hooks for module in model.student.modules())
    assert watched.rep.shape == (1, 256)


def held(model):
    """(event set once `model` computes, event that it then waits for)."""
    begun, go = threading.Event(), threading.Event()

    def wait(*_):
        begun.set()
        assert go.wait(30)
    model.student.G.head[0].register_forward_pre_hook(wait)
    return begun, go


def test_cancel_ends_the_work_and_leaves_no_file(tmp_path):
    model = mixing_student()
    begun, go = held(model)
    job = Job(model, save(tmp_path / 'a.png', SCENE), tmp_path / 'out', Output(2, overwrite=True), 10_000)
    assert begun.wait(30) or go.set()
    job.cancel()
    go.set()
    assert job.wait(30) and job.state == 'cancelled' and job.error == '' and files(tmp_path) == ['a.png']


def test_a_fault_becomes_one_line(tmp_path, capsys):
    model = mixing_student()

    def fail(*_):
        raise RuntimeError('two\nlines')
    model.student.G.register_forward_pre_hook(fail)
    job = Job(model, save(tmp_path / 'a.png', SCENE), tmp_path / 'out', Output(2), 10_000)
    assert job.wait(30) and (job.state, job.error) == ('failed', 'RuntimeError: two lines')
    assert 'Traceback' in capsys.readouterr().err


@pytest.mark.parametrize('name, content, said', [
    ('notes.txt', b'no image at all', 'notes.txt: '), ('broken.png', b'\x89PNG\r\n\x1a\nbroken', 'broken.png: '),
    ('large.png', None, '10,000')])
def test_what_is_no_photo_is_refused_in_one_line(name, content, said, desk, tmp_path):
    path = tmp_path / name
    if content is None:
        save(path, np.zeros((101, 100, 3), np.uint8))
    else:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        desk.take('me', path)
    assert said in str(error.value) and '\n' not in str(error.value) and str(tmp_path) not in str(error.value)
    assert desk.photo('me') is None
    with pytest.raises(UserError, match='no photo yet'):
        desk.start('me', NAME, 2, 'png', None)


def test_what_a_format_cannot_hold_is_told(desk, tmp_path):
    desk.take('me', save(tmp_path / 'clear.png', np.dstack([SMALL, SMALL[..., :1]])))
    job = desk.start('me', NAME, 2, 'jpg', None)
    assert job.wait(30) and job.state == 'failed' and job.error.startswith('clear.png: JPEG ')


def test_sessions_are_apart_and_leave_nothing(desk, tmp_path):
    for session, shade in (('a', 0), ('../../b', 200)):
        path = save(desk.root / 'upload' / session.replace('/', '_') / 'x.png', np.full((8, 9, 3), shade, np.uint8))
        desk.take(session, path)
    jobs = {session: desk.start(session, NAME, 2, 'png', None) for session in ('a', '../../b')}
    assert all(job.wait(30) for job in jobs.values())
    assert [np.array(Image.open(job.result)).max() for job in jobs.values()] == [0, 200]
    assert {path.split('/')[0] for path in files(tmp_path)} == {'root'}
    assert desk.folder('../../b').parent == desk.folder('a').parent == desk.root / 'sessions'
    desk.leave('a')
    assert not desk.folder('a').exists() and jobs['../../b'].result.exists()
    desk.leave('../../b')
    assert not files(tmp_path)


def test_what_was_left_behind_is_swept(desk):
    old = save(desk.root / '0123' / 'x.png'), save(desk.folder('gone') / 'photo' / 'x.png')
    kept = save(desk.root / 'examples' / 'x.jpg'), save(desk.root / '4567' / 'x.png')
    for path in (old[0].parent, desk.folder('gone'), kept[0].parent):
        os.utime(path, (time.time() - KEPT - 9,) * 2)
    desk.sweep()
    assert not any(path.exists() for path in old) and all(path.exists() for path in kept)


@pytest.mark.parametrize('side', [4096, 50])
def test_previews_show_the_same_part(side, monkeypatch):
    monkeypatch.setattr(preview, 'SIDE', side)
    image = np.ascontiguousarray(SCENE[:45, :61])
    watched = Watched(NEAREST, threading.Event())
    large = np.concatenate(list(watched.bands(image, lambda pixels: None)))
    before, after = watched.preview.pair(Photo(image), *large.shape[:2])
    assert before.size == after.size and max(after.size) <= side
    k = -(-122 // side)
    exact = large[:len(large) // k * k, :122 // k * k].reshape(len(large) // k, k, 122 // k, k, 3).mean((1, 3))
    assert np.abs(np.array(after, float) - exact).max() <= 0.5
    assert np.abs(np.array(before, float) - exact).mean() < 6
    deep = np.dstack([image, np.zeros_like(image[..., :1])]).astype(np.uint16) * 257
    deep = preview.screen_image(deep, Photo(image).metadata)
    assert deep.mode == 'RGB' and np.array(deep).min() == 255                   # clear: white


def test_thirty_jobs_in_a_row_leave_no_hook_and_one_result(desk, tmp_path):
    model = mixing_student()
    desk.load = lambda name, tile: model
    threads = threading.active_count()
    for i in range(30):
        desk.take('me', save(tmp_path / f'{i}.png', SMALL))
        assert desk.start('me', NAME, 2, 'png', None).wait(30)
    assert not any(module._forward_pre_hooks for module in model.student.modules())
    assert threading.active_count() == threads and len(desk.jobs) == 1
    assert len(files(desk.root)) == 5                       # the photo, its picture, the result, before and after
    assert desk.jobs['me'].watched.preview is None


def known(n=6):
    """A map of random representations of `n` blurs, each at two noise levels, and these representations."""
    rows = np.random.RandomState(0).randn(2 * n, 9) + np.repeat(np.arange(n), 2)[:, None]
    sizes = np.repeat(np.arange(n) + 1., 2)
    return DegradationMap.fit(rows, np.stack([sizes, sizes, 0 * sizes], 1), np.tile([0., 10.], n), 'sum'), rows


def test_map_places_what_it_was_made_of():
    found, rows = known()
    assert np.allclose([found.place(row) for row in rows], found.points)
    assert np.allclose(found.points.mean(0), 0) and (np.diff(found.shares) <= 0).all() and found.shares.sum() <= 1
    found.points[:] += 100 * np.arange(len(rows))[:, None]
    near = found.points[4] + 1
    assert found.estimate(near) == (3.0, 0.0)               # the median of the five nearest
    svg = ElementTree.fromstring(found.picture(near))
    marks = [element.tag for element in svg]
    assert marks.count('circle') == 6 + 2 and marks.count('polygon') == 6 and marks.count('text') == 1
    xs = [float(element.get('cx')) for element in svg if element.tag == 'circle']
    assert min(xs) > 0 and max(xs) < degradation_map.WIDTH and 'noise 10' in found.legend()


def test_map_of_other_weights_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, 'ZOO', tmp_path)
    monkeypatch.setattr(zoo, 'index', lambda: {'mine': {'sha256': 'sum'}})
    found, _ = known()
    assert DegradationMap.of('mine') is None
    path = tmp_path / 'mine.map.json'
    path.write_text(found.text())
    assert np.allclose(DegradationMap.of('mine').points, found.points, rtol=1e-2)
    path.write_text(found.text().replace('"sum"', '"another"'))
    assert DegradationMap.of('mine') is None
    path.write_text('{"mean": 1}')
    with pytest.raises(UserError, match=r'mine\.map\.json: no map'):
        DegradationMap.of('mine')


@pytest.mark.parametrize('path', sorted(zoo.ZOO.glob('*.map.json')), ids=lambda path: path.name)
def test_shipped_maps_are_of_the_shipped_weights(path):
    found = DegradationMap.of(path.name.removesuffix('.map.json'))
    assert found is not None, 'run python tools/maintain/draw_map.py'
    assert path.stat().st_size < draw_map.BYTES and found.shares[0] <= 1 and len(found.points) > 50


def test_draw_map(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, 'ZOO', tmp_path)
    monkeypatch.setattr(draw_map, 'PHOTOS', draw_map.PHOTOS[:2])
    monkeypatch.setattr(draw_map, 'LARGEST', (64, 64))
    student = mixing_student().student
    zoo.ship('tiny', student.state_dict(), {'blur_type': 'iso_gaussian', 'sig_min': 0.2, 'sig_max': 2.0})
    assert draw_map.main([]) == 0 and 'tiny.map.json: 18 points' in capsys.readouterr().out
    found = DegradationMap.of('tiny')
    assert found.blurs[:, 0].max() == 2 and found.blur_error > 0 and np.isfinite(found.points).all()
    assert draw_map.main(['absent']) == 2 and 'absent: no shipped weights' in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'assets').mkdir()
    assert draw_representations.main(['tiny']) == 0 and Image.open('assets/representations.png').width > 400
    assert draw_representations.main(['absent']) == 2 and 'absent: no map' in capsys.readouterr().err


def test_without_gradio_one_line_says_what_to_do(monkeypatch, capsys):
    imported = builtins.__import__
    monkeypatch.setattr(builtins, '__import__', lambda name, *more, **named: (_ for _ in ()).throw(ImportError(name))
                        if name == 'gradio' else imported(name, *more, **named))
    module = importlib.util.module_from_spec(importlib.util.find_spec('app'))
    module.__spec__.loader.exec_module(module)
    assert module.main([]) == 2
    said = capsys.readouterr().err
    assert 'gradio is missing' in said and 'requirements-app.txt' in said and said.count('\n') == 1


@pytest.mark.parametrize('flags', [['--port', '0'], ['--device', 'abacus'], ['--max_pixels', 'none'], ['photo.jpg']])
def test_mistakes(flags, capsys):
    assert app.main(flags) == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and said.count('\n') == 1


def test_the_script_starts_the_page():
    script = Path(app.__file__).parent / 'scripts' / 'app.sh'
    run = subprocess.run(['sh', script, '--port', '7000'], env=os.environ | {'PYTHON': 'echo'}, capture_output=True,
                         text=True)
    assert run.stdout.endswith('app.py --port 7000\n') and run.returncode == 0
    assert 'requirements-app.txt' in script.read_text()


@pytest.fixture
def page(desk):
    return app.Page(desk, desk.root)


def ask(session='me'):
    return SimpleNamespace(session_hash=session)


def text(page, changes):
    return changes[page.status]


@needs_gradio
def test_handlers_of_the_page(page, tmp_path):
    changes = page.taken(str(camera(tmp_path / 'a.jpg')), ask())
    assert 'a.jpg: 24 x 30 pixels' in text(page, changes) and changes[page.view]['value'].endswith('.jpg')
    assert 'Starting' in text(page, page.waiting())
    *_, last = page.upscaled(NAME, 2, 'png', 'auto', ask())
    assert last[page.download]['value'].endswith('/a_x2.png') and Path(last[page.download]['value']).exists()
    assert len(last[page.slider]['value']) == 2 and last[page.run]['interactive'] and 'svg' in last[page.place]
    assert 'a_x2.png: 48 x 60 pixels' in text(page, last) and f's, {NAME}. Left' in text(page, last)
    *_, last = page.upscaled(page.weights.value, 2, 'png', 'auto', ask())               # automatic
    assert page.weights.value not in zoo.index() and f's, {zoo.default()}. Left' in text(page, last)
    assert zoo.default() in app.card(page.weights.value) and app.card(NAME).startswith(f'# {NAME}')
    wrong = page.taken(str(save(tmp_path / 'b.png').rename(tmp_path / 'b.txt')), ask())
    assert wrong[page.download]['value'] is None
    (tmp_path / '<b>.txt').write_text('no image')
    wrong = page.taken(str(tmp_path / '<b>.txt'), ask())
    assert 'error' in text(page, wrong) and '&lt;b&gt;.txt' in text(page, wrong) and wrong[page.view]['value'] is None
    nothing, = page.upscaled(NAME, 2, 'png', 'auto', ask())
    assert 'no photo yet' in text(page, nothing)
    for weights, tile in (('../../etc/passwd', 'auto'), (NAME, '7')):
        assert 'choose them from the lists' in text(page, next(page.upscaled(weights, 2, 'png', tile, ask())))
    for index in range(len(page.examples)):
        assert 'pixels' in text(page, page.example(index, ask()))[:80] or index    # larger ones are refused here
    page.left(ask())
    assert not page.desk.folder('me').exists()


@needs_gradio
def test_cancel_while_it_computes(page, tmp_path):
    model = mixing_student()
    begun, go = held(model)
    page.desk.load = lambda name, tile: model
    page.taken(str(camera(tmp_path / 'a.jpg')), ask())
    steps = page.upscaled(NAME, 2, 'png', 'auto', ask())
    assert next(steps)[page.stop]['interactive'] and begun.wait(30)
    assert 'another photo' in text(page, page.waiting())
    threading.Timer(0.2, go.set).start()
    assert 'Cancelled' in text(page, page.cancelled(ask()))
    *_, last = steps
    assert 'Cancelled' in text(page, last) and last[page.run]['interactive'] and not page.desk.jobs


@needs_gradio
def test_a_port_that_is_taken(page):
    with socket.socket() as other, pytest.raises(UserError, match='--port'):
        other.bind(('127.0.0.1', 0))
        other.listen()
        app.launch(page.blocks, '127.0.0.1', other.getsockname()[1])


@needs_gradio
def test_the_page_is_private(page):
    config = page.blocks.get_config_file()
    assert config['analytics_enabled'] is False
    assert all(call['api_visibility'] == 'private' for call in config['dependencies'] if call['targets'])
    text = json.dumps(config)
    assert 'googleapis' not in text and '//cdn' not in text


@needs_gradio
def test_cards_and_maps(desk):
    assert app.card(NAME).startswith(f'# {NAME}') and app.card('../README') == ''
    seen = SimpleNamespace(watched=SimpleNamespace(rep=None))
    assert 'one colour' in app.placed(seen, NAME)
    seen.watched.rep = torch.zeros(1, 256)
    assert app.placed(seen, NAME).startswith('<svg') and 'guessing' in app.placed(seen, NAME)
    assert 'no map' in app.placed(seen, 'absent')


def interruptible():
    """In a child: Ctrl-C counts, also where the tests run in the background and ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """(address, process id, temporary folder) of app.py, started as a user starts it."""
    if app.gr is None or None in programs():
        pytest.skip('Chromium with chromedriver, or gradio, is not installed')
    temporary = tmp_path_factory.mktemp('tmp')
    environment = os.environ | {'TMPDIR': str(temporary), 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, Path(app.__file__), '--device', 'cpu', '--port', str(port),
                                '--max_pixels', '1e6'], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, preexec_fn=interruptible)
    said = process.stdout.readline()
    assert f'http://127.0.0.1:{port}/' in said, process.stderr.read()
    yield f'http://127.0.0.1:{port}/', process.pid, temporary
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors == '\ninterrupted\n'            # no traceback, no warning
    assert not files(temporary)


@pytest.fixture(scope='module')
def browser(served, tmp_path_factory):
    with opened(*programs(), tmp_path_factory.mktemp('profile')) as control:
        yield control


class Visit:
    """The page in a tab of its own."""

    def __init__(self, browser, address, width=1280, height=800, dark=False):
        self.browser = browser
        self.tab = browser.call('POST', '/window/new', {'type': 'tab'})['handle']
        self.front()
        browser.view(width, height, dark)
        browser.call('POST', '/url', {'url': address})
        self.until("return document.querySelector('#run') && document.querySelectorAll('#examples img').length > 2")

    def front(self):
        self.browser.call('POST', '/window', {'handle': self.tab})

    def until(self, script, seconds=120):
        """What the script returns, once that is true."""
        end = time.monotonic() + seconds
        while not (value := self.browser.run(script)):
            assert time.monotonic() < end, f'{script}: {self.status()}'
            time.sleep(0.02)
        return value

    def status(self):
        return self.browser.run("return document.querySelector('#status .line').innerText")

    def upload(self, path, wanted=None):
        self.browser.keys(self.browser.find('#upload input'), str(path))
        wanted = json.dumps(wanted or f'{path.name}: ')
        self.until(f"return document.querySelector('#status .line').innerText.startsWith({wanted})")

    def choose(self, name, value):
        """Select a value of a list."""
        self.browser.keys(self.browser.find(f'#{name} input'), f'{ALL}{value}{ENTER}')
        self.until(f"return document.querySelector('#{name} input').value == {json.dumps(value)}")

    def press(self, name):
        self.until(f"const b = document.querySelector('#{name}'); if (!b.disabled) b.click(); return !b.disabled")

    def done(self, wanted):
        """Wait until the result `wanted` is shown."""
        self.until(f"return document.querySelector('#status .line').innerText.startsWith({json.dumps(wanted)}) && "
                   "!document.querySelector('#run').disabled && document.querySelectorAll('#slider img').length == 2")

    def downloaded(self, folder, name):
        self.browser.devtools('Browser.setDownloadBehavior', behavior='allow', downloadPath=str(folder))
        self.press('download')
        end = time.monotonic() + 120
        while not (folder / name).exists():
            assert time.monotonic() < end, files(folder)
            time.sleep(0.02)
        return (folder / name).read_bytes()

    def close(self):
        self.front()
        self.browser.call('DELETE', '/window')
        self.browser.call('POST', '/window', {'handle': self.browser.call('GET', '/window/handles')[0]})


@pytest.fixture
def visit(browser, served):
    visit = Visit(browser, served[0])
    yield visit
    visit.close()


def direct(path, folder):
    """The bytes of upscale.py's result."""
    assert upscale.main([str(path), '-o', str(folder), '--device', 'cpu']) == 0
    return (folder / f'{path.stem}_x4.png').read_bytes()


def test_browser_from_upload_to_download(visit, tmp_path):
    browser, path = visit.browser, camera(tmp_path / 'my phöto (1).jpg')
    browser.requests()
    visit.upload(path)
    visit.press('run')
    visit.done('my phöto (1)_x4.png: 96 x 120 pixels')
    assert visit.downloaded(tmp_path / 'got', 'my phöto (1)_x4.png') == direct(path, tmp_path / 'direct')
    handle = "return document.querySelectorAll('#slider img')[1].style.clipPath"
    before = browser.run(handle)
    browser.drag(browser.find('#slider .icon-wrap'), 0, -150)
    assert 'inset' in before and browser.run(handle) != before
    browser.devtools('Input.dispatchMouseEvent', type='mouseWheel', x=800, y=400, deltaX=0, deltaY=-300)
    visit.until("return !document.querySelector('#slider img').style.transform.endsWith('scale(1)')")
    browser.run("document.querySelectorAll('#tabs button[role=tab]')[1].click()")
    visit.until("return document.querySelector('#place .map .ring')")
    visit.choose('weights', 'mrda_s_x3_iso_small')
    visit.press('run')
    visit.until("return document.querySelector('#status .line').innerText.includes('mrda_s_x3_iso_small') && "
                "document.querySelector('#place .map .ring')")
    outside = [url for url in browser.requests() if not url.startswith(('http://127.0.0.1:', 'data:', 'blob:'))]
    assert not outside and not [entry for entry in browser.log('browser') if entry['level'] == 'SEVERE']


def test_browser_wrong_file_and_cancel(visit, tmp_path):
    (tmp_path / 'notes.jpg').write_text('no image')
    visit.upload(tmp_path / 'notes.jpg', 'notes.jpg: ')
    assert '\n' not in visit.status() and '/' not in visit.status()
    assert visit.browser.run("return document.querySelector('#status .error') && document.querySelector('#run')")
    visit.upload(save(tmp_path / 'large.png', np.random.RandomState(0).randint(0, 256, (500, 600, 3), np.uint8)))
    visit.press('run')
    visit.until("return document.querySelector('#status .bar') && /%/.test(document.querySelector('.line').innerText)")
    visit.press('stop')
    visit.until("return document.querySelector('#status .line').innerText == 'Cancelled.'")
    visit.upload(camera(tmp_path / 'next.jpg'))
    visit.press('run')
    visit.done('next_x4.png')


def test_browser_two_users_at_once(visit, served, tmp_path):
    other = Visit(visit.browser, served[0])
    paths = [save(tmp_path / str(i) / 'same.png', np.ascontiguousarray(SCENE[i:i + 30, :40])) for i in (0, 9)]
    for user, path in ((visit, paths[0]), (other, paths[1])):
        user.front()
        user.upload(path)
    for user in visit, other:
        user.front()
        user.press('run')
    for user, path in ((visit, paths[0]), (other, paths[1])):
        user.front()
        user.done('same_x4.png')
        folder = path.parent / 'got'
        assert user.downloaded(folder, 'same_x4.png') == direct(path, path.parent / 'direct')
    sessions = next(served[2].glob('mrda_app.*')) / 'sessions'
    there = len(list(sessions.iterdir()))
    other.close()
    end = time.monotonic() + 60
    while len(list(sessions.iterdir())) >= there:                               # its folder goes with the tab
        assert time.monotonic() < end
        time.sleep(0.1)
    visit.front()


def test_browser_cancel_while_waiting_for_another_user(visit, served, tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (950, 1000, 3), np.uint8)
    visit.upload(save(tmp_path / 'large.png', noise))
    visit.press('run')
    visit.until("return document.querySelector('#status .bar')")
    other = Visit(visit.browser, served[0])
    other.upload(camera(tmp_path / 'next.jpg'))
    other.press('run')
    other.until("return document.querySelector('#status .line').innerText.startsWith('Waiting: another photo')")
    other.press('stop')
    other.until("return document.querySelector('#status .line').innerText == 'Cancelled.'")
    visit.front()
    visit.press('stop')
    visit.until("return document.querySelector('#status .line').innerText == 'Cancelled.'")
    other.front()
    other.press('run')                                                          # both are ready for the next
    other.done('next_x4.png')
    other.close()
    visit.front()


def memory(process):
    """Of a process, in MiB."""
    return int(Path(f'/proc/{process}/status').read_text().split('VmRSS:')[1].split()[0]) / 1024


def test_browser_thirty_uploads_in_flat_memory(visit, served, tmp_path):
    sizes = []
    for i in range(30):
        visit.upload(save(tmp_path / f'{i}.png', np.ascontiguousarray(SCENE[:16, i:i + 20])))
        visit.press('run')
        visit.done(f'{i}_x4.png')
        sizes.append(memory(served[1]))
    assert sizes[-1] - sizes[9] < 40, sizes                 # threads are started until there are enough of them


@pytest.mark.parametrize('width, height', [(1280, 800), (390, 844)])
@pytest.mark.parametrize('dark', [False, True])
def test_browser_one_screen(width, height, dark, browser, served):
    visit = Visit(browser, served[0], width, height, dark)
    browser.run("document.querySelectorAll('#examples img')[0].click()")
    visit.until("return document.querySelector('#view img')")
    size = browser.run('return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]')
    assert size == [width, height]
    assert browser.run("return document.body.classList.contains('dark')") is dark
    visit.close()
