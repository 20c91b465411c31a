"""The run folder: log, options, weights, full states. See the README for every file in it."""
import re
import shutil
import sys
import time
from pathlib import Path

from tqdm import tqdm

from store import load_state, save_state, save_weights
from utility import UserError

WEIGHTS = {1: 'model', 2: 'model_meta', 3: 'model_TA', 4: 'model_ST'}  # published names, by the stage that writes them


def run_folder(name, args, blur_type=None):
    """experiment/<name>_x<scale>_<mode>_<iso|aniso>"""
    blur = (blur_type or args.blur_type).split('_')[0]
    return Path('experiment') / f'{name}_x{args.scale}_{args.mode}_{blur}'


class Run:
    """One run's folder. Nothing is written before open()."""

    def __init__(self, folder, stage):
        self.folder = Path(folder)
        self.results = self.folder / 'results'
        self._weights = WEIGHTS[stage]
        self._model = self.folder / 'model'

    def open(self, config, clear=False):
        """Create the folder, emptied first if `clear`, and note the options of this start in config.txt."""
        try:
            if clear and self.folder.exists():
                shutil.rmtree(self.folder)
            self._model.mkdir(parents=True, exist_ok=True)
            with open(self.folder / 'config.txt', 'a', encoding='utf-8') as file:
                file.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")}\n{config}\n\n')
        except OSError as error:
            raise UserError(f'{self.folder}: the run folder cannot be written ({error.strerror})') from error

    def log(self, text=''):
        """Print `text` and append it to log.txt."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
        with open(self.folder / 'log.txt', 'a', encoding='utf-8') as file:
            file.write(text + '\n')

    def epochs(self):
        """Epochs of which the full state is there, in order."""
        found = (re.fullmatch(r'state_(\d+)\.pt', path.name) for path in self._model.glob('state_*.pt'))
        return sorted(int(match[1]) for match in found if match)

    def start(self, resume, reset):
        """The full state to go on from, or None to start. Changes nothing.

        resume: -1 = where the run stopped, 0 = from nothing, N = after epoch N; reset: what is there will be deleted.
        Raises UserError rather than overwrite an existing run.
        """
        if reset:
            return None
        epochs = self.epochs()
        if resume > 0 and resume not in epochs:
            raise UserError(f'--resume {resume}: {self._model} holds the states of epochs '
                            f'{", ".join(map(str, epochs)) or "(none)"}')
        if resume == 0 and any(self._model.glob('*.pt')):
            raise UserError(f'--resume 0: {self.folder} holds a run already; add --reset to delete it, '
                            'or choose another --save')
        if resume == -1 and not epochs and any(self._model.glob('*.pt')):
            raise UserError(f'{self.folder} holds weights but no full state to go on from; add --reset to delete them, '
                            'or choose another --save')
        if not epochs or resume == 0:
            return None
        return load_state(self._state(epochs[-1] if resume == -1 else resume))

    def supersede(self, epoch):
        """Put the states after `epoch` aside, so that going on from it is not undone by a later start."""
        for later in self.epochs():
            if later > epoch:
                self._state(later).replace(self._state(later).with_suffix('.superseded'))

    def save(self, epoch, state, network, keep_weights, n_states):
        """The weights under their published name (and, if keep_weights, under the epoch's number as well) and the full
        state; of these the newest n_states stay, all if it is 0."""
        save_state(self._state(epoch), state)
        self.save_weights(epoch, network, keep_weights)
        for old in self.epochs()[:-n_states] if n_states else []:
            self._state(old).unlink()

    def save_weights(self, epoch, network, keep_weights):
        """The weights alone; also when a run goes on, since it may have been stopped between its state and these."""
        save_weights(self._model / f'{self._weights}_last.pt', network)
        if keep_weights:
            save_weights(self._model / f'{self._weights}_{epoch}.pt', network)

    def _state(self, epoch):
        return self._model / f'state_{epoch}.pt'
