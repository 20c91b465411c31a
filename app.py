"""A page to upscale photos in: drop one, compare before and after, download the result.

    python app.py                                 # --help lists the flags
    sh scripts/app.sh                             # the same, which sets up Python first

The result is the file that upscale.py writes. Nothing leaves the machine that runs this.
"""
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from copy import copy
from functools import lru_cache
from html import escape
from pathlib import Path

if __name__ == '__main__' and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while PyTorch loads ends silently, as in main.py

import skimage

try:
    import gradio as gr
except ImportError:  # main() says so
    gr = None

from model import zoo
from photo.choice import AUTOMATIC, Choice
from photo.degradation_map import DegradationMap
from photo.desk import Desk
from photo.image import read_photo
from photo.job import Job, save_picture
from photo.output import FORMATS
from photo.preview import thumbnail
from photo.upscaler import Upscaler
from process.arguments import Parser, checked, within
from process.command import command_line
from upscale import load
from utility import PRECISIONS, UserError

EXAMPLES = ('chelsea.png', 'coffee.png', 'astronaut.png', 'rocket.jpg', 'camera.png')  # inside scikit-image
TILES = {'auto': None, '64': 64, '128': 128, '256': 256, '512': 512}
WAITING = 20  # jobs in the queue, at most
LARGEST = '200mb'  # of an uploaded file
TICK = 0.25  # seconds between two looks at a job
FONTS = ('system-ui', '-apple-system', 'Segoe UI', 'sans-serif')
CSS = Path(__file__).with_name('assets') / 'app.css'
HEAD = ('<h1>Upscale a photo</h1><p>Blind super-resolution: the network estimates how the photo was degraded. Photos '
        'stay on the machine that runs this page.</p>')
EMPTY_MAP = '<p class="hint">Upscale a photo to see where it lies among known degradations.</p>'
SHOWN = 'view', 'slider', 'download', 'status', 'place'  # what a new photo changes


class Page:
    """The page: its components, and what happens in them. Handlers return {component: change}."""

    def __init__(self, desk: Desk, root: Path) -> None:
        self.desk, self.examples = desk, example_files(root / 'examples')
        with gr.Blocks(title='Upscale a photo', analytics_enabled=False, fill_width=True) as self.blocks:
            gr.HTML(HEAD, elem_classes='head', padding=False)
            with gr.Row(elem_classes='body'):
                with gr.Column(scale=1, min_width=0, elem_classes='controls'):
                    self._left()
                with gr.Column(scale=2, min_width=0, elem_classes='result'):
                    self._right()
            self._events()

    def _left(self) -> None:
        self.names = [*([AUTOMATIC] if Choice.shipped() else []), *zoo.index()]
        self.upload = gr.File(label='Photo', elem_id='upload', height=92)
        self.dataset = gr.Dataset(components=[gr.Image(visible=False)], type='index', label='Examples',
                                  samples=[[str(path)] for path in self.examples.values()], elem_id='examples')
        self.weights = gr.Dropdown(self.names, value=AUTOMATIC if AUTOMATIC in self.names else zoo.default(),
                                   label='Weights', elem_id='weights')
        with gr.Row(elem_classes='settings'):
            self.scale = gr.Dropdown([(f'x{n}', n) for n in (2, 3, 4)], value=zoo.index()[zoo.default()]['scale'],
                                     label='Scale', min_width=80, elem_id='scale')
            self.form = gr.Dropdown([*FORMATS, 'same'], value='png', label='Format', min_width=80, elem_id='format')
            self.tile = gr.Dropdown(list(TILES), value='auto', label='Tiles', min_width=80, elem_id='tile')
        with gr.Row():
            self.run = gr.Button('Upscale', variant='primary', min_width=80, elem_id='run')
            self.stop = gr.Button('Cancel', interactive=False, min_width=80, elem_id='stop')
            self.download = gr.DownloadButton('Download', interactive=False, min_width=80, elem_id='download')

    def _right(self) -> None:
        with gr.Tabs(elem_id='tabs'):
            with gr.Tab('Photo'):
                self.view = gr.Image(show_label=False, type='filepath', interactive=False, elem_id='view', buttons=[])
                self.slider = gr.ImageSlider(show_label=False, type='filepath', interactive=False, visible=False,
                                             max_height=2000, elem_id='slider', buttons=['fullscreen'])
            with gr.Tab('Degradation'):
                self.place = gr.HTML(EMPTY_MAP, elem_id='place', padding=False)
            with gr.Tab('Weights'):
                self.card = gr.Markdown(card(self.weights.value), elem_id='card')
        self.status = gr.HTML(line('Drop a photo, or choose an example.'), elem_id='status', padding=False)

    def _events(self) -> None:
        hidden = {'api_visibility': 'private', 'show_progress': 'hidden'}
        shown = [getattr(self, name) for name in SHOWN]
        self.upload.upload(self.taken, self.upload, [*shown, self.upload], **hidden)
        self.dataset.click(self.example, self.dataset, shown, **hidden)
        self.weights.change(card, self.weights, self.card, **hidden)
        working = self.run.click(self.waiting, None, [self.status, self.stop], queue=False, **hidden).then(
            self.upscaled, [self.weights, self.scale, self.form, self.tile], [*shown, self.run, self.stop],
            concurrency_limit=1, **hidden)
        self.stop.click(self.cancelled, None, [self.status, self.run, self.stop], cancels=working, queue=False,
                        **hidden)
        self.blocks.unload(self.left)

    def taken(self, path: str, request: 'gr.Request') -> dict:
        """A file was uploaded."""
        return {**self._take(Path(path), request), self.upload: None}  # ready for the next one

    def example(self, index: int, request: 'gr.Request') -> dict:
        """An example was chosen."""
        return self._take(list(self.examples)[index], request)

    def _take(self, path: Path, request: 'gr.Request') -> dict:
        try:
            words, picture = self.desk.take(request.session_hash, path)
            status = line(words)
        except UserError as error:
            status, picture = line(str(error), 'error'), None
        return {self.view: gr.update(value=picture and str(picture), visible=True),
                self.slider: gr.update(value=None, visible=False), self.place: EMPTY_MAP, self.status: status,
                self.download: gr.update(value=None, interactive=False)}

    def waiting(self) -> dict:
        """Upscale was pressed; other sessions may come first."""
        busy = any(job.state == 'working' for job in list(self.desk.jobs.values()))
        return {self.status: line('Waiting: another photo is being upscaled …' if busy else 'Starting …'),
                self.stop: gr.update(interactive=True)}

    def upscaled(self, weights: str, scale: int, form: str, tile: str, request: 'gr.Request') -> Iterator[dict]:
        """The photo is to be upscaled: what changes until that is done."""
        try:
            if weights not in self.names or tile not in TILES:  # what no page sends
                raise UserError('no such weights or tiles: choose them from the lists')
            weights = self.desk.named(request.session_hash, weights)
            job = self.desk.start(request.session_hash, weights, scale, form, TILES[tile])
        except UserError as error:
            yield {self.status: line(str(error), 'error'), self.stop: gr.update(interactive=False)}
            return
        yield {self.run: gr.update(interactive=False), self.stop: gr.update(interactive=True),
               self.status: bar(0, None)}
        while not job.wait(TICK):
            yield {self.status: bar(job.watched.done, job.left())}
        yield {self.run: gr.update(interactive=True), self.stop: gr.update(interactive=False),
               **(self._done(job, weights) if job.state == 'done' else
                  {self.status: line(job.error or 'Cancelled.', 'error' if job.error else '')})}

    def _done(self, job: Job, weights: str) -> dict:
        """What shows the result of a job."""
        pair = tuple(str(job.folder / f'{name}.jpg') for name in ('before', 'after'))
        words = (f'{job.result.name}: {job.size[1]} x {job.size[0]} pixels, {job.seconds:.1f} s, {weights}. '
                 'Left: bicubic.')
        return {self.view: gr.update(visible=False), self.slider: gr.update(value=pair, visible=True),
                self.download: gr.update(value=str(job.result), interactive=True), self.place: placed(job, weights),
                self.status: line(' '.join([words, *job.notes]))}

    def cancelled(self, request: 'gr.Request') -> dict:
        """Cancel was pressed, while the job runs or waits for its turn."""
        self.desk.cancel(request.session_hash)
        return {self.status: line('Cancelled.'), self.run: gr.update(interactive=True),
                self.stop: gr.update(interactive=False)}

    def left(self, request: 'gr.Request') -> None:
        """The tab was closed."""
        self.desk.leave(request.session_hash)


def example_files(folder: Path) -> dict[Path, Path]:
    """{example photo: a small picture of it in `folder`} of those that scikit-image has."""
    found = [path for name in EXAMPLES if (path := Path(skimage.__file__).parent / 'data' / name).exists()]
    pictures = {path: folder / f'{path.stem}.jpg' for path in found}
    for path, picture in pictures.items():
        save_picture(thumbnail(read_photo(path), 160), picture)
    return pictures


def card(weights: str) -> str:
    """The model card of shipped weights, in Markdown; of AUTOMATIC, what it does."""
    if weights == AUTOMATIC:
        choice = Choice.shipped()
        return (f'Each photo is upscaled with `{choice.degraded}`, or, if it has hardly any noise or JPEG artefacts, '
                f'with `{choice.clean}`. The line below the result says which.')
    path = zoo.ZOO / f'{weights}.md'
    return path.read_text(encoding='utf-8') if weights in zoo.index() and path.exists() else ''


def line(text: str, kind: str = '') -> str:
    """One line of text as HTML. kind: '' or 'error'."""
    return f'<p class="line {kind}">{escape(text)}</p>'


def bar(done: float, left: float | None) -> str:
    """The share that is done, and the seconds left, as HTML."""
    words = 'Estimating the degradation …' if not done else f'{done:.0%}' + ('' if left is None else
                                                                           f', {left:.0f} s left')
    return (f'<div class="bar" role="progressbar" aria-valuenow="{done * 100:.0f}">'
            f'<i style="width:{done:.1%}"></i></div>{line(words)}')


def placed(job: Job, weights: str) -> str:
    """The map of known degradations with the job's photo on it, as HTML."""
    known = DegradationMap.of(weights)
    if known is None:
        return line('These weights have no map of known degradations.')
    if job.watched.rep is None:
        return line('An image of one colour: there is no degradation to estimate.')
    place = known.place(job.watched.rep[0].numpy())
    return (f'{known.picture(place)}{known.legend()}{line(known.words(place))}'
            '<p class="hint">Each mark is a photo inside scikit-image under one known degradation, where this student '
            'sees it.</p>')


@lru_cache(maxsize=2)
def loaded(weights: str, device: str, precision: str) -> Upscaler:
    """Shipped weights, ready to upscale."""
    return load(weights, device, precision=precision)


def build_parser() -> Parser:
    parser = Parser(prog='app.py', description='A page to upscale photos in.', allow_abbrev=False)
    parser.add_version()
    parser.add_argument('--host', help='address to listen on; 0.0.0.0: all (default: 127.0.0.1)')
    parser.add_argument('--port', type=within(int, 1, 65535), help='default: the first free one from 7860')
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda', 'mps'), default='auto',
                        help='auto: CUDA, else MPS, else CPU (default: auto)')
    parser.add_argument('--precision', choices=PRECISIONS, default='auto',
                        help='arithmetic: single (float32), bf16, half, or auto: bf16 on a CPU with instructions for '
                             'it, else single (default: auto)')
    parser.add_argument('--max_pixels', metavar='N', default=16e6,
                        type=checked(float, lambda n: 1 <= n < 1e12, 'a number of pixels'),
                        help='largest photo that is taken, in pixels (default: 16,000,000)')
    return parser


@command_line()
def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if gr is None:
        raise UserError('gradio is missing, which the page needs: pip install -r requirements-app.txt')

    def upscaler(weights, tile):
        model = copy(loaded(weights, args.device, args.precision))
        model.tile = tile
        return model

    with tempfile.TemporaryDirectory(prefix='mrda_app.', ignore_cleanup_errors=True) as root:
        os.environ['GRADIO_TEMP_DIR'] = root
        page = Page(Desk(Path(root), upscaler, int(args.max_pixels)), Path(root))
        try:
            launch(page.blocks, args.host, args.port)
            threading.Event().wait()
        finally:
            page.blocks.close(verbose=False)


def launch(blocks: 'gr.Blocks', host: str | None, port: int | None) -> str:
    """Serve the page in a thread; returns its address. Raises UserError if the port is taken."""
    theme = gr.themes.Base(primary_hue='teal', neutral_hue='slate', font=FONTS, font_mono=('ui-monospace', 'monospace'))
    try:
        _, address, _ = blocks.queue(max_size=WAITING).launch(
            server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, footer_links=[],
            max_file_size=LARGEST, ssr_mode=False, enable_monitoring=False, run_history=False, pwa=False, theme=theme,
            css=CSS.read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'--port {port or ""}: {error}; choose another one') from error
    print(f'the page is at {address} (Ctrl-C ends it)', flush=True)
    return address


if __name__ == '__main__':
    sys.exit(main())
