"""KDSR: published names, shapes, counts and outputs; both stages through the command line; its scripts."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import goldens
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage import data as photos

import main as program
import option
from data.images import write_rgb
from loss.distillation import kl_divergence
from model import build, build_cue, kdsr
from model.rdan import RDAN
from model.weights import fit_weights
from run.pretrained import run_names
from store.checkpoint import run_folder
from store.tensors import load_weights, save_weights
from trainer_stage4 import Stage4
from utility import UserError

ROOT = Path(__file__).parent.parent
KEYS = goldens.keys()
SIZES = {'m': {'n_feats': 64, 'n_blocks': 53, 'n_resblocks': 9},
         'l': {'n_feats': 128, 'n_blocks': 28, 'n_resblocks': 5},
         'real': {'n_feats': 128, 'n_blocks': 42, 'n_resblocks': 6}}
ROLES = {'teacher': kdsr.teacher, 'student': kdsr.student}
COUNTS = {'m_teacher': 5_822_747, 'm_student': 5_795_099, 'l_teacher': 14_246_299, 'l_student': 14_191_003,
          'real_teacher': 18_901_403, 'real_student': 18_846_107}
TOY = {'n_feats': 8, 'n_blocks': 2, 'n_resblocks': 2}


@pytest.mark.parametrize('name', COUNTS)
@torch.no_grad()
def test_published_state_dict_and_outputs(name):
    size, role = name.split('_')
    net, golden = ROLES[role](4, **SIZES[size]), goldens.load('kdsr_real' if size == 'real' else 'kdsr')
    assert {key: list(tensor.shape) for key, tensor in net.state_dict().items()} == KEYS[f'kdsr_{name}']
    assert sum(p.numel() for p in net.parameters()) == COUNTS[name]
    lq, hr = goldens.smooth('lr', (2, 3, 12, 16)), goldens.smooth('hr', (2, 3, 48, 64))
    sr, feature = goldens.fill(net)(lq, kdsr.PairCue(4)(lq, None, hr))
    short = ('' if size == 'real' else f'kdsr_{size}_') + {'teacher': 'ta', 'student': 'st'}[role]
    assert goldens.close(goldens.thinned(sr), golden[f'{short}_sr'])
    assert goldens.close(feature, golden[f'{short}_fea'])


@pytest.mark.parametrize('scale', [2, 3, 4])
@torch.no_grad()
def test_shapes(scale):
    lq, hr = torch.rand(2, 3, 9, 7), torch.rand(2, 3, 9 * scale, 7 * scale)
    cue = kdsr.PairCue(scale)(lq, None, hr)
    assert cue.shape == (2, 3 + 3 * scale**2, 9, 7)
    for make in ROLES.values():
        sr, feature = make(scale, **TOY)(lq, cue)
        assert sr.shape == hr.shape and feature.shape == (2, 32)


def test_cue_contains_every_pixel_of_the_pair_once():
    lq, hr = torch.rand(1, 3, 4, 5), torch.rand(1, 3, 8, 10)
    cue = kdsr.PairCue(2)(lq, None, hr)
    assert torch.equal(cue[:, :3], lq) and torch.equal(F.pixel_shuffle(cue[:, 3:], 2), hr)


def test_student_ignores_the_cue_and_the_teacher_uses_it():
    lq, cues = torch.rand(1, 3, 6, 6), torch.rand(2, 1, 15, 6, 6)
    teacher, student = (goldens.fill(make(2, **TOY)) for make in ROLES.values())
    assert torch.equal(student(lq, cues[0])[0], student(lq)[0])
    assert not torch.equal(teacher(lq, cues[0])[1], teacher(lq, cues[1])[1])


@pytest.mark.parametrize('make', ROLES.values())
def test_every_trained_weight_has_a_gradient_and_mean_shifts_are_frozen(make):
    net = make(2, **TOY)
    sr, feature = net(torch.rand(2, 3, 8, 8), torch.rand(2, 15, 8, 8))
    (sr.square().mean() + feature.square().mean()).backward()
    still = [name for name, p in net.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0]
    assert still == []
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == {
        f'G.{sign}_mean.{kind}' for sign in ('sub', 'add') for kind in ('weight', 'bias')}


def test_weights_round_trip_and_those_of_another_network_are_refused(tmp_path):
    net, other = kdsr.student(2, **TOY), kdsr.student(2, **TOY)
    save_weights(tmp_path / 'w.pt', net)
    weights = load_weights(tmp_path / 'w.pt')
    fit_weights(other, weights, 'w.pt')
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    for stranger in (kdsr.teacher(2, **TOY), *(kdsr.student(2, *size) for size in ((6, 2, 2), (8, 3, 2), (8, 2, 3)))):
        with pytest.raises(UserError, match=r'w\.pt'):
            fit_weights(stranger, weights, 'w.pt')


def test_both_families_share_the_sr_network():
    own, rdan = kdsr.student(2, **TOY).G, RDAN(2, 8, 2)
    assert type(own).forward is type(rdan).forward
    steering = {'da_conv2', 'conv2', 'compress', 'conv'}  # second half of RDAN's blocks, representation, mask
    assert set(own.state_dict()) == {key for key in rdan.state_dict() if not steering & set(key.split('.'))}


SMALL = ['--model', 'kdsr', '--scale', '2', '--n_feats', '8', '--n_blocks', '1', '--n_resblocks', '1',
         '--patch_size', '12', '--batch_size', '4', '--test_every', '3', '--epochs_sr', '2', '--n_threads', '0',
         '--data_train', 'Photos', '--data_test', 'Set1', '--print_every', '1', '--device', 'cpu', '--sig', '1.2',
         '--sig_max', '2']


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    """A data folder of two training photos and one test photo."""
    folder = tmp_path_factory.mktemp('library')
    for name, image in (('Photos/HR/a', photos.astronaut()[:64, :80]), ('Photos/HR/b', photos.coffee()[99:180, :80]),
                        ('benchmark/Set1/HR/c', photos.chelsea()[100:161, 150:210])):
        write_rgb(folder / f'{name}.png', np.ascontiguousarray(image))
    return folder


@pytest.fixture
def cli(library, tmp_path, monkeypatch):
    """cli(*flags) runs the program in an empty folder and returns its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

    def run(*flags):
        return program.main([*SMALL, '--dir_data', str(library), *map(str, flags)])
    return run


def folder(run):
    return Path('experiment') / f'{run}_x2_bicubic_iso'


def means(run):
    """{term: its mean in each epoch} from the log, with three batches per epoch."""
    lines = re.findall(r'^\[3/3\] (.*?)  [\d.]+ images/s', (folder(run) / 'log.txt').read_text(), re.M)
    return [{name: float(value) for name, value in re.findall(r'(\w[\w ]*): ([\d.]+)', line)} for line in lines]


def test_teacher_then_student_then_test_and_own_photos(cli, library, capsys):
    assert cli('--stage', 3, '--save', 'K_stage3', '--epochs_sr', 1) == 0
    assert {path.name for path in (folder('K_stage3') / 'model').glob('model_*')} == {
        'model_TA_last.pt', 'model_TA_best.pt'}
    assert [set(epoch) for epoch in means('K_stage3')] == [{'loss'}]
    teacher = load_weights(folder('K_stage3') / 'model' / 'model_TA_last.pt')

    capsys.readouterr()
    assert cli('--stage', 4, '--save', 'K_stage4', '--epochs_encoder', 1, '--save_models') == 0
    assert "the teacher's SR network" in capsys.readouterr().out                        # found by the name of the run
    first, last = (load_weights(folder('K_stage4') / 'model' / f'model_ST_{epoch}.pt') for epoch in (1, 2))
    for key, tensor in first.items():  # first G is the teacher's, and only the newly initialised encoder is trained
        assert key.startswith('E_st.') or torch.equal(tensor, teacher[key]), key
    assert not torch.equal(first['G.head.0.weight'], last['G.head.0.weight'])
    encoder, whole = means('K_stage4')
    assert set(encoder) == {'loss', 'KL', 'feature L1'} and set(whole) == {'loss', 'SR', 'KL', 'feature L1'}

    assert cli('--stage', 4, '--save', 'K_stage4', '--test_only') == 0
    assert cli('--stage', 4, '--save', 'K_stage4', '--test_only', '--dir_demo', library / 'Photos' / 'HR',
               '--dir_out', 'out') == 0
    assert sorted(path.name for path in Path('out').iterdir()) == ['a_x2.png', 'b_x2.png']


def test_without_encoder_epochs_the_whole_student_is_trained_from_the_start(cli):
    assert cli('--stage', 'all', '--epochs_encoder', 0, '--epochs_sr', 1) == 0
    assert [set(epoch) for epoch in means('kdsr_stage4')] == [{'loss', 'SR', 'KL', 'feature L1'}]
    teacher, student = (load_weights(folder(run) / 'model' / f'model_{name}_last.pt')
                        for run, name in (('kdsr_stage3', 'TA'), ('kdsr_stage4', 'ST')))
    assert not torch.equal(teacher['G.head.0.weight'], student['G.head.0.weight'])


@pytest.mark.parametrize('encoder_epochs', [0, 1])
def test_stage_4_minimises_the_kl_and_only_logs_the_feature_l1(encoder_epochs):
    args = option.parse(['--stage', '4', *SMALL, '--epochs_encoder', str(encoder_epochs)])
    stage, hr = Stage4(args), torch.rand(2, 3, 24, 24)
    stage.begin_epoch(1)
    losses = stage(hr, {hr.device: 1}, 'sr')
    lq, up = stage.degrade(hr, torch.Generator().manual_seed(1))
    _, target = stage.teacher(lq, stage.cue(lq, up, hr))
    sr, feature = stage.student(lq)
    expected = kl_divergence(feature, target, args.temperature) + (0 if encoder_epochs else F.l1_loss(sr, hr))
    assert torch.allclose(losses['loss'], expected)
    assert torch.allclose(losses['feature L1'], F.l1_loss(feature, target)) and losses['feature L1'] > 1e-3
    losses['loss'].sum().backward()
    assert all(p.grad is None for p in stage.teacher.parameters())
    still = {name for name, p in stage.student.named_parameters() if p.requires_grad and p.grad is None}
    # compress comes after the distilled feature, so it is trained with the SR network
    assert {name.split('.')[1] if name.startswith('E_st') else name.split('.')[0] for name in still} == (
        {'compress', 'G'} if encoder_epochs else set())


@pytest.mark.parametrize('flags, said', [
    (['--stage', 1], 'stages 3, 4, 5'), (['--stage', 2], 'stages 3, 4, 5'), (['--stage', 4], 'stage3'),
    (['--stage', 3, '--n_resblocks', 0], '--n_resblocks'), (['--stage', 3, '--n_blocks', 0], '--n_blocks')])
def test_wrong_input_is_one_line_and_writes_nothing(cli, capsys, flags, said):
    assert cli(*flags) == 2
    captured = capsys.readouterr().err
    assert said in captured and captured.count('\n') == 1 and captured.startswith('error: ')
    assert not Path('experiment').exists()


def test_no_meta_learning_network_and_the_seed_determines_initialisation():
    args = option.parse(['--stage', '3', *SMALL])
    cue, mln = build_cue(args)
    assert mln is None and not list(cue.parameters())
    teachers = [build(args, 'teacher').state_dict() for _ in range(2)]
    assert all(torch.equal(teachers[0][key], teachers[1][key]) for key in teachers[0])


M, L = SIZES['m'], SIZES['l']
ISO = {'blur_type': 'iso_gaussian', 'noise': 0, 'sig_min': 0.2, 'sig_max': 4, 'sig': 3.6}
ANISO = {'blur_type': 'aniso_gaussian', 'noise': 25, 'lambda_min': 0.2, 'lambda_max': 4, 'lambda_1': 4,
         'lambda_2': 1.5, 'theta': 120}
TRAINING = {'model': 'kdsr', 'scale': 4, 'patch_size': 64, 'batch_size': 64, 'data_train': 'DF2K', 'data_test': 'Set14',
            'n_GPUs': 4, 'test_only': False, 'temperature': 0.15, 'lr_sr': 1e-4, 'test_every': 1000, 'retired': []}
STAGE3 = {'stage': 3, 'epochs_encoder': 0, 'epochs_sr': 500, 'lr_decay_sr': 125, 'st_save_epoch': 495}
STAGE4_ISO = {'stage': 4, 'epochs_encoder': 0, 'epochs_sr': 600, 'lr_decay_sr': 150, 'lr_encoder': 2e-4}
STAGE4_ANISO = {'stage': 4, 'epochs_encoder': 100, 'epochs_sr': 500, 'lr_decay_sr': 125, 'lr_encoder': 2e-4,
                'st_save_epoch': 495}
REAL = {**TRAINING, 'degradation': 'second_order', 'degradation_per': 'sample', 'batch_size': 72, 'n_GPUs': 8,
        'beta2': 0.99, 'ema': 0.999, **SIZES['real']}
TRAIN_SCRIPTS = {
    'main_real_KDSRsRx4_stage3': {**REAL, 'stage': 3, 'epochs_sr': 1000, 'loss': '1*L1'},
    'main_real_KDSRsRx4_stage4': {**REAL, 'stage': 4, 'epochs_sr': 1000, 'lr_sr': 2e-4, 'lr_encoder': 2e-4,
                                  'epochs_encoder': 100, 'lr_decay_encoder': 60, 'lr_decay_sr': 600, 'loss': '1*L1'},
    'main_real_KDSRsRx4_stage5': {**REAL, 'stage': 5, 'epochs_sr': 400, 'loss': '1*L1+1*Perceptual', 'gan_weight': 1},
    'main_iso_KDSRsMx4_stage3': {**TRAINING, **ISO, **STAGE3, **M},
    'main_iso_KDSRsMx4_stage4': {**TRAINING, **ISO, **STAGE4_ISO, **M},
    'main_iso_KDSRsLx4_stage3': {**TRAINING, **ISO, **STAGE3, **L},
    'main_iso_KDSRsLx4_stage4': {**TRAINING, **ISO, **STAGE4_ISO, **L},
    'main_anisonoise_KDSRsMx4_stage3': {**TRAINING, **ANISO, **STAGE3, **M},
    'main_anisonoise_KDSRsMx4_stage4': {**TRAINING, **ANISO, **STAGE4_ANISO, **M},
}
TESTING = {'model': 'kdsr', 'stage': 4, 'test_only': True, 'save_results': False, 'n_GPUs': 1}
ALL_SETS = 'Set5+Set14+B100+Urban100+MANGA109'
TEST_SCRIPTS = {
    'test_iso_KDSRsMx4': {**TESTING, 'noise': 0, 'sig': 3.6, 'data_test': ALL_SETS, **M},
    'test_iso_KDSRsLx4': {**TESTING, 'noise': 0, 'sig': 3.6, 'data_test': ALL_SETS, **L},
    'test_anisonoise_KDSRsMx4': {**TESTING, 'noise': 10, 'lambda_1': 3.5, 'lambda_2': 1.5, 'theta': 30,
                                 'data_test': 'Set14', **M},
}


@pytest.fixture
def tree(tmp_path):
    """A copy of the scripts with a main.py that prints its arguments."""
    shutil.copytree(ROOT / 'scripts', tmp_path / 'scripts')
    (tmp_path / 'main.py').write_text('import json, sys\nprint(json.dumps(sys.argv[1:]))\n')
    return tmp_path


def handed(tree, script, *flags, **environment):
    """The options that a script passes to main.py."""
    path = next((tree / 'scripts').rglob(f'{script}.sh'))
    run = subprocess.run([shutil.which('sh'), path, *flags], cwd=tree.parent, text=True, capture_output=True,
                         env={'PYTHON': sys.executable, **environment})
    assert run.returncode == 0 and not run.stderr, run.stderr
    return option.parse(json.loads(run.stdout))


def earlier(args, stage, name):
    """The first path that a run tries for the weights of an earlier stage."""
    return run_folder(run_names(args, stage)[0], args) / 'model' / f'{name}_last.pt'


@pytest.mark.parametrize('script', [*TRAIN_SCRIPTS, *TEST_SCRIPTS])
def test_scripts_pass_the_published_values(tree, script):
    args, expected = handed(tree, script), {**TRAIN_SCRIPTS, **TEST_SCRIPTS}[script]
    assert {name: getattr(args, name) for name in expected} == expected
    assert handed(tree, script, '--seed', '7', N_GPUS='3', DIR_DATA='/my data').__dict__ == {
        **vars(args), 'seed': 7, 'n_GPUs': 3, 'dir_data': '/my data', 'given': args.given | {'seed'}}


@pytest.mark.parametrize('kind', ['iso_KDSRsMx4', 'iso_KDSRsLx4', 'anisonoise_KDSRsMx4'])
def test_each_script_finds_the_weights_of_the_one_before(tree, kind):
    teacher, student = (handed(tree, f'main_{kind}_stage{stage}') for stage in (3, 4))
    assert student.pre_train_TA == student.pre_train_ST == '.'
    assert earlier(student, 3, 'model_TA') == run_folder(teacher.run_name, teacher) / 'model' / 'model_TA_last.pt'
    test = handed(tree, f'test_{kind}')
    assert Path(test.pre_train_ST) == run_folder(student.run_name, student) / 'model' / 'model_ST_last.pt'
    assert handed(tree, f'test_{kind}', PRE_TRAIN_ST='my.pt').pre_train_ST == 'my.pt'
    assert handed(tree, f'main_{kind}_stage4', PRE_TRAIN_TA='my.pt').pre_train_TA == 'my.pt'
