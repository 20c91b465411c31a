"""Fine-tuning: a student is trained further without teacher and MLN; its sizes are read from the weights."""
import re
from pathlib import Path

import pytest
import torch

from model import kdsr, mrda
from store.tensors import load_weights, save_weights

FLAGS = ['--stage', 4, '--distill', 0, '--pre_train_ST', 'student.pt']


@pytest.mark.parametrize('model, student', [('mrda', lambda: mrda.student(2, n_blocks=3)),
                                            ('kdsr', lambda: kdsr.student(2, 8, 3, 2))])
def test_a_student_is_fine_tuned_alone_with_the_sizes_of_its_weights(cli, model, student, capsys):
    save_weights('student.pt', student())
    assert cli(*FLAGS, '--model', model, '--save', 'tuned', without=('--n_blocks', '--n_feats')) == 0
    said = capsys.readouterr().out
    assert '--n_blocks 3, read from the weights of --pre_train_ST' in said and 'pre_train_TA' not in said
    before = load_weights('student.pt')
    after = load_weights('experiment/tuned_x2_bicubic_iso/model/model_ST_last.pt')
    assert before.keys() == after.keys()
    assert all(('_mean' in key) == torch.equal(before[key], after[key]) for key in after)
    log = Path('experiment/tuned_x2_bicubic_iso/log.txt').read_text()
    assert len(re.findall(r'^\[3/3\] loss: \S+  [\d.]+ images', log, re.M)) == 2  # no KL


def test_flag_that_contradicts_the_weights_is_refused(cli, capsys):
    save_weights('student.pt', mrda.student(2, n_blocks=3))
    assert cli(*FLAGS, '--n_blocks', 2) == 2
    assert '--n_blocks 3 instead of 2' in capsys.readouterr().err


def test_an_encoder_phase_needs_a_teacher(cli, capsys):
    save_weights('student.pt', mrda.student(2, n_blocks=1))
    assert cli(*FLAGS, '--epochs_encoder', 1) == 2 and '--distill 0' in capsys.readouterr().err


def test_distill_scales_the_distillation_terms(cli):
    for earlier in 1, 2, 3:
        assert cli('--stage', earlier, '--epochs_sr', 1) == 0
    totals = []
    for distill in 1, 0.5:
        assert cli('--stage', 4, '--epochs_encoder', 0, '--epochs_sr', 1, '--test_every', 1, '--distill', distill,
                   '--save', f'by{distill}') == 0
        text = Path(f'experiment/by{distill}_x2_bicubic_iso/log.txt').read_text()
        values = re.findall(r'(\w[\w ]*): ([\d.]+)', re.search(r'^\[1/1\] (.*?)  [\d.]+ images', text, re.M)[1])
        totals.append({name: float(value) for name, value in values})
    for distill, each in zip((1, 0.5), totals, strict=True):
        assert each['loss'] == pytest.approx(each['SR'] + distill * (each['KL'] + 0.1 * each['feature L1']), abs=2e-4)
