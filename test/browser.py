"""A headless Chromium driven over the W3C WebDriver protocol, for tests of pages. Needs chromium and chromedriver."""
import base64
import json
import os
import re
import shutil
import subprocess
import urllib.request
from contextlib import contextmanager

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'  # the protocol's key of a reference to an element


def programs():
    """Paths of (browser, driver), None for what is not installed."""
    return next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which('chromedriver')


class Browser:
    def __init__(self, port):
        self.base = f'http://127.0.0.1:{port}'
        self.path = ''

    def call(self, method, path, body=None):
        """The value that the driver returns. Raises urllib's HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + self.path + path, data, {'Content-Type': 'application/json'},
                                         method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)['value']

    def open(self, path, width, height, dark=False):
        """Show a file: see view."""
        self.view(width, height, dark)
        self.call('POST', '/url', {'url': path.resolve().as_uri()})

    def view(self, width, height, dark=False):
        """Set a viewport of width x height pixels, in light or dark mode."""
        self.devtools('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1,
                      mobile=width < 700)
        self.devtools('Emulation.setEmulatedMedia',
                      features=[{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])

    def devtools(self, command, **parameters):
        return self.call('POST', '/goog/cdp/execute', {'cmd': command, 'params': parameters})

    def run(self, script, *arguments):
        """The return value of the JavaScript function body `script`."""
        return self.call('POST', '/execute/sync', {'script': script, 'args': list(arguments)})

    def find(self, selector):
        return self.call('POST', '/element', {'using': 'css selector', 'value': selector})

    def keys(self, element, text):
        self.call('POST', f'/element/{element[ELEMENT]}/value', {'text': text})

    def drag(self, element, start, end, kind='mouse'):
        """Press at `start` pixels right of the centre of an element, move to `end`, release. kind: mouse or touch."""
        def move(x):
            return {'type': 'pointerMove', 'duration': 50, 'origin': element, 'x': round(x), 'y': 0}
        steps = [move(start), {'type': 'pointerDown', 'button': 0}, move((start + end) / 2), move(end),
                 {'type': 'pointerUp', 'button': 0}]
        self.call('POST', '/actions', {'actions': [{'type': 'pointer', 'id': kind, 'actions': steps,
                                                    'parameters': {'pointerType': kind}}]})

    def log(self, kind):
        """Entries since the last call: 'browser' is the console, 'performance' the network among others."""
        return self.call('POST', '/se/log', {'type': kind})

    def requests(self):
        """URLs requested since the last call."""
        events = [json.loads(entry['message'])['message'] for entry in self.log('performance')]
        return [event['params']['request']['url'] for event in events
                if event['method'] == 'Network.requestWillBeSent']

    def picture(self):
        """PNG bytes of the viewport."""
        return base64.b64decode(self.call('GET', '/screenshot'))


@contextmanager
def opened(browser, driver, profile):
    """A context with a Browser. profile: an empty folder for its data."""
    with subprocess.Popen([driver, '--port=0'], stdout=subprocess.PIPE, text=True) as process:
        try:
            port = next(match[1] for line in process.stdout
                        if (match := re.search(r'started successfully on port (\d+)', line)))
            control = Browser(port)
            flags = ['--headless=new', '--hide-scrollbars', '--disable-gpu', '--disable-dev-shm-usage',
                     '--no-first-run', '--disable-background-networking', f'--user-data-dir={profile}']
            flags += ['--no-sandbox'] if os.name == 'posix' and os.geteuid() == 0 else []
            options = {'goog:chromeOptions': {'binary': browser, 'args': flags},
                       'goog:loggingPrefs': {'browser': 'ALL', 'performance': 'ALL'}}
            session = control.call('POST', '/session', {'capabilities': {'alwaysMatch': options}})
            control.path = f'/session/{session["sessionId"]}'
            try:
                control.call('POST', '/url', {'url': 'about:blank'})  # leave the page of a new tab
                control.log('performance')                            # and discard its requests
                yield control
            finally:
                control.call('DELETE', '')
        finally:
            process.terminate()
