"""A family of networks is one entry in the table: a third one trains, tests and enlarges through the command line."""
import subprocess
import sys
from pathlib import Path

from conftest import SMALL

THIRD = '''
import sys
import torch
from torch import nn
import model
from model.common import BlindSR, conv3x3
from model.kdsr import PairCue
from model.tail import Tail

class Encoder(nn.Module):
    def __init__(self, n_in):
        super().__init__()
        self.conv = conv3x3(n_in, 8)
    def forward(self, cue):
        feature = self.conv(cue).mean((2, 3))
        return feature, feature

class Generator(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.head, self.tail = conv3x3(3, 8), Tail(8, scale)
    def forward(self, lq, rep):
        return self.tail(self.head(lq) * rep[:, :, None, None])

model.FAMILIES['third'] = model.Family(
    mln=None, cue=lambda args, mln: PairCue(args.scale), feature_l1=1.0, presets={3: {}, 4: {}},
    teacher=lambda args: BlindSR(Encoder(3 + 3 * args.scale ** 2), Generator(args.scale), student=False),
    student=lambda args: BlindSR(Encoder(3), Generator(args.scale), student=True))
import main
sys.exit(main.main(sys.argv[1:]))
'''


def test_a_third_family(library, tmp_path):
    flags = [*SMALL, '--model', 'third', '--epochs_encoder', 1, '--dir_data', library,
             '--dir_cache', tmp_path / 'cache']
    environment = {'PYTHONPATH': str(Path(__file__).parent.parent), 'PATH': '/usr/bin:/bin', 'OMP_NUM_THREADS': '1'}

    def run(*more):
        return subprocess.run([sys.executable, '-c', THIRD, *map(str, [*flags, *more])], cwd=tmp_path, text=True,
                              capture_output=True, env=environment, check=False)

    trained = run('--stage', 'all')
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / 'experiment/third_stage4_x2_bicubic_iso/model/model_ST_last.pt').is_file()
    assert run('--stage', 1).stderr.startswith('error: --stage 1: --model third has stages 3 and 4 only')
    assert run('--stage', 4, '--dir_demo', library / 'Photos', '--dir_out', 'out').returncode == 0
    assert len(list((tmp_path / 'out').rglob('*.png'))) == 3
