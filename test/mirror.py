"""A web server on this machine with small archives in place of the official ones."""
import functools
import hashlib
import http.server
import io
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from data.sources import PARTS

SMALL_SETS = {'DIV2K': 4, 'DIV2K_valid': 2, 'Flickr2K': 3, 'DF2K': 7, 'Set5': 5, 'Set14': 2, 'B100': 2, 'Urban100': 2,
              'Manga109': 2}  # images, in place of the true numbers
LEAVES = {'Set5': ('baby', 'bird', 'butterfly', 'head', 'woman')}


@functools.cache
def png(seed, side=16):
    """The bytes of a small image."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, 'PNG')
    return buffer.getvalue()


def zipped(files):
    """The bytes of a .zip that holds {name: bytes}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files):
    """The bytes of an uncompressed .tar of {name: bytes, or a TarInfo of a special file}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        for name, content in files.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def images(part, top=''):
    """{path in the archive: bytes} of as many tiny images as the Part `part` has."""
    stems = part.numbered() or LEAVES.get(part.name) or [f'image{i}' for i in range(part.count)]
    return {f'{top}{"/".join(part.inside)}/{stem}.png': png(i % 7) for i, stem in enumerate(stems)}


def archives(parts=PARTS):
    """{file name: bytes} of every archive in PARTS, with tiny images, and LR images of x2 in the tars."""
    zips = {f'{name}_HR.zip': zipped(images(parts[part])) for name, part in (('DIV2K_train', 'DIV2K'),
                                                                           ('DIV2K_valid', 'DIV2K_valid'))}
    flickr = {**images(parts['Flickr2K'], 'Flickr2K/'), 'Flickr2K/Flickr2K_LR_bicubic/X2/000001x2.png': png(1)}
    bench = {'benchmark/Set5/LR_bicubic/X2/babyx2.png': png(1), 'benchmark/B100/HR/._image1.png': b'macOS'}
    for name in ('Set5', 'Set14', 'B100', 'Urban100'):
        bench |= images(parts[name], 'benchmark/')
    return {**zips, 'Flickr2K.tar': tarred(flickr), 'benchmark.tar': tarred(bench)}


def sums(archives):
    """The content of SHA256SUMS for {file name: bytes}."""
    return ''.join(f'{hashlib.sha256(content).hexdigest()}  {name}\n' for name, content in archives.items()).encode()


def files(root):
    """Every file below a folder, as sorted text."""
    return sorted(str(path.relative_to(root)) for path in Path(root).rglob('*') if path.is_file())


class Mirror:
    """`with Mirror({name: bytes}) as mirror:` serves the files at mirror.url; attributes cause failures."""

    def __init__(self, files):
        self.files = dict(files)
        self.ranges = True   # knows Range
        self.cuts = []       # bytes after which the next connections for an archive are closed
        self.stall = 0       # seconds that pass before they do
        self.statuses = []   # status of the next requests for an archive
        self.asked = []      # (name, Range) of every GET

    def __enter__(self):
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                mirror._answer(self, body=False)

            def do_GET(self):
                mirror._answer(self, body=True)

            def log_message(self, *words):
                pass
        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f'http://127.0.0.1:{self._server.server_port}'
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request, body):
        name, asked = Path(request.path).name, request.headers.get('Range')
        content = self.files.get(name)
        spoilt = body and name != 'SHA256SUMS'
        if body:
            self.asked.append((name, asked))
        if content is None or (spoilt and self.statuses):
            request.send_error(404 if content is None else self.statuses.pop(0))
            return
        start = int(asked[6:-1]) if asked and self.ranges else 0
        if start >= len(content) > 0:
            request.send_response(416)
            request.send_header('Content-Range', f'bytes */{len(content)}')
            request.send_header('Content-Length', '0')
            request.end_headers()
            return
        request.send_response(206 if asked and self.ranges else 200)
        if asked and self.ranges:
            request.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        request.send_header('Content-Length', str(len(content) - start))
        request.end_headers()
        if body:
            cut = self.cuts.pop(0) if spoilt and self.cuts else None
            request.wfile.write(content[start:] if cut is None else content[start:start + cut])
            request.wfile.flush()
            time.sleep(self.stall if cut is not None else 0)
