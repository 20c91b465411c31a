"""--n_colors 1: luma networks train, resume, test and upscale; colour and gray files with equal luma are equivalent."""
import re
from pathlib import Path

import make_testset
import numpy as np
import pytest
import torch
from conftest import SMALL
from PIL import Image

import main as program
import upscale
from data.degradation import resize
from data.images import read_rgb, write_rgb
from model import build
from model.inference import super_resolve
from option import parse
from photo.luma import in_colour
from report.evaluation import to_float
from store.tensors import load_checkpoint, load_weights
from utility import luma

ONE = ['--n_colors', '1', '--n_resblocks', '1', '--epochs_sr', '1', '--test_every', '2']


def weights(stage, name):
    return load_weights(f'experiment/stage{stage}_x2_bicubic_iso/model/model{name}_last.pt')


def test_all_stages_train_test_and_upscale(cli, capsys):
    for stage in 1, 2, 3, 4, 5:
        flags = {4: ['--epochs_encoder', '1', '--epochs_sr', '2'], 5: ['--loss', '1*L1']}.get(stage, [])
        assert cli('--stage', stage, *ONE, *flags) == 0
    assert weights(1, '')['head.0.weight'].shape[1] == weights(1, '')['tail.1.weight'].shape[0] == 1
    student = weights(4, '_ST')
    assert student['G.head.0.weight'].shape[1] == student['E_st.E.0.weight'].shape[1] == 1
    assert cli('--stage', 4, *ONE, '--test_only', '--save_results', '--chop') == 0
    scored, = Path('experiment/stage4_x2_bicubic_iso/results').glob('Set2*/d_x2.png')
    assert np.ptp(read_rgb(scored), axis=2).max() == 0  # gray
    write_rgb('colour.png', read_rgb(scored)[:20, :30] // np.array([1, 2, 3], np.uint8))
    assert upscale.main(['colour.png', '-o', 'out', '--weights',
                         'experiment/stage4_x2_bicubic_iso/model/model_ST_last.pt']) == 0
    assert 'n_colors 1' in capsys.readouterr().out
    large = read_rgb(next(Path('out').glob('*.png')))
    assert large.shape == (40, 60, 3) and np.ptp(large, axis=2).max() > 0


def test_kdsr_and_second_order_degradation(cli):
    for stage in 3, 4:
        assert cli('--stage', stage, '--model', 'kdsr', *ONE, '--epochs_sr', 2, '--degradation', 'second_order') == 0
    student, = Path('experiment').glob('kdsr_stage4*/model/model_ST_last.pt')
    assert load_weights(student)['G.tail.1.weight'].shape[0] == 1


def test_colour_files_train_as_gray_files_of_their_luma(cli, library):
    for path in (library / 'Photos' / 'HR').iterdir():
        Path('Gray').mkdir(exist_ok=True)
        Image.fromarray(np.asarray(Image.open(path).convert('RGB').convert('L'))).save(Path('Gray') / path.name)
    results = []
    for name, photos in (('colour', 'Photos'), ('gray', 'Gray')):
        assert cli('--stage', 1, *ONE, '--data_train', photos, '--save', name) == 0
        results.append(load_weights(f'experiment/{name}_x2_bicubic_iso/model/model_last.pt'))
    assert all(torch.allclose(results[0][key], results[1][key], atol=1e-6) for key in results[0])


def test_resume_is_bit_identical(cli):
    flags = ['--n_colors', 1, '--test_every', 2]
    assert cli('--stage', 1, *flags, '--epochs_sr', 2, '--save', 'whole') == 0
    assert cli('--stage', 1, *flags, '--epochs_sr', 1, '--save', 'parts') == 0
    assert cli('--stage', 1, *flags, '--epochs_sr', 2, '--save', 'parts') == 0
    one, other = (load_checkpoint(f'experiment/{name}_x2_bicubic_iso/model/state_2.pt')['networks']
                  for name in ('whole', 'parts'))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_of_three_channels_are_refused_with_the_flag(cli, capsys):
    assert cli('--stage', 1, '--epochs_sr', 1, '--test_every', 1) == 0
    assert cli('--stage', 2, *ONE, '--pre_train', 'experiment/stage1_x2_bicubic_iso/model/model_last.pt') == 2
    assert '--n_colors 3 instead of 1' in capsys.readouterr().err
    assert cli('--stage', 1, *ONE, '--epochs_sr', 2) == 2
    assert 'n_colors' in capsys.readouterr().err


def test_luma_is_rounded_and_keeps_gray():
    gray = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_float(gray, 255, torch.device('cpu'), 1)[0, 0], gray[0, 0].float())
    colour = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    found = to_float(colour, 255, torch.device('cpu'), 1)
    wanted = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert('L')) for image in colour]
    assert np.abs(found[:, 0].numpy() - np.stack(wanted)).max() <= 1 and torch.equal(found, found.round())
    pair = torch.cat([colour, colour.flip(0)], 1)                # HR and LR of --train_lr
    assert torch.equal(to_float(pair, 255, torch.device('cpu'), 1), torch.cat([found, found.flip(0)], 1))


@pytest.mark.parametrize('model', ['mrda', 'kdsr'])
@torch.no_grad()
def test_colour_gets_the_luma_detail(model):
    args = parse([*SMALL, '--stage', '4', '--model', model, '--n_colors', '1', '--n_resblocks', '1'])
    student = build(args, 'student').eval()
    lq = torch.rand(1, 3, 70, 66)
    sr = super_resolve(in_colour(student, 2), lq, 2)
    own, _ = student(luma(lq))
    up = resize(lq, 2, downsample=False)
    assert torch.allclose(luma(sr), own, atol=1e-5)
    assert torch.allclose(sr - luma(sr), up - luma(up), atol=1e-5)       # chroma is bicubic
    gray = lq[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(super_resolve(in_colour(student, 2), gray, 2), student(lq[:, :1])[0], atol=1e-5)
    assert torch.allclose(super_resolve(in_colour(student, 2), lq, 2, tile=32), sr, atol=1e-5)


def test_rgb_student_is_not_wrapped():
    student = build(parse([*SMALL, '--stage', '4']), 'student')
    assert in_colour(student, 2) is student


def test_given_test_images_are_converted_to_luma(cli, library):
    assert cli('--stage', 1, *ONE) == 0
    made = ['--dir_data', str(library), *SMALL, *ONE]
    assert program.main([*made, '--stage', '1', '--test_only']) == 0
    assert make_testset.main([*made, '--stage', '1', '--dir_out', 'lr']) == 0
    assert cli('--stage', 1, *ONE, '--test_only', '--test_lr', 'lr') == 0
    log = Path('experiment/stage1_x2_bicubic_iso/log.txt').read_text()
    trained, tested, given = map(float, re.findall(r'^Set2 PSNR: ([\d.]+)', log, re.M))
    assert trained == tested == pytest.approx(given, abs=0.01)
