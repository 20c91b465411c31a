"""The ablations of docs/evidence.md: each variant changes what it names, and the table compares equal budgets."""
import ablations
import pytest
import torch
from conftest import SMALL

import stages
from model.mln import MLN
from option import parse
from store.tensors import save_weights
from trainer_stage3 import Stage3


def flags(library, tmp_path):
    save_weights(tmp_path / 'mln.pt', MLN(8, 2))
    return [*SMALL, '--dir_data', str(library), '--epochs_sr', '1', '--decay_type', 'cosine', '--data_test', 'Set2',
            '--pre_train_meta', str(tmp_path / 'mln.pt'), '--ema', '0', '--temperature', '1']


def test_teachers_read_what_their_names_say(cli, library, tmp_path):
    args = parse(['--stage', '3', *flags(library, tmp_path)])
    hr = torch.rand(2, 3, 24, 24)
    lq = torch.rand(2, 3, 12, 12)
    up = torch.rand(2, 3, 24, 24)
    adapted, unadapted, zeros = (kind(args) for kind in (Stage3, ablations.Unadapted, ablations.WithoutCue))
    _, features = unadapted.mln(lq, up)
    assert torch.equal(unadapted.cue(lq, up, hr), features)
    assert not torch.equal(adapted.cue(lq, up, hr), adapted.mln(lq, up)[1])
    assert zeros.cue(lq, up, hr).shape == features.shape and not zeros.cue(lq, up, hr).any()


@pytest.mark.parametrize('family, teachers', [('mrda', 3), ('kdsr', 2)])
def test_every_variant_is_trained_and_tested_once(cli, library, tmp_path, capsys, family, teachers):
    line = ['--seeds', '2', *flags(library, tmp_path), '--model', family, '--n_resblocks', '1']
    before = dict(stages.STAGES)
    assert ablations.main(line) == 0
    assert before == stages.STAGES
    printed = capsys.readouterr().out
    rows = [row.split('|')[1:-1] for row in printed.splitlines() if row.startswith('| ')][1:]
    assert [row[0].strip() for row in rows] == [variant.title for variant in ablations.variants(line[2:]).values()]
    assert all('±' in row[1] for row in rows)
    assert [not row[2].strip() for row in rows] == [True, *[False] * (teachers - 1), True, False, False]
    assert all(-1 <= float(cell.split()[0]) <= 1 for row in rows for cell in row[3:5])
    assert 'KL' in (tmp_path / f'experiment/ablation_{family}_distilled_2_x2_bicubic_iso/log.txt').read_text()
    assert 'KL' not in (tmp_path / f'experiment/ablation_{family}_alone_2_x2_bicubic_iso/log.txt').read_text()
    journals = {path: path.read_text() for path in tmp_path.glob('experiment/*/log.jsonl')}
    assert len(journals) == 2 * (teachers + 3) and ablations.main(line) == 0
    assert journals == {path: path.read_text() for path in journals}
    assert printed.splitlines()[-5:] == capsys.readouterr().out.splitlines()[-5:]


def test_differences_are_paired_by_seed():
    scores = {'adapted': [28.0, 30.0], 'unadapted': [27.9, 29.7], 'zeros': [27.0, 29.0],
              'distilled': [1.0, 1.0], 'encoder': [1.0, 1.0], 'alone': [1.0, 1.5]}
    table = ablations.table(ablations.variants([]), scores, {name: [(-0.1, 0.5), (-0.3, 0.5)] for name in scores})
    assert '| 29.00 ± 1.41 |  | -0.20 ± 0.14 | 0.50 ± 0.00 |' in table and '| 28.80 ± 1.27 | -0.20 ± 0.14 |' in table
    assert '| 28.00 ± 1.41 | -1.00 ± 0.00 |' in table and '| 1.25 ± 0.35 | +0.25 ± 0.35 |' in table


def test_a_family_without_ablations_is_refused(monkeypatch, capsys):
    monkeypatch.delitem(ablations.TEACHERS, 'kdsr')
    assert ablations.main(['--model', 'kdsr']) == 2
    assert '--model kdsr: no ablations of this family; choose from mrda' in capsys.readouterr().err
